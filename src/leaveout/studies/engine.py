"""The engine of experiments: fit, groups, effects chunk by chunk; in a folder that resumes.

An experiment is a value that offers what it needs: a configuration (`Experiment`) that can set
itself up on its data (`Setting`). The engine does what all have in common.
"""

import abc
import dataclasses
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from leaveout.attribution.container import Effects, joined, load_effects
from leaveout.attribution.stream import plan, pose, stream
from leaveout.fitting.fitted import Fit
from leaveout.fitting.gates import admit
from leaveout.groups import Groups
from leaveout.measures import Measure
from leaveout.runtime.files import read_json
from leaveout.runtime.memory import budget, give_back, limited
from leaveout.studies.configured import Chosen, Configured, parsed
from leaveout.studies.folder import (
    Clock,
    Plan,
    Progress,
    Say,
    Workspace,
    alone,
    chunk_path,
    chunks_there,
    claim,
    drop_damaged,
    holder,
    is_finished,
    read_groups,
    save_plan,
)

__all__ = ["Experiment", "Found", "Setting", "collected", "found", "run"]

_Result = TypeVar("_Result")


@dataclasses.dataclass(frozen=True, eq=False)
class Found:
    """What the methods of an experiment found.

    Attributes:
        plan: the groups, and their chunks.
        effects: method to the effects of all groups.
        resumed: chunks that were there already.
    """

    plan: Plan
    effects: dict[Chosen, Effects]
    resumed: int


class Setting(abc.ABC, Generic[_Result]):
    """An experiment on its data: what the methods are asked about, and what becomes of it.

    Attributes:
        fit: the fitted objective.
        measures: what effects are on.
    """

    fit: Fit
    measures: list[Measure]

    def at(self, repeat: int) -> Fit:
        """The theta of a repeat, of those that the experiment has."""
        return self.fit

    def admit(self, groups: Groups, methods: Collection[Chosen]) -> None:
        """Refuse groups or methods that this is not for."""
        admit(self.fit, groups, {need for each in methods for need in each.method.needs})

    def chunks(self, groups: Groups) -> list[np.ndarray]:
        """Positions in the groups, of those that are computed and saved together."""
        return plan(self.fit, groups)

    @abc.abstractmethod
    def groups(self, space: Workspace) -> Groups:
        """Make the groups; called where the folder has none yet."""

    @abc.abstractmethod
    def finish(self, found: Found, space: Workspace) -> _Result:
        """Write the results, summary.json last."""


class Experiment(Configured, Generic[_Result]):
    """A configuration that can be run by the engine.

    Attributes:
        repeats: thetas whose effects are asked about, one after the other: the seeds of a network.
    """

    @abc.abstractmethod
    def set_up(self, space: Workspace) -> Setting[_Result]:
        """Load the data and fit; laps "l2" and "fit" of the clock."""

    def room(self, space: Workspace) -> int:
        """Bytes for working arrays, of those that were asked for; called once all is fitted."""
        return budget(space.room)

    def word(self, each: Chosen, repeat: int) -> str:
        """What the chunks of a method and a repeat are called."""
        return each.word if self.repeats == 1 else f"{each.word}.{repeat}"

    def gathered(self, each: Chosen, repeats: Sequence[Effects]) -> Effects:
        """What a method found, of what it found in every repeat."""
        (only,) = repeats
        return only

    @abc.abstractmethod
    def opened(self, folder: Path) -> _Result:
        """The finished experiment, from its folder."""


def run(
    experiment: Experiment[_Result],
    out: str | os.PathLike | None,
    progress: Progress | None,
    say: Say,
    memory: float | int | None,
    begun: float | None = None,
    command: str | None = None,
) -> _Result:
    """Run an experiment, go on with it, or read it if it is finished.

    Args:
        experiment: what to do.
        out: the folder; default `experiment.folder()` in the current one.
        progress: called after each chunk.
        say: called with a sentence at each stage.
        memory: bytes, of which `experiment.room` makes those for working arrays.
        begun: as of `Clock`.
        command: what asked for it.

    Raises:
        ValueError: if the folder holds another experiment, or another process is at work in it.
    """
    folder = Path(experiment.folder() if out is None else out)
    claim(folder, experiment)
    if not is_finished(folder):
        with alone(folder):
            if not is_finished(folder):  # by the process that held it
                quiet = progress or (lambda stage, done, count: None)
                space = Workspace(folder, say, quiet, Clock(folder, begun), memory, command)
                return _run(experiment, space)
    say(f"{folder} is finished; nothing to compute")
    return experiment.opened(folder)


def _run(experiment: Experiment[_Result], space: Workspace) -> _Result:
    setting = experiment.set_up(space)
    planned = _planned(experiment, setting, space)
    space.clock.lap("groups")
    for note in planned.groups.notes:
        space.say(note)
    space = dataclasses.replace(space, room=planned.room)
    resumed = _compute(experiment, setting, planned, space)
    if resumed:
        space.say(f"resumed: {resumed} finished chunks were taken from {space.folder}")
    effects = collected(space.folder, experiment, planned)
    return setting.finish(Found(planned, effects, resumed), space)


def _planned(experiment: Experiment, setting: Setting, space: Workspace) -> Plan:
    """The groups and the plan of their chunks, from the folder if they are there."""
    folder = space.folder
    (folder / "chunks").mkdir(exist_ok=True)
    if not ((folder / "groups.npz").exists() and (folder / "plan.json").exists()):
        made = setting.groups(space)
        room = experiment.room(space)
        with limited(room):
            save_plan(folder, Plan(made, setting.chunks(made), room))
    return read_groups(folder)


def _compute(experiment: Experiment, setting: Setting, planned: Plan, space: Workspace) -> int:
    """Compute the chunks that are not in the folder; how many were."""
    every = experiment.chosen
    setting.admit(planned.groups, every)
    resumed = 0
    for repeat in range(experiment.repeats):
        for each in every:
            drop_damaged(space.folder, experiment.word(each, repeat), planned.chunks, space.say)
            resumed += _compute_one(experiment, each, repeat, setting, planned, space)
    return resumed


def _compute_one(
    experiment: Experiment,
    each: Chosen,
    repeat: int,
    setting: Setting,
    planned: Plan,
    space: Workspace,
) -> int:
    """Compute the chunks of a method and a repeat, and save them one by one."""
    groups, chunks = planned.groups, planned.chunks
    word, total = experiment.word(each, repeat), experiment.repeats * len(groups)
    paths = [chunk_path(space.folder, word, number) for number in range(len(chunks))]
    missing = [number for number, path in enumerate(paths) if not path.exists()]
    done = (repeat + 1) * len(groups) - sum(len(chunks[number]) for number in missing)
    space.progress(each.label, done, total)
    if not missing:
        return len(chunks)
    with limited(space.room):
        question = pose(setting.at(repeat), groups, setting.measures, each.method)
        parts = stream(question, [chunks[number] for number in missing], planned.longest)
        for number, (rows, part) in zip(missing, parts, strict=True):
            part.save(paths[number])
            give_back()
            space.clock.lap(each.word)
            done += len(rows)
            space.progress(each.label, done, total)
    return len(chunks) - len(missing)


def collected(folder: Path, experiment: Experiment, planned: Plan) -> dict[Chosen, Effects]:
    """The effects of all groups by every method, from the chunks in a folder."""

    def of(each: Chosen, repeat: int) -> Effects:
        word = experiment.word(each, repeat)
        parts = [
            load_effects(chunk_path(folder, word, number)) for number in range(len(planned.chunks))
        ]
        return joined(parts, planned.groups, planned.order)

    return {
        each: experiment.gathered(each, [of(each, repeat) for repeat in range(experiment.repeats)])
        for each in experiment.chosen
    }


def found(where: str | os.PathLike, kind: type[Configured]) -> list[dict[str, Any]]:
    """The experiments of a kind in the folders of a folder: what each is, and how far it is."""
    rows = []
    for folder in sorted(path for path in Path(where).glob("*") if path.is_dir()):
        fields = holder(folder)
        if fields is not None and kind.owns(fields):
            configured = parsed(kind, fields, folder / "configuration.json")
            row = {"folder": folder, "configuration": configured}
            rows.append(row | {"state": _state(folder, configured)})
    return rows


def _state(folder: Path, configured: Configured) -> str:
    if is_finished(folder):
        return "finished"
    if not (folder / "plan.json").exists():
        return "begun"
    each = len(read_json(folder / "plan.json", "chunks")["chunks"]) * configured.repeats
    total = each * len(configured.chosen)
    return f"{chunks_there(folder)} of {total} chunks"
