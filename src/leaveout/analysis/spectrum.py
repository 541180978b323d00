"""The share of the curvature that each group takes, and what every bound here needs to see it.

With H = H(1) and S = H^-1/2 H(w) H^-1/2: the eigenvalues of S, S along a group's own gradient, and
the leverage of each example, which is its trace.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from leaveout.certify.balls import DENSE
from leaveout.fitting.fitted import Fit, expansion_of
from leaveout.fitting.gates import admit, check_fit
from leaveout.fitting.leaving import leaving
from leaveout.groups import Groups
from leaveout.objectives.abstract import weigh
from leaveout.objectives.expansion import LinearExpansion
from leaveout.objectives.layout import widest
from leaveout.objectives.linear import LinearObjective
from leaveout.runtime.sharding import entry_point
from leaveout.solvers import Factor, leverage, together

__all__ = [
    "along_gradient",
    "check_dense",
    "factor_of",
    "has_factor",
    "in_own_metric",
    "leverages",
    "leverages_by_weight",
    "linear_expansion",
    "odds",
    "shares",
    "shares_of",
    "spectrum",
    "spectrum_of",
]


@entry_point
def spectrum(fit: Fit, groups: Groups) -> Float[Array, "g p"]:
    """Eigenvalues s of S(w), ascending; those of D(w) are s / (1 - s) and lie in [0, mu/(1 - mu)].

    One p x p eigendecomposition a group, and n p^2 to form S.

    Args:
        fit: a linear model with a factor.
        groups: what leaves.

    Returns:
        (g p) in 0 to 1.

    Raises:
        ValueError: for p beyond what is formed.

    Example:
        >>> lo.bounds.spectrum(fit, groups).shape
        (4, 4)
    """
    fit, groups = admit(fit, groups)
    return spectrum_of(fit, leaving(fit, groups))


@entry_point
def shares(fit: Fit, groups: Groups) -> Float[Array, "g"]:
    """Mu: the largest share of the curvature along any direction that each group takes, 0 to 1.

    Args:
        fit: a linear model with a factor.
        groups: what leaves.

    Returns:
        (g) in 0 to 1.

    Raises:
        ValueError: for other models, p beyond what is formed, or groups of other data.
        SolveError: for a theta too far from its optimum.

    Example:
        >>> bool((lo.bounds.shares(fit, groups) < 1).all())
        True
    """
    fit, groups = admit(fit, groups)
    return shares_of(fit, leaving(fit, groups))


def shares_of(fit: Fit, w: Float[Array, "g n"]) -> Float[Array, "g"]:
    """`shares` of groups that are past the gates, from what leaves."""
    return jnp.clip(spectrum_of(fit, w)[:, -1], 0.0, 1.0)


def spectrum_of(fit: Fit, w: Float[Array, "g n"]) -> Float[Array, "g p"]:
    """`spectrum` of groups that are past the gates, from what leaves."""
    check_dense(fit)
    return _spectrum(fit, factor_of(fit), w)


@eqx.filter_jit
def _spectrum(fit: Fit, factor: Factor, w):
    objective, expansion = fit.objective, fit.expansion()

    def one(w):
        return jnp.linalg.eigvalsh(in_own_metric(factor, expansion.hessian(objective.taken(w))))

    held = 8 * 4 * (objective.p**2 + objective.n * objective.floats_per_example)
    return jax.lax.map(one, w, batch_size=together(len(w), held))


def odds(share):
    """An eigenvalue of D(w), s / (1 - s), from one of S; infinite from 1 on."""
    below = share < 1
    return np.where(below, share / np.where(below, 1 - share, 1.0), np.inf)


@entry_point
def leverages(fit: Fit) -> tuple[Float[Array, "n"], Float[Array, ""]]:
    """Every example's leverage, tr(H^-1 H_i), and the longest difference of scores in H^-1.

    n p^2 multiplications; the leverages of all add up to p, less what the penalty takes.

    Args:
        fit: a linear model with a factor.

    Returns:
        (n) leverages, and the longest difference, a scalar.

    Raises:
        ValueError: for other models, or a fit without a factor.

    Example:
        >>> leverages, longest = lo.bounds.leverages(fit)
        >>> leverages.shape, bool(leverages.sum() < fit.flat.size)
        ((24,), True)
    """
    own, longest = leverages_by_weight(fit)
    return weigh(fit.objective.weights, own), longest


def leverages_by_weight(fit: Fit) -> tuple[Float[Array, "n"], Float[Array, ""]]:
    """`leverages` for every unit of base weight, had or not, and the longest difference."""
    return _leverages(linear_expansion(fit), factor_of(fit))


@eqx.filter_jit
def _leverages(expansion: LinearExpansion, factor: Factor):
    gram = leverage(expansion, factor)
    return jnp.einsum("nkl,nkl->n", gram, expansion.second), jnp.max(widest(gram))


def along_gradient(fit: Fit, w: Float[Array, "g n"]):
    """Per group, with v = H^-1/2 g: v'Sv / v'v, |Sv|^2 / v'v, v'v, and the change in theta."""
    return _along(fit, factor_of(fit), w)


@eqx.filter_jit
def _along(fit: Fit, factor: Factor, w):
    objective, expansion = fit.objective, fit.expansion()

    def one(w):
        taken = objective.taken(w)
        gradient = expansion.gradient(taken)
        change = factor.solve(gradient[None])[0]
        size = gradient @ change
        lost = expansion.hvp(taken, change)
        square = lost @ factor.solve(lost[None])[0]
        scale = jnp.where(size > 0, 1 / jnp.where(size > 0, size, 1.0), 0.0)
        return change @ lost * scale, square * scale, size, change

    return jax.lax.map(one, w)


def has_factor(fit: Fit) -> bool:
    """Whether a fit is of a linear model whose Hessian has been factorised."""
    return fit.metric is not None and isinstance(fit.objective, LinearObjective)


def factor_of(fit: Fit) -> Factor:
    """The factor of H, which every bound here needs, of a linear model."""
    check_fit(fit)
    if fit.metric is None or not has_factor(fit):
        raise ValueError(
            "these bounds are for linear models (lo.glm and its kin) small enough for their "
            "Hessian to be factorised"
        )
    return fit.metric


def linear_expansion(fit: Fit) -> LinearExpansion:
    """Every loss of a linear model to second order around theta."""
    factor_of(fit)
    expansion = expansion_of(fit)
    assert isinstance(expansion, LinearExpansion)  # of a linear objective
    return expansion


def check_dense(fit: Fit) -> None:
    """Refuse a fit whose p x p matrices are too large to form for every group."""
    factor_of(fit)
    if fit.objective.p > DENSE:
        raise ValueError(
            f"this forms p x p matrices for every group, for p up to {DENSE:,}; here p is "
            f"{fit.objective.p:,}: use lo.effects(..., certify=True), which needs none"
        )


def in_own_metric(factor: Factor, matrix: Float[Array, "p p"]) -> Float[Array, "p p"]:
    """L^-1 matrix L^-T, H = L L'."""
    return factor.whiten(factor.whiten(matrix).T)
