"""What groups have to be, each refusal with the name of the group."""

from typing import NoReturn

import numpy as np

__all__ = ["check_ends", "check_points", "check_w", "named"]


def named(count: int, names, kind) -> tuple[np.ndarray, np.ndarray]:
    """A name and a kind for each group."""
    if count == 0:
        raise ValueError("expected at least one group, got none")
    names = range(count) if names is None else names
    names = np.asarray([str(name) for name in names], str)
    kind = np.full(count, kind) if np.ndim(kind) == 0 else np.asarray(list(kind), str)
    if names.shape != (count,) or kind.shape != (count,):
        raise ValueError(
            f"expected {count} names and kinds, one a group, got {names.size} and {kind.size}"
        )
    return names, kind


def _complain(names, bad, what: str) -> NoReturn:
    raise ValueError(f"group {str(names[bad])!r} {what}")


def check_points(names, rows: np.ndarray, indices: np.ndarray, n: int) -> None:
    """Every point is an example, and in a group once; points are sorted within groups."""
    wrong = (indices < 0) | (indices >= n)
    if wrong.any():
        at = np.argmax(wrong)
        _complain(names, rows[at], f"holds point {indices[at]}, but the examples are 0 to {n - 1}")
    twice = (np.diff(indices) == 0) & (np.diff(rows) == 0)
    if twice.any():
        at = np.argmax(twice)
        _complain(
            names, rows[at], f"holds point {indices[at]} more than once; give each point once"
        )


def check_w(names, rows: np.ndarray, indices: np.ndarray, w: np.ndarray) -> None:
    """No more than all of a point leaves, and how much is a number."""
    wrong = ~(w <= 1) | np.isinf(w)
    if wrong.any():
        at = np.argmax(wrong)
        _complain(
            names, rows[at],
            f"removes {w[at]:g} of point {indices[at]}; at most 1 can leave "
            "(w = 1 - factor for a point kept at a factor)",
        )  # fmt: skip


def check_ends(names, size: np.ndarray, whole: np.ndarray, n: int) -> None:
    """No group is empty, and none takes all of everything: `whole` counts what leaves whole."""
    if (size == 0).any():
        _complain(names, np.argmin(size), "is empty; leave it out, or check how it was selected")
    if (whole == n).any():
        _complain(
            names, np.argmax(whole == n),
            "removes every example; nothing is left to fit (coalitions=True allows it)",
        )  # fmt: skip
