"""A study: one data set, the paper's seven kinds of groups, predicted against actual effects.

A study is a folder. It holds the configuration, the groups, one small file for every finished
chunk, and in the end the effects, a summary and a figure. Running it again goes on where it was;
`read` opens a finished one without computing anything.
"""

import dataclasses
import functools
import hashlib
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np

from leaveout import groups as _groups
from leaveout import measures, plot
from leaveout.analysis.compare import Comparison, compare
from leaveout.attribution.container import Effects, joined, load
from leaveout.attribution.stream import plan, stream
from leaveout.fitting.fitted import Fit
from leaveout.fitting.optimum import fit
from leaveout.fitting.penalties import cross_validate
from leaveout.groups import Groups
from leaveout.methods.first_order import Influence, per_point
from leaveout.methods.group_newton import Newton
from leaveout.methods.retraining import Retrain
from leaveout.objectives.linear import objective_for
from leaveout.runtime.files import read_json
from leaveout.runtime.memory import budget, give_back, most_resident, resident
from leaveout.studies import datasets
from leaveout.studies.folder import (
    Clock,
    alone,
    chunk_path,
    claim,
    drop_damaged,
    read_groups,
    save,
    write_json,
)

__all__ = [
    "METHODS",
    "Configuration",
    "Study",
    "found",
    "headline",
    "read",
    "run",
]

METHODS = {
    "influence": Influence(),
    "changed": Influence(at_changed=True),
    "newton": Newton(),
    "actual": Retrain(),
}

#: (stage, groups done, groups in all): called as a study goes along
Progress = Callable[[str, int, int], None]


@dataclasses.dataclass(frozen=True)
class Configuration:
    """What determines the numbers of a study; another configuration is another folder.

    Attributes:
        dataset: a name known to `datasets.load`.
        per_family: groups asked of each family; the paper's 100 make up to 1,700.
        seed: of groups and of the choice of query points.
        l2_over_n: the penalty divided by n, or None to choose it by cross-validation.
        methods: which of `METHODS` to run; "actual" is always among them.
    """

    dataset: str
    per_family: int = 100
    seed: int = 0
    l2_over_n: float | None = None
    methods: tuple[str, ...] = ("influence", "changed", "newton", "actual")

    def __post_init__(self):
        if self.dataset not in datasets.available():
            raise ValueError(
                f"unknown dataset {self.dataset!r}; known: {', '.join(datasets.available())}"
            )
        if self.per_family < 3:
            raise ValueError(f"expected at least 3 groups a family, got {self.per_family}")
        if self.l2_over_n is not None and not self.l2_over_n >= 0:
            raise ValueError(f"expected l2 / n as a number >= 0, got {self.l2_over_n}")
        unknown = [name for name in self.methods if name not in METHODS]
        if unknown:
            raise ValueError(f"unknown method {unknown[0]!r}; known: {', '.join(METHODS)}")
        if "actual" not in self.methods:
            object.__setattr__(self, "methods", (*self.methods, "actual"))

    def folder(self) -> str:
        """The default name of the study's folder: it changes with the configuration."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return f"leaveout-{self.dataset}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


@dataclasses.dataclass(frozen=True, eq=False)
class Study:
    """What `run` leaves behind.

    Attributes:
        folder: where the files are.
        effects: per method name, the effects of all groups on all columns.
        comparisons: per method name (not "actual"), against the actual effects.
        summary: what `summary.json` holds.
        resumed: chunks that were there already.
    """

    folder: Path
    effects: dict[str, Effects]
    comparisons: dict[str, Comparison]
    summary: dict[str, Any]
    resumed: int


def run(
    configuration: Configuration,
    out: str | os.PathLike | None = None,
    *,
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda sentence: None,
    memory=None,
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

    Raises:
        ValueError: if the folder holds a study of another configuration, or another process is at
            work in it.
    """
    folder = Path(configuration.folder() if out is None else out)
    claim(folder, configuration)
    with alone(folder):
        return _run(configuration, folder, progress, say, memory)


def _run(configuration: Configuration, folder: Path, progress, say, memory) -> Study:
    if (folder / "summary.json").exists():
        say(f"{folder} is finished; nothing to compute")
        return read(folder)
    clock = Clock(folder)
    data = datasets.load(configuration.dataset)
    say(f"{data.name}: {data.n:,} training examples, {data.d:,} features, {data.outputs} outputs")
    objective, choice = _objective_of(data, configuration, folder, say)
    clock.lap("l2")
    fitted = fit(objective)
    clock.lap("fit")
    accuracy = _accuracy(fitted, data)
    say(
        f"fitted at l2/n = {float(objective.l2) / data.n:.3g}: test accuracy {accuracy:.1%}, "
        f"Newton decrement {float(fitted.residual):.1e}"
    )
    query, losses = _query_points(fitted, data, configuration)
    made, chunked, room = _make_groups(fitted, data, query, configuration, folder, memory, say)
    clock.lap("groups")
    for note in made.notes:
        say(note)
    examples = (data.x_query[query], np.asarray(data.y_query)[query])
    wanted = [
        measures.margin(examples, name="test prediction"),
        measures.loss(examples, name="test loss"),
        measures.self_loss(),
    ]
    resumed = 0
    for name in configuration.methods:
        drop_damaged(folder, name, len(chunked), say)
        resumed += _run_method(fitted, made, wanted, name, chunked, folder, clock, progress, room)
    if resumed:
        say(f"resumed: {resumed} finished chunks were taken from {folder}")
    results = _collect(folder, configuration, made, chunked)
    comparisons = _comparisons(results)
    summary = {
        "configuration": dataclasses.asdict(configuration),
        "data": {"source": data.source, "outputs": data.outputs} | data.fingerprint(),
        "l2": float(objective.l2),
        "l2_over_n": float(objective.l2) / data.n,
        "cross_validation": choice,
        "test_accuracy": accuracy,
        "newton_decrement": float(fitted.residual),
        "query_points": query.tolist(),
        "query_losses": losses.tolist(),
        "groups": {"made": len(made), "notes": list(made.notes)},
        "retrained_not_converged": int(np.count_nonzero(results["actual"].status)),
        "retrain_evaluations": _quantiles(results["actual"].steps),
        "seconds": clock.seconds | {"total": sum(clock.seconds.values())},
        "resumed_chunks": resumed,
        "peak_memory_gib": most_resident() / 2**30,
        "versions": {name: _version(name) for name in ("leaveout", "jax", "numpy")},
        "device": str(jax.devices()[0]),
        "comparison": {name: c.to_json() for name, c in comparisons.items()},
    }
    summary = json.loads(json.dumps(summary))  # as it will be read again
    _write_results(folder, results, summary)
    return Study(folder, results, comparisons, summary, resumed)


def read(folder: str | os.PathLike) -> Study:
    """A finished study, from its folder.

    Raises:
        FileNotFoundError: if the folder holds no finished study.
        ValueError: if a file of it is damaged.
    """
    folder = Path(folder)
    if not (folder / "summary.json").exists():
        raise FileNotFoundError(f"{folder} holds no finished study; run `leaveout study` first")
    summary = read_json(folder / "summary.json")
    configuration = _configuration(folder)
    made, chunked, _ = read_groups(folder)
    results = _collect(folder, configuration, made, chunked)
    return Study(folder, results, _comparisons(results), summary, len(chunked) * len(results))


def found(where: str | os.PathLike = ".") -> list[dict[str, Any]]:
    """The studies in the folders of a folder: what each is, and how far it is."""
    rows = []
    for path in sorted(Path(where).glob("*/configuration.json")):
        folder = path.parent
        configuration = _configuration(folder)
        chunks = len(list((folder / "chunks").glob("*-*[0-9].npz")))
        planned = folder / "plan.json"
        total = len(read_json(planned, "chunks")["chunks"]) if planned.exists() else None
        finished = (folder / "summary.json").exists()
        state = "finished" if finished else "begun"
        if not finished and total is not None:
            state = f"{chunks} of {total * len(configuration.methods)} chunks"
        rows.append({"folder": folder, "configuration": configuration, "state": state})
    return rows


def _configuration(folder: Path) -> Configuration:
    path = folder / "configuration.json"
    fields: dict[str, Any] = read_json(path, "dataset", "methods")
    try:
        fields["methods"] = tuple(fields["methods"])
        return Configuration(**fields)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def _objective_of(data, configuration: Configuration, folder: Path, say):
    """The objective at the chosen penalty, and how it was chosen."""
    bare = objective_for(data)
    if configuration.l2_over_n is not None:
        return bare.with_l2(configuration.l2_over_n * data.n), None
    if data.l2 is not None:
        return bare.with_l2(data.l2), None
    path = folder / "l2.json"
    if not path.exists():
        say(f"choosing l2/n among {len(data.l2_grid)} values by 5-fold cross-validated accuracy")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = cross_validate(bare, np.asarray(data.l2_grid) * data.n)
        for warning in caught:
            say(str(warning.message))
        accuracy = result.accuracy
        chosen = {
            "l2": result.l2,
            "l2_over_n_grid": list(data.l2_grid),
            "accuracy": None if accuracy is None else accuracy.mean(axis=1).tolist(),
            "loss": result.loss.mean(axis=1).tolist(),
            "at_edge": result.at_edge,
        }
        write_json(path, chosen)
    chosen = read_json(path, "l2")
    return bare.with_l2(chosen["l2"]), chosen


def _accuracy(fitted: Fit, data) -> float:
    measure = measures.accuracy((data.x_query, data.y_query)).bind(fitted.objective)
    return float(measure.values(fitted.objective, fitted.flat, None)[0])


def _query_points(fitted: Fit, data, configuration: Configuration):
    """The paper's points where they are frozen, else its rule: three largest losses, three random.

    In this order: the three of largest loss, largest first; then the others, the one whose loss is
    nearest the median of all first. So the first is the paper's "highest loss" (figures 1, 2, C.2,
    C.4) and the fourth its "median" point (figure C.1).
    """
    measure = measures.loss((data.x_query, data.y_query)).bind(fitted.objective)
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


def _make_groups(fitted, data, query, configuration, folder: Path, memory, say):
    """The groups and the plan of chunks, from the folder if they are there."""
    path, plan_path = folder / "groups.npz", folder / "plan.json"
    if not (path.exists() and plan_path.exists()):
        say("making groups: clusters take a while where n is large")
        scores = per_point(
            fitted, measures.loss((data.x_query[query], np.asarray(data.y_query)[query]))
        )
        residuals = np.asarray(_residuals(fitted))
        num = configuration.per_family
        first = _groups_of_data(configuration.dataset, configuration.seed, num)
        made = _groups.seven(
            _key(configuration.seed, 0), fitted.objective, residuals, np.asarray(scores),
            num=num, first=first,
        )  # fmt: skip
        save(made, path)
        room = _room(memory, say)
        chunked = [rows.tolist() for rows in plan(fitted, made, room)]
        planned = {"chunks": chunked, "notes": list(made.notes), "memory": room}
        write_json(plan_path, planned, indent=None)
    return read_groups(folder)


def _room(memory, say) -> int:
    """Bytes for working arrays, of `memory` for the whole process."""
    if memory is None:
        return budget()
    give_back()
    left = budget(memory) - resident()
    if left <= 0:
        say(f"{resident() / 2**30:.1f} GiB are in use already, more than --memory: small chunks")
    return max(left // 3, budget(memory) // 8)


def _key(seed: int, purpose: int):
    return jax.random.fold_in(jax.random.key(seed), purpose)


@functools.lru_cache(maxsize=1)
def _groups_of_data(name: str, seed: int, num: int) -> Groups:
    """The families that do not look at the model: the same at every l2 of a sweep."""
    return _groups.of_data(_key(seed, 0), datasets.load(name), num=num)


@eqx.filter_jit
def _residuals(fitted: Fit):
    expansion: Any = fitted.expansion()
    return expansion.first


def _run_method(fitted, made, wanted, name, chunked, folder: Path, clock, progress, memory) -> int:
    """Compute and save the chunks of one method that are not on disk; how many were."""
    missing = [i for i in range(len(chunked)) if not chunk_path(folder, name, i).exists()]
    done = len(made) - sum(len(chunked[i]) for i in missing)
    if progress is not None:
        progress(name, done, len(made))
    todo = [chunked[i] for i in missing]
    length = max(map(len, chunked))
    computed = (
        stream(fitted, made, wanted, METHODS[name], todo, length=length, memory=memory)
        if todo
        else ()
    )
    for i, (rows, part) in zip(missing, computed, strict=True):
        save(part, chunk_path(folder, name, i))
        give_back()
        clock.lap(name)
        done += len(rows)
        if progress is not None:
            progress(name, done, len(made))
    return len(chunked) - len(missing)


def _collect(folder: Path, configuration: Configuration, made, chunked) -> dict[str, Effects]:
    """The effects of all groups by every method, from the chunks on disk."""
    back = np.argsort(np.concatenate(chunked))
    results = {}
    for name in configuration.methods:
        parts = [load(chunk_path(folder, name, i)) for i in range(len(chunked))]
        results[name] = joined(parts, made, back)
    return results


def _comparisons(results: dict[str, Effects]) -> dict[str, Comparison]:
    return {
        name: compare(*_usable(effects, results["actual"]))
        for name, effects in results.items()
        if name != "actual"
    }


def _usable(predicted: Effects, actual: Effects) -> tuple[Effects, Effects]:
    """Both, without the groups whose solve failed in either."""
    good = (actual.status == 0) & (predicted.status == 0)
    return (predicted, actual) if good.all() else (predicted[good], actual[good])


def _quantiles(steps) -> dict[str, float]:
    return {"median": float(np.median(steps)), "max": int(np.max(steps))}


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)


def _write_results(folder: Path, results, summary) -> None:
    import pandas as pd

    table = pd.concat([effects.to_pandas() for effects in results.values()], ignore_index=True)
    partial = folder / "effects.parquet.partial"
    table.to_parquet(partial, index=False)
    os.replace(partial, folder / "effects.parquet")
    actual = results["actual"]
    shown = [actual.columns.index(c) for c in headline(actual)]
    predicted = {e.method: e for name, e in results.items() if name != "actual"}
    plot.panels(predicted, actual, shown, path=folder / "figure.png")
    write_json(folder / "summary.json", summary)


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
