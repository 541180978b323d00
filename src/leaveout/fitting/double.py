"""Functions of a fit that compute in float64 what they are asked of one in float32."""

import functools
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

import jax
import jax.numpy as jnp

from leaveout.fitting.fitted import Fit
from leaveout.fitting.gates import inside
from leaveout.fitting.optimum import fitted_wide
from leaveout.fitting.precision import is_doubled, narrowed, widened
from leaveout.runtime.memory import limited
from leaveout.runtime.remembered import remembered
from leaveout.runtime.sharding import is_traced

__all__ = ["as_doubled", "double_of", "in_double"]

_NEAR = 1e-3  # sandwich lengths from the optimum at which a theta of float32 stands for it
_P = ParamSpec("_P")
_R = TypeVar("_R")


def in_double(function: Callable[Concatenate[Any, _P], _R]) -> Callable[Concatenate[Any, _P], _R]:
    """A function of a fit that computes in float64, as `as_doubled` says.

    An array of JAX's comes back in float32, as it does elsewhere; numbers on the host as they are.
    """

    @functools.wraps(function)
    def call(fit: Any, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        if is_traced((args, kwargs)):
            return function(fit, *args, **kwargs)
        memory: Any = kwargs.get("memory")
        return as_doubled(lambda fit: function(fit, *args, **kwargs), fit, memory)

    return call


def as_doubled(function: Callable[[Any], _R], fit: Any, memory: float | int | None = None) -> _R:
    """What a function says of a fit in float64 where there is one of the same numbers, else of it.

    Of the fit as given too where the answer is traced, by what a measure closes over, for its
    derivatives are taken outside; and where a measure of the user's is written for float32 alone.

    Args:
        function: of a fit; what it computes is handed out in float32 if it is an array of JAX's.
        fit: as given.
        memory: bytes that working arrays may take.
    """
    with limited(memory):
        double = double_of(fit)
    if double is None:
        return function(fit)
    with jax.enable_x64(True):
        try:
            found = function(double)
        except TypeError:  # JAX's, of a loop or a branch that is to keep its dtype
            found = None
        if found is not None and not is_traced(found):
            return narrowed(found) if isinstance(found, jax.Array) else found
    return function(fit)


def double_of(fit: Any) -> Fit | None:
    """The fit of the same numbers in float64, where `precision` says so; the last are remembered.

    None where theta is not known to be the optimum of what the fit holds now.
    """
    if not isinstance(fit, Fit) or is_traced(fit) or not is_doubled(fit.objective):
        return None
    with jax.enable_x64(True):
        return _remembered_double(fit)


@functools.partial(remembered, most=2)
def _remembered_double(fit: Fit) -> Fit | None:
    found, given = fitted_wide(fit.objective), inside(fit)
    inner = found if found.centred is None else found.centred
    if int(found.status) or int(fit.status) or inner.metric is None:
        return None
    theta = widened(given.objective).shown(widened(given.flat))
    away = (inner.objective.taken_in(theta) - inner.flat) @ inner.metric.lower
    length = jnp.linalg.norm(inner.flat @ inner.metric.lower)
    allowed = 10 * given.residual + _NEAR * found.sandwich + 4 * jnp.finfo("float32").eps * length
    return found if float(jnp.linalg.norm(away)) <= float(allowed) else None
