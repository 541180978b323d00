"""Hashes that tell data and programs from others: short, of what they hold and not of where."""

import hashlib
import json
import re
from collections.abc import Callable, Iterable
from typing import Any

import equinox as eqx
import jax
import numpy as np

from leaveout.runtime.sharding import to_host

__all__ = ["of_arrays", "of_json", "of_program"]


def _short(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def of_arrays(arrays: Iterable[Any]) -> str:
    """A hash of the bytes of arrays, their shapes and types, in their order."""
    digest = hashlib.sha256()
    for array in map(np.asarray, map(to_host, arrays)):
        digest.update(f"{array.shape}{array.dtype}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def of_json(content: object) -> str:
    """A hash of what JSON can hold, whatever the order of its keys."""
    return _short(json.dumps(content, sort_keys=True).encode())


def of_program(function: Callable, *arguments, beside: str = "") -> str:
    """A hash of what JAX writes down of a function, and of the arrays that it closes over.

    Args:
        function: that JAX can trace.
        arguments: arrays, or PyTrees of them; only their shapes and types matter.
        beside: text that is hashed with it.
    """
    written = jax.make_jaxpr(function)(*arguments)
    text = re.sub(r"0x[0-9a-f]+", "", str(written.jaxpr))  # addresses of functions
    digest = _short(f"{text}{beside}".encode())
    constants = [each for each in written.consts if eqx.is_array(each)]
    return digest if not constants else f"{digest}-{of_arrays(constants)}"
