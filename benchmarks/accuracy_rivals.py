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
TRAK and EK-FAC of several models get trainings of other starts, whose mean answers for every seed,
and so do ours (of MNIST but the corrected metagradient), beside what the run's own seeds say: they
are in the cost. Costs are seconds of the
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
from scipy.stats import rankdata

import leaveout as lo
from benchmarks.harness import record, time_left
from benchmarks.peers import environments
from benchmarks.peers.worker import PeerError, Worker
from leaveout.runtime.options import generator
from leaveout.studies.networks import setups

_TIMES = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)  # dampings, in units of the recipe's
_LESS = 0.1  # of the recipe's, in ours
_ITERATIONS = 20  # of dattri's CG, which is 10 unasked
_DIMENSIONS = 512  # of TRAK's projection, as dattri has it unasked
_CHECKPOINTS = 5  # of TracIn, evenly over the epochs
_LIMIT = 3_000.0  # seconds for an answer
_RESAMPLES = 200
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
    averaged: tuple[lo.Method, ...]  # those that answer by trainings of other starts, too


_EVERY = (lo.Influence(), lo.Newton(), lo.Metagradient(check=False), lo.Corrected(check=False))
_LAST = lo.curvature.LastLayer()
_WIDE = (*_EVERY, lo.Influence(curvature=_LAST), lo.Newton(curvature=_LAST))
_SIZES = {
    "smoke": {"concrete": _Size(96, 1, 4, 1, 3, 1, _EVERY[2:3], _EVERY[2:3])},
    "small": {"concrete": _Size(896, None, 20, 2, 5, 2, _EVERY, _EVERY)},
    "full": {
        "concrete": _Size(896, None, 100, 4, 20, 10, _EVERY, _EVERY),
        "mnist_small": _Size(5_000, None, 50, 2, 20, 10, _WIDE, (*_EVERY[:1], _EVERY[2])),
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
        each, ceiling = _by_seed(actual), lo.lds(actual, actual).ceiling
        truths = [
            _Truth("this run", each, own=True),
            _Truth("the algorithm", each, False, None if np.isnan(ceiling) else float(ceiling)),
        ]
        try:
            values, others, seconds = self._loop()
        except PeerError as error:
            print(f"skipped: {error}")
        else:
            yield shape | {"what": "a training of half, dattri's loop", "seconds": seconds}
            groups = groups + others
            truths.append(_Truth("dattri's", values[None], own=False))
        scores: list[tuple[dict[str, Any], _Score]] = []
        for answer in self._answers(groups):
            row = shape | {"method": answer.method, "note": answer.note, "seconds": answer.seconds}
            row |= {"models": answer.models, "flagged": answer.flagged}
            row["trainings"] = answer.models + answer.seconds / a_training
            for truth in truths:
                which = slice(halves, None) if truth.question == "dattri's" else slice(halves)
                score = truth.score(answer.by_seed[:, which])
                each = row | {"truth": truth.question, "ceiling": truth.ceiling}
                scores.append((each, score))
                yield each | score.interval()
        yield from _compared(scores)

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
        for rival in (self._by_kronfluence, self._by_trak, self._by_tracin, self._by_cg):
            try:
                yield from rival(w)
            except PeerError as error:
                print(f"skipped: {error}")

    def _ours(self, groups: lo.Groups) -> Iterator[_Answer]:
        """Each method by the run's own seeds, and by trainings of other starts, all their mean.

        What another start costs is what a seed of the run did.
        """
        seeds, models = self.size.seeds, self.size.models
        for note, method in self._methods():
            found, spent, flagged = self._effects(groups, method)
            yield _Answer(method.name, found, spent, note, flagged=flagged)
            if note or method in self.size.averaged:
                others = lo.effects(self.others, groups, self.measure, method)
                mean = np.broadcast_to(others.value, (seeds, *others.value.shape))
                flagged = int(np.count_nonzero(others.status[: self.size.halves]))
                yield _Answer(
                    f"{method.name}, of {models}", mean, spent * models / seeds, note, models,
                    flagged,
                )  # fmt: skip

    def _methods(self) -> Iterator[tuple[str, lo.Method]]:
        """Ours; influence of Gauss-Newton with a tenth of the damping too, as ASTRA has it."""
        for method in self.size.methods:
            yield "", method
            if method == lo.Influence():
                less = lo.curvature.GaussNewton(_LESS * self.recipe.damping())
                yield _damped(_LESS), lo.Influence(curvature=less)

    def _effects(self, groups: lo.Groups, method: lo.Method) -> tuple[np.ndarray, float, int]:
        """Effects (s g m) by seed; the processor's seconds for the run's halves, those flagged."""
        mine, others = groups[: self.size.halves], groups[self.size.halves :]
        # what is not timed compiles
        rest = lo.effects(self.run, others if len(others) else mine, self.measure, method)
        begin = time.process_time()
        found = lo.effects(self.run, mine, self.measure, method)
        spent = time.process_time() - begin
        each = np.concatenate([_by_seed(found), _by_seed(rest)[:, : len(others)]], axis=1)
        return each, spent, int(np.count_nonzero(found.status))

    def _by_cg(self, w: np.ndarray) -> Iterator[_Answer]:
        for times in _TIMES:
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

    def _by_kronfluence(self, w: np.ndarray) -> Iterator[_Answer]:
        name, seeds, models = "kronfluence, EK-FAC", self.size.seeds, self.size.models
        dampings = [times * self.recipe.damping() for times in _TIMES]
        with self._worker("kronfluence_network") as kronfluence:
            asked = functools.partial(_asked, kronfluence, dampings=dampings)
            asked(of="final", seed=0)  # what a process does once is not in the cost
            own = [asked(of="final", seed=seed) for seed in range(seeds)]
            many = [asked(of="many", seed=seed) for seed in range(models)]
        for k, times in enumerate(_TIMES):
            found = [(scores[k], spent[k]) for scores, spent in own]
            yield _summed(name, w, found, _damped(times))
            mean = sum(scores[k] for scores, _ in many) / models
            found = [(mean, sum(spent[k] for _, spent in many))] * seeds
            yield _summed(f"{name} of {models}", w, found, _damped(times), models)

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


class _Truth(NamedTuple):
    """What effects are held against.

    Attributes:
        question: its name.
        value: (s g m) effects, of each seed where that is the question.
        own: whether each seed is held against itself, or the mean over seeds against the mean.
        ceiling: the score that noise of seeds leaves, if known.
    """

    question: str
    value: np.ndarray
    own: bool
    ceiling: float | None = None

    def score(self, p: np.ndarray) -> "_Score":
        """The LDS of predictions (s g m), resampling groups, columns and, of means, seeds."""
        rng, (_, groups, columns) = np.random.default_rng(2), p.shape
        p = p if self.own else p.mean(axis=0, keepdims=True)
        many = []
        for _ in range(_RESAMPLES):  # the same ones for every answer
            g, m, s = (rng.integers(0, size, size) for size in (groups, columns, len(self.value)))
            seeds = slice(None) if self.own else s
            many.append(self._mean(p[:, g][:, :, m], self.value[seeds][:, g][:, :, m]))
        return _Score(self._mean(p, self.value), np.array(many))

    def _mean(self, p: np.ndarray, a: np.ndarray) -> float:
        """Of rank correlations over groups; NaN where a prediction is."""
        if not np.isfinite(p).all():
            return np.nan
        a = a if self.own else a.mean(axis=0, keepdims=True)
        one, other = (rankdata(each, axis=1) - (p.shape[1] + 1) / 2 for each in (p, a))
        lengths = np.sqrt(np.sum(one**2, axis=1) * np.sum(other**2, axis=1))
        return float(np.nanmean(np.sum(one * other, axis=1) / lengths))


class _Score(NamedTuple):
    """An LDS and resamples of it; the difference of two has an interval of its own."""

    value: float
    many: np.ndarray

    def less(self, other: "_Score") -> "_Score":
        """The difference."""
        return _Score(self.value - other.value, self.many - other.many)

    def interval(self) -> dict[str, float | None]:
        """Value and 95 % interval, moved by what the median of the resamples is off."""
        if not np.isfinite(self.value):
            return dict.fromkeys(("value", "low", "high"))
        low, middle, high = np.nanquantile(self.many, [0.025, 0.5, 0.975])
        low, high = low - middle + self.value, high - middle + self.value
        return {"value": self.value, "low": float(low), "high": min(float(high), 1.0)}


def _compared(scores: list[tuple[dict[str, Any], _Score]]) -> Iterator[dict[str, Any]]:
    """Each of ours less the best rival of as many models, by each truth."""
    ours = [(row, score) for row, score in scores if row["flagged"] is not None]
    theirs = [(row, score) for row, score in scores if row["flagged"] is None]
    for row, score in ours:
        alike = [
            (other, beside) for other, beside in theirs
            if (other["truth"], other["models"]) == (row["truth"], row["models"])
            and np.isfinite(beside.value)
        ]  # fmt: skip
        if alike:
            other, beside = max(alike, key=lambda pair: pair[1].value)
            yield row | {
                "what": "less the best rival", "rival": other["method"],
                "note_of_rival": other["note"], "trainings_of_rival": other["trainings"],
                **score.less(beside).interval(),
            }  # fmt: skip


def _by_seed(effects: lo.Effects) -> np.ndarray:
    """Effects (s g m)."""
    assert effects.seeds is not None
    return effects.seeds


def _outputs(query) -> lo.measures.Measure:
    return lo.measures.prediction(query[0])


def _asked(worker: Worker, **request) -> tuple[np.ndarray, Any]:
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
