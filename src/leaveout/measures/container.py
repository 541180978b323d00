"""What a measure is, and a user's function as one."""

import abc
import inspect
import types
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeAlias, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from leaveout.objectives.abstract import AbstractObjective
from leaveout.runtime.sharding import in_jax

__all__ = [
    "Ball",
    "Measure",
    "Measures",
    "around",
    "as_measures",
    "convex",
    "sound",
]


@runtime_checkable
class Ball(Protocol):
    """A set of theta, |theta - centre| <= radius in a metric M: see `certify.balls`."""

    @property
    def centre(self) -> Float[Array, "p"]:
        """Its middle."""
        ...

    @property
    def radius(self) -> Float[Array, ""]:
        """Its radius."""
        ...

    @property
    def points(self) -> Float[Array, "..."]:
        """(n) or () how far apart scores of a training example can get, at most, in radii."""
        ...

    def reach(self, vectors: Float[Array, "k p"]) -> Float[Array, "k"]:
        """How far vector . theta can be from vector . centre, at most."""
        ...


class Measure(eqx.Module):
    """A quantity of interest with m columns.

    Attributes:
        name: what the columns have in common, for tables and axes.
        needs_w: whether the value depends on what left (self-loss does).
        own: whether its gradient at w is g(w), the group's own, so that its influence is the square
            of a length.
        smooth: whether it has a derivative worth the name. One that has not (accuracy) is always
            evaluated at the changed theta, never taken to first order.

    Example:
        >>> measure.columns(objective), measure.smooth
        (('mean of loss',), True)
    """

    name: eqx.AbstractVar[str]
    needs_w: eqx.AbstractVar[bool]
    own: ClassVar[bool] = False
    smooth: ClassVar[bool] = True

    @abc.abstractmethod
    def values(
        self, objective: AbstractObjective, theta: Float[Array, "p"], w: Float[Array, "n"] | None
    ) -> Float[Array, "m"]:
        """The columns at theta, flat; w is what left, given if `needs_w`."""

    @abc.abstractmethod
    def columns(self, objective: AbstractObjective) -> tuple[str, ...]:
        """Names of the columns."""

    @property
    def better(self) -> int:
        """1 where more of it is better, -1 where less is, 0 where that is not for us to say."""
        return 0

    @property
    def ratio(self) -> bool:
        """Whether it is a ratio, such as odds, whose errors are symmetric in its logarithm."""
        return False

    def bind(self, objective: AbstractObjective) -> "Measure":
        """The measure with its own data coded for this objective; done once, before `values`."""
        return self

    def affine(self, objective: AbstractObjective) -> bool:
        """Whether the columns are known to be linear in theta, up to a constant."""
        return False

    def gradients(
        self, objective: AbstractObjective, theta: Float[Array, "p"]
    ) -> Float[Array, "m p"]:
        """Gradients of the columns with respect to theta; only if not `needs_w`."""
        return jax.jacrev(lambda t: self.values(objective, t, None))(theta)

    def enclose(
        self, objective: AbstractObjective, ball: Ball, w: Float[Array, "n"] | None
    ) -> tuple[Float[Array, "m"], Float[Array, "m"]]:
        """Bounds of the columns over a ball of theta: (-inf, inf) unless a measure knows better."""
        count = len(self.columns(objective))
        return jnp.full(count, -jnp.inf), jnp.full(count, jnp.inf)

    def steepest(self, objective: AbstractObjective) -> Float[Array, "m"]:
        """The longest gradient a column can have at any theta; infinite unless known.

        If `needs_w`, (n) instead: what each example adds for every unit of it that leaves.
        """
        return jnp.full(len(self.columns(objective)), jnp.inf)


def sound(lower, upper):
    """Bounds as they are, or infinite where they overflowed on the way."""
    return (
        jnp.where(jnp.isnan(lower) | (lower == jnp.inf), -jnp.inf, lower),
        jnp.where(jnp.isnan(upper) | (upper == -jnp.inf), jnp.inf, upper),
    )


def around(values, half):
    """Values, give or take."""
    return sound(values - half, values + half)


def convex(values, half, rise):
    """Bounds of a convex function from its tangent at the centre and a bound on what bends away."""
    return sound(values - half, values + half + rise)


#: what verbs take: a measure, a function f(theta) or f(theta, w), or several of them; what is none
#: of these reaches `as_measures`, which says so in a sentence
if TYPE_CHECKING:
    Measures: TypeAlias = Measure | Callable | Sequence[Measure | Callable]
else:
    Measures = object


class _Function(Measure):
    """A user's f(theta) or f(theta, w), theta as its PyTree."""

    function: Callable = eqx.field(static=True)
    name: str = eqx.field(static=True)
    needs_w: bool = eqx.field(static=True)

    def values(self, objective, theta, w):
        tree = objective.tree(theta)
        given = (tree, w) if self.needs_w else (tree,)
        with in_jax(f"the measure {self.name!r}"):
            out = self.function(*given)
        return _vector(out, self.name).astype(theta.dtype)

    def columns(self, objective):
        w = objective.weights if self.needs_w else None
        count = jax.eval_shape(lambda t: self.values(objective, t, w), objective.initial()).shape[0]
        return (self.name,) if count == 1 else tuple(f"{self.name}[{i}]" for i in range(count))


def _vector(out, name: str) -> Array:
    """What a user's function gave as a vector.

    Raises:
        ValueError: if it is no real number, and no vector of some.
    """
    refused = f"expected the measure {name!r} to return a number or a vector of them, got "
    try:
        array = jnp.asarray(out)
    except (TypeError, ValueError):
        raise ValueError(refused + type(out).__name__) from None
    if array.ndim > 1 or array.size == 0 or jnp.iscomplexobj(array):
        raise ValueError(f"{refused}{array.dtype} of shape {array.shape}")
    return array.reshape(-1)


def _parameters(function: Callable) -> list[inspect.Parameter]:
    """Parameters of a function, as far as Python knows them."""
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return []


def _function(function: Callable) -> Measure:
    parameters = [
        parameter
        for parameter in _parameters(function)
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    if len(parameters) not in (1, 2):
        raise ValueError(
            f"expected a measure f(theta) or f(theta, w), got one of {len(parameters)} arguments; "
            "see lo.measures"
        )
    name = function.__name__ if isinstance(function, types.FunctionType) else "measure"
    return _Function(function=function, name=name, needs_w=len(parameters) == 2)


def as_measures(measures: Measures) -> tuple[Measure, ...]:
    """One measure or several, functions among them, as a tuple of measures."""
    several = measures if isinstance(measures, Sequence) else [measures]
    if not several:
        raise ValueError("expected at least one measure, for example lo.measures.loss((x, y))")
    return tuple(_as_measure(each) for each in several)


def _as_measure(measure: Measure | Callable) -> Measure:
    if isinstance(measure, Measure):
        return measure
    if not callable(measure):
        raise ValueError(
            f"expected a measure or a function of theta, got {type(measure).__name__}; "
            "see lo.measures"
        )
    home = getattr(measure, "__module__", None) or ""
    if isinstance(measure, types.FunctionType) and home.startswith("leaveout.measures."):
        made = f"lo.measures.{measure.__name__}"
        raise ValueError(f"expected a measure, got {made}, which makes one: call it, {made}(...)")
    return _function(measure)
