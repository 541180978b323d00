"""The folder of a study: whose it is, who is at work in it, and what is in it so far.

Every file is there whole or not at all, so that a study that was stopped goes on where it was.
"""

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from leaveout.attribution.container import Effects, load
from leaveout.groups import Groups
from leaveout.runtime.files import read_json, write
from leaveout.runtime.memory import budget

__all__ = [
    "Clock",
    "alone",
    "chunk_path",
    "claim",
    "drop_damaged",
    "read_groups",
    "save",
    "write_json",
]


class Clock:
    """Seconds spent on each stage, summed over all runs of a study and kept in its folder."""

    def __init__(self, folder: Path):
        self.path = folder / "seconds.json"
        self.seconds = read_json(self.path) if self.path.exists() else {}
        self.last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """All since the last lap was this stage."""
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self.last
        self.last = now
        write_json(self.path, self.seconds, indent=None)


def claim(folder: Path, configuration: Any) -> None:
    """Make the folder, or check that it is this study's.

    Args:
        folder: of the study.
        configuration: a frozen dataclass: what determines the study's numbers.

    Raises:
        ValueError: if the folder holds another study, or something else.
    """
    path = folder / "configuration.json"
    mine = json.loads(json.dumps(dataclasses.asdict(configuration)))
    if path.exists():
        theirs = read_json(path)
        if theirs != mine:
            other = {key: theirs.get(key) for key in mine if theirs.get(key) != mine[key]}
            raise ValueError(
                f"{folder} holds another study ({other} there); choose another --out, or none: "
                "each configuration then gets a folder of its own"
            )
    elif folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty and holds no study; choose another --out")
    else:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, mine)
    (folder / "chunks").mkdir(exist_ok=True)


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the folder against other processes; the system lets go of it when this one dies."""
    try:
        import fcntl
    except ImportError:  # not on Windows: there nothing guards the folder
        yield
        return
    with open(folder / "lock", "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"another process is at work in {folder}; wait for it, or choose another --out"
            ) from None
        yield


def write_json(path: Path, content: object, indent: int | None = 2) -> None:
    """Write a JSON file, whole or not at all."""
    write(path, lambda file: file.write(json.dumps(content, indent=indent).encode()))


def save(what: Effects | Groups, path: Path) -> None:
    """Save what can save itself as .npz, whole or not at all."""
    partial = path.with_suffix(".partial.npz")
    what.save(partial)
    os.replace(partial, path)


def chunk_path(folder: Path, name: str, number: int) -> Path:
    """The file of a chunk of the effects by a method."""
    return folder / "chunks" / f"{name}-{number:05d}.npz"


def drop_damaged(folder: Path, name: str, count: int, say) -> None:
    """Delete chunks that cannot be read, so that they are computed again."""
    for number in range(count):
        path = chunk_path(folder, name, number)
        if path.exists():
            try:
                load(path)
            except ValueError as error:
                say(f"computing {path.name} again: {error}")
                path.unlink()


def read_groups(folder: Path) -> tuple[Groups, list[np.ndarray], int]:
    """The groups, which of them each chunk holds, and the bytes that these were planned for.

    Raises:
        ValueError: if the plan is not one of these groups.
    """
    saved = read_json(folder / "plan.json", "notes", "chunks")
    made = dataclasses.replace(Groups.load(folder / "groups.npz"), notes=tuple(saved["notes"]))
    try:
        chunks = [np.asarray(rows, int) for rows in saved["chunks"]]
        if np.array_equal(np.sort(np.concatenate(chunks)), np.arange(len(made))):
            return made, chunks, budget(saved.get("memory"))
    except (TypeError, ValueError):
        pass
    raise ValueError(f"{folder / 'plan.json'} is damaged: its chunks are not those of groups.npz")
