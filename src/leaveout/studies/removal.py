"""A study: one data set, the paper's seven kinds of groups, predicted against actual effects.

A study is a folder. It holds the configuration, the groups, one small file for every finished
chunk, and in the end the effects, a summary and a figure. Running it again goes on where it was;
`read` opens a finished one without computing anything.
"""

import dataclasses
import functools
import importlib.metadata
import json
import os
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array

from leaveout import groups as _groups
from leaveout import measures, plot
from leaveout.analysis.compare import Comparison, compare
from leaveout.attribution.container import Effects
from leaveout.fitting.fitted import Fit
from leaveout.fitting.optimum import fit
from leaveout.groups import Groups
from leaveout.measures import Measure
from leaveout.methods import Method, per_point
from leaveout.objectives.linear import LinearObjective
from leaveout.runtime.deprecated import found_elsewhere
from leaveout.runtime.files import read_json, write_json
from leaveout.runtime.memory import budget, give_back, most_resident, resident
from leaveout.studies import engine
from leaveout.studies.configured import Chosen, chosen, parsed
from leaveout.studies.datasets import Dataset, objective_for
from leaveout.studies.engine import Experiment, Found, Setting, collected
from leaveout.studies.folder import (
    Progress,
    Say,
    Workspace,
    is_finished,
    read_groups,
    write_effects,
)
from leaveout.studies.given import Given, known, loaded
from leaveout.studies.penalty import penalised
from leaveout.studies.report.of_study import report_of_study

__all__ = [
    "Configuration",
    "Study",
    "found",
    "headline",
    "read",
    "run",
]

__getattr__ = found_elsewhere(__name__, {"METHODS": "leaveout.methods:BY_WORD"})


@dataclasses.dataclass(frozen=True, eq=False)
class Study:
    """What `run` leaves behind.

    Attributes:
        folder: where the files are.
        effects: per method (its word, or the name of one of your own), the effects of all groups on
            all columns.
        comparisons: per method (not "actual"), against the actual effects.
        summary: what `summary.json` holds.
        resumed: chunks that were there already.
    """

    folder: Path
    effects: dict[str, Effects]
    comparisons: dict[str, Comparison]
    summary: dict[str, Any]
    resumed: int


@dataclasses.dataclass(frozen=True, eq=False)
class Configuration(Experiment[Study]):
    """What determines the numbers of a study; another configuration is another folder.

    Attributes:
        dataset: a name known to `datasets.load`, or a data set of one's own (`lo.table`).
        per_family: groups asked of each family; the paper's 100 make up to 1,700.
        seed: of groups and of the choice of query points.
        l2_over_n: the penalty divided by n, or None to choose it by cross-validation.
        methods: which to run, words of `methods.BY_WORD` or methods of your own; "actual" is always
            among them.
    """

    dataset: Given
    per_family: int = 100
    seed: int = 0
    l2_over_n: float | None = None
    methods: tuple[str | Method, ...] = ("influence", "changed", "newton", "actual")

    def __post_init__(self):
        known(self.dataset)
        if self.per_family < 3:
            raise ValueError(f"expected at least 3 groups a family, got {self.per_family}")
        if self.l2_over_n is not None and not self.l2_over_n >= 0:
            raise ValueError(f"expected l2 / n as a number >= 0, got {self.l2_over_n}")
        every = chosen(self.methods)
        actual = () if "actual" in (each.name for each in every) else ("actual",)
        object.__setattr__(self, "methods", (*(each.given for each in every), *actual))

    @property
    def chosen(self) -> tuple[Chosen, ...]:
        """The methods by all their names."""
        return chosen(self.methods)

    @classmethod
    def owns(cls, fields: dict[str, Any]) -> bool:
        """Whether these fields are those of no other kind: what is damaged is then told here."""
        return not {"null", "setup", "largest"} & set(fields)

    def folder(self) -> str:
        """The default name of the study's folder: it changes with the configuration."""
        return f"leaveout-{self.title()}-{self.mark()}"

    def in_words(self) -> str:
        """What it is, for a line of a list."""
        l2 = "chosen l2" if self.l2_over_n is None else f"l2/n {self.l2_over_n:.3g}"
        groups = f"{known(self.dataset):<14} {self.per_family:>4} groups a family"
        return f"{groups}, {l2}, seed {self.seed}"

    def room(self, space: Workspace) -> int:
        """Bytes for working arrays, of those for the whole process."""
        if space.room is None:
            return budget()
        give_back()
        left = budget(space.room) - resident()
        if left <= 0:
            gibibytes = resident() / 2**30
            space.say(f"{gibibytes:.1f} GiB are in use already, more than --memory: small chunks")
        return max(left // 3, budget(space.room) // 8)

    def set_up(self, space: Workspace) -> "_Setting":
        """The data, the fit, and the queries at which effects are measured."""
        data = loaded(self.dataset)
        space.say(
            f"{data.name}: {data.n:,} training examples, {data.d:,} features, "
            f"{data.outputs} outputs"
        )
        weights = None if data.coding is None else data.weights  # others go with natural groups
        bare = objective_for(data, weights=weights)
        objective, choice = penalised(bare, data, self.l2_over_n, space)
        space.clock.lap("l2")
        fitted = fit(objective)
        space.clock.lap("fit")
        for note in data.notes:
            space.say(note)
        accuracy = _accuracy(fitted, data)
        tested = "" if accuracy is None else f"test accuracy {accuracy:.1%}, "
        space.say(
            f"fitted at l2/n = {float(objective.l2) / data.n:.3g}: {tested}"
            f"Newton decrement {float(fitted.residual):.1e}"
        )
        query, losses = _query_points(fitted, data, self)
        space.clock.lap("queries")
        wanted = _measures(data, query)
        return _Setting(self, data, objective, choice, fitted, accuracy, query, losses, wanted)

    def opened(self, folder: Path) -> Study:
        """The finished study, from its folder."""
        return read(folder)


def run(
    configuration: Configuration,
    out: str | os.PathLike | None = None,
    *,
    progress: Progress | None = None,
    say: Say = lambda sentence: None,
    memory: float | int | None = None,
    begun: float | None = None,
    command: str | None = None,
) -> Study:
    """Run a study, or go on with it.

    Args:
        configuration: what to do.
        out: the folder; default `configuration.folder()` in the current one.
        progress: called after each chunk.
        say: called with a sentence at each stage.
        memory: bytes that the process may take in all: a third of what is left once the model is
            fitted is for working arrays, the rest for what they are copied to, for factors, for
            compiling and for what the allocator keeps.
            Default: a quarter of what is free, for working arrays. Kept with the plan of chunks, so
            that a study goes on as it began.
        begun: when waiting for it began, as `time.perf_counter()` says: what came before this call
            is then counted, too, as "start". The command line gives the start of its process.
        command: what asked for it, for the report to quote.

    Raises:
        ValueError: if the folder holds a study of another configuration, or another process is at
            work in it.
    """
    return engine.run(configuration, out, progress, say, memory, begun, command)


def read(folder: str | os.PathLike) -> Study:
    """A finished study, from its folder; methods of your own need not be there.

    Raises:
        FileNotFoundError: if the folder holds no finished study.
        ValueError: if a file of it is damaged.
    """
    folder = Path(folder)
    if not is_finished(folder):
        raise FileNotFoundError(f"{folder} holds no finished study; run `leaveout study` first")
    summary = read_json(folder / "summary.json")
    path = folder / "configuration.json"
    configuration = parsed(Configuration, read_json(path, "dataset", "methods"), path)
    planned = read_groups(folder)
    results = _labelled(collected(folder, configuration, planned))
    count = len(planned.chunks) * len(results)
    return Study(folder, results, _comparisons(results), summary, count)


def found(where: str | os.PathLike = ".") -> list[dict[str, Any]]:
    """The studies in the folders of a folder: what each is, and how far it is."""
    return engine.found(where, Configuration)


# ---- on its data ---------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class _Setting(Setting[Study]):
    """A study on its data.

    Attributes:
        configuration: what determines its numbers.
        data: the data set.
        objective: at its penalty.
        choice: how that was chosen, or None.
        fit: of it.
        accuracy: on the query examples, or None of numbers.
        query: (m) rows of the query examples at which effects are measured.
        losses: (m) there.
        measures: at them.
    """

    configuration: Configuration
    data: Dataset
    objective: LinearObjective
    choice: dict[str, Any] | None
    fit: Fit
    accuracy: float | None
    query: np.ndarray
    losses: np.ndarray
    measures: list[Measure]

    def groups(self, space: Workspace) -> Groups:
        """The paper's seven kinds."""
        space.say("making groups: clusters take a while where n is large")
        scores = per_point(self.fit, measures.loss(_examples(self.data, self.query)))
        residuals = np.asarray(_residuals(self.objective, self.fit.flat))
        asked, num = self.configuration, self.configuration.per_family
        return _groups.seven(
            _key(asked.seed, 0), self.objective, residuals, np.asarray(scores), num=num,
            first=_groups_of_data(asked.dataset, asked.seed, num),
        )  # fmt: skip

    def finish(self, found: Found, space: Workspace) -> Study:
        """Compare with the actual effects; write the table, a figure and the summary."""
        folder, results = space.folder, _labelled(found.effects)
        comparisons = _comparisons(results)
        space.clock.lap("compare")
        panels = _write_table_and_figure(folder, results)
        space.clock.lap("table and figure")
        self._write_page(found, results, comparisons, panels, space)
        summary = json.loads(json.dumps(self._summary(found, results, comparisons, space)))
        write_json(folder / "summary.json", summary)
        return Study(folder, results, comparisons, summary, found.resumed)

    def _write_page(self, found: Found, results, comparisons, panels, space: Workspace) -> None:
        """The page for a reader; without jinja2 a sentence on how to have it."""
        l2, decrement = float(self.objective.l2), float(self.fit.residual)
        notes = [
            f"The penalty is l2 = {l2:.4g}, and theta is {decrement:.1e} from its optimum (the "
            "Newton decrement).",
            *found.plan.groups.notes,
            *self.data.notes,
        ]
        try:
            report_of_study(
                results, comparisons, headline(results["actual"]), panels, self.data,
                space.folder / "report.html", command=space.command, notes=notes,
            )  # fmt: skip
        except ImportError as error:
            space.say(str(error))
        space.clock.lap("report")

    def _summary(
        self,
        found: Found,
        results: dict[str, Effects],
        comparisons: dict[str, Comparison],
        space: Workspace,
    ) -> dict[str, Any]:
        data, l2, groups = self.data, float(self.objective.l2), found.plan.groups
        actual = results["actual"]
        return {
            "configuration": self.configuration.to_json(),
            "data": {"source": data.source, "outputs": data.outputs} | data.fingerprint(),
            "l2": l2,
            "l2_over_n": l2 / data.n,
            "cross_validation": self.choice,
            "test_accuracy": self.accuracy,
            "newton_decrement": float(self.fit.residual),
            "query_points": self.query.tolist(),
            "query_losses": self.losses.tolist(),
            "groups": {"made": len(groups), "notes": list(groups.notes)},
            "retrained_not_converged": int(np.count_nonzero(actual.status)),
            "retrain_evaluations": _quantiles(actual.steps),
            "seconds": space.clock.total(),
            "resumed_chunks": found.resumed,
            "peak_memory_gib": most_resident() / 2**30,
            "versions": {
                name: importlib.metadata.version(name) for name in ("leaveout", "jax", "numpy")
            },
            "device": str(jax.devices()[0]),
            "comparison": {name: each.to_json() for name, each in comparisons.items()},
        }


def _accuracy(fitted: Fit, data: Dataset) -> float | None:
    if not data.labelled:
        return None
    measure = measures.accuracy(data.query).bind(fitted.objective)
    return float(measure.values(fitted.objective, fitted.flat, None)[0])


def _query_points(
    fitted: Fit, data: Dataset, configuration: Configuration
) -> tuple[np.ndarray, np.ndarray]:
    """The paper's points where they are frozen, else its rule: three largest losses, three random.

    In this order: the three of largest loss, largest first; then the others, the one whose loss is
    nearest the median of all first. So the first is the paper's "highest loss" (figures 1, 2, C.2,
    C.4) and the fourth its "median" point (figure C.1).
    """
    measure = measures.loss(data.query).bind(fitted.objective)
    losses = np.asarray(measure.values(fitted.objective, fitted.flat, None))
    if data.query_points is None:
        worst = np.argsort(-losses, kind="stable")[:3]
        key = _key(configuration.seed, 1)
        others = np.setdiff1d(np.arange(losses.size), worst)
        others = np.asarray(jax.random.choice(key, others, (min(3, others.size),), replace=False))
    else:
        points = np.array(data.query_points)
        points = points[np.argsort(-losses[points], kind="stable")]
        worst, others = points[:3], points[3:]
    apart = np.abs(losses[others] - np.median(losses))
    query = np.concatenate([worst, others[np.argsort(apart, kind="stable")]])
    return query, losses[query]


def _examples(data: Dataset, query: np.ndarray) -> tuple:
    return tuple(part[query] for part in data.query)


def _measures(data: Dataset, query: np.ndarray) -> list[Measure]:
    examples, name = _examples(data, query), "test prediction"
    margin = measures.margin(examples, name=name) if data.labelled else None
    return [
        margin or measures.prediction(examples[0], name=name),
        measures.loss(examples, name="test loss"),
        measures.self_loss(),
    ]


def _key(seed: int, purpose: int):
    return jax.random.fold_in(jax.random.key(seed), purpose)


@functools.lru_cache(maxsize=1)
def _groups_of_data(given: Given, seed: int, num: int) -> Groups:
    """The families that do not look at the model: the same at every l2 of a sweep."""
    return _groups.of_data(_key(seed, 0), _in_tenths(loaded(given)), num=num)


def _in_tenths(data: Dataset) -> Dataset:
    """The data with tenths of its target in the place of classes, where that is a number."""
    if data.labelled:
        return data
    edges = np.quantile(data.y, np.linspace(0.1, 0.9, 9))
    return dataclasses.replace(data, y=np.searchsorted(edges, data.y))


@eqx.filter_jit
def _residuals(objective: LinearObjective, theta: Array):
    return objective.at(theta).first


# ---- results -------------------------------------------------------------------------------------


def _labelled(effects: dict[Chosen, Effects]) -> dict[str, Effects]:
    return {each.label: found for each, found in effects.items()}


def _comparisons(results: dict[str, Effects]) -> dict[str, Comparison]:
    return {
        name: compare(effects, results["actual"])
        for name, effects in results.items()
        if name != "actual"
    }


def _quantiles(steps: np.ndarray) -> dict[str, float]:
    return {"median": float(np.median(steps)), "max": int(np.max(steps))}


def _write_table_and_figure(folder: Path, results: dict[str, Effects]) -> plot.Figure:
    """The effects as a table, and the figure, which the page shows as well."""
    write_effects(folder, results.values())
    actual = results["actual"]
    shown = [actual.columns.index(c) for c in headline(actual)]
    predicted = {e.method: e for name, e in results.items() if name != "actual"}
    return plot.panels(predicted, actual, shown, path=folder / "figure.png")


def headline(effects: Effects, point: int = 0) -> list[str]:
    """One column a measure: the query point at this position, and the group itself.

    Args:
        effects: of a study.
        point: 0 for the query point of largest loss, 3 for the one nearest the median.
    """
    shown = []
    for measure in dict.fromkeys(effects.measure):
        columns = [c for c, m in zip(effects.columns, effects.measure, strict=True) if m == measure]
        shown.append(columns[min(point, len(columns) - 1)])
    return shown
