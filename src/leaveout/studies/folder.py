"""The folder of an experiment: whose it is, who is at work in it, and what is in it so far.

Every file is there whole or not at all, so that what was stopped goes on where it was.
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import filelock
import numpy as np

from leaveout.attribution.container import Effects, load_effects
from leaveout.groups import Groups
from leaveout.runtime.files import PARTIAL, read_json, write_json, write_parquet
from leaveout.runtime.memory import budget
from leaveout.studies.configured import Configured

__all__ = [
    "Clock",
    "Plan",
    "Progress",
    "Say",
    "Workspace",
    "alone",
    "chunk_path",
    "chunks_there",
    "claim",
    "drop_damaged",
    "holder",
    "is_finished",
    "read_groups",
    "save_plan",
    "write_effects",
]

#: (stage, groups done, groups in all): called as an experiment goes along
Progress = Callable[[str, int, int], None]

#: called with a sentence at each stage
Say = Callable[[str], None]


class Clock:
    """Seconds spent on each stage, summed over all runs of an experiment and kept in its folder.

    Args:
        folder: of the experiment.
        begun: when waiting for it began, as `time.perf_counter()` says; the time from then to now
            is the stage "start".

    Attributes:
        seconds: stage to seconds on the wall.
        processor: stage to seconds of processors, which other processes do not stretch.
    """

    def __init__(self, folder: Path, begun: float | None = None):
        self.paths = folder / "seconds.json", folder / "processor_seconds.json"
        self.seconds, self.processor = (
            read_json(path) if path.exists() else {} for path in self.paths
        )
        self.last = time.perf_counter(), time.process_time()
        if begun is not None:  # with this process, whose own clock has counted from there
            self.last = begun, 0.0
            self.lap("start")

    def lap(self, stage: str) -> None:
        """All since the last lap was this stage."""
        now = time.perf_counter(), time.process_time()
        kept = zip(self.paths, (self.seconds, self.processor), now, self.last, strict=True)
        for path, spent, here, before in kept:
            spent[stage] = spent.get(stage, 0.0) + here - before
            write_json(path, spent, indent=None)
        self.last = now

    def total(self) -> dict[str, float]:
        """The seconds of each stage, and their sum as "total"."""
        return self.seconds | {"total": sum(self.seconds.values(), 0.0)}


@dataclasses.dataclass(frozen=True, eq=False)
class Workspace:
    """Where an experiment is at work, and whom it tells.

    Attributes:
        folder: of the experiment.
        say: called with a sentence at each stage.
        progress: called after each chunk.
        clock: seconds spent on each stage.
        room: bytes that may be taken: what was asked for until there is a plan, then the plan's.
        command: what asked for the experiment, where that is known.
    """

    folder: Path
    say: Say
    progress: Progress
    clock: Clock
    room: float | int | None
    command: str | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """The groups of an experiment, and the chunks in which their effects are computed.

    Attributes:
        groups: all of them.
        chunks: positions in the groups, of each chunk.
        room: bytes for working arrays that these were planned for.
    """

    groups: Groups
    chunks: list[np.ndarray]
    room: int

    @property
    def longest(self) -> int:
        """Groups of the longest chunk, to which all are filled up."""
        return max(map(len, self.chunks))

    @property
    def order(self) -> np.ndarray:
        """(g) where each group is in the chunks, one after the other."""
        return np.argsort(np.concatenate(self.chunks))


# ---- whose it is, and who is at work -------------------------------------------------------------


def holder(folder: Path) -> dict[str, Any] | None:
    """The fields of the experiment that a folder holds, None if it holds none.

    Studies of natural groups wrote no configuration once: theirs is the question in their summary.

    Raises:
        ValueError: if its configuration is damaged.
    """
    if (folder / "configuration.json").exists():
        return read_json(folder / "configuration.json", "dataset", "methods")
    if is_finished(folder):
        with contextlib.suppress(ValueError):
            return read_json(folder / "summary.json", "question", "comparison")["question"]
    return None


def is_finished(folder: Path) -> bool:
    """Whether there is nothing left to compute."""
    return (folder / "summary.json").exists()


def claim(folder: Path, configured: Configured) -> None:
    """Make the folder, or check that it is this experiment's.

    Args:
        folder: of the experiment.
        configured: what determines its numbers.

    Raises:
        ValueError: if the folder holds another one, or something else.
    """
    mine, theirs = configured.to_json(), holder(folder)
    if theirs is not None and theirs != mine:
        other = {key: theirs.get(key) for key in mine | theirs if theirs.get(key) != mine.get(key)}
        name = configured.folder()
        default = "" if folder.name == name else f", or none: the default is {name}"
        raise ValueError(
            f"{folder} holds another study ({other} there); choose another --out{default}"
        )
    if theirs is None:
        if folder.exists() and any(each.suffix != PARTIAL for each in folder.iterdir()):
            raise ValueError(f"{folder} is not empty and holds no study; choose another --out")
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "configuration.json", mine)


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the folder against other processes; the system lets go of it when this one dies.

    Files that were being written when a process died are deleted.

    Raises:
        ValueError: if another one holds it.
    """
    try:
        lock = filelock.FileLock(folder / "lock", timeout=0).acquire()
    except filelock.Timeout:
        raise ValueError(
            f"another process is at work in {folder}; wait for it, or choose another --out"
        ) from None
    with lock:
        for left in folder.rglob(f"*{PARTIAL}"):
            if not left.name.startswith(".configuration"):  # another process may be at `claim`
                left.unlink()
        yield


# ---- what is in it -------------------------------------------------------------------------------


def chunk_path(folder: Path, word: str, number: int) -> Path:
    """The file of a chunk of the effects by a method."""
    return folder / "chunks" / f"{word}-{number:05d}.npz"


def chunks_there(folder: Path) -> int:
    """How many chunks there are, of all methods."""
    return len(list((folder / "chunks").glob("*-*[0-9].npz")))


def drop_damaged(folder: Path, word: str, chunks: list[np.ndarray], say: Say) -> None:
    """Delete chunks that cannot be read, or are of other groups: they are computed again."""
    for number, rows in enumerate(chunks):
        path = chunk_path(folder, word, number)
        if path.exists():
            try:
                count = len(load_effects(path).groups)
                if count != len(rows):
                    raise ValueError(f"it holds {count:,} groups, not {len(rows):,}")
            except ValueError as error:
                say(f"computing {path.name} again: {error}")
                path.unlink()


def save_plan(folder: Path, plan: Plan) -> None:
    """Save the groups, their chunks and the bytes that these were planned for."""
    plan.groups.save(folder / "groups.npz")
    written = {
        "chunks": [rows.tolist() for rows in plan.chunks],
        "notes": list(plan.groups.notes),
        "memory": plan.room,
    }
    write_json(folder / "plan.json", written, indent=None)


def read_groups(folder: Path) -> Plan:
    """The groups and their plan, from `save_plan`.

    Raises:
        ValueError: if the plan is not one of these groups.
    """
    saved = read_json(folder / "plan.json", "notes", "chunks")
    made = dataclasses.replace(Groups.load(folder / "groups.npz"), notes=tuple(saved["notes"]))
    try:
        chunks = [np.asarray(rows, int) for rows in saved["chunks"]]
        if np.array_equal(np.sort(np.concatenate(chunks)), np.arange(len(made))):
            return Plan(made, chunks, budget(saved.get("memory")))
    except (TypeError, ValueError):
        pass
    raise ValueError(f"{folder / 'plan.json'} is damaged: its chunks are not those of groups.npz")


def write_effects(folder: Path, effects: Iterable[Effects]) -> None:
    """Write effects by several methods as one long table, effects.parquet."""
    import pandas as pd

    table = pd.concat([each.to_pandas() for each in effects], ignore_index=True)
    write_parquet(folder / "effects.parquet", table)
