"""Shelf of linear solvers for Hessians: frozen, hashable values, never strings.

A solver answers two questions about the Hessian H = H(1) of the objective at theta:

- `full`: H x = b, for influence;
- `reduced`: (H - H(w)) x = b for many groups w at once, for the Newton step; it factorises once and
  returns the map from b to x, for as many right-hand sides as are wanted.

`Block` says which groups are in flight: padded indices of the points that leave and their weights,
or dense weights. Every answer's residual is the true one, measured
after the solve as |b - A x| / |b| in the norm of H^-1, which does not depend on units of features.
"""

from leaveout.solvers.choice import Auto, as_solver
from leaveout.solvers.direct import Cholesky, LowRank
from leaveout.solvers.factor import Block, Factor, Solver, attach_rows, factorise, full_matrix
from leaveout.solvers.foreign import Lineax
from leaveout.solvers.iterative import CG
from leaveout.solvers.refined import Refined

__all__ = [
    "CG",
    "Auto",
    "Block",
    "Cholesky",
    "Factor",
    "Lineax",
    "LowRank",
    "Refined",
    "Solver",
    "as_solver",
    "attach_rows",
    "factorise",
    "full_matrix",
]
