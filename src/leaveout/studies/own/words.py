"""A column of texts as words, by scikit-learn's vectorizers: sparse all the way."""

import dataclasses
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np

from leaveout.runtime.columns import Column
from leaveout.runtime.extras import needed
from leaveout.studies.own.coding import MISSING, Block, Part

__all__ = ["Vectorizer", "Words", "is_prose", "words_of"]

_WORDS = 3  # words of a text, on average, from which it is prose and no label
_SAMPLE = 1_000  # texts looked at


@runtime_checkable
class Vectorizer(Protocol):
    """What makes numbers of texts: `TfidfVectorizer`, `CountVectorizer`, `HashingVectorizer`."""

    def fit(self, raw_documents: Any, /) -> Any:
        """Learn the words."""
        ...

    def transform(self, raw_documents: Any, /) -> Any:
        """Their numbers, a row a text."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Words(Part):
    """Texts by the words in them.

    Attributes:
        source: the column.
        vectorizer: fitted to the training rows.
        words: that it knows.
        absent: whether what is missing is an empty text, and has a column that says so.
    """

    source: str
    vectorizer: Vectorizer
    words: tuple[str, ...]
    absent: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """column:word."""
        said = [f"{self.source}:{word}" for word in self.words]
        return (*said, *([f"{self.source} {MISSING}"] if self.absent else []))

    def coded(self, given: Column) -> tuple[Block, np.ndarray]:
        """A sparse row a text; every text has words that are known, or none."""
        from scipy.sparse import csr_array, hstack

        found = csr_array(self.vectorizer.transform(_texts(given)))
        if self.absent:
            gone = csr_array((~given.there).astype(float)[:, None])
            found = csr_array(hstack([found, gone], format="csr"))
        return found, given.there | self.absent

    def record(self) -> dict[str, Any]:
        """The vectorizer with its options, and its words."""
        how = " ".join(repr(self.vectorizer).split())
        return {"source": self.source, "kind": "text", "by": how, "words": list(self.words)}


def words_of(name: str, given: Column, vectorizer: object, absent: bool) -> Words:
    """The words of a column, by a vectorizer (a copy of it is fitted), or tf-idf.

    Raises:
        ValueError: where no text has a word.
    """
    with needed(f"a column of words such as {name!r}", "table"):
        from sklearn.base import clone
        from sklearn.feature_extraction.text import TfidfVectorizer
    own: Any = TfidfVectorizer() if vectorizer is None else clone(cast(Any, vectorizer))
    try:
        own.fit(_texts(given))
    except ValueError as error:
        raise ValueError(f"column {name!r} holds no words: {error}") from error
    return Words(name, own, _known(own, given), absent)


def _known(vectorizer, given: Column) -> tuple[str, ...]:
    """What the columns are called; those of hashes have no words."""
    if hasattr(vectorizer, "get_feature_names_out"):
        return tuple(map(str, vectorizer.get_feature_names_out()))
    width = vectorizer.transform(_texts(given)[:1]).shape[1]
    return tuple(f"hash {i}" for i in range(width))


def _texts(given: Column) -> list[str]:
    pairs = zip(given.values.tolist(), given.there.tolist(), strict=True)
    return [str(text) if there else "" for text, there in pairs]


def is_prose(values: np.ndarray) -> bool:
    """Whether texts are prose, not names of categories: mostly different, of several words."""
    sample = values[:_SAMPLE].tolist()
    words = sum(len(text.split()) for text in sample) / len(sample)
    return words >= _WORDS and 2 * len(set(sample)) > len(sample)
