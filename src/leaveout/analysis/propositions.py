"""The paper's theory, evaluated: propositions 1 to 4, their cones, and corollary 1.

With H = H(1), S = H^-1/2 H(w) H^-1/2 the share of the curvature that a group takes, mu its largest
eigenvalue, and D(w) = (I - S)^-1 - I:

    actual - influence = (actual - Newton) + (Newton - influence)

Proposition 1 bounds the first part, proposition 2 takes the second apart; propositions 3 and 4 and
corollary 1 say what that means for self-loss, for copies of one point, and for predictions. Each
has a global form (the paper's, with mu of all the data) and one per group.

Source: Koh, Ang, Teo and Liang (2019), section 4. Where we go beyond it, the docstring says so.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from leaveout.analysis.spectrum import (
    along_gradient,
    check_dense,
    factor_of,
    in_own_metric,
    leverages,
    odds,
    shares,
    spectrum,
)
from leaveout.analysis.trust import Light, Trust, trust
from leaveout.attribution.verb import effects
from leaveout.fitting.fitted import Fit
from leaveout.fitting.gates import check_groups
from leaveout.fitting.leaving import leaving
from leaveout.groups import Groups
from leaveout.measures import as_measures
from leaveout.methods.first_order import Influence
from leaveout.methods.group_newton import newton
from leaveout.methods.retraining import Retrain
from leaveout.objectives.linear import LinearObjective
from leaveout.runtime.sharding import entry_point
from leaveout.solvers.factor import leverage

# with the names of `spectrum` and `trust`, which `lo.bounds` offers too: until the face does that
__all__ = [
    "Cone",
    "Constants",
    "Light",
    "Parts",
    "Trust",
    "cone",
    "constants",
    "copies",
    "decompose",
    "leverages",
    "newton_gap",
    "prediction_gap",
    "shares",
    "spectrum",
    "trust",
]


# ---- constants -----------------------------------------------------------------------------------


class Constants(eqx.Module):
    """What the propositions ask of a fitted linear model; sums, like the objective.

    Attributes:
        n: number of examples, base weights counted.
        slope: C_l, the largest |grad loss_i| at theta.
        third: C_H, the Lipschitz constant of an example's Hessian, anywhere; infinite if the loss
            has none (Poisson) or states none.
        least, largest: sigma_min and sigma_max, the extreme eigenvalues of sum_i hess loss_i.
        l2: the smallest entry of the penalty: 0 with a free intercept.
        whole: mu of the group of everybody, lambda_max(H^-1/2 (H - penalty) H^-1/2); sigma_max /
            (sigma_max + l2) where all of theta is penalised, 1 with a free intercept.
    """

    n: Float[Array, ""]
    slope: Float[Array, ""]
    third: Float[Array, ""]
    least: Float[Array, ""]
    largest: Float[Array, ""]
    l2: Float[Array, ""]
    whole: Float[Array, ""]


@entry_point
def constants(fit: Fit) -> Constants:
    """The constants of section 4 at a fit. One eigendecomposition of p x p, n p^2 to form it.

    C_H is sup |loss'''| max |x|^3: 1 / (6 sqrt 3) for the logistic loss, 0 for squares; for the
    softmax sqrt(2) / (3 sqrt 3), found by maximisation for K to 10, proven for 2.

    Raises:
        ValueError: for objectives that are not linear models, or too large for a dense Hessian.
    """
    check_dense(fit)
    return _constants(fit)


@eqx.filter_jit
def _constants(fit: Fit) -> Constants:
    objective: Any = fit.objective
    expansion: Any = fit.expansion()
    ones = jnp.ones(objective.n, fit.flat.dtype)
    lengths = jnp.linalg.norm(objective.design, axis=1)
    slopes = jnp.linalg.norm(expansion.first, axis=1) * lengths
    hessian = expansion.hessian(ones)
    values = jnp.linalg.eigvalsh(hessian)
    white = in_own_metric(factor_of(fit), hessian)
    return Constants(
        n=jnp.sum(objective.weights),
        slope=jnp.max(slopes),
        third=jnp.max(objective.weights * lengths**3) * objective.loss.third,
        least=jnp.maximum(values[0], 0.0),
        largest=values[-1],
        l2=jnp.min(expansion.penalty),
        whole=jnp.clip(jnp.linalg.eigvalsh(white)[-1], 0.0, 1.0),
    )


# ---- proposition 1 -------------------------------------------------------------------------------


@entry_point
def newton_gap(
    fit: Fit, groups: Groups, measures: Any, *, sigma: str = "zero"
) -> Float[np.ndarray, "g m"]:
    """Proposition 1: a bound on |actual - Newton| from global constants. Vacuous in practice.

        n |w|^2 C_f C_H C_l^2 / (sigma + l2)^3

    As printed, with sigma = sigma_min of ALL the data, it is not a bound: with k balanced copies of
    x = 1 removed beside one that stays, l2 = 1e-3 and k = 100, the printed value is 1.54 where
    |actual - Newton| is 3.25. What stays has to be convex on the way, and sigma_min says nothing of
    that. With sigma = 0 it holds, so that is the default. We have seen the main text only; its
    appendix may assume more. For intervals to use, see `lo.effects(..., certify=True)`.

    Args:
        fit: a linear model, all of theta penalised; with a free intercept the bound is infinite.
        groups: what leaves.
        measures: predictions, margins, losses, self-loss, linear functionals: C_f is the largest
            gradient they can have anywhere.
        sigma: "zero" or "printed".

    Returns:
        (g m) in units of f.
    """
    if sigma not in ("zero", "printed"):
        raise ValueError(f'expected sigma as "zero" or "printed", got {sigma!r}')
    check_groups(fit, groups)
    known = constants(fit)
    objective = fit.objective
    size = np.asarray(leaving(fit, groups) @ objective.weights)[:, None]
    convexity = known.l2 + (known.least if sigma == "printed" else 0.0)
    with np.errstate(divide="ignore"):
        scale = known.n * known.third * known.slope**2 / np.asarray(convexity) ** 3
        scale = np.where(known.third == 0, 0.0, scale)
    steepest = _steepest(fit, groups, measures)
    return np.asarray(scale) * size**2 * steepest


def _steepest(fit: Fit, groups: Groups, measures) -> np.ndarray:
    """C_f (g m): the largest gradient that each column can have at any theta."""
    objective: Any = fit.objective
    parts = []
    for measure in as_measures(measures):
        bound = measure.bind(objective)
        each = bound.steepest(objective)
        if bound.needs_w:
            parts.append(np.asarray(leaving(fit, groups) @ each)[:, None])
        else:
            parts.append(np.broadcast_to(np.asarray(each), (len(groups), len(each))))
    return np.concatenate(parts, axis=1)


# ---- proposition 2 -------------------------------------------------------------------------------


class Parts(eqx.Module):
    """Why influence is wrong, column by column: actual - influence = newton_error + the rest.

    Attributes:
        influence, newton, actual: (g m) effects.
        newton_error: actual - Newton, what proposition 1 bounds.
        curvature: grad f' H^-1/2 D(w) H^-1/2 g(w): the Hessian that leaves with the group.
        measure_curvature: D' hess f D / 2 for D the Newton step: f is not linear.
        rest: f's higher orders along the step; 0 for predictions. Computed, not bounded.
    """

    influence: Float[np.ndarray, "g m"]
    newton: Float[np.ndarray, "g m"]
    actual: Float[np.ndarray, "g m"]
    newton_error: Float[np.ndarray, "g m"]
    curvature: Float[np.ndarray, "g m"]
    measure_curvature: Float[np.ndarray, "g m"]
    rest: Float[np.ndarray, "g m"]


@entry_point
def decompose(
    fit: Fit, groups: Groups, measures: Any, retrain: Retrain = Retrain(1e-10), *, memory=None
) -> Parts:
    """Equation 5 and proposition 2, evaluated: where the error of influence comes from.

    Args:
        fit: the fitted objective.
        groups: what leaves.
        measures: any.
        retrain: how the actual effects are found.
        memory: as in `effects`.
    """
    first = effects(fit, groups, measures, Influence(), memory=memory).value
    actual = effects(fit, groups, measures, retrain, memory=memory).value
    step = newton(fit, groups, memory=memory).value
    bound = tuple(m.bind(fit.objective) for m in as_measures(measures))
    terms = _terms(fit, bound, step, leaving(fit, groups))
    whole, linear, measure_curvature = (np.asarray(term) for term in terms)
    return Parts(
        influence=first,
        newton=whole,
        actual=actual,
        newton_error=actual - whole,
        curvature=linear - first,
        measure_curvature=measure_curvature,
        rest=whole - linear - measure_curvature,
    )


@eqx.filter_jit
def _terms(fit: Fit, measures, change, leaves):
    """Every column's difference along the change, and the first two terms of its series."""

    def one(lane):
        change, w = lane

        def value(t):
            theta = fit.flat + t * change
            return jnp.concatenate([m.values(fit.objective, theta, w) for m in measures])

        def slope(t):
            return jax.jvp(value, (t,), (jnp.ones_like(t),))[1]

        zero = jnp.zeros((), change.dtype)
        linear, measure_curvature = jax.jvp(slope, (zero,), (jnp.ones_like(zero),))
        return value(jnp.ones_like(zero)) - value(zero), linear, measure_curvature / 2

    return jax.lax.map(one, (change, leaves))


# ---- propositions 3 and 4, corollary 1 -----------------------------------------------------------


class Cone(eqx.Module):
    """Between which multiples of influence the Newton effect lies.

    Attributes:
        lower, upper: (g) slopes: lower * influence <= Newton - rest <= upper * influence, `rest` of
            `decompose`.
    """

    lower: Float[np.ndarray, "g"]
    upper: Float[np.ndarray, "g"]


@entry_point
def cone(fit: Fit, groups: Groups, *, copies: bool = False, of: str = "lanczos") -> Cone:
    """The cone of proposition 3 (self-loss), or of proposition 4 (copies of one point).

        h(s) = 1 / (1 - s) + s / (2 (1 - s)^2)  for self-loss,  1 / (1 - s)  for copies

    Newton is influence times an average of h over the spectrum of S, weighted by how the group's
    gradient lies in it. The paper takes the whole data's mu, 1 <= h <= h(mu). Beyond it: the
    group's own mu; and the average share s along the gradient as well, for |w| p more: by Jensen at
    least h(s), and by the chord at most 1 + (s / mu) (h(mu) - 1), which is Gauss and Gauss-Radau
    quadrature with one Lanczos step.

    Args:
        fit: a linear model.
        groups: what leaves.
        copies: proposition 4's function instead of 3's; it holds for a linear f only along copies.
        of: "everybody" (the paper's), "group" or "lanczos".
    """
    if of not in ("everybody", "group", "lanczos"):
        raise ValueError(f'expected of as "everybody", "group" or "lanczos", got {of!r}')

    def h(s):
        d = odds(s)
        return 1 + d if copies else 1 + 1.5 * d + d**2 / 2

    check_groups(fit, groups)
    if of == "everybody":
        top = h(np.asarray(constants(fit).whole))
        return Cone(np.ones(len(groups)), np.full(len(groups), float(top)))
    mu = np.asarray(shares(fit, groups))
    if of == "group":
        return Cone(np.ones(len(groups)), h(mu))
    s, *_ = (np.asarray(part) for part in along_gradient(fit, leaving(fit, groups)))
    with np.errstate(invalid="ignore"):
        upper = 1 + np.where(mu > 0, s / np.where(mu > 0, mu, 1.0), 0.0) * (h(mu) - 1)
    return Cone(h(s), np.where(s > 0, upper, 1.0))


@entry_point
def copies(fit: Fit, groups: Groups) -> Float[np.ndarray, "g"]:
    """d(w) of proposition 4: Newton over influence when a group is copies of one point.

        d(w) = 1 / (1 - |w| loss'' x' H^-1 x)

    One output only. For a group of other points it is what the formula gives for its first one.
    """
    check_groups(fit, groups)
    objective = fit.objective
    if not isinstance(objective, LinearObjective) or objective.layout.outputs > 1:
        raise ValueError("proposition 4 is for linear models of one score")
    expansion: Any = fit.expansion()
    own = np.asarray(leverage(expansion, factor_of(fit)) * expansion.second)[:, 0, 0]
    first = groups.indices[groups.offsets[:-1]]
    weight = np.asarray(groups.dense().sum(axis=1))
    return 1 / (1 - weight * own[first])


@entry_point
def prediction_gap(
    fit: Fit, groups: Groups, measures: Any, *, of: str = "group"
) -> Float[np.ndarray, "g m"]:
    """Corollary 1: |Newton - influence| <= mu / (1 - mu) |grad f| |g(w)|, both lengths in H^-1.

    For linear measures; of others it bounds the linearised Newton effect. No cone: influence may
    have the wrong sign.

    Args:
        fit: a linear model.
        groups: what leaves.
        measures: measures that do not depend on what leaves.
        of: "group", or "everybody" for the paper's global constant.
    """
    check_groups(fit, groups)
    mu = shares(fit, groups) if of == "group" else constants(fit).whole
    mu = np.broadcast_to(np.asarray(mu), len(groups))
    gradients = jnp.concatenate(
        [m.bind(fit.objective).gradients(fit.objective, fit.flat) for m in as_measures(measures)]
    )
    slope = np.linalg.norm(np.asarray(factor_of(fit).whiten(gradients)), axis=1)
    size = np.sqrt(np.asarray(along_gradient(fit, leaving(fit, groups))[2]))
    return odds(mu)[:, None] * size[:, None] * slope[None]
