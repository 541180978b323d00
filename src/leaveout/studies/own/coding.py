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
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from leaveout.runtime.columns import Column, as_numbers, codes, distinct
from leaveout.runtime.memory import DENSE_COPY
from leaveout.runtime.tables import Rows, is_sparse
from leaveout.runtime.text import shortened
from leaveout.studies.own.frames import Frame, kind_of

__all__ = ["Block", "Category", "Coding", "Columns", "Number", "Part", "learnt"]

#: coded columns (n k), dense or sparse
if TYPE_CHECKING:
    Block: TypeAlias = Any
else:
    Block = np.ndarray | Rows

_MANY = 100  # categories from which a block is sparse
_MISSING = "missing"  # what an absent category is called


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
        return (self.source,) if self.fill is None else (self.source, f"{self.source} {_MISSING}")

    def coded(self, given: Column) -> tuple[np.ndarray, np.ndarray]:
        """The number, and whether it was missing."""
        values = _numbers(self.source, given)
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
        said = [*(str(level) for level in self.levels[1:]), *([_MISSING] if self.absent else [])]
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
    if count <= _MANY:
        return (code[:, None] == np.arange(count)).astype(float)
    from scipy.sparse import csr_array

    rows = np.flatnonzero(code >= 0)
    entries = (np.ones(rows.size), (rows, code[rows]))
    return csr_array(entries, shape=(code.size, count))


class Coding(abc.ABC):
    """How a table becomes inputs.

    Attributes:
        intercept: whether the model has one of its own.
    """

    intercept: bool

    @property
    @abc.abstractmethod
    def names(self) -> tuple[str, ...]:
        """(d) of the inputs."""

    @property
    @abc.abstractmethod
    def sources(self) -> tuple[str, ...]:
        """The columns that it takes."""

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
        intercept: whether the model has one.
    """

    parts: tuple[Part, ...]
    intercept: bool = True

    @property
    def names(self) -> tuple[str, ...]:
        """Those of the parts, one after the other."""
        return tuple(name for part in self.parts for name in part.names)

    @property
    def sources(self) -> tuple[str, ...]:
        """Of each part."""
        return tuple(part.source for part in self.parts)

    def inputs(self, frame: Frame) -> tuple[Block, np.ndarray]:
        """The blocks side by side, sparse where one is and a dense copy would be large."""
        each = [part.coded(frame[part.source]) for part in self.parts]
        known = np.logical_and.reduce([known for _, known in each])
        return _beside([block for block, _ in each]), known

    def record(self) -> list[dict[str, Any]]:
        """Of each part."""
        return [part.record() for part in self.parts]


def _beside(blocks: list[Block]) -> Block:
    if not any(is_sparse(block) for block in blocks):
        return np.concatenate(blocks, axis=1)
    from scipy.sparse import csr_array, hstack

    found = csr_array(hstack([csr_array(block) for block in blocks], format="csr"))
    n, d = found.shape
    return found.toarray() if d <= n and 8 * n * d <= DENSE_COPY else found


# ---- learnt from training rows -------------------------------------------------------------------


def learnt(
    frame: Frame, features: Mapping[str, object], *, indicator: bool, standardise: bool
) -> Columns:
    """How these columns are coded, from the training rows.

    Args:
        frame: the training rows.
        features: column to its kind, None for what the column says, or a vectorizer.
        indicator: whether what is missing is coded; if not, nothing is.
        standardise: numbers in standard deviations from their mean.
    """
    parts = [_part(frame, name, kind, indicator, standardise) for name, kind in features.items()]
    return Columns(tuple(part for part in parts if part.names))


def _part(frame: Frame, name: str, kind: object, indicator: bool, standardise: bool) -> Part:
    given = frame[name]
    found = kind_of(given) if kind is None else kind
    if found == "nothing":
        raise ValueError(f"column {name!r} has no entries, all are missing; leave it out")
    if found == "date":
        raise ValueError(
            f"column {name!r} holds dates: give numbers, such as days since one of them, or "
            "categories, such as the month; or leave it out"
        )
    if found == "mixed":
        raise ValueError(
            f"column {name!r} holds {_mixture(given)}; make it all numbers or all text"
        )
    absent = indicator and not given.there.all()
    if found in ("number", "boolean"):
        return _number(name, given, str(found), absent, standardise)
    levels = frame.levels.get(name) or distinct(given.values[given.there])[0]
    there = set(given.values[given.there].tolist())
    return Category(name, tuple(_plain(one) for one in levels if one in there), absent)


def _number(name: str, given: Column, kind: str, absent: bool, standardise: bool) -> Number:
    values = _numbers(name, given)[given.there]
    fill = float(np.median(values)) if absent else None
    if not standardise or kind == "boolean":
        return Number(name, kind, fill=fill)
    whole = values if fill is None else np.append(values, np.full(int((~given.there).sum()), fill))
    return Number(name, kind, float(whole.mean()), float(whole.std()) or 1.0, fill)


def _numbers(name: str, given: Column) -> np.ndarray:
    """The entries as finite numbers, where there are any."""
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


def _mixture(given: Column) -> str:
    """What a column of several types holds, in words."""
    types = sorted({type(value).__name__ for value in given.values[given.there].tolist()})
    return f"entries of several types ({shortened(types)})"


def _plain(level: object) -> object:
    return level.item() if isinstance(level, np.generic) else level
