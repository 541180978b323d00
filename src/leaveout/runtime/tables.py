"""Tables of users: numbers with named columns, and rows that know which they are.

Tables of pandas, polars and pyarrow (through narwhals) name their columns, and those of pandas have
an index. Both are remembered, so that what does not go together can be refused: a column or a row
is never taken for another because it stands where that stood.
"""

import hashlib
import sys
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import jax
import numpy as np
from jaxtyping import Array, UInt32

from leaveout.runtime.columns import Column, as_numbers, column
from leaveout.runtime.memory import DENSE_COPY, gib
from leaveout.runtime.sharding import is_traced, to_host
from leaveout.runtime.text import shortened

__all__ = [
    "Fingerprint",
    "Named",
    "Names",
    "Rows",
    "as_columns",
    "as_sparse",
    "by_name",
    "check_finite",
    "check_names",
    "check_rows",
    "columns_of",
    "common_rows",
    "dense_copy",
    "fingerprint",
    "is_sparse",
    "is_table",
    "matrix",
    "named_values",
    "names_of",
]

Names: TypeAlias = tuple[Hashable, ...]
#: which rows a table has: a hash of its pandas index, and one that does not see the order
Fingerprint: TypeAlias = UInt32[np.ndarray, "4"] | UInt32[Array, "4"]
#: SciPy's compressed rows, whose shape its types do not know
if TYPE_CHECKING:
    Rows: TypeAlias = Any
else:
    Rows = object
#: values that go by names, for `by_name`
if TYPE_CHECKING:
    from narwhals.stable.v2.typing import IntoSeries

    Named: TypeAlias = IntoSeries | Mapping[Any, Any]
else:
    Named = object


# ---- columns -------------------------------------------------------------------------------------


def is_table(given: object) -> bool:
    """Whether it is a table of named columns."""
    return names_of(given) is not None


def names_of(given: object) -> Names | None:
    """The names of a table's columns; None of an array."""
    if isinstance(given, np.ndarray | jax.Array):  # for which nothing is loaded
        return None
    import narwhals.stable.v2 as nw

    if nw.dependencies.is_pandas_dataframe(given):
        return tuple(given.columns)
    frame = nw.from_native(given, eager_only=True, pass_through=True)
    return tuple(frame.columns) if isinstance(frame, nw.DataFrame) else None


def is_sparse(given: object) -> bool:
    """Whether it is one of SciPy's sparse matrices or arrays; there are none until it is loaded."""
    sparse = sys.modules.get("scipy.sparse")
    return sparse is not None and sparse.issparse(given)


def columns_of(table) -> Iterator:
    """The columns of a table one by one, whatever their names: they may repeat."""
    import narwhals.stable.v2 as nw

    if nw.dependencies.is_pandas_dataframe(table):
        return (table.iloc[:, j] for j in range(table.shape[1]))
    return (series.to_native() for series in nw.from_native(table, eager_only=True).iter_columns())


def as_columns(given: object) -> list[Column]:
    """A table, an array (n c) or one column, each column with its own type."""
    if is_table(given):
        return [column(part) for part in columns_of(given)]
    values, there = column(given)
    if values.ndim != 2:
        return [Column(values, there)]
    return [Column(*pair) for pair in zip(values.T, there.T, strict=True)]


def as_sparse(given: object, what: str = "x") -> Rows | None:
    """Sparse inputs (n d) of any of SciPy's formats, or a pandas table all of whose columns are.

    Entries given twice add up, as they do for SciPy; zeros that are stored are dropped. None for
    what is not sparse.

    Raises:
        ValueError: for another shape, anything but real numbers, or entries that are not finite.
    """
    if isinstance(given, np.ndarray | jax.Array):
        return None
    import narwhals.stable.v2 as nw

    if nw.dependencies.is_pandas_dataframe(given):
        kinds = set(given.dtypes)
        if not kinds or not all(getattr(kind, "fill_value", None) == 0 for kind in kinds):
            return None
        given = given.sparse.to_coo()
    if not is_sparse(given):
        return None
    from scipy.sparse import csr_array

    found = cast(Rows, given)
    if found.ndim != 2 or found.dtype.kind not in "fiub":
        raise ValueError(
            f"expected {what} as a numeric matrix (n, d), got shape {found.shape} of {found.dtype}"
        )
    found = cast(Rows, csr_array(given, dtype=float, copy=True))
    found.sum_duplicates()
    found.eliminate_zeros()
    bad = np.flatnonzero(~np.isfinite(found.data))
    if bad.size:
        row = int(np.searchsorted(found.indptr, bad[0], side="right")) - 1
        raise ValueError(
            f"{what} must be finite, but {what}{[row, int(found.indices[bad[0]])]} is "
            f"{found.data[bad[0]]} ({bad.size:,} such entries); impute or drop them first"
        )
    return found


def matrix(given, what: str = "x") -> np.ndarray:
    """Inputs (n d) as finite numbers, from an array, lists or a table; booleans are 0 and 1.

    Sparse ones are copied where the copy is small.

    Raises:
        ValueError: for another shape, anything but numbers, or entries that are missing, with their
            place; for a sparse matrix whose dense copy is too large to be made in silence.
    """
    sparse = as_sparse(given, what)
    if sparse is not None:
        return dense_copy(sparse, what)
    names = names_of(given)
    values = _array(given, what) if names is None else _of_table(given, names, what)
    if values.dtype.kind not in "iub":
        check_finite(values, what, names)
    return values


def dense_copy(sparse: Rows, what: str) -> np.ndarray:
    """A sparse matrix written out.

    Raises:
        ValueError: for one that takes more than `DENSE_COPY` bytes, with how many.
    """
    size = 8 * sparse.shape[0] * sparse.shape[1]
    if size > DENSE_COPY:
        raise ValueError(
            f"{what} is a sparse matrix {sparse.shape}, of which a dense copy is needed here: that "
            f"takes {gib(size)}, and more than {gib(DENSE_COPY)} is not copied unasked; give "
            f"{what}.toarray() where there is room for it, or fewer rows at once"
        )
    return sparse.toarray()


def _array(given, what: str) -> np.ndarray:
    if isinstance(given, np.ndarray | jax.Array) and not isinstance(given, np.ma.MaskedArray):
        given = np.asarray(given)
        if given.ndim == 2 and given.dtype.kind in "fiub":
            return given  # nothing to look for but what `check_finite` finds
    whole = column(given)
    values = as_numbers(whole)
    if values is None or values.ndim != 2:
        shape, kind = whole.values.shape, whole.values.dtype
        got = f"shape {shape} of {kind}" if shape else f"{type(given).__name__}, which is no array"
        raise ValueError(
            f"expected {what} as a numeric matrix (n, d), got {got}; give one row per example, "
            "categories one-hot coded"
        )
    return values


def _of_table(table, names: Names, what: str) -> np.ndarray:
    import narwhals.stable.v2 as nw

    if nw.dependencies.is_pandas_dataframe(table):
        kinds = set(table.dtypes)
        if kinds and all(isinstance(kind, np.dtype) and kind.kind in "fiub" for kind in kinds):
            return table.to_numpy(np.result_type(*kinds))
    out = np.empty((len(table), len(names)), order="F")
    for j, part in enumerate(columns_of(table)):
        values = as_numbers(column(part))
        if values is None or _is_categorical(part):
            raise ValueError(
                f"expected {what} as a numeric matrix (n, d), but its column {names[j]!r} holds "
                f"{_kind(part)}; give numbers, dates as a time since one of them, categories "
                "one-hot coded (pandas.get_dummies)"
            )
        out[:, j] = values
    return out


def _kind(part) -> str:
    import narwhals.stable.v2 as nw

    return str(nw.from_native(part, series_only=True).dtype)


def _is_categorical(part) -> bool:
    """Categories that are numbers are names all the same."""
    import narwhals.stable.v2 as nw

    return isinstance(nw.from_native(part, series_only=True).dtype, nw.Categorical | nw.Enum)


def check_finite(values: np.ndarray, name: str, names: Names | None = None) -> None:
    """Refuse NaN and infinities.

    Raises:
        ValueError: with the first of them, its row and its column's name, and their number.
    """
    bad = ~np.isfinite(values)
    if bad.any():
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        place = list(where) if names is None else [where[0], names[where[1]]]
        raise ValueError(
            f"{name} must be finite, but {name}{place} is {values[where]} "
            f"({int(bad.sum()):,} such entries); impute or drop them first"
        )


def check_names(given: Names | None, known: Names | None, what: str) -> None:
    """Refuse columns of other names than those the model was fitted on, or in another order.

    Where one side has no names there is nothing to compare; those that pandas gives where nobody
    did, 0 to d - 1, say something only against their like.

    Raises:
        ValueError: with what is missing, and what nobody knows.
    """
    if given is None or known is None or given == known:
        return
    unnamed = (tuple(range(len(given))), tuple(range(len(known))))
    if set(given) == set(known):
        raise ValueError(
            f"the columns of {what} are in another order than those the model was fitted on: "
            f"{shortened(given)} for {shortened(known)}; put them in that order, as "
            "x[list(objective.names)] does"
        )
    if len(given) == len(known) and (given == unnamed[0] or known == unnamed[1]):
        return
    missing = [name for name in known if name not in set(given)]
    unknown = [name for name in given if name not in set(known)]
    raise ValueError(
        f"the columns of {what} are not those the model was fitted on: " + _apart(missing, unknown)
    )


def _apart(missing: Sequence[Hashable], unknown: Sequence[Hashable]) -> str:
    """Names that are missing, and those that nobody knows."""
    verb = "is" if len(unknown) == 1 else "are"
    lacks = f"it lacks {shortened(missing)}" if missing else ""
    new = f"{shortened(unknown)} {verb} unknown" if unknown else ""
    return ", and ".join(filter(None, (lacks, new)))


def by_name(
    given,
    names: Sequence[Hashable] | None,
    what: str,
    *,
    read: Callable = lambda label: label,
    last: Hashable = None,
) -> Any:
    """Values that go by names, of a pandas Series or a dictionary, in the order of `names`.

    Anything else as it is; and by position a Series where nobody has names, or that counts from 0
    where these numbers are not the names.

    Args:
        given: a Series, a dictionary of names to values, or what has no names.
        names: in whose order values are wanted, or None.
        what: the values are, for messages.
        read: how a name is read from a label of the index.
        last: a name that may be there besides, or None.

    Raises:
        ValueError: for names that are missing, or that nobody knows.
    """
    if given is None or np.isscalar(given) or isinstance(given, np.ndarray | jax.Array):
        return given  # for which nothing is loaded
    if not isinstance(given, Mapping):
        import narwhals.stable.v2 as nw

        if not nw.dependencies.is_pandas_series(given):
            return given
        counted = given.index.equals(nw.dependencies.get_pandas().RangeIndex(len(given)))
        if names is None or (counted and {read(label) for label in given.index} != set(names)):
            return given.to_numpy()
    place = {read(label): value for label, value in given.items()}
    known = list(names or ())
    known += [last] * (last in place and last not in known)
    missing = [name for name in known if name not in place]
    unknown = [name for name in place if name not in set(known)]
    if missing or unknown or len(place) < len(given):
        found = _apart(missing, unknown) or "a name is there twice"
        found = "there are no names here" if names is None else found
        raise ValueError(
            f"expected one value of {what} for each name: {found}; give an array to go by position"
        )
    return np.asarray([place[name] for name in known])


def named_values(given) -> tuple[tuple[Hashable, ...] | None, Any]:
    """Names and values of a dictionary, a pandas Series, or a table; of an array None and itself.

    Raises:
        ValueError: for a dictionary of anything but numbers.
    """
    if given is None or isinstance(given, np.ndarray | jax.Array | list | tuple):
        return None, given  # for which nothing is loaded
    if isinstance(given, Mapping):
        if any(np.ndim(value) for value in given.values()):
            raise ValueError("expected a number for each name; give several vectors as a table")
        return tuple(given), np.asarray(list(given.values()))
    import narwhals.stable.v2 as nw

    if nw.dependencies.is_pandas_series(given):
        return tuple(given.index), given.to_numpy()
    names = names_of(given)
    return names, given if names is None else matrix(given, "vectors")


# ---- rows ----------------------------------------------------------------------------------------


def fingerprint(index) -> Fingerprint:
    """Which rows a pandas index stands for, in an order and in any.

    The same of labels that pandas calls equal: dates in seconds or in nanoseconds, 3 and 3.0.
    """
    from pandas.util import hash_pandas_object

    if index.nlevels > 1:
        plain = [_one_kind(level) for level in index.levels]
        index = index.set_levels(plain, verify_integrity=False)
    else:
        index = _one_kind(index)
    each = cast(Callable, hash_pandas_object)(index, index=False).to_numpy(np.uint64)
    ordered = hashlib.blake2b(each.tobytes(), digest_size=8).digest()
    return np.concatenate(
        [np.frombuffer(ordered, np.uint32), each.sum(keepdims=True).view(np.uint32)]
    )


def _one_kind(index):
    """A pandas index in the one type of those that hold labels equal to its own."""
    import pandas as pd

    if index.dtype == object:
        index = index.infer_objects()
    if isinstance(index, pd.DatetimeIndex | pd.TimedeltaIndex):
        try:
            return index.as_unit("ns")
        except (pd.errors.OutOfBoundsDatetime, pd.errors.OutOfBoundsTimedelta):
            return index.as_unit("us")
    if isinstance(index.dtype, np.dtype) and index.dtype.kind in "if":
        with np.errstate(invalid="ignore"):  # NaN is no whole number
            whole = index.to_numpy().astype(np.int64)
        return pd.Index(whole) if (whole == index.to_numpy()).all() else index
    return index


def _indices(given) -> Iterator:
    """The pandas index of a table or a column, or of each in a dictionary or a tuple of them."""
    if given is None or isinstance(given, np.ndarray | jax.Array):
        return
    import narwhals.stable.v2 as nw

    if nw.dependencies.is_pandas_dataframe(given) or nw.dependencies.is_pandas_series(given):
        yield given.index
    elif isinstance(given, Mapping):
        for part in given.values():
            yield from _indices(part)
    elif isinstance(given, list | tuple) and len(given) and not np.isscalar(given[0]):
        for part in given:
            yield from _indices(part)


def common_rows(**given: object) -> Fingerprint | None:
    """Which rows all of these have, by the pandas index of those that have one; None if none has.

    Raises:
        ValueError: if two disagree.
    """
    known, first = None, ""
    for what, value in given.items():
        for index in _indices(value):
            found = fingerprint(index)
            check_rows(found, known, what, first)
            known, first = (found, what) if known is None else (known, first)
    return known


def check_rows(given: Fingerprint | None, known: Fingerprint | None, what: str, other: str) -> None:
    """Refuse rows of another pandas index, which would be paired by position.

    Raises:
        ValueError: if both are known and differ.
    """
    if given is None or known is None or is_traced((given, known)):
        return
    one, two = to_host((given, known))
    if (one == two).all():
        return
    moved = (one[2:] == two[2:]).all()
    how = "is that of {} in another order" if moved else "is not that of {}"
    raise ValueError(
        f"the pandas index of {what} {how.format(other)}, and rows would be paired by position; "
        "align them (.loc or .reindex), or give .to_numpy() where the order is right"
    )
