"""Figures, with matplotlib only when one is drawn."""

from leaveout.plot.canvas import canvas, write
from leaveout.plot.effects import grid, panels, scatter
from leaveout.plot.natural import against, bands, heat
from leaveout.plot.sweep import curves, ranks, sweep
from leaveout.plot.theory import cones, removal, signs

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
