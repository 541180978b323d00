"""Sparse matrices inside JAX: products with arrays on either side, and little else.

Every row is cut into runs of 16 entries, the last filled up with zeros. A product gathers and adds
up runs, which vectorises, and then adds the few runs of each row. Columns are kept so too, since a
product from the left would otherwise scatter. 24 bytes an entry, beside what filling up takes.
"""

from typing import TYPE_CHECKING, Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from leaveout.runtime.memory import budget, gib, zeros
from leaveout.runtime.sharding import owned
from leaveout.runtime.tables import Rows, dense_copy

__all__ = [
    "Design",
    "Inputs",
    "Sparse",
    "as_design",
    "crossproduct",
    "curved",
    "divided",
    "some_columns",
    "widened",
]

_RUN = 16  # entries of a row that are added up together


class _Runs(eqx.Module):
    """The rows of a matrix as runs of entries.

    Attributes:
        index: (s l) the column of each entry.
        value: (s l) 0 where a run is filled up.
        owner: (s) the row of each run, ascending.
        count: rows.
    """

    index: Int[Array, "s l"]
    value: Float[Array, "s l"]
    owner: Int[Array, "s"]
    count: int = eqx.field(static=True)

    @classmethod
    def of(cls, given: Rows, dtype) -> "_Runs":
        """From SciPy's compressed rows."""
        lengths = np.diff(given.indptr)
        runs = -(-lengths // _RUN)
        first = np.cumsum(runs) - runs  # the first run of each row
        row = np.repeat(np.arange(given.shape[0]), lengths)
        at = np.arange(given.nnz) - np.repeat(given.indptr[:-1], lengths)
        place = (first[row] + at // _RUN, at % _RUN)
        index = np.zeros((int(runs.sum()), _RUN), np.int32)
        value = np.zeros(index.shape)
        index[place], value[place] = given.indices, given.data
        owner = np.repeat(np.arange(given.shape[0], dtype=np.int32), runs)
        return cls(jnp.asarray(index), jnp.asarray(value, dtype), jnp.asarray(owner), len(lengths))

    def times(self, right: Float[Array, "q k"]) -> Float[Array, "n k"]:
        """The product with an array."""
        each = jnp.sum(self.value[..., None] * right[self.index], axis=1)
        return jax.ops.segment_sum(each, self.owner, self.count, indices_are_sorted=True)


class Sparse(eqx.Module):
    """A sparse matrix (n q).

    Attributes:
        rows: its rows.
        columns: its columns.
    """

    rows: _Runs
    columns: _Runs
    __array_priority__ = 100  # products with arrays of NumPy come here

    @classmethod
    def of(cls, given: Rows, dtype) -> "Sparse":
        """From SciPy's compressed rows."""
        import scipy.sparse

        turned = scipy.sparse.csr_array(given.T)
        return cls(_Runs.of(given, dtype), _Runs.of(turned, dtype))

    @property
    def shape(self) -> tuple[int, int]:
        """(n, q)."""
        return self.rows.count, self.columns.count

    @property
    def ndim(self) -> int:
        """2."""
        return 2

    @property
    def size(self) -> int:
        """Numbers held, those that fill up among them."""
        return 2 * (self.rows.value.size + self.columns.value.size)

    @property
    def dtype(self):
        """Of its entries."""
        return self.rows.value.dtype

    @property
    def T(self) -> "Sparse":
        """Transposed."""
        return Sparse(self.columns, self.rows)

    def __len__(self) -> int:
        return self.shape[0]

    def __matmul__(self, right: Float[Array | np.ndarray, "q ..."]) -> Float[Array, "n ..."]:
        right = jnp.asarray(right)
        product = self.rows.times(right.reshape(len(right), -1))
        return product.reshape(len(self), *right.shape[1:])

    def __rmatmul__(self, left: Float[Array | np.ndarray, "... n"]) -> Float[Array, "... q"]:
        return (self.T @ jnp.asarray(left).T).T

    def __pow__(self, power) -> "Sparse":
        def raised(runs: _Runs) -> _Runs:
            return _Runs(runs.index, runs.value**power, runs.owner, runs.count)

        return Sparse(raised(self.rows), raised(self.columns))

    def __getitem__(self, rows) -> "Sparse":
        """Some of the rows, outside `jax.jit`."""
        import scipy.sparse

        return Sparse.of(scipy.sparse.csr_array(self.host()[rows]), self.dtype)

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return dense_copy(self.host(), "x").astype(dtype or float)

    def host(self) -> Rows:
        """As SciPy's compressed rows."""
        import scipy.sparse

        value, index = np.asarray(self.rows.value, float), np.asarray(self.rows.index)
        row = np.repeat(np.asarray(self.rows.owner), _RUN)
        found = scipy.sparse.csr_array((value.ravel(), (row, index.ravel())), self.shape)
        found.eliminate_zeros()
        return found

    def leading(self, count: int) -> "Sparse":
        """The first columns, outside `jax.jit`."""
        import scipy.sparse

        return Sparse.of(scipy.sparse.csr_array(self.host()[:, :count]), self.dtype)

    def written_out(self, copies: int = 1) -> Float[Array, "n q"]:
        """As a dense array, inside `jax.jit` too.

        Args:
            copies: how many of its size are made of it.

        Raises:
            ValueError: where they do not fit in the memory available, with what they take.
        """
        size = self.dtype.itemsize * len(self) * self.shape[1] * copies
        if size > budget():
            raise ValueError(
                f"the gradients of {len(self):,} sparse queries in {self.shape[1]:,} columns take "
                f"{gib(size)}, where {gib(budget())} are there; ask for fewer queries at once"
            )
        zeros = jnp.zeros(self.shape, self.dtype)
        return zeros.at[self.rows.owner[:, None], self.rows.index].add(self.rows.value)

    def column(self, at: np.ndarray) -> Float[Array, "n f"]:
        """Some columns, written out."""
        zeros = jnp.zeros((self.shape[1], len(at)), self.dtype)
        return self @ zeros.at[at, np.arange(len(at))].set(1.0)

    def gram(self, scale: Float[Array, "n"]) -> Float[Array, "q q"]:
        """X' D X, one product with the matrix and one with its transpose a column."""
        eye = jnp.eye(self.shape[1], dtype=self.dtype)
        return jax.lax.map(lambda column: (scale * (self @ column)) @ self, eye)

    def above(self, other: "Sparse") -> "Sparse":
        """These rows, then those of another."""
        import scipy.sparse

        both = scipy.sparse.vstack([self.host(), other.host()], format="csr")
        return Sparse.of(scipy.sparse.csr_array(both), self.dtype)

    def lengths(self) -> Float[Array, "n"]:
        """Lengths of the rows."""
        return jnp.sqrt((self**2) @ jnp.ones(self.shape[1], self.dtype))


#: rows of a linear model (n q), and inputs of a measure; who asks knows when they are dense
if TYPE_CHECKING:
    Design: TypeAlias = Any
    Inputs: TypeAlias = Any
else:
    Design = Float[Array, "_ _"] | Sparse
    Inputs = Array | np.ndarray | Sparse | Rows


def crossproduct(x: Float[Array, "n p"], y: Float[Array, "n q"]) -> Float[Array, "p q"]:
    """X' Y, X written down transposed first: products on a processor run up to twice as fast so."""
    return jax.lax.optimization_barrier(x.T) @ y


def curved(x: Design, scale: Float[Array, "n"]) -> Float[Array, "q q"]:
    """X' D X, D the diagonal matrix of `scale`."""
    return x.gram(scale) if isinstance(x, Sparse) else crossproduct(scale[:, None] * x, x)


def some_columns(x: Design, at: np.ndarray) -> Float[Array, "n f"]:
    """Some columns, written out."""
    return x.column(at) if isinstance(x, Sparse) else x[:, at]


def as_design(x: Design) -> Sparse:
    """Rows as a sparse matrix, which they may be already."""
    if isinstance(x, Sparse):
        return x
    import scipy.sparse

    return Sparse.of(scipy.sparse.csr_array(np.asarray(x, float)), x.dtype)


def divided(given: Rows, by) -> Rows:
    """SciPy's rows, their columns divided."""
    import scipy.sparse

    return scipy.sparse.csr_array(given @ scipy.sparse.diags_array(1 / np.asarray(by, float)))


def widened(x: Design | np.ndarray, intercept: bool) -> Design:
    """Inputs, with a column of ones if there is an intercept; sparse ones outside `jax.jit`."""
    if isinstance(x, np.ndarray):
        return _widened_on_host(x) if intercept else owned(x)
    if not intercept:
        return x
    if not isinstance(x, Sparse):
        return jnp.concatenate([x, jnp.ones((x.shape[0], 1), x.dtype)], 1)
    import scipy.sparse

    ones = scipy.sparse.csr_array(np.ones((len(x), 1)))
    both = scipy.sparse.hstack([x.host(), ones], format="csr")
    return Sparse.of(scipy.sparse.csr_array(both), x.dtype)


def _widened_on_host(x: np.ndarray) -> Float[Array, "n q"]:
    """The same without a program of its own, and with one copy of the inputs."""
    wide = zeros((x.shape[0], x.shape[1] + 1), x.dtype)
    wide[:, :-1], wide[:, -1] = x, 1
    return jax.device_put(wide)
