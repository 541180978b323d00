"""Settings that are numbers or keys: what is none, or too small, is refused in one sentence."""

import math
from numbers import Integral, Real
from types import UnionType

import jax
import jax.numpy as jnp
import numpy as np

__all__ = [
    "check_inside",
    "check_integer",
    "check_is",
    "check_key",
    "check_positive",
    "generator",
    "is_number",
    "is_positive",
    "seed_of",
]


def check_is(value, kinds: type | UnionType, what: str) -> None:
    """Refuse what is nothing of these kinds.

    Args:
        value: to be looked at.
        kinds: what it may be.
        what: is expected, in words.

    Raises:
        ValueError: with what it is.
    """
    if not isinstance(value, kinds):
        raise ValueError(f"expected {what}, got {type(value).__name__}")


def check_integer(value, name: str, least: int = 1) -> None:
    """Refuse what is no integer, or below the least.

    Raises:
        ValueError: with what it is.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"expected {name} as an integer of at least {least}, got {value!r}")


def is_number(value) -> bool:
    """Whether it is one real number, of Python, NumPy or JAX."""
    return np.ndim(value) == 0 and np.asarray(value).dtype.kind in "iuf"


def is_positive(value) -> bool:
    """Whether it is a finite number above 0."""
    real = isinstance(value, Real) and not isinstance(value, bool)
    return real and math.isfinite(value) and float(value) > 0


def check_positive(value, name: str, of: str = "") -> None:
    """Refuse what is no finite number above 0.

    Raises:
        ValueError: with what it is.
    """
    if not is_positive(value):
        raise ValueError(f"expected {name} as a positive number{of}, got {value!r}")


def check_inside(value, name: str, such: str) -> None:
    """Refuse what is no number between 0 and 1, both excluded.

    Args:
        value: to be looked at.
        name: of the setting.
        such: an example of what is expected.

    Raises:
        ValueError: with what it is.
    """
    if not (is_number(value) and 0 < value < 1):
        raise ValueError(f"expected a {name} between 0 and 1, such as {such}, got {value!r}")


def check_key(key) -> None:
    """Refuse what is no random key of JAX's.

    Raises:
        ValueError: with what it is.
    """
    if not isinstance(key, jax.Array | np.ndarray) or not _is_key(key):
        given = f"{key.dtype} of shape {key.shape}" if hasattr(key, "shape") else repr(key)
        raise ValueError(f"expected a random key such as jax.random.key(0), got {given:.100}")


def seed_of(key) -> list[int]:
    """A key of JAX's as a seed of NumPy's random numbers.

    Raises:
        ValueError: for what is no key.
    """
    check_key(key)
    data = jax.random.key_data(key) if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else key
    return np.asarray(data).astype(np.uint32).reshape(-1).tolist()


def generator(key) -> np.random.Generator:
    """NumPy's random numbers from a key of JAX's.

    Raises:
        ValueError: for what is no key.
    """
    return np.random.default_rng(seed_of(key))


def _is_key(key: jax.Array | np.ndarray) -> bool:
    """Whether it is one key, typed, or raw: some numbers of 32 bits without a sign."""
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return key.shape == ()
    return key.ndim == 1 and key.dtype.kind in "ui" and key.size > 1
