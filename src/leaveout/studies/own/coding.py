"""How the columns of a table become numbers: learnt from training rows, applied to any.

    number      as it is, or in standard deviations from its mean
    boolean     0 and 1
    category    a column for each category but the first, the reference
    text        a column a word, by one of scikit-learn's vectorizers: see `words`

What is missing is refused, or has the median in its place and a column that says so ("age
missing"); a category that is missing is one of its own. Blocks of many categories are sparse.
"""

import abc
import dataclasses
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np

from leaveout.runtime.columns import Column, as_numbers, codes
from leaveout.runtime.memory import DENSE_COPY
from leaveout.runtime.tables import Rows, is_sparse
from leaveout.studies.own.frames import Frame

__all__ = [
    "MANY", "MISSING", "Block", "Category", "Coding", "Columns", "Number", "Part", "beside",
    "finite_numbers", "written_out",
]  # fmt: skip

#: coded columns (n k), dense or sparse
if TYPE_CHECKING:
    Block: TypeAlias = Any
else:
    Block = np.ndarray | Rows

MANY = 100  # categories from which a block is sparse
MISSING = "missing"  # what an absent category is called


class Part(abc.ABC):
    """How one column is coded.

    Attributes:
        source: its name.
        names: of the columns it becomes.
    """

    source: str

    @property
    @abc.abstractmethod
    def names(self) -> tuple[str, ...]:
        """Of the columns that it becomes."""

    @abc.abstractmethod
    def coded(self, given: Column) -> tuple[Block, np.ndarray]:
        """The columns (n k), and which rows have what the training rows had (n)."""

    @abc.abstractmethod
    def record(self) -> dict[str, Any]:
        """What was learnt, for a file."""


@dataclasses.dataclass(frozen=True)
class Number(Part):
    """A number, (value - middle) / scale.

    Attributes:
        source: the column.
        kind: "number" or "boolean".
        middle: what is taken away.
        scale: what it is divided by.
        fill: in the place of what is missing, which then has a column that says so; or None.
    """

    source: str
    kind: str = "number"
    middle: float = 0.0
    scale: float = 1.0
    fill: float | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The column's, and that of what is missing."""
        return (self.source,) if self.fill is None else (self.source, f"{self.source} {MISSING}")

    def coded(self, given: Column) -> tuple[np.ndarray, np.ndarray]:
        """The number, and whether it was missing."""
        values = finite_numbers(self.source, given)
        known = given.there | (self.fill is not None)
        values = np.where(given.there, values, 0.0 if self.fill is None else self.fill)
        columns = [(values - self.middle) / self.scale]
        if self.fill is not None:
            columns.append((~given.there).astype(float))
        return np.stack(columns, axis=1), known

    def record(self) -> dict[str, Any]:
        """Its fields."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Category(Part):
    """Indicators of all categories but the first.

    Attributes:
        source: the column.
        levels: the categories of the training rows, the reference first.
        absent: whether what is missing is a category of its own, the last.
    """

    source: str
    levels: tuple
    absent: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """column=category."""
        said = [*(str(level) for level in self.levels[1:]), *([MISSING] if self.absent else [])]
        return tuple(f"{self.source}={level}" for level in said)

    def coded(self, given: Column) -> tuple[Block, np.ndarray]:
        """0 and 1; a category that no training row has is not known."""
        code = np.full(given.there.size, -1)
        code[given.there] = codes(given.values[given.there], self.levels)
        if self.absent:
            code[~given.there] = len(self.levels)
        return _indicators(code - 1, len(self.names)), code >= 0

    def record(self) -> dict[str, Any]:
        """Its fields."""
        levels = [level if isinstance(level, str | bool | int | float) else str(level)
                  for level in self.levels]  # fmt: skip
        return {"source": self.source, "kind": "category", "levels": levels, "absent": self.absent}


def _indicators(code: np.ndarray, count: int) -> Block:
    """(n count) 1 where the code says, nothing where it is negative."""
    if count <= MANY:
        return (code[:, None] == np.arange(count)).astype(float)
    from scipy.sparse import csr_array

    rows = np.flatnonzero(code >= 0)
    entries = (np.ones(rows.size), (rows, code[rows]))
    return csr_array(entries, shape=(code.size, count))


class Coding(abc.ABC):
    """How a table becomes inputs."""

    @property
    def intercept(self) -> bool:
        """Whether the model has one of its own."""
        return True

    @property
    @abc.abstractmethod
    def names(self) -> tuple[str, ...]:
        """(d) of the inputs."""

    @abc.abstractmethod
    def inputs(self, frame: Frame) -> tuple[Block, np.ndarray]:
        """Inputs (n d), and which rows have what the training rows had (n)."""

    @abc.abstractmethod
    def record(self) -> list[dict[str, Any]]:
        """What was learnt, for a file."""


@dataclasses.dataclass(frozen=True)
class Columns(Coding):
    """Column by column.

    Attributes:
        parts: how each is coded.
    """

    parts: tuple[Part, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Those of the parts, one after the other."""
        return tuple(name for part in self.parts for name in part.names)

    def inputs(self, frame: Frame) -> tuple[Block, np.ndarray]:
        """The blocks side by side, sparse where one is and a dense copy would be large."""
        each = [part.coded(frame[part.source]) for part in self.parts]
        known = np.logical_and.reduce([known for _, known in each])
        return beside([block for block, _ in each]), known

    def record(self) -> list[dict[str, Any]]:
        """Of each part."""
        return [part.record() for part in self.parts]


def beside(blocks: list[Block]) -> Block:
    """Blocks side by side: sparse where one is, and it is wide or a dense copy would be large."""
    if not any(is_sparse(block) for block in blocks):
        return np.concatenate(blocks, axis=1)
    from scipy.sparse import csr_array, hstack

    found = cast(Rows, csr_array(hstack([csr_array(block) for block in blocks], format="csr")))
    n, d = found.shape
    return found.toarray() if d <= n and 8 * n * d <= DENSE_COPY else found


def written_out(block: Block, n: int, known: np.ndarray, columns: np.ndarray) -> Block:
    """(n k) some columns of a block that has the known rows only; the others are zeros."""
    if not is_sparse(block):
        found = np.zeros((n, columns.size))
        found[known] = np.asarray(block, float)[:, columns]
        return found
    from scipy.sparse import csr_array

    place = csr_array((np.ones(known.sum()), (np.flatnonzero(known), np.arange(known.sum()))),
                      shape=(n, int(known.sum())))  # fmt: skip
    return beside([csr_array(place @ csr_array(block)[:, columns])])


def finite_numbers(name: str, given: Column) -> np.ndarray:
    """The entries as numbers, finite where there are any.

    Raises:
        ValueError: for text, or an infinity.
    """
    values = as_numbers(given)
    if values is None:
        raise ValueError(f"column {name!r} holds text in rows to be coded, and was numbers before")
    values = values.astype(float)
    bad = np.flatnonzero(np.isinf(values) & given.there)
    if bad.size:
        raise ValueError(
            f"column {name!r} is {values[bad[0]]} in row {bad[0]} ({bad.size:,} such entries); "
            "make them missing, or drop these rows"
        )
    return values
