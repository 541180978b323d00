"""Shelf of curvatures: which matrix stands for the Hessian at the end of a training.

A curvature is a frozen value with a `damping` and `at`, which gives an expansion of an objective of
scores: gradients are those of its losses, products with the Hessian are its own. Damping is in
units of a mean loss, so that `damping * sum s` is added to the diagonal; None leaves it to the
recipe of a run, and is 0 of a fit.
"""

from leaveout.curvature.kinds import Bent, Curvature, GaussNewton, Hessian, LastLayer

__all__ = ["Bent", "Curvature", "GaussNewton", "Hessian", "LastLayer"]
