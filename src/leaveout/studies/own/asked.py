"""What an experiment asks of a table in a file: the arguments of `lo.table`, as JSON holds them."""

import dataclasses
import hashlib
import os
import shlex
from pathlib import Path
from typing import Any

from leaveout.objectives import losses
from leaveout.runtime.text import shortened
from leaveout.studies.datasets import Dataset
from leaveout.studies.own.verb import table

__all__ = ["FORMATS", "Asked"]

FORMATS = ("csv", "tsv", "parquet")


@dataclasses.dataclass(frozen=True)
class Asked:
    """A table in a file, and how it is read; see `lo.table` for what is not said here.

    Attributes:
        path: of the file.
        target: the column to predict.
        groups: columns that group the rows.
        features: columns to predict from; default all others.
        weights: column of base weights.
        offset: column of known amounts.
        query: a share, a column, or the path of another file, as text; "0" for the training rows.
        positive: the label whose chance is modelled, as text.
        missing: what becomes of rows with something missing.
        standardise: numbers in standard deviations.
        loss: name of one of `lo.losses`.
        kind: of the file, one of `FORMATS`, where its name does not say.
        sha256: of the file; filled in when the table is read.
    """

    path: str
    target: str
    groups: tuple[str, ...] = ()
    features: tuple[str, ...] | None = None
    weights: str | None = None
    offset: str | None = None
    query: str | None = None
    positive: str | None = None
    missing: str = "refuse"
    standardise: bool = False
    loss: str | None = None
    kind: str | None = None
    sha256: str = ""

    def __post_init__(self):
        object.__setattr__(self, "groups", tuple(self.groups))
        if self.features is not None:
            object.__setattr__(self, "features", tuple(self.features))
        if not self.sha256:
            object.__setattr__(self, "sha256", _checksum(Path(self.path)))

    @property
    def name(self) -> str:
        """Of the data set: the file's, without its ending."""
        return Path(self.path).name.partition(".")[0]

    def read(self) -> Dataset:
        """The data set.

        Raises:
            ValueError: if the file is not the one that the experiment began with.
        """
        if _checksum(Path(self.path)) != self.sha256:
            raise ValueError(
                f"{self.path} has changed since this study began; choose another --out to begin "
                "anew"
            )
        return table(
            _opened(self.path, self.kind),
            target=self.target,
            groups=list(self.groups) or None,
            features=self.features,
            weights=self.weights,
            offset=self.offset,
            query=self._query(),
            positive=self.positive,
            missing=self.missing,
            standardise=self.standardise,
            loss=None if self.loss is None else _loss(self.loss),
            name=self.name,
        )

    def _query(self) -> object:
        """A share where the text is a number, else the text: a column, or a file."""
        try:
            return None if self.query is None else float(self.query) or None
        except ValueError:
            return self.query

    def words(self) -> list[str]:
        """The arguments of the command line that ask for the same."""
        found = [self.path, "--target", self.target]
        given = {
            "--by": ",".join(self.groups),
            "--features": ",".join(self.features or ()),
            "--weights": self.weights,
            "--offset": self.offset,
            "--query": self.query,
            "--positive": self.positive,
            "--missing": self.missing if self.missing != "refuse" else None,
            "--loss": self.loss,
            "--format": self.kind,
        }
        found += [word for option, value in given.items() if value for word in (option, value)]
        return [*found, *(["--standardise"] if self.standardise else [])]

    def command(self, verb: str, *more: str) -> str:
        """The command that asks for it, with further options."""
        return shlex.join(["leaveout", verb, *self.words(), *more])

    @classmethod
    def of(cls, given: "Asked | dict[str, Any] | None") -> "Asked | None":
        """It, also as JSON gives it back."""
        return cls(**given) if isinstance(given, dict) else given


def _checksum(path: Path) -> str:
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _loss(name: str):
    if name not in losses.__all__ or not isinstance(getattr(losses, name), losses.Loss):
        known = [each for each in losses.__all__ if each[0].islower()]
        raise ValueError(f"unknown loss {name!r}; known: {shortened(known, 20)}")
    return getattr(losses, name)


def _opened(path: str, kind: str | None) -> object:
    """The path, or what a file holds whose name does not say of what kind it is."""
    if kind is None:
        return path
    if kind not in FORMATS:
        raise ValueError(f"expected a format of {', '.join(FORMATS)}, got {kind!r}")
    if kind == "parquet":
        import pyarrow.parquet

        return pyarrow.parquet.read_table(os.fspath(path))
    import pandas as pd

    return pd.read_csv(path, sep="\t" if kind == "tsv" else ",", encoding="utf-8-sig")
