"""Figures, with matplotlib only when one is drawn."""

from leaveout.plot.effects import grid, panels, scatter
from leaveout.plot.natural import against, bands, heat
from leaveout.plot.style import canvas, write
from leaveout.studies.koh2019.plot_sweep import curves, ranks, sweep
from leaveout.studies.koh2019.plot_theory import cones, removal, signs

__all__ = [
    "against",
    "bands",
    "canvas",
    "cones",
    "curves",
    "grid",
    "heat",
    "panels",
    "ranks",
    "removal",
    "scatter",
    "signs",
    "sweep",
    "write",
]
