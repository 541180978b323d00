"""The container: groups of training points, stored sparsely.

A group is a row of w over n examples, what leaves: 1 leaves whole, a fraction leaves in part, and
what is negative is added. An example of base weight s gets s (1 - w); one that has none, such as a
point that the model has not seen, gets -w. `Groups` keeps flat indices and offsets on the host, so
that 100,000 overlapping groups never make a dense (g n) array.
"""

import dataclasses
import inspect
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from leaveout.groups.checks import (
    check_pairs,
    check_same,
    check_stored,
    check_whole,
    checked_parts,
    index_lists,
    listed,
    rows_of,
)
from leaveout.groups.labels import Coded, between_edges, by_label, by_pair, index_of, masks_of
from leaveout.groups.lists import listed_in, offsets_of
from leaveout.runtime.deprecated import instead, renamed
from leaveout.runtime.files import read_npz, write_npz
from leaveout.runtime.memory import zeros
from leaveout.runtime.tables import Fingerprint

__all__ = ["Groups"]


@jax.tree_util.register_static  # an argument of jit is told from another by which object it is
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Groups:
    """g groups of n training points.

    Attributes:
        n: number of training examples.
        indices: (nnz) the points of all groups, group after group, sorted within each.
        offsets: (g + 1) where each group begins in `indices`.
        partial: (nnz) w, how much of each point leaves, at most 1; None if all leave whole.
        names: (g) a name for each group.
        kind: (g) the family it comes from.
        notes: sentences on how the groups were made.
        coalitions: whether a group may be empty, or take everything.
        scaled: whether a negative w is a factor of the base weight that there is (`reweight`), so
            that an example without one gets nothing, instead of -w.
        fingerprint: which rows the examples are, where they were given with a pandas index: other
            data, or the same in another order, is then refused.

    Example:
        >>> groups = lo.Groups.from_labels(["a", "b", "a", "b"])
        >>> groups.names.tolist(), groups.size.tolist()
        (['a', 'b'], [2, 2])
        >>> groups[[1]].dense().tolist()
        [[0.0, 1.0, 0.0, 1.0]]
    """

    n: int
    indices: np.ndarray
    offsets: np.ndarray
    partial: np.ndarray | None
    names: np.ndarray
    kind: np.ndarray
    notes: tuple[str, ...] = ()
    coalitions: bool = False
    scaled: bool = False
    fingerprint: Fingerprint | None = None

    # ---- making ---------------------------------------------------------------------------------

    @classmethod
    def from_indices(
        cls,
        lists: Iterable[Any],
        *,
        n: int,
        names: Iterable[object] | None = None,
        kind: Iterable[object] = "given",
        notes: Iterable[str] = (),
        coalitions: bool = False,
    ) -> "Groups":
        """Groups from a list of index lists.

        Args:
            lists: one array of points per group, each point once: positions, from 0. A pandas Index
                of labels is taken for positions, and refused later where the data has others.
            n: number of training examples.
            names: (g) names; default the position.
            kind: a family name for all, or (g).
            notes: sentences to keep with the groups.
            coalitions: allow a group of nobody, and a group of everybody: what stays is then a
                coalition of players, all of them or none.

        Raises:
            ValueError: for an empty group, a group of everything, duplicates, or a wrong index.
        """
        lists = listed(lists)
        arrays = index_lists(lists)
        lengths = np.array([one.size for one in arrays], np.int64)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        flat = np.concatenate([*arrays, np.zeros(0, np.int64)]).astype(np.int64)
        rows = index_of(lists, n)
        return _checked(n, flat, offsets, None, names, kind, notes, coalitions, rows)

    @classmethod
    def from_masks(
        cls,
        masks,
        *,
        names: Iterable[object] | None = None,
        kind: Iterable[object] = "given",
        coalitions: bool = False,
    ) -> "Groups":
        """Groups from booleans (g n), True for what leaves; `coalitions` as in `from_indices`.

        Also a list of g pandas columns, or a table whose columns are named by the index of x.

        Raises:
            ValueError: for others than booleans (g n); for a group of nobody, or of everybody.
        """
        given, masks = masks, np.asarray(masks)
        if masks.ndim != 2 or masks.dtype != bool:
            raise ValueError(
                f"expected boolean masks of shape (g, n), got {masks.shape} of {masks.dtype}; "
                "use Groups.from_weights for fractions"
            )
        rows, points = np.nonzero(masks)
        offsets = offsets_of(rows, len(masks))
        n = masks.shape[1]
        return _checked(n, points, offsets, None, names, kind, (), coalitions, masks_of(given))

    @classmethod
    @renamed(weights="w")
    def from_weights(
        cls,
        w,
        *,
        names: Iterable[object] | None = None,
        kind: Iterable[object] = "given",
        coalitions: bool = False,
    ) -> "Groups":
        """Groups from w (g n): how much of each point leaves, at most 1; negative adds.

        An example of base weight s gets s (1 - w), one of no base weight gets -w. `coalitions` as
        in `from_indices`.

        Raises:
            ValueError: for a w above 1 or not finite; for a group of nobody, or of everybody.
        """
        given, w = w, np.asarray(w, float)
        if w.ndim != 2:
            raise ValueError(f"expected w of shape (g, n), got {w.shape}")
        if not np.isfinite(w).all():
            row, point = np.argwhere(~np.isfinite(w))[0]
            raise ValueError(f"w must be finite, but w[{row}, {point}] is not")
        rows, points = np.nonzero(w)
        offsets = offsets_of(rows, len(w))
        n, part = w.shape[1], w[rows, points]
        return _checked(n, points, offsets, part, names, kind, (), coalitions, masks_of(given))

    @classmethod
    def from_labels(cls, labels, *, kind="label") -> "Groups":
        """One group for each distinct label, in sorted order.

        Of several columns, one for each combination that occurs, its name their labels joined by
        commas. Dates as NumPy's datetime64[M] make a group a month.

        Args:
            labels: (n) a list, array or column of pandas, polars or pyarrow, or (n c) several of
                them, a table; an example with a missing value belongs to no group, and `notes` say
                how many there are. 1 and "1" are two labels.
            kind: a family name.

        Raises:
            ValueError: where all are missing, or some read "nan", as if they had been.
        """
        return _coded(by_label(labels, kind), kind)

    @classmethod
    @renamed(weights="w")
    def from_pairs(cls, examples, labels, *, n: int, w=None, kind="label") -> "Groups":
        """Groups that may overlap, from a long table of who belongs to what.

        Args:
            examples: (k) positions of examples.
            labels: (k) the group each belongs to; pairs with a missing label are left out.
            n: number of training examples.
            w: (k) how much of each leaves with that group; default all of it.
            kind: a family name.

        Raises:
            ValueError: for lengths that differ, or an example twice in one group.
        """
        return _coded(by_pair(examples, labels, w, n), kind)

    @classmethod
    def from_intervals(cls, values, edges, *, kind="interval") -> "Groups":
        """One group for each interval [edge, next edge) that holds an example.

        Args:
            values: (n) numbers or dates; what is missing or outside belongs to no group.
            edges: (e + 1) increasing.
            kind: a family name.

        Raises:
            ValueError: for edges that do not increase, or where no value lies between them.
        """
        return _coded(between_edges(values, edges), kind)

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
    def uncovered(self) -> int:
        """Number of points in no group."""
        return self.n - np.unique(self.indices).size

    @property
    def w(self) -> np.ndarray:
        """(nnz) how much of each listed point leaves: `partial`, or ones."""
        return np.ones(self.indices.size) if self.partial is None else self.partial

    @property
    def weights(self) -> np.ndarray | None:
        """Deprecated: `partial`."""
        instead("Groups.weights", "Groups.partial (or Groups.w, with ones)")
        return self.partial

    @property
    def alpha(self) -> np.ndarray:
        """(g) share of the training data that leaves: the sum of w, divided by n.

        What is added counts negative.
        """
        return self.size / self.n if self.partial is None else self.sums(self.partial) / self.n

    def sums(self, values: np.ndarray) -> np.ndarray:
        """(g) the sum over each group of values (nnz), one for each listed point."""
        return np.bincount(self.lanes, values, len(self))

    @property
    def lanes(self) -> np.ndarray:
        """(nnz) which group lists each point."""
        return np.repeat(np.arange(len(self)), self.size)

    @property
    def titles(self) -> list[str]:
        """(g) what messages call the groups."""
        return [f"group {str(name)!r}" for name in self.names]

    def __repr__(self) -> str:
        if len(self) == 0:
            return f"Groups(none, of n={self.n:,} points)"
        kinds, counts = np.unique(self.kind, return_counts=True)
        made = ", ".join(f"{kind} {count:,}" for kind, count in zip(kinds, counts, strict=True))
        size, outside = self.size, self.uncovered
        apart = len(self) > 1 and self.n - outside == self.indices.size
        rest = f"; {outside:,} points in no group" if apart and outside else ""
        return (
            f"Groups({len(self):,} groups of {size.min():,} to {size.max():,} of n={self.n:,} "
            f"points: {made}{rest})"
        )

    def __getitem__(self, rows) -> "Groups":
        """Some of the groups: an integer, a slice, integers, booleans (g), or names."""
        rows = self.rows(rows)
        return dataclasses.replace(
            self,
            indices=listed_in(self.indices, self.offsets, rows),
            offsets=np.concatenate([[0], np.cumsum(self.size[rows])]),
            partial=None if self.partial is None else listed_in(self.partial, self.offsets, rows),
            names=self.names[rows],
            kind=self.kind[rows],
        )

    def rows(self, which) -> np.ndarray:
        """(r) positions of what may stand between the brackets of `groups[...]`."""
        return rows_of(self.names, which)

    def dense(self, rows=slice(None)) -> np.ndarray:
        """(b n) w of some groups, all by default: for the chunk in flight only."""
        part = self[rows]
        out = zeros((len(part), self.n))
        out[part.lanes, part.indices] = 1.0 if part.partial is None else part.partial
        return out

    def padded(self, rows, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Indices and w (b width) of some groups, padded with point 0 at w = 0.

        Raises:
            ValueError: if a group is larger than the width.
        """
        part = self[rows]
        if part.size.max() > width:
            raise ValueError(f"a group of {part.size.max()} points does not fit in {width}")
        filled = np.arange(width)[None, :] < part.size[:, None]
        indices, w = np.zeros(filled.shape, np.int64), np.zeros(filled.shape)
        indices[filled] = part.indices
        w[filled] = 1.0 if part.partial is None else part.partial
        return indices, w

    # ---- algebra --------------------------------------------------------------------------------

    def __add__(self, other: "Groups") -> "Groups":
        """All groups of both, one after the other."""
        check_same(self, other, "+")
        plain = other if self.scaled else self
        if self.scaled != other.scaled and (plain.w < 0).any():
            raise ValueError("groups that are reweighted do not go with groups that add points")
        either = self.partial is not None or other.partial is not None
        partial = np.concatenate([self.w, other.w]) if either else None
        return Groups(
            self.n,
            np.concatenate([self.indices, other.indices]),
            np.concatenate([self.offsets, self.offsets[-1] + other.offsets[1:]]),
            partial,
            np.concatenate([self.names, other.names]),
            np.concatenate([self.kind, other.kind]),
            self.notes + other.notes,
            self.coalitions or other.coalitions,
            self.scaled or other.scaled,
            self.fingerprint if other.fingerprint is None else other.fingerprint,
        )

    def __or__(self, other: "Groups") -> "Groups":
        """Group by group, the points in either."""
        return _combine(self, other, np.union1d, "|")

    def __and__(self, other: "Groups") -> "Groups":
        """Group by group, the points in both."""
        return _combine(self, other, np.intersect1d, "&")

    def __sub__(self, other: "Groups") -> "Groups":
        """Group by group, the points in the first and not in the second."""
        return _combine(self, other, np.setdiff1d, "-")

    def __invert__(self) -> "Groups":
        """Group by group, the points that stay."""
        check_whole(self.w)
        lists = [np.setdiff1d(np.arange(self.n), part, assume_unique=True) for part in _lists(self)]
        names = [f"not {name}" for name in self.names]
        made = Groups.from_indices(
            lists, n=self.n, names=names, kind=self.kind, coalitions=self.coalitions
        )
        return dataclasses.replace(made, fingerprint=self.fingerprint)

    # ---- files ----------------------------------------------------------------------------------

    def save(self, path) -> None:
        """Write to an .npz file, whole or not at all, without pickle."""
        write_npz(path, "groups", self.arrays())

    def arrays(self) -> dict[str, np.ndarray]:
        """What a file holds of them; `checked` takes it back."""
        arrays = {
            "n": np.array(self.n),
            "indices": self.indices,
            "offsets": self.offsets,
            "names": np.asarray(self.names, str),
            "kind": np.asarray(self.kind, str),
            "notes": np.array(self.notes, str),
        }
        if self.partial is not None:
            arrays["weights"] = self.partial
        if self.fingerprint is not None:
            arrays["fingerprint"] = np.asarray(self.fingerprint)
        flags = {"coalitions": self.coalitions, "scaled": self.scaled}
        return arrays | {name: np.array(True) for name, raised in flags.items() if raised}

    @classmethod
    def stored(cls) -> tuple[str, ...]:
        """Names that a file may hold of them."""
        return tuple(inspect.signature(cls.checked).parameters)

    @classmethod
    def load(cls, path) -> "Groups":
        """Groups written by `save`.

        Raises:
            ValueError: if the file is not one of ours, is damaged, or lacks a part.
        """
        file: dict[str, Any] = read_npz(path, "groups", cls.stored())
        try:
            return cls.checked(**file)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is damaged: {error}") from error

    @classmethod
    def checked(
        cls,
        n,
        indices,
        offsets,
        names,
        kind,
        weights=None,
        notes=(),
        coalitions=False,
        scaled=False,
        fingerprint=None,
    ) -> "Groups":
        """Groups from stored arrays, `weights` their w, with every check of those that are made."""
        offsets, indices, names, kind = (
            np.asarray(part) for part in (offsets, indices, names, kind)
        )
        check_stored(n, offsets, indices, weights, names, kind)
        if fingerprint is not None and (fingerprint.shape, fingerprint.dtype) != ((4,), np.uint32):
            raise ValueError("its fingerprint of an index is none")
        notes = [str(note) for note in notes]
        of = (names, kind, notes, bool(coalitions), fingerprint)
        made = _checked(int(n), indices, offsets, weights, *of)
        return dataclasses.replace(made, scaled=bool(scaled))

    def with_w(self, w: np.ndarray, *, scaled: bool = False) -> "Groups":
        """The same groups, another w (nnz) of their points, checked as in `from_weights`.

        Raises:
            ValueError: for a w above 1, or not finite, with the group's name.
        """
        points, named = (self.n, self.indices, self.offsets, w), (self.names, self.kind, self.notes)
        made = _checked(*points, *named, self.coalitions, self.fingerprint)
        return dataclasses.replace(made, scaled=scaled)


def _coded(made: Coded, kind) -> "Groups":
    """Groups of points, each in the group that its code says."""
    order = np.argsort(made.code, kind="stable")
    w = None if made.w is None else made.w[order]
    offsets = offsets_of(made.code, len(made.names))
    of, rows = (made.names, kind, made.notes), made.fingerprint
    return _checked(made.n, made.points[order], offsets, w, *of, fingerprint=rows)


def _lists(groups: Groups) -> list[np.ndarray]:
    return np.split(groups.indices, groups.offsets[1:-1])


def _checked(
    n, indices, offsets, w, names, kind, notes: Iterable[str] = (), coalitions: bool = False,
    fingerprint: Fingerprint | None = None,
) -> Groups:  # fmt: skip
    """Groups after every check, points sorted within each group."""
    parts = checked_parts(n, indices, offsets, w, names, kind, coalitions)
    return Groups(int(n), *parts, tuple(notes), coalitions, fingerprint=fingerprint)


def _combine(one: Groups, other: Groups, points_of: Callable, sign: str) -> Groups:
    """Group by group set algebra; a single group goes with every group of the other side."""
    check_same(one, other, sign)
    check_whole(one.w)
    check_whole(other.w)
    count = check_pairs(len(one), len(other), sign)
    first = one if len(one) == count else one[np.zeros(count, int)]
    second = other if len(other) == count else other[np.zeros(count, int)]
    lists = [points_of(a, b) for a, b in zip(_lists(first), _lists(second), strict=True)]
    names = [f"{a} {sign} {b}" for a, b in zip(first.names, second.names, strict=True)]
    either = one.coalitions or other.coalitions
    made = Groups.from_indices(lists, n=one.n, names=names, kind=first.kind, coalitions=either)
    rows = other.fingerprint if one.fingerprint is None else one.fingerprint
    return dataclasses.replace(made, fingerprint=rows)
