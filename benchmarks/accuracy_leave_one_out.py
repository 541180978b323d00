"""Can a single point's effect on a network be predicted, or is a score near 0 the truth's noise?

Published benchmarks retrain once without each point of an MNIST network, and find a rank
correlation of .025 at most, whatever the method. dattri's loop starts all of them alike and does
not shuffle: without a point those behind it move up, so that every batch after it holds another
example. Here the same predictions are held against three truths: *own*, trainings from starts and
in orders of their own; *moved*, from the start of the run beside them, in its order with the gap
closed; *same*, from its start through its batches. Each is the mean of several trainings a point;
its ceiling is what it says of itself.

Networks: that of digits (64-64-10, tanh, 660 steps of 64 examples) and, in full, that of MNIST's
published recipe (784-128-64-10, relu, 4,250 steps) without its dropout; SGD with momentum, float32.
"""

import dataclasses
import itertools
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import rankdata

import leaveout as lo
from benchmarks.harness import record
from leaveout.analysis.seeds import ceiling_of
from leaveout.measures import Measure
from leaveout.runtime.options import generator
from leaveout.studies.networks import setups
from leaveout.training.run import Trained

_RESAMPLES = 200
_SIZES = {  # points, and trainings of each
    "smoke": {"digits": (4, 2)},
    "small": {"digits": (60, 6)},
    "full": {"digits": (60, 6), "mnist_small": (60, 3)},
}


class _Truths(NamedTuple):
    """Effects of points on columns, a training a row.

    Attributes:
        own: (t g m) of starts and orders of their own.
        moved: (s g m) of the run's starts and orders, those behind the point moved up.
        same: (s g m) of the run's starts and batches.
    """

    own: np.ndarray
    moved: np.ndarray
    same: np.ndarray


def main(folder: Path, size: str) -> None:
    """Score every method against every truth, by trainings a point."""
    rows = []
    for name, asked in _SIZES[size].items():
        rows += _of_data(name, *asked, epochs=2 if size == "smoke" else None)
        record(folder, "accuracy_leave_one_out", rows)


def _of_data(name: str, points: int, seeds: int, epochs: int | None) -> list[dict]:
    """The rows of a data set: so many points, and trainings of each."""
    setup = setups.named(name)
    data = setups.whole(lo.datasets.load(name), setup)
    if epochs is not None:
        setup = dataclasses.replace(setup, epochs=epochs)
    objective, recipe = setups.objective(data, setup), setups.recipe(data, setup)
    run = lo.train(objective, recipe, key=jax.random.key(0), seeds=seeds)
    drawn = generator(jax.random.key(1)).permutation(data.n)[:points]
    groups = lo.Groups.from_indices(list(drawn[:, None]), n=data.n, kind="single")
    query = data.x_query[:20], data.y_query[:20]
    measures = [lo.measures.margin(query), lo.measures.loss(query)]
    actual = lo.effects(run, groups, measures, lo.Retrain())
    assert actual.seeds is not None
    truths = _Truths(
        _own_order(run, groups, measures, seeds), _moved_up(run, groups, measures),
        np.asarray(actual.seeds, float),
    )  # fmt: skip
    influence = lo.Influence(curvature=None if name == "digits" else lo.curvature.LastLayer())
    rows = []
    for method in (lo.Metagradient(check=False), influence, None):
        predicted = truths.same if method is None else lo.effects(run, groups, measures, method)
        title = "retraining other seeds" if method is None else method.name
        value = predicted if isinstance(predicted, np.ndarray) else np.asarray(predicted.seeds)
        rows += _scored(title, value, truths, actual.measure)
    shape = {"data": name, "points": points, "p": objective.p, "steps": recipe.steps}
    return [shape | row for row in rows]


def _own_order(run: lo.Run, groups: lo.Groups, measures: list[Measure], times: int) -> np.ndarray:
    """(t g m) of every point, from trainings whose start and order no other has."""

    def drawn(number: int, point: int) -> Trained:
        start, order = jax.random.split(
            jax.random.fold_in(jax.random.key(2), number * len(groups) + point)
        )
        batches = run.recipe.batches(order, run.objective.n)
        return dataclasses.replace(run.at(0), start=run.objective.drawn(start), batches=batches)

    return _measured(run, groups, measures, times, drawn)


def _moved_up(run: lo.Run, groups: lo.Groups, measures: list[Measure]) -> np.ndarray:
    """(s g m) of every point, which in every epoch goes to the end and is not heard there."""

    def moved(seed: int, point: int) -> Trained:
        one, index = run.at(seed), groups.indices[point]  # of one point each
        epochs = np.asarray(one.batches).reshape(-1, run.objective.n)
        order = [np.r_[epoch[epoch != index], index] for epoch in epochs]
        return dataclasses.replace(one, batches=jnp.asarray(np.reshape(order, one.batches.shape)))

    return _measured(run, groups, measures, run.seeds, moved)


def _measured(run: lo.Run, groups: lo.Groups, measures: list[Measure], times: int, made):
    """(t g m) measures of theta trained without each point, by a training that is made for it."""
    bound = [measure.bind(run.objective) for measure in measures]

    @jax.jit
    def values(theta):
        return jnp.concatenate([m.values(run.objective, theta, None) for m in bound])

    v, found = run.objective.stays(groups.dense()), []
    for number, point in itertools.product(range(times), range(len(groups))):
        (theta,) = made(number, point).without(v[point][None])
        found.append(np.asarray(values(theta), float))
    return np.array(found).reshape(times, len(groups), -1)


def _scored(name: str, predicted: np.ndarray, truths: _Truths, kinds: tuple[str, ...]) -> list:
    """Mean rank correlation over columns, for each truth and number of trainings a point.

    Intervals resample points and columns, the trainings as they are.
    """
    rows = []
    for truth, effects in truths._asdict().items():
        for count in range(1, len(effects) + 1):
            for kind in dict.fromkeys(kinds):
                columns = np.flatnonzero(np.array(kinds) == kind)
                p, a = predicted[:, :, columns], effects[:, :, columns]
                rest = name == "retraining other seeds" and truth != "own"
                value = _statistics(p, a, count, rest, np.random.default_rng(0))
                rng, drawn = np.random.default_rng(1), []
                for _ in range(_RESAMPLES):
                    g, m = (rng.integers(0, size, size) for size in p.shape[1:])
                    some, its = (each[:, g][:, :, m] for each in (p, a))
                    drawn.append(_statistics(some, its, count, rest, rng, draws=1))
                low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
                rows.append({
                    "method": name, "truth": truth, "trainings": count, "measure": kind,
                    "spearman": value[0], "low": low[0], "high": high[0],
                    "ceiling": value[1], "ceiling_low": low[1], "ceiling_high": high[1],
                })  # fmt: skip
    return [{key: _or_none(value) for key, value in row.items()} for row in rows]


def _or_none(value):
    """Numbers as JSON has them."""
    return value if not isinstance(value, float) or np.isfinite(value) else None


def _statistics(predicted, actual, count: int, rest: bool, rng, draws=20) -> tuple[float, float]:
    """Mean correlation with the mean of `count` trainings, over draws of them; and its ceiling.

    With `rest` predictions are of the trainings that were not drawn.
    """
    found = []
    for _ in range(draws):
        order = rng.permutation(len(actual))
        by = predicted[order[count:]] if rest else predicted
        if len(by):
            said, truth = (each.mean(axis=0, keepdims=True) for each in (by, actual[order[:count]]))
            found.append(_mean_correlation(said, truth))
    return float(np.mean(found)) if found else np.nan, _ceiling(actual, count)


def _ceiling(actual: np.ndarray, count: int) -> float:
    """The correlation that a perfect prediction of the expected effect has with such a mean."""
    if len(actual) < 2:
        return np.nan
    pairs = ~np.eye(len(actual), dtype=bool)
    return float(np.nan_to_num(ceiling_of(_mean_correlation(actual, actual, pairs), count)))


def _mean_correlation(one: np.ndarray, other: np.ndarray, pairs: np.ndarray | bool = True) -> float:
    """Spearman over points of (s g m) and (t g m), mean over columns and these pairs."""
    ranks = [np.asarray(rankdata(each, axis=1)) for each in (one, other)]
    ranks = [each - each.mean(axis=1, keepdims=True) for each in ranks]
    lengths = [np.linalg.norm(each, axis=1, keepdims=True) for each in ranks]
    with np.errstate(invalid="ignore"):  # a column that does not vary has none
        p, a = (each / length for each, length in zip(ranks, lengths, strict=True))
    found = np.einsum("sgm,tgm->stm", p, a)
    some = found[np.broadcast_to(pairs, found.shape[:2])]
    return float(some[np.isfinite(some)].mean()) if np.isfinite(some).any() else np.nan
