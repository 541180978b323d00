"""Of which trainings do predictions hold? The penalty varied, then how smooth training is.

The paper finds that a larger l2 helps. Here every method's rank correlation with retraining and
its slope, on a network on digits (64-64-10, 660 steps of 64 examples), by l2 / n, all else held.
Then by learning rate, optimiser and activation: where the derivative of training turns within a
step of 2 % (`lo.smoothness`), the metagradient should fail, and where it does not, hold.
"""

import dataclasses
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

import leaveout as lo
from benchmarks.accuracy_damping import groups_of
from benchmarks.harness import record
from leaveout.methods import formed_once
from leaveout.studies.networks import setups
from leaveout.studies.networks.setups import Setup
from leaveout.studies.networks.table import scores

_METHODS = (lo.Influence(), lo.Newton(), lo.Metagradient(check=False), lo.Corrected(check=False))
_DECAYS = (1e-4, 1e-3, 1e-2, 3e-2)
_RATES = {"relu": (0.03, 0.1, 0.2, 0.3, 0.5, 0.8), "tanh": (0.1, 0.5), "adam": (1e-3, 3e-3, 1e-2)}


def main(folder: Path, size: str) -> None:
    """Score all methods by the penalty, and the metagradient by smoothness."""
    count, seeds = {"smoke": (5, 1), "small": (15, 2), "full": (40, 4)}[size]
    rows: list[dict[str, Any]] = []
    for varied, setup, methods in _trainings(size):
        shape = {"varied": varied, "variant": setup.variant, "rate": setup.rate,
                 "l2 / n": setup.decay, "groups a family": count, "seeds": seeds}  # fmt: skip
        rows += [shape | row for row in _scored(setup, methods, count, seeds)]
        record(folder, "accuracy_recipes", rows)


def _trainings(size: str) -> Iterator[tuple[str, Setup, tuple[lo.Method, ...]]]:
    """What is varied, a recipe, and what is asked of it."""
    base = setups.named("digits")
    if size == "smoke":
        tiny = dataclasses.replace(base, hidden=(8,), epochs=1)
        yield from (("l2", tiny, _METHODS), ("smoothness", tiny, _METHODS[2:3]))
        return
    for decay in _DECAYS:
        yield "l2", dataclasses.replace(base, decay=decay), _METHODS
    for variant, rates in _RATES.items():
        for rate in rates:
            yield "smoothness", setups.named("digits", variant, rate), _METHODS[2:3]


def _scored(
    setup: Setup, methods: tuple[lo.Method, ...], count: int, seeds: int
) -> Iterator[dict[str, Any]]:
    """A row a method, measure and family, each seed against itself."""
    data = setups.whole(lo.datasets.digits(), setup)
    objective, recipe = setups.objective(data, setup), setups.recipe(data, setup)
    run = lo.train(objective, recipe, key=jax.random.key(0), seeds=seeds)
    groups, some = groups_of(data, count), (data.x_query[:20], data.y_query[:20])
    measures = [
        lo.measures.margin(some),
        lo.measures.loss(data.query, reduce="mean", name="query loss"),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of rough trainings, which are wanted here
        smooth = lo.smoothness(run).worst
    actual = lo.effects(run, groups, measures, lo.Retrain())
    with formed_once():
        found = {each.name: lo.effects(run, groups, measures, each) for each in methods}
    accuracy = lo.measures.accuracy(data.query).bind(objective)
    right = np.mean([accuracy.values(objective, theta, None)[0] for theta in run.theta])
    for score in scores(found, actual, 100):
        if score.question == "this run":
            yield {
                "accuracy": float(right), "smoothness": float(smooth), "method": score.method,
                "measure": score.measure, "family": score.family, "groups": score.groups,
                "spearman": score.spearman, "low": score.spearman_interval[0],
                "high": score.spearman_interval[1], "slope": score.slope,
            }  # fmt: skip
