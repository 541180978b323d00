"""Figures, with matplotlib only when one is drawn."""

from leaveout.plot.bars import values
from leaveout.plot.effects import grid, panels, scatter
from leaveout.plot.intervals import forest
from leaveout.plot.natural import against, bands, heat
from leaveout.plot.sets import extreme, flips
from leaveout.plot.style import (
    FOUR,
    HELPS,
    HURTS,
    LINES,
    OTHER,
    STYLE,
    Axes,
    Figure,
    Paths,
    canvas,
    count_in_red,
    meaning,
    need_matplotlib,
    styles,
    write,
)
from leaveout.runtime.deprecated import found_elsewhere as _found_elsewhere

__all__ = [
    "FOUR",
    "HELPS",
    "HURTS",
    "LINES",
    "OTHER",
    "STYLE",
    "Axes",
    "Figure",
    "Paths",
    "against",
    "bands",
    "canvas",
    "count_in_red",
    "extreme",
    "flips",
    "forest",
    "grid",
    "heat",
    "meaning",
    "need_matplotlib",
    "panels",
    "scatter",
    "styles",
    "values",
    "write",
]

_WING = "leaveout.studies.koh2019"

__getattr__ = _found_elsewhere(
    "lo.plot",
    {
        **{name: f"{_WING}.plot_sweep:{name}" for name in ("curves", "ranks", "sweep")},
        **{name: f"{_WING}.plot_theory:{name}" for name in ("cones", "removal", "signs")},
    },
)
