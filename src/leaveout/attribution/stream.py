"""Methods times measures, streamed: effects chunk by chunk, in memory that is planned."""

import warnings
from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import numpy as np

from leaveout.attribution.container import Effects, joined
from leaveout.certify.enclose import enclose, frame_within
from leaveout.fitting.fitted import Change, Fit, with_rows
from leaveout.fitting.gates import check_groups
from leaveout.fitting.leaving import leaving
from leaveout.groups import Groups
from leaveout.measures import as_measures
from leaveout.methods.first_order import Influence, adjoint, group_sums, self_influence
from leaveout.methods.protocol import Method
from leaveout.methods.retraining import Retrain
from leaveout.objectives.checks import is_traced
from leaveout.runtime.memory import budget, chunks, exhausted
from leaveout.runtime.sharding import constrain, entry_point, replicate, to_host
from leaveout.runtime.solution import Status

__all__ = ["plan", "stream"]


def plan(fit: Fit, groups: Groups, memory=None) -> list[np.ndarray]:
    """The chunks in which `stream` takes the groups: of like size, as many as fit in memory.

    All of one length, give or take one, so that one shape serves them all.
    """
    check_groups(fit, groups)
    objective = fit.objective
    each = 8 * (objective.n * (objective.floats_per_example + 2) + 8 * objective.p)
    order = np.argsort(-groups.size, kind="stable")
    return np.array_split(order, len(chunks(order, each, budget(memory), 1024)))


def stream(
    fit: Fit,
    groups: Groups,
    measures: Any,
    method: Method,
    chunked,
    *,
    length: int | None = None,
    certify: bool = False,
    full: bool = False,
    memory=None,
) -> Iterator[tuple[np.ndarray, Effects]]:
    """Effects chunk by chunk, for callers that save as they go.

    Args:
        fit: the fitted objective.
        groups: what leaves.
        measures: as in `effects`.
        method: as in `effects`.
        chunked: arrays of positions in `groups`, from `plan`.
        length: groups to which each chunk is filled up; default that of the longest. Give that of
            the whole plan where these are some of its chunks, for the same bits.
        certify: as in `effects`.
        full: certify by the Hessian of what stays even after retraining.
        memory: as in `effects`.

    Yields:
        the positions, and the effects of those groups.
    """
    check_groups(fit, groups)
    if is_traced(fit):
        raise ValueError(
            "lo.effects works outside jax.jit; inside, call lo.influence, lo.newton or lo.retrain "
            "and evaluate your function at theta + change"
        )
    if not isinstance(method, Method) or isinstance(method, type):
        raise ValueError(
            f"expected a method such as lo.Influence(), lo.Newton() or lo.Retrain(), got {method!r}"
        )
    objective = fit.objective
    bound = tuple(m.bind(objective) for m in as_measures(measures))
    names = [m.columns(objective) for m in bound]
    columns = tuple(column for part in names for column in part)
    measure = tuple(m.name for m, part in zip(bound, names, strict=True) for _ in part)
    if not method.first_order:
        fit = with_rows(fit, budget(memory))  # once for all chunks
    shared = _per_point(fit, bound, method)
    framed = None
    if certify and (full or not isinstance(method, Retrain)):
        framed = frame_within(fit, budget(memory))
    most: int = max(map(len, chunked)) if length is None else length

    def answer(rows) -> Effects:
        padded = groups[np.resize(rows, most)]
        *found, change = _chunk(fit, padded, bound, method, shared, memory)
        value, status, residual, steps = (part[: len(rows)] for part in found)
        bounds = {}
        if certify:
            change = method.change(fit, padded, memory) if change is None else change
            gone = leaving(fit, padded)
            found = enclose(fit, bound, len(columns), change.value, gone, framed)
            lower, upper, code = (np.array(part[: len(rows)]) for part in to_host(found))
            bounds = {"lower": lower, "upper": upper, "certificate": code}
        if not np.isfinite(value).all():
            broken = ~np.isfinite(value).all(axis=1)
            status = np.where(broken & (status == 0), Status.nonfinite, status).astype(np.int8)
        part, name = groups[rows], method.name
        return Effects(value, status, residual, steps, columns, measure, part, name, **bounds)

    for rows in chunked:
        parts: list[Effects] = []
        left = rows
        while len(left):
            try:
                parts.append(answer(left[:most]))
            except (MemoryError, jax.errors.JaxRuntimeError) as error:
                if not exhausted(error) or most == 1:
                    raise
                warnings.warn(
                    f"memory ran out with {most:,} groups at once; going on with "
                    f"{most // 2:,}: a smaller memory= would do so from the start",
                    stacklevel=3,
                )
                most, memory = most // 2, budget(memory) // 2
                continue
            left = left[most:]
        yield rows, joined(parts, groups[rows])


@entry_point
def _per_point(fit, bound, method):
    """For each measure: (psi (n m), residual, steps, status) where the adjoint way serves."""
    if not (isinstance(method, Influence) and method.first_order):
        return [None] * len(bound)
    return [
        None
        if m.needs_w or not m.smooth
        else to_host(adjoint(fit, _gradients(fit, m), method.solver, method.rescaled))
        for m in bound
    ]


@eqx.filter_jit
def _gradients(fit, measure):
    return replicate(measure.gradients(fit.objective, fit.flat))


@entry_point
def _chunk(fit, groups: Groups, bound, method, shared, memory):
    """Effects (g m), status, residual and steps of the groups of one chunk; the change, if any."""
    g = len(groups)
    status, residual, steps = np.zeros(g, np.int8), np.zeros(g), np.zeros(g, np.int32)
    change: Any = None  # computed once, if any measure needs it
    values = []
    for measure, part in zip(bound, shared, strict=True):
        if part is not None:
            psi, reached, taken, code = part
            # a column's solve serves every group: the worst of them is what a group can claim
            code, reached, taken = code[np.argmax(code != 0)], reached.max(), taken.max()
            value = group_sums(groups, psi)
        elif measure.own and isinstance(method, Influence) and method.by_factor(fit):
            value, reached, code = self_influence(fit, groups, memory)
            taken = 0
        else:
            change = method.change(fit, groups, memory) if change is None else change
            value, reached, taken = change.value, change.residual, change.steps
            code, value = change.status, _evaluate(fit, groups, measure, change, method)
        values.append(np.asarray(value))
        status = np.where(status == 0, np.asarray(code), status).astype(np.int8)
        residual, steps = np.maximum(residual, reached), np.maximum(steps, taken)
    return np.concatenate(values, axis=1), status, residual, steps, change


def _evaluate(fit, groups: Groups, measure, change: Change, method):
    w = leaving(fit, groups) if measure.needs_w else None
    how = _linearised if method.first_order and measure.smooth else _difference
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
