"""What commands share: lists that are read, and what they say: notes, progress, times, files.

What was asked for goes to the standard output; all else to the standard error, or nowhere.
"""

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from leaveout.runtime.extras import needed
from leaveout.studies.folder import Say

__all__ = ["Bars", "begun", "speech", "teller", "took", "words", "wrote"]

_LOADED = time.perf_counter()


def begun() -> float:
    """When this process was started, as `time.perf_counter()` counts.

    Where the system does not say, when this module was loaded.
    """
    with contextlib.suppress(AttributeError, OSError, ValueError, IndexError):
        after_the_name = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        since_boot = int(after_the_name[19]) / os.sysconf("SC_CLK_TCK")
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - since_boot
        if 0 <= age < 3600:  # else that clock is another one's
            return time.perf_counter() - age
    return _LOADED


def took(count: int, seconds: dict[str, float] | float) -> str:
    """How long so many groups took, in all and part by part.

    Args:
        count: groups.
        seconds: of each part, and "total"; or that alone, as studies once kept it.
    """
    parts = dict(seconds) if isinstance(seconds, dict) else {"total": seconds}
    told = f"{count:,} groups in {parts.pop('total'):.0f} s"
    named = ", ".join(f"{part} {spent:.1f}" for part, spent in parts.items())
    return f"{told} ({named})" if named else told


def words(text: str) -> tuple[str, ...]:
    """The words of a list with commas."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def speech() -> argparse.ArgumentParser:
    """The option that silences notes and progress."""
    parent = argparse.ArgumentParser(add_help=False)
    parent.add_argument(
        "--quiet", action="store_true", help="no notes and no progress on the standard error"
    )
    return parent


def teller(options: argparse.Namespace) -> Say:
    """What notes are told to: the standard error, unless they are not wanted."""
    if options.quiet:
        return lambda sentence: None
    return lambda sentence: print(sentence, file=sys.stderr)


def wrote(paths: Iterable[Path], say: Say) -> int:
    """Say which files were written; returns the exit code."""
    say("\n".join(["wrote", *(f"  {path}" for path in paths)]))
    return 0


class Bars:
    """One progress bar a method: share, how many a second, time left; on the standard error."""

    def __init__(self, quiet: bool = False):
        with needed("the command line"):
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                TextColumn,
                TimeElapsedColumn,
                TimeRemainingColumn,
            )

        self.progress = Progress(
            TextColumn("{task.description:<9}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=quiet,
        )
        self.tasks = {}

    def __enter__(self):
        self.progress.start()
        return self

    def __exit__(self, *_):
        self.progress.stop()

    def update(self, name: str, done: int, total: int | None) -> None:
        """Show that `done` of `total` groups of a method are finished; None where none knows."""
        task = self.tasks.get(name)
        if task is None or self.progress.tasks[task].finished:  # or another study's turn
            self.tasks[name] = self.progress.add_task(name, total=total, completed=done, rate="")
            return
        task = self.progress.tasks[self.tasks[name]]
        speed = task.speed
        rate = "" if not speed else f"{speed:,.0f} a second"
        self.progress.update(self.tasks[name], completed=done, rate=rate)
