"""Places on the way to an optimum: a theta, what is found there, and steps from it to the next."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from leaveout.fitting.passes import count_blocks, scatter, second_order, value_of
from leaveout.objectives.abstract import AbstractObjective
from leaveout.runtime.sharding import replicate
from leaveout.solvers import Factor, Lift, factorise, lifted, scale_of

__all__ = ["FAR", "Place", "assess", "backtrack", "lifted_step", "moved", "sampled", "sandwich_at"]

FAR = 1_000  # parameters above which nothing but a Hessian itself may cost as much as one
_SHARES = (64, 8)  # of the blocks one in so many, to begin with
_ROUGH = 0.3  # of the length that the others move theta by, below which these few have said enough
_SHORTEST = 1e-18  # share of a Newton step that may be needed: counts of 1e12 from a rate of 1
_TRIES = 12  # steps after which a part of the examples is given up


class Place(NamedTuple):
    """A theta, and what was found there.

    Attributes:
        theta: (p).
        value: J.
        gradient: (p) its gradient.
        factor: of the Hessian.
        definite: whether that is positive definite.
        step: (p) what a Newton step takes off theta: H^-1 times the gradient.
        decrement: the length of that step in the norm of H.
        fell: whether J is enough lower than where the way to here began.
    """

    theta: Float[Array, "p"]
    value: Float[Array, ""]
    gradient: Float[Array, "p"]
    factor: Factor
    definite: Bool[Array, ""]
    step: Float[Array, "p"]
    decrement: Float[Array, ""]
    fell: Bool[Array, ""]


def assess(
    objective: AbstractObjective, theta: Float[Array | np.ndarray, "p"], move=None, every: int = 1
) -> Place:
    """The place at theta, or theta + move, wherever that leads.

    Args:
        objective: J.
        theta: (p).
        move: (p).
        every: as in `second_order`.
    """
    still = np.zeros(theta.shape, theta.dtype)
    anywhere = np.asarray(np.inf, theta.dtype)
    move = still if move is None else move
    return _found(objective, theta, anywhere, still, move, np.int32(every))


def moved(objective: AbstractObjective, place: Place, move, every: int = 1) -> Place:
    """The place at the first of 1, 1/2, 1/4, ... of a move that lowers J enough.

    Of a convex loss the whole move mostly does: it is tried by a pass that finds all of the place.
    """
    share = np.int32(every)
    where = place.theta, place.value, place.gradient
    if objective.convex:
        there = _found(objective, *where, move, share)
        if bool(there.fell):
            return there
    return _found(objective, *where, _damped(objective, *where, move, share), share)


@eqx.filter_jit
def _found(objective, theta, value, gradient, move, every) -> Place:
    slope, theta = gradient @ move, theta + move
    found = second_order(objective, theta, every)
    factor, definite = factorise(found.matrix)
    white = factor.whiten(found.gradient[None])
    step, decrement = factor.unwhiten(white)[0], jnp.linalg.norm(white)
    fell = _enough(value, slope, found.value)
    there = found.value, found.gradient, factor, definite, step, decrement, fell
    return replicate(Place(theta, *there))


@eqx.filter_jit
def _damped(objective, theta, value, gradient, move, every):
    """The move, halved until it lowers J enough."""

    def value_at(theta):
        return value_of(objective, theta, every)

    return replicate(move * _halvings(value_at, theta, move, value, gradient @ move))


@eqx.filter_jit
def lifted_step(objective: AbstractObjective, place: Place, shift):
    """A Newton step with H shifted by a multiple of its diagonal until it is positive definite.

    Returns:
        (p) what it takes off theta, and the shift.
    """
    matrix = second_order(objective, place.theta).matrix
    factor, used = lifted(matrix, scale_of(matrix), shift, Lift(1e-8, 10.0, 1e12))
    return replicate((factor.solve(place.gradient[None])[0], used))


def backtrack(objective, theta, direction, value, slope, v=None):
    """The first of 1, 1/2, 1/4, ... by which a direction lowers J(.; v) enough.

    Args:
        objective: J.
        theta: (p) where the direction begins.
        direction: (p).
        value: J at theta.
        slope: of J along the direction there.
        v: (n) what each example gets; default its base weight.
    """
    return _halvings(lambda theta: objective.value(theta, v), theta, direction, value, slope)


def _halvings(value_at: Callable, theta, direction, value, slope):
    def too_long(length):
        new = value_at(theta + length * direction)
        return ~_enough(value, length * slope, new) & (length > _SHORTEST)

    return jax.lax.while_loop(too_long, lambda t: t / 2, jnp.ones((), theta.dtype))


def _enough(value, slope, new):
    """Whether J has fallen enough from `value`, where a slope promised so much; but for rounding.

    From infinity everything has.
    """
    slack = 1e2 * jnp.finfo(new.dtype).eps * jnp.abs(value)
    return (new <= value + 1e-4 * slope + slack) & jnp.isfinite(new)


def sampled(objective: AbstractObjective, begin: Float[Array, "p"]) -> Float[Array, "p"]:
    """Near the optimum of many examples, by Newton steps on blocks of them here and there.

    Of m of n examples the optimum is (n / m)^1/2 of its own sampling errors from that of all. Where
    the examples are few, or these do not lead to a minimum, where it began.
    """
    if not objective.convex:
        return begin
    for share in (share for share in _SHARES if count_blocks(objective) >= 4 * share):
        place, goal = assess(objective, begin, every=share), _ROUGH * (share * objective.p) ** 0.5
        for _ in range(_TRIES):
            if not (bool(place.definite) and np.isfinite(float(place.decrement))):
                return begin
            if float(place.decrement) <= goal:
                begin = place.theta
                break
            place = moved(objective, place, -np.asarray(place.step), share)
        else:
            return begin
    return begin


@eqx.filter_jit
def sandwich_at(objective: AbstractObjective, place: Place) -> Float[Array, ""]:
    """The sandwich length (sum_i |g_i|^2 in H^-1)^1/2, without an n x p array.

    The trace of H^-1 sum_i g_i g_i' costs as much as a Hessian and a full inverse; where p is large
    it is the mean of |sum_i z_i g_i|^2 over random signs z, good to a few per cent: it only says
    what is small.
    """
    if objective.p <= FAR:
        trace = jnp.trace(place.factor.solve(scatter(objective, place.theta)))
    else:
        expansion = objective.at(place.theta)
        signs = jax.random.rademacher(jax.random.key(0), (64, objective.n), place.theta.dtype)
        sums = jax.lax.map(lambda z: expansion.gradient(z * objective.weights), signs, batch_size=8)
        trace = jnp.sum(place.factor.whiten(sums) ** 2) / len(signs)
    return jnp.sqrt(jnp.maximum(trace, 0.0))
