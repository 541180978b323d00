"""The table of a study of a network: how each method does, family by family, and what it costs.

Three questions are told apart. *This run*: the effects predicted for a seed, against retraining
from that very seed. *Another seed*: against retraining from another one. *The algorithm*: means
over seeds on both sides. Of the last two noise of seeds is the ceiling.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from leaveout.analysis.seeds import ceiling_of, refuse_other_question
from leaveout.attribution.container import Effects
from leaveout.runtime.options import generator
from leaveout.runtime.text import aligned
from leaveout.studies.networks.families import LEAST

__all__ = ["QUESTIONS", "Score", "markdown", "overview", "scores", "table"]

#: what can be asked of predictions that are made seed by seed
QUESTIONS = ("this run", "another seed", "the algorithm")
_TOGETHER = 2**20  # effects of samples that are looked at together


@dataclasses.dataclass(frozen=True)
class Score:
    """How predicted effects agree with retraining, for a family of groups and a measure.

    Attributes:
        method: name of the method.
        measure: name of the measure; correlations are means over its columns, the slope is of all
            together.
        family: kind of the groups.
        question: one of `QUESTIONS`.
        groups: how many, without those that are flagged.
        columns: how many.
        spearman: rank correlation over the groups; of random halves the LDS.
        spearman_interval: 2.5 and 97.5 % points of a bootstrap of groups, columns and seeds.
        ceiling: the rank correlation that noise of seeds leaves; 1 for a question without noise.
        slope: predicted over actual through the origin, of halves of the seeds where there are
            several: noise does not pull it towards 0.
        slope_interval: likewise.
        sign: share of effects predicted with the actual one's sign.
    """

    method: str
    measure: str
    family: str
    question: str
    groups: int
    columns: int
    spearman: float
    spearman_interval: tuple[float, float]
    ceiling: float
    slope: float
    slope_interval: tuple[float, float]
    sign: float

    def to_json(self) -> dict[str, Any]:
        """The fields; None for what is undefined."""

        def number(value):
            if isinstance(value, float):
                return value if np.isfinite(value) else None
            return [number(each) for each in value] if isinstance(value, tuple) else value

        return {name: number(value) for name, value in dataclasses.asdict(self).items()}

    @classmethod
    def of_json(cls, row: Mapping[str, Any]) -> "Score":
        """From what `to_json` gave."""

        def number(value) -> Any:
            if value is None:
                return np.nan
            return tuple(number(each) for each in value) if isinstance(value, list) else value

        return cls(**{name: number(value) for name, value in row.items()})


class _Answers(NamedTuple):
    """Statistics of samples, an entry a sample and question.

    Attributes:
        spearman: (b q).
        ceiling: (b q).
        slope: (b q).
        sign: (b q).
    """

    spearman: Float[np.ndarray, "b q"]
    ceiling: Float[np.ndarray, "b q"]
    slope: Float[np.ndarray, "b q"]
    sign: Float[np.ndarray, "b q"]


def scores(
    predictions: Mapping[str, Effects], actual: Effects, resamples: int = 200
) -> list[Score]:
    """A score for each method, family, measure and question.

    Args:
        predictions: name to the effects of a method, with those of each seed.
        actual: those of retraining, of the same groups, columns and seeds.
        resamples: of groups, columns and seeds together.

    Raises:
        ValueError: if they mean different things by removal.
    """
    found = []
    for name, predicted in predictions.items():
        refuse_other_question(predicted, actual)
        for family in dict.fromkeys(actual.groups.kind.tolist()):
            rows = np.flatnonzero(actual.groups.kind == family)
            flagged = predicted.column_status[rows].any(axis=1) | actual.column_status[rows].any(1)
            rows = rows[~flagged]
            for measure in dict.fromkeys(actual.measure):
                columns = np.flatnonzero(np.array(actual.measure) == measure)
                if len(rows) >= LEAST:
                    sides = (_of_seeds(each, rows, columns) for each in (predicted, actual))
                    found += _scored((name, measure, str(family)), resamples, *sides)
    return found


def _of_seeds(effects: Effects, rows, columns) -> Float[np.ndarray, "s g m"]:
    given = effects.value[None] if effects.seeds is None else effects.seeds
    return np.asarray(given, float)[:, rows][:, :, columns]


def _scored(names: tuple[str, str, str], resamples: int, p, a) -> list[Score]:
    """A score for each question, with intervals."""
    seeds, groups, columns = a.shape
    value = _answers(p[None], a[None], np.arange(seeds)[None])
    drawn = _resampled(p, a, resamples)
    ranks, slopes = (_interval(many) for many in (drawn.spearman, drawn.slope))
    asked = QUESTIONS if seeds > 1 else QUESTIONS[:1]
    return [
        Score(
            *names, question, groups, columns, float(value.spearman[0, q]), ranks[q],
            float(value.ceiling[0, q]), float(value.slope[0, q]), slopes[q],
            float(value.sign[0, q]),
        )
        for q, question in enumerate(asked)
    ]  # fmt: skip


def _resampled(p, a, resamples: int) -> _Answers:
    """Statistics of samples of seeds, groups and columns, as many at a time as are quick.

    Of two seeds a sample has both, so that intervals are of groups and columns.
    """
    rng, most = generator(jax.random.key(0)), max(1, _TOGETHER // a.size)
    parts = []
    for first in range(0, resamples, most):
        count = min(most, resamples - first)
        s, g, m = (rng.integers(0, size, (count, size)) for size in a.shape)
        while len(a) > 1 and (alike := (s == s[:, :1]).all(axis=1)).any():  # they have no pair
            s[alike] = rng.integers(0, len(a), (int(alike.sum()), len(a)))
        where = s[:, :, None, None], g[:, None, :, None], m[:, None, None, :]
        parts.append(_answers(p[where], a[where], s))
    return _Answers(*(np.concatenate(each) for each in zip(*parts, strict=True)))


def _interval(many: Float[np.ndarray, "b q"]) -> list[tuple[float, float]]:
    """2.5 and 97.5 % points, a pair a question; NaN where many samples have no value."""
    found = []
    for each in many.T:
        some = each[np.isfinite(each)]
        enough = len(some) > 0.9 * len(each)
        low, high = np.quantile(some, [0.025, 0.975]) if enough else (np.nan, np.nan)
        found.append((float(low), float(high)))
    return found


def _answers(p, a, seed: Int[np.ndarray, "b s"]) -> _Answers:
    """Statistics of effects (b s g m) on these seeds, mean over columns."""
    same = seed[:, :, None] == seed[:, None]
    ranks_p, ranks_a = _ranks(p), _ranks(a)
    cross, alike = _over_columns(ranks_p, ranks_a), _over_columns(ranks_a, ranks_a)
    means = [_ranks(each.mean(axis=1, keepdims=True)) for each in (p, a)]
    whole = _over_columns(*means)[:, 0, 0]
    reliable = _mean(alike, ~same)
    ceiling = ceiling_of(reliable, seed.shape[1])
    above, below = (np.einsum("bsgm,btgm->bst", each, a) for each in (p, a))
    run, between = (_ratio(above, below, pairs) for pairs in (same, ~same))
    signs = np.mean(np.sign(p)[:, :, None] == np.sign(a)[:, None], axis=(3, 4))
    agree = np.mean(np.sign(p.mean(axis=1)) == np.sign(a.mean(axis=1)), axis=(1, 2))
    return _Answers(
        np.stack([_mean(cross, same), _mean(cross, ~same), whole], axis=1),
        np.stack([np.ones(len(p)), reliable, ceiling], axis=1),
        np.stack([run, between, between], axis=1),
        np.stack([_mean(signs, same), _mean(signs, ~same), agree], axis=1),
    )


def _ranks(values: Float[np.ndarray, "b s g m"]) -> Float[np.ndarray, "b s g m"]:
    """Ranks over groups, of mean 0 and length 1; NaN in a column that does not vary."""
    from scipy.stats import rankdata

    ranks = np.asarray(rankdata(values, axis=2)) - (values.shape[2] + 1) / 2
    length = np.sqrt(np.sum(ranks**2, axis=2, keepdims=True))
    return np.where(length > 0, ranks / np.where(length > 0, length, 1), np.nan)


def _over_columns(one, other) -> Float[np.ndarray, "b s t"]:
    """Correlations of each pair of seeds, mean over the columns that have one."""
    found = np.einsum("bsgm,btgm->bstm", one, other)
    some = np.isfinite(found)
    count = some.sum(axis=3)
    total = np.where(some, found, 0.0).sum(axis=3)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _mean(
    values: Float[np.ndarray, "b s t"], pairs: Bool[np.ndarray, "b s t"]
) -> Float[np.ndarray, "b"]:
    """The mean over these pairs of seeds; NaN of a sample without any."""
    count = pairs.sum(axis=(1, 2))
    total = np.where(pairs, values, 0.0).sum(axis=(1, 2))
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _ratio(above, below, pairs: Bool[np.ndarray, "b s t"]) -> Float[np.ndarray, "b"]:
    over, under = (np.where(pairs, each, 0.0).sum(axis=(1, 2)) for each in (above, below))
    return np.where(under > 0, over / np.where(under > 0, under, 1.0), np.nan)


# ---- to read -------------------------------------------------------------------------------------

_HEAD = ["family", "groups", "method", "this run", "another seed", "ceiling", "the algorithm",
         "ceiling", "slope", "split slope", "same sign", "trainings"]  # fmt: skip


def table(found: Iterable[Score], costs: Mapping[str, float], measure: str) -> str:
    """A plain-text table of one measure: a line for each family and method.

    Args:
        found: from `scores`.
        costs: name of a method to what it cost, in trainings a seed.
        measure: name of the measure.
    """
    return "\n".join(aligned([_HEAD, *_lines(found, costs, measure)]))


def markdown(found: Iterable[Score], costs: Mapping[str, float], measure: str) -> str:
    """`table` in Markdown."""
    return _piped([_HEAD, *_lines(found, costs, measure)])


def overview(studies: Sequence[tuple[str, Sequence[Score]]]) -> str:
    """Several studies in Markdown: a line a study and family, a column a method.

    Of each study's first measure, predictions of this run: rank correlation, its interval, and the
    slope; beside them the ceiling of another seed.

    Args:
        studies: name and scores of each, those of its first measure first.
    """
    methods = list(dict.fromkeys(each.method for _, found in studies for each in found))
    head = ["study", "family", "groups", *methods, "another seed's ceiling"]
    lines = [line for name, found in studies for line in _overview(name, found, methods)]
    return _piped([head, *lines])


def _overview(name: str, found: Sequence[Score], methods: Sequence[str]) -> list[list[str]]:
    """The lines of a study."""
    mine = [each for each in found if each.measure == found[0].measure]
    by = {(each.family, each.method, each.question): each for each in mine}
    lines = []
    for family in dict.fromkeys(each.family for each in mine):
        runs = [by.get((family, method, QUESTIONS[0])) for method in methods]
        some = next(each for each in runs if each is not None)
        other = by.get((family, some.method, QUESTIONS[1]))
        ceiling = "-" if other is None else _number(other.ceiling)
        lines.append([name, family, f"{some.groups:,}", *map(_in_short, runs), ceiling])
    return lines


def _in_short(score: Score | None) -> str:
    """Rank correlation, its interval and the slope."""
    if score is None:
        return ""
    low, high = score.spearman_interval
    return f"{_number(score.spearman)} [{_number(low)}, {_number(high)}] x {_number(score.slope)}"


def _piped(rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, the first row its head."""
    head, *rest = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rest))


def _lines(found: Iterable[Score], costs: Mapping[str, float], measure: str) -> list[list[str]]:
    parts: dict[tuple[str, str], dict[str, Score]] = {}
    for score in found:
        if score.measure == measure:
            parts.setdefault((score.family, score.method), {})[score.question] = score
    order = {family: at for at, (family, _) in enumerate(parts)}
    return [
        _line(family, method, parts[family, method], costs.get(method))
        for family, method in sorted(parts, key=lambda names: order[names[0]])
    ]


def _line(family: str, method: str, by: Mapping[str, Score], cost: float | None) -> list[str]:
    run = by["this run"]
    none = dataclasses.replace(run, spearman=np.nan, ceiling=np.nan, slope=np.nan)
    other, algorithm = by.get("another seed", none), by.get("the algorithm", none)
    low, high = run.spearman_interval
    return [
        family,
        f"{run.groups:,}",
        method,
        f"{_number(run.spearman)} [{_number(low)}, {_number(high)}]",
        _number(other.spearman),
        _number(other.ceiling),
        _number(algorithm.spearman),
        _number(algorithm.ceiling),
        _number(run.slope),
        _number(other.slope),
        f"{run.sign:.0%}",
        "" if cost is None else f"{cost:,.0f}",
    ]


def _number(value: float) -> str:
    """Two places without a leading zero, as the field prints it."""
    if not np.isfinite(value):
        return "-"
    return f"{value:.2f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.2f}"
