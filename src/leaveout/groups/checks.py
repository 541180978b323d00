"""What groups have to be, each refusal with the name of the group."""

from collections.abc import Iterable, Mapping
from typing import Any, NoReturn, Protocol, runtime_checkable

import numpy as np

from leaveout.runtime.columns import name_of
from leaveout.runtime.options import check_integer
from leaveout.runtime.tables import Fingerprint, by_name, check_rows
from leaveout.runtime.text import shortened

__all__ = [
    "by_group",
    "check_pairs",
    "check_same",
    "check_stored",
    "check_whole",
    "checked_parts",
    "index_lists",
    "listed",
    "rows_of",
]


def checked_parts(
    n, indices, offsets, w, names, kind, coalitions: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray, np.ndarray]:
    """Indices sorted within each group, offsets, w, names and kinds, after every check."""
    offsets = np.asarray(offsets, np.int64)
    check_integer(n, "n, the number of examples,")
    _check_whole_numbers(indices)
    names, kind = _named(offsets.size - 1, names, kind)
    rows = np.repeat(np.arange(offsets.size - 1), np.diff(offsets))
    order = np.lexsort((indices, rows))
    indices = np.asarray(indices, np.int64)[order]
    w = None if w is None else _each_point(w, order)
    _check_points(names, rows, indices, n)
    if w is not None:
        _check_w(names, rows, indices, w)
    if not coalitions:
        _check_ends(names, np.diff(offsets), np.bincount(rows, w if w is None else w == 1), n)
    return indices, offsets, w, names, kind


def check_pairs(one: int, other: int, sign: str) -> int:
    """How many groups there are on both sides, where a single one goes with every other."""
    if one != other and 1 not in (one, other):
        raise ValueError(
            f"expected as many groups on both sides of {sign}, or one on either, "
            f"got {one} and {other}"
        )
    return max(one, other)


def _named(count: int, names, kind) -> tuple[np.ndarray, np.ndarray]:
    """A name and a kind for each group."""
    if count == 0:
        raise ValueError("expected at least one group, got none")
    names = range(count) if names is None else names
    if not isinstance(names, Iterable):
        raise ValueError(f"expected {count} names, one a group, got {names!r}")
    names = np.asarray([str(name) for name in names], str)
    kind = np.full(count, kind) if np.ndim(kind) == 0 else np.asarray(list(kind), str)
    if names.shape != (count,) or kind.shape != (count,):
        raise ValueError(
            f"expected {count} names and kinds, one a group, got {names.size} and {kind.size}"
        )
    return names, kind


def listed(lists) -> list:
    """A list of index lists, from any iterable of them."""
    if isinstance(lists, str) or not isinstance(lists, Iterable):
        raise ValueError(f"expected a list of index lists, got {type(lists).__name__}")
    if isinstance(lists, Mapping):
        raise ValueError(
            "expected a list of index lists, got a dictionary; give list(d.values()), and its keys "
            "as names=list(d)"
        )
    return list(lists)


def index_lists(lists: list) -> list[np.ndarray]:
    """The points of each group, from a list of index lists."""
    arrays = []
    for i, one in enumerate(lists):
        points = np.asarray(list(one) if isinstance(one, set | frozenset) else one)
        if points.ndim == 0:
            raise ValueError(
                f"expected a list of index lists, but group {i} is no list; write [[3, 5]] for one "
                "group of two points, lo.groups.singles(data) for every point on its own"
            )
        if points.dtype.kind not in "iu" and points.size:
            raise ValueError(
                f"expected integer indices in group {i}, got {points.dtype}; "
                "use Groups.from_masks for booleans"
            )
        arrays.append(points.reshape(-1))
    return arrays


def _check_whole_numbers(indices) -> None:
    """Points are positions, not 0.5 or "a"."""
    kind = np.asarray(indices).dtype
    if kind.kind not in "iu" and np.size(indices):
        raise ValueError(f"expected examples as integer positions, got {kind}")


def rows_of(names: np.ndarray, rows) -> np.ndarray:
    """(r) positions of some groups: of an integer, a slice, integers, booleans (g), or names.

    A name stands for all groups that bear it.

    Raises:
        ValueError: for booleans of another length, an unknown name, or what is none of these.
        IndexError: for a position beyond the last group.
    """
    if isinstance(rows, slice):
        return np.arange(len(names))[rows]
    asked = np.zeros((0, 0)) if isinstance(rows, tuple) else np.asarray(rows)  # no two axes
    if asked.dtype == bool and asked.shape == names.shape:
        return np.flatnonzero(asked)
    if asked.dtype == bool:
        raise ValueError(f"expected {len(names)} booleans, one a group, got shape {asked.shape}")
    if asked.ndim < 2 and (asked.dtype.kind in "iu" or asked.size == 0):
        return _positions(len(names), asked.reshape(-1).astype(int))
    if asked.ndim < 2 and all(isinstance(name, str) for name in asked.reshape(-1).tolist()):
        return _called(names, asked.reshape(-1).astype(str))
    raise ValueError(
        "expected an integer, a slice, integers, one boolean a group, or names of groups, got "
        f"{shortened([rows])}"
    )


def _positions(count: int, asked: np.ndarray) -> np.ndarray:
    """Positions counted from the front."""
    beyond = asked[(asked < -count) | (asked >= count)]
    if beyond.size:
        raise IndexError(f"there are {count} groups, 0 to {count - 1}, but {beyond[0]} was asked")
    return np.where(asked < 0, asked + count, asked)


def _called(names: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Positions of the groups that bear each of the names asked."""
    unknown = sorted(set(asked.tolist()) - set(names.tolist()))
    if unknown:
        raise ValueError(
            f"no group is called {shortened(unknown)}; there are {shortened(names.tolist())}"
        )
    return np.concatenate([np.flatnonzero(names == name) for name in asked])


def by_group(given, groups: "_Named", what: str) -> Any:
    """One value for each group: what has names in the order of the groups, anything else as it is.

    Args:
        given: a pandas Series or a dictionary by names of groups ("a, b" of crossed labels, or the
            pair), or what has no names: an array (g), one number.
        groups: with g names.
        what: the values are, for messages.

    Returns:
        (g) the values in the order of `groups`, or `given`.

    Raises:
        ValueError: for names that are missing, or that no group has.

    Examples:
        >>> lo.groups.by_group({"v": 2.0, "u": 1.0}, lo.Groups.from_labels(["u", "v", "v"]), "l2")
        array([1., 2.])
    """

    def read(label: object) -> str:
        return name_of(label if isinstance(label, tuple) else (label,), known)

    names = groups.names.tolist()
    known = set(names)
    return by_name(given, names, what, read=read)


def check_stored(n, offsets, indices, weights, names, kind) -> None:
    """What a file holds are groups: whole numbers, w, text, as much of each as there should be."""
    if np.shape(n) != () or any(
        np.asarray(part).dtype.kind not in "iu" for part in (n, offsets, indices)
    ):
        raise ValueError("its n, offsets and indices are not whole numbers")
    flat = offsets.ndim == indices.ndim == 1 and offsets.size > 0 and offsets[0] == 0
    if not flat or offsets[-1] != indices.size or (offsets[1:] < offsets[:-1]).any():
        raise ValueError("its offsets do not fit its indices")
    if weights is not None and (
        np.shape(weights) != indices.shape or np.asarray(weights).dtype.kind != "f"
    ):
        raise ValueError("its weights do not fit its indices")
    if names.dtype.kind != "U" or kind.dtype.kind != "U":
        raise ValueError("its names and kinds are not text")


def _complain(names, bad, what: str) -> NoReturn:
    raise ValueError(f"group {str(names[bad])!r} {what}")


def _check_points(names, rows: np.ndarray, indices: np.ndarray, n: int) -> None:
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


def _each_point(w, order: np.ndarray) -> np.ndarray:
    """W of each listed point, in this order."""
    w = np.asarray(w)
    if w.shape != order.shape or w.dtype.kind not in "fiub":
        raise ValueError(
            f"expected w as a number for each of {order.size:,} listed points, got {w.dtype} of "
            f"shape {w.shape}"
        )
    return w.astype(float)[order]


def _check_w(names, rows: np.ndarray, indices: np.ndarray, w: np.ndarray) -> None:
    """No more than all of a point leaves, and how much is a number."""
    wrong = ~(w <= 1) | np.isinf(w)
    if wrong.any():
        at = np.argmax(wrong)
        _complain(
            names, rows[at],
            f"removes {w[at]:g} of point {indices[at]}; at most 1 can leave "
            "(w = 1 - factor for a point kept at a factor)",
        )  # fmt: skip


def _check_ends(names, size: np.ndarray, whole: np.ndarray, n: int) -> None:
    """No group is empty, and none takes all of everything: `whole` counts what leaves whole."""
    if (size == 0).any():
        _complain(names, np.argmin(size), "is empty; leave it out, or check how it was selected")
    if (whole == n).any():
        _complain(
            names, np.argmax(whole == n),
            "removes every example; nothing is left to fit (coalitions=True allows it)",
        )  # fmt: skip


class _Named(Protocol):
    """What has a name for each group."""

    @property
    def names(self) -> np.ndarray: ...


@runtime_checkable
class _Made(Protocol):
    """Groups, or what else is made for examples."""

    @property
    def n(self) -> int: ...

    @property
    def fingerprint(self) -> Fingerprint | None: ...


def check_same(one: _Made, other: object, sign: str) -> None:
    """What is combined are groups, made for the same examples."""
    if not isinstance(other, type(one)):
        raise TypeError(f"expected groups on both sides of {sign}, got {other!r:.100}")
    if one.n != other.n:
        raise ValueError(
            f"the groups were made for n={one.n:,} and n={other.n:,} examples; "
            "combine groups of the same data"
        )
    rows = one.fingerprint, other.fingerprint
    check_rows(*rows, "the examples of one side", "those of the other")


def check_whole(w: np.ndarray) -> None:
    """Every point leaves whole."""
    if (w != 1).any():
        raise ValueError("set operations need points that leave whole, not fractional weights")
