"""The data of an experiment: on the shelf by its name, or a data set of one's own."""

import dataclasses
from typing import Any, TypeAlias

from leaveout.studies import datasets
from leaveout.studies.datasets import Dataset

__all__ = ["Elsewhere", "Given", "from_json", "known", "loaded", "to_json"]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Elsewhere:
    """A data set of one's own that a folder knows by its fingerprint, whose rows are not here.

    Attributes:
        name: what it is called.
        fingerprint: what tells it from any other.
    """

    name: str
    fingerprint: dict[str, Any]

    def __repr__(self) -> str:
        return f"Elsewhere({self.name})"


#: what an experiment is of
Given: TypeAlias = str | Dataset | Elsewhere


def known(given: Given) -> str:
    """What the data set is called.

    Raises:
        ValueError: for a name that is not on the shelf.
    """
    if not isinstance(given, str):
        return given.name
    if given not in datasets.available():
        raise ValueError(f"unknown dataset {given!r}; known: {', '.join(datasets.available())}")
    return given


def loaded(given: Given) -> Dataset:
    """The data set.

    Raises:
        ValueError: for one of which a folder knows the name only.
    """
    if isinstance(given, Elsewhere):
        raise ValueError(
            f"the rows of {given.name} are not here: what was found can be read, but to go on, run "
            "the study with the data set that lo.table makes of them"
        )
    return given if isinstance(given, Dataset) else datasets.load(given)


def to_json(given: Given) -> str | dict[str, Any]:
    """The name of one on the shelf; of one's own, what tells it from any other."""
    if isinstance(given, str):
        return given
    if isinstance(given, Elsewhere):
        return {"name": given.name} | given.fingerprint
    return {"name": given.name} | given.fingerprint()


def from_json(given: str | dict[str, Any]) -> Given:
    """What `to_json` wrote; the rows of one's own are elsewhere."""
    if isinstance(given, str):
        return given
    return Elsewhere(given["name"], {key: given[key] for key in given if key != "name"})
