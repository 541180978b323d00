"""Studies of natural groups: what a labelling function, a crowdworker, a hospital is worth.

One data set, groups from one of its own columns, their effects on the whole of the query examples
and on parts of them, by every method and by retraining; in a folder where a study that was stopped
goes on, and that `read` opens again.

Source: Koh, Ang, Teo and Liang (2019), section 5.
"""

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np

from leaveout import measures
from leaveout.analysis.compare import compare
from leaveout.analysis.credit import Credit, credited
from leaveout.analysis.null import Null
from leaveout.attribution.container import load_effects
from leaveout.fitting.fitted import Fit
from leaveout.fitting.optimum import fit
from leaveout.groups import Groups
from leaveout.measures import Measure
from leaveout.methods import Method
from leaveout.runtime.columns import levels_of
from leaveout.runtime.deprecated import found_elsewhere
from leaveout.runtime.files import read_json, read_parquet, write_json, write_parquet
from leaveout.runtime.memory import limited
from leaveout.studies import engine
from leaveout.studies.configured import Chosen, chosen, file_name, parsed
from leaveout.studies.datasets import Dataset, objective_for
from leaveout.studies.engine import Experiment, Found, Setting
from leaveout.studies.folder import (
    Progress,
    Say,
    Workspace,
    is_finished,
)
from leaveout.studies.given import Given, known, loaded
from leaveout.studies.natural_report import Report, draw
from leaveout.studies.penalty import penalised
from leaveout.studies.report.of_credit import report as write_report

__all__ = [
    "Question",
    "Report",
    "found",
    "parts",
    "read",
    "run",
]

__getattr__ = found_elsewhere(__name__, {"METHODS": "leaveout.methods:BY_WORD"})

_MOST = 60  # labels of a column of the queries up to which each is a part of its own


@dataclasses.dataclass(frozen=True, eq=False)
class Question(Experiment[Report]):
    """What determines the numbers of a study of natural groups.

    Attributes:
        dataset: a name known to `datasets.load`, or a data set of one's own (`lo.table`).
        by: which of its columns groups the training examples, several joined by commas (crossed);
            default its first.
        l2_over_n: the penalty divided by n; default the data set's own, or cross-validated.
        methods: which to run, words of `methods.BY_WORD` or methods of your own, the most exact
            last.
        null: random groups for each group.
    """

    dataset: Given
    by: str | None = None
    l2_over_n: float | None = None
    methods: tuple[str | Method, ...] = ("influence", "newton", "actual")
    null: int = 1000

    def __post_init__(self):
        every = chosen(self.methods)
        if not every:
            raise ValueError("expected at least one method, for example 'influence'")
        object.__setattr__(self, "methods", tuple(each.given for each in every))

    @property
    def chosen(self) -> tuple[Chosen, ...]:
        """The methods by all their names."""
        return chosen(self.methods)

    @classmethod
    def owns(cls, fields: dict[str, Any]) -> bool:
        """Whether these fields are those of a study of natural groups."""
        return "null" in fields

    def folder(self) -> str:
        """The default name of the study's folder."""
        by = "" if self.by is None else "-" + self.by.replace(",", "-")
        return f"leaveout-credit-{self.title()}{by}"

    def in_words(self) -> str:
        """What it is, for a line of a list."""
        l2 = "chosen l2" if self.l2_over_n is None else f"l2/n {self.l2_over_n:.3g}"
        by = "its first column" if self.by is None else self.by
        return f"{known(self.dataset):<14} by {by}, {l2}, {self.null:,} random groups a group"

    def set_up(self, space: Workspace) -> "_Setting":
        """The data, its groups, and the fit."""
        data = loaded(self.dataset)
        made = data.grouped(self.by)
        for note in data.notes:
            space.say(note)
        space.say(f"{data.name}: {data.n:,} training examples, {data.d:,} features; {made!r}")
        bare = objective_for(data, weights=data.weights)
        objective, _ = penalised(bare, data, self.l2_over_n, space)
        space.clock.lap("l2")
        fitted = fit(objective)
        space.clock.lap("fit")
        penalty = float(objective.l2) / data.n
        decrement = float(fitted.residual)
        space.say(f"fitted at l2/n = {penalty:.3g}, Newton decrement {decrement:.1e}")
        return _Setting(self, data, made, fitted, _measures(data))

    def opened(self, folder: Path) -> Report:
        """The finished study, from its folder."""
        return read(folder)


def run(
    question: Question,
    out: str | os.PathLike | None = None,
    *,
    progress: Progress | None = None,
    say: Say = lambda sentence: None,
    memory: float | int | None = None,
    begun: float | None = None,
    command: str | None = None,
) -> Report:
    """Run a study of natural groups, go on with it, or read it if it is finished.

    Args:
        question: what to do.
        out: the folder; default `question.folder()` in the current one.
        progress: called after each chunk.
        say: called with a sentence at each stage.
        memory: bytes that working arrays may take; default a quarter of what is free. Kept with the
            plan of chunks, so that a study goes on as it began.
        begun: when waiting for it began, as `time.perf_counter()` says: what came before this call
            is then counted, too, as "start". The command line gives the start of its process.
        command: what asked for it, for the report to quote.

    Raises:
        ValueError: if the data set has no such column, the folder holds another study, or another
            process is at work in it.
    """
    return engine.run(question, out, progress, say, memory, begun, command)


def read(folder: str | os.PathLike) -> Report:
    """A finished study, from its folder; methods of your own need not be there.

    Raises:
        FileNotFoundError: if the folder holds none.
        ValueError: if a file of it is damaged.
    """
    folder = Path(folder)
    path = folder / "summary.json"
    if not is_finished(folder):
        raise FileNotFoundError(f"{folder} holds no finished study of natural groups")
    summary = read_json(path, "question", "comparison")
    every = parsed(Question, summary["question"], path).chosen
    there = [each for each in every if _effects_path(folder, each).exists()]
    if not there:
        raise ValueError(f"{folder} is damaged: it has a summary, but no effects")
    effects = {each.name: load_effects(_effects_path(folder, each)) for each in there}
    count = len(effects[there[0].name].groups)
    table = read_parquet(folder / "credit.parquet", count)
    return Report(folder, effects, table, summary)


def found(where: str | os.PathLike = ".") -> list[dict[str, Any]]:
    """The studies in the folders of a folder: what each is, and how far it is."""
    return engine.found(where, Question)


def _effects_path(folder: Path, each: Chosen) -> Path:
    return folder / f"effects_{file_name(each.name)}.npz"


# ---- on its data ---------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class _Setting(Setting[Report]):
    """A study on its data.

    Attributes:
        question: what determines its numbers.
        data: the data set.
        made: its groups.
        fit: of its model.
        measures: of the query examples.
    """

    question: Question
    data: Dataset
    made: Groups
    fit: Fit
    measures: list[Measure]

    def groups(self, space: Workspace) -> Groups:
        """Those of the column."""
        return self.made

    def finish(self, found: Found, space: Workspace) -> Report:
        """Compare with random groups; write effects, table, figures and summary."""
        folder = space.folder
        effects = {each.name: values for each, values in found.effects.items()}
        null = Null(self.question.null)
        with limited(space.room):
            worth = credited(self.fit, found.plan.groups, self.measures, effects, null)
        table = _described(worth, self.data)
        space.clock.lap("null")
        for each, values in found.effects.items():
            values.save(_effects_path(folder, each))
        write_parquet(folder / "credit.parquet", table)
        summary = self._summary(worth, table)
        report = Report(folder, effects, table, summary, worth, found.resumed)
        draw(report, self.data.name)
        space.clock.lap("table and figures")
        self._write_page(worth, space)
        summary["seconds"] = space.clock.total()
        write_json(folder / "summary.json", summary)
        return report

    def _write_page(self, worth: Credit, space: Workspace) -> None:
        """The page for those who decide; without jinja2 a sentence on how to have it."""
        try:
            path = space.folder / "report.html"
            write_report(worth, path, data=self.data, command=space.command)
        except ImportError as error:
            space.say(str(error))
        space.clock.lap("report")

    def _summary(self, worth: Credit, table) -> dict[str, Any]:
        failed = {n: int(np.count_nonzero(each.status)) for n, each in worth.effects.items()}
        return {
            "question": self.question.to_json(),
            "data": {"source": self.data.source} | self.data.fingerprint(),
            "l2_over_n": float(self.fit.objective.l2) / self.data.n,
            "query_means": _query_means(self.fit, self.data),
            "comparison": _comparisons(worth),
            "claims": _claims(worth, table),
            "stand_out": _stand_out(worth),
            "not_converged": failed,
        }


def parts(data: Dataset) -> dict[str, np.ndarray]:
    """The parts of the queries that effects are summed over: all, each class, each label."""
    found = {"all": np.ones(len(data.y_query), bool)}
    if data.labelled:
        found |= {f"class {k}": data.y_query == k for k in levels_of(data.y_query)}
    for name, labels in data.query_labels.items():
        levels = levels_of(labels)
        if len(levels) <= _MOST:
            found |= {f"{name} {level}": labels == level for level in levels}
    return found


def _measures(data: Dataset) -> list[Measure]:
    wanted = [measures.loss(data.query, by=parts(data))]
    if data.labelled:
        return [*wanted, measures.accuracy(data.query)]
    if data.coding is not None:  # which of the features matters, its owner knows
        return wanted
    return [measures.parameter(0, name=f"coefficient of {data.feature_names[0]}"), *wanted]


# ---- what was found ------------------------------------------------------------------------------


def _query_means(fitted: Fit, data: Dataset) -> dict[str, float]:
    """Mean query loss, and accuracy of a classifier, by part."""
    objective = fitted.objective
    query, each = data.query, parts(data)
    wanted = [measures.loss(query, reduce="mean", by=each)]
    if data.labelled:
        wanted.append(measures.accuracy(query, by=each))
    found: dict[str, float] = {}
    for measure in wanted:
        bound = measure.bind(objective)
        values = np.asarray(bound.values(objective, fitted.flat, None))
        found |= dict(zip(bound.columns(objective), values.tolist(), strict=True))
    return found


def _described(found: Credit, data: Dataset):
    """The table of credit, and what else is known of the groups."""
    table, groups = found.to_pandas(), found.groups
    lists = np.split(groups.indices, groups.offsets[1:-1])
    more: dict[str, Any] = {"coverage": groups.size / groups.size.sum()}
    if len(found.classes):
        more["majority"] = np.asarray(found.classes)[found.balance.argmax(axis=1)]
    if "precision" in data.labels and data.coding is None:
        more["precision"] = [float(data.labels["precision"][rows].mean()) for rows in lists]
    for name in data.query_labels:
        if name in data.labels:
            mine = np.asarray(data.labels[name])
            for level in levels_of(data.query_labels[name]):
                more[f"in {name} {level}"] = [int((mine[rows] == level).sum()) for rows in lists]
    return table.assign(**more)


def _comparisons(found: Credit) -> list[dict[str, Any]]:
    """How each method agrees with retraining, for every column."""
    actual, rows = found.effects.get("actual"), []
    if actual is None or len(found.groups) < 3:
        return rows
    for name, each in found.effects.items():
        if name == "actual":
            continue
        good = (each.column_status == 0) & (actual.column_status == 0)
        if not (good.sum(axis=0) > 1).any():
            continue
        report = compare(each, actual, resamples=0)
        for j, column in enumerate(found.columns):
            row: dict[str, Any] = {
                "method": name,
                "column": column,
                "groups": int(good[:, j].sum()),
            }
            for statistic in ("spearman", "pearson", "slope", "sign_agreement", "underestimated"):
                value = float(report[statistic][j])
                row[statistic] = None if np.isnan(value) else value
            rows.append(row)
    return rows


def _claims(found: Credit, table) -> list[dict[str, Any]]:
    """Rank correlations of what groups are with what they do, over all and within each class."""
    from scipy.stats import spearmanr

    rows = []
    kinds, first = {"all": np.ones(len(table), bool)}, next(iter(found.effects.values()))
    if "majority" in table and _of_one_class(found):
        kinds |= {f"class {k}": (table["majority"] == k).to_numpy() for k in found.classes}
    for j, column in enumerate(found.columns):
        effect, good = first.value[:, j], first.column_status[:, j] == 0
        for trait in ("coverage", "precision"):
            if trait not in table:
                continue
            for kind, those in kinds.items():
                mine = those & good
                x, y = table[trait].to_numpy()[mine], effect[mine]
                if mine.sum() > 2 and np.ptp(x) > 0 and np.ptp(y) > 0:
                    value = float(np.asarray(spearmanr(x, y))[0])
                    rows.append({"column": column, "trait": trait, "groups of": kind,
                                 "count": int(mine.sum()), "spearman": value})  # fmt: skip
    return rows


def _of_one_class(found: Credit) -> bool:
    """Whether every group's points are all of one class, as those of a labelling function are."""
    return bool((np.count_nonzero(found.balance, axis=1) == 1).all())


def _stand_out(found: Credit) -> dict[str, list[str]]:
    """The groups unlike random ones, by column, at a false discovery rate of 5 %."""
    if found.null is None:
        return {}
    names = found.groups.names
    return {
        column: names[found.null.q[:, j] <= 0.05].tolist()
        for j, column in enumerate(found.columns)
        if np.isfinite(found.null.q[:, j]).any()
    }
