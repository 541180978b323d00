"""Settings that are numbers: what is none, or too small, is refused in one sentence."""

import math
from numbers import Integral, Real

__all__ = ["check_integer", "check_positive", "is_positive"]


def check_integer(value, name: str, least: int = 1) -> None:
    """Refuse what is no integer, or below the least.

    Raises:
        ValueError: with what it is.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"expected {name} as an integer of at least {least}, got {value!r}")


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
