"""The share of the curvature that each group takes, and what every bound here needs to see it.

With H = H(1) and S = H^-1/2 H(w) H^-1/2: the eigenvalues of S, S along a group's own gradient, and
the leverage of each example, which is its trace.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from leaveout.certify.balls import DENSE
from leaveout.fitting.fitted import Fit
from leaveout.fitting.gates import check_groups
from leaveout.fitting.leaving import leaving
from leaveout.groups import Groups
from leaveout.objectives.layout import widest
from leaveout.objectives.linear import LinearObjective
from leaveout.runtime.sharding import entry_point
from leaveout.solvers import Factor
from leaveout.solvers.direct import together
from leaveout.solvers.factor import leverage

__all__ = [
    "along_gradient",
    "check_dense",
    "factor_of",
    "in_own_metric",
    "leverages",
    "odds",
    "shares",
    "spectrum",
]


@entry_point
def spectrum(fit: Fit, groups: Groups) -> Float[Array, "g p"]:
    """Eigenvalues s of S(w), ascending; those of D(w) are s / (1 - s) and lie in [0, mu/(1 - mu)].

    One p x p eigendecomposition a group, and n p^2 to form S.

    Raises:
        ValueError: for p beyond what is formed.
    """
    check_groups(fit, groups)
    check_dense(fit)
    return _shares(fit, leaving(fit, groups))


@entry_point
def shares(fit: Fit, groups: Groups) -> Float[Array, "g"]:
    """Mu: the largest share of the curvature along any direction that each group takes, 0 to 1."""
    return jnp.clip(spectrum(fit, groups)[:, -1], 0.0, 1.0)


@eqx.filter_jit
def _shares(fit: Fit, leaves):
    expansion = fit.expansion()

    def one(w):
        return jnp.linalg.eigvalsh(in_own_metric(factor_of(fit), expansion.hessian(w)))

    p = fit.objective.p
    batch = together(
        len(leaves), 8 * 4 * (p * p + fit.objective.n * fit.objective.floats_per_example)
    )
    return jax.lax.map(one, leaves, batch_size=batch)


def odds(share):
    """An eigenvalue of D(w), s / (1 - s), from one of S; infinite from 1 on."""
    below = share < 1
    return np.where(below, share / np.where(below, 1 - share, 1.0), np.inf)


@entry_point
@eqx.filter_jit
def leverages(fit: Fit) -> tuple[Float[Array, "n"], Float[Array, ""]]:
    """Every example's leverage, tr(H^-1 H_i), and the longest difference of scores in H^-1.

    n p^2 multiplications; the leverages of all add up to p, less what the penalty takes.
    """
    expansion: Any = fit.expansion()
    gram = leverage(expansion, factor_of(fit))
    return jnp.einsum("nkl,nkl->n", gram, expansion.second), jnp.max(widest(gram))


@eqx.filter_jit
def along_gradient(fit: Fit, leaves):
    """Per group, with v = H^-1/2 g: v'Sv / v'v, |Sv|^2 / v'v, v'v, and the change in theta."""
    expansion, factor = fit.expansion(), factor_of(fit)

    def one(w):
        gradient = expansion.gradient(w)
        change = factor.solve(gradient[None])[0]
        size = gradient @ change
        taken = expansion.hvp(w, change)
        square = taken @ factor.solve(taken[None])[0]
        scale = jnp.where(size > 0, 1 / jnp.where(size > 0, size, 1.0), 0.0)
        return change @ taken * scale, square * scale, size, change

    return jax.lax.map(one, leaves)


def factor_of(fit: Fit) -> Factor:
    """The factor of H, which every bound here needs, of a linear model."""
    if fit.metric is None or not isinstance(fit.objective, LinearObjective):
        raise ValueError(
            "these bounds are for linear models (lo.glm and its kin) small enough for their "
            "Hessian to be factorised"
        )
    return fit.metric


def check_dense(fit: Fit) -> None:
    """Refuse a fit whose p x p matrices are too large to form for every group."""
    factor_of(fit)
    if fit.objective.p > DENSE:
        raise ValueError(
            f"this forms p x p matrices for every group, for p up to {DENSE:,}; here p is "
            f"{fit.objective.p:,}: use lo.effects(..., certify=True), which needs none"
        )


def in_own_metric(factor, matrix):
    """L^-1 matrix L^-T, H = L L'."""
    return factor.whiten(factor.whiten(matrix).T)
