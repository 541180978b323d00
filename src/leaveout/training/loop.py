"""The engine: one compiled scan over the steps of a training, and its derivatives in v.

v (n) is what each example gets. A row that gets nothing is not heard: in its place in a batch
stands an example that is, at weight 0, so that a NaN its loss would give reaches no gradient.
"""

import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from leaveout.objectives.networks import Network
from leaveout.runtime.sharding import constrain, replicate
from leaveout.training.recipe import Recipe

__all__ = ["Course", "block", "forward", "reverse", "trained"]


class Course(NamedTuple):
    """One training but for what leaves: where it starts, and its batches.

    Attributes:
        objective: the network and its data.
        recipe: how it is trained.
        start: (p) theta at the beginning.
        batches: (t b) the examples of every step.
    """

    objective: Network
    recipe: Recipe
    start: Float[Array, "p"]
    batches: Int[Array, "t b"]


class _State(NamedTuple):
    """What goes from step to step: the trained leaves, and the optimiser's own."""

    theta: PyTree
    optimiser: PyTree


def trained(
    course: Course,
    v: Float[Array, "n"],
    heard: Bool[Array, "n"],
    since: int = 0,
    checkpointed: bool = False,
) -> tuple[Float[Array, "p"], Float[Array, "t"]]:
    """Theta after the last step, and the value whose gradient each step followed.

    Args:
        course: the training.
        v: (n) what each example gets, from step `since` on; before it its base weight.
        heard: (n) which examples are looked at.
        since: the step at which v begins.
        checkpointed: keep only every ceil(sqrt(t))-th state for reverse mode, and compute what is
            between again.
    """
    objective = course.objective
    theta = objective.parameters(course.start)
    state = _State(theta, course.recipe.optimiser.init(theta))
    early, late = course.batches[:since], course.batches[since:]
    found = []
    if since:
        everybody = jnp.ones_like(heard)
        state, losses = _scanned(_step(course, objective.weights, everybody), state, early, False)
        found.append(losses)
    state, losses = _scanned(_step(course, v, heard), state, late, checkpointed)
    return objective.flat(state.theta), jnp.concatenate([*found, losses])


def _scanned(step, state: _State, batches: Int[Array, "t b"], checkpointed: bool):
    if not checkpointed:
        return jax.lax.scan(step, state, batches)
    remembered = jax.checkpoint(step, prevent_cse=False)

    def segment(state, part):
        return jax.lax.scan(remembered, state, part)

    segment = jax.checkpoint(segment, prevent_cse=False)
    length = _segment(len(batches))
    whole = len(batches) // length
    head = batches[: whole * length].reshape(whole, length, -1)
    state, losses = jax.lax.scan(segment, state, head)
    losses, rest = losses.reshape(-1), batches[whole * length :]
    if not len(rest):  # a second loop is compiled only where it is needed
        return state, losses
    state, more = segment(state, rest)
    return state, jnp.concatenate([losses, more])


def _segment(steps: int) -> int:
    """Steps of a segment: about the root of all, and a divisor of them where one is near."""
    root = math.isqrt(max(steps - 1, 0)) + 1
    near = range(root, root + root // 2 + 1)
    return next((length for length in near if steps % length == 0), root)


def _step(course: Course, v: Float[Array, "n"], heard: Bool[Array, "n"]):
    """One step of the optimiser on one batch."""
    import optax

    objective, recipe = course.objective, course.recipe
    donor = jnp.argmax(heard)
    falls = objective.parameters(objective.penalty)

    def value(theta, batch):
        shares = recipe.normaliser.shares(v, objective.weights, batch)
        rows = jnp.where(heard[batch], batch, donor)
        model = eqx.combine(theta, objective.frozen)
        x, y = jax.tree.map(lambda leaf: leaf[rows], (objective.x, objective.y))
        losses = jax.vmap(lambda x, y: objective.point_loss(objective.of(model, x), y))(x, y)
        squares = jax.tree.map(lambda f, t: jnp.sum(f * t**2), falls, theta)
        data = jnp.sum(v[batch] * losses) / shares.data
        return data + 0.5 * sum(jax.tree.leaves(squares)) / shares.penalty

    def step(state, batch):
        loss, gradient = jax.value_and_grad(value)(state.theta, batch)
        moves, rest = recipe.optimiser.update(gradient, state.optimiser, state.theta)
        return _State(optax.apply_updates(state.theta, moves), rest), loss

    return step


@eqx.filter_jit
def block(
    course: Course, v: Float[Array, "b n"]
) -> tuple[Float[Array, "b p"], Float[Array, "b t"]]:
    """`trained` for the lanes of a block: the one program that trains and retrains."""

    def one(v):
        return trained(course, v, v != 0)

    if len(v) == 1:
        return jax.tree.map(lambda leaf: leaf[None], one(v[0]))
    return replicate(jax.vmap(one)(constrain(v, "groups")))


@eqx.filter_jit
def reverse(
    course: Course, v: Float[Array, "n"], pulls: Float[Array, "m p"], since: int
) -> tuple[Float[Array, "m n"], Float[Array, "p"]]:
    """Pulls . d theta / d v, by reverse mode, several pulls together; and theta itself."""
    heard = jnp.ones(v.shape, bool)
    theta, back = jax.vjp(lambda v: trained(course, v, heard, since, True)[0], v)
    return jax.vmap(lambda pull: back(pull)[0])(pulls), theta


@eqx.filter_jit
def forward(
    course: Course, v: Float[Array, "n"], moves: Float[Array, "b n"], since: int
) -> Float[Array, "b p"]:
    """D theta / d v . move for each move, by forward mode, one after the other."""
    heard = jnp.ones(v.shape, bool)

    def one(move):
        return jax.jvp(lambda v: trained(course, v, heard, since)[0], (v,), (move,))[1]

    return jax.lax.map(one, moves)
