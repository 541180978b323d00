"""Fitting where a dense Hessian is too large, in the metric of what is near it."""

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from leaveout.fitting import lbfgs
from leaveout.objectives.abstract import AbstractObjective
from leaveout.runtime.sharding import is_traced, replicate, to_host
from leaveout.runtime.solution import Status
from leaveout.solvers import OutputFactor, factorise_outputs

__all__ = ["Descent", "descended"]

_SHARES = (0.1, 0.03)  # of its first gradient at which the metric is renewed, early on
_RENEWALS = 12  # at most


class Descent(NamedTuple):
    """Where L-BFGS ended, and the metric that it had there."""

    theta: Float[Array, "p"]
    factor: OutputFactor
    steps: int
    status: Status


def descended(
    objective: AbstractObjective, theta: Float[Array, "p"], max_steps: int
) -> Descent | None:
    """L-BFGS to rounding in the metric of the outputs' blocks, renewed on the way.

    None for objectives that have no such blocks.

    Args:
        objective: J.
        theta: (p) where to begin.
        max_steps: evaluations at most.
    """
    if is_traced((objective, theta)):
        return None
    factor = factorise_outputs(objective, theta)
    if factor is None:
        return None
    theta, steps, code = factor.settled(theta[None])[0], 0, Status.max_steps
    floor = max(1e-11, 16 * float(jnp.finfo(theta.dtype).eps)) * objective.p**0.5
    for turn in range(_RENEWALS):
        share = _SHARES[turn] if turn < len(_SHARES) else 0.0
        factor = factorise_outputs(objective, theta) if turn else factor
        assert factor is not None  # as before
        new, *told = _stage(objective, factor, theta, share, floor, max_steps - steps)
        first, last, spent, status = (part.item() for part in to_host(tuple(told)))
        theta, steps, code = new, steps + spent, Status(status)
        if not last > floor or not last < 0.5 * first or steps >= max_steps:
            break
    return Descent(theta, factor, steps, code)


@eqx.filter_jit
def _stage(objective, factor: OutputFactor, theta, share, floor, most):
    """Theta once the gradient is a share of its first, both norms, evaluations and the status."""

    def function(u):
        value, gradient = objective.value_and_gradient(theta + factor.unwhiten(u)[0])
        return value[None], factor.whiten(gradient[None])

    state = lbfgs.initialise(jnp.zeros_like(theta)[None])
    state = lbfgs.advance(function, state, most, relative=share, floor=floor)
    found = lbfgs.solution(state)
    new = theta + factor.unwhiten(found.value)[0]
    return replicate((new, state.force[0], found.residual[0], found.steps[0], found.status[0]))
