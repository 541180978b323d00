"""Shelf of linear solvers for Hessians: frozen, hashable values, never strings.

A solver answers two questions about the Hessian H of the objective at theta:

- `full`: H x = b, for influence;
- `reduced`: (H - H(w)) x = b for many groups w at once, for the Newton step; it factorises once and
  returns the map from b to x, for as many right-hand sides as are wanted.

`Block` says which groups are in flight: padded lists of points and what each of them loses, or what
every point loses. Every answer's residual is the true one, measured after the solve as
|b - A x| / |b| in the norm of H^-1, which does not depend on units of features.
"""

from leaveout.solvers.choice import AnySolver, Auto, as_solver, tolerance_of
from leaveout.solvers.direct import Cholesky, LowRank, together
from leaveout.solvers.dual import DualFactor, factorise_rows
from leaveout.solvers.factor import (
    BESIDE,
    PIECE,
    Block,
    Factor,
    Lift,
    Solver,
    apply_reduced,
    attach_matrix,
    attach_rows,
    corrected,
    factorise,
    full_matrix,
    judge,
    leverage,
    lifted,
    measured,
    reachable,
    relative,
    scale_of,
    seen_through,
    share_of,
    thin,
    thinned,
    turned,
    white_rows,
)
from leaveout.solvers.foreign import Lineax
from leaveout.solvers.iterative import CG
from leaveout.solvers.outputs import OutputFactor, factorise_outputs
from leaveout.solvers.refined import Refined

__all__ = [
    "BESIDE",
    "CG",
    "PIECE",
    "AnySolver",
    "Auto",
    "Block",
    "Cholesky",
    "DualFactor",
    "Factor",
    "Lift",
    "Lineax",
    "LowRank",
    "OutputFactor",
    "Refined",
    "Solver",
    "apply_reduced",
    "as_solver",
    "attach_matrix",
    "attach_rows",
    "corrected",
    "factorise",
    "factorise_outputs",
    "factorise_rows",
    "full_matrix",
    "judge",
    "leverage",
    "lifted",
    "measured",
    "reachable",
    "relative",
    "scale_of",
    "seen_through",
    "share_of",
    "thin",
    "thinned",
    "together",
    "tolerance_of",
    "turned",
    "white_rows",
]
