"""What leaves with a group, laid where the data is: dense weights, lists, gradients of few."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jaxtyping import Array, Float

from leaveout.fitting.fitted import Fit
from leaveout.groups import Groups
from leaveout.objectives.checks import is_traced
from leaveout.objectives.linear import LinearExpansion, LinearObjective
from leaveout.runtime.memory import bucket
from leaveout.runtime.sharding import devices, on_host, place

__all__ = ["LISTED", "leaving", "listed_gradients", "worth_listing"]

LISTED = 50  # times as long a number takes in a sum over listed rows as in a dense product


def leaving(fit: Fit, groups: Groups, rows: Any = slice(None)) -> Float[Array, "b n"]:
    """What leaves with some of the groups, all by default, laid where the data is."""
    if not on_host() and devices() == 1:
        return _spread(groups[rows], fit.objective.n, np.dtype(fit.objective.weights.dtype))
    leaves = groups.dense(rows)
    if groups.n < fit.objective.n:
        leaves = np.pad(leaves, ((0, 0), (0, fit.objective.n - groups.n)))
    return place(leaves, fit.objective.weights.dtype, "groups", "data")


def _spread(groups: Groups, n: int, dtype) -> Float[Array, "b n"]:
    """The same on an accelerator, from lists: they are what travels, not the zeros between."""

    def filled(values, dtype, filler):
        out = np.full(bucket(values.size), filler, dtype)
        out[: values.size] = values
        return out

    points = filled(groups.indices, np.int32, n)
    weights = None if groups.weights is None else filled(groups.weights, dtype, 0)
    return _written((len(groups), n), groups.size.astype(np.int32), points, weights, dtype)


@eqx.filter_jit
def _written(shape, sizes, points, weights, dtype):
    lanes = jnp.repeat(jnp.arange(shape[0]), sizes, total_repeat_length=points.size)
    values = jnp.ones((), dtype) if weights is None else weights
    return jnp.zeros(shape, dtype).at[lanes, points].set(values, mode="drop")


def worth_listing(fit: Fit, groups: Groups) -> bool:
    """Whether the groups together are so small that their points are best looked at one by one."""
    alone = on_host() and devices() == 1 and not is_traced(fit)
    linear = isinstance(fit.objective, LinearObjective)
    return alone and linear and LISTED * groups.indices.size < len(groups) * fit.objective.n


def listed_gradients(expansion: LinearExpansion, groups: Groups) -> Float[Array, "g p"]:
    """g(w) of every group by a sparse product on the host: |w| K q multiplications each."""
    first, design = np.asarray(expansion.first), np.asarray(expansion.design)
    slopes = first[groups.indices] * groups.w[:, None]
    shape = (len(groups), design.shape[0])
    parts = [
        scipy.sparse.csr_matrix((column, groups.indices, groups.offsets), shape) @ design
        for column in slopes.T
    ]
    return jax.vmap(expansion.layout.flat)(jnp.asarray(np.stack(parts, axis=1), first.dtype))
