"""`lo.table`: a user's own table as a data set, which every study, figure and verb takes."""

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from leaveout.objectives.losses import Loss
from leaveout.objectives.sparse import Inputs
from leaveout.runtime.columns import as_numbers
from leaveout.runtime.tables import dense_copy, is_sparse
from leaveout.runtime.text import shortened, warn
from leaveout.studies.datasets import Dataset
from leaveout.studies.own.coding import Block, Coding
from leaveout.studies.own.formulas import Formula, right_side, sources_of
from leaveout.studies.own.frames import Frame, is_path, read
from leaveout.studies.own.learning import learnt, warn_of_copies
from leaveout.studies.own.queries import held_out
from leaveout.studies.own.targets import target_of

__all__ = ["table"]

_POLICIES = ("refuse", "drop", "indicator")
_ENDINGS = r"(\.(csv|tsv|txt|parquet|pq))?(\.(gz|bz2|xz|zip|zst))?$"  # of files


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

        data = lo.table("sales.csv", target="churn", groups="vendor", query=0.2)
        fit = lo.fit(data.objective(l2=1.0))
        print(lo.credit(fit, data.groups, lo.measures.loss(data.query)))

    Columns are coded as the training rows have them. Numbers stay as they are; a category becomes
    a column "site=va" for each of its values but the first in sorted (or declared) order, which the
    others are compared with; a text of sentences becomes its words (tf-idf). What was left out is
    in `data.notes`, what was learnt in `data.coding.record()`, and `data.coded(rows)` codes others.

    Args:
        frame: a table of pandas, polars or pyarrow, a dictionary of columns, or the path of a CSV
            or Parquet file.
        target: the column to predict. Labels make `logistic` of two and `softmax` of more, numbers
            `squares`; a number that takes two values is a label.
        groups: a column that groups the rows, or several; `data.groups` are those of the first. A
            row whose group is missing is in none.
        features: the columns to predict from, or a dictionary of them to what each is: "number",
            "category", "text", a vectorizer of scikit-learn's, or None for what it looks like.
            Default all others.
        formula: instead, one of `formulaic`, such as "age + C(hospital)", with its names.
        weights: a column of base weights, at least 0.
        offset: a column of known amounts that are added to the scores.
        query: where effects are measured: a share of the rows (of every class, always the same
            ones); a column that says which rows; (n) booleans; another table or file; a number of
            folds, a splitter of scikit-learn's or pairs (train, query) of positions, which give
            `data.folds`, a data set each, and the first of them; or None, the training rows
            themselves.
        positive: the label whose chance is modelled, against all others.
        missing: "refuse" rows with something missing; "drop" them, which `notes` count; or
            "indicator": of features, the median in the place of a number and a column that says so,
            "age missing", and a category of its own, "site=missing".
        standardise: numbers in standard deviations from their mean over the training rows.
        loss: in the place of the one that the target asks for, such as `lo.losses.poisson`.
        name: of the data set; default that of the file.

    Returns:
        the data set: x (n d), y (n), the queries, `groups` and what was done to the table.

    Raises:
        ValueError: for a table that does not hold what is asked for: no rows, a column that is not
            there, one class, dates, numbers mixed with text, names of rows, and so on, in a
            sentence each.

    Example:
        >>> frame = {"age": x[:, 0], "site": list("abcd") * 6, "died": y}
        >>> data = lo.table(frame, target="died", groups="site", features=["age"])
        >>> data.x.shape, data.groups.names.tolist()
        ((24, 1), ['a', 'b', 'c', 'd'])
    """
    if missing not in _POLICIES:
        raise ValueError(f"expected missing as one of {shortened(_POLICIES)}, got {missing!r}")
    whole = read(frame)
    grouping = (groups,) if isinstance(groups, str) else tuple(groups or ())
    held = query if isinstance(query, str) and query in whole.columns else None
    roles = _Roles(target, grouping, weights, offset, held)
    right = None
    if formula is not None:
        right = _right_side(formula, roles, features, missing, standardise)
    plan = _Plan(
        title=name or (re.sub(_ENDINGS, "", whole.title) if is_path(frame) else "table"),
        roles=roles,
        features=roles.features(whole, features) if formula is None else None,
        formula=right,
        positive=positive,
        missing=missing,
        standardise=standardise,
        loss=loss,
    )
    return _split(whole, query, plan)


@dataclasses.dataclass(frozen=True)
class _Roles:
    """What columns are that are no features.

    Attributes:
        target: the column to predict.
        groups: columns that group the rows.
        weights: of base weights, or None.
        offset: of what is added to the scores, or None.
        query: that says which rows are queries, or None.
    """

    target: str
    groups: tuple[str, ...]
    weights: str | None
    offset: str | None
    query: str | None

    @property
    def needed(self) -> list[str]:
        """Columns without which a row is no example."""
        return [name for name in (self.target, self.weights, self.offset) if name]

    def features(
        self, frame: Frame, asked: Sequence[str] | Mapping[str, object] | None
    ) -> dict[str, object]:
        """Column to its kind, None for what it looks like.

        Raises:
            ValueError: where there is none, or the target is among them.
        """
        for name in (*self.needed, *self.groups):
            frame[name]
        if asked is None:
            taken = {*self.needed, *self.groups, self.query}
            found: dict[str, object] = {name: None for name in frame.columns if name not in taken}
        else:
            names = [asked] if isinstance(asked, str) else asked
            pairs = asked.items() if isinstance(asked, Mapping) else ((n, None) for n in names)
            found = dict(pairs)
            self.check(found)
        if not found:
            raise ValueError(f"{frame.title} has no column to predict {self.target!r} from")
        return found

    def check(self, features) -> None:
        """Refuse the target among the features; warn of a group that is one."""
        if self.target in features:
            raise ValueError(f"the target {self.target!r} is among the features; take it out")
        both = [name for name in self.groups if name in features]
        if both:
            warn(
                f"{shortened(both)} groups the rows and is a feature: without a group nothing but "
                "the penalty determines the coefficient of its own column"
            )


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What becomes of a table: fields as the arguments of `table`, read.

    Attributes:
        title: of the data set.
        roles: of its columns.
        features: column to its kind, or None where there is a formula.
        formula: its right side, or None.
        positive: label.
        missing: policy.
        standardise: numbers.
        loss: asked for.
    """

    title: str
    roles: _Roles
    features: dict[str, object] | None
    formula: str | None
    positive: object
    missing: str
    standardise: bool
    loss: Loss | None

    def sources(self, frame: Frame) -> list[str]:
        """The columns that features are made of."""
        if self.formula is not None:
            return sources_of(self.formula, frame)
        return list(self.features or ())

    def coding(self, train: Frame) -> tuple[Coding, tuple[str, ...]]:
        """How they are coded, and notes on it."""
        if self.formula is not None:
            return Formula.learnt(self.formula, train), ()
        indicator = self.missing == "indicator"
        return learnt(train, self.features or {}, indicator=indicator, standardise=self.standardise)


def _right_side(
    formula: str, roles: _Roles, features: object, missing: str, standardise: bool
) -> str:
    """The right side of a formula, with which other ways to say the features do not go."""
    if features is not None:
        raise ValueError("expected features= or formula=, got both")
    if missing == "indicator":
        raise ValueError(
            'missing="indicator" is for features=; with a formula give missing="drop", or columns '
            "of your own that say what is missing"
        )
    if standardise:
        raise ValueError("a formula says itself what is standardised: scale(age) in it")
    return right_side(formula, roles.target)


# ---- rows ----------------------------------------------------------------------------------------


def _split(whole: Frame, query: object, plan: _Plan) -> Dataset:
    """The rows into those that train and those that are queries, once or fold by fold."""
    for name in (*plan.roles.needed, *plan.roles.groups):
        whole[name]
    sources = plan.sources(whole)
    if plan.formula is not None:
        plan.roles.check(sources)
    frame, kept, notes = _complete(whole, sources, plan)
    notes = [*whole.notes, *notes]
    if query is None:
        return _made(plan, frame, frame, notes)
    held = held_out(whole, query, plan.roles.target)
    if held is None:
        asked, _, more = _complete(_other(query, whole), sources, plan)
        return _made(plan, frame, asked, [*notes, *more])
    each = [rows[kept] for rows in held]
    found = [_made(plan, frame.rows(~rows), frame.rows(rows), notes) for rows in each]
    if len(found) == 1:
        return found[0]
    note = f"the first of {len(found)} folds: data.folds has all"
    return dataclasses.replace(found[0], folds=tuple(found), notes=(*found[0].notes, note))


def _other(query: object, whole: Frame) -> Frame:
    """The table of the queries.

    Raises:
        ValueError: for a word that names no column and no file.
    """
    if isinstance(query, str) and not os.path.exists(query):
        raise ValueError(f"{query!r} is neither a column of {whole.title} nor a file")
    return read(query, "the table of queries")


def _complete(
    frame: Frame, sources: Sequence[str], plan: _Plan
) -> tuple[Frame, np.ndarray, list[str]]:
    """The rows in which nothing is missing that the policy does not code; which; what was dropped.

    Raises:
        ValueError: for what the policy refuses, or a column without entries.
    """
    indicator = plan.missing == "indicator"
    looked = plan.roles.needed if indicator else [*plan.roles.needed, *sources]
    lost = {name: ~frame[name].there for name in looked}
    lost = {name: gone for name, gone in lost.items() if gone.any()}
    if not lost:
        return frame, np.ones(frame.n, bool), []
    empty = [name for name, gone in lost.items() if gone.all()]
    if empty:
        raise ValueError(f"column {empty[0]!r} has no entries, all are missing; leave it out")
    bad = np.logical_or.reduce(list(lost.values()))
    counts = ", ".join(f"{name} in {int(gone.sum()):,}" for name, gone in lost.items())
    if plan.missing != "drop":
        ways = "" if indicator else '; missing="indicator" codes what features lack'
        raise ValueError(
            f"{int(bad.sum()):,} of {frame.n:,} rows of {frame.title} have something missing "
            f'({counts}): missing="drop" leaves them out{ways}'
        )
    if bad.all():
        raise ValueError(f"no row of {frame.title} has all it needs; missing are {counts}")
    note = f"{int(bad.sum()):,} rows with something missing were dropped ({counts})"
    return frame.rows(~bad), ~bad, [note]


# ---- made ----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class _Coder:
    """The coding as the data set carries it: of any table that reads as the first did.

    Attributes:
        coding: learnt from the training rows.
        dense: whether those are written out, and so others are.
    """

    coding: Coding
    dense: bool

    def coded(self, frame: object) -> Inputs:
        """Inputs of other rows.

        Raises:
            ValueError: for a row that lacks something, or has a category that no training row has.
        """
        given = read(frame)
        x, known = self.coding.inputs(given)
        if not known.all():
            raise ValueError(
                f"{int((~known).sum()):,} of {given.n:,} rows lack something, or have a category "
                f"that no training row has; the first is row {int(np.argmin(known))}"
            )
        return self.like(x)

    def like(self, x: Block) -> Block:
        """Inputs as those of the training rows are, written out or sparse."""
        return dense_copy(x, "the rows") if self.dense and is_sparse(x) else x

    def record(self) -> list[dict[str, Any]]:
        """What was learnt."""
        return self.coding.record()


def _made(plan: _Plan, train: Frame, asked: Frame, notes: list[str]) -> Dataset:
    """The data set of training rows and queries."""
    roles = plan.roles
    target = target_of(roles.target, train[roles.target], plan.positive, plan.loss)
    coding, more = plan.coding(train)
    x, (x_query, known) = coding.inputs(train)[0], coding.inputs(asked)
    if not known.all():
        asked, x_query = asked.rows(known), x_query[known]
        notes = [*notes, _unknown(known)]
    y, coder = target.of(train[target.name]), _Coder(coding, not is_sparse(x))
    warn_of_copies(x, coding.names, target.coded(y), target.name)
    labelled = [name for name in roles.groups if name in asked.columns]
    return Dataset(
        name=plan.title,
        x=x,
        y=y,
        x_query=coder.like(x_query),
        y_query=target.of(asked[target.name]),
        outputs=target.outputs,
        feature_names=coding.names,
        source=train.title,
        licence="its owner's",
        intercept=coding.intercept,
        weights=_numbers(train, roles.weights),
        labels={name: _labels(train, name) for name in roles.groups},
        query_labels={name: _labels(asked, name) for name in labelled},
        loss=target.loss,
        classes=target.classes,
        target=target.name,
        offset=_numbers(train, roles.offset),
        offset_query=_numbers(asked, roles.offset),
        coding=coder,
        notes=(*notes, *more),
        rows=train.positions,
    )


def _unknown(known: np.ndarray) -> str:
    """A note on queries of unknown categories.

    Raises:
        ValueError: where there are no others.
    """
    if not known.any():
        raise ValueError("no query row has only categories that training rows have")
    return (
        f"{int((~known).sum()):,} query rows were left out: they lack what no training row lacks, "
        "or have a category that none has"
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
    """A column of weights or offsets."""
    if name is None:
        return None
    values = as_numbers(frame[name])
    if values is None:
        raise ValueError(f"column {name!r} holds no numbers")
    return values.astype(float)
