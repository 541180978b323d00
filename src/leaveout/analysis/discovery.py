"""Which group that can be described moves a measure the most: all of them scored, few retrained."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np

from leaveout.analysis.credit import Credit, classes_of, credited
from leaveout.analysis.null import Null, Standing
from leaveout.attribution.container import Effects
from leaveout.attribution.stream import gathered, pose
from leaveout.attribution.verb import check_method
from leaveout.fitting.double import in_double
from leaveout.fitting.fitted import Fit
from leaveout.fitting.gates import admit
from leaveout.groups import Cells, Groups, Lattice
from leaveout.measures import Measure
from leaveout.methods import Influence, Newton, Retrain, per_point
from leaveout.runtime.memory import budget, limited
from leaveout.runtime.options import check_integer, generator
from leaveout.runtime.sharding import entry_point
from leaveout.runtime.solution import Status
from leaveout.runtime.tables import check_rows

__all__ = ["dealt_extremes", "discover"]

_SAME = 0.95  # of its effect that a group keeps without a predicate that says nothing
_SPARE = 2  # times as many as are shown are retrained: Newton steps order the leaders only nearly
_DEEP = 4  # times as many leaders as are retrained, of which simpler wordings are tried


@in_double
@entry_point
def discover(
    fit: Fit,
    frame,
    measure: Measure | Callable,
    *,
    depth: int = 3,
    support: tuple[float, float] = (0.01, 0.15),
    direction: int = -1,
    bins: int = 4,
    beam: int = 500,
    show: int = 10,
    overlap: float = 0.5,
    null: Null | int = Null(200),
    certify: bool = False,
    memory=None,
    progress: Callable[[int], None] | None = None,
) -> Credit:
    """Which describable group moves f the most when it leaves.

    All conjunctions of predicates (`lo.groups.conjunctions`) are scored by influence, which adds
    up; the `beam` best are ranked by one Newton step, which sees the curvature that a coherent
    group takes with it; of the first that are not the same group in other words twice `show` are
    retrained, and the best `show` returned. They are compared with the best of as many
    conjunctions when chance deals each example's influence to another: p is of the whole search.
    Cost: a pass over the examples for each set of up to `depth` columns, and one for each draw of
    the null; `beam` Newton steps; twice `show` refits.

    A predicate on the label, or on what the measure compares, wins almost by definition: leave it
    out of `frame`, or deal within its values (`null=lo.Null(within=)`).

    Args:
        fit: the fitted objective.
        frame: what describes the n examples, as in `lo.groups.conjunctions`.
        measure: of one column, smooth, and not of who leaves: `lo.measures.gap`, a mean loss.
        depth: predicates of a conjunction, at most.
        support: of the examples, the shares that it holds at least and at most.
        direction: -1 for what lowers f when it leaves, +1 for what raises it.
        bins: intervals of a column of numbers.
        beam: conjunctions whose Newton steps are taken.
        show: of them, how many are returned.
        overlap: share of their union that two may have in common, at most, to be two.
        null: how often influence is dealt out, or a `lo.Null` with strata and a key; 0 for none.
        certify: enclose the effects of retraining (see `effects`).
        memory: as in `effects`.
        progress: called with the number of conjunctions ranked or retrained, after each chunk.

    Returns:
        a `Credit` of the groups, the largest effect of retraining in the direction first. `null.p`
        is of the family of all conjunctions.

    Raises:
        ValueError: for a measure of several columns, one that has no sum over points, or where
            nothing has such a support.

    Example:
        >>> table = {"ward": np.arange(24) // 6, "sex": ["f", "m"] * 12}
        >>> found = lo.discover(fit, table, measure, support=(0.1, 0.3), show=2, null=20)
        >>> found.groups.names.tolist(), found.null.family
        (['sex = m and ward = 0', 'ward = 0'], 12)

    Source: Pradhan et al. (2022), Gopher, for the question; the null and the truth are added.
    """
    sign, null = _checked(direction, beam, show, overlap, null)
    check_method(fit, Newton())
    lattice = Lattice.of(frame, depth=depth, support=support, bins=bins)
    _check_rows(fit, lattice)
    with limited(memory):
        psi = np.asarray(per_point(fit, measure))
        if psi.shape[1] != 1:
            raise ValueError(
                f"expected a measure of one column, got {psi.shape[1]}; reduce= it to a mean, or "
                "ask for one after the other"
            )
        scored = _scored(lattice, psi[:, 0])
        order = np.argsort(-sign * scored.sums, kind="stable")
        first = order[np.sort(np.unique(scored.mark[order], return_index=True)[1])][:beam]
        search = _Search(fit, lattice, scored, measure, sign, progress)
        rows = _distinct(search, first, _SPARE * show, overlap)
        note = _described(lattice, scored, min(beam, len(first)), len(rows))
        found = _shown(search, rows, show, certify, note)
        strata = null.strata(classes_of(fit.objective, lattice.n)[1], fit.objective.fingerprint)
        family = dealt_extremes(lattice, psi[:, 0], sign, null, strata)
        if family is None:
            return found
        own = np.asarray(found.effects["influence"].value)
        place = _place(own, family, sign, len(scored.sums))
        return dataclasses.replace(found, null=place)


def _checked(direction, beam, show, overlap, null) -> tuple[int, Null]:
    if direction not in (-1, 1):
        raise ValueError(f"expected direction as -1 or +1, got {direction!r}")
    check_integer(beam, "beam")
    check_integer(show, "show")
    if not 0 < overlap <= 1:
        raise ValueError(f"expected overlap as a share, 0 < overlap <= 1, got {overlap!r}")
    if not isinstance(null, Null):
        check_integer(null, "null (draws, or a lo.Null)", least=0)
        null = Null(int(null))
    if null.method is not None:
        raise ValueError("influence is what is dealt out here; leave out the method of lo.Null")
    return int(direction), null


def _check_rows(fit: Fit, lattice: Lattice) -> None:
    objective = fit.objective
    if lattice.n != objective.n:
        raise ValueError(
            f"the table describes {lattice.n:,} examples, but the model was fitted to "
            f"{objective.n:,}; give one row for each"
        )
    check_rows(lattice.fingerprint, objective.fingerprint, "the table", "the data")


class _Scored(NamedTuple):
    """All conjunctions with the sums of what their examples do.

    Attributes:
        predicates: (G depth) as of `Lattice.predicates`.
        sums: (G) influence.
        mark: (G) a sum of random numbers, added in the order of the examples: two of the same
            examples share it to the last bit, and no others.
    """

    predicates: np.ndarray
    sums: np.ndarray
    mark: np.ndarray


def _scored(lattice: Lattice, psi: np.ndarray) -> _Scored:
    """Every conjunction scored: a pass over the examples for each set of columns."""
    marks = np.random.default_rng(0).standard_normal(lattice.n)
    parts = [
        (lattice.predicates(cells), cells.sums(psi), cells.sums(marks)) for cells in lattice.cells()
    ]
    if not parts:
        raise ValueError(
            f"no conjunction holds {lattice.least:,} to {lattice.most:,} of {lattice.n:,} "
            "examples; widen support"
        )
    predicates, sums, mark = (np.concatenate(part) for part in zip(*parts, strict=True))
    return _Scored(predicates, sums, mark)


def _described(lattice: Lattice, scored: _Scored, ranked: int, retrained: int) -> str:
    return (
        f"{len(scored.sums):,} conjunctions of up to {lattice.depth} predicates hold "
        f"{lattice.least:,} to {lattice.most:,} of {lattice.n:,} examples; the {ranked:,} of most "
        f"influence were ranked by Newton steps, and {retrained:,} of the first retrained"
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Search:
    """What ranking and wording ask: effects of rows of the scored lattice."""

    fit: Fit
    lattice: Lattice
    scored: _Scored
    measure: Measure | Callable
    sign: int
    progress: Callable[[int], None] | None

    def groups(self, rows: np.ndarray) -> Groups:
        """Some conjunctions as groups."""
        return self.lattice.groups(self.scored.predicates[rows])

    def effects(self, groups: Groups, method, certify: bool = False) -> Effects:
        """Their effects by a method."""
        fit, groups = admit(self.fit, groups, method.needs)
        question = pose(fit, groups, self.measure, method, certify=certify)
        return gathered(question, progress=self.progress)

    def by_newton(self, rows: np.ndarray) -> np.ndarray:
        """(r) Newton effects in the direction asked for; influence where a step is no answer."""
        found = self.effects(self.groups(rows), Newton())
        known = found.column_status[:, 0] == Status.converged
        return self.sign * np.where(known, found.value[:, 0], self.scored.sums[rows])


def _distinct(search: _Search, first: np.ndarray, count: int, overlap: float) -> np.ndarray:
    """The rows that are retrained: the best by Newton, each idea once and in its simplest words."""
    score = dict(zip(first.tolist(), search.by_newton(first).tolist(), strict=True))
    order = sorted(score, key=lambda row: -score[row])
    known = {_key(one): row for row, one in enumerate(search.scored.predicates)}
    wider = {
        row: [known[key] for key in _simpler(search.scored.predicates[row]) if key in known]
        for row in order[: _DEEP * count]
    }
    more = np.array(sorted({r for rows in wider.values() for r in rows} - set(score)), int)
    if more.size:
        score |= zip(more.tolist(), search.by_newton(more).tolist(), strict=True)
    kept, held = [], []
    for row in order:
        row = _simplest(row, wider.get(row, []), score)
        members = np.zeros(search.lattice.n, bool)
        members[search.lattice.members(search.scored.predicates[row])] = True
        if row not in kept and all(_shared(members, other) <= overlap for other in held):
            kept.append(row)
            held.append(members)
        if len(kept) == count:
            break
    return np.array(kept)


def _key(predicates: np.ndarray) -> tuple[int, ...]:
    return tuple(one for one in predicates.tolist() if one >= 0)


def _simpler(predicates: np.ndarray) -> Iterator[tuple[int, ...]]:
    """A conjunction without some of its predicates."""
    key = _key(predicates)
    for length in range(1, len(key)):
        yield from itertools.combinations(key, length)


def _simplest(row: int, wider: list[int], score: dict[int, float]) -> int:
    """The conjunction of fewest predicates (they come first) that keeps the effect."""
    enough = _SAME * score[row] if score[row] > 0 else score[row]
    return next((other for other in wider if score[other] >= enough), row)


def _shared(one: np.ndarray, other: np.ndarray) -> float:
    """Jaccard's index of two sets."""
    return np.count_nonzero(one & other) / np.count_nonzero(one | other)


def _shown(search: _Search, rows: np.ndarray, show: int, certify: bool, note: str) -> Credit:
    """Of the groups retrained those of largest effect, in order, as a table without a null.

    Those whose effect is flagged come last.
    """
    groups = search.groups(rows)
    actual = search.effects(groups, Retrain())
    known = np.where(actual.status == 0, search.sign * actual.value[:, 0], -np.inf)
    best = np.argsort(-known, kind="stable")[:show]
    groups = groups[best]
    actual = search.effects(groups, Retrain(), certify) if certify else actual[best]
    actual = dataclasses.replace(actual, notes=(*actual.notes, note))
    effects = {each.name: search.effects(groups, each) for each in (Influence(), Newton())} | {
        actual.method: actual
    }
    fit, groups = admit(search.fit, groups)
    return credited(fit, groups, search.measure, effects, Null(0))


def dealt_extremes(
    lattice: Lattice, psi: np.ndarray, sign: int, null: Null, strata: np.ndarray | None
) -> np.ndarray | None:
    """(draws) the most extreme sum over all conjunctions when chance deals influence out.

    Args:
        lattice: the conjunctions.
        psi: (n) what each example does.
        sign: +1 for the largest sum, -1 for the smallest.
        null: how often, from which key; None for no draws.
        strata: (n) within which influence is dealt, or None for one of all.
    """
    if null.draws == 0:
        return None
    code = np.zeros(lattice.n, int) if strata is None else strata
    if code.shape != (lattice.n,):
        raise ValueError(f"expected one stratum for each of {lattice.n:,} points, got {code.shape}")
    rng = generator(jax.random.key(0) if null.key is None else null.key)
    pools = [np.flatnonzero(code == stratum) for stratum in np.unique(code)]
    together = max(int(min(budget() // (32 * lattice.n), null.draws)), 1)
    runs = [min(together, null.draws - at) for at in range(0, null.draws, together)]
    return np.concatenate([_extremes(lattice, _dealt(rng, psi, pools, r), sign) for r in runs])


def _dealt(
    rng: np.random.Generator, psi: np.ndarray, pools: list[np.ndarray], draws: int
) -> np.ndarray:
    """(n draws) what each example does, dealt out anew within each pool."""
    out = np.empty((psi.size, draws))
    for draw in range(draws):
        for pool in pools:
            out[pool, draw] = psi[rng.permutation(pool)]
    return out


def _extremes(lattice: Lattice, dealt: np.ndarray, sign: int) -> np.ndarray:
    """(draws) the largest of the conjunctions' sums in the direction, in units of f."""
    best = np.full(dealt.shape[1], -np.inf)
    for cells in lattice.cells():
        best = np.maximum(best, (sign * _table(cells, lattice.n) @ dealt).max(axis=0))
    return sign * best


def _table(cells: Cells, n: int):
    """The members of conjunctions (q n), sparse."""
    from scipy.sparse import csr_array

    order = np.argsort(cells.code, kind="stable")
    offsets = np.concatenate([[0], np.cumsum(cells.held)])
    shape = (len(cells.held), n)
    return csr_array((np.ones(order.size), cells.rows[order], offsets), shape)


def _place(own: np.ndarray, extremes: np.ndarray, sign: int, family: int) -> Standing:
    """Where influences (g 1) stand among the most extreme of each draw."""
    draws = extremes.size
    mean, spread = extremes.mean(), extremes.std(ddof=1) if draws > 1 else 0.0
    low, high = np.quantile(extremes, [0.025, 0.975])
    equal = np.isclose(extremes, own, rtol=1e-9, atol=0)
    beyond = ((sign * extremes > sign * own) | equal).sum(axis=1, keepdims=True)
    below = ((extremes < own) & ~equal).sum(axis=1, keepdims=True)
    p = (1 + beyond) / (draws + 1)

    def each(value: float) -> np.ndarray:
        return np.full(own.shape, value)

    return Standing(
        effect=own,
        mean=each(mean),
        low=each(low),
        high=each(high),
        z=(own - mean) / spread if spread > 0 else each(0.0),
        percentile=100 * (below + equal.sum(axis=1, keepdims=True) / 2) / draws,
        p=p,
        q=p,
        draws=draws,
        method=Influence().name,
        status=np.zeros(own.shape, np.int8),
        flagged=np.zeros(own.shape, int),
        family=family,
    )
