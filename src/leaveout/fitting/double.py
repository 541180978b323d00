"""Functions of a fit that compute in float64 what they are asked of one in float32."""

import functools
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

import jax

from leaveout.fitting.fitted import Fit
from leaveout.fitting.optimum import fit as fitted
from leaveout.fitting.precision import is_doubled, narrowed, widened
from leaveout.objectives.abstract import AbstractObjective
from leaveout.runtime.remembered import remembered
from leaveout.runtime.solution import SolveError

__all__ = ["doubled", "in_double"]

_P = ParamSpec("_P")
_R = TypeVar("_R")


def in_double(function: Callable[Concatenate[Any, _P], _R]) -> Callable[Concatenate[Any, _P], _R]:
    """A function of a fit that computes in float64 where `doubled` has one of float64 for it.

    An array of JAX's comes back in float32, as it does elsewhere; numbers on the host as they are.
    """

    @functools.wraps(function)
    def call(fit: Any, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        double = doubled(fit)
        if double is fit:
            return function(fit, *args, **kwargs)
        with jax.enable_x64(True):
            found = function(double, *args, **kwargs)
            return narrowed(found) if isinstance(found, jax.Array) else found

    return call


def doubled(fit: Any) -> Any:
    """The fit of the same numbers in float64, where `precision` says so and theta is an optimum.

    Else what was given. The last one is remembered.
    """
    if not (isinstance(fit, Fit) and is_doubled(fit.objective)):
        return fit
    with jax.enable_x64(True):
        return _doubled(fit.objective, fit.flat) or fit


@remembered
def _doubled(objective: AbstractObjective, flat: jax.Array) -> Fit | None:
    try:
        return fitted(widened(objective), widened(flat))
    except SolveError:
        return None
