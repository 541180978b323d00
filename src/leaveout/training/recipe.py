"""How a network is trained, as a value: optimiser, steps, batches, and what removal means."""

import dataclasses
import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PyTree

from leaveout.runtime.compilation import compiled
from leaveout.runtime.options import check_integer
from leaveout.runtime.text import warn

__all__ = [
    "Fixed",
    "Left",
    "LeftKeepingPenalty",
    "Normaliser",
    "Optimiser",
    "Order",
    "Recipe",
    "Shares",
    "singular_at_zero",
]


@runtime_checkable
class Optimiser(Protocol):
    """What `optax` calls a gradient transformation: two pure functions."""

    @property
    def init(self) -> Callable:
        """Of parameters, to a state."""
        ...

    @property
    def update(self) -> Callable:
        """Of gradients, state and parameters, to updates and the next state."""
        ...


class Order(enum.Enum):
    """Which examples make a batch. Batches are never drawn anew when a group leaves.

    Attributes:
        shuffled: a new permutation each epoch, cut into whole batches; the n mod batch examples
            that are left over sit this epoch out.
        in_turn: the examples as they lie, beginning again after the last.
        drawn: each batch drawn without replacement, whatever came before.

    Example:
        >>> [order.name for order in lo.Order]
        ['shuffled', 'in_turn', 'drawn']
    """

    shuffled = "shuffled"
    in_turn = "in turn"
    drawn = "drawn"


class Shares(NamedTuple):
    """What the steps of one batch are made of.

    Attributes:
        data: () what the sum of v_i loss_i of the batch is divided by.
        penalty: () what the penalty l2/2 |theta|^2 is divided by.
    """

    data: Float[Array, ""]
    penalty: Float[Array, ""]


@dataclass(frozen=True)
class Normaliser:
    """What a batch is divided by once a group has left: which question is asked.

    A step follows the gradient of sum_b v_i loss_i / data + l2/2 |theta|^2 / penalty, over the B
    examples b of its batch; v_i = s_i (1 - w_i). Where nothing leaves and s = 1 all are the same.
    """

    def shares(self, v: Float[Array, "n"], s: Float[Array, "n"], batch: Int[Array, "b"]) -> Shares:
        """The divisors of a batch, when of base weights s only v is left."""
        raise NotImplementedError

    @property
    def meaning(self) -> str:
        """What removal means, in a sentence."""
        raise NotImplementedError


@dataclass(frozen=True)
class Fixed(Normaliser):
    """Divide by the size of the batch: data = B, penalty = n.

    The stochastic form of J(.; v) / n: what is left pulls as it did, and takes shorter steps.

    Example:
        >>> lo.Fixed().meaning
        'removal: batches are divided by their size, the penalty by n'
    """

    def shares(self, v, s, batch):
        """B and n."""
        return Shares(jnp.asarray(batch.size, v.dtype), jnp.asarray(v.size, v.dtype))

    @property
    def meaning(self) -> str:
        """What removal means, in a sentence."""
        return "removal: batches are divided by their size, the penalty by n"


@dataclass(frozen=True)
class LeftKeepingPenalty(Normaliser):
    """Divide by what is left: data = sum_b v_i, penalty = sum_i v_i.

    The stochastic form of J(.; v) / sum v: l2 weighs as in a sum over what is left.

    Example:
        >>> lo.LeftKeepingPenalty().meaning
        'removal: batches and the penalty are divided by what is left of them'
    """

    def shares(self, v, s, batch):
        """What is left of the batch, and of all."""
        return Shares(_or_one(jnp.sum(v[batch])), _or_one(jnp.sum(v)))

    @property
    def meaning(self) -> str:
        """What removal means, in a sentence."""
        return "removal: batches and the penalty are divided by what is left of them"


@dataclass(frozen=True)
class Left(Normaliser):
    """Divide by what is left, the penalty by what there was: data = sum_b v_i, penalty = sum_i s_i.

    A weight decay that stays what it is: nearest to training on batches made of what is left.

    Example:
        >>> lo.Left().meaning
        'removal: batches are divided by what is left of them, the penalty as before'
    """

    def shares(self, v, s, batch):
        """What is left of the batch, and the base weight of all."""
        return Shares(_or_one(jnp.sum(v[batch])), jnp.sum(s))

    @property
    def meaning(self) -> str:
        """What removal means, in a sentence."""
        return "removal: batches are divided by what is left of them, the penalty as before"


def _or_one(total: Float[Array, ""]) -> Float[Array, ""]:
    """A sum to divide by; of an empty batch 1, whose data then has no gradient."""
    return jnp.where(total > 0, total, 1.0)


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: a value, and with a key all that a replay needs.

    Attributes:
        optimiser: an `optax` gradient transformation with its schedule, such as
            `optax.sgd(optax.cosine_decay_schedule(0.1, 660), momentum=0.9)`. Weight decay inside it
            is yours, and stays as it is when points leave.
        steps: how many.
        batch: examples a step, at most n.
        normaliser: what removal means: `lo.LeftKeepingPenalty()`, `lo.Fixed()` or `lo.Left()`.
        order: how batches are made.

    Raises:
        ValueError: for an optimiser that asks for more than gradients (a line search, the loss).

    Example:
        >>> import optax
        >>> recipe = lo.Recipe(optax.sgd(0.1, momentum=0.9), steps=20, batch=8)
        >>> recipe.steps, recipe.order.name
        (20, 'shuffled')
    """

    optimiser: Optimiser
    steps: int
    batch: int
    normaliser: Normaliser = LeftKeepingPenalty()
    order: Order = Order.shuffled

    def __post_init__(self):
        check_integer(self.steps, "steps")
        check_integer(self.batch, "batch")
        if not isinstance(self.optimiser, Optimiser):
            raise ValueError(
                "expected an optimiser of optax, such as optax.sgd(0.1, momentum=0.9), got "
                f"{type(self.optimiser).__name__}"
            )
        if not isinstance(self.normaliser, Normaliser):
            raise ValueError(
                "expected normaliser as lo.LeftKeepingPenalty(), lo.Fixed() or lo.Left(), got "
                f"{self.normaliser!r}"
            )
        if not isinstance(self.order, Order):
            raise ValueError(f"expected order as lo.Order.shuffled, ..., got {self.order!r}")
        _refuse_more_than_gradients(self.optimiser)

    def plain(self) -> dict[str, object]:
        """All but the optimiser, as plain values."""
        return {
            "steps": int(self.steps), "batch": int(self.batch),
            "normaliser": repr(self.normaliser), "order": self.order.name,
        }  # fmt: skip

    def batches(self, key: Key[Array, ""], n: int) -> Int[Array, "t b"]:
        """The examples of every step.

        Raises:
            ValueError: for a batch larger than n.
        """
        return _batches(key, n, int(self.steps), int(self.batch), self.order)

    def damping(self) -> float:
        """A damping of curvatures that follows from the recipe, in units of a mean loss.

        One over how far the steps go along a constant gradient of 1: 1 / (rate * steps) for plain
        SGD. Directions that curve less than this have not been followed to their end. Steps that do
        not follow the size of the gradient, as Adam's, go nowhere that this rule knows of: it warns
        (on digits a hundredth was right, see `docs/networks.md`).
        """
        of = (_way(self.optimiser, int(self.steps), g) for g in jnp.array([1.0, 0.1]))
        way, tenth = (abs(float(each)) for each in of)
        if not 0.05 * way <= tenth <= 0.2 * way:
            warn(
                "the steps of this optimiser do not follow the size of gradients (Adam, clipping), "
                "so that the damping that its recipe suggests may be far off: give one, as in "
                "lo.Influence(curvature=lo.curvature.GaussNewton(damping=1e-2)), and look at "
                "several by lo.damping_sweep"
            )
        return 1 / way if way > 0 else 0.0

    def but(self, **changes) -> "Recipe":
        """The same recipe with other settings."""
        return dataclasses.replace(self, **changes)


def _refuse_more_than_gradients(optimiser: Optimiser) -> None:
    """Refuse an optimiser whose update wants to know the loss."""

    def step(theta):
        return optimiser.update(theta, optimiser.init(theta), theta)

    try:
        jax.eval_shape(step, jnp.zeros(2))
    except TypeError as error:
        raise ValueError(
            f"this optimiser asks for more than gradients ({error}): line searches and steps that "
            "look at the loss cannot be replayed without a group; use optax.sgd, optax.adam, ..."
        ) from error
    except (ValueError, AttributeError, KeyError):  # it wants a tree of its own: see `lo.train`
        return


@compiled
def _way(optimiser: Optimiser, steps: int, gradient: Float[Array, ""]) -> Float[Array, ""]:
    """Where a parameter that begins at 0 ends under a constant gradient."""
    theta = jnp.zeros(1)

    def step(carry, _):
        theta, state = carry
        moves, state = optimiser.update(jnp.full_like(theta, gradient), state, theta)
        return (theta + moves, state), None

    return jax.lax.scan(step, (theta, optimiser.init(theta)), length=steps)[0][0][0]


@compiled
def _batches(key, n: int, steps: int, batch: int, order: Order) -> Int[Array, "t b"]:
    if batch > n:
        raise ValueError(f"expected a batch of at most n = {n:,} examples, got {batch:,}")
    whole = n // batch
    if order is Order.in_turn:
        return jnp.arange(steps * batch, dtype=jnp.int32).reshape(steps, batch) % n
    count = steps if order is Order.drawn else -(-steps // whole)
    used = batch if order is Order.drawn else whole * batch

    def one(i):
        return jax.random.permutation(jax.random.fold_in(key, i), n)[:used].astype(jnp.int32)

    found = jax.lax.map(one, jnp.arange(count))
    return found.reshape(-1, batch)[:steps]


def singular_at_zero(optimiser: Optimiser, theta: PyTree) -> bool:
    """Whether an update has no derivative where the gradient of a parameter is 0 (Adam's root)."""

    def some(leaf):
        return (jnp.arange(leaf.size) % 2).reshape(leaf.shape).astype(leaf.dtype)

    def update(gradient):
        return optimiser.update(gradient, optimiser.init(theta), theta)[0]

    gradient, ones = jax.tree.map(some, theta), jax.tree.map(jnp.ones_like, theta)
    moved = jax.jvp(update, (gradient,), (ones,))[1]
    return not all(bool(np.isfinite(leaf).all()) for leaf in jax.tree.leaves(moved))
