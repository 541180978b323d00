"""Shelf of data sets: functions of nothing to `Dataset`, always the same arrays.

To add one, write a function annotated `-> Dataset` with its source and licence in the result, in a
file of this folder, and import it here; it is found by `load`, by the command line and by the
shelf's tests.
"""

from collections.abc import Callable

from leaveout.studies.datasets import field, natural, paper, paper_natural, social
from leaveout.studies.datasets.container import Coding, Dataset, objective_for
from leaveout.studies.datasets.embedded import breast_cancer, digits, wine
from leaveout.studies.datasets.field import concrete, fashion, fashion_noisy, parkinsons
from leaveout.studies.datasets.natural import adult, heart, morocco, sms, youtube
from leaveout.studies.datasets.paper import diabetes, enron, fishdog, mnist, mnist_small
from leaveout.studies.datasets.paper_natural import cdr, nli
from leaveout.studies.datasets.social import compas, microcredit
from leaveout.studies.datasets.source import Origin, where
from leaveout.studies.datasets.synthetic import crowd, gauss4, ortho2

__all__ = [
    "Coding",
    "Dataset",
    "Origin",
    "adult",
    "available",
    "breast_cancer",
    "cdr",
    "compas",
    "concrete",
    "crowd",
    "diabetes",
    "digits",
    "enron",
    "fashion",
    "fashion_noisy",
    "fishdog",
    "gauss4",
    "heart",
    "load",
    "microcredit",
    "mnist",
    "mnist_small",
    "morocco",
    "nli",
    "objective_for",
    "origin",
    "ortho2",
    "parkinsons",
    "sms",
    "where",
    "wine",
    "youtube",
]

_SHELF: dict[str, Callable[[], Dataset]] = {
    function.__name__: function
    for function in (
        breast_cancer, digits, wine,
        diabetes, enron, fishdog, mnist, mnist_small, cdr, nli,
        heart, adult, compas, morocco, microcredit, youtube, sms,
        concrete, parkinsons, fashion, fashion_noisy,
        ortho2, gauss4, crowd,
    )
}  # fmt: skip


def available() -> tuple[str, ...]:
    """Names that `load` knows.

    Returns:
        names, in the order of the shelf.

    Example:
        >>> lo.datasets.available()[:3]
        ('breast_cancer', 'digits', 'wine')
    """
    return tuple(_SHELF)


def load(name: str) -> Dataset:
    """The data set of this name.

    Args:
        name: one of `available`.

    Returns:
        the data set.

    Raises:
        ValueError: for an unknown name, with the list of known ones; or for raw files that are not
            those expected.
        FileNotFoundError: for raw files that are neither here nor to be had.

    Example:
        >>> lo.datasets.load("wine").n
        142
    """
    if name not in _SHELF:
        raise ValueError(f"unknown dataset {name!r}; known: {', '.join(available())}")
    return _SHELF[name]()


def origin(name: str) -> Origin | None:
    """Where the raw files of a data set come from; None if it needs none."""
    every = paper.ORIGINS | paper_natural.ORIGINS | natural.ORIGINS | social.ORIGINS | field.ORIGINS
    return every.get(name)
