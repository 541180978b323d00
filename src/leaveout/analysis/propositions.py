"""The paper's theory, evaluated: propositions 1 to 4, their cones, and corollary 1.

With H = H(1), S = H^-1/2 H(w) H^-1/2 the share of the curvature that a group takes, mu its largest
eigenvalue, and D(w) = (I - S)^-1 - I:

    actual - influence = (actual - Newton) + (Newton - influence)

Proposition 1 bounds the first part, proposition 2 takes the second apart; propositions 3 and 4 and
corollary 1 say what that means for self-loss, for copies of one point, and for predictions. Each
has a global form (the paper's, with mu of all the data) and one per group.

Source: Koh, Ang, Teo and Liang (2019), section 4. Where we go beyond it, the docstring says so.
"""

import enum

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int8

from leaveout.analysis.spectrum import (
    along_gradient,
    check_dense,
    factor_of,
    in_own_metric,
    leverages,
    leverages_by_weight,
    linear_expansion,
    odds,
    shares,
    shares_of,
    spectrum,
)
from leaveout.attribution.stream import gathered, pose
from leaveout.fitting.fitted import Fit
from leaveout.fitting.gates import admit
from leaveout.fitting.leaving import leaving, taken_by
from leaveout.groups import Groups
from leaveout.measures import Measures, as_measures
from leaveout.methods import Influence, Newton, Retrain, as_change
from leaveout.objectives.abstract import weigh
from leaveout.objectives.expansion import LinearExpansion
from leaveout.objectives.linear import LinearObjective, as_linear
from leaveout.runtime.deprecated import found_elsewhere, instead, option
from leaveout.runtime.memory import limited
from leaveout.runtime.options import check_is
from leaveout.runtime.sharding import entry_point
from leaveout.solvers import Factor

# with the names of `spectrum`, which `lo.bounds` offers too
__all__ = [
    "Cone",
    "Constants",
    "Mu",
    "Parts",
    "Sigma",
    "cone",
    "constants",
    "copies",
    "decompose",
    "leverages",
    "newton_gap",
    "prediction_gap",
    "shares",
    "spectrum",
]

__getattr__ = found_elsewhere(
    "lo.bounds",
    {name: f"leaveout.analysis.trust:{name}" for name in ("Light", "Trust", "trust")},
    shown="lo",
)


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

    Example:
        >>> constants = lo.bounds.constants(fit)
        >>> float(constants.n), round(float(constants.whole), 6)  # the intercept is free
        (24.0, 1.0)
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

    Args:
        fit: a linear model with a dense Hessian.

    Returns:
        the constants, scalars.

    Raises:
        ValueError: for objectives that are not linear models, or too large for a dense Hessian.

    Example:
        >>> lo.bounds.constants(lo.fit(lo.squares(x, y, l2=1.0))).third.item()
        0.0
    """
    check_dense(fit)
    return _constants(as_linear(fit.objective), linear_expansion(fit), factor_of(fit))


@eqx.filter_jit
def _constants(objective: LinearObjective, expansion: LinearExpansion, factor: Factor) -> Constants:
    lengths = jnp.linalg.norm(objective.design, axis=1)
    slopes = weigh(objective.weights, jnp.linalg.norm(expansion.first, axis=1) * lengths)
    hessian = expansion.hessian(expansion.weights)
    values = jnp.linalg.eigvalsh(hessian)
    white = in_own_metric(factor, hessian)
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


class Sigma(enum.Enum):
    """What is taken for the least curvature of what stays, beside the penalty.

    Example:
        >>> [sigma.name for sigma in lo.bounds.Sigma]
        ['zero', 'printed']
    """

    zero = "nothing: then the bound holds"
    printed = "sigma_min of all the data, as in the paper"


@entry_point
def newton_gap(
    fit: Fit, groups: Groups, measures: Measures, *, sigma: Sigma | str = Sigma.zero
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
        sigma: what the curvature of the losses is bounded by.

    Returns:
        (g m) in units of f.

    Raises:
        ValueError: for other models, or measures without a largest gradient.

    Example:
        >>> whole = lo.fit(lo.logistic(x, y, l2=1.0, intercept=False))
        >>> lo.bounds.newton_gap(whole, groups, lo.measures.parameter(0)).shape
        (4, 1)
    """
    sigma = option(Sigma, sigma, "sigma")
    fit, groups = admit(fit, groups)
    known = constants(fit)
    size = groups.sums(taken_by(fit.objective, groups))[:, None]
    convexity = known.l2 + (known.least if sigma is Sigma.printed else 0.0)
    with np.errstate(divide="ignore"):
        scale = known.n * known.third * known.slope**2 / np.asarray(convexity) ** 3
        scale = np.where(known.third == 0, 0.0, scale)
    steepest = _steepest(fit, groups, measures)
    return np.asarray(scale) * size**2 * steepest


def _steepest(fit: Fit, groups: Groups, measures) -> np.ndarray:
    """C_f (g m): the largest gradient that each column can have at any theta."""
    objective, parts = fit.objective, []
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
        status: (g m) `Status` codes, the first of the three effects' that is not 0: the parts of a
            flagged effect explain nothing.

    Example:
        >>> parts = lo.bounds.decompose(fit, groups, measure)
        >>> error = parts.newton_error + parts.curvature + parts.measure_curvature + parts.rest
        >>> bool(np.allclose(parts.actual - parts.influence, error))
        True
    """

    influence: Float[np.ndarray, "g m"]
    newton: Float[np.ndarray, "g m"]
    actual: Float[np.ndarray, "g m"]
    newton_error: Float[np.ndarray, "g m"]
    curvature: Float[np.ndarray, "g m"]
    measure_curvature: Float[np.ndarray, "g m"]
    rest: Float[np.ndarray, "g m"]
    status: Int8[np.ndarray, "g m"] | None = None

    @property
    def bend(self) -> Float[np.ndarray, "g m"]:
        """Deprecated: `measure_curvature`."""
        instead("Parts.bend", "Parts.measure_curvature")
        return self.measure_curvature


@entry_point
def decompose(
    fit: Fit, groups: Groups, measures: Measures, retrain: Retrain = Retrain(1e-10), *, memory=None
) -> Parts:
    """Equation 5 and proposition 2, evaluated: where the error of influence comes from.

    Args:
        fit: the fitted objective.
        groups: what leaves.
        measures: any.
        retrain: how the actual effects are found.
        memory: as in `effects`.

    Returns:
        the parts, each (g m), in units of f.

    Raises:
        ValueError: for what is no fit, measure or `Retrain`, or groups of other data.
        SolveError: for a theta too far from its optimum.

    Example:
        >>> lo.bounds.decompose(fit, groups, measure).newton_error.shape
        (4, 1)
    """
    fit, groups = admit(fit, groups)
    check_is(retrain, Retrain, "retrain= as lo.Retrain(...)")
    with limited(memory):
        influenced = gathered(pose(fit, groups, measures, Influence()))
        asked = pose(fit, groups, measures, retrain)
        retrained = gathered(asked)
        step = as_change(Newton().prepare(fit, ()).change(groups), fit.objective)
        terms = _terms(fit, asked.measures, step.value, leaving(fit, groups))
    first, actual, status = influenced.value, retrained.value, influenced.column_status
    for other in (np.asarray(step.status)[:, None], retrained.column_status):
        status = np.where(status == 0, other, status)
    whole, linear, measure_curvature = (np.asarray(term) for term in terms)
    return Parts(
        influence=first,
        newton=whole,
        actual=actual,
        newton_error=actual - whole,
        curvature=linear - first,
        measure_curvature=measure_curvature,
        rest=whole - linear - measure_curvature,
        status=status.astype(np.int8),
    )


@eqx.filter_jit
def _terms(fit: Fit, measures, change, w):
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

    return jax.lax.map(one, (change, w))


# ---- propositions 3 and 4, corollary 1 -----------------------------------------------------------


class Cone(eqx.Module):
    """Between which multiples of influence the Newton effect lies.

    Attributes:
        lower, upper: (g) slopes: lower * influence <= Newton - rest <= upper * influence, `rest` of
            `decompose`.

    Example:
        >>> cone = lo.bounds.cone(fit, groups)
        >>> bool((1 <= cone.lower).all()), bool((cone.lower <= cone.upper).all())
        (True, True)
    """

    lower: Float[np.ndarray, "g"]
    upper: Float[np.ndarray, "g"]


class Mu(enum.Enum):
    """Whose share of the curvature, along which direction, a bound takes.

    Example:
        >>> [mu.name for mu in lo.bounds.Mu]
        ['everybody', 'group', 'lanczos']
    """

    everybody = "the largest, of all the data together: the paper's"
    group = "the largest, of the group alone"
    lanczos = "the group's, its average along the gradient beside its largest"


@entry_point
def cone(fit: Fit, groups: Groups, *, copies: bool = False, of: Mu | str = Mu.lanczos) -> Cone:
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
        of: whose share.

    Returns:
        slopes (g) between which Newton over influence lies.

    Raises:
        ValueError: for other models, a p too large for dense matrices, groups of other data, or an
            unknown `of`.
        SolveError: for a theta too far from its optimum.

    Example:
        >>> lo.bounds.cone(fit, groups, of=lo.bounds.Mu.group).upper.shape
        (4,)
    """
    of = option(Mu, of, "of")

    def h(s):
        d = odds(s)
        return 1 + d if copies else 1 + 1.5 * d + d**2 / 2

    fit, groups = admit(fit, groups)
    if of is Mu.everybody:
        top = h(np.asarray(constants(fit).whole))
        return Cone(np.ones(len(groups)), np.full(len(groups), float(top)))
    w = leaving(fit, groups)
    mu = np.asarray(shares_of(fit, w))
    if of is Mu.group:
        return Cone(np.ones(len(groups)), h(mu))
    s = np.asarray(along_gradient(fit, w)[0])
    with np.errstate(invalid="ignore"):
        upper = 1 + np.where(mu > 0, s / np.where(mu > 0, mu, 1.0), 0.0) * (h(mu) - 1)
    return Cone(h(s), np.where(s > 0, upper, 1.0))


@entry_point
def copies(fit: Fit, groups: Groups) -> Float[np.ndarray, "g"]:
    """d(w) of proposition 4: Newton over influence when a group is copies of one point.

        d(w) = 1 / (1 - |w| loss'' x' H^-1 x)

    One output only. For a group of other points it is what the formula gives for its first one.

    Args:
        fit: a linear model of one output.
        groups: copies of one point each.

    Returns:
        (g) ratios, at least 1 where points of positive curvature leave.

    Raises:
        ValueError: for other models, several outputs among them, or groups of other data.
        SolveError: for a theta too far from its optimum.

    Example:
        >>> twins = lo.Groups.from_indices([[0], [3]], n=24)
        >>> bool((lo.bounds.copies(fit, twins) > 1).all())
        True
    """
    fit, groups = admit(fit, groups)
    if fit.objective.outputs > 1:
        raise ValueError("proposition 4 is for linear models of one score")
    own, _ = leverages_by_weight(fit)
    taken = groups.sums(taken_by(fit.objective, groups))  # 0 of a group of nobody, whatever follows
    first = np.append(groups.indices, 0)[groups.offsets[:-1]]
    return 1 / (1 - taken * np.asarray(own)[first])


@entry_point
def prediction_gap(
    fit: Fit, groups: Groups, measures: Measures, *, of: Mu | str = Mu.group
) -> Float[np.ndarray, "g m"]:
    """Corollary 1: |Newton - influence| <= mu / (1 - mu) |grad f| |g(w)|, both lengths in H^-1.

    For linear measures; of others it bounds the linearised Newton effect. No cone: influence may
    have the wrong sign.

    Args:
        fit: a linear model.
        groups: what leaves.
        measures: measures that do not depend on what leaves.
        of: `Mu.group`, or `Mu.everybody` for the paper's global constant.

    Returns:
        (g m) in units of f.

    Raises:
        ValueError: for other models, a p too large for dense matrices, groups of other data, a
            measure that depends on what leaves, or an `of` that is `Mu.lanczos` or unknown.
        SolveError: for a theta too far from its optimum.

    Example:
        >>> gap = lo.bounds.prediction_gap(fit, groups, lo.measures.parameter(0))
        >>> newton = lo.effects(fit, groups, lo.measures.parameter(0), lo.Newton())
        >>> influence = lo.effects(fit, groups, lo.measures.parameter(0), lo.Influence())
        >>> bool((abs(newton.value - influence.value) <= gap).all())
        True
    """
    fit, groups = admit(fit, groups)
    of, w = option(Mu, of, "of"), leaving(fit, groups)
    if of is Mu.lanczos:
        raise ValueError("expected of as one of Mu.everybody, Mu.group: corollary 1 has no cone")
    bound = [measure.bind(fit.objective) for measure in as_measures(measures)]
    for name in (each.name for each in bound if each.needs_w):
        raise ValueError(f"corollary 1 is of measures that do not depend on who left; {name} does")
    mu = shares_of(fit, w) if of is Mu.group else constants(fit).whole
    mu = np.broadcast_to(np.asarray(mu), len(groups))
    gradients = jnp.concatenate([each.gradients(fit.objective, fit.flat) for each in bound])
    slope = np.linalg.norm(np.asarray(factor_of(fit).whiten(gradients)), axis=1)
    size = np.sqrt(np.asarray(along_gradient(fit, w)[2]))
    return odds(mu)[:, None] * size[:, None] * slope[None]
