"""Studies of values: what hospitals or occupations add to each other, over all coalitions.

One data set, players from its columns, in a folder where a study that was stopped goes on.
"""

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np

from leaveout import measures, plot
from leaveout.analysis.games import Banzhaf, Beta, Semivalue, Shapley
from leaveout.analysis.valuation import value
from leaveout.analysis.values import Values
from leaveout.fitting.optimum import fit
from leaveout.groups import Groups
from leaveout.runtime.files import write_json
from leaveout.runtime.options import check_integer
from leaveout.studies import datasets, engine
from leaveout.studies.configured import Chosen, Configured, chosen
from leaveout.studies.datasets import Dataset, objective_for
from leaveout.studies.folder import Clock, Progress, Say, Workspace, alone, claim, is_finished
from leaveout.studies.natural import parts
from leaveout.studies.penalty import penalised

__all__ = ["Worth", "found", "read", "run", "semivalue"]


@dataclasses.dataclass(frozen=True, eq=False)
class Worth(Configured):
    """What determines the numbers of a study of values.

    Attributes:
        dataset: a name known to `datasets.load`.
        by: which of its columns make the players, several joined by commas (crossed); default its
            first.
        of: "shapley", "banzhaf", or "beta A B".
        largest: only the examples of so many players, the largest; default all.
        every: only every so many-th example of the training data; default all.
        trainings: as of `lo.value`.
        l2_over_n: the penalty divided by n; default the data set's own, or cross-validated.
        methods: by which coalitions are trained: one word of `methods.BY_WORD`.
    """

    dataset: str
    by: str | None = None
    of: str = "shapley"
    largest: int | None = None
    every: int = 1
    trainings: int | None = None
    l2_over_n: float | None = None
    methods: tuple[str, ...] = ("actual",)

    def __post_init__(self):
        semivalue(self.of)
        check_integer(self.every, "every")
        if len(self.chosen) != 1:
            raise ValueError(f"expected one method, for example 'actual', got {self.methods!r}")

    @property
    def chosen(self) -> tuple[Chosen, ...]:
        """The method by all its names."""
        return chosen(self.methods)

    @classmethod
    def owns(cls, fields: dict[str, Any]) -> bool:
        """Whether these fields are those of a study of values."""
        return "largest" in fields

    def folder(self) -> str:
        """The default name of its folder."""
        by = "" if self.by is None else "-" + self.by.replace(",", "-")
        return f"leaveout-value-{self.dataset}{by}"

    def in_words(self) -> str:
        """What it is, for a line of a list."""
        by = "its first column" if self.by is None else self.by
        return f"{self.dataset:<14} by {by}, {semivalue(self.of).name}"


def semivalue(text: str) -> Semivalue:
    """A value by its name.

    Raises:
        ValueError: for another.
    """
    match text.lower().replace(",", " ").split():
        case ["shapley"]:
            return Shapley()
        case ["banzhaf"]:
            return Banzhaf()
        case ["beta", a, b]:
            return Beta(float(a), float(b))
    raise ValueError(f"expected shapley, banzhaf, or beta A B such as 'beta 4 1', got {text!r}")


def run(
    worth: Worth,
    out: str | os.PathLike | None = None,
    *,
    progress: Progress | None = None,
    say: Say = lambda sentence: None,
    memory: float | int | None = None,
) -> Values:
    """Run a study of values, go on with it, or read it if it is finished.

    Writes values.npz, values.parquet, values.png and summary.json.

    Args:
        worth: what to do.
        out: the folder; default `worth.folder()` in the current one.
        progress: called after each chunk.
        say: called with a sentence at each stage.
        memory: bytes that working arrays may take; default a quarter of what is free.

    Raises:
        ValueError: if the data set has no such column, the folder holds another study, or another
            process is at work in it.
    """
    folder = Path(worth.folder() if out is None else out)
    claim(folder, worth)
    if is_finished(folder):
        say(f"{folder} is finished; nothing to compute")
        return read(folder)
    with alone(folder):
        quiet = progress or (lambda stage, done, count: None)
        return _run(worth, Workspace(folder, say, quiet, Clock(folder), memory))


def read(folder: str | os.PathLike) -> Values:
    """The values of a finished study, from its folder.

    Raises:
        FileNotFoundError: if the folder holds none.
        ValueError: if a file of it is damaged.
    """
    if not is_finished(Path(folder)):
        raise FileNotFoundError(f"{folder} holds no finished study of values")
    return Values.load(Path(folder) / "values.npz")


def found(where: str | os.PathLike = ".") -> list[dict[str, Any]]:
    """The studies in the folders of a folder: what each is, and how far it is."""
    return engine.found(where, Worth)


def _run(worth: Worth, space: Workspace) -> Values:
    data, players = _players(worth)
    space.say(f"{data.name}: {data.n:,} training examples, {data.d:,} features; {players!r}")
    bare = objective_for(data, weights=data.weights)
    objective, _ = penalised(bare, data, worth.l2_over_n, space)
    space.clock.lap("l2")
    fitted = fit(objective)
    space.clock.lap("fit")
    measure = measures.loss(data.query, reduce="mean", by=parts(data))
    done = 0

    def count(some: int) -> None:
        nonlocal done
        done += some
        space.clock.lap("coalitions")
        total = worth.trainings or 2 ** min(len(players), 12)
        space.progress("coalitions", done, max(total, done))

    found = value(
        fitted, players, measure, semivalue(worth.of), trainings=worth.trainings,
        method=worth.chosen[0].method, out=space.folder / "values.npz", progress=count,
        memory=space.room,
    )  # fmt: skip
    _write(found, worth, data, float(objective.l2) / data.n, space)
    return found


def _players(worth: Worth) -> tuple[Dataset, Groups]:
    """The data, and who plays."""
    data = datasets.load(worth.dataset).some(slice(None, None, worth.every))
    players = data.grouped(worth.by)
    if worth.largest is None or worth.largest >= len(players):
        return data, players
    large = np.sort(np.argsort(-players.size, kind="stable")[: worth.largest])
    data = data.some(np.sort(players[large].indices))
    return data, data.grouped(worth.by)


def _write(found: Values, worth: Worth, data: Dataset, l2: float, space: Workspace) -> None:
    """The files of a finished study, summary.json last."""
    found.save(space.folder / "values.parquet")
    title = f"{data.name}: {found.of.name}"
    plot.values(found, title=title, path=space.folder / "values.png")
    steps = found.trained.steps[found.trained.steps > 0]
    summary = {
        "question": worth.to_json(),
        "data": {"source": data.source} | data.fingerprint(),
        "l2_over_n": l2,
        "coalitions": len(found.members),
        "given": int(found.trained.given.sum()),
        "flagged": int(np.count_nonzero(found.trained.status.max(axis=1))),
        "median_evaluations": float(np.median(steps)) if steps.size else 0.0,
        "total": dict(zip(found.columns, found.total.tolist(), strict=True)),
        "seconds": space.clock.total()["total"],
    }
    write_json(space.folder / "summary.json", summary)
