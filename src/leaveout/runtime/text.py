"""What a person reads: tables of plain text, lists cut short, warnings with their caller's line."""

import difflib
import sys
import warnings
from collections.abc import Iterable

__all__ = ["aligned", "called", "did_you_mean", "shortened", "warn"]

_OURS = ("leaveout", "equinox", "jaxtyping", "beartype", "contextlib", "functools")


def aligned(rows: list[list[str]], right: bool = False) -> list[str]:
    """Lines of text with cells in columns, those after the first flush right if asked."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def line(row):
        cells = [
            cell.rjust(width) if right and k else cell.ljust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    return [line(row) for row in rows]


def called(function: object) -> str:
    """What a user's function is called; "own" where it has no name."""
    name = getattr(function, "__name__", type(function).__name__)
    return "own" if name == "<lambda>" else name


def shortened(items: Iterable[object], most: int = 6) -> str:
    """The first items, comma after comma, and dots for the others."""
    items = list(items)
    shown = ", ".join(repr(item) for item in items[:most])
    return shown + (", ..." if len(items) > most else "")


def did_you_mean(word: object, known: Iterable[object]) -> str:
    """The end of a sentence about an unknown word: the nearest that is known, or the first few."""
    names = [str(name) for name in known]
    near = difflib.get_close_matches(str(word), names, n=1)
    return (
        f"; did you mean {near[0]!r}?" if near else f"; there are {shortened(names, 12) or 'none'}"
    )


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn in the name of the line that called this library, however deep the warning arose."""
    level, frame = 2, sys._getframe(1)
    while (
        frame.f_back is not None and str(frame.f_globals.get("__name__", "")).split(".")[0] in _OURS
    ):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
