"""Groups that are solved together: by which solver, their lists padded to how many points."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from leaveout.fitting.fitted import Fit
from leaveout.fitting.leaving import LISTED
from leaveout.groups import Groups
from leaveout.objectives.expansion import LinearExpansion
from leaveout.objectives.sparse import Sparse
from leaveout.runtime.batches import abreast
from leaveout.runtime.memory import ACCELERATOR, NEWTON_LANES, bucket, budget, longest
from leaveout.runtime.sharding import devices, on_host, place
from leaveout.solvers import CG, PIECE, Auto, Block, Cholesky, Factor, Refined, Solver

__all__ = ["Batch", "by_rows", "plan_of"]

_NARROWEST, _COARSE = 64, 512  # points to which lists are padded at least; where that is free
_PROGRAM = 4e9  # operations, as `Auto` counts them, in the time that one takes to compile
_LARGE = 64  # parameters from which on fewer groups together do nearly as well


#: points to which lists are padded, None for w of every point; and a solver
_Route: TypeAlias = tuple[int | None, Solver]


class Batch(NamedTuple):
    """Groups that are solved together.

    Attributes:
        rows: which groups.
        lanes: to how many they are filled up.
        width: to how many points their lists are padded. None stands for w of every point: for
            solvers that look at all the data anyway, and for groups of more than half of it.
        solver: the one that suits them.
    """

    rows: np.ndarray
    lanes: int
    width: int | None
    solver: Solver


def plan_of(fit: Fit, expansion, groups: Groups, solver: Solver, steps: int) -> Iterator[Batch]:
    """The groups in batches for one solver, of like size.

    Their shapes are the problem's, whatever the number of groups: a ragged end is filled up. Many
    groups may have a solver more than few.
    """
    n, size = fit.objective.n, groups.size
    lengths = [None if k > n // 2 else min(_length(k), n) for k in size]
    routes = {length: _route(fit, expansion, solver, length) for length in set(lengths)}
    if isinstance(solver, Auto):
        routes |= _at_home(fit, expansion, solver, routes, lengths)
    each = [routes[length] for length in lengths]
    for width, chosen in dict.fromkeys(each):
        rows = np.flatnonzero([one == (width, chosen) for one in each])
        rows = rows[np.argsort(size[rows], kind="stable")]
        held = _bytes(fit, expansion, width, chosen, steps)
        most = _most(fit, chosen)
        lanes = longest(held, budget(), most if on_host() else ACCELERATOR * most)
        if devices() > 1:  # what fills up would be sent around
            lanes = min(lanes, bucket(len(rows)))
        for at in range(0, len(rows), lanes):
            yield Batch(rows[at : at + lanes], lanes, width, chosen)


def _most(fit: Fit, solver: Solver) -> int:
    """Groups that are best solved together; of those that fill up a batch none is worth much."""
    iterative = isinstance(solver, CG)
    most = NEWTON_LANES // (1 if fit.objective.p < _LARGE else 2 if iterative else 4)
    dense = isinstance(fit.metric, Factor)  # which all lanes read at every step
    return abreast(fit.objective.outputs, most) if iterative and not dense else most


def _length(size: int | np.integer) -> int:
    """Points of a group, rounded up by a quarter at most, so that few are looked at."""
    eighth = max(bucket(size) // 8, 1)
    return max(-(-int(size) // eighth) * eighth, _NARROWEST)


def _route(fit: Fit, expansion, solver: Solver, length: int | None) -> _Route:
    """The width of lists of this length, and the solver for them.

    A solver that factorises a Hessian looks at lists only as far as they go, so that few widths do
    for it; to others padding is work.
    """
    n = fit.objective.n
    if isinstance(solver, Auto):
        solver = solver.choose(expansion, fit.metric, _sample(fit, length))
    if length is None or isinstance(solver, CG):
        return None, solver
    if devices() > 1:
        return length, solver
    widths = [n // 2]
    step, least = (64, _COARSE) if isinstance(solver, Cholesky | Refined) else (4, _NARROWEST)
    while widths[-1] // step >= least:
        widths.append(widths[-1] // step)
    return min((width for width in widths if width >= min(length, n // 2)), default=n // 2), solver


def _at_home(fit: Fit, expansion, solver: Auto, routes: Mapping, lengths: Sequence) -> Mapping:
    """The route of lists whose own saves less than its program takes to compile: a Hessian each.

    It is the same for all of a problem's lists, so that few groups of any size take one program.
    """
    if devices() > 1 or fit.metric is None:
        return {}
    home: _Route = fit.objective.n // 2, Cholesky(solver.rtol)
    counts, saved = Counter(lengths), defaultdict[_Route, float](float)
    for length, route in routes.items():
        if length is not None and route != home:
            more = _cost(fit, expansion, solver, home, length)
            more -= _cost(fit, expansion, solver, route, length)
            saved[route] += counts[length] * more
    return {k: home for k, route in routes.items() if k is not None and saved[route] < _PROGRAM}


def _cost(fit: Fit, expansion, solver: Auto, route: _Route, length: int) -> float:
    """Operations of a group with so many points, filled up as a route does, with its gradient."""
    width, chosen = route
    looked = length if width is None else width
    if isinstance(chosen, Cholesky):  # looks no further than it has to
        looked = min(max(length, PIECE), looked)
    n, factor = fit.objective.n, fit.metric
    assert factor is not None  # without one there is one route
    rows = width if width is not None and by_rows(expansion, width) else n
    costs = solver.costs(expansion, factor, _sample(fit, looked))
    return costs[chosen] + 2.0 * rows * fit.objective.p


def _sample(fit: Fit, length: int | None) -> Block:
    """A group with so many points, or w of every point."""
    taken = np.zeros((1, length or fit.objective.n))
    return Block(place(taken, float), None if length is None else place(taken, int))


def _bytes(fit: Fit, expansion, width: int | None, solver: Solver, steps: int) -> int:
    """What a group takes while it is solved."""
    n, p, floats = fit.objective.n, fit.objective.p, fit.objective.floats_per_example
    looks = n if width is None or not by_rows(expansion, width) else 0
    vectors = 16 if isinstance(solver, CG) else 6
    held = 8 * (4 * (width or n) + (2 + floats) * looks + vectors * p)
    held += 8 * p * p * (not isinstance(solver, CG))  # the group's factor
    return held + 8 * n * floats * (steps > 1)


def by_rows(expansion, width: int) -> bool:
    """Whether gathered rows are cheaper than a product of dense weights with all the data."""
    dense = isinstance(expansion, LinearExpansion) and not isinstance(expansion.design, Sparse)
    return dense and LISTED * width < expansion.n and devices() == 1
