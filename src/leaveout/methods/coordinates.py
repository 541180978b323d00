"""Coordinates in which retraining is easy: theta_hat at the origin, the Hessian near the identity.

Each knows the objective of what stays, its gradient, and the way back to theta; all for a batch of
b lanes. `Whitened` serves linear models of one output, `Plain` any objective, a penalty of its own
for each lane, and other points than theta_hat (`renewed`).
"""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from leaveout.fitting.fitted import Fit
from leaveout.groups import Groups
from leaveout.methods.blocks import STAYS, Blocks, added, cached_blocks
from leaveout.methods.hold import STEADY, Bend, Grip, grip_of
from leaveout.objectives.abstract import AbstractExpansion, weigh
from leaveout.objectives.linear import as_linear
from leaveout.runtime.batches import cut_out
from leaveout.runtime.remembered import remembered
from leaveout.runtime.sharding import devices, is_traced, on_host, to_host
from leaveout.solvers import Factor, OutputFactor, full_matrix, lifted, scale_of, seen_through

__all__ = [
    "Coordinates",
    "Plain",
    "Turned",
    "Whitened",
    "all_or_nothing",
    "around",
    "renewed",
]


def _second_derivative(loss):
    return jax.grad(jax.grad(loss))


class Whitened(eqx.Module):
    """A linear model of one output, in coordinates u that make H(1) the identity.

    With eta = rows u the change in scores, the gradient of J(.; v) with respect to u is

        u + rest - rows' (s phi''(m) eta + s phi'(m) - v phi'(m + eta)),

    m the scores at theta_hat: neither theta nor the penalty appears.

    Attributes:
        fit: whose factor is `factor`.
        blocks: the examples.
        rest: (p) what is left of the gradient at theta_hat.
        grip: of the penalty.
    """

    fit: Fit
    factor: Factor
    blocks: Blocks
    rest: Float[Array, "p"]
    grip: Grip | None

    def theta(self, u, l2):
        """Coordinates (b p) to parameters (b p)."""
        return self.fit.flat[None] + self.factor.unwhiten(u)

    def push(self, theta, l2):
        """Parameters (b p) to coordinates."""
        return (theta - self.fit.flat[None]) @ self.factor.lower

    def lay(self, v):
        """What examples get (b n), laid out in blocks (k b l)."""
        count, length = self.blocks.scores.shape
        v = jnp.pad(v, ((0, 0), (0, count * length - v.shape[1])))
        return v.reshape(-1, count, length).transpose(1, 0, 2)

    def stays(self, groups: Groups) -> UInt8[Array, "k b l"]:
        """1 for examples that stay without each group, 0 for its own, which leave whole.

        An eighth of what their weights would take, and laid out as soon as it is written.
        """
        count, length = self.blocks.scores.shape
        stays = np.ones((count, len(groups), length), STAYS)
        block, at = np.divmod(groups.indices, length)
        stays[block, groups.lanes, at] = 0
        return jnp.asarray(stays)

    def unlay(self, v):
        """The inverse of `lay`: (b n), of `stays` with weights."""
        v = self.blocks.get(v).transpose(1, 0, 2)
        return v.reshape(len(v), -1)[:, : self.fit.objective.n]

    def function(self, v, l2):
        """U (b p) to values (b), less that at theta_hat, and gradients (b p)."""
        objective = as_linear(self.fit.objective)

        def term(block, v, moved):
            scores, turned = block.scores[None] + moved, block.second[None] * moved
            slopes = weigh(v, block.at(objective, scores, jax.grad))
            pull = (turned + block.first[None] - slopes) @ block.rows
            if objective.convex:
                return pull, None
            losses = block.at(objective, scores, lambda loss: loss)
            gained = weigh(v, losses - block.losses[None])
            return pull, jnp.sum(gained - moved * (0.5 * turned + block.first[None]), axis=1)

        def function(u):
            pull, gained = self.blocks.sum(term, u, v)
            gradient = u + self.rest[None] - pull
            if gained is None:
                return None, gradient
            return 0.5 * jnp.sum(u**2, axis=1) + u @ self.rest + gained, gradient

        return function

    def curvature(self, u, v, l2) -> Bend:
        """Of what stays at each u (b)."""

        def term(block, v, moved):
            left, own = self._curvature(block, v, moved)
            less = block.second[None] - left
            gained = -jnp.sum(less * moved**2, axis=1)
            taken = jnp.maximum(less, 0.0) @ block.lengths
            fallen = jnp.sum(
                (v > 0) & (own * block.weights[None] < STEADY * block.second[None]), axis=1
            )
            held = None if self.grip is None else self.grip.pairs(block.rows, left)
            return gained, left @ block.squares, block.second @ block.squares, fallen, taken, held

        gained, left, whole, fallen, taken, held = self.blocks.sum(term, u, v)
        kept = 1 - taken if self.grip is None else jnp.maximum(1 - taken, self.grip.kept(held))
        if not as_linear(self.fit.objective).convex:  # then what stays may bend down
            kept = jnp.zeros_like(kept)
        return Bend(jnp.sum(u**2, axis=1) + gained, left, whole, kept, fallen == 0)

    def taken(self, u, v, l2):
        """The map of z (b p) to S z, with I - S the Hessian of what stays at u (b p)."""

        def less(block, v):
            left, _ = self._curvature(block, block.get(v), u @ block.rows.T)
            return block.second[None] - left

        lanes, p = u.shape
        lost = jax.vmap(less)(self.blocks, v).transpose(1, 0, 2).reshape(lanes, -1)
        return seen_through(self.blocks.rows.reshape(-1, p), lost)

    def _curvature(self, block: Blocks, v, moved):
        """(b l) the curvature of what stays of one block, scores moved by (b l); and per weight."""
        scores = block.scores[None] + moved
        own = block.at(as_linear(self.fit.objective), scores, _second_derivative)
        return weigh(v, own), own


class Plain(eqx.Module):
    """Any objective: theta = theta_hat + basis @ (scale * u).

    scale is 1 / sqrt(1 + (l2 - l2_hat) eigenvalues) in the directions `basis`, so that a lane with
    its own l2 is as well conditioned as the others. Of a linear model of many outputs, past the
    dense limit, the basis is a factor for each output. `free` are the columns of a linear model's
    design of which a parameter has no penalty, of any other model such parameters. `rest` is what
    is left of the gradient at theta_hat where that is rounding (float32), and is taken off:
    theta_hat then is as good as exact. `gauge` is what H holds the common shift of all classes by,
    where nothing else does, in units of the basis.
    """

    fit: Fit
    basis: Float[Array, "p p"] | OutputFactor | None
    eigenvalues: Float[Array, "p"] | None
    rest: Float[Array, "p"] | None
    free: tuple[int, ...] = eqx.field(static=True)
    gauge: Float[Array, "p p"] | None = None

    def _scale(self, l2):
        """(b p) lengths of the coordinates of lanes with penalties l2 (b)."""
        if self.eigenvalues is None or l2 is None:
            return None
        grown = 1 + (l2 - self.fit.objective.l2)[:, None] * self.eigenvalues[None]
        return 1 / jnp.sqrt(jnp.maximum(grown, 1e-12))

    def _turn(self, u, l2):
        """Coordinates (b p) to changes in theta."""
        scale = self._scale(l2)
        u = u if scale is None else u * scale
        if isinstance(self.basis, OutputFactor):
            return self.basis.unwhiten(u)
        return u if self.basis is None else u @ self.basis.T

    def theta(self, u, l2):
        """Coordinates (b p) to parameters (b p)."""
        return self.fit.flat[None] + self._turn(u, l2)

    def push(self, theta, l2):
        """Parameters (b p) to coordinates."""
        delta = theta - self.fit.flat[None]
        if self.basis is None:
            return delta
        if isinstance(self.basis, OutputFactor):
            return self.basis.push(delta)
        u, scale = jnp.linalg.solve(self.basis, delta.T).T, self._scale(l2)
        return u if scale is None else u / scale

    def lay(self, v):
        """What examples get (b n), as it is."""
        return v

    unlay = lay

    def _sum(self, term, v):
        """Sum of term(objective of a block without penalty, what its examples get (b l))."""
        bare = self.fit.objective.with_l2(0.0)
        count = 1 if bare.sparse else cached_blocks(bare.n)  # sparse rows are not cut
        length = -(-bare.n // count)

        def of(block):
            cut = cut_out(block, length, bare.n)
            some = eqx.tree_at(lambda o: o.examples, bare, jax.tree.map(cut, bare.examples))
            return term(some, cut(v, 1))

        return term(bare, v) if count == 1 else added(of, jnp.arange(count))

    def function(self, v, l2):
        """U (b p) to values (b), none of a convex model's, and gradients (b p)."""
        scale, objective = self._scale(l2), self.fit.objective
        weight = jnp.reshape(objective.l2 if l2 is None else l2, (-1, 1))
        penalty = weight * objective.heaviness[None]

        def function(u):
            theta = self.theta(u, l2)
            value, pull = self._sum(lambda some, v: jax.vmap(some.value_and_gradient)(theta, v), v)
            value = None if objective.convex else value + 0.5 * jnp.sum(penalty * theta**2, axis=1)
            pull = pull + penalty * theta
            if self.rest is not None:
                value = None if value is None else value - theta @ self.rest
                pull = pull - self.rest[None]
            if isinstance(self.basis, OutputFactor):
                pull = self.basis.whiten(pull)
            elif self.basis is not None:
                pull = pull @ self.basis
            return value, pull if scale is None else pull * scale

        return function

    def curvature(self, u, v, l2) -> Bend:
        """As of `Whitened`; what is kept at least is not known."""
        objective, columns = self.fit.objective, self.free

        def sums(theta, change, v):
            def term(some, v):
                along = jax.vmap(lambda *lane: some.curvature_along(*lane, columns))
                return along(theta, change, v)

            return self._sum(term, v)

        theta, change = self.theta(u, l2), self._turn(u, l2)
        own, left = sums(theta, change, v)
        weight = jnp.reshape(objective.l2 if l2 is None else l2, (-1, 1))
        own += jnp.sum(weight * objective.heaviness[None] * change**2, axis=1)
        unknown = jnp.zeros_like(own), jnp.zeros(own.shape, bool)
        if not columns:
            return Bend(own, left, left[0], *unknown)
        whole = sums(self.fit.flat[None], change[:1], objective.weights[None])[1][0]
        bare = objective.at_columns(objective.penalty, columns) == 0
        if l2 is not None:  # a penalty of its own holds a lane's parameters
            held = objective.at_columns(objective.heaviness, columns) > 0
            left = jnp.where(held[None] & (l2[:, None] > 0), jnp.inf, left)
        return Bend(own, left, jnp.where(bare, whole, 0.0), *unknown)

    def taken(self, u, v, l2):
        """As of `Whitened`; what no example holds, the common shift of all classes, is as in H."""
        objective, scale = self.fit.objective, self._scale(l2)
        weight = jnp.reshape(objective.l2 if l2 is None else l2, (-1, 1))
        penalty = weight * objective.heaviness[None]

        def slopes(theta):
            return self._sum(lambda some, v: jax.vmap(some.gradient)(theta, v), v)

        _, bending = jax.linearize(slopes, self.theta(u, l2))

        def apply(z):
            change = self._turn(z, l2)
            bent = (bending(change) + penalty * change) @ self.basis
            if self.gauge is not None:
                bent = bent + (z if scale is None else z * scale) @ self.gauge
            return z - (bent if scale is None else bent * scale)

        return apply


class Turned(eqx.Module):
    """Coordinates z of its own for every lane: u = turn z in those that all share.

    turn' H(v) turn is the identity where the Hessian of what stays made it (`bricks`); the length
    of a gradient is then measured by what stays, not by all the data.
    """

    inner: Whitened | Plain
    turn: Float[Array, "b p p"]

    @property
    def fit(self) -> Fit:
        """Whose objective it is."""
        return self.inner.fit

    def _out(self, z):
        """Z (b p) to the coordinates that all share."""
        return jnp.einsum("bij,bj->bi", self.turn, z)

    def theta(self, z, l2):
        """Coordinates (b p) to parameters (b p)."""
        return self.inner.theta(self._out(z), l2)

    def push(self, theta, l2):
        """Parameters (b p) to coordinates."""
        u = self.inner.push(theta, l2)
        return jax.scipy.linalg.solve_triangular(self.turn, u[..., None])[..., 0]

    def function(self, v, l2):
        """Z (b p) to values (b), none of a convex model's, and gradients (b p)."""
        inner = self.inner.function(v, l2)

        def function(z):
            value, gradient = inner(self._out(z))
            return value, jnp.einsum("bij,bi->bj", self.turn, gradient)

        return function

    def curvature(self, z, v, l2) -> Bend:
        """As of the coordinates that all share; shares are of what a group leaves at theta_hat."""
        bend = self.inner.curvature(self._out(z), v, l2)
        return dataclasses.replace(bend, kept=jnp.where(bend.steady, STEADY, 0.0))

    def taken(self, z, v, l2):
        """As of the coordinates that all share, in these."""
        inner = self.inner.taken(self._out(z), v, l2)

        def apply(z):
            out = self._out(z)
            return z - jnp.einsum("bij,bi->bj", self.turn, out - inner(out))

        return apply


Coordinates = Whitened | Plain


def all_or_nothing(problem: Coordinates, groups: Groups) -> Whitened | None:
    """The coordinates, if lanes may hold who stays: in blocks, and no example leaves in part."""
    here = on_host() and devices() == 1 and groups.partial is None
    return problem if here and isinstance(problem, Whitened) else None


def around(fit: Fit, own_l2: bool) -> Coordinates:
    """Coordinates around an optimum; `own_l2` if every lane has its own penalty."""
    factor = fit.metric
    free = fit.objective.free_columns()
    if factor is None:
        return Plain(fit, _blocks(fit), None, _rest(fit), free)
    if factor.rows is None or own_l2:
        return _whole_basis(fit, factor, free, own_l2)
    return _in_blocks(fit, factor, free, cached_blocks(fit.objective.n))


def _blocks(fit: Fit) -> OutputFactor | None:
    """The factor of each output, where it is that of this objective: else it would hide a shift."""
    if fit.blocks is None or is_traced(fit) or not fit.blocks.serves(fit.objective):
        return None
    return fit.blocks


def _in_blocks(fit: Fit, factor: Factor, free: tuple[int, ...], count: int) -> Whitened:
    grip, lower, penalty = None, factor.lower, fit.objective.penalty
    if not is_traced((lower, penalty)):
        grip = grip_of(np.asarray(to_host(lower)), np.asarray(to_host(penalty)), free)
    return Whitened(fit, Factor(lower), *_cut_up(fit, factor, free, count), grip)


@remembered
@eqx.filter_jit
def _cut_up(
    fit: Fit, factor: Factor, free: tuple[int, ...], count: int
) -> tuple[Blocks, Float[Array, "p"]]:
    objective = as_linear(fit.objective)
    assert factor.rows is not None  # see `around`
    chosen = np.array(free, int)
    bare = objective.penalty[chosen] == 0
    expansion = objective.at(fit.flat)
    length = -(-objective.n // count)

    def cut(values):
        padding = [(0, count * length - objective.n)] + [(0, 0)] * (values.ndim - 1)
        return jnp.pad(values, padding).reshape(count, length, *values.shape[1:])

    blocks = Blocks(
        rows=cut(factor.rows),
        y=jax.tree.map(cut, objective.y),
        weights=cut(objective.weights),
        scores=cut(objective.scores(fit.flat)[:, 0]),
        losses=cut(objective.losses(fit.flat)),
        first=cut(weigh(expansion.weights, expansion.first)[:, 0]),
        second=cut(expansion.curvature[:, 0, 0]),
        squares=cut(objective.design[:, chosen] ** 2 * bare[None]),
        lengths=cut(jnp.sum(factor.rows**2, axis=1)),
    )
    rest = jnp.zeros_like(fit.flat)
    if _rest(fit) is None:
        rest = factor.whiten(objective.gradient(fit.flat)[None])[0]
    return blocks, rest


def _rest(fit: Fit) -> Float[Array, "p"] | None:
    """What is left of the gradient at theta_hat, if it is nothing but rounding."""
    return None if fit.flat.dtype == jnp.float64 else fit.objective.gradient(fit.flat)


def _basis(factor: Factor) -> Float[Array, "p p"]:
    """lower^-T: the changes in theta of unit coordinates, as columns."""
    return factor.unwhiten(jnp.eye(len(factor.lower), dtype=factor.lower.dtype)).T


@eqx.filter_jit
def _whole_basis(fit: Fit, factor: Factor, free: tuple[int, ...], own_l2: bool) -> Plain:
    basis = _basis(factor)
    if not own_l2:
        return Plain(fit, basis, None, _rest(fit), free, _gauge(fit.expansion(), basis))
    # in these coordinates a unit of l2 is basis' M basis, M what it falls on: diagonalise it once
    mask = fit.objective.heaviness
    eigenvalues, turn = jnp.linalg.eigh(basis.T @ (mask[:, None] * basis))
    basis = basis @ turn
    gauge = _gauge(fit.expansion(), basis)
    return Plain(fit, basis, jnp.maximum(eigenvalues, 0.0), _rest(fit), free, gauge)


def _gauge(expansion: AbstractExpansion, basis: Float[Array, "p p"]) -> Float[Array, "p p"] | None:
    gauge = expansion.gauge()
    return None if gauge is None else basis.T @ gauge @ basis


@eqx.filter_jit
def renewed(fit: Fit, free: tuple[int, ...], v, l2, theta) -> Plain:
    """Coordinates around another theta, whitened by the Hessian of J(.; v) there."""
    objective = fit.objective
    expansion = (objective if l2 is None else objective.with_l2(l2)).at(theta)
    matrix = full_matrix(expansion, v)
    basis = _basis(lifted(matrix, scale_of(matrix))[0])
    there = eqx.tree_at(lambda f: f.flat, fit, theta)
    return Plain(there, basis, None, _rest(fit), free, _gauge(expansion, basis))
