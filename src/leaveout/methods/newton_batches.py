"""Groups that are solved together: by which solver, their lists padded to how many points."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from leaveout.fitting.fitted import Fit
from leaveout.fitting.leaving import LISTED
from leaveout.groups import Groups
from leaveout.objectives.expansion import LinearExpansion
from leaveout.objectives.sparse import Sparse
from leaveout.runtime.batches import abreast
from leaveout.runtime.memory import ACCELERATOR, NEWTON_LANES, bucket, budget, longest
from leaveout.runtime.sharding import devices, on_host, place
from leaveout.solvers import CG, Auto, Block, Cholesky, Factor, Refined, Solver

__all__ = ["Batch", "by_rows", "plan_of"]

_NARROWEST, _COARSE = 64, 512  # points to which lists are padded at least; where that is free
_PROGRAM = 4e9  # operations, as `Auto` counts them, in the time that one takes to compile
_LARGE = 64  # parameters from which on fewer groups together do nearly as well


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

    Their shapes are the problem's, whatever the number of groups: a ragged end is filled up.
    """
    n, size = fit.objective.n, groups.size
    lengths = [None if k > n // 2 else min(_length(k), n) for k in size]
    routes = {length: _route(fit, expansion, solver, length) for length in set(lengths)}
    if isinstance(solver, Auto):
        routes |= _joined(fit, expansion, solver, routes, lengths)
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


def _route(fit: Fit, expansion, solver: Solver, length: int | None) -> tuple[int | None, Solver]:
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


def _joined(fit: Fit, expansion, solver: Auto, routes: Mapping, lengths: Sequence) -> Mapping:
    """One route for all lists, where others save less than their programs take to compile."""
    listed = [length for length in routes if length is not None]
    others = len({routes[length] for length in listed}) - 1
    if others < 1:
        return {}
    least, totals = 0.0, dict.fromkeys((routes[length][1] for length in listed), 0.0)
    for length in listed:
        costs = solver.costs(expansion, fit.metric, _sample(fit, length))
        least += lengths.count(length) * min(costs.values())
        for each in totals:
            totals[each] += lengths.count(length) * costs.get(each, np.inf)
    one = min(totals, key=lambda each: totals[each])
    if totals[one] - least > others * _PROGRAM:
        return {}
    return dict.fromkeys(listed, _route(fit, expansion, one, max(listed)))


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
