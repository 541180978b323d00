"""Gates: what is refused, or warned of, before and after a verb computes anything."""

import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from leaveout.fitting.fitted import Fit
from leaveout.fitting.leaving import leaving
from leaveout.groups import Groups
from leaveout.objectives.abstract import AbstractObjective
from leaveout.objectives.checks import is_traced
from leaveout.runtime.sharding import entry_point, replicate, to_host
from leaveout.runtime.solution import SolveError

__all__ = ["check_groups", "warn_if_float32_stalled"]

_SURE = 1e-9  # sandwich lengths from an optimum at which no effect is in question
_SAMPLE = 256  # groups that stand for all where it is


def check_groups(fit: Fit, groups: Groups) -> None:
    """Refuse groups that were made for other data, and a theta too far from its optimum for them.

    How far is too far depends on the groups: the Newton decrement at theta is compared with the
    root mean square of |g(w)| in the norm of H^-1, the first-order changes in theta in the norm of
    H. A hundredth is warned of, for effects are then wrong by up to that share; where it is the
    longer of the two, there is no answer.

    Raises:
        ValueError: with both counts of examples.
        SolveError: with both lengths.
    """
    if not isinstance(fit, Fit):
        raise ValueError(f"expected a Fit from lo.fit(objective), got {type(fit).__name__}")
    if not isinstance(groups, Groups):
        raise ValueError(
            f"expected lo.Groups, got {type(groups).__name__}; make them with "
            "lo.Groups.from_masks, .from_indices, .from_labels or .from_weights"
        )
    if groups.n != fit.objective.n and not _filled_up(fit.objective, groups.n):
        raise ValueError(
            f"groups were made for n={groups.n:,} examples but the objective has "
            f"n={fit.objective.n:,}; rebuild them from this data"
        )
    if len(groups) == 0:
        raise ValueError("expected at least one group, got none")
    if not is_traced(fit):
        _check_optimum(fit, groups)


@entry_point
def _check_optimum(fit: Fit, groups: Groups) -> None:
    decrement, sandwich = float(to_host(fit.residual)), float(to_host(fit.sandwich))
    if decrement <= _SURE * sandwich:
        return
    rows = np.unique(np.linspace(0, len(groups) - 1, _SAMPLE).astype(int))
    if fit.metric is None:  # as of groups drawn at random
        lengths = sandwich * np.sqrt(groups.size[rows] / fit.objective.n)
    else:
        lengths = np.asarray(to_host(_lengths(fit, leaving(fit, groups, rows))))
    predicted = float(np.sqrt(np.mean(lengths**2)))
    if decrement <= 0.01 * predicted or predicted == 0:
        return
    told = (
        f"theta is not at its optimum: the Newton decrement there is {decrement:.1e}, where the "
        f"predicted changes are {predicted:.1e} long (root mean square, both in the norm of H)"
    )
    again = "train on with lo.fit(fit.objective, theta=fit.theta), or raise l2"
    if not decrement <= predicted:
        raise SolveError(f"{told}, so that it would drown them; {again}")
    warnings.warn(
        f"{told}: effects can be wrong by {100 * decrement / predicted:.0f} %; {again}",
        stacklevel=4,
    )


@eqx.filter_jit
def _lengths(fit: Fit, leaves):
    """|g(w)| in the norm of H^-1, one group at a time."""
    expansion: Any = fit.expansion()
    factor: Any = fit.metric

    def one(w):
        return jnp.linalg.norm(factor.whiten(expansion.gradient(w)[None]))

    return replicate(jax.lax.map(one, leaves))


def warn_if_float32_stalled(fit: Fit, residual, asked: float) -> None:
    """Warn where rounding in float32 ends solves before they reach what was asked."""
    if is_traced((fit, residual)) or fit.flat.dtype == jnp.float64:
        return
    reached = np.asarray(to_host(residual))
    reached = reached[np.isfinite(reached)]
    if reached.size and not reached.max() <= asked:
        inflation = np.nan if fit.metric is None else float(to_host(fit.metric.inflation()))
        warnings.warn(
            f"in {fit.flat.dtype}, residuals of {reached.max():.1e} are what was reached where "
            f"{asked:.0e} was asked (the condition number of H is at least {inflation:.1e}); call "
            'jax.config.update("jax_enable_x64", True) first, or ask for less',
            stacklevel=4,
        )


def _filled_up(objective: AbstractObjective, n: int) -> bool:
    """Whether the examples beyond the first n have no weight: `sharding.shard` puts them there."""
    if n > objective.n or is_traced(objective.weights):
        return False
    return not bool(jnp.any(objective.weights[n:]))
