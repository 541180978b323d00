"""Columns measured from their means: the scores at the centre in the place of the intercepts."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from leaveout.objectives.layout import Layout
from leaveout.runtime.batches import summed
from leaveout.runtime.memory import PASS_EXAMPLES
from leaveout.runtime.sharding import replicate

__all__ = ["far_centre", "measured_from", "shifted"]


def far_centre(
    design: Float[Array, "n q"], weights: Float[Array, "n"], penalty: Float[np.ndarray, "q"]
) -> tuple[Float[Array, "d"], Bool[Array, "q"]] | None:
    """The means of the columns that are far out, 0 for others, and which columns are kept.

    Of a constant column all but its mean is rounding: it is not. None where no mean is far out.

    Args:
        design: the last column is ones.
        weights: base weights.
        penalty: the least of each column, over outputs.
    """
    means, variances, held = (np.asarray(part)[:-1] for part in _moments(design, weights, penalty))
    eps = float(jnp.finfo(design.dtype).eps)
    far = means**2 > eps**-0.25 * (variances + held)
    if not far.any():
        return None
    constant = variances <= (1e2 * eps * means) ** 2
    kept = np.append(~(far & constant), True)
    return jnp.asarray(np.where(far, means, 0.0), design.dtype), jnp.asarray(kept)


@eqx.filter_jit
def _moments(design, weights, penalty):
    """Weighted means and variances (q) of the columns, and the penalty over the weight."""
    total = jnp.sum(weights)
    means = weights @ design / total

    def around(cut):
        return cut(weights[None], 1)[0] @ (cut(design) - means[None]) ** 2

    variances = summed(around, min(PASS_EXAMPLES, len(design)), len(design)) / total
    return replicate((means, variances, penalty / total))


def measured_from(centre: Float[Array, "d"], design: Float[Array, "m q"]) -> Float[Array, "m q"]:
    """Rows of a design, measured from a centre."""
    return design - jnp.append(centre, 0.0)[None]


def shifted(
    layout: Layout, theta: Float[Array, "... p"], centre: Float[Array, "d"]
) -> Float[Array, "... p"]:
    """Flat theta, each intercept with weight @ centre added."""
    weight, _ = layout.split(theta)
    return theta.at[..., layout.outputs * layout.features :].add(weight @ centre)
