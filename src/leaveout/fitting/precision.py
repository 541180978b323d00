"""float32 that is answered in float64, where that is as quick.

float32 is JAX's default. A sum over examples, a difference of two losses and the residual of a
solve then lose 3e-5 of the largest effect (breast_cancer, digits), where theta itself could be
written down to 4e-7; and what rounding does not let converge goes on in vain. On a processor
float64 takes about as long: there linear models are fitted and asked in it, whatever JAX is set to,
and answers come back as they were asked for. An accelerator's float64 may be emulated, or 64 times
slower: float32 stays float32.
"""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from leaveout.objectives.abstract import AbstractObjective
from leaveout.runtime.memory import budget
from leaveout.runtime.remembered import REMEMBERED
from leaveout.runtime.sharding import is_traced, on_host, tracing

__all__ = ["as_given", "is_doubled", "narrowed", "widened"]

_COPIES = 4  # times the size of float32: the data in float64, and again in centred coordinates
_T = TypeVar("_T")
_as_given = contextvars.ContextVar("as_given", default=False)


@contextlib.contextmanager
def as_given() -> Iterator[None]:
    """Inside, what is given in float32 is computed in float32, as on an accelerator."""
    token = _as_given.set(True)
    try:
        yield
    finally:
        _as_given.reset(token)


def is_doubled(objective: AbstractObjective) -> bool:
    """Whether this objective, in float32, is fitted and asked in float64.

    A convex linear model on a processor, outside `jax.jit` and its kin, so small that its fit in
    float64 can be remembered, and has room among working arrays.
    """
    if objective.weights.dtype != jnp.float32 or not objective.widens or _as_given.get():
        return False
    if is_traced(objective) or tracing():
        return False
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(objective) if eqx.is_array(leaf))
    size = _COPIES * size + 2 * 8 * objective.p**2  # the factors in both coordinates
    return on_host() and not objective.sparse and size <= min(REMEMBERED, budget())


def widened(tree: _T) -> _T:
    """A tree whose float32 is float64, where that is enabled."""
    return _converted(tree, np.float32, np.float64)


def narrowed(tree: _T) -> _T:
    """The inverse of `widened`."""
    return _converted(tree, np.float64, np.float32)


def _converted(tree: _T, old: type, new: type) -> _T:
    def convert(leaf):
        return leaf.astype(new) if eqx.is_array(leaf) and leaf.dtype == old else leaf

    return jax.tree.map(convert, tree)
