"""A user's table: columns by their names, from a frame or a file, read as they mean it."""

import dataclasses
import datetime
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from leaveout.runtime.columns import Column, as_numbers, column
from leaveout.runtime.extras import needed
from leaveout.runtime.tables import columns_of, names_of
from leaveout.runtime.text import did_you_mean, shortened

__all__ = ["Frame", "is_path", "kind_of", "read", "read_file"]

_DATES = datetime.date | datetime.datetime | np.datetime64
_UNNAMED = "Unnamed: 0"  # what pandas calls an index that was saved as a column


@dataclasses.dataclass(frozen=True, eq=False)
class Frame:
    """Columns by name, an entry a row.

    Attributes:
        columns: name to the column.
        levels: name to the categories of a column that declares them, in its order.
        title: what it is called in messages.
        notes: on what was read.
        at: (n) which rows of the whole table these are; default all.
    """

    columns: dict[str, Column]
    levels: dict[str, tuple]
    title: str
    notes: tuple[str, ...] = ()
    at: np.ndarray | None = None

    @property
    def n(self) -> int:
        """Rows."""
        return len(next(iter(self.columns.values())).there)

    @property
    def positions(self) -> np.ndarray:
        """(n) of the rows in the whole table."""
        return np.arange(self.n) if self.at is None else self.at

    def __getitem__(self, name: str) -> Column:
        """A column.

        Raises:
            ValueError: where there is none of that name, with the nearest.
        """
        if name not in self.columns:
            near = did_you_mean(name, self.columns)
            raise ValueError(f"{self.title} has no column {name!r}{near}")
        return self.columns[name]

    def rows(self, kept: np.ndarray) -> "Frame":
        """Some of the rows: positions, or booleans (n)."""
        columns = {n: Column(c.values[kept], c.there[kept]) for n, c in self.columns.items()}
        return dataclasses.replace(self, columns=columns, at=self.positions[kept])


def is_path(given: object) -> TypeGuard[str | os.PathLike[str]]:
    """Whether it names a file."""
    return isinstance(given, str | os.PathLike)


def read(given: object, title: str = "the table") -> Frame:
    """A table of pandas, polars or pyarrow, a dictionary of columns, or a CSV or Parquet file.

    What was read already stays as it is.

    Raises:
        ValueError: for anything else; without rows or columns; for a name that is there twice.
        FileNotFoundError: for a path that is none.
    """
    if isinstance(given, Frame):
        return given
    if is_path(given):
        return read_file(Path(given))
    if isinstance(given, Mapping):
        named = {str(name): column(part) for name, part in given.items()}
        return _checked(list(named), named.values(), {}, title)
    names = names_of(given)
    if names is None:
        raise ValueError(
            "expected a table of pandas, polars or pyarrow, a dictionary of columns, or the path "
            f"of a CSV or Parquet file, got {type(given).__name__}"
        )
    parts = list(columns_of(given))
    names = [str(name) for name in names]
    levels = {name: _declared(part) for name, part in zip(names, parts, strict=True)}
    known = {name: found for name, found in levels.items() if found}
    return _checked(names, map(column, parts), known, title)


def _checked(names: list[str], parts: Iterable[Column], levels, title: str) -> Frame:
    """The frame, if it has rows and columns, all of one length, each of a name of its own."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(
            f"{title} has more than one column named {shortened(twice)}; rename or drop them"
        )
    frame = Frame(dict(zip(names, parts, strict=True)), levels, title)
    for name, part in frame.columns.items():
        if part.there.ndim != 1:
            raise ValueError(f"expected column {name!r} of {title} as one entry a row")
    lengths = {len(part.there) for part in frame.columns.values()}
    if lengths in (set(), {0}):
        raise ValueError(f"{title} is empty: it has {len(names)} columns and no rows")
    if len(lengths) > 1:
        raise ValueError(f"the columns of {title} have different lengths, {sorted(lengths)}")
    return frame


def _declared(part: Any) -> tuple:
    """The categories that a column declares, in their order; sorted where that is by chance.

    pandas has an order always, others where they say so (Enum): what polars and pyarrow call
    categories besides are numbered as they come.
    """
    import narwhals.stable.v2 as nw

    series = nw.from_native(part, series_only=True)
    if not isinstance(series.dtype, nw.Categorical | nw.Enum):
        return ()
    found = series.cat.get_categories().to_list()
    meant = series.implementation.is_pandas() or isinstance(series.dtype, nw.Enum)
    return tuple(found if meant else sorted(found, key=str))


# ---- files ---------------------------------------------------------------------------------------


def read_file(path: Path, kind: str | None = None) -> Frame:
    """A table from a file.

    Args:
        path: of the file.
        kind: "csv", "tsv" or "parquet"; default what its name says.

    Raises:
        ValueError: if the name does not say, or the file is not sound.
        FileNotFoundError: if there is none.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    kind = kind or _kind_of_file(path)
    return read(_parquet(path), path.name) if kind == "parquet" else _csv(path, kind)


def _kind_of_file(path: Path) -> str:
    """What its name says."""
    endings = [ending.lower() for ending in path.suffixes]
    if endings[-1:] in ([".parquet"], [".pq"]):
        return "parquet"
    if {".csv", ".tsv", ".txt"} & set(endings):
        return "csv"
    raise ValueError(
        f"expected a file ending in .csv, .tsv or .parquet, got {path.name}; read it with your own "
        "library and give the table"
    )


def _parquet(path: Path):
    with needed("a Parquet file", "table"):
        import pyarrow.parquet
    try:
        return pyarrow.parquet.read_table(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is no sound Parquet file: {error}") from error


def _csv(path: Path, kind: str) -> Frame:
    """A CSV file by pandas: separated by commas, semicolons or tabs, whichever its first line has.

    What is called "tsv" is separated by tabs.

    Raises:
        ValueError: if it is empty, no text, or has rows of different lengths.
    """
    with needed("a CSV file", "table"):
        import pandas as pd
    try:
        first = pd.read_csv(path, sep="\x01", header=None, nrows=1, dtype=str, encoding="utf-8-sig")
        line = str(first.iat[0, 0])
        sep = "\t" if kind == "tsv" else max(",;\t", key=line.count)
        options: dict[str, Any] = {"sep": sep, "encoding": "utf-8-sig"}
        names = pd.read_csv(path, header=None, nrows=1, dtype=str, **options).iloc[0]
        table = pd.read_csv(path, low_memory=False, **options)
    except pd.errors.EmptyDataError:
        raise ValueError(f"{path} is empty") from None
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8 ({error.reason} at byte {error.start:,}); read it with "
            "pandas.read_csv(path, encoding=...) and give the table"
        ) from error
    except pd.errors.ParserError as error:
        raise ValueError(f"{path} is no sound CSV file: {str(error).strip()}") from error
    given = [str(name) for name in names if isinstance(name, str)]
    twice = sorted({name for name in given if given.count(name) > 1})
    if twice:
        raise ValueError(
            f"{path.name} has more than one column named {shortened(twice)}; rename or drop them"
        )
    note = ()
    if _UNNAMED in table:
        table, note = table.drop(columns=_UNNAMED), ("a first column without a name was left out",)
    return dataclasses.replace(read(table, path.name), notes=note)


# ---- kinds ---------------------------------------------------------------------------------------


def kind_of(given: Column) -> str:
    """What a column holds: "number", "boolean", "date", "text", "nothing" or "mixed".

    Text that reads as dates (2024-01-31, with or without a time) in every row is "date".
    """
    values = given.values[given.there]
    if values.size == 0:
        return "nothing"
    kind = values.dtype.kind
    if kind != "O":
        plain = {"b": "boolean", "i": "number", "u": "number", "f": "number", "M": "date"}
        return plain.get(kind, "text" if kind in "US" else "mixed")
    if all(isinstance(value, bool | np.bool_) for value in values):
        return "boolean"
    if all(isinstance(value, str) for value in values):
        return "date" if _read_as_dates(values) else "text"
    if all(isinstance(value, _DATES) for value in values):
        return "date"
    booleans = any(isinstance(value, bool | np.bool_) for value in values)
    return "mixed" if booleans or as_numbers(given) is None else "number"


def _read_as_dates(values: np.ndarray) -> bool:
    try:
        for value in values:
            datetime.datetime.fromisoformat(value)
    except ValueError:
        return False
    return not all(value.isdigit() for value in values)  # 20240131 is a number, or a name
