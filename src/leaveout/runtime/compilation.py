"""What is compiled: calls from outside, as one program each."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import equinox as eqx

from leaveout.runtime.sharding import tracing

__all__ = ["compiled"]

_P = ParamSpec("_P")
_R = TypeVar("_R")


def compiled(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """A pure function that is one compiled program where it is called with numbers.

    Left alone, JAX compiles each operation of such a call by itself, and a loop at every call anew.
    Inside another program the function is as it is written; `jax.vmap` and `jax.grad` of it outside
    any are compiled too.
    """
    whole = eqx.filter_jit(function)

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        return (function if tracing() else whole)(*args, **kwargs)

    return call
