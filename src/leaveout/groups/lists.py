"""Lists of points, one group after the other, and where each ends."""

import numpy as np

__all__ = ["listed_in", "offsets_of"]


def offsets_of(rows: np.ndarray, count: int) -> np.ndarray:
    """(g + 1) where the lists of `count` groups begin and end, from the group of each entry."""
    return np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=count))]).astype(np.int64)


def listed_in(values: np.ndarray, offsets: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """What some groups list, one after the other: of neighbours no copy, else run by run."""
    if not len(rows):
        return values[:0]
    starts, ends = offsets[rows], offsets[rows + 1]
    new = np.flatnonzero(np.append(True, starts[1:] != ends[:-1]))  # where a run begins
    last = np.append(new[1:], len(rows)) - 1
    runs = zip(starts[new].tolist(), ends[last].tolist(), strict=True)
    parts = [values[start:end] for start, end in runs]
    if len(parts) > 1:
        return np.concatenate(parts)
    view = parts[0]
    view.flags.writeable = False
    return view
