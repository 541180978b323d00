"""Studies of natural groups: what a labelling function, a crowdworker, a hospital is worth.

One data set, groups from one of its own columns, their effects on the whole of the query examples
and on parts of them, by every method and by retraining; in a folder that `read` opens again.

Source: Koh, Ang, Teo and Liang (2019), section 5.
"""

import dataclasses
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats

from leaveout import measures, plot
from leaveout.analysis.compare import compare
from leaveout.analysis.credit import Credit, credit
from leaveout.attribution.container import Effects, load
from leaveout.fitting.fitted import Fit
from leaveout.fitting.optimum import fit
from leaveout.fitting.penalties import cross_validate
from leaveout.groups import Groups
from leaveout.methods.first_order import Influence
from leaveout.methods.group_newton import Newton
from leaveout.methods.retraining import Retrain
from leaveout.objectives.linear import objective_for
from leaveout.runtime.files import read_json, read_parquet
from leaveout.studies import datasets
from leaveout.studies.datasets import Dataset
from leaveout.studies.folder import write_json

__all__ = [
    "METHODS",
    "Question",
    "Report",
    "draw_against_actual",
    "draw_coverage",
    "parts",
    "read",
    "run",
    "short",
]

METHODS = {"influence": Influence(), "newton": Newton(), "actual": Retrain()}
_MOST = 60  # labels of a column of the queries up to which each is a part of its own


@dataclasses.dataclass(frozen=True)
class Question:
    """What determines the numbers of a study of natural groups.

    Attributes:
        dataset: a name known to `datasets.load`.
        by: which of its columns groups the training examples, several joined by commas (crossed);
            default its first.
        l2_over_n: the penalty divided by n; default the data set's own, or cross-validated.
        methods: which of `METHODS` to run.
        null: random groups for each group.
    """

    dataset: str
    by: str | None = None
    l2_over_n: float | None = None
    methods: tuple[str, ...] = ("influence", "newton", "actual")
    null: int = 1000

    def __post_init__(self):
        unknown = [name for name in self.methods if name not in METHODS]
        if unknown or not self.methods:
            known = ", ".join(METHODS)
            raise ValueError(f"unknown method {(unknown or ['(none)'])[0]!r}; known: {known}")

    def folder(self) -> str:
        """The default name of the study's folder."""
        by = "" if self.by is None else "-" + self.by.replace(",", "-")
        return f"leaveout-credit-{self.dataset}{by}"


@dataclasses.dataclass(frozen=True, eq=False)
class Report:
    """What `run` leaves behind.

    Attributes:
        folder: where the files are.
        effects: name of a method to the effects of all groups.
        table: a pandas table, a row a group: that of `Credit.to_pandas`, and coverage (share of all
            memberships), majority (the commonest class), precision where labels have one, and "in
            PART" (examples in each part that queries have too).
        summary: what `summary.json` holds.
        credit: the result of `lo.credit`; None if it was read from the folder.
    """

    folder: Path
    effects: dict[str, Effects]
    table: Any
    summary: dict[str, Any]
    credit: Credit | None = None

    def losses(self) -> dict[str, int]:
        """Part of the queries to the position of the column that is the effect on its loss."""
        first = next(iter(self.effects.values()))
        return {
            short(name): j
            for j, (name, measure) in enumerate(zip(first.columns, first.measure, strict=True))
            if measure == "loss"
        }

    def kinds(self) -> list[str] | None:
        """The class of each group where groups are of one class, else None."""
        counts = [name for name in self.table if str(name).startswith("class ")]
        if not counts or not ((self.table[counts] != 0).sum(axis=1) == 1).all():
            return None
        return [f"class {k}" for k in self.table["majority"]]


def run(
    question: Question,
    out: str | os.PathLike | None = None,
    *,
    say: Callable[[str], None] = lambda sentence: None,
    memory=None,
) -> Report:
    """Run a study of natural groups, or read it if it is finished.

    Args:
        question: what to do.
        out: the folder; default `question.folder()` in the current one.
        say: called with a sentence at each stage.
        memory: bytes that working arrays may take.

    Raises:
        ValueError: if the data set has no such column, or the folder answers another question.
    """
    folder = Path(question.folder() if out is None else out)
    asked = json.loads(json.dumps(dataclasses.asdict(question)))
    if (folder / "summary.json").exists():
        if read_json(folder / "summary.json", "question")["question"] != asked:
            raise ValueError(f"{folder} answers another question; choose another folder")
        say(f"{folder} is finished; nothing to compute")
        return read(folder)
    begin = time.perf_counter()
    data = datasets.load(question.dataset)
    groups = _groups(data, question.by)
    say(f"{data.name}: {data.n:,} training examples, {data.d:,} features; {groups!r}")
    fitted = fit(_objective_of(data, question, say))
    penalty = float(fitted.objective.l2) / data.n
    say(f"fitted at l2/n = {penalty:.3g}, Newton decrement {float(fitted.residual):.1e}")
    found = credit(
        fitted, groups, _measures(data), [METHODS[name] for name in question.methods],
        null=question.null, memory=memory,
    )  # fmt: skip
    table = _described(found, data)
    rows = _comparisons(found)
    summary = {
        "question": asked,
        "data": {"source": data.source} | data.fingerprint(),
        "l2_over_n": penalty,
        "query_means": _query_means(fitted, data),
        "comparison": rows,
        "claims": _claims(found, table),
        "stand_out": _stand_out(found),
        "not_converged": {
            name: int(np.count_nonzero(each.status)) for name, each in found.effects.items()
        },
        "seconds": time.perf_counter() - begin,
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, each in found.effects.items():
        each.save(folder / f"effects_{name}.npz")
    table.to_parquet(folder / "credit.parquet", index=False)
    report = Report(folder, found.effects, table, summary, found)
    _draw(report, data)
    write_json(folder / "summary.json", summary)
    return report


def read(folder: str | os.PathLike) -> Report:
    """A finished study, from its folder.

    Raises:
        FileNotFoundError: if the folder holds none.
        ValueError: if a file of it is damaged.
    """
    folder = Path(folder)
    if not (folder / "summary.json").exists():
        raise FileNotFoundError(f"{folder} holds no finished study of natural groups")
    effects = {
        path.stem.removeprefix("effects_"): load(path)
        for path in sorted(folder.glob("effects_*.npz"))
    }
    order = [name for name in ("influence", "Newton", "actual") if name in effects]
    if not order:
        raise ValueError(f"{folder} is damaged: it has a summary, but no effects")
    return Report(
        folder,
        {name: effects[name] for name in order},
        read_parquet(folder / "credit.parquet", len(effects[order[0]].groups)),
        read_json(folder / "summary.json", "question", "comparison"),
    )


def _groups(data: Dataset, by: str | None) -> Groups:
    if not data.labels:
        raise ValueError(f"{data.name} has no column that groups its examples")
    names = [next(iter(data.labels))] if by is None else by.split(",")
    for name in names:
        if name not in data.labels:
            raise ValueError(f"{data.name} has no column {name!r}; it has {', '.join(data.labels)}")
    columns = [np.asarray(data.labels[name]) for name in names]
    if len(columns) == 1:
        return Groups.from_labels(columns[0], kind=names[0])
    return Groups.from_labels(np.stack([c.astype(str) for c in columns], 1), kind=", ".join(names))


def _objective_of(data: Dataset, question: Question, say):
    bare = objective_for(data, weights=data.weights)
    if question.l2_over_n is not None:
        return bare.with_l2(question.l2_over_n * data.n)
    if data.l2 is not None:
        return bare.with_l2(data.l2)
    say(f"choosing l2/n among {len(data.l2_grid)} values by 5-fold cross-validation")
    return bare.with_l2(cross_validate(bare, np.asarray(data.l2_grid) * data.n).l2)


def parts(data: Dataset) -> dict[str, np.ndarray]:
    """The parts of the queries that effects are summed over: all, each class, each label."""
    found = {"all": np.ones(len(data.y_query), bool)}
    if data.labelled:
        found |= {f"class {k}": data.y_query == k for k in np.unique(data.y_query)}
    for name, column in data.query_labels.items():
        levels = np.unique(column)
        if levels.size <= _MOST:
            found |= {f"{name} {level}": column == level for level in levels}
    return found


def _measures(data: Dataset) -> list:
    query = data.x_query, data.y_query
    wanted = [measures.loss(query, by=parts(data))]
    if data.labelled:
        return [*wanted, measures.accuracy(query)]
    return [measures.parameter(0, name=f"coefficient of {data.feature_names[0]}"), *wanted]


def _query_means(fitted: Fit, data: Dataset) -> dict[str, float]:
    """Mean query loss, and accuracy of a classifier, by part."""
    objective: Any = fitted.objective
    query, each = (data.x_query, data.y_query), parts(data)
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
    if "precision" in data.labels:
        more["precision"] = [float(data.labels["precision"][rows].mean()) for rows in lists]
    for name in data.query_labels:
        if name in data.labels:
            column = np.asarray(data.labels[name])
            for level in np.unique(data.query_labels[name]):
                more[f"in {name} {level}"] = [int((column[rows] == level).sum()) for rows in lists]
    return table.assign(**more)


def _comparisons(found: Credit) -> list[dict[str, Any]]:
    """How each method agrees with retraining, for every column."""
    actual, rows = found.effects.get("actual"), []
    if actual is None or len(found.groups) < 3:
        return rows
    for name, each in found.effects.items():
        if name == "actual":
            continue
        good = (each.status == 0) & (actual.status == 0)
        report = compare(each[good], actual[good], resamples=0)
        for j, column in enumerate(found.columns):
            row: dict[str, Any] = {"method": name, "column": column, "groups": int(good.sum())}
            for statistic in ("spearman", "pearson", "slope", "sign_agreement", "underestimated"):
                value = float(report[statistic][j])
                row[statistic] = None if np.isnan(value) else value
            rows.append(row)
    return rows


def _claims(found: Credit, table) -> list[dict[str, Any]]:
    """Rank correlations of what groups are with what they do, over all and within each class."""
    rows = []
    kinds = {"all": np.ones(len(table), bool)}
    if "majority" in table and _of_one_class(found):
        kinds |= {f"class {k}": (table["majority"] == k).to_numpy() for k in found.classes}
    for j, column in enumerate(found.columns):
        effect = found.effects[next(iter(found.effects))].value[:, j]
        for trait in ("coverage", "precision"):
            if trait not in table:
                continue
            for kind, mine in kinds.items():
                x, y = table[trait].to_numpy()[mine], effect[mine]
                if mine.sum() > 2 and np.ptp(x) > 0 and np.ptp(y) > 0:
                    value = float(np.asarray(scipy.stats.spearmanr(x, y))[0])
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
        if np.isfinite(found.null.q[:, j]).all()
    }


# ---- figures -------------------------------------------------------------------------------------


def _draw(report: Report, data: Dataset) -> None:
    """Every figure that the study has, into its folder."""
    folder, found = report.folder, report.credit
    assert found is not None
    summed = [j for j, name in enumerate(found.best.measure) if name == "loss"]
    plot.bands(found, 0, path=folder / "bands.png")
    values = found.best.value[:, summed]
    names = [short(found.columns[j]) for j in summed]
    if len(summed) > 1:
        title = f"{data.name}: effect on the query loss"
        plot.heat(values, found.groups.names, names, title=title, path=folder / "heat.png")
    draw_coverage(report, summed[: min(3, len(summed))], "size", folder / "size.png")
    if "precision" in report.table:
        draw_coverage(report, summed[: min(3, len(summed))], "precision", folder / "precision.png")
    if "actual" in report.effects and len(report.effects) > 1:
        draw_against_actual(report, [0, *summed[1:4]], folder / "actual.png")


def short(column: str) -> str:
    """The part of a column's name in brackets."""
    return column.partition("[")[2].rstrip("]") or column


def draw_coverage(report: Report, columns, trait: str, path, *, hide: int = 0) -> None:
    """Effects over a trait of the groups, a panel a column; `hide` as in `plot.against`."""
    figure, axes = plot.canvas(1, len(columns))
    first = report.effects[next(iter(report.effects))]
    for ax, j in zip(axes[0], columns, strict=True):
        plot.against(
            report.table[trait], first.value[:, j], ax=ax, kinds=report.kinds(), xlabel=trait,
            ylabel=f"{first.method} on {short(first.columns[j])}", hide=hide,
        )  # fmt: skip
    plot.write(figure, path)


def draw_against_actual(report: Report, columns, path) -> None:
    """Predicted against actual effects, a row a method, a panel a column."""
    actual = report.effects["actual"]
    kinds = report.kinds()
    if kinds is not None:
        groups = dataclasses.replace(actual.groups, kind=np.asarray(kinds))
        actual = dataclasses.replace(actual, groups=groups)
    cells, rows = [], []
    for name, each in report.effects.items():
        if name != "actual":
            each = dataclasses.replace(each, groups=actual.groups)
            cells.append([(each, actual, j) for j in columns])
            rows.append(name)
    titles = [short(actual.columns[j]) for j in columns]
    plot.grid(cells, titles=titles, rows=rows, path=path)
