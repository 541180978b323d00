"""Labels of any kind, coded: columns of text, numbers, dates, with entries that are missing."""

from collections.abc import Hashable, Iterable
from typing import Any, Protocol, runtime_checkable

import numpy as np

__all__ = ["columns_of", "distinct", "there"]


@runtime_checkable
class _Frame(Protocol):
    """A table of named columns, such as one of pandas."""

    @property
    def columns(self) -> Iterable[Hashable]: ...

    def __getitem__(self, name: Any, /) -> "_Column": ...


@runtime_checkable
class _Column(Protocol):
    """A column of labels, such as one of pandas."""

    @property
    def dtype(self) -> Any: ...

    def to_numpy(self, dtype: Any = None) -> np.ndarray: ...


def columns_of(labels) -> list[np.ndarray]:
    """One or several columns of labels as arrays."""
    if isinstance(labels, _Frame):  # each column keeps its type
        parts = [labels[name] for name in labels.columns]
    else:
        parts = list(labels.T) if isinstance(labels, np.ndarray) and labels.ndim == 2 else [labels]
    columns = [_as_array(column) for column in parts]
    for column in columns:
        if column.ndim != 1 or column.size == 0:
            raise ValueError(f"expected one label for each example, got shape {column.shape}")
    if not columns:
        raise ValueError("expected at least one column of labels, got none")
    return columns


def _as_array(column) -> np.ndarray:
    """Dates as dates, an array as it is, and everything else as objects."""
    if isinstance(column, _Column):
        dated = isinstance(column.dtype, np.dtype) and column.dtype.kind == "M"
        column = column.to_numpy() if dated else column.to_numpy(dtype=object)
    return np.asarray(column, None if isinstance(column, np.ndarray) else object)


def there(labels: np.ndarray) -> np.ndarray:
    """Which labels are not missing."""
    if labels.dtype == object:
        return np.array([v is not None and v == v and str(v) != "<NA>" for v in labels], bool)
    return labels == labels  # not NaN


def distinct(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The names of the distinct labels, sorted, and the position of each label's own."""
    try:
        unique, code = np.unique(labels, return_inverse=True)
    except TypeError:  # labels of several types do not sort: their texts do
        unique, code = np.unique(labels.astype(str), return_inverse=True)
    return np.array([str(label) for label in unique], str), code
