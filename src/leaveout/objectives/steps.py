"""What stands before a linear model: steps that make its inputs of a table or of texts.

An array is what the last step sees, a table or a list of texts what the first one does.
"""

import copy
import dataclasses
import pickle
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from leaveout.runtime.tables import Names, as_sparse, is_table, matrix, names_of

__all__ = ["Steps", "Unread", "is_unread"]


@dataclasses.dataclass(frozen=True)
class Steps:
    """Fitted transformers, kept as they are now: those of a scikit-learn pipeline.

    Two of the same content are equal, so that programs compiled with one serve the other.

    Attributes:
        takes: names of the columns that the first step was fitted to; None where it saw no table.
        gives: names of what they make, where they make tables; None where they make arrays.
        kept: each transformer as bytes, or a copy where these cannot be had; None of a fit read
            from a file, which holds no code.
    """

    takes: Names | None
    gives: Names | None
    kept: tuple | None = dataclasses.field(repr=False)

    @classmethod
    def of(cls, transformers: Sequence[object], seen: object, made: object) -> "Steps":
        """Transformers as they are now.

        Args:
            transformers: in their order.
            seen: the inputs that the first was fitted to.
            made: what they make of these.
        """
        return cls(names_of(seen), names_of(made), tuple(map(_as_it_is, transformers)))

    def before(self, others: "Steps | None") -> "Steps":
        """These steps, and others after them."""
        if others is None:
            return self
        kept = None if self.kept is None or others.kept is None else self.kept + others.kept
        return Steps(self.takes, others.gives, kept)

    def made_of(self, given: Any, known: Names | None) -> Any:
        """Inputs of the model: what the steps make of a table or of texts; arrays as they are.

        Columns are found by name, in any order; those that the steps were not fitted to are left
        aside.

        Args:
            given: inputs of the first step, or of the model.
            known: the names of the model's inputs.

        Raises:
            ValueError: for a table that may be either, or what a step refuses.
        """
        names = names_of(given)
        if names is None:
            return self._through(given) if is_unread(given) else given
        if self.takes is None or names == tuple(range(len(names))):  # as good as an array
            return given
        if names == known and self.gives == self.takes:
            raise ValueError(
                f"the steps of the pipeline give tables whose columns are called as those that "
                f"they take, {names[0]!r} and so on: is this what the first step sees, or the "
                "last? Give pipeline[:-1].transform(x).to_numpy()"
            )
        if names == known and not set(self.takes) <= set(names):
            return given
        import narwhals.stable.v2 as nw

        wanted = [name for name in self.takes if name in set(names)]
        if nw.dependencies.is_pandas_dataframe(given):
            return self._through(given[wanted])
        return self._through(nw.from_native(given, eager_only=True).select(wanted).to_native())

    def _through(self, given: Any) -> Any:
        """What the transformers make of inputs, one after another.

        Raises:
            ValueError: where they were not kept.
        """
        if self.kept is None:
            raise ValueError(
                "this fit was read from a file, which does not hold the steps of its pipeline: "
                "give inputs as the last step sees them, pipeline[:-1].transform(x) as an array"
            )
        for kept in self.kept:
            transformer = pickle.loads(kept) if isinstance(kept, bytes) else kept
            given = transformer.transform(given)
        if not is_table(given):
            return given
        sparse = as_sparse(given)
        return matrix(given) if sparse is None else sparse


def _as_it_is(transformer: object) -> object:
    """A transformer in bytes, or a copy: it may be fitted again in its place."""
    try:
        return pickle.dumps(transformer)
    except (pickle.PicklingError, AttributeError, TypeError):  # it holds a function without a name
        return copy.deepcopy(transformer)


@dataclasses.dataclass(frozen=True, eq=False)
class Unread:
    """A table or texts as they were given, until an objective says what they are made into.

    Attributes:
        given: them.
    """

    given: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows, and columns where they have some."""
        names = names_of(self.given)
        return (len(self.given), *(() if names is None else (len(names),)))


def is_unread(given: object) -> bool:
    """Whether it is a table, or one text an example."""
    if is_table(given):
        return True
    if isinstance(given, str | jax.Array) or getattr(given, "ndim", 1) != 1:
        return False
    if isinstance(given, np.ndarray) and given.dtype.kind not in "OU":
        return False
    try:
        return isinstance(next(iter(given), None), str)  # pyright: ignore[reportCallIssue, reportArgumentType]
    except TypeError:  # nothing to go through
        return False
