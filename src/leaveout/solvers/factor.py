"""What every solver is given: the groups in flight, and the factor of H."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from leaveout.objectives.abstract import AbstractExpansion
from leaveout.objectives.expansion import LinearExpansion
from leaveout.runtime.remembered import remembered
from leaveout.runtime.sharding import constrain, devices, on_host, replicate, rowwise, to_host
from leaveout.runtime.solution import Solution, Status

__all__ = [
    "BESIDE",
    "PIECE",
    "SHOWN",
    "Block",
    "Factor",
    "Inner",
    "Lift",
    "Solver",
    "apply_full",
    "apply_reduced",
    "attach_matrix",
    "attach_rows",
    "beside",
    "corrected",
    "factorise",
    "full_matrix",
    "hessian_of_lists",
    "is_definite",
    "judge",
    "judged_again",
    "left_over",
    "leverage",
    "lifted",
    "measured",
    "norm_of",
    "reachable",
    "relative",
    "scale_of",
    "seen_through",
    "share_of",
    "thin",
    "thinned",
    "turned",
    "unit_diagonal",
    "white_rows",
]

BESIDE = 8  # times its tolerance that a residual may be of a solution, where that is short
PIECE = 1024
SHOWN = 1e-6  # of a solution: what rounding may do to it without a word


class Block(eqx.Module):
    """Groups in flight: padded lists of the points that lose weight, or every point.

    Attributes:
        taken: (b k) what each listed point loses, in units of base weights: s w, 0 for padding; or
            (b n) of every point.
        indices: (b k) points, padding repeats point 0; None if every point is listed.
        quick: leave a group whose Hessian is no longer definite `inaccurate`, unsolved, instead of
            solving it with care: half of what there is to compile.
    """

    taken: Float[Array, "b k"]
    indices: Int[Array, "b k"] | None = None
    quick: bool = eqx.field(static=True, default=False)

    def dense(self, n: int) -> Float[Array, "b n"]:
        """What every point loses."""
        if self.indices is None:
            return self.taken
        zeros = jnp.zeros((self.indices.shape[0], n), self.taken.dtype)
        lanes = jnp.arange(self.indices.shape[0])[:, None]
        return constrain(zeros.at[lanes, self.indices].add(self.taken), "groups", "data")

    def left(self, s: Float[Array, "n"]) -> Float[Array, "b n"]:
        """What every point has left of its base weight."""
        return s[None] - self.dense(s.size)


def hessian_of_lists(expansion: AbstractExpansion, block: Block) -> Callable:
    """The map from the points (k) and what they lose (k) of a group to H(w) (p p).

    Lists are looked at some points at a time, and only as far as they go: one program serves lists
    of any length, and padding costs nothing.
    """

    def own(indices, taken):
        return expansion.restrict(indices).hessian(taken)

    length = block.taken.shape[1]
    if length <= PIECE or devices() > 1:
        return own
    more, p = -length % PIECE, expansion.penalty.size

    def whole(indices, taken):
        used = jnp.max(jnp.where(taken != 0, jnp.arange(1, length + 1), 0))
        indices, taken = jnp.pad(indices, (0, more)), jnp.pad(taken, (0, more))

        def add(piece, total):
            start = piece * PIECE
            some = (jax.lax.dynamic_slice_in_dim(part, start, PIECE) for part in (indices, taken))
            return total + own(*some)

        return jax.lax.fori_loop(
            0, (used + PIECE - 1) // PIECE, add, jnp.zeros((p, p), taken.dtype)
        )

    return whole


@runtime_checkable
class Inner(Protocol):
    """An inner product by H."""

    def multiply(self, b: Float[Array, "k p"]) -> Float[Array, "k p"]:
        """Rows of H b."""
        ...

    def length(self, x: Float[Array, "... p"]) -> Float[Array, "..."]:
        """(x'Hx)^1/2 of rows x."""
        ...


class Factor(eqx.Module):
    """The Cholesky factor of H(1), gauge included: lower @ lower.T = H.

    Attributes:
        lower: (p p).
        rows: (n p) the design in the coordinates that make H the identity, X lower^-T, for a linear
            model of one output, where `attach_rows` has put them; else None.
        gram: (n n) rows rows' = X H^-1 X', likewise.
        matrix: (p p) H as it is summed over the data, where `attach_matrix` has put it; else None.
    """

    lower: Float[Array, "p p"]
    rows: Float[Array, "n p"] | None = None
    gram: Float[Array, "n n"] | None = None
    matrix: Float[Array, "p p"] | None = None

    def solve(self, b: Float[Array, "k p"]) -> Float[Array, "k p"]:
        """Rows of H^-1 b."""
        return jax.scipy.linalg.cho_solve((self.lower, True), b.T).T

    def whiten(self, b: Float[Array, "k p"]) -> Float[Array, "k p"]:
        """Rows of lower^-1 b: their Euclidean norm is the norm of b in H^-1."""
        return jax.scipy.linalg.solve_triangular(self.lower, b.T, lower=True).T

    def unwhiten(self, u: Float[Array, "k p"]) -> Float[Array, "k p"]:
        """Rows of lower^-T u: the change in theta of whitened coordinates u."""
        return jax.scipy.linalg.solve_triangular(self.lower, u.T, lower=True, trans=1).T

    def multiply(self, b: Float[Array, "k p"]) -> Float[Array, "k p"]:
        """Rows of H b."""
        return (b @ self.lower) @ self.lower.T

    def length(self, x: Float[Array, "... p"]) -> Float[Array, "..."]:
        """(x'Hx)^1/2 of rows x."""
        return jnp.linalg.norm(x @ self.lower, axis=-1)

    def inflation(self) -> Float[Array, ""]:
        """The largest variance inflation of a parameter given those before it.

        A lower bound on the condition number of H in its best units; infinite if H is singular.
        """
        return _inflation(self.lower)

    def digits_lost(self) -> float:
        """Rounding in what is solved with the factor, relative: eps times `inflation`, or infinity.

        Found on the host, where no program is compiled for it.
        """
        lower = np.asarray(to_host(self.lower))
        with np.errstate(all="ignore"):
            lost = float(_inflation(lower) * np.finfo(lower.dtype).eps)
        return np.inf if np.isnan(lost) else lost


def _inflation(lower):
    return ((lower**2).sum(axis=1) / lower.diagonal() ** 2).max()


@eqx.filter_jit
def attach_rows(factor: Factor, design: Float[Array, "n p"], gram: bool = False) -> Factor:
    """The factor with the design in its coordinates: n p^2 multiplications, and n^2 p for `gram`.

    What a group does to a linear model of one output is then seen without theta: H(w) is
    rows' diag(w phi'') rows, and the scores of a change u are rows u.
    """
    rows = rowwise(Factor.whiten, factor, design) if factor.rows is None else factor.rows
    return Factor(factor.lower, rows, rows @ rows.T if gram else factor.gram)


def attach_matrix(factor: Factor, expansion: AbstractExpansion) -> Factor:
    """The factor with H beside it, n p^2 multiplications: one product then gives a residual.

    H of the last expansion is remembered.
    """
    return dataclasses.replace(factor, matrix=_matrix(expansion))


def white_rows(
    expansion: LinearExpansion, factor: Factor
) -> Callable[[Float[Array, "q"]], Float[Array, "K p"]]:
    """The map from the inputs of one example to its K rows X_i lower^-T."""
    layout = expansion.layout
    inverse = factor.whiten(jnp.eye(layout.size, dtype=factor.lower.dtype))  # rows: lower^-1 e_j
    by_output = inverse[np.argsort(layout.order())].reshape(layout.outputs, layout.width, -1)
    return lambda x: jnp.einsum("q,kqp->kp", x, by_output)


def leverage(expansion: LinearExpansion, factor: Factor) -> Float[Array, "n K K"]:
    """X_i H^-1 X_i' of every example: n p^2 multiplications, in blocks of examples."""
    rows = white_rows(expansion, factor)

    def own(x):
        white = rows(x)
        return white @ white.T

    return jax.lax.map(own, expansion.design, batch_size=min(256, expansion.n))


def seen_through(rows: Float[Array, "n p"], scale: Float[Array, "b n"]) -> Callable:
    """The map u (b p) to rows' (scale rows u).

    On a processor in blocks of the n rows, as many as divide it, so that what lies between the two
    products stays in cache.
    """
    n, p = rows.shape
    least = -(-n // 2048) if on_host() and devices() == 1 else 1
    count = next((k for k in range(least, 2 * least) if n % k == 0), 1)
    if count == 1:
        return lambda u: ((u @ rows.T) * scale) @ rows
    blocks = rows.reshape(count, -1, p), scale.reshape(len(scale), count, -1).transpose(1, 0, 2)

    def apply(u):
        def add(total, block):
            rows, scale = block
            return total + ((u @ rows.T) * scale) @ rows, None

        return jax.lax.scan(add, jnp.zeros_like(u), blocks)[0]

    return apply


def full_matrix(
    expansion: AbstractExpansion, v: Float[Array, "n"] | None = None
) -> Float[Array, "p p"]:
    """The Hessian of J(.; v), by default of all the data, with penalty and gauge."""
    matrix = expansion.hessian(expansion.weights if v is None else v)
    matrix = matrix + jnp.diag(expansion.penalty)
    gauge = expansion.gauge()
    return matrix if gauge is None else matrix + gauge


_matrix = remembered(eqx.filter_jit(lambda expansion: replicate(full_matrix(expansion))))


def factorise(matrix: Float[Array, "p p"]) -> tuple[Factor, Bool[Array, ""]]:
    """The factor of a matrix, and whether it is numerically positive definite."""
    lower = jnp.linalg.cholesky(matrix)
    return Factor(lower), is_definite(lower, jnp.diagonal(matrix))


class Lift(NamedTuple):
    """How a diagonal is raised: from `first` on by `growth` at a time, up to `most`."""

    first: float
    growth: float
    most: float


def lifted(
    matrix: Float[Array, "p p"],
    diagonal: Float[Array, "p"],
    shift: float | Float[Array, ""] = 0.0,
    lift: Lift = Lift(1e-12, 100.0, 1.0),
) -> tuple[Factor, Float[Array, ""]]:
    """The factor of matrix + shift diag(diagonal), the shift raised until that is definite.

    Returns:
        the factor, and the shift.
    """

    def attempt(shift):
        return shift, *factorise(matrix + jnp.diag(shift * diagonal))

    def indefinite(carry):
        shift, _, definite = carry
        return ~definite & (shift < lift.most)

    def again(carry):
        return attempt(jnp.maximum(lift.growth * carry[0], lift.first))

    begin = attempt(jnp.asarray(shift, matrix.dtype))
    shift, factor, _ = jax.lax.while_loop(indefinite, again, begin)
    return factor, shift


def scale_of(matrix: Float[Array, "p p"]) -> Float[Array, "p"]:
    """The sizes of the diagonal; of entries that are 0 the largest."""
    diagonal = jnp.abs(jnp.diagonal(matrix))
    return jnp.where(diagonal > 0, diagonal, jnp.max(diagonal))


def unit_diagonal(matrix: Float[Array, "p p"]) -> tuple[Float[Array, "p p"], Float[Array, "p"]]:
    """A symmetric matrix scaled to a diagonal of 1 and -1 (or 0), and the scale: D^-1 A D^-1, D."""
    diagonal = jnp.abs(jnp.diagonal(matrix))
    scale = jnp.sqrt(jnp.where(diagonal > 0, diagonal, 1.0))
    return matrix / (scale[:, None] * scale[None]), scale


def is_definite(lower, scale):
    """True if every pivot stands clear of rounding in a matrix with this diagonal."""
    floor = 10 * lower.shape[0] * jnp.finfo(lower.dtype).eps
    return jnp.all(jnp.diagonal(lower) ** 2 > floor * scale)


@runtime_checkable
class Solver(Protocol):
    """Answers questions about H; see the module."""

    def full(
        self, expansion: AbstractExpansion, factor: Factor | None, b: Float[Array, "k p"]
    ) -> Solution:
        """Rows of H^-1 b."""
        ...

    def reduced(
        self, expansion: AbstractExpansion, factor: Factor | None, block: Block
    ) -> Callable[[Float[Array, "b p"]], Solution]:
        """The map b (b p) to rows of (H - H(w))^-1 b, one group a row; factorised once."""
        ...


def apply_full(expansion: AbstractExpansion):
    """X (k p) to H x, matrix-free."""
    s = expansion.weights

    def apply(x):
        return _with_penalty(expansion, expansion.hvps(jnp.tile(s[None], (len(x), 1)), x), x)

    return apply


def apply_reduced(expansion: AbstractExpansion, v: Float[Array, "b n"]):
    """X (b p) to rows of the Hessian of J(.; v) times x, matrix-free over the whole data."""
    return lambda x: _with_penalty(expansion, expansion.hvps(v, x), x)


def _with_penalty(expansion, product, x):
    product = product + expansion.penalty[None] * x
    pinned = expansion.pinned(x)
    return product if pinned is None else product + pinned


def measured(force, length):
    """What a residual is to be small beside: b, or the solution where that is far the shorter.

    In the metric of H nothing that leaves makes a solution shorter than b. A point that comes, with
    a leverage of 1e5, does: what is left of b in other directions is then so much more of it.
    """
    return jnp.where(length > 0, jnp.minimum(force, BESIDE * length), force)


def relative(residual, b, preconditioner, length: float | Array = jnp.inf):
    """|residual| / |b| in the norm of the preconditioner; 0 for b = 0.

    Given the `length` (b) of the solutions in its metric, beside what `measured` says.
    """
    force = norm_of(b, preconditioner(b))
    return beside(norm_of(residual, preconditioner(residual)), measured(force, length))


def norm_of(b, near):
    """Lengths of rows b, given what a preconditioner makes of them.

    One that rounding has made negative is no length of 0.
    """
    return jnp.sqrt(jnp.abs(jnp.sum(b * near, axis=1)))


def beside(above, below):
    """A length as a share of another; itself where that is 0."""
    return above / jnp.where(below == 0, 1.0, below)


def left_over(error, b, factor: Factor, x):
    """`relative` in the metric of H: of the error that the solutions x (b p) leave of b."""
    return relative(error, b, factor.solve, factor.length(x))


def thin(dtype) -> float:
    """A share of its curvature so small that rounding of what leaves shows in a solution.

    In a direction that has kept 1e-10 of what H has there, an error of eps in b is one of 1e10 eps
    in the solution, and no residual tells: b is the sum of what leaves, and nearly cancels.
    """
    eps = float(jnp.finfo(dtype).eps)
    return eps / max(SHOWN, 1e4 * eps)


def thinned(status, share: Float[Array, "b"]):
    """Statuses (b), `inaccurate` where so little curvature is left (`thin`) that rounding shows."""
    bad = (share < thin(share.dtype)) & (status == Status.converged)
    return jnp.where(bad, Status.inaccurate, status)


def turned(factor: Inner, x: Float[Array, "b p"]) -> Float[Array, "b p"]:
    """H x for solutions x of A x = b scaled to length 1: another step of inverse iteration.

    The solution y of A y = H x is as long (`share_of`) as one over the share that A has kept.
    """
    length = factor.length(x)
    return factor.multiply(x / jnp.where(length > 0, length, 1.0)[:, None])


def share_of(factor: Inner, y: Float[Array, "b p"]) -> Float[Array, "b"]:
    """The least share of its curvature in H that a direction has kept, from solutions of `turned`.

    As far as two steps of inverse iteration tell; 1 where there is nothing that moves.
    """
    length = factor.length(y)
    share = jnp.where(length == 0, 1.0, 1 / jnp.where(length == 0, 1.0, length))
    return jnp.where(jnp.isfinite(share), share, 0.0)


def judge(value, residual, rtol, status) -> Solution:
    """A Solution that is `inaccurate` where the true residual exceeds rtol."""
    status = jnp.broadcast_to(jnp.asarray(status, jnp.int8), residual.shape)
    bad = (status == Status.converged) & ~(residual <= rtol)
    status = jnp.where(bad, Status.inaccurate, status).astype(jnp.int8)
    finite = jnp.all(jnp.isfinite(value), axis=1)
    status = jnp.where(finite, status, Status.nonfinite).astype(jnp.int8)
    value = jnp.where(finite[:, None], value, 0.0)
    residual = jnp.where(finite, residual, jnp.inf)
    return Solution(value, residual, jnp.zeros(residual.shape, jnp.int32), status)


def judged_again(
    found: Solution,
    error: Float[Array, "b p"],
    b: Float[Array, "b p"],
    factor: Factor,
    rtol: float,
    share: Float[Array, "b"],
) -> Solution:
    """Solutions whose residual was found in another metric, judged by `left_over` as well.

    And by the least `share` of its curvature in H that a direction has kept.
    """
    seen = left_over(error, b, factor, found.value)
    residual = jnp.where(jnp.isnan(seen), found.residual, jnp.maximum(found.residual, seen))
    status = thinned(found.status, share)
    again = judge(found.value, residual, reachable(rtol, b.dtype), status)
    return dataclasses.replace(again, steps=found.steps)


def corrected(solve: Callable, apply: Callable, factor: Factor, rtol: float) -> Callable:
    """A solver's map once refined, by residuals that come from the data and not from its factors.

    Args:
        solve: b (b p) to a `Solution` of A x = b.
        apply: x (b p) to A x.
        factor: in whose norm residuals are.
        rtol: residual above which a solution is called `inaccurate`.
    """

    def again(b):
        first = solve(b)
        x = first.value + solve(b - apply(first.value)).value
        residual = left_over(b - apply(x), b, factor, x)
        return judge(x, residual, reachable(rtol, b.dtype), first.status)

    return again


def reachable(rtol, dtype):
    """What can be asked of a residual in this precision."""
    return max(rtol, 128 * float(jnp.finfo(dtype).eps))
