"""The container every data set is handed over in."""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from leaveout.objectives.linear import LinearObjective
from leaveout.objectives.models import logistic, softmax, squares

__all__ = ["Dataset", "objective_for"]

#: l2 / n that the paper's cross-validation tries
_GRID = tuple(float(value) for value in np.logspace(-4, -1, 10))


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Training examples, and query examples at which effects are measured.

    Attributes:
        name: what `load` calls it.
        x: (n d) training inputs, float64, without a column of ones.
        y: (n) labels 0..K-1; or real numbers, of a regression.
        x_query: (m d) held-out inputs.
        y_query: (m) their labels or numbers.
        outputs: 1 for two classes, else K.
        feature_names: (d).
        source: where it comes from.
        licence: on what terms.
        l2_grid: penalties to choose from, divided by n.
        intercept: whether a model of it has one.
        l2: the penalty (absolute) if the data set prescribes it.
        query_points: rows of x_query at which the paper measures effects, if it froze them.
        weights: (n) base weights that go with the natural groups, or None for ones.
        labels: columns about the training examples, name to (n); the first groups them naturally.
        query_labels: columns about the query examples, name to (m).

    Example:
        >>> data = lo.datasets.wine()
        >>> data.n, data.d, data.outputs, data.x_query.shape
        (142, 13, 3, (36, 13))
    """

    name: str
    x: Float[np.ndarray, "n d"]
    y: np.ndarray
    x_query: Float[np.ndarray, "m d"]
    y_query: np.ndarray
    outputs: int
    feature_names: tuple[str, ...]
    source: str
    licence: str
    l2_grid: tuple[float, ...] = _GRID
    intercept: bool = True
    l2: float | None = None
    query_points: tuple[int, ...] | None = None
    weights: np.ndarray | None = None
    labels: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    query_labels: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @property
    def n(self) -> int:
        """Training examples."""
        return self.x.shape[0]

    @property
    def d(self) -> int:
        """Features."""
        return self.x.shape[1]

    @property
    def labelled(self) -> bool:
        """Whether y holds labels, not real numbers."""
        return self.y.dtype.kind == "i"

    def fingerprint(self) -> dict[str, Any]:
        """What tells this data from any other: sizes, class counts, SHA-256 of x and of x_query.

        The checksums are those of the float64 values in row order; real targets have one too.
        """
        parts: dict[str, Any] = {"n": self.n, "d": self.d, "n_query": len(self.y_query)}
        if self.labelled:
            parts["classes"] = np.bincount(self.y).tolist()
            parts["classes_query"] = np.bincount(self.y_query).tolist()
        else:
            parts["y"] = _checksum(self.y)
        return parts | {
            "x": _checksum(self.x),
            "x_query": _checksum(self.x_query),
        }


def objective_for(data: Dataset, l2: float = 1.0, *, weights=None) -> LinearObjective:
    """The model of a `Dataset`: logistic or softmax regression of labels, else least squares.

    Args:
        data: the data set.
        l2: the penalty, absolute.
        weights: (n) base weights; default the data set's, or ones.

    Returns:
        the objective.

    Example:
        >>> lo.datasets.objective_for(lo.datasets.wine()).loss is lo.losses.softmax
        True
    """
    make = squares
    if data.labelled:
        make = logistic if data.outputs == 1 else softmax
    return make(data.x, data.y, l2, intercept=data.intercept, weights=weights)


def _checksum(values: np.ndarray) -> str:
    digest = hashlib.sha256()
    for rows in np.array_split(values, max(1, values.nbytes >> 26)):
        digest.update(np.ascontiguousarray(rows, "<f8").data)
    return digest.hexdigest()
