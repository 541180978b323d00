"""What a table's target asks for: the loss, and the target as it takes it."""

import dataclasses

import numpy as np

from leaveout.objectives import losses
from leaveout.objectives.losses import Loss
from leaveout.runtime.columns import (
    Column,
    as_numbers,
    codes,
    distinct,
    plain,
    refuse_text_of_missing,
)
from leaveout.runtime.text import shortened
from leaveout.studies.own.frames import kind_of

__all__ = ["Target", "target_of"]

_MOST = 1_000  # labels up to which a text is taken for classes


@dataclasses.dataclass(frozen=True, eq=False)
class Target:
    """What is predicted, as the training rows have it.

    Attributes:
        name: of its column.
        loss: that goes with it.
        classes: its labels, the positive one of two last; empty of numbers.
        rest: whether the first class stands for all labels that are not positive.
    """

    name: str
    loss: Loss
    classes: tuple
    rest: bool = False

    @property
    def outputs(self) -> int:
        """Scores of an example: one, or one a class."""
        return len(self.classes) if self.loss.targets == "classes" else 1

    def of(self, given: Column) -> np.ndarray:
        """(n) labels or numbers of rows, none of which is missing.

        Raises:
            ValueError: for what the loss does not take, or a label that no training row has.
        """
        if not self.classes:
            return _numbers(self.name, given, self.loss)
        if self.rest:
            code = np.asarray(given.values == self.classes[1]).astype(int)
        else:
            code = codes(given.values, self.classes)
        if (code < 0).any():
            unknown = distinct(given.values[code < 0])[0]
            raise ValueError(
                f"the target {self.name!r} has labels among the queries that no training row has: "
                f"{shortened(map(plain, unknown))}; drop these rows"
            )
        return _array(self.classes)[code]

    def coded(self, y: np.ndarray) -> np.ndarray:
        """Labels as numbers 0..K-1; numbers as they are."""
        return codes(y, self.classes) if self.classes else y


def target_of(name: str, given: Column, positive: object, loss: Loss | None) -> Target:
    """The target of a column of training rows that has no missing entries.

    Labels (text, booleans, categories, or numbers that take two values) are classes, `logistic` of
    two and `softmax` of more; other numbers are `squares`.

    Args:
        name: of the column.
        given: its entries.
        positive: the label whose chance is modelled, against all others; default the larger of two.
        loss: in the place of the one chosen.

    Raises:
        ValueError: for dates or a mixture, for one class only, or for a loss that does not take
            what is there.
    """
    kind, found = kind_of(given), distinct(given.values)[0]
    if kind in ("date", "mixed"):
        what = "dates" if kind == "date" else "a mixture of numbers and texts"
        raise ValueError(f"the target {name!r} holds {what}; expected labels or numbers to predict")
    if len(found) < 2:
        raise ValueError(
            f"the target {name!r} has only one value, {shortened(map(plain, found))}: there is "
            "nothing to learn"
        )
    labels = kind != "number" or len(found) == 2 or positive is not None
    loss = loss or _usual(labels, len(found), positive)
    if loss.targets in ("real", "counts", "any"):
        return Target(name, loss, ())
    return _of_labels(name, found, positive, loss)


def _usual(labels: bool, count: int, positive: object) -> Loss:
    """The loss that a target asks for."""
    if not labels:
        return losses.squares
    return losses.logistic if count == 2 or positive is not None else losses.softmax


def _of_labels(name: str, found: list, asked: object, loss: Loss) -> Target:
    """A target of labels, of which one may be the positive one."""
    positive = asked
    refuse_text_of_missing(found, f"the target {name!r}")
    labels = tuple(map(plain, found))
    if len(labels) > _MOST:
        raise ValueError(
            f"the target {name!r} has {len(labels):,} labels, more than the {_MOST:,} that are "
            "taken for classes; is it a name, or numbers read as text?"
        )
    if positive is None and loss.targets == "binary" and len(labels) > 2:
        raise ValueError(
            f"the target {name!r} has {len(labels)} labels, {shortened(labels)}, and this loss "
            "takes two: say which of them is positive="
        )
    if positive is None:
        return Target(name, loss, labels)
    if positive not in labels:  # as a command line says it
        positive = next((label for label in labels if str(label) == positive), None)
    if positive is None:
        raise ValueError(
            f"expected positive= as a label of {name!r}, {shortened(labels)}, got {asked!r}"
        )
    others = [label for label in labels if label != positive]
    if len(others) == 1:
        return Target(name, loss, (others[0], positive))
    return Target(name, loss, (f"not {positive}", positive), rest=True)


def _array(labels: tuple) -> np.ndarray:
    """Labels as an array that keeps their types."""
    plain = np.array(labels)
    if plain.dtype.kind in "biuf" or all(isinstance(label, str) for label in labels):
        return plain
    kept = np.empty(len(labels), object)
    kept[:] = labels
    return kept


def _numbers(name: str, given: Column, loss: Loss) -> np.ndarray:
    values = as_numbers(given)
    if values is None:
        raise ValueError(f"the target {name!r} holds text, and {loss.name} loss takes numbers")
    values = values.astype(float)
    if not np.isfinite(values).all():
        raise ValueError(f"the target {name!r} has entries that are infinite; drop these rows")
    if loss.targets == "counts" and (values < 0).any():
        raise ValueError(
            f"the target {name!r} has entries below 0, and {loss.name} loss takes counts; "
            "lo.losses.squares takes numbers of either sign"
        )
    return values
