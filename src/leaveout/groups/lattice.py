"""Groups that can be described: conjunctions of what columns of a table say.

A predicate is a column with one of its values, or a number in one of a few intervals. Values of one
column share no example, so that all conjunctions of some columns are the cells of one table: they
are counted, and sums over them made, by one pass over the examples a set of columns.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from leaveout.groups.container import Groups
from leaveout.runtime.columns import Column, column, distinct
from leaveout.runtime.options import check_integer
from leaveout.runtime.tables import Fingerprint, as_columns, common_rows, names_of

__all__ = ["Cells", "Lattice", "conjunctions"]

_FEW = 10  # distinct numbers up to which each is a value of its own


class Cells(NamedTuple):
    """The conjunctions of some columns that hold enough examples.

    Attributes:
        columns: (k) which columns.
        keys: (q k) the value of each.
        rows: (r) the examples that are in one of them.
        code: (r) in which.
        held: (q) how many examples each holds.

    Example:
        >>> table = {"ward": np.arange(24) // 6, "sex": ["f", "m"] * 12}
        >>> cells = next(lo.groups.Lattice.of(table, support=(0.1, 0.3)).cells())
        >>> cells.columns, cells.held.tolist()  # both columns: 2 x 4 conjunctions of 3 examples
        ((0, 1), [3, 3, 3, 3, 3, 3, 3, 3])
        >>> cells.sums(np.ones(24)).shape
        (8,)
    """

    columns: tuple[int, ...]
    keys: np.ndarray
    rows: np.ndarray
    code: np.ndarray
    held: np.ndarray

    def sums(self, values: np.ndarray) -> np.ndarray:
        """(q) the sum over each conjunction of values (n)."""
        return np.bincount(self.code, values[self.rows], len(self.held))

    def some(self, which: np.ndarray) -> "Cells":
        """Those of the conjunctions that are true in which (q)."""
        number = np.where(which, np.cumsum(which) - 1, -1)[self.code]
        in_one = number >= 0
        keys, held = self.keys[which], self.held[which]
        return Cells(self.columns, keys, self.rows[in_one], number[in_one], held)


@dataclasses.dataclass(frozen=True, eq=False)
class Lattice:
    """All conjunctions of up to `depth` predicates that hold `least` to `most` examples.

    Attributes:
        columns: names of the columns, sorted.
        values: for each column what its predicates say, such as "sex = Male".
        codes: (n c) which value an example has; -1 where too few have it.
        depth: predicates of a conjunction, at most.
        least: examples that it holds, at least.
        most: and at most.
        fingerprint: which rows the examples are, or None.

    Example:
        >>> table = {"ward": np.arange(24) // 6, "sex": ["f", "m"] * 12}
        >>> lattice = lo.groups.Lattice.of(table, support=(0.1, 0.3))
        >>> lattice.columns, lattice.codes.shape
        (('sex', 'ward'), (24, 2))
        >>> sum(len(cells.held) for cells in lattice.cells())
        12
    """

    columns: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]
    codes: np.ndarray
    depth: int
    least: int
    most: int
    fingerprint: Fingerprint | None = None

    @classmethod
    def of(
        cls, frame, *, depth: int = 3, support: tuple[float, float] = (0.01, 0.15), bins: int = 4
    ) -> "Lattice":
        """The lattice of a table; arguments as in `conjunctions`.

        Raises:
            ValueError: for columns of unlike lengths or without a name, or settings that are no
                such numbers.
        """
        check_integer(depth, "depth")
        check_integer(bins, "bins", least=2)
        named = _columns_of(frame)
        n = len(next(iter(named.values())).there)
        least, most = _bounds(support, n)
        coded = {name: _coded(name, named[name], bins) for name in sorted(named)}
        codes = np.stack([code for _, code in coded.values()], axis=1)
        for j, (texts, _) in enumerate(coded.values()):
            held = codes[:, j] >= 0
            count = np.bincount(codes[held, j], minlength=len(texts))
            codes[held & (count[codes[:, j]] < least), j] = -1
        values = tuple(tuple(texts) for texts, _ in coded.values())
        rows = common_rows(frame=frame)
        return cls(tuple(coded), values, codes, int(depth), least, most, rows)

    @property
    def n(self) -> int:
        """Number of examples."""
        return len(self.codes)

    def cells(self) -> Iterator[Cells]:
        """The conjunctions that hold `least` to `most` examples, columns after columns."""
        rows = np.arange(self.n)
        whole = Cells((), np.zeros((1, 0), int), rows, np.zeros(self.n, int), np.array([self.n]))
        for found in self._below(whole):
            fits = found.held <= self.most
            if fits.any():
                yield found if fits.all() else found.some(fits)

    def _below(self, parent: Cells) -> Iterator[Cells]:
        """Conjunctions with one more column than the parent's, behind its last; then theirs."""
        begin = parent.columns[-1] + 1 if parent.columns else 0
        for j in range(begin, len(self.columns)):
            child = self._split(parent, j)
            if len(child.held):
                yield child
                if len(child.columns) < self.depth:
                    yield from self._below(child)

    def _split(self, parent: Cells, j: int) -> Cells:
        """The parent's conjunctions, each with every value of column j, that hold enough."""
        width, value = len(self.values[j]), self.codes[parent.rows, j]
        there = value >= 0
        joint = parent.code[there] * width + value[there]
        count = np.bincount(joint, minlength=len(parent.held) * width)
        at = np.arange(count.size)
        keys = np.column_stack([parent.keys[at // width], at % width])
        every = Cells((*parent.columns, j), keys, parent.rows[there], joint, count)
        return every.some(count >= self.least)

    def predicates(self, cells: Cells) -> np.ndarray:
        """(q depth) the conjunctions as numbers of predicates over all columns, -1 for none."""
        first = np.cumsum([0, *map(len, self.values)])
        out = np.full((len(cells.held), self.depth), -1)
        out[:, : len(cells.columns)] = cells.keys + first[list(cells.columns)][None]
        return out

    def name(self, predicates: np.ndarray) -> str:
        """What a conjunction (depth) is called."""
        every = [text for texts in self.values for text in texts]
        return " and ".join(every[one] for one in predicates if one >= 0)

    def members(self, predicates: np.ndarray) -> np.ndarray:
        """The examples of a conjunction (depth)."""
        first = np.cumsum([0, *map(len, self.values)])
        held = np.ones(self.n, bool)
        for one in predicates[predicates >= 0]:
            j = int(np.searchsorted(first, one, side="right")) - 1
            held &= self.codes[:, j] == one - first[j]
        return np.flatnonzero(held)

    def groups(self, predicates: np.ndarray) -> Groups:
        """Some conjunctions (g depth) as groups."""
        lists = [self.members(one) for one in predicates]
        names = [self.name(one) for one in predicates]
        made = Groups.from_indices(lists, n=self.n, names=names, kind="conjunction")
        return dataclasses.replace(made, fingerprint=self.fingerprint)


def conjunctions(
    frame,
    *,
    depth: int = 3,
    support: tuple[float, float] = (0.01, 0.15),
    bins: int = 4,
) -> Groups:
    """Groups that can be described: every conjunction of predicates of a table.

    They overlap, and some hold the same examples in other words. Cost: a pass over the n examples
    for each of the sets of up to `depth` columns.

    Args:
        frame: a table of pandas, polars or pyarrow, or a dictionary of names to columns (n).
            Numbers and dates of more than ten values are cut at their quantiles, and one that more
            than an interval's share of the examples have stands alone; of other columns each value
            is a predicate, and so is that one is missing. Give it without the columns that a group
            should not be described by, for instance the label.
        depth: predicates of a conjunction, at most.
        support: of the examples, the shares that a conjunction holds at least and at most.
        bins: intervals of a column of numbers.

    Returns:
        groups named as in "hours in [45, 99] and sex = Male", predicates in the order of their
        columns' names; an interval begins and ends with a number that occurs.

    Raises:
        ValueError: for columns of unlike lengths or without a name, or where nothing has such a
            support.

    Example:
        >>> table = {"ward": np.arange(24) // 6, "sex": ["f", "m"] * 12}
        >>> found = lo.groups.conjunctions(table, support=(0.1, 0.3))
        >>> len(found), found.names[[0, -1]].tolist()
        (12, ['sex = f and ward = 0', 'ward = 3'])
    """
    lattice = Lattice.of(frame, depth=depth, support=support, bins=bins)
    found = [lattice.predicates(cells) for cells in lattice.cells()]
    if not found:
        raise ValueError(
            f"no conjunction holds {lattice.least:,} to {lattice.most:,} of {lattice.n:,} "
            "examples; widen support"
        )
    return lattice.groups(np.concatenate(found))


def _columns_of(frame) -> dict[str, Column]:
    """The columns of a table by name, all of one length."""
    if isinstance(frame, Mapping):
        named = {str(name): column(values) for name, values in frame.items()}
    else:
        names = names_of(frame)
        if names is None:
            raise ValueError(
                "expected a table of pandas, polars or pyarrow, or a dictionary of names to "
                f"columns, got {type(frame).__name__}"
            )
        if len(set(map(str, names))) < len(names):
            raise ValueError("expected columns of different names")
        named = dict(zip(map(str, names), as_columns(frame), strict=True))
    lengths = {name: each.there.shape for name, each in named.items()}
    if len(set(lengths.values())) != 1 or len(next(iter(lengths.values()))) != 1:
        raise ValueError(f"expected columns of one length, got {lengths}")
    return named


def _bounds(support, n: int) -> tuple[int, int]:
    """How many examples the shares are."""
    shares = np.asarray(support, float)
    if shares.shape != (2,) or not 0 < shares[0] <= shares[1] < 1:
        raise ValueError(f"expected support as two shares 0 < least <= most < 1, got {support!r}")
    return max(int(np.ceil(shares[0] * n)), 1), int(shares[1] * n)


def _coded(name: str, given: Column, bins: int) -> tuple[list[str], np.ndarray]:
    """What the predicates of a column say, and which of them holds of each example."""
    values, there = given
    texts, code = _cut(name, values[there], bins)
    out = np.full(there.size, len(texts))
    out[there] = code
    return [*texts, f"{name} is missing"], out


def _cut(name: str, known: np.ndarray, bins: int) -> tuple[list[str], np.ndarray]:
    """The values of a column, or intervals between its quantiles; a frequent number is its own."""
    if known.dtype.kind == "O" and all(isinstance(one, int | float) for one in known.tolist()):
        known = known.astype(float)
    found, code = distinct(known)
    if len(found) <= _FEW or known.dtype.kind not in "fiuM":
        return [f"{name} = {one}" for one in found], code
    values, count = np.array(found), np.bincount(code)
    own = np.flatnonzero(count > known.size / bins)
    at = np.arange(bins) * known.size // bins
    first = np.concatenate([np.sort(code)[at], own, own + 1])
    first = np.unique(first[first < len(found)])  # the values at which intervals begin
    last = np.append(first[1:], len(found)) - 1
    texts = [
        f"{name} = {_text(values[a])}"
        if a == b
        else f"{name} in [{_text(values[a])}, {_text(values[b])}]"
        for a, b in zip(first, last, strict=True)
    ]
    return texts, np.searchsorted(first, code, side="right") - 1


def _text(edge) -> str:
    """An edge as text, a whole number without its point."""
    return str(edge) if np.asarray(edge).dtype.kind == "M" else f"{edge:.6g}"
