"""Effects: what each group's removal does to each measure, f(without) - f(with)."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from leaveout.attribution.container import ROWS, Effects, joined
from leaveout.attribution.stream import plan, stream
from leaveout.fitting.fitted import Fit
from leaveout.groups import Groups
from leaveout.methods.group_newton import Newton
from leaveout.methods.protocol import Method
from leaveout.methods.retraining import Retrain
from leaveout.runtime.sharding import entry_point
from leaveout.runtime.solution import raise_unless_converged

__all__ = ["effects"]

# how exactly to retrain what is not narrow enough, and whether to certify by its own Hessian
_LADDER = ((1e-9, False), (1e-12, False), (1e-12, True))


@entry_point
def effects(
    fit: Fit,
    groups: Groups,
    measures: Any,
    method: Method = Newton(),
    *,
    certify: bool = False,
    tolerance: float | None = None,
    memory=None,
    throw: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Effects:
    """What each group's removal does to each measure: f(without) - f(with).

    Influence is taken to first order (unless `at_changed`, and but for measures such as accuracy
    that have no useful derivative): one solve a column and one pass over the data where the measure
    does not depend on who leaves. Newton steps and retraining evaluate
    the measure at the changed theta. Groups are streamed in chunks; peak memory does not grow with
    their number.

    Args:
        fit: the fitted objective.
        groups: what leaves.
        measures: one or a list: members of `measures`, or functions f(theta), f(theta, w) of the
            PyTree theta and the float (n) array w of what leaves, to a scalar or a vector.
        method: `Influence()`, `SecondOrder()`, `Krylov()`, `Newton()`, `NewtonChebyshev()` or
            `Retrain()`.
        certify: fill `lower` and `upper`: an interval for the effect of RETRAINING, whatever the
            method, that holds it for sure (up to the rounding described in `certificates`), and
            `certificate`, which says how good it is. Linear models whose loss states an envelope;
            predictions, losses, self-loss, linear functionals. From a retrained theta about two and
            a half products with the data a group; from an approximation a Hessian and its factor,
            n p^2 + p^3, which is mostly dearer than retraining.
        tolerance: go on with every group until half its interval is at most this share of the root
            mean square effect of each column: the group is retrained, ever more exactly, and
            `value`, `steps` and the interval are replaced; values outside their interval are moved
            to its nearer end. Implies `certify`.
        memory: bytes that working arrays may take; default a quarter of what is free.
        throw: raise if any group's solve fails; otherwise `status` says which.
        progress: called with the number of groups done, after each chunk.

    Returns:
        value (g m).
    """
    if tolerance is not None and not tolerance > 0:
        raise ValueError(f"expected a tolerance > 0, got {tolerance!r}; 1e-3 is a thousandth")
    certify = certify or tolerance is not None
    parts = []
    chunked = plan(fit, groups, memory)
    streamed = stream(fit, groups, measures, method, chunked, certify=certify, memory=memory)
    for rows, part in streamed:
        parts.append(dataclasses.replace(part, groups=groups))  # not a copy of its own
        if progress is not None:
            progress(len(rows))
    result = joined(parts, groups, np.argsort(np.concatenate(chunked)))
    if tolerance is not None:
        result = _narrowed(fit, groups, measures, result, tolerance, memory)
    if throw:
        names = [f"group {str(name)!r}" for name in groups.names]
        raise_unless_converged(result.status, result.residual, names)
    return result


def _narrowed(fit, groups: Groups, measures, effects: Effects, tolerance, memory) -> Effects:
    """The effects with every interval that is too wide replaced by one of a retrained theta."""
    hopeless = np.zeros(len(effects.columns), bool)  # measures that are never certified
    for exactness, full in _LADDER:
        goal = tolerance * np.sqrt(np.mean(effects.value**2, axis=0))
        wide = np.flatnonzero(((effects.width > goal) & ~hopeless).any(axis=1))
        if not len(wide):
            break
        some, method = groups[wide], Retrain(exactness)
        chunked = plan(fit, some, memory)
        streamed = stream(
            fit, some, measures, method, chunked, certify=True, full=full, memory=memory
        )
        for rows, part in streamed:
            for name in ROWS:
                new, old = getattr(part, name), getattr(effects, name)
                if name == "steps":
                    new = new + old[wide[rows]]
                old[wide[rows]] = new
        hopeless = np.isinf(effects.width).all(axis=0)
    # an approximation can lie outside its own interval, which is for retraining
    return dataclasses.replace(effects, value=np.clip(effects.value, effects.lower, effects.upper))
