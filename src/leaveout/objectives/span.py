"""The span of the rows: where a linear model has more columns than examples, theta lies in it.

Where the penalty falls alike on all weights, what a weight vector has across the rows only costs:
at every minimum, of all the data or of what stays, weight = Q a with Q (d r) an orthonormal basis
of the rows, r <= n. Scores are then (x Q) a and the penalty l2/2 |a|^2: the same problem with r
columns. A free intercept stays a column of its own. Where the penalty falls on each column by a
number f_j of its own, the columns are first divided by its root.

    dense rows    X' = Q L' by QR: exact to the rounding of X
    sparse rows   X X' = L L' by a pivoted Cholesky factorisation, and Q' = L_P^-1 X_P with X_P the
                  r rows that it picked: Q is never written down. Rows that others add up to, to
                  the rounding of X X', have no column of their own.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from leaveout.objectives.layout import Layout
from leaveout.objectives.sparse import Design, Sparse, divided
from leaveout.runtime.memory import FACTORISED, budget
from leaveout.runtime.sharding import replicate
from leaveout.runtime.tables import Rows

__all__ = ["Span", "Spanned", "span_of"]

_LOST = 1e-8  # share of the scores that rounding in X X' may change: eps |X|^2 / l2
_BLOCK = 512  # rows whose products are found together
_WIDE = 1_000  # parameters from which dense data goes into its span: below, the rest costs more


class Span(eqx.Module):
    """Coordinates a (r) of weights (d) in the span of the rows.

    Attributes:
        layout: of theta as the user knows it.
        rows: (r d) rows that span, columns divided by `root`.
        lower: (r r) L_P, or None where `rows` are orthonormal.
        root: (d) what the columns are divided by, or None for ones.
    """

    layout: Layout = eqx.field(static=True)
    rows: Design
    lower: Float[Array, "r r"] | None
    root: Float[Array, "d"] | None

    @property
    def exact(self) -> bool:
        """Whether rounding is that of x, not of X X'."""
        return self.lower is None

    @property
    def rank(self) -> int:
        """Coordinates, r."""
        return self.rows.shape[0]

    def inward(self, x: Design) -> Float[Array, "m r"]:
        """Inputs in these coordinates, x Q: what they have across the span meets weights of 0."""
        rows = self.rows if self.root is None else _scaled(self.rows, self.root)
        product = _product(x.host(), rows) if isinstance(x, Sparse) else (rows @ x.T).T
        return product if self.lower is None else _solve(self.lower, product)

    def shown(self, layout: Layout, theta: Float[Array, "... p"]) -> Float[Array, "... P"]:
        """Flat theta in the user's columns."""
        weight, rest = layout.split(theta)
        if self.lower is not None:
            weight = _solve(self.lower, weight, transposed=True)
        weight = weight @ self.rows
        weight = weight if self.root is None else weight / _last(self.root, weight)
        return layout.joined(weight, rest)

    def taken_in(self, theta: Float[Array, "... P"]) -> Float[Array, "... p"]:
        """Flat theta in these coordinates, without what it has across the span."""
        weight, rest = self.layout.split(theta)
        weight = weight if self.root is None else weight * _last(self.root, weight)
        flat = weight.reshape(-1, weight.shape[-1])
        inner = (self.rows @ flat.T).T
        if self.lower is not None:
            inner = _solve(self.lower, inner)
        return self.layout.joined(inner.reshape(*weight.shape[:-1], self.rank), rest)

    def falls(self, layout: Layout, penalised: np.ndarray) -> np.ndarray:
        """How heavily the penalty falls on each coordinate (p), from what it is in theta (P).

        Raises:
            ValueError: where that is no longer what the columns were divided by.
        """
        heaviness = _by_column(self.layout, penalised)
        known = 1.0 if self.root is None else np.asarray(self.root) ** 2
        if heaviness is None or not np.allclose(heaviness, known, rtol=1e-6):
            raise ValueError(
                "the objective of this fit is not the one that its theta and factor belong to: "
                "how heavily the penalty falls was replaced; call lo.fit(fit.objective)"
            )
        rest = penalised[self.layout.outputs * self.layout.features :]
        return np.append(np.ones(layout.outputs * layout.features, penalised.dtype), rest)

    def check(self, design: Design, penalised: np.ndarray, inner: Layout, rows: Design) -> None:
        """Refuse a design (n q) other than the one of which these are the rows (n r + 1).

        By the scores of one random theta, and by where the penalty falls.

        Raises:
            ValueError: with what was replaced.
        """
        self.falls(inner, penalised)
        if not bool(_same_scores(self, design, inner, rows)):
            raise ValueError(
                "the objective of this fit is not the one that its theta and factor belong to: its "
                "inputs were replaced; call lo.fit(fit.objective)"
            )


@eqx.filter_jit
def _same_scores(span: Span, design: Design, inner: Layout, rows: Design):
    theta = jax.random.normal(jax.random.key(0), (inner.size,), rows.dtype)
    one = design @ span.layout.matrix(span.shown(inner, theta)).T
    two = rows @ inner.matrix(theta).T
    most = jnp.finfo(one.dtype).eps ** 0.4 * jnp.max(jnp.abs(two))
    return replicate(jnp.max(jnp.abs(one - two)) <= most)


class Spanned(NamedTuple):
    """A span, and the training rows in it.

    Attributes:
        span: the coordinates.
        layout: of theta in them.
        design: (n r).
    """

    span: Span
    layout: Layout
    design: Float[Array, "n r"]


def _by_column(layout: Layout, penalised: np.ndarray) -> np.ndarray | None:
    """(d) how heavily the penalty falls on each column, where that is the same for all outputs.

    None where it is not, or where a weight has no penalty.
    """
    cut = layout.outputs * layout.features
    each = np.asarray(penalised, float)[:cut].reshape(layout.outputs, layout.features)
    return each[0] if (each == each[:1]).all() and (each > 0).all() else None


def _serves(x: Design, outputs: int) -> bool:
    """Whether the span of the rows is the cheaper way: more columns than rows, and room for it."""
    n, d = x.shape
    room = 6 * 8 * n**2 <= budget()  # the products of rows, their factor, the design, copies
    if isinstance(x, Sparse):
        return n < d and room and outputs * (n + 1) <= FACTORISED
    return 2 * n <= d and d * outputs > _WIDE and room and len(x.sharding.device_set) == 1


def span_of(
    x: Design,
    layout: Layout,
    penalised: np.ndarray,
    l2: float,
    *,
    always: bool = False,
) -> Spanned | None:
    """The span of the rows x, and these in it; None where it does not serve.

    It does not where a weight has no penalty, where outputs differ in it, where the rows are not
    fewer than the columns, and where rounding would be seen in effects.

    Args:
        x: the inputs, without an intercept's column.
        layout: of theta.
        penalised: (P) how heavily the penalty falls on each entry of theta.
        l2: what multiplies it.
        always: although rows are not fewer.
    """
    heaviness = _by_column(layout, penalised)
    if heaviness is None or not l2 > 0 or not (always or _serves(x, layout.outputs)):
        return None
    root = None if (heaviness == 1).all() else jnp.asarray(np.sqrt(heaviness), x.dtype)
    how = _by_products(x, root, l2) if isinstance(x, Sparse) else _by_qr(x, root)
    if how is None:
        return None
    rows, lower, design = how
    inner = dataclasses.replace(layout, features=rows.shape[0])
    return Spanned(Span(layout, rows, lower, root), inner, design)


def _by_qr(x: Array, root):
    """An orthonormal basis of dense rows, and these in it."""
    given = np.asarray(x, float) if root is None else np.asarray(x, float) / np.asarray(root)
    basis, upper = np.linalg.qr(given.T)
    return jnp.asarray(basis.T, x.dtype), None, jnp.asarray(upper.T, x.dtype)


def _by_products(x: Sparse, root, l2: float):
    """The same of sparse rows from their products, by a Cholesky factorisation with pivots."""
    import scipy.linalg
    import scipy.sparse

    rows = x.host() if root is None else _scaled(x, root).host()
    products = _products(rows)
    if not np.finfo(float).eps * _largest(products) <= _LOST * l2:
        return None
    least = 2 * len(products) * np.finfo(float).eps * np.max(np.diagonal(products), initial=0.0)
    pivoted = cast(Callable, scipy.linalg.get_lapack_funcs("pstrf", dtype=float))
    # transposed, it overwrites them
    factor, order, rank, _ = pivoted(products.T, tol=least, lower=1, overwrite_a=1)
    del products
    lower = np.tril(factor[:, :rank]) if rank else np.zeros((len(factor), 0))
    order = order - 1
    design = np.empty_like(lower)
    design[order] = lower
    picked = scipy.sparse.csr_array(rows[order[:rank]])
    lower = jnp.asarray(lower[:rank], x.dtype)
    return Sparse.of(picked, x.dtype), lower, jnp.asarray(design, x.dtype)


def _products(rows: Rows) -> Float[np.ndarray, "n n"]:
    """X X' written out, some rows at a time: as a sparse matrix it would take twice as much."""
    import scipy.sparse

    count, turned = rows.shape[0], scipy.sparse.csc_array(rows.T)
    products = np.empty((count, count))
    for at in range(0, count, _BLOCK):
        products[at : at + _BLOCK] = (rows[at : at + _BLOCK] @ turned).toarray()
    return products


def _largest(products: np.ndarray) -> float:
    """About the largest eigenvalue of the products, by a few steps of power iteration."""
    vector = np.random.default_rng(0).normal(size=len(products))
    length = 0.0
    for _ in range(8):
        vector = products @ (vector / max(float(np.linalg.norm(vector)), 1e-300))
        length = float(np.linalg.norm(vector))
    return length


def _scaled(x: Design, root: Array) -> Design:
    """The matrix, its columns divided."""
    if not isinstance(x, Sparse):
        return x / root[None]
    return Sparse.of(divided(x.host(), root), x.dtype)


def _product(x: Rows, rows: Design) -> Array:
    """X rows', written out."""
    if not isinstance(rows, Sparse):
        return jnp.asarray(x @ np.asarray(rows).T, rows.dtype)
    return jnp.asarray((x @ rows.host().T).toarray(), rows.dtype)


def _solve(lower: Array, right: Float[Array, "... r"], transposed: bool = False) -> Array:
    """L^-1 of every row, or L^-T."""
    flat = right.reshape(-1, right.shape[-1]).T
    solved = jax.scipy.linalg.solve_triangular(lower, flat, lower=True, trans=int(transposed))
    return solved.T.reshape(right.shape)


def _last(values: Float[Array, "d"], like: Float[Array, "... d"]) -> Float[Array, "... d"]:
    """Values along the last axis of another array."""
    return values.reshape((1,) * (like.ndim - 1) + values.shape)
