"""Methods for networks beside those of the field: by retraining of the same run, and by theirs.

The networks are Concrete's and MNIST's of their published recipes (`studies.networks.setups`; MNIST
without dropout). The truth of *this run* is `lo.Retrain()` on random halves, each seed against
itself; that of *the algorithm* is the mean over seeds; and *dattri's* is what its own loop makes of
halves of its own: each trained once, from its own start and order, with the published dropout.
Scored is the LDS of effects on margins, or outputs of a regression.

dattri (influence by CG, TracIn over checkpoints, TRAK) and kronfluence (EK-FAC) get the very thetas
of the run, each seed's own, all data in one batch where dattri would else add up inverse Hessians,
and dampings around the one that follows from the recipe: the best of them *by the truth* is more
than a user could know; of classes TRAK's kernel is of margins, where it is no more than a scale.
TRAK of several models gets trainings of other starts, whose sum answers for every seed, and so does
each of ours, beside what the run's own seeds say: they are in its cost. Costs are seconds of the
processor for all seeds, in a process that has answered before; and the same in trainings (of all
examples, compiled, in the same run), further models' with them.
"""

import dataclasses
import functools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import leaveout as lo
from benchmarks.harness import record, time_left
from benchmarks.peers import environments
from benchmarks.peers.worker import PeerError, Worker
from leaveout.runtime.options import generator
from leaveout.studies.networks import setups

_TIMES = (0.1, 1.0, 10.0)  # dampings, in units of the recipe's
_ITERATIONS = 20  # of dattri's CG, which is 10 unasked
_DIMENSIONS = 512  # of TRAK's projection, as dattri has it unasked
_CHECKPOINTS = 5  # of TracIn, evenly over the epochs
_LIMIT = 3_000.0  # seconds for an answer
_DROPOUT = {"mnist_small": 0.1}  # where it was published


class _Size(NamedTuple):
    """How much of a data set is asked."""

    n: int
    epochs: int | None
    halves: int
    seeds: int
    queries: int
    models: int
    methods: tuple[lo.Method, ...]


_EVERY = (lo.Influence(), lo.Newton(), lo.Metagradient(check=False), lo.Corrected(check=False))
_LAST = lo.curvature.LastLayer()
_WIDE = (
    lo.Metagradient(check=False), lo.Influence(curvature=_LAST), lo.Newton(curvature=_LAST),
    lo.Corrected(_LAST, check=False),
)  # fmt: skip
_SIZES = {
    "smoke": {"concrete": _Size(96, 1, 4, 1, 3, 1, _EVERY[2:3])},
    "small": {"concrete": _Size(896, None, 20, 2, 5, 2, _EVERY)},
    "full": {
        "concrete": _Size(896, None, 100, 4, 20, 10, _EVERY),
        "mnist_small": _Size(5_000, None, 50, 2, 20, 10, _WIDE),
    },
}


def main(folder: Path, size: str) -> None:
    """A row for each method and truth, a file for each data set."""
    for name, asked in _SIZES[size].items():
        if not time_left(name):
            break
        rows: list[dict[str, Any]] = []
        for row in _Case(name, asked).rows():
            rows.append(row)
            record(folder, f"accuracy_rivals_{name}", rows)


@dataclasses.dataclass(frozen=True)
class _Answer:
    """What a method says of groups: (s g m) by seed, and what it cost.

    Attributes:
        method: its name.
        by_seed: effects, of halves of the run's and then of dattri's.
        seconds: of the processor, of all seeds.
        note: what was chosen.
        models: trainings that it needs beside the run.
        flagged: halves of the run whose answer carries a warning; None if it cannot say.
    """

    method: str
    by_seed: np.ndarray
    seconds: float
    note: str = ""
    models: int = 0
    flagged: int | None = None


class _Case:
    """A data set's run, its halves, and everyone's answers."""

    def __init__(self, name: str, size: _Size):
        data = lo.datasets.load(name)
        setup = setups.named(name)
        if size.epochs is not None:
            setup = dataclasses.replace(setup, epochs=size.epochs)
        self.data = setups.whole(data.some(slice(size.n)), setup)
        self.name, self.size, self.setup = name, size, setup
        self.objective = setups.objective(self.data, setup)
        self.recipe = setups.recipe(self.data, setup)
        self.run = self.trained(size.seeds)
        self.query = data.x_query[: size.queries], data.y_query[: size.queries]
        self.measure = (lo.measures.margin if data.labelled else _outputs)(self.query)

    def trained(self, seeds: int, key: int = 0, epochs: int | None = None) -> lo.Run:
        """Trainings, of other starts or stopped before their end."""
        epochs = self.setup.epochs if epochs is None else epochs
        steps = dataclasses.replace(self.setup, epochs=epochs).steps(self.data.n)
        recipe = self.recipe.but(steps=steps)
        return lo.train(self.objective, recipe, key=jax.random.key(key), seeds=seeds)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Everyone's scores, by every truth; only ours where no rival is installed."""
        halves, n = self.size.halves, self.data.n
        rng = generator(jax.random.key(1))
        halved = [rng.choice(n, n // 2, replace=False) for _ in range(halves)]
        groups = lo.Groups.from_indices(halved, n=n, kind="half")
        lo.effects(self.run, groups[:2], self.measure, lo.Retrain())  # compiles
        begin = time.process_time()
        actual = lo.effects(self.run, groups, self.measure, lo.Retrain())
        a_training = (time.process_time() - begin) / (halves * self.size.seeds)
        shape = {
            "data": self.name, "p": self.objective.p, "n": n, "halves": halves,
            "seeds": self.size.seeds, "queries": self.size.queries,
        }  # fmt: skip
        yield shape | {"what": "a training", "seconds": a_training}
        truth = None
        try:
            values, others, seconds = self._loop()
        except PeerError as error:
            print(f"skipped: {error}")
        else:
            yield shape | {"what": "a training of half, dattri's loop", "seconds": seconds}
            groups = groups + others
            truth = dataclasses.replace(
                _like(actual, values), groups=groups[halves:], method="dattri's loop"
            )
        for answer in self._answers(groups):
            row = shape | {"method": answer.method, "note": answer.note, "seconds": answer.seconds}
            row |= {"models": answer.models, "flagged": answer.flagged}
            row["trainings"] = answer.models + answer.seconds / a_training
            for question, score in _scored(answer, actual, truth):
                yield row | {"truth": question, **score}

    def _loop(self) -> tuple[np.ndarray, lo.Groups, float]:
        """Measures (h m) by dattri's loop, who has left, the processor's seconds of one."""
        halves, n = self.size.halves, self.data.n
        with self._worker("dattri_network") as dattri:
            spent = dattri.ask(
                what="retrain", batch=self.setup.batch, epochs=self.setup.epochs, subsets=halves,
                dropout=_DROPOUT.get(self.name, 0.0),
            )["processor"]  # fmt: skip
            found = dattri.answer()
        gone = [np.setdiff1d(np.arange(n), kept) for kept in found["kept"]]
        others = lo.Groups.from_indices(gone, n=n, kind="half")
        return found["values"].astype(float), others, spent / halves

    def _answers(self, groups: lo.Groups) -> Iterator[_Answer]:
        """Ours, then those of each rival that is installed."""
        yield from self._ours(groups)
        w = groups.dense()
        for rival in (
            *(functools.partial(self._by_cg, times) for times in _TIMES),
            self._by_tracin, self._by_trak,
            *(functools.partial(self._by_kronfluence, times) for times in _TIMES),
        ):  # fmt: skip
            try:
                yield from rival(w)
            except PeerError as error:
                print(f"skipped: {error}")

    def _ours(self, groups: lo.Groups) -> Iterator[_Answer]:
        """Each method by the run's own seeds, and by trainings of other starts, all their mean."""
        for method in self.size.methods:
            found, spent, flagged = self._effects(self.run, groups, method)
            yield _Answer(method.name, found, spent, flagged=flagged)
            found, spent, flagged = self._effects(self.others, groups, method)
            mean = np.broadcast_to(found.mean(axis=0), (self.size.seeds, *found.shape[1:]))
            models = self.size.models
            yield _Answer(
                f"{method.name}, of {models}", mean, spent, models=models, flagged=flagged
            )

    def _effects(
        self, run: lo.Run, groups: lo.Groups, method: lo.Method
    ) -> tuple[np.ndarray, float, int]:
        """Effects (s g m) by seed; the processor's seconds for the run's halves, those flagged."""
        mine, others = groups[: self.size.halves], groups[self.size.halves :]
        # what is not timed compiles
        rest = lo.effects(run, others if len(others) else mine, self.measure, method)
        begin = time.process_time()
        found = lo.effects(run, mine, self.measure, method)
        spent = time.process_time() - begin
        each = np.concatenate([_by_seed(found), _by_seed(rest)[:, : len(others)]], axis=1)
        return each, spent, int(np.count_nonzero(found.status))

    def _by_cg(self, times: float, w: np.ndarray) -> Iterator[_Answer]:
        request = {"damping": times * self.recipe.damping(), "iterations": _ITERATIONS}
        found: list[tuple[np.ndarray, float]] = []
        for seed in range(self.size.seeds):  # it keeps gigabytes from call to call
            with self._worker("dattri_network") as dattri:
                found += _of_seeds(dattri, [seed], what="cg", **request)
        yield _summed("dattri, influence by CG", w, found, _damped(times))

    def _by_tracin(self, w: np.ndarray) -> Iterator[_Answer]:
        with self._worker("dattri_network") as dattri:
            found = _of_seeds(dattri, range(self.size.seeds), what="tracin")
        yield _summed("dattri, TracIn", w, found, f"{self._stops} checkpoints")

    def _by_trak(self, w: np.ndarray) -> Iterator[_Answer]:
        damping, seeds, models = self.recipe.damping(), range(self.size.seeds), self.size.models
        with self._worker("dattri_network") as dattri:
            for times in (0.0, *_TIMES):
                trak = functools.partial(
                    _asked, dattri, what="trak", dimensions=_DIMENSIONS,
                    regularization=self._for_trak(times * damping),
                )  # fmt: skip
                if not times:
                    trak(seeds=[0])  # what a process does once is not in the cost
                found = [trak(seeds=[s]) for s in seeds]
                yield _summed("dattri, TRAK", w, found, _damped(times))
                found = [trak(models=models)] * len(seeds)
                yield _summed(f"dattri, TRAK of {models}", w, found, _damped(times), models)

    def _for_trak(self, damping: float) -> float:
        """Beside the kernel of TRAK, a sum over examples of products of gradients over p."""
        return (damping + self._decay) * self.data.n / self.objective.p if damping else 0.0

    def _by_kronfluence(self, times: float, w: np.ndarray) -> Iterator[_Answer]:
        damping = times * self.recipe.damping()
        with self._worker("kronfluence_network") as kronfluence:
            found = _of_seeds(kronfluence, range(self.size.seeds), damping=damping)
        yield _summed("kronfluence, EK-FAC", w, found, _damped(times))

    def _worker(self, script: str) -> Worker:
        """A rival at work on this run."""
        made = environments.python("torch") is not None
        return Worker(script, "torch", self.arrays if made else {}, _LIMIT)

    @functools.cached_property
    def others(self) -> lo.Run:
        """Trainings of other starts."""
        return self.trained(self.size.models, key=1)

    @property
    def _decay(self) -> float:
        """Of weights, in units of a mean of the loss that we train with."""
        return float(self.objective.l2) / self.data.n

    @property
    def _stops(self) -> int:
        """Checkpoints."""
        return min(_CHECKPOINTS, self.setup.epochs)

    @functools.cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        """What rivals are given: data, thetas of the run, on its way, and of other starts."""
        setup, data, seeds = self.setup, self.data, self.size.seeds
        ends = [setup.epochs * (i + 1) // self._stops for i in range(self._stops)]
        way = [self.trained(seeds, epochs=end).theta for end in ends]
        arrays = {
            "x": data.x, "y": data.y, "x_query": self.query[0], "y_query": self.query[1],
            "widths": (data.d, *setup.hidden, data.outputs if data.labelled else 1),
            "final": self.run.theta, "way": np.stack(way, axis=1),
            "many": self.others.theta,
            "rate": setups.rate(data, setup), "decay": self._decay,
        }  # fmt: skip
        return {name: np.asarray(array) for name, array in arrays.items()}


def _scored(
    answer: _Answer, actual: lo.Effects, truth: lo.Effects | None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The scores of an answer by every truth."""
    halves = len(actual.groups)
    mine, theirs = answer.by_seed[:, :halves], answer.by_seed[:, halves:]
    ones = [actual.of_seed(seed) for seed in range(len(mine))]
    each = [lo.lds(_like(one, value), one) for one, value in zip(ones, mine, strict=True)]
    keys = ("value", "low", "high")
    yield "this run", {key: float(np.mean([getattr(one, key) for one in each])) for key in keys}
    for question, effects, given in (
        ("the algorithm", actual, mine), ("dattri's", truth, theirs),
    ):  # fmt: skip
        if effects is not None:
            score = lo.lds(_like(effects, given.mean(axis=0)), effects)
            ceiling = None if np.isnan(score.ceiling) else score.ceiling
            yield question, {key: getattr(score, key) for key in keys} | {"ceiling": ceiling}


def _by_seed(effects: lo.Effects) -> np.ndarray:
    """Effects (s g m)."""
    assert effects.seeds is not None
    return effects.seeds


def _outputs(query) -> lo.measures.Measure:
    return lo.measures.prediction(query[0])


def _asked(worker: Worker, **request) -> tuple[np.ndarray, float]:
    """(n m) scores and the processor's seconds."""
    seconds = worker.ask(**request)["processor"]
    return worker.answer()["scores"], seconds


def _of_seeds(worker: Worker, seeds: Sequence[int], **request) -> list[tuple[np.ndarray, float]]:
    """Answers for every seed, after one that is not counted: what a process does once is in it."""
    _asked(worker, seed=seeds[0], **request)
    return [_asked(worker, seed=seed, **request) for seed in seeds]


def _damped(times: float) -> str:
    return f"{times:g} times the recipe's damping" if times else "undamped"


def _summed(name: str, w: np.ndarray, found: list, note: str, models: int = 0) -> _Answer:
    """Effects (s g m) of groups, as sums of scores, one answer a seed."""
    distinct = {id(scores): seconds for scores, seconds in found}  # one may serve all seeds
    by_seed = np.stack([w @ scores for scores, _ in found])
    return _Answer(name, by_seed, sum(distinct.values()), note, models)


def _like(effects: lo.Effects, value: np.ndarray) -> lo.Effects:
    """Predictions of the same groups and columns."""
    return dataclasses.replace(
        effects, value=value, seeds=None, error=None, method="predicted",
        status=np.zeros(len(value), np.int8),
        column_status=np.zeros(value.shape, np.int8),
    )  # fmt: skip
