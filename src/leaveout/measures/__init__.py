"""Shelf of measures: what one cares about, a function of theta and of what left.

A measure has columns, one effect each. To add one, write an Equinox module with `values` and
`columns` (see `Measure`) in a file of this folder and import it here; gradients come from autodiff
unless a cheaper way is given in `gradients`. Any function `f(theta)` or `f(theta, w)` of the PyTree
theta (and w, a float (n) array of what leaves) to a scalar or a vector is a measure as it is.
"""

from leaveout.measures.container import Ball, Measure, Measures, as_measures
from leaveout.measures.own import linear, odds_ratio, parameter, self_loss
from leaveout.measures.queries import gap, loss, margin, prediction, probability
from leaveout.measures.statistics import accuracy, auroc, calibration_error

__all__ = [
    "Ball",
    "Measure",
    "Measures",
    "accuracy",
    "as_measures",
    "auroc",
    "calibration_error",
    "gap",
    "linear",
    "loss",
    "margin",
    "odds_ratio",
    "parameter",
    "prediction",
    "probability",
    "self_loss",
]
