"""Shelf of counterexamples: models, groups and queries at which influence goes wrong.

Each is a fitted model without an intercept, groups of its training points, and query inputs; the
effect is that on the score theta . x_query. To add one, write a function that returns a
`Counterexample`. They are as precise as JAX is: in float64 if it is enabled, else in float32.
"""

import dataclasses
import itertools

import numpy as np
from jaxtyping import Float

from leaveout.attribution.container import Effects
from leaveout.attribution.verb import effects
from leaveout.fitting.fitted import Fit
from leaveout.fitting.optimum import fit
from leaveout.fitting.precision import as_given
from leaveout.groups import Groups
from leaveout.measures import prediction
from leaveout.methods import Influence, Newton, Retrain, influence, newton
from leaveout.objectives.linear import LinearObjective
from leaveout.objectives.models import logistic
from leaveout.solvers import Auto, reachable
from leaveout.studies import datasets

__all__ = [
    "Counterexample",
    "blind_query",
    "blind_spot",
    "changes",
    "gauss4",
    "ortho2",
    "reversal",
]

_REMOVED = (1, 2, 4, 8, 16, 24)  # copies of label 1 on each of six axes
_KEPT = (40, 20, 10, 4, 1, 0)  # copies on the same axis that stay, of labels 0, 1, 0, ...
_PAIRS = 120  # groups that figure 3, left, shows
_DRAWS = 100  # queries that the released code draws for them; it shows the third


@dataclasses.dataclass(frozen=True, eq=False)
class Counterexample:
    """A fitted model, groups, and queries at which influence goes wrong.

    Attributes:
        fit: a logistic model without an intercept.
        groups: what leaves.
        x_query: (m d) where the scores are predicted.

    Example:
        >>> example = lo.counterexamples.reversal()
        >>> example.fit.flat.shape, len(example.groups), example.x_query.shape
        ((6,), 6, (1, 6))
    """

    fit: Fit
    groups: Groups
    x_query: Float[np.ndarray, "m d"]

    def effects(self, method: Influence | Newton | Retrain = Influence()) -> Effects:
        """Effects (g m) of the groups on the scores of the queries.

        The score is linear in theta, so that `Newton(linearised=True)` is Newton's effect too, with
        less rounding where queries are long.
        """
        return effects(self.fit, self.groups, prediction(self.x_query), method)


def changes(fit: Fit, groups: Groups) -> tuple[np.ndarray, np.ndarray]:
    """Changes in theta (g p) by influence and by Newton, asking of float32 what it reaches."""
    solver = Auto(reachable(1e-8, fit.flat.dtype))
    with as_given():
        first, second = (
            np.asarray(verb(fit, groups, solver).value) for verb in (influence, newton)
        )
    return first, second


def ortho2() -> Counterexample:
    """Figure 3, right: the first m copies of one of four points in the plane; the query is (1, 1).

    Newton's effect is d(w) = 1 / (1 - m phi'' x' H^-1 x) times influence (proposition 4), 1.00 to
    8.04 here, another factor for every point: in a wide cone, the order is nearly kept.

    Returns:
        the fit, 116 groups, one query.

    Example:
        >>> len(lo.counterexamples.ortho2().groups)
        116

    Source: Koh et al. (2019), figure 3 and their released code.
    """
    data = datasets.ortho2()
    new = np.flatnonzero(np.any(np.diff(data.x, axis=0) != 0, axis=1)) + 1
    lists, names, kinds = [], [], []
    for copies in np.split(np.arange(data.n), new):
        point = "({:g}, {:g}), label {:d}".format(*data.x[copies[0]], data.y[copies[0]])
        for m in range(1, len(copies)):
            lists.append(copies[:m])
            names.append(f"{m} of {point}")
            kinds.append(point)
    groups = Groups.from_indices(lists, n=data.n, names=names, kind=kinds)
    return Counterexample(_fitted(data.x, data.y, data.l2), groups, data.x_query)


def gauss4(guard: float = 0.0) -> Counterexample:
    """Figure 3, left: pairs of points whose influence and Newton step point apart.

    Of all 7,140 pairs the 120 of lowest cosine between influence I and Newton step N,

        I . N / (|I| |N| + guard);

    the queries x are 100 least-squares solutions of [I; N] x = standard normal numbers. The figure
    shows the third.

    Args:
        guard: 1e-4 is the released code's rule. It does not find pairs that point apart but pairs
            that hardly matter: of points that are fitted so well that |I| |N| is far below the
            guard. In float64 influence and Newton then agree (Spearman 0.99999). In float32, which
            the released code computed in, the system is singular to rounding, the queries have a
            length of 1e11, and what they show is rounding. With 0 the pairs do point apart, and
            float32 and float64 agree.

    Returns:
        the fit, 120 pairs of points, 100 queries.

    Raises:
        ValueError: for a negative guard.

    Example:
        >>> lo.counterexamples.gauss4().x_query.shape
        (100, 60)

    Source: Koh et al. (2019), figure 3 and their released code, random stream included.
    """
    if not guard >= 0:
        raise ValueError(f"expected a guard >= 0, got {guard}")
    data = datasets.gauss4()
    fitted = _fitted(data.x, data.y, data.l2)
    pairs = Groups.from_indices(list(itertools.combinations(range(data.n), 2)), n=data.n)
    first, second = changes(fitted, pairs)
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    cosine = np.sum(first * second, axis=1) / (lengths + guard)
    lowest = np.argsort(cosine, kind="stable")[:_PAIRS]
    rows = np.concatenate([first[lowest], second[lowest]]).astype(float)
    targets = _targets(data.d)
    x_query = [np.linalg.lstsq(rows, target, rcond=None)[0] for target in targets]
    return Counterexample(fitted, pairs[lowest], np.array(x_query))


def _targets(d: int) -> np.ndarray:
    """(100 240) right-hand sides; the stream serves fewer pairs first, and equal targets."""
    rng = np.random.RandomState(0)
    for count in (d // 2, d):
        rng.normal(size=(_DRAWS, 2))
        rng.normal(size=(_DRAWS, 2 * count))
    rng.normal(size=(_DRAWS, 2))
    return rng.normal(size=(_DRAWS, 2 * _PAIRS))


def reversal() -> Counterexample:
    """Six groups that influence ranks in the reverse of their order: Spearman -1.

    On each of six axes 1 to 24 copies of label 1 leave and 40 to 0 of mixed labels stay. Newton's
    effect is d(w) times influence, d(w) = 1.02 to 3.05; the query weighs the axes such that the
    influences are -1.00, -0.98, ... -0.90. So no influence is wrong by much more than its neighbour
    is, each has the right sign and is too small, as the paper finds, and the order is lost.

    Returns:
        the fit, six groups, one query.

    Example:
        >>> len(lo.counterexamples.reversal().groups)
        6
    """
    fitted, groups = _axes()
    change = np.asarray(influence(fitted, groups).value, float)
    wanted = -np.linspace(1.0, 0.9, len(groups))
    return Counterexample(fitted, groups, np.linalg.solve(change, wanted)[None])


def blind_spot(tilt: float = 0.0) -> Counterexample:
    """One group, the six of `reversal` together, and a query that influence is blind to.

    Its influence is 0, Newton's effect and the actual one are 0.8. With a tilt of 0.05 influence is
    negative, Newton's effect positive, and the actual one larger still.

    Args:
        tilt: as in `blind_query`.

    Returns:
        the fit, one group, one query.

    Example:
        >>> len(lo.counterexamples.blind_spot(tilt=0.05).groups)
        1
    """
    fitted, groups = _axes()
    together = Groups.from_indices([groups.indices], n=groups.n, names=["all that can leave"])
    return Counterexample(fitted, together, blind_query(fitted, together, tilt))


def blind_query(fit: Fit, groups: Groups, tilt: float = 0.0) -> Float[np.ndarray, "g d"]:
    """For each group, the query that sees the most of Newton's step among those blind to influence.

        x = u - tilt I / |I|,  u the direction of N - I (I . N) / |I|^2

    I the change by influence, N by Newton. At tilt 0 the influence on the score of x is 0 and
    Newton's effect is the length of the part of N across I; a tilt beyond that makes influence
    negative, -tilt |I|, while Newton's effect may stay positive.

    Args:
        fit: a linear model of one output without an intercept, of any loss.
        groups: what leaves.
        tilt: how far past blindness, as a share of the length of u.

    Returns:
        (g d), of length 1 at tilt 0.

    Raises:
        ValueError: for other models, and where N has no part across I, as when copies of one point
            leave.

    Example:
        >>> example = lo.counterexamples.blind_spot()
        >>> query = lo.counterexamples.blind_query(example.fit, example.groups)
        >>> query.shape, round(float(np.linalg.norm(query)), 6)
        ((1, 6), 1.0)
    """
    objective = fit.objective
    if (
        not isinstance(objective, LinearObjective)
        or objective.layout.outputs != 1
        or objective.layout.intercept
    ):
        raise ValueError(
            "expected the fit of a linear model of one output without an intercept, such as "
            "lo.logistic(x, y, intercept=False); with an intercept no query is free in all of theta"
        )
    first, second = (np.asarray(verb(fit, groups).value, float) for verb in (influence, newton))
    along = first / np.maximum(_length(first), np.finfo(float).tiny)
    across = second
    for _ in range(2):  # once more, for what rounding left
        across = across - along * np.sum(along * across, axis=1, keepdims=True)
    parallel = _length(across) <= 1e-6 * _length(second)
    if parallel.any():
        raise ValueError(
            f"the Newton step of group {str(groups.names[np.argmax(parallel)])!r} is parallel to "
            "its influence, so that a query blind to one is blind to both; take a group whose "
            "points differ"
        )
    return across / _length(across) - tilt * along


def _axes() -> tuple[Fit, Groups]:
    """Copies of unit vectors on six axes, l2 = 1, and on each axis the copies that leave."""
    axis = np.repeat(np.arange(6), np.add(_REMOVED, _KEPT))
    parts = zip(_REMOVED, _KEPT, strict=True)
    y = np.concatenate([np.r_[np.ones(r, int), np.arange(k) % 2] for r, k in parts])
    starts = np.searchsorted(axis, np.arange(6))
    lists = [start + np.arange(r) for start, r in zip(starts, _REMOVED, strict=True)]
    names = [
        f"{r} of {r + k} on axis {j + 1}"
        for j, (r, k) in enumerate(zip(_REMOVED, _KEPT, strict=True))
    ]
    return _fitted(np.eye(6)[axis], y, 1.0), Groups.from_indices(lists, n=len(y), names=names)


def _fitted(x, y, l2) -> Fit:
    # Newton's iteration stops at rounding in any precision; the tolerance is what float32 can prove
    with as_given():
        return fit(logistic(x, y, l2=l2, intercept=False), tolerance=1e-4)


def _length(rows) -> np.ndarray:
    return np.linalg.norm(rows, axis=1, keepdims=True)
