"""What `--list` prints: the studies in a folder, and how far each is."""

from leaveout.studies import natural, removal, valued
from leaveout.studies.networks import study

__all__ = ["HELP", "listed"]

HELP = "list the studies in this folder, and how far they are"


def listed() -> int:
    """Print a line for each study in the current folder; returns the exit code."""
    every = [*removal.found(), *natural.found(), *study.found(), *valued.found()]
    rows = sorted(every, key=lambda row: row["folder"])
    if not rows:
        print("no studies in this folder")
    for row in rows:
        print(f"{row['folder']!s:<32} {row['configuration'].in_words()}: {row['state']}")
    return 0
