"""Figures, with matplotlib only when one is drawn."""

from leaveout.plot.effects import grid, panels, scatter
from leaveout.plot.natural import against, bands, heat
from leaveout.plot.style import canvas, write

__all__ = [
    "against",
    "bands",
    "canvas",
    "grid",
    "heat",
    "panels",
    "scatter",
    "write",
]
