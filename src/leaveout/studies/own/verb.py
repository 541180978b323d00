"""`lo.table`: a user's own table as a data set, which every study, figure and verb takes."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from leaveout.objectives.losses import Loss
from leaveout.objectives.sparse import Inputs
from leaveout.runtime.columns import as_numbers
from leaveout.runtime.text import shortened, warn
from leaveout.studies.datasets import Dataset
from leaveout.studies.own.coding import Coding, learnt
from leaveout.studies.own.frames import Frame, is_path, read
from leaveout.studies.own.queries import by_column, by_share
from leaveout.studies.own.targets import Target, target_of

__all__ = ["table"]

_POLICIES = ("refuse", "drop", "indicator")


def table(
    frame: object,
    *,
    target: str,
    groups: str | Sequence[str] | None = None,
    features: Sequence[str] | Mapping[str, object] | None = None,
    formula: str | None = None,
    weights: str | None = None,
    offset: str | None = None,
    query: object = None,
    positive: object = None,
    missing: str = "refuse",
    standardise: bool = False,
    loss: Loss | None = None,
    name: str | None = None,
) -> Dataset:
    """A data set from a table of one's own.

    Args:
        frame: a table of pandas, polars or pyarrow, a dictionary of columns, or the path of a CSV
            or Parquet file.
        target: the column to predict. Labels make `logistic` of two and `softmax` of more, numbers
            `squares`; a number that takes two values is a label.
        groups: a column that groups the rows, or several; `data.groups` are those of the first.
        features: the columns to predict from, or a dictionary of them to what each is: "number",
            "category", "text", a vectorizer of scikit-learn's, or None for what it looks like.
            Default all others.
        formula: instead, one of `formulaic`, such as "age + C(hospital)".
        weights: a column of base weights, at least 0.
        offset: a column of known amounts that are added to the scores.
        query: where effects are measured: a share of the rows (of every class, always the same
            ones), a column that says which rows, another table or file, or None for the training
            rows themselves.
        positive: the label whose chance is modelled, against all others.
        missing: "refuse", "drop" rows (which `notes` count), or "indicator": the median in the
            place of a number and a column that says so, a category of its own.
        standardise: numbers in standard deviations from their mean over the training rows.
        loss: in the place of the one that the target asks for, such as `lo.losses.poisson`.
        name: of the data set; default that of the file.

    Raises:
        ValueError: for a table that does not hold what is asked for, in a sentence.
    """
    if formula is not None:
        raise NotImplementedError("formulas are not read yet")
    if missing not in _POLICIES:
        raise ValueError(f"expected missing as one of {shortened(_POLICIES)}, got {missing!r}")
    title = name or (Path(os.fspath(frame)).stem if is_path(frame) else "table")  # type: ignore
    whole = read(frame)
    grouping = [groups] if isinstance(groups, str) else list(groups or [])
    held = query if isinstance(query, str) and query in whole.columns else None
    roles = _Roles(target, tuple(grouping), weights, offset, held)
    wanted = roles.features(whole, features)
    train, asked, notes = _split(whole, roles, query, list(wanted), missing)
    found = target_of(target, train[target], positive, loss)
    coding = learnt(train, wanted, indicator=missing == "indicator", standardise=standardise)
    return _made(title, train, asked, roles, found, coding, notes)


@dataclasses.dataclass(frozen=True)
class _Roles:
    """What columns are that are no features."""

    target: str
    groups: tuple[str, ...]
    weights: str | None
    offset: str | None
    query: str | None

    def features(self, frame: Frame, asked: Sequence[str] | Mapping[str, object] | None) -> dict:
        """Column to its kind, None for what it looks like."""
        taken = {self.target, *self.groups, self.weights, self.offset, self.query}
        if asked is None:
            found = {name: None for name in frame.columns if name not in taken}
            if not found:
                raise ValueError(
                    f"{frame.title} has no columns left to predict {self.target!r} from"
                )
            return found
        found = dict(asked) if isinstance(asked, Mapping) else dict.fromkeys(asked)
        if self.target in found:
            raise ValueError(
                f"the target {self.target!r} is among the features; leave it out there"
            )
        both = [name for name in self.groups if name in found]
        if both:
            warn(
                f"{shortened(both)} groups the rows and is a feature: without a group nothing "
                "determines its own coefficient"
            )
        return found

    @property
    def needed(self) -> list[str]:
        """Columns without which a row is no example."""
        return [name for name in (self.target, self.weights, self.offset) if name]


def _split(whole: Frame, roles: _Roles, query: object, wanted: list[str], missing: str):
    """Training rows, query rows, and notes on what was left out."""
    notes = list(whole.notes)
    whole = _complete(whole, [*roles.needed, *wanted], roles.needed, missing, notes)
    if query is None:
        return whole, whole, notes
    if roles.query is not None:
        held = by_column(roles.query, whole[roles.query])
    elif isinstance(query, float):
        y = whole[roles.target]
        values = np.asarray(y.values)
        strata = np.unique(values.astype(str), return_inverse=True)[1]
        held = by_share(query, whole.n, strata if strata.max() < 20 else None)
    else:
        other = _complete(read(query), [*roles.needed, *wanted], roles.needed, missing, notes)
        return whole, other, notes
    return whole.rows(~held), whole.rows(held), notes


def _complete(frame: Frame, names: list[str], needed: list[str], missing: str, notes: list[str]):
    """The rows in which nothing is missing that the policy does not code."""
    looked = needed if missing == "indicator" else names
    lost = {name: ~frame[name].there for name in looked}
    lost = {name: gone for name, gone in lost.items() if gone.any()}
    if not lost:
        return frame
    empty = [name for name, gone in lost.items() if gone.all()]
    if empty:
        raise ValueError(f"column {empty[0]!r} has no entries, all are missing; leave it out")
    bad = np.logical_or.reduce(list(lost.values()))
    counts = ", ".join(f"{name} {int(gone.sum()):,}" for name, gone in lost.items())
    if missing != "drop":
        raise ValueError(
            f"{int(bad.sum()):,} of {frame.n:,} rows of {frame.title} have something missing "
            f'({counts}); missing="drop" leaves them out, and missing="indicator" codes what is '
            "missing of features"
        )
    notes.append(f"{int(bad.sum()):,} rows with something missing were dropped ({counts})")
    return frame.rows(~bad)


@dataclasses.dataclass(frozen=True)
class _Coder:
    """The coding as the data set carries it: of any table that reads as the first did."""

    coding: Coding

    def coded(self, frame: object) -> Inputs:
        """Inputs of other rows."""
        return self.coding.inputs(read(frame))[0]

    def record(self):
        """What was learnt."""
        return self.coding.record()


def _made(
    title: str,
    train: Frame,
    asked: Frame,
    roles: _Roles,
    target: Target,
    coding: Coding,
    notes: list[str],
) -> Dataset:
    x, (x_query, known) = coding.inputs(train)[0], coding.inputs(asked)
    if not known.all():
        asked, x_query = asked.rows(known), x_query[known]
        notes.append(
            f"{int((~known).sum()):,} query rows have a category that no training row has, and "
            "were left out"
        )
    both = [name for name in roles.groups if name in asked.columns]
    return Dataset(
        name=title,
        x=x,
        y=target.of(train[target.name]),
        x_query=x_query,
        y_query=target.of(asked[target.name]),
        outputs=target.outputs,
        feature_names=coding.names,
        source=f"a table of {train.title}"
        if train.title != "the table"
        else "a table of one's own",
        licence="its owner's",
        intercept=coding.intercept,
        weights=_numbers(train, roles.weights),
        labels={name: _labels(train, name) for name in roles.groups},
        query_labels={name: _labels(asked, name) for name in both},
        loss=target.loss,
        classes=target.classes,
        target=target.name,
        offset=_numbers(train, roles.offset),
        offset_query=_numbers(asked, roles.offset),
        coding=_Coder(coding),
        notes=tuple(notes),
    )


def _labels(frame: Frame, name: str) -> np.ndarray:
    """A column of labels, None where one is missing."""
    values, there = frame[name]
    if there.all():
        return values
    kept = values.astype(object)
    kept[~there] = None
    return kept


def _numbers(frame: Frame, name: str | None) -> np.ndarray | None:
    if name is None:
        return None
    values = as_numbers(frame[name])
    if values is None:
        raise ValueError(f"column {name!r} holds no numbers")
    return values.astype(float)
