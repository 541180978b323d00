"""The container every data set is handed over in."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

from leaveout.groups import Groups
from leaveout.objectives import losses
from leaveout.objectives.linear import LinearObjective
from leaveout.objectives.losses import Loss
from leaveout.objectives.models import Penalty, glm
from leaveout.objectives.sparse import Inputs
from leaveout.runtime.columns import codes
from leaveout.runtime.tables import by_name, is_sparse
from leaveout.runtime.text import shortened

__all__ = ["Coding", "Dataset", "objective_for"]

#: l2 / n that the paper's cross-validation tries
_GRID = tuple(float(value) for value in np.logspace(-4, -1, 10))


@runtime_checkable
class Coding(Protocol):
    """How the columns of a user's table became inputs."""

    def coded(self, frame: object) -> Inputs:
        """Inputs (m d) of other rows of such a table."""
        ...

    def record(self) -> list[dict[str, Any]]:
        """What was learnt from the training rows, for a file."""
        ...


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Training examples, and query examples at which effects are measured.

    Attributes:
        name: what `load` calls it.
        x: (n d) training inputs, float64, without a column of ones; of a table of many categories
            or of words a sparse matrix of SciPy.
        y: (n) labels 0..K-1, or any of `classes`; or real numbers, of a regression.
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
        loss: of the model, where it is not the one that y asks for.
        classes: the labels in y, the positive one of two last; empty where they are 0..K-1.
        target: what y is called.
        offset: (n) known amounts that are added to the scores, or None.
        offset_query: (m) those of the queries.
        coding: how the columns of a user's table became x, or None.
        notes: sentences on what was done to the table.
        folds: of a table cut into folds, a data set for each, in which it is the query.
        rows: (n) which rows of a user's table the training examples are, from 0; or None.

    Example:
        >>> data = lo.datasets.wine()
        >>> data.n, data.d, data.outputs, data.x_query.shape
        (142, 13, 3, (36, 13))
    """

    name: str
    x: Inputs
    y: np.ndarray
    x_query: Inputs
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
    loss: Loss | None = None
    classes: tuple = ()
    target: str | None = None
    offset: np.ndarray | None = None
    offset_query: np.ndarray | None = None
    coding: Coding | None = None
    notes: tuple[str, ...] = ()
    folds: "tuple[Dataset, ...]" = ()
    rows: np.ndarray | None = None

    def __repr__(self) -> str:
        sizes = f"{self.n:,} training and {len(self.y_query):,} query examples"
        sentences = (sizes, f"{self.d:,} features", self._model(), *self._grouping(), *self.notes)
        return f"Dataset({self.name}: {'; '.join(sentences)})"

    def _model(self) -> str:
        """The target, and the loss that goes with it."""
        what, by = self.target or "y", f"by {self.model_loss.name} loss"
        if not self.labelled:
            return f"{what} {by}"
        names = self.classes or range(max(self.outputs, 2))
        if self.outputs == 1:
            return f"{what} ({names[-1]!r} against {names[0]!r}) {by}"
        return f"{what} ({shortened(names)}) {by}"

    def _grouping(self) -> list[str]:
        """What groups the examples."""
        return [f"grouped by {', '.join(self.labels)}"] if self.labels else []

    @property
    def model_loss(self) -> Loss:
        """The loss: logistic or softmax of labels, else squares, where none was asked for."""
        if self.loss is not None:
            return self.loss
        if not self.labelled:
            return losses.squares
        return losses.logistic if self.outputs == 1 else losses.softmax

    @property
    def query(self) -> tuple:
        """The query examples as measures take them: `(x, y)`, or `(x, y, offset)`."""
        offset = () if self.offset_query is None else (self.offset_query,)
        return self.x_query, self.y_query, *offset

    @functools.cached_property
    def groups(self) -> Groups:
        """The groups of its first column of labels; see `grouped`."""
        return self.grouped()

    def grouped(self, by: str | None = None) -> Groups:
        """Groups by a column of labels, by several joined by commas (crossed), or by the first.

        Raises:
            ValueError: if there is no such column.
        """
        if not self.labels:
            raise ValueError(f"{self.name} has no column that groups its examples")
        names = [next(iter(self.labels))] if by is None else by.split(",")
        for name in names:
            if name not in self.labels:
                known = ", ".join(self.labels)
                raise ValueError(f"{self.name} has no column {name!r}; it has {known}")
        columns = [np.asarray(self.labels[name]) for name in names]
        if len(columns) == 1:
            return Groups.from_labels(columns[0], kind=names[0])
        table = np.stack([column.astype(object) for column in columns], axis=1)  # NaN stays none
        return Groups.from_labels(table, kind=", ".join(names))

    def some(self, rows: np.ndarray | slice) -> "Dataset":
        """Some of its training examples, with all its queries; of a table's folds only this one.

        Args:
            rows: positions or booleans (n).
        """
        columns = {name: getattr(self, name) for name in ("x", "y", "weights", "offset", "rows")}
        kept = {name: part[rows] for name, part in columns.items() if part is not None}
        labels = {name: np.asarray(column)[rows] for name, column in self.labels.items()}
        return dataclasses.replace(self, labels=labels, folds=(), **kept)

    def objective(self, l2: Penalty = 1.0) -> LinearObjective:
        """Its model, with the names of its features, classes and base weights.

        Raises:
            ValueError: for a negative l2, or penalties by names that are not those of the features.
        """
        return objective_for(self, l2, weights=self.weights)

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
        return bool(self.classes) or self.y.dtype.kind == "i"

    def coded(self, frame: object) -> Inputs:
        """Inputs (m d) of other rows of the table that it was made of.

        Raises:
            ValueError: for a data set that was made of none, or rows that lack one of its columns.
        """
        if self.coding is None:
            raise ValueError(f"{self.name} was not made of a table; its inputs are x")
        return self.coding.coded(frame)

    def fingerprint(self) -> dict[str, Any]:
        """What tells this data from any other: sizes, class counts, SHA-256 of x and of x_query.

        The checksums are those of the float64 values in row order; real targets have one too.
        """
        parts: dict[str, Any] = {"n": self.n, "d": self.d, "n_query": len(self.y_query)}
        if self.labelled:
            parts["classes"] = np.bincount(self.codes(self.y)).tolist()
            parts["classes_query"] = np.bincount(self.codes(self.y_query)).tolist()
        else:
            parts["y"] = _checksum(self.y)
        parts |= {"x": _checksum(self.x), "x_query": _checksum(self.x_query)}
        return parts if self.coding is None else parts | self._of_table(self.coding)

    def _of_table(self, coding: Coding) -> dict[str, Any]:
        """What tells a user's table from another besides its inputs."""
        names = ("weights", "offset", "offset_query", *([] if self.labelled else ["y_query"]))
        numbers = {name: getattr(self, name) for name in names}
        columns = {"y": self.y, **self.labels} if self.labelled else self.labels
        texts = {name: list(map(repr, column.tolist())) for name, column in columns.items()}
        return {
            "loss": self.model_loss.name,
            "coding": _digest(coding.record()),
            **{name: _checksum(part) for name, part in numbers.items() if part is not None},
            "labels": {name: _digest(text) for name, text in texts.items()},
        }

    def codes(self, y: np.ndarray) -> np.ndarray:
        """Labels as numbers 0..K-1."""
        return codes(y, self.classes) if self.classes else np.asarray(y)


def objective_for(data: Dataset, l2: Penalty = 1.0, *, weights=None) -> LinearObjective:
    """The model of a `Dataset`: logistic or softmax regression of labels, else least squares.

    With its own loss where it says so, its offsets, and the names of its features.

    Args:
        data: the data set.
        l2: the penalty, absolute; of each feature a pandas Series or a dictionary by their names.
        weights: (n) base weights; default ones.

    Returns:
        the objective.

    Raises:
        ValueError: for a negative l2, penalties by names that are not those of the features, or
            weights that are not one for each example and at least 0.

    Example:
        >>> lo.datasets.objective_for(lo.datasets.wine()).loss is lo.losses.softmax
        True
    """
    loss, y = data.model_loss, data.codes(data.y) if data.labelled else data.y
    names, last = tuple(data.feature_names) or None, "intercept" if data.intercept else None
    made = glm(
        loss, data.x, y, data.outputs, by_name(l2, names, "the penalty", last=last),
        intercept=data.intercept, weights=weights, offset=data.offset,
    )  # fmt: skip
    known = {"classes": data.classes} if data.classes else {}
    return dataclasses.replace(made, names=names, **known)


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _checksum(values: Inputs) -> str:
    digest = hashlib.sha256()
    if is_sparse(values):  # of its compressed rows
        parts = (values.indptr, values.indices, values.data)
        for part in (*parts, np.array(values.shape)):
            digest.update(np.ascontiguousarray(part, "<f8").data)
        return digest.hexdigest()
    for rows in np.array_split(values, max(1, values.nbytes >> 26)):
        digest.update(np.ascontiguousarray(rows, "<f8").data)
    return digest.hexdigest()
