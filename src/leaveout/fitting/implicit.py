"""Derivatives of minima, in whatever an objective holds as floats: l2, base weights, x, y.

A minimum is found by loops that no derivative should go through, and need not: where the gradient
of J vanishes, theta moves by -H^-1 d(gradient). Values are found with everything as a number
(`known`), and then given their derivatives, forward and reverse and of any order: one solve with
the Hessian at the minimum.
"""

import dataclasses
from collections.abc import Callable
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from leaveout.fitting.fitted import Fit
from leaveout.fitting.leaving import leaving
from leaveout.groups import Groups
from leaveout.objectives.abstract import AbstractObjective
from leaveout.objectives.linear import as_linear
from leaveout.runtime.memory import FACTORISED
from leaveout.runtime.sharding import is_traced
from leaveout.solvers import CG, factorise, full_matrix

__all__ = ["DENSE", "attached", "following", "known", "like", "minima", "refuse_own_l2", "solve_at"]

DENSE = FACTORISED  # parameters up to which a Hessian is formed and factorised
_T = TypeVar("_T")
_STALE = (
    "the objective of this fit is not the one that its theta and factor belong to: it moves while "
    "they stay (l2, weights or data were replaced, or differentiated, on their own); call "
    "lo.fit(objective) on the new one, which has derivatives, inside the function too"
)


def known(tree: _T) -> _T:
    """A tree as it is, for derivatives a constant: under `jax.grad` its arrays are numbers."""

    def constant(leaf):
        return jax.lax.stop_gradient(leaf) if is_traced(leaf) else leaf

    return jax.tree.map(constant, tree)


def _moves(tangents: PyTree) -> bool:
    return bool(jax.tree.leaves(tangents))


@eqx.filter_custom_jvp
def _minimum(
    theta: Float[Array, "p"],
    objective: AbstractObjective,
    w: Float[Array, "n"] | None,
    l2: Float[Array, ""] | None,
) -> Float[Array, "p"]:
    """Theta, a minimum of J(.; v) of what w leaves, with its derivatives in the objective and l2.

    Not a number where the Hessian is not positive definite: there is no derivative.

    Args:
        theta: (p) where the minimum was found.
        objective: J.
        w: (n) what leaves; None for nothing.
        l2: a penalty in the place of the objective's, or None.
    """
    return theta


@_minimum.def_jvp
def _moved_minimum(primals, tangents):
    _, objective, w, l2 = primals
    _, *moved = tangents
    theta = _minimum(*primals)
    if not _moves(moved):
        return theta, jnp.zeros_like(theta)

    def gradient(objective, w, l2):
        return _here(objective, l2).gradient(theta, _stays(objective, w))

    pull = eqx.filter_jvp(gradient, (objective, w, l2), tuple(moved))[1]
    objective = _here(objective, l2)
    return theta, -solve_at(objective, theta, _stays(objective, w), pull)


def _here(objective: AbstractObjective, l2) -> AbstractObjective:
    return objective if l2 is None else objective.with_l2(l2)


def _stays(objective: AbstractObjective, w):
    return objective.weights if w is None else objective.stays(w)


def solve_at(
    objective: AbstractObjective,
    theta: Float[Array, "p"],
    v: Float[Array, "n"],
    b: Float[Array, "p"],
) -> Float[Array, "p"]:
    """The inverse Hessian of J(.; v) at theta times b, differentiable in all of them.

    Not a number where the Hessian is not positive definite. Conjugate gradients where p is large.
    """
    expansion = objective.at(theta)
    if b.size <= DENSE:
        factor, definite = factorise(full_matrix(expansion, v))
        return factor.solve(b[None])[0] * jnp.where(definite, 1.0, jnp.nan)

    def apply(x):
        return objective.hvp(theta, x, v)

    def conjugate(_, b):
        return CG().near(expansion, None, jax.vmap(apply))(b[None]).value[0]

    return jax.lax.custom_linear_solve(apply, b, conjugate, symmetric=True)


def minima(
    fit: Fit, groups: Groups, theta: Float[Array, "g p"], l2: Float[Array, "g"] | None
) -> Float[Array, "g p"]:
    """Theta (g p), minima of J of what each group leaves, with their derivatives.

    A lane's Hessian is formed again in the backward pass rather than kept for all lanes.
    """

    @jax.checkpoint
    def one(lane):
        theta, w, l2 = lane
        return _minimum(theta, fit.objective, w, l2)

    return jax.lax.map(one, (theta, leaving(fit, groups), l2))


def like(
    fit: Fit, groups: Groups, value: Float[Array, "g p"], function: Callable
) -> Float[Array, "g p"]:
    """Changes as they were found, with the derivatives of a formula that they are equal to.

    Args:
        fit: the fitted objective.
        groups: what leaves.
        value: (g p) changes, constants.
        function: of the objective, theta and w (n) to one change.
    """

    @jax.checkpoint
    def one(lane):
        value, w = lane
        return _like(value, (fit.objective, fit.flat, w), function=function)

    return jax.lax.map(one, (value, leaving(fit, groups)))


def refuse_own_l2(l2) -> None:
    """Refuse derivatives of approximations under a penalty for each group.

    Raises:
        ValueError: with what has them.
    """
    if l2 is not None:
        raise ValueError(
            "there are no derivatives of influence and Newton steps under an l2 for each group; "
            "lo.retrain(fit, groups, l2=l2) has them"
        )


@eqx.filter_custom_jvp
def _like(value: Array, args: PyTree, *, function: Callable) -> Array:
    """A value as it was found, with the derivatives of function(*args), which is equal to it."""
    return value


@_like.def_jvp
def _moves_like(primals, tangents, *, function):
    value, args = primals
    _, moved = tangents
    value = _like(value, args, function=function)
    if not _moves(moved):
        return value, jnp.zeros_like(value)
    return value, eqx.filter_jvp(lambda *args: function(*args), args, moved)[1]


def attached(fit: Fit, objective: AbstractObjective) -> Fit:
    """A fit that was found of numbers, as one of the objective whose numbers they were.

    One that was found in columns measured from their means has its derivatives from there, too.
    """
    inner = fit.centred
    if inner is None or as_linear(inner.objective).span is not None:
        inner, flat = None, _minimum(fit.flat, objective, None, None)
    else:
        inner = attached(inner, objective.measured_as(inner.objective))
        flat = inner.objective.shown(inner.flat)
    metric = fit.metric
    if metric is not None:
        metric, _ = factorise(full_matrix(objective.at(flat)))
    return dataclasses.replace(fit, objective=objective, flat=flat, metric=metric, centred=inner)


def following(fit: Fit) -> Fit:
    """The fit, refused where its objective moves and theta does not.

    Raises:
        ValueError: if the objective is traced and theta is a number, or once the one is
            differentiated without the other.
    """
    if is_traced(fit.objective) and not is_traced(fit.flat):
        raise ValueError(_STALE)
    if not is_traced(fit):
        return fit
    return dataclasses.replace(fit, flat=_followed(fit.flat, fit.objective))


@eqx.filter_custom_jvp
def _followed(flat, objective):
    return flat


@_followed.def_jvp
def _refused(primals, tangents):
    flat, moved = tangents
    if flat is None and _moves(moved):
        raise ValueError(_STALE)
    return _followed(*primals), flat
