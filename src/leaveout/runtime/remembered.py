"""What is remembered between calls: last answers of a function, while what they are of lives."""

import functools
import weakref
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import jax
import numpy as np

from leaveout.runtime.sharding import is_traced, settings

__all__ = ["REMEMBERED", "forget", "remembered"]

REMEMBERED = 2**28  # bytes of an answer up to which it is kept
_SHORT = 256  # bytes of an array of NumPy's up to which it is known by what it holds

_P = ParamSpec("_P")
_R = TypeVar("_R")
_last: list[list[tuple]] = []  # of every function: its answers, the oldest first


def remembered(function: Callable[_P, _R], most: int = 1) -> Callable[_P, _R]:
    """A pure function of JAX arrays that is not computed again for the same ones.

    The same are those very arrays, which cannot change (see `sharding.owned`); not equal ones. The
    last answer is kept, or as many as `most`, each if it takes at most `REMEMBERED` bytes and until
    one of its arrays is gone. NumPy's can be written to: short ones, such as that which rows are
    known by, are told apart by their bytes; with longer ones, and traced ones, every call computes.
    """
    last: list[tuple] = []
    _last.append(last)

    def gone(ref: weakref.ref) -> None:
        last[:] = [entry for entry in last if all(ref is not other for other in entry[1])]

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        leaves, structure = jax.tree.flatten((args, kwargs))
        if is_traced(leaves) or any(_is_long(leaf) for leaf in leaves):
            return function(*args, **kwargs)
        arrays = [leaf for leaf in leaves if isinstance(leaf, jax.Array)]
        key = [_known(leaf) for leaf in leaves], structure, settings()
        for known, whose, answer in tuple(last):  # in one go: others may clear it
            same = all(ref() is array for ref, array in zip(whose, arrays, strict=False))
            if same and known == key:
                return answer
            del answer
        del last[: max(0, len(last) + 1 - most)]  # before another one is made, which needs room
        answer = function(*args, **kwargs)
        if not is_traced(answer) and _bytes(answer) <= REMEMBERED:
            last.append((key, [weakref.ref(array, gone) for array in arrays], answer))
        return answer

    return call


def forget() -> None:
    """Give up all that is remembered, where memory has run out."""
    for last in _last:
        last.clear()


def _is_long(leaf) -> bool:
    """Whether a leaf is an array that its bytes are too many to know by."""
    held = isinstance(leaf, np.ndarray)
    return held and (leaf.nbytes > _SHORT or leaf.dtype.hasobject)


def _known(leaf) -> tuple | None:
    """What a leaf that is no array of JAX's is told from others by; of those None."""
    if isinstance(leaf, jax.Array):
        return None
    held = isinstance(leaf, np.ndarray)
    return (leaf.dtype, leaf.shape, leaf.tobytes()) if held else (type(leaf), leaf)


def _bytes(tree) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array))
