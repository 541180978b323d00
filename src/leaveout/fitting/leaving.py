"""What leaves with a group, laid where the data is: every point's w, lists, sums over groups."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from leaveout.fitting.fitted import Fit
from leaveout.groups import Groups
from leaveout.objectives.abstract import AbstractExpansion, AbstractObjective, taken_of
from leaveout.objectives.expansion import LinearExpansion
from leaveout.objectives.scored import ScoredExpansion
from leaveout.objectives.sparse import Sparse
from leaveout.runtime.memory import bucket
from leaveout.runtime.sharding import devices, is_traced, on_host, place, to_host
from leaveout.solvers import Block

__all__ = [
    "LISTED",
    "block_of",
    "group_sums",
    "leaving",
    "listed_gradients",
    "taken_by",
    "w_by",
    "worth_listing",
]

LISTED = 50  # times as long a number takes in a sum over listed rows as in a dense product


def leaving(fit: Fit, groups: Groups, rows: Any = slice(None)) -> Float[Array, "b n"]:
    """W of every point for some of the groups, all by default, laid where the data is."""
    if not on_host() and devices() == 1:
        return _spread(groups[rows], fit.objective.n, np.dtype(fit.objective.weights.dtype))
    w = groups.dense(rows)
    if groups.n < fit.objective.n:
        w = np.pad(w, ((0, 0), (0, fit.objective.n - groups.n)))
    return place(w, fit.objective.weights.dtype, "groups", "data")


def block_of(
    s: Float[Array, "n"], w: Float[Array, "b k"], indices: Int[Array, "b k"] | None
) -> Block:
    """What leaves with the groups in flight: w (b k) of the points listed, or (b n) of all."""
    return Block(taken_of(s if indices is None else s[indices], w), indices)


def _spread(groups: Groups, n: int, dtype) -> Float[Array, "b n"]:
    """The same on an accelerator, from lists: they are what travels, not the zeros between."""

    def filled(values, dtype, filler):
        out = np.full(bucket(values.size), filler, dtype)
        out[: values.size] = values
        return out

    points = filled(groups.indices, np.int32, n)
    w = None if groups.partial is None else filled(groups.partial, dtype, 0)
    return _written((len(groups), n), groups.size.astype(np.int32), points, w, dtype)


@eqx.filter_jit
def _written(shape, sizes, points, w, dtype):
    lanes = jnp.repeat(jnp.arange(shape[0]), sizes, total_repeat_length=points.size)
    values = jnp.ones((), dtype) if w is None else w
    return jnp.zeros(shape, dtype).at[lanes, points].set(values, mode="drop")


def taken_by(objective: AbstractObjective, groups: Groups) -> Float[np.ndarray, "nnz"]:
    """What each listed point loses with its group, in units of base weights (`taken_of`)."""
    s = np.asarray(to_host(objective.weights))[groups.indices]
    return np.where(s > 0, s * groups.w, np.minimum(groups.w, 0.0))


def w_by(objective: AbstractObjective, groups: Groups) -> Float[np.ndarray, "nnz"]:
    """W of each listed point, 0 where it has no base weight that could leave."""
    s = np.asarray(to_host(objective.weights))[groups.indices]
    return np.where(s > 0, groups.w, np.minimum(groups.w, 0.0))


def group_sums(
    groups: Groups, amounts: np.ndarray, values: Float[Array | np.ndarray, "n m"]
) -> Float[Array | np.ndarray, "g m"]:
    """sum_i amount_i values_i over each group, amounts (nnz) of the points that it lists.

    A sparse product on the host, where that of NumPy's values stays; of traced ones, sums of
    segments.
    """
    if is_traced(values):
        terms = values[groups.indices] * jnp.asarray(amounts, values.dtype)[:, None]
        return jax.ops.segment_sum(terms, groups.lanes, len(groups))
    from scipy.sparse import csr_matrix

    shape = (len(groups), len(values))
    table = csr_matrix((amounts, groups.indices, groups.offsets), shape)
    found = (table @ to_host(values)).astype(values.dtype, copy=False)
    return found if isinstance(values, np.ndarray) else jnp.asarray(found)


def worth_listing(fit: Fit, expansion: AbstractExpansion, groups: Groups) -> bool:
    """Whether the groups together are so small that their points are best looked at one by one."""
    alone = on_host() and devices() == 1 and not is_traced(fit)
    linear = isinstance(expansion, LinearExpansion | ScoredExpansion)
    return alone and linear and LISTED * groups.indices.size < len(groups) * fit.objective.n


def listed_gradients(
    expansion: LinearExpansion | ScoredExpansion, groups: Groups, taken: Float[np.ndarray, "nnz"]
) -> Float[Array, "g p"]:
    """g(w) of every group by a sparse product on the host: |w| K q multiplications each."""
    from scipy.sparse import csr_array, issparse

    first, design = np.asarray(expansion.first), expansion.design
    design = design.host() if isinstance(design, Sparse) else np.asarray(design)
    slopes = first[groups.indices] * taken[:, None]
    shape = (len(groups), len(first))
    parts = [
        csr_array((column, groups.indices, groups.offsets), shape) @ design for column in slopes.T
    ]
    parts = [part.toarray() if issparse(part) else part for part in parts]
    return jax.vmap(expansion.layout.flat)(jnp.asarray(np.stack(parts, axis=1), first.dtype))
