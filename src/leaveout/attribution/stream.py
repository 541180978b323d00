"""Methods times measures, streamed: effects chunk by chunk, in memory that is planned."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array

from leaveout.attribution.container import Effects, joined
from leaveout.certify.balls import Frame
from leaveout.certify.enclose import enclose, frame_within
from leaveout.fitting.fitted import Change, Fit
from leaveout.fitting.leaving import group_sums, leaving, w_by
from leaveout.groups import Groups
from leaveout.measures import Measure, Measures, as_measures
from leaveout.methods import Method, PerPoint, Prepared, as_change, as_solution
from leaveout.runtime.batches import halving
from leaveout.runtime.memory import CHUNK_GROUPS, budget, chunks
from leaveout.runtime.sharding import constrain, entry_point, place, replicate, to_host
from leaveout.runtime.solution import Solution, Status

__all__ = ["Question", "gathered", "plan", "pose", "stream"]


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
        certify: whether intervals are wanted.
        frame: of the fit, where they come from a Hessian of what stays.
        l2: (g) a penalty for each group's refit, or None for the objective's.
    """

    fit: Fit
    groups: Groups
    measures: tuple[Measure, ...]
    columns: tuple[tuple[str, ...], ...]
    method: Method
    prepared: Prepared
    certify: bool
    frame: Frame | None
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

    def effects(self, value, solutions: list[Solution], groups: Groups, **bounds) -> Effects:
        """Effects of these groups, from a solution a measure that may be filled up."""
        kept, status = slice(len(groups)), np.zeros(len(groups), np.int8)
        residual, steps = np.zeros(len(groups)), np.zeros(len(groups), np.int32)
        for each in solutions:  # on the host: a slice of JAX's is another program
            status = np.where(status == 0, np.asarray(each.status)[kept], status).astype(np.int8)
            residual = np.maximum(residual, np.asarray(each.residual)[kept])
            steps = np.maximum(steps, np.asarray(each.steps)[kept])
        broken = ~np.isfinite(value).all(axis=1)
        status = np.where(broken & (status == 0), Status.nonfinite, status).astype(np.int8)
        pairs = zip(self.measures, self.columns, strict=True)
        names = tuple(measure.name for measure, part in pairs for _ in part)
        columns = tuple(column for part in self.columns for column in part)
        name = self.method.name
        return Effects(value, status, residual, steps, columns, names, groups, name, **bounds)


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
        full: certify by the Hessian of what stays even after retraining.
    """
    bound = tuple(measure.bind(fit.objective) for measure in as_measures(measures))
    columns = tuple(measure.columns(fit.objective) for measure in bound)
    prepared = method.prepare(fit, bound)
    framed = certify and (full or not method.actual) and l2 is None  # a frame is of one penalty
    frame = frame_within(fit, budget()) if framed else None
    return Question(fit, groups, bound, columns, method, prepared, certify, frame, l2)


def plan(fit: Fit, groups: Groups) -> list[np.ndarray]:
    """The chunks in which `stream` takes the groups: of like size, as many as fit in memory.

    All of one length, give or take one, so that one shape serves them all.
    """
    objective = fit.objective
    each = 8 * (objective.n * (objective.floats_per_example + 2) + 8 * objective.p)
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
    filled, kept = np.resize(rows, most), slice(len(rows))
    groups, l2 = question.groups[filled], None if question.l2 is None else question.l2[filled]
    change = _Once(lambda: _changed(question, groups, l2))
    solutions = _solutions(question, groups, change)
    value = np.concatenate([np.asarray(each.value) for each in solutions], axis=1)[kept]
    bounds = {}
    if question.certify:
        w, count = leaving(question.fit, groups), value.shape[1]
        asked = question.fit, question.measures, count, change().value, w
        found = enclose(*asked, question.frame, l2)
        sides = (np.array(part[kept]) for part in to_host(found))
        bounds = dict(zip(("lower", "upper", "certificate"), sides, strict=True))
    return question.effects(value, solutions, question.groups[rows], **bounds)


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


def _solutions(question: Question, groups: Groups, change: _Once) -> list[Solution]:
    """For each measure its effects (g m): summed, by the method's own way, or by way of theta.

    Under a penalty for each group, all by way of theta.
    """
    prepared, fit = question.prepared, question.fit
    if question.l2 is not None:
        prepared = Prepared(prepared.change, change_under=prepared.change_under)
    n = fit.objective.n
    additive = question.ways(prepared.per_point, n, _as_per_point, "effects of points")
    own = prepared.effects(groups) if prepared.effects is not None else None
    direct = question.ways(own, len(groups), as_solution, "effects")
    solutions = []
    for measure, psi, found in zip(question.measures, additive, direct, strict=True):
        if psi is not None:
            solutions.append(_summed(fit, groups, psi))
        elif found is not None:
            solutions.append(found)
        else:
            value = _evaluate(fit, groups, measure, change(), question.method.first_order)
            each = change()
            solutions.append(Solution(value, each.residual, each.steps, each.status))
    return solutions


def _as_per_point(given) -> PerPoint:
    """Effects of points as a method gave them, an array as solved exactly."""
    if isinstance(given, PerPoint):
        return given
    value = np.asarray(given)
    count = value.shape[1]
    return PerPoint(value, np.zeros(count), np.zeros(count, np.int32), np.zeros(count, np.int8))


def _summed(fit: Fit, groups: Groups, psi: PerPoint) -> Solution:
    """Effects that add up over points; a column's solve serves every group, the worst counts."""
    value = group_sums(groups, w_by(fit.objective, groups), psi.value)
    code = psi.status[np.argmax(psi.status != 0)]

    def each(number, dtype):
        return place(np.full(len(groups), number), dtype)  # JAX would compile a fill for each count

    return Solution(
        value=value,
        residual=each(psi.residual.max(), value.dtype),
        steps=each(psi.steps.max(), np.int32),
        status=each(code, np.int8),
    )


def _evaluate(fit: Fit, groups: Groups, measure: Measure, change: Change, first_order: bool):
    w = leaving(fit, groups) if measure.needs_w else None
    how = _linearised if first_order and measure.smooth else _difference
    return how(fit, measure, change.value, w)


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
