"""Methods times measures, streamed: effects chunk by chunk, in memory that is planned."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array

from leaveout.attribution.container import Effects, joined
from leaveout.attribution.determined import in_question, of_groups
from leaveout.certify.enclose import Proof
from leaveout.fitting.fitted import Change, Fit
from leaveout.fitting.gates import inside
from leaveout.fitting.leaving import group_sums, leaving, taken_by, w_by
from leaveout.groups import Groups
from leaveout.measures import Measure, Measures, as_measures
from leaveout.methods import Method, PerPoint, Prepared, as_change, as_solution
from leaveout.runtime.batches import halving, in_rungs
from leaveout.runtime.memory import CHUNK_GROUPS, budget, chunks
from leaveout.runtime.sharding import constrain, entry_point, place, replicate, to_host
from leaveout.runtime.solution import Solution, Status

__all__ = ["Question", "first_failure", "gathered", "plan", "pose", "stream"]

_LOCAL = (
    "the loss is not known to be convex: what is left out changes theta to a local minimum, "
    "warm-started from theta"
)


@dataclasses.dataclass(frozen=True, eq=False)
class Question:
    """A method that is ready, the groups and measures it is asked about.

    Attributes:
        fit: the fitted objective.
        groups: what leaves.
        measures: bound to the objective.
        columns: names of the columns of each measure.
        method: what was prepared.
        prepared: from it.
        proof: what intervals come from, where they are wanted.
        l2: (g) a penalty for each group's refit, or None for the objective's.
    """

    fit: Fit
    groups: Groups
    measures: tuple[Measure, ...]
    columns: tuple[tuple[str, ...], ...]
    method: Method
    prepared: Prepared
    proof: Proof | None
    l2: Array | None = None

    def ways(self, given, rows: int, read: Callable, what: str) -> list:
        """What a method gave, one entry a measure: an array of all columns is cut up.

        Raises:
            ValueError: for another number of rows, columns or entries than there are.
        """
        widths = [len(names) for names in self.columns]
        if given is None:
            return [None] * len(widths)
        if not isinstance(given, Sequence):
            self.check(np.shape(given), (rows, sum(widths)), what)
            given = np.split(np.asarray(given), np.cumsum(widths)[:-1], axis=1)
        if len(given) != len(widths):
            raise ValueError(
                f"expected {what} of {self.method.name} for {len(widths)} measures, "
                f"got {len(given)}"
            )
        found = [None if part is None else read(part) for part in given]
        for part, width in zip(found, widths, strict=True):
            if part is not None:
                self.check(part.value.shape, (rows, width), what)
        return found

    def check(self, shape: tuple[int, ...], expected: tuple[int, ...], what: str) -> None:
        """Refuse what a method gave in another shape.

        Raises:
            ValueError: with both shapes.
        """
        if shape != expected:
            raise ValueError(
                f"expected {what} of {self.method.name} of shape {expected}, got {shape}"
            )

    def effects(self, parts: list["_Part"], groups: Groups, **bounds) -> Effects:
        """Effects of these groups, from a part a measure."""
        value = np.concatenate([part.value for part in parts], axis=1)
        each = np.concatenate([part.status for part in parts], axis=1)
        each = np.where(~np.isfinite(value) & (each == 0), Status.nonfinite, each).astype(np.int8)
        thetas = np.stack([part.theta for part in parts], axis=1)
        pairs = list(zip(self.measures, self.columns, strict=True))
        return Effects(
            value=value,
            status=first_failure(each),
            residual=np.max([part.residual for part in parts], axis=0),
            steps=np.max([part.steps for part in parts], axis=0),
            columns=tuple(column for part in self.columns for column in part),
            measure=tuple(measure.name for measure, part in pairs for _ in part),
            better=tuple(measure.better for measure, part in pairs for _ in part),
            groups=groups,
            method=self.method.name,
            column_status=each,
            notes=() if self.fit.objective.convex else (_LOCAL,),
            weight=groups.sums(np.abs(taken_by(self.fit.objective, groups))),
            theta_status=first_failure(thetas),
            **bounds,
        )


def first_failure(codes: np.ndarray) -> np.ndarray:
    """(g) the first code of every row that is not 0, or 0."""
    return codes[np.arange(len(codes)), np.argmax(codes != 0, axis=1)]


class _Part(NamedTuple):
    """What was found for the columns of one measure, on the host.

    Attributes:
        value: (g k).
        residual: (g).
        steps: (g).
        status: (g k), of every column on its own.
        theta: (g) status of the change, or of the solve, behind them.
        through: whether the measure was evaluated by way of theta.
    """

    value: np.ndarray
    residual: np.ndarray
    steps: np.ndarray
    status: np.ndarray
    theta: np.ndarray
    through: bool = False

    @classmethod
    def of(cls, value, solved: Solution | Change, count: int, through: bool = False) -> "_Part":
        """From a solve a group, the first `count` kept on the host: JAX would compile a slice."""
        value, theta = np.asarray(value)[:count], np.asarray(solved.status)[:count]
        residual, steps = np.asarray(solved.residual)[:count], np.asarray(solved.steps)[:count]
        status = np.repeat(theta[:, None], value.shape[1], axis=1)
        return cls(value, residual, steps, status, theta, through)


@entry_point
def pose(
    fit: Fit,
    groups: Groups,
    measures: Measures,
    method: Method,
    *,
    l2: Array | None = None,
    certify: bool = False,
    full: bool = False,
) -> Question:
    """Prepare a method for groups and measures; the gates are the caller's.

    Args:
        fit: the fitted objective.
        groups: what leaves.
        measures: as in `effects`.
        method: as in `effects`.
        l2: (g) a penalty for each group's refit; default the objective's.
        certify: as in `effects`.
        full: certify by the Hessian of what stays even where the penalty is enough.
    """
    fit = inside(fit)
    bound = tuple(measure.bind(fit.objective) for measure in as_measures(measures))
    columns = tuple(measure.columns(fit.objective) for measure in bound)
    prepared = method.prepare(fit, bound)
    count, at_once = sum(map(len, columns)), full or not method.actual
    proof = Proof(fit, bound, count, budget(), at_once) if certify else None
    return Question(fit, groups, bound, columns, method, prepared, proof, l2)


def plan(fit: Fit, groups: Groups) -> list[np.ndarray]:
    """The chunks in which `stream` takes the groups: of like size, as many as fit in memory.

    All of one length, give or take one, so that one shape serves them all.
    """
    objective = fit.objective
    # of theta as the user knows it a measure may make two copies
    known = 2 * objective.known_size if objective.known_size > objective.p else 0
    each = 8 * (objective.n * (objective.floats_per_example + 2) + 8 * objective.p + known)
    order = np.argsort(-groups.size, kind="stable")
    return np.array_split(order, len(chunks(order, each, budget(), CHUNK_GROUPS)))


def stream(
    question: Question, chunked: Sequence[np.ndarray], length: int | None = None
) -> Iterator[tuple[np.ndarray, Effects]]:
    """Effects chunk by chunk, for callers that save as they go.

    Args:
        question: from `pose`.
        chunked: arrays of positions in its groups, from `plan`.
        length: groups to which each chunk is filled up; default that of the longest. Give that of
            the whole plan where these are some of its chunks, for the same bits.

    Yields:
        the positions, and the effects of those groups.
    """
    longest = max(map(len, chunked)) if length is None else length
    runs = halving(chunked, longest, lambda rows, most: _answer(question, rows, most))
    for rows, parts in runs:
        yield rows, joined(parts, question.groups[rows])


def gathered(
    question: Question,
    chunked: Sequence[np.ndarray] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Effects:
    """The effects of all groups, in their order.

    Args:
        question: from `pose`.
        chunked: from `plan`, which is asked by default.
        progress: called with the number of groups done, after each chunk.
    """
    groups, parts = question.groups, []
    chunked = plan(question.fit, groups) if chunked is None else chunked
    for rows, part in stream(question, chunked):
        parts.append(dataclasses.replace(part, groups=groups))  # not a copy of its own
        if progress is not None:
            progress(len(rows))
    return joined(parts, groups, np.argsort(np.concatenate(chunked)))


@entry_point
def _answer(question: Question, rows: np.ndarray, most: int) -> Effects:
    """The effects of some groups, computed as `most` of them."""
    filled, count = np.resize(rows, most), len(rows)
    groups, l2 = question.groups[filled], None if question.l2 is None else question.l2[filled]
    change = _Once(lambda: _changed(question, groups, l2))
    parts = _by_column(question, groups, change, _parts(question, groups, change, count))
    bounds = {}
    if question.proof is not None:
        found = question.proof.enclose(change().value, leaving(question.fit, groups), l2)
        sides = (part[:count] for part in found)
        bounds = dict(zip(("lower", "upper", "certificate"), sides, strict=True))
    return question.effects(parts, question.groups[rows], **bounds)


def _changed(question: Question, groups: Groups, l2: Array | None) -> Change:
    """The change in theta of these groups."""
    objective = question.fit.objective
    change = as_change(question.prepared.changes(groups, l2), objective)
    question.check(change.value.shape, (len(groups), objective.p), "changes")
    return change


class _Once:
    """A function of nothing, called when it is first asked."""

    def __init__(self, function: Callable[[], Change]):
        self.function, self.found = function, None

    def __call__(self) -> Change:
        if self.found is None:
            self.found = self.function()
        return self.found


def _parts(question: Question, groups: Groups, change: _Once, count: int) -> list[_Part]:
    """For each measure its effects: summed, by the method's own way, or by way of theta.

    The first `count` groups are wanted, the others fill up a shape that is compiled. Under a
    penalty for each group, all by way of theta.
    """
    prepared, fit = question.prepared, question.fit
    if question.l2 is not None:
        prepared = Prepared(prepared.change, change_under=prepared.change_under)
    n = fit.objective.n
    additive = question.ways(prepared.per_point, n, _as_per_point, "effects of points")
    own = prepared.effects(groups) if prepared.effects is not None else None
    direct = question.ways(own, len(groups), as_solution, "effects")
    parts = []
    for measure, psi, found in zip(question.measures, additive, direct, strict=True):
        if psi is not None:
            parts.append(_summed(fit, groups[:count], psi))
        elif found is not None:
            parts.append(_Part.of(found.value, found, count))
        else:
            value = _evaluate(fit, groups, measure, change(), question.method.first_order)
            parts.append(_Part.of(value, change(), count, through=True))
    return parts


def _by_column(
    question: Question, groups: Groups, change: _Once, parts: list[_Part]
) -> list[_Part]:
    """The parts with the status of each column of groups that leave theta undetermined."""
    pairs = zip(question.measures, parts, strict=True)
    at = [j for j, (measure, part) in enumerate(pairs) if part.through and measure.smooth]
    if not at or question.l2 is not None:  # determined looks at the objective's own penalty
        return parts
    fit, method, count = question.fit, question.method, len(parts[0].value)
    rows = in_question(fit, change(), method.actual)
    rows = rows[rows < count]
    if not rows.size:
        return parts
    how = {"actual": method.actual, "first_order": method.first_order}
    good = of_groups(fit, groups, [question.measures[j] for j in at], change(), rows, **how)
    widths = np.cumsum([parts[j].value.shape[1] for j in at])[:-1]
    for j, some in zip(at, np.split(good, widths, axis=1), strict=True):
        status = parts[j].status.copy()
        status[rows] = np.where(some, Status.converged, status[rows])
        parts[j] = parts[j]._replace(status=status)
    return parts


def _as_per_point(given) -> PerPoint:
    """Effects of points as a method gave them, an array as solved exactly."""
    if isinstance(given, PerPoint):
        return given
    value = np.asarray(given)
    count = value.shape[1]
    return PerPoint(value, np.zeros(count), np.zeros(count, np.int32), np.zeros(count, np.int8))


def _summed(fit: Fit, groups: Groups, psi: PerPoint) -> _Part:
    """Effects that add up over points; a column's solve serves every group."""
    count = len(groups)
    value = np.asarray(group_sums(groups, w_by(fit.objective, groups), psi.value))
    status = np.repeat(np.asarray(psi.status)[None], count, axis=0)
    residual, steps = np.full(count, psi.residual.max()), np.full(count, psi.steps.max())
    return _Part(value, residual, steps, status, first_failure(status))


def _evaluate(fit: Fit, groups: Groups, measure: Measure, change: Change, first_order: bool):
    how = _linearised if first_order and measure.smooth else _difference
    changes = to_host(change.value)

    def some(rows: np.ndarray) -> np.ndarray:
        w = leaving(fit, groups, rows) if measure.needs_w else None
        value = place(changes[rows], change.value.dtype, "groups")
        return to_host(how(fit, measure, value, w))

    return to_host(in_rungs(len(groups), CHUNK_GROUPS, some))


@eqx.filter_jit
def _difference(fit, measure, change, w):
    """f(theta + change) - f(theta)."""

    def one(change, w):
        new = measure.values(fit.objective, fit.flat + change, w)
        return new - measure.values(fit.objective, fit.flat, w)

    each = jax.vmap(one, in_axes=(0, None if w is None else 0))
    return replicate(each(constrain(change, "groups"), w))


@eqx.filter_jit
def _linearised(fit, measure, change, w):
    """Grad f(theta) . change."""

    def one(change, w):
        def value(theta):
            return measure.values(fit.objective, theta, w)

        return jax.jvp(value, (fit.flat,), (change,))[1]

    each = jax.vmap(one, in_axes=(0, None if w is None else 0))
    return replicate(each(constrain(change, "groups"), w))
