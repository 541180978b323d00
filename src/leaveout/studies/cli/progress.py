"""What commands share: lists that are read, progress that is shown, files that are named."""

from collections.abc import Iterable
from pathlib import Path

from leaveout.runtime.extras import needed

__all__ = ["Bars", "words", "wrote"]


def words(text: str) -> tuple[str, ...]:
    """The words of a list with commas."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def wrote(paths: Iterable[Path]) -> int:
    """Say which files were written; returns the exit code."""
    print("wrote")
    for path in paths:
        print(f"  {path}")
    return 0


class Bars:
    """One progress bar a method: share, groups a second, time left."""

    def __init__(self):
        with needed("the command line"):
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
        )
        self.tasks = {}

    def __enter__(self):
        self.progress.start()
        return self

    def __exit__(self, *_):
        self.progress.stop()

    def update(self, name: str, done: int, total: int) -> None:
        """Show that `done` of `total` groups of a method are finished."""
        task = self.tasks.get(name)
        if task is None or self.progress.tasks[task].finished:  # or another study's turn
            self.tasks[name] = self.progress.add_task(name, total=total, completed=done, rate="")
            return
        task = self.progress.tasks[self.tasks[name]]
        speed = task.speed
        rate = "" if not speed else f"{speed:,.0f} groups/s"
        self.progress.update(self.tasks[name], completed=done, rate=rate)
