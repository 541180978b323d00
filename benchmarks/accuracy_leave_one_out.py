"""Can a single point's effect on a network be predicted, or is a score near 0 the truth's noise?

Published benchmarks retrain once without each point, from a start and in an order of its own, and
find a rank correlation of .025 at most, whatever the method. Here the same predictions are held
against two truths: *own order*, trainings that share nothing but the data; and *same order*, each
beside a training with the point, from the same start through the same batches. Either is the mean
of several trainings a point; its ceiling is what the truth says of itself.

A network on digits: 64-64-10, tanh, 660 steps of 64 examples, SGD with momentum, float32.
"""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import leaveout as lo
from benchmarks.harness import record
from leaveout.analysis.agreement import spearman
from leaveout.measures import Measure
from leaveout.runtime.options import generator
from leaveout.studies.networks import setups

_ROUNDS = 200


class _Truths(NamedTuple):
    """Effects of points on columns, a training a row.

    Attributes:
        own: (t g m) own order.
        same: (s g m) same order.
    """

    own: np.ndarray
    same: np.ndarray


def main(folder: Path, size: str) -> None:
    """Score every method against both truths, by trainings a point."""
    points, seeds, own = {"smoke": (4, 2, 1), "small": (60, 6, 3), "full": (100, 16, 8)}[size]
    setup = setups.named("digits")
    data = setups.whole(lo.datasets.digits(), setup)
    if size == "smoke":
        setup = dataclasses.replace(setup, epochs=2)
    objective, recipe = setups.objective(data, setup), setups.recipe(data, setup)
    run = lo.train(objective, recipe, key=jax.random.key(0), seeds=seeds)
    drawn = generator(jax.random.key(1)).permutation(data.n)[:points]
    groups = lo.Groups.from_indices(list(drawn[:, None]), n=data.n, kind="single")
    query = data.x_query[:20], data.y_query[:20]
    measures = [lo.measures.margin(query), lo.measures.loss(query)]
    actual = lo.effects(run, groups, measures, lo.Retrain())
    assert actual.seeds is not None
    truths = _Truths(_own_order(run, groups, measures, own), np.asarray(actual.seeds, float))
    rows = []
    for method in (lo.Metagradient(check=False), lo.Influence(), None):
        predicted = truths.same if method is None else lo.effects(run, groups, measures, method)
        name = "retraining other seeds" if method is None else method.name
        value = predicted if isinstance(predicted, np.ndarray) else np.asarray(predicted.seeds)
        rows += _scored(name, value, truths, actual.measure)
    shape = {"points": points, "p": objective.p, "steps": recipe.steps}
    record(folder, "accuracy_leave_one_out", [shape | row for row in rows])


def _own_order(run: lo.Run, groups: lo.Groups, measures: list[Measure], times: int) -> np.ndarray:
    """(t g m) of every point, from trainings whose start and order no other has."""
    bound = [measure.bind(run.objective) for measure in measures]

    @jax.jit
    def values(theta):
        return jnp.concatenate([m.values(run.objective, theta, None) for m in bound])

    w, found = groups.dense(), []
    for number in range(times * len(groups)):
        start, order = jax.random.split(jax.random.fold_in(jax.random.key(2), number))
        one = dataclasses.replace(
            run.at(0), start=run.objective.drawn(start),
            batches=run.recipe.batches(order, run.objective.n),
        )  # fmt: skip
        (theta,) = one.without(run.objective.stays(w[number % len(groups)][None]))
        found.append(np.asarray(values(theta), float))
    return np.array(found).reshape(times, len(groups), -1)


def _scored(name: str, predicted: np.ndarray, truths: _Truths, kinds: tuple[str, ...]) -> list:
    """Mean rank correlation over columns, for each truth and number of trainings a point."""
    rng, rows = np.random.default_rng(0), []
    for truth, effects in truths._asdict().items():
        for count in range(1, len(effects) + 1):
            for kind in dict.fromkeys(kinds):
                columns = np.flatnonzero(np.array(kinds) == kind)
                rows.append({
                    "method": name, "truth": truth, "trainings": count, "measure": kind,
                    "spearman": _mean_correlation(name, predicted, effects, count, columns, rng),
                    "ceiling": _ceiling(effects, count, columns),
                })  # fmt: skip
    return rows


def _mean_correlation(name, predicted, effects, count, columns, rng) -> float:
    """Over draws of the trainings that make the truth; of those that predict the others."""
    found = []
    for _ in range(max(1, _ROUNDS // len(columns))):
        chosen = rng.permutation(len(effects))[:count]
        rest = np.arange(len(predicted))
        if name == "retraining other seeds" and effects is predicted:
            rest = np.setdiff1d(rest, chosen)
            if not rest.size:
                return float("nan")
        p, a = predicted[rest].mean(axis=0), effects[chosen].mean(axis=0)
        found += [spearman(p[:, j], a[:, j]) for j in columns]
    return float(np.nanmean(found))


def _ceiling(effects: np.ndarray, count: int, columns: np.ndarray) -> float:
    """The correlation that a perfect prediction of the expected effect has with such a mean."""
    pairs = [(s, t) for s in range(len(effects)) for t in range(s)]
    if not pairs:
        return float("nan")
    one = np.nanmean(
        [spearman(effects[s][:, j], effects[t][:, j]) for s, t in pairs for j in columns]
    )
    reliable = count * one / (1 + (count - 1) * one)
    return float(np.sqrt(reliable)) if reliable > 0 else 0.0
