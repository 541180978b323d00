"""Columns measured from their means, and in units that even them out.

The flat theta then holds the scores at the centre in the place of the intercepts, and weights of
columns in units: the same model under the same penalty.
"""

import operator

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Shaped

from leaveout.objectives.layout import Layout
from leaveout.objectives.sparse import Design, Sparse, divided
from leaveout.runtime.batches import summed
from leaveout.runtime.memory import PASS_EXAMPLES
from leaveout.runtime.sharding import is_traced, replicate, to_host

__all__ = ["Measured", "measured", "some_kept", "varying"]

_FAR = -0.25  # power of the rounding unit: a mean squared over the variance from which it is far
_CLOSE = 0.01  # of a variance that the square of a mean may be and is next to nothing
_UNEVEN = 2.0**16  # largest over smallest curvature of sparse columns from which they get units


class Measured(eqx.Module):
    """Inputs measured from a centre in units: (x - centre) / unit.

    Attributes:
        centre: (d) 0 for a column that is not far out.
        unit: (d) powers of 2, which cost no rounding; None for ones.
        given: the rows that were measured, so that they need not be again at every call.
    """

    centre: Float[Array, "d"]
    unit: Float[Array, "d"] | None = None
    given: Design | None = None

    def knows(self, design: Design) -> bool:
        """Whether these are the very rows that were measured."""
        mine, theirs = jax.tree.leaves(self.given), jax.tree.leaves(design)
        return len(mine) == len(theirs) and all(map(operator.is_, mine, theirs))

    def rows(self, given: Design) -> Design:
        """Inputs, or rows of a design with a column of ones.

        Sparse ones outside `jax.jit`: what is far out has no zeros, so that none are filled.
        """
        if isinstance(given, Sparse):
            return self._sparse_rows(given)
        more = given.shape[1] - len(self.centre)
        found = given - jnp.pad(self.centre, (0, more))[None]
        return found if self.unit is None else found / _with_ones(self.unit, more)[None]

    def _sparse_rows(self, given: Sparse) -> Sparse:
        import scipy.sparse

        centre, n = np.asarray(self.centre, float), len(given)
        (far,) = centre.nonzero()
        at = np.tile(far, n), np.arange(n + 1) * len(far)
        moved = scipy.sparse.csr_array((np.tile(centre[far], n), *at), shape=given.shape)
        found = given.host() - moved
        if self.unit is not None:
            found = divided(found, _with_ones(self.unit, given.shape[1] - len(self.unit)))
        return Sparse.of(scipy.sparse.csr_array(found), given.dtype)

    def taken_in(self, layout: Layout, theta: Float[Array, "... p"]) -> Float[Array, "... p"]:
        """Flat theta of the user's columns, in that of these."""
        theta = _moved(layout, theta, self.centre)
        return theta if self.unit is None else theta * _each(layout, self.unit)

    def shown(self, layout: Layout, theta: Float[Array, "... p"]) -> Float[Array, "... p"]:
        """The inverse of `taken_in`."""
        theta = theta if self.unit is None else theta / _each(layout, self.unit)
        return _moved(layout, theta, -self.centre)

    def falls(self, layout: Layout, penalised: Shaped[Array, "p"]) -> Shaped[Array, "p"]:
        """How heavily the penalty falls on each of these, from what it is in the user's columns."""
        return penalised if self.unit is None else penalised / _each(layout, self.unit) ** 2


def _with_ones(unit: Float[Array, "d"], more: int) -> Float[Array, "q"]:
    """Units, and as many of 1 behind them."""
    return jnp.pad(unit, (0, more), constant_values=1.0)


def _each(layout: Layout, unit: Float[Array, "d"]) -> Float[Array, "p"]:
    """The unit of each entry of theta."""
    row = _with_ones(unit, layout.width - len(unit))
    return layout.flat(jnp.broadcast_to(row, (layout.outputs, layout.width)))


def measured(
    design: Design,
    weights: Float[Array, "n"],
    penalty: Float[np.ndarray, "q"],
    features: int,
    *,
    free: bool,
) -> tuple[Measured, Bool[Array, "q"]] | None:
    """What serves the columns, and which of them are kept; None where they are well as they are.

    The means of columns that are far out, where intercepts are `free`: of a constant one all but
    its mean is rounding, so that it is not kept. Of sparse columns units too, which no factor of a
    Hessian evens out.

    Args:
        design: with a last column of ones if there are intercepts.
        weights: base weights.
        penalty: the least of each column, over outputs.
        features: columns without that one.
        free: whether there are intercepts that nothing penalises.
    """
    sparse = isinstance(design, Sparse)
    parts = (_moments_of_sparse if sparse else _moments)(design, weights, penalty)
    means, variances, held = (np.asarray(part)[:features] for part in parts)
    eps = float(jnp.finfo(design.dtype).eps)
    far = free & (means**2 > eps**_FAR * (variances + held))
    centre = np.where(far, _in_few_digits(means, variances), 0.0)
    unit = _units(variances + (means - centre) ** 2 + held) if sparse else None
    if not far.any() and unit is None:
        return None
    kept = ~(far & (variances <= (1e2 * eps * means) ** 2))
    found = Measured(
        jnp.asarray(centre, design.dtype),
        None if unit is None else jnp.asarray(unit, design.dtype),
        design,
    )
    more = design.shape[1] - features
    return found, jnp.asarray(np.append(kept, np.ones(more, bool)))


def _in_few_digits(means: np.ndarray, variances: np.ndarray) -> np.ndarray:
    """Centres (d) near the means that float32 has too, from where columns are still not far."""
    with np.errstate(over="ignore"):  # of means that float32 has no numbers for
        short = means.astype(np.float32).astype(means.dtype)
    return np.where((short - means) ** 2 <= _CLOSE * variances, short, means)


def _units(curvature: np.ndarray) -> np.ndarray | None:
    """Powers of 2 (d) that even out the curvature of columns; None where it is even enough."""
    some = curvature[curvature > 0]
    if not some.size or some.max() <= _UNEVEN * some.min():
        return None
    typical = np.where(curvature > 0, curvature, 1.0)
    return 2.0 ** np.round(0.5 * np.log2(typical))


@eqx.filter_jit
def _moments(design, weights, penalty):
    """Weighted means and variances (q) of the columns, and the penalty over the weight."""
    total = jnp.sum(weights)
    means = weights @ design / total

    def around(cut):
        return cut(weights[None], 1)[0] @ (cut(design) - means[None]) ** 2

    variances = summed(around, min(PASS_EXAMPLES, len(design)), len(design)) / total
    return replicate((means, variances, penalty / total))


def _moments_of_sparse(design: Sparse, weights, penalty):
    """The same on the host: a column that may be far out has next to no zeros, and is written out.

    Of the others the variance is a difference of two means, which is exact enough.
    """
    x, w = design.host(), np.asarray(weights, float)
    total = w.sum()
    means, held = w @ x / total, np.asarray(penalty, float) / total
    variances = np.maximum(w @ x.power(2) / total - means**2, 0.0)
    eps = float(jnp.finfo(design.dtype).eps)
    some = np.flatnonzero(means**2 > 0.5 * eps**_FAR * (variances + held))
    variances[some] = w @ (x[:, some].toarray() - means[some]) ** 2 / total
    return means, variances, held


def some_kept(design: Design, kept: Bool[Array, "q"]) -> Design:
    """A design, the columns that are not kept made zero."""
    if isinstance(design, Sparse):
        if bool(kept.all()):
            return design
        return Sparse.of(divided(design.host(), jnp.where(kept, 1.0, jnp.inf)), design.dtype)
    return jnp.where(kept[None], design, 0.0)


def varying(design: Design) -> Bool[Array, "q"]:
    """Which columns have a number other than 0."""
    if isinstance(design, Sparse):
        return jnp.asarray(np.bincount(design.host().indices, minlength=design.shape[1]) > 0)
    return jnp.any(design != 0, axis=0)


def _moved(layout: Layout, theta, centre):
    """Flat theta, each intercept with weight @ centre added.

    Numbers are moved on the host, where no program is compiled for their shape.
    """
    if not layout.intercept:
        return theta
    if not is_traced((theta, centre)):
        theta, centre = to_host((theta, centre))
    weight, bias = layout.split(theta)
    return jnp.asarray(layout.joined(weight, bias + weight @ centre))
