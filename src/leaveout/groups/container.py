"""The container: groups of training points, stored sparsely.

A group is a row of weights w over n examples: 1 leaves whole, a fraction leaves in part, a negative
weight is added. `Groups` keeps flat indices and offsets on the host, so that 100,000 overlapping
groups never make a dense (g n) array.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from leaveout.runtime.files import read_npz
from leaveout.runtime.memory import zeros

__all__ = ["UNSEEN", "Groups"]

_FORMAT = "leaveout groups 1"

#: base weight of a point that the model has not seen: it is added whole by w = -1 / UNSEEN. A power
#: of two, so that the product is exact, and too small to be heard before.
UNSEEN = 2.0**-60


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Groups:
    """g groups of n training points.

    Attributes:
        n: number of training examples.
        indices: (nnz) the points of all groups, group after group, sorted within each.
        offsets: (g + 1) where each group begins in `indices`.
        weights: (nnz) w, how much of each point leaves, at most 1; None if all leave whole.
        names: (g) a name for each group.
        kind: (g) the family it comes from.
        notes: sentences on how the groups were made.
    """

    n: int
    indices: np.ndarray
    offsets: np.ndarray
    weights: np.ndarray | None
    names: np.ndarray
    kind: np.ndarray
    notes: tuple[str, ...] = ()

    # ---- making ---------------------------------------------------------------------------------

    @classmethod
    def from_indices(
        cls,
        lists: Sequence[Any],
        *,
        n: int,
        names: Any = None,
        kind: Any = "given",
        notes: Any = (),
    ) -> "Groups":
        """Groups from a list of index lists.

        Args:
            lists: one array of points per group, each point once.
            n: number of training examples.
            names: (g) names; default the position.
            kind: a family name for all, or (g).
            notes: sentences to keep with the groups.

        Raises:
            ValueError: for an empty group, a group of everything, duplicates, or a wrong index.
        """
        arrays = [np.asarray(one).reshape(-1) for one in lists]
        for i, one in enumerate(arrays):
            if one.dtype.kind not in "iu" and one.size:
                raise ValueError(
                    f"expected integer indices in group {i}, got {one.dtype}; "
                    "use Groups.from_masks for booleans"
                )
        lengths = np.array([one.size for one in arrays], np.int64)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        flat = np.concatenate([*arrays, np.zeros(0, np.int64)]).astype(np.int64)
        return _checked(n, flat, offsets, None, names, kind, notes)

    @classmethod
    def from_masks(cls, masks, *, names: Any = None, kind: Any = "given") -> "Groups":
        """Groups from booleans (g n), True for what leaves."""
        masks = np.asarray(masks)
        if masks.ndim != 2 or masks.dtype != bool:
            raise ValueError(
                f"expected boolean masks of shape (g, n), got {masks.shape} of {masks.dtype}; "
                "use Groups.from_weights for fractions"
            )
        rows, points = np.nonzero(masks)
        return _checked(masks.shape[1], points, _offsets(rows, len(masks)), None, names, kind)

    @classmethod
    def from_weights(cls, weights, *, names: Any = None, kind: Any = "given") -> "Groups":
        """Groups from weights (g n): how much of each point leaves, at most 1; negative adds."""
        weights = np.asarray(weights, float)
        if weights.ndim != 2:
            raise ValueError(f"expected weights of shape (g, n), got {weights.shape}")
        if not np.isfinite(weights).all():
            row, point = np.argwhere(~np.isfinite(weights))[0]
            raise ValueError(f"weights must be finite, but weights[{row}, {point}] is not")
        rows, points = np.nonzero(weights)
        offsets = _offsets(rows, len(weights))
        return _checked(weights.shape[1], points, offsets, weights[rows, points], names, kind)

    @classmethod
    def from_labels(cls, labels, *, kind="label") -> "Groups":
        """One group for each distinct label, in sorted order.

        Of several columns, one for each combination that occurs, its name their labels joined by
        commas. Dates as NumPy's datetime64[M] make a group a month.

        Args:
            labels: (n) a list, array or pandas column, or (n c) several of them; an example with a
                missing value belongs to no group.
            kind: a family name.
        """
        columns = _columns(labels)
        there = np.logical_and.reduce([_there(column) for column in columns])
        present = np.flatnonzero(there)
        if present.size == 0:
            raise ValueError("expected at least one label, but all are missing")
        parts = [_distinct(column[present]) for column in columns]
        crossed, code = np.unique([code for _, code in parts], axis=1, return_inverse=True)
        each = [names[codes] for (names, _), codes in zip(parts, crossed, strict=True)]
        names = [", ".join(row) for row in zip(*each, strict=True)]
        return _coded(there.size, present, code, names, kind)

    @classmethod
    def from_pairs(cls, examples, labels, *, n: int, weights=None, kind="label") -> "Groups":
        """Groups that may overlap, from a long table of who belongs to what.

        Args:
            examples: (k) positions of examples.
            labels: (k) the group each belongs to; pairs with a missing label are left out.
            n: number of training examples.
            weights: (k) how much of each leaves with that group; default all of it.
            kind: a family name.

        Raises:
            ValueError: for lengths that differ, or an example twice in one group.
        """
        examples, (labels,) = np.asarray(examples).reshape(-1), _columns(labels)
        if examples.shape != labels.shape:
            raise ValueError(
                f"expected one label for each of the {examples.size} examples, got {labels.size}"
            )
        kept = np.flatnonzero(_there(labels))
        names, code = _distinct(labels[kept])
        weights = None if weights is None else np.asarray(weights, float)[kept]
        return _coded(n, examples[kept], code, names, kind, weights)

    @classmethod
    def from_intervals(cls, values, edges, *, kind="interval") -> "Groups":
        """One group for each interval [edge, next edge) that holds an example.

        Args:
            values: (n) numbers or dates; what is missing or outside belongs to no group.
            edges: (e + 1) increasing.
            kind: a family name.
        """
        (values,), edges = _columns(values), np.asarray(edges)
        if edges.ndim != 1 or edges.size < 2 or (edges[1:] <= edges[:-1]).any():
            raise ValueError("expected at least two increasing edges")
        values = values.astype(edges.dtype if edges.dtype.kind == "M" else float)
        code = np.searchsorted(edges, values, side="right") - 1
        inside = np.flatnonzero((code >= 0) & (code < edges.size - 1) & (values == values))
        if inside.size == 0:
            raise ValueError(f"no value lies between {edges[0]} and {edges[-1]}")
        found, code = np.unique(code[inside], return_inverse=True)
        names = [f"[{edges[i]}, {edges[i + 1]})" for i in found]
        return _coded(values.size, inside, code, names, kind)

    @classmethod
    def from_splits(cls, splits, *, n: int, kind="fold") -> "Groups":
        """The held-out part of every split, as of scikit-learn's `KFold().split(x)`.

        Args:
            splits: pairs (train, test) of positions or of booleans (n).
            n: number of training examples.
            kind: a family name.
        """
        held = [np.asarray(test) for _, test in splits]
        lists = [np.flatnonzero(test) if test.dtype == bool else test for test in held]
        return cls.from_indices(lists, n=n, names=[f"{kind} {i}" for i in range(len(lists))],
                                kind=kind)  # fmt: skip

    # ---- reading --------------------------------------------------------------------------------

    def __len__(self) -> int:
        return self.offsets.size - 1

    @property
    def size(self) -> np.ndarray:
        """(g) number of points that each group touches."""
        return np.diff(self.offsets)

    @property
    def w(self) -> np.ndarray:
        """(nnz) how much of each listed point leaves: `weights`, or ones."""
        return np.ones(self.indices.size) if self.weights is None else self.weights

    @property
    def alpha(self) -> np.ndarray:
        """(g) share of the training data that leaves: the sum of w, divided by n.

        What is added counts negative, a point at a time (see `UNSEEN`).
        """
        if self.weights is None:
            return self.size / self.n
        waiting = self.weights < -0.5 / UNSEEN
        leaving = np.where(waiting, self.weights * UNSEEN, self.weights)
        return np.add.reduceat(leaving, self.offsets[:-1]) / self.n

    def __repr__(self) -> str:
        if len(self) == 0:
            return f"Groups(none, of n={self.n:,} points)"
        kinds, counts = np.unique(self.kind, return_counts=True)
        made = ", ".join(f"{kind} {count:,}" for kind, count in zip(kinds, counts, strict=True))
        size = self.size
        return (
            f"Groups({len(self):,} groups of {size.min():,} to {size.max():,} of n={self.n:,} "
            f"points: {made})"
        )

    def __getitem__(self, rows) -> "Groups":
        """Some of the groups: an integer, a slice, integers or booleans (g)."""
        rows = np.atleast_1d(np.arange(len(self))[rows])
        return dataclasses.replace(
            self,
            indices=self._listed(self.indices, rows),
            offsets=np.concatenate([[0], np.cumsum(self.size[rows])]),
            weights=None if self.weights is None else self._listed(self.weights, rows),
            names=self.names[rows],
            kind=self.kind[rows],
        )

    def _listed(self, values: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """What some groups list, one after the other: of neighbours no copy, else run by run."""
        if not len(rows):
            return values[:0]
        starts, ends = self.offsets[rows], self.offsets[rows + 1]
        new = np.flatnonzero(np.append(True, starts[1:] != ends[:-1]))  # where a run begins
        last = np.append(new[1:], len(rows)) - 1
        runs = zip(starts[new].tolist(), ends[last].tolist(), strict=True)
        parts = [values[start:end] for start, end in runs]
        if len(parts) > 1:
            return np.concatenate(parts)
        view = parts[0]
        view.flags.writeable = False
        return view

    def dense(self, rows: Any = slice(None)) -> np.ndarray:
        """(b n) w of some groups, all by default: for the chunk in flight only."""
        part = self[rows]
        out = zeros((len(part), self.n))
        lanes = np.repeat(np.arange(len(part)), part.size)
        out[lanes, part.indices] = 1.0 if part.weights is None else part.weights
        return out

    def padded(self, rows: Any, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Indices and weights (b width) of some groups, padded with point 0 at weight 0.

        Raises:
            ValueError: if a group is larger than the width.
        """
        part = self[rows]
        if part.size.max() > width:
            raise ValueError(f"a group of {part.size.max()} points does not fit in {width}")
        filled = np.arange(width)[None, :] < part.size[:, None]
        indices, weights = np.zeros(filled.shape, np.int64), np.zeros(filled.shape)
        indices[filled] = part.indices
        weights[filled] = 1.0 if part.weights is None else part.weights
        return indices, weights

    # ---- algebra --------------------------------------------------------------------------------

    def __add__(self, other: "Groups") -> "Groups":
        """All groups of both, one after the other."""
        _same_data(self, other)
        either = self.weights is not None or other.weights is not None
        weights = np.concatenate([self.w, other.w]) if either else None
        return Groups(
            self.n,
            np.concatenate([self.indices, other.indices]),
            np.concatenate([self.offsets, self.offsets[-1] + other.offsets[1:]]),
            weights,
            np.concatenate([self.names, other.names]),
            np.concatenate([self.kind, other.kind]),
            self.notes + other.notes,
        )

    def __or__(self, other: "Groups") -> "Groups":
        """Group by group, the points in either."""
        return _combine(self, other, lambda a, b: (a + b) > 0, "|")

    def __and__(self, other: "Groups") -> "Groups":
        """Group by group, the points in both."""
        return _combine(self, other, lambda a, b: (a + b) == 2, "&")

    def __sub__(self, other: "Groups") -> "Groups":
        """Group by group, the points in the first and not in the second."""
        return _combine(self, other, lambda a, b: (a - b) == 1, "-")

    def __invert__(self) -> "Groups":
        """Group by group, the points that stay."""
        _whole(self)
        lists = [np.setdiff1d(np.arange(self.n), part, assume_unique=True) for part in _lists(self)]
        names = [f"not {name}" for name in self.names]
        return Groups.from_indices(lists, n=self.n, names=names, kind=self.kind)

    # ---- files ----------------------------------------------------------------------------------

    def save(self, path) -> None:
        """Write to an .npz file, without pickle."""
        arrays: dict[str, Any] = {} if self.weights is None else {"weights": self.weights}
        np.savez_compressed(
            path,
            format=np.array(_FORMAT),
            n=np.array(self.n),
            indices=self.indices,
            offsets=self.offsets,
            names=self.names,
            kind=self.kind,
            notes=np.array(self.notes, str),
            **arrays,
        )

    @classmethod
    def load(cls, path) -> "Groups":
        """Groups written by `save`.

        Raises:
            ValueError: if the file is not one of ours, or damaged.
        """
        file = read_npz(path, _FORMAT)
        try:
            notes = tuple(str(note) for note in file.pop("notes"))
            return cls.checked(**file, notes=notes)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is damaged: {error}") from error

    @classmethod
    def checked(cls, n, indices, offsets, names, kind, weights=None, notes=()) -> "Groups":
        """Groups from stored arrays, with every check of those that are made."""
        offsets, indices = np.asarray(offsets), np.asarray(indices)
        flat = offsets.ndim == indices.ndim == 1 and offsets.size > 0 and offsets[0] == 0
        if not flat or offsets[-1] != indices.size or (np.diff(offsets) < 0).any():
            raise ValueError("its offsets do not fit its indices")
        if weights is not None and np.shape(weights) != indices.shape:
            raise ValueError("its weights do not fit its indices")
        return _checked(int(n), indices, offsets, weights, names, kind, notes)


def _coded(n, points, code, names, kind, weights=None) -> "Groups":
    """Groups of points, each in the group that its code says."""
    order = np.argsort(code, kind="stable")
    weights = None if weights is None else weights[order]
    return _checked(n, points[order], _offsets(code, len(names)), weights, names, kind)


def _offsets(rows, count) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=count))]).astype(np.int64)


def _columns(labels) -> list[np.ndarray]:
    """One or several columns of labels as arrays."""
    parts: Any
    if hasattr(labels, "columns"):  # a pandas frame: each column keeps its type
        parts = [labels[name] for name in labels.columns]
    else:
        parts = list(labels.T) if isinstance(labels, np.ndarray) and labels.ndim == 2 else [labels]
    columns = []
    for column in parts:
        if hasattr(column, "to_numpy"):
            dated = getattr(getattr(column, "dtype", None), "kind", "") == "M"
            column = column.to_numpy() if dated else column.to_numpy(dtype=object)
        columns.append(np.asarray(column, None if isinstance(column, np.ndarray) else object))
        if columns[-1].ndim != 1 or columns[-1].size == 0:
            raise ValueError(f"expected one label for each example, got shape {columns[-1].shape}")
    if not columns:
        raise ValueError("expected at least one column of labels, got none")
    return columns


def _there(labels: np.ndarray) -> np.ndarray:
    """Which labels are not missing."""
    if labels.dtype == object:
        return np.array([v is not None and v == v and str(v) != "<NA>" for v in labels], bool)
    return labels == labels  # not NaN


def _distinct(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The names of the distinct labels, sorted, and the position of each label's own."""
    try:
        unique, code = np.unique(labels, return_inverse=True)
    except TypeError:  # labels of several types do not sort: their texts do
        unique, code = np.unique(labels.astype(str), return_inverse=True)
    return np.array([str(label) for label in unique], str), code


def _lists(groups: Groups) -> list[np.ndarray]:
    return np.split(groups.indices, groups.offsets[1:-1])


def _checked(n, indices, offsets, weights, names, kind, notes=()) -> Groups:
    """Groups after every check, points sorted within each group."""
    count, offsets = offsets.size - 1, np.asarray(offsets, np.int64)
    if count == 0:
        raise ValueError("expected at least one group, got none")
    names = np.asarray([str(i) for i in range(count)] if names is None else names, str)
    kind = np.full(count, kind) if np.ndim(kind) == 0 else np.asarray(kind, str)
    if names.shape != (count,) or kind.shape != (count,):
        raise ValueError(
            f"expected {count} names and kinds, one a group, got {names.size} and {kind.size}"
        )
    lengths = np.diff(offsets)
    rows = np.repeat(np.arange(count), lengths)
    order = np.lexsort((indices, rows))
    indices = np.asarray(indices, np.int64)[order]
    weights = None if weights is None else np.asarray(weights, float)[order]

    def complain(bad, what):
        raise ValueError(f"group {str(names[bad])!r} {what}")

    if (lengths == 0).any():
        complain(np.argmin(lengths), "is empty; leave it out, or check how it was selected")
    wrong = (indices < 0) | (indices >= n)
    if wrong.any():
        at = np.argmax(wrong)
        complain(rows[at], f"holds point {indices[at]}, but the examples are 0 to {n - 1}")
    twice = (np.diff(indices) == 0) & (np.diff(rows) == 0)
    if twice.any():
        at = np.argmax(twice)
        complain(rows[at], f"holds point {indices[at]} more than once; give each point once")
    if weights is not None and (weights > 1).any():
        at = np.argmax(weights > 1)
        complain(
            rows[at],
            f"removes {weights[at]:g} of point {indices[at]}; at most 1 can leave "
            "(w = 1 - factor for a point kept at a factor)",
        )
    whole = lengths == n
    if weights is not None:
        whole &= np.add.reduceat(weights == 1, offsets[:-1]) == n
    if whole.any():
        complain(np.argmax(whole), "removes every example; nothing is left to fit")
    return Groups(int(n), indices, offsets, weights, names, kind, tuple(notes))


def _same_data(one: Groups, other: Groups) -> None:
    if one.n != other.n:
        raise ValueError(
            f"the groups were made for n={one.n:,} and n={other.n:,} examples; "
            "combine groups of the same data"
        )


def _whole(groups: Groups) -> None:
    if groups.weights is not None and (groups.weights != 1).any():
        raise ValueError("set operations need points that leave whole, not fractional weights")


def _combine(one: Groups, other: Groups, keep, sign: str) -> Groups:
    """Group by group set algebra; a single group goes with every group of the other side."""
    _same_data(one, other)
    _whole(one)
    _whole(other)
    count = max(len(one), len(other))
    if len(one) != len(other) and 1 not in (len(one), len(other)):
        raise ValueError(
            f"expected as many groups on both sides of {sign}, or one on either, "
            f"got {len(one)} and {len(other)}"
        )
    first = one if len(one) == count else one[np.zeros(count, int)]
    second = other if len(other) == count else other[np.zeros(count, int)]
    lists = []
    for a, b in zip(_lists(first), _lists(second), strict=True):
        points = np.union1d(a, b)
        lists.append(points[keep(np.isin(points, a).astype(int), np.isin(points, b).astype(int))])
    names = [f"{a} {sign} {b}" for a, b in zip(first.names, second.names, strict=True)]
    return Groups.from_indices(lists, n=one.n, names=names, kind=first.kind)
