"""What is remembered between calls: the last answer of a function, while what it was of lives."""

import functools
import weakref
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import jax
import numpy as np

from leaveout.runtime.sharding import is_traced, settings

__all__ = ["REMEMBERED", "forget", "remembered"]

REMEMBERED = 2**28  # bytes of an answer up to which it is kept

_P = ParamSpec("_P")
_R = TypeVar("_R")
_last: list[dict[str, tuple]] = []  # of every function: at most one answer


def remembered(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """A pure function of JAX arrays that is not computed again for the same ones.

    The same are those very arrays, which cannot change (see `sharding.owned`); not equal ones. The
    last answer is kept if it takes at most `REMEMBERED` bytes, until one of its arrays is gone.
    With arrays that are traced, and with NumPy's, which can be written to, every call computes.
    """
    last: dict[str, tuple] = {}
    _last.append(last)

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        leaves, structure = jax.tree.flatten((args, kwargs))
        if is_traced(leaves) or any(isinstance(leaf, np.ndarray) for leaf in leaves):
            return function(*args, **kwargs)
        arrays = [leaf for leaf in leaves if isinstance(leaf, jax.Array)]
        others = [None if isinstance(leaf, jax.Array) else (type(leaf), leaf) for leaf in leaves]
        key = others, structure, settings()
        entry = last.get("answer")  # in one go: others may clear it
        if entry is not None:
            known, whose, answer = entry
            same = all(ref() is array for ref, array in zip(whose, arrays, strict=False))
            if same and known == key:
                return answer
            del entry, answer
            last.clear()  # before another one is made, which needs room
        answer = function(*args, **kwargs)
        if not is_traced(answer) and _bytes(answer) <= REMEMBERED:
            whose = [weakref.ref(array, lambda _: last.clear()) for array in arrays]
            last["answer"] = key, whose, answer
        return answer

    return call


def forget() -> None:
    """Give up all that is remembered, where memory has run out."""
    for last in _last:
        last.clear()


def _bytes(tree) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array))
