"""One column of a user's: numbers, texts or dates of any library, what is missing, labels coded.

An array, a list, or a column of pandas, polars or pyarrow (through narwhals). Nothing becomes text
on the way: 1 and "1" are two labels, and a missing label is none.
"""

import decimal
import numbers
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from typing import NamedTuple

import numpy as np

__all__ = [
    "Column",
    "as_numbers",
    "codes",
    "column",
    "distinct",
    "levels_of",
    "name_of",
    "numbered",
    "plain",
    "refuse_text_of_missing",
    "told_apart",
]

#: what NaN, NA and NaT read as text
_TEXTS = ("nan", "<NA>", "NaT")
_NUMBERS = (numbers.Real, decimal.Decimal, np.bool_)


class Column(NamedTuple):
    """An entry a row.

    Attributes:
        values: (n ...) NumPy's numbers, dates or text, or objects; anything where one is missing.
        there: of the same shape, which are not missing.
    """

    values: np.ndarray
    there: np.ndarray


def column(given: object) -> Column:
    """A column of any library, a list or an array, read without changing what it means."""
    if isinstance(given, Column):
        return given
    if not isinstance(given, np.ndarray):  # for which nothing is loaded
        import narwhals.stable.v2 as nw

        series = nw.from_native(given, series_only=True, pass_through=True)
        if isinstance(series, nw.Series):
            return _of_series(series)
    if isinstance(given, np.ma.MaskedArray):
        values = np.asarray(given.data)
        return Column(values, _there(values) & ~np.ma.getmaskarray(given))
    values = _as_array(given)
    if values.dtype.kind in "US" and not isinstance(given, np.ndarray):
        values = np.asarray(given, object)  # NumPy makes text of NaN and of 1 among text
    return Column(values, _there(values))


def _as_array(given: object) -> np.ndarray:
    try:
        return np.asarray(given)
    except ValueError as error:  # NumPy's words for it are about dimensions
        raise ValueError(f"expected entries of one shape, got lists of several: {error}") from error


def _of_series(series) -> Column:
    """Numbers as numbers, dates as dates, everything else as the objects that it holds."""
    import narwhals.stable.v2 as nw

    kind, there = series.dtype, ~series.is_null().to_numpy().astype(bool)
    if kind.is_integer() or kind == nw.Boolean:
        values = series.fill_null(False if kind == nw.Boolean else 0).to_numpy()
    elif kind.is_numeric():
        values = series.cast(nw.Float64).to_numpy()
    elif isinstance(kind, nw.Datetime) and kind.time_zone is None:
        values = series.to_numpy()
    else:
        values = np.empty(len(series), object)
        values[:] = series.to_list()
    return Column(values, there & _there(values))


def _there(values: np.ndarray) -> np.ndarray:
    """Which entries are not missing."""
    if values.dtype.kind == "O":
        flat = [not _missing(value) for value in values.ravel()]
        return np.array(flat, bool).reshape(values.shape)
    return values == values  # neither NaN nor NaT


def _missing(value: object) -> bool:
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    try:
        return bool(value != value)
    except (TypeError, ValueError):  # a sequence has no truth
        return False


def as_numbers(given: Column) -> np.ndarray | None:
    """The entries as numbers, NaN where one is missing; None if they are something else."""
    values, there = given
    if values.dtype.kind == "O":
        known = [isinstance(value, _NUMBERS) for value in values[there]]
        if not all(known):
            return None
        found = np.full(values.shape, np.nan)
        found[there] = [float(value) for value in values[there]]
        return found
    if values.dtype.kind not in "fiub":
        return None
    return values if there.all() or values.dtype.kind == "f" else np.where(there, values, np.nan)


def distinct(values: np.ndarray) -> tuple[list, np.ndarray]:
    """The distinct labels, sorted, and the position of each label's own.

    Labels of several types that do not sort are in the order of their texts.

    Raises:
        ValueError: for labels that cannot be compared, such as lists.
    """
    if values.dtype.kind != "O":
        found, code = np.unique(values, return_inverse=True)
        return list(found), code
    try:
        found = list(dict.fromkeys(values.tolist()))
    except TypeError as error:
        raise ValueError(f"expected labels such as text or numbers; {error}") from error
    try:
        found = sorted(found)
    except TypeError:
        found = sorted(found, key=lambda label: (str(label), type(label).__name__))
    return found, codes(values, found)


def levels_of(labels: object) -> list:
    """The distinct labels that are not missing, sorted as in `distinct`."""
    values, there = column(labels)
    return distinct(values[there])[0]


def told_apart(labels: Sequence[tuple]) -> list[str]:
    """What distinct labels are called, each the tuple of its parts: their texts, comma by comma.

    Those that read the same and are not, 1 and "1", or "a, b" beside "c" and "a" beside "b, c", are
    told apart by their quotes.
    """
    names = [", ".join(map(str, parts)) for parts in labels]
    quoted = [", ".join(repr(plain(part)) for part in parts) for parts in labels]
    seen = Counter(names)
    names = [long if seen[name] > 1 else name for name, long in zip(names, quoted, strict=True)]
    return names if len(set(names)) == len(names) else quoted


def name_of(parts: Sequence, known: Container[str]) -> str:
    """What a label, the tuple of its parts, is called among the names that `told_apart` gave."""
    quoted = ", ".join(repr(plain(part)) for part in parts)
    return quoted if quoted in known else ", ".join(map(str, parts))


def plain(label: object) -> object:
    """A label of NumPy's as Python's."""
    return label.item() if isinstance(label, np.generic) else label


def codes(values: np.ndarray, labels: Iterable[object]) -> np.ndarray:
    """The position of every value among the labels, -1 where it is none of them."""
    place = {label: i for i, label in enumerate(labels)}
    return np.array([place.get(value, -1) for value in values.tolist()], int)


def numbered(labels: object, what: str) -> np.ndarray:
    """(n) the number of each row's label, from 0 in sorted order, where none may be missing.

    Raises:
        ValueError: if one is.
    """
    values, there = column(labels)
    if not there.all():
        raise ValueError(
            f"expected a {what} for each of {there.size:,} rows, but {int((~there).sum()):,} are "
            "missing; give them one of their own"
        )
    return distinct(values)[1]


def refuse_text_of_missing(labels: Sequence[object] | np.ndarray, what: str) -> None:
    """Refuse labels that read as a missing value does once it was made text.

    Raises:
        ValueError: with the label, and what to do.
    """
    for text in _TEXTS:
        if any(isinstance(label, str) and label == text for label in labels):
            raise ValueError(
                f"{what} hold the text {text!r}, which is what a missing value becomes when "
                "labels are made text: make it missing before (None), or give it another name"
            )
