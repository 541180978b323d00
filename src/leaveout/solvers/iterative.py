"""Conjugate gradients on Hessian-vector products."""

import dataclasses
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from leaveout.objectives.expansion import LinearExpansion
from leaveout.objectives.scored import ScoredExpansion
from leaveout.runtime.solution import Solution, Status
from leaveout.solvers.factor import (
    SHOWN,
    Factor,
    apply_full,
    apply_reduced,
    beside,
    judge,
    measured,
    norm_of,
    reachable,
    seen_through,
    thinned,
)

__all__ = ["CG"]


@dataclass(frozen=True)
class CG:
    """Preconditioned conjugate gradients on Hessian-vector products; no matrix is formed.

    `full` is preconditioned by the diagonal of H (linear models; else not at all), `reduced` by the
    factor of H where the fit has one: its spectrum is then within [1 - mu, 1], mu the largest share
    of the curvature that a group takes away in any direction. Of linear models of many outputs past
    the dense limit, both are by a factor for each output (`OutputFactor`). Two matrix products a
    step, for all groups together. A singular Hessian is noticed only if b does not lie in its
    range; the smallest solution (in the preconditioner's metric) is returned otherwise.

    Attributes:
        rtol: residual at which a lane is done, as a share of b; with a factor of H, or of 8 times
            the solution where that is the shorter: points that come with a large leverage.
        max_steps: steps after which a lane is given up; default 10 p.
        truncate: stopping at max_steps is what is wanted, so that a lane has converged there.

    Example:
        >>> bool((lo.newton(fit, groups, lo.solvers.CG(rtol=1e-8)).residual < 1e-8).all())
        True
    """

    rtol: float = 1e-10
    max_steps: int | None = None
    truncate: bool = False

    def full(self, expansion, factor, b):
        """Rows of H^-1 b."""
        return self.solve(apply_full(expansion), _near(expansion), b)

    def reduced(self, expansion, factor, block):
        """The map b to rows of (H - H(w))^-1 b."""
        left = block.left(expansion.weights)
        kept = None if factor is None else _least_kept(expansion, left)
        if isinstance(factor, Factor) and factor.rows is not None:
            taken = block.dense(expansion.n) * expansion.second[:, 0, 0][None]
            return self.by_rows(factor, taken, kept)
        return self.near(expansion, factor, apply_reduced(expansion, left), kept)

    def near(self, expansion, factor, apply, kept=None):
        """The map b to rows of A^-1 b, in the metric of H; `apply` is A, a map of rows."""
        precondition = _near(expansion) if factor is None else factor.solve
        return lambda b: self.solve(apply, precondition, b, metric=factor is not None, kept=kept)

    def by_rows(self, factor, taken, kept=None):
        """The map b to rows of (H - X' diag(taken) X)^-1 b, for a factor that holds X's rows.

        In coordinates u = lower' x: products with the whitened design, nothing else.

        Args:
            factor: of H, with `rows`.
            taken: (b n) curvature that each example loses.
            kept: (b) as `solve` takes it.
        """
        lose = seen_through(factor.rows, taken)

        def solve(b) -> Solution:
            white = factor.whiten(b)
            solution = self.solve(lambda u: u - lose(u), lambda b: b, white, metric=True, kept=kept)
            return dataclasses.replace(solution, value=factor.unwhiten(solution.value))

        return solve

    def solve(self, apply, precondition, b, *, metric: bool = False, kept=None) -> Solution:
        """Rows of A^-1 b for the map `apply` of rows, A the same or another for every row.

        With `metric` the preconditioner is H^-1, or nearer to A^-1, so that lengths of b and x can
        be compared. `kept` (b) is a share of its curvature in H that some direction has kept in A,
        if one is known: a residual along it is divided by so much, and has to be smaller.
        """
        rtol = reachable(self.rtol, b.dtype)
        most = 10 * b.shape[1] if self.max_steps is None else self.max_steps
        z = precondition(b)
        size = jnp.sum(b * z, axis=1)  # squared norm of b
        force, none = jnp.sqrt(size), jnp.zeros_like(size)  # no number where rounding is all
        floor = 4 * jnp.finfo(b.dtype).eps * force  # further steps would follow rounding
        known = jnp.ones_like(size) if kept is None else kept
        aim = jnp.minimum(0.1 * rtol, SHOWN * known)

        def unfinished(carry):
            return (carry[0] < most) & jnp.any(carry[-1])

        def step(carry):
            i, x, r, z, direction, girth, along, square, energy, steps, flat, least, running = carry
            image = apply(direction)
            curvature = jnp.sum(direction * image, axis=1)
            # a direction without curvature, beside the preconditioner's: b cannot be reached
            dead = running & ~(curvature > 10 * jnp.finfo(b.dtype).eps * girth)
            go = running & ~dead
            kept = jnp.where(go & (girth > 0), curvature / jnp.where(girth > 0, girth, 1.0), 1.0)
            gone = jnp.where(go, energy / jnp.where(go, curvature, 1.0), 0.0)
            x, r = x + gone[:, None] * direction, r - gone[:, None] * image
            square += 2 * gone * along + gone**2 * girth
            z = jnp.where(go[:, None], precondition(r), z)
            new = jnp.sum(r * z, axis=1)
            turn = jnp.where(energy > 0, new / jnp.where(energy > 0, energy, 1.0), 0.0)
            direction = jnp.where(go[:, None], z + turn[:, None] * direction, direction)
            # its product with x and its squared length in the preconditioner's metric: z is
            # orthogonal to the last one, and to x
            along = jnp.where(go, turn * (along + gone * girth), along)
            girth = jnp.where(go, new + turn**2 * girth, girth)
            energy = jnp.where(go, new, energy)
            below = measured(force, _root(square)) if metric else force
            goal = jnp.maximum(aim * below, floor)
            running = go & (energy > goal**2)
            return (
                i + 1, x, r, z, direction, girth, along, square, energy, steps + go,
                flat | dead, jnp.minimum(least, kept), running,
            )  # fmt: skip

        lanes = b.shape[0]
        start = (
            0, jnp.zeros_like(b), b, z, z, size, none, none, size,
            jnp.zeros(lanes, jnp.int32), jnp.zeros(lanes, bool), known, size > 0,
        )  # fmt: skip
        found = jax.lax.while_loop(unfinished, step, start)
        _, x, *_, square, _, steps, flat, least, running = found
        missing = b - apply(x)
        below = measured(force, _root(square)) if metric else force
        residual = beside(norm_of(missing, precondition(missing)), below)
        status = jnp.where(flat, Status.singular, Status.converged)
        if self.truncate:
            rtol = jnp.inf
        else:
            status = jnp.where(running, Status.max_steps, status)
        reached = residual <= rtol
        status = jnp.where(reached & ~flat, Status.converged, status)
        if metric and not self.truncate:
            status = thinned(status, least)
        return dataclasses.replace(judge(x, residual, rtol, status), steps=steps)


def _least_kept(expansion, left):
    """(b) the least share of its curvature that a parameter keeps; None of no linear model."""
    if not isinstance(expansion, LinearExpansion):
        return None
    fixed = _fixed(expansion)
    whole = expansion.diagonal(expansion.weights) + fixed
    each = jax.vmap(expansion.diagonal)(left) + fixed[None]
    share = jnp.min(each / jnp.where(whole > 0, whole, 1.0)[None], axis=1)
    return jnp.clip(share, 0.0, 1.0)


def _fixed(expansion):
    """(p) what of the diagonal of H no example makes up: penalty and gauge."""
    gauge = expansion.gauge()
    return expansion.penalty if gauge is None else expansion.penalty + jnp.diagonal(gauge)


def _root(square):
    """Of what rounding may have left below 0."""
    return jnp.sqrt(jnp.maximum(square, 0.0))


def _near(expansion):
    """What is near H^-1: the metric that an expansion holds, the inverse diagonal, the identity."""
    if isinstance(expansion, ScoredExpansion) and expansion.metric is not None:
        return expansion.metric.solve
    if not isinstance(expansion, LinearExpansion):
        return lambda b: b
    diagonal = expansion.diagonal(expansion.weights) + _fixed(expansion)
    return lambda b: b / jnp.where(diagonal > 0, diagonal, 1.0)[None]
