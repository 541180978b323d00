"""Methods of the end of a training: influence and Newton steps with a curvature of choice."""

import contextlib
import contextvars
import dataclasses
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from leaveout.curvature import Bent, Curvature, GaussNewton
from leaveout.fitting.fitted import Change, Fit
from leaveout.fitting.gates import Need
from leaveout.fitting.implicit import DENSE
from leaveout.fitting.leaving import group_sums, leaving, w_by
from leaveout.groups import Groups
from leaveout.measures import Measure
from leaveout.methods.protocol import Method, PerPoint, Prepared, gradients_of
from leaveout.methods.trajectory import Metagradient, as_trained
from leaveout.objectives.abstract import (
    AbstractExpansion,
    AbstractObjective,
    AbstractScores,
    as_scores,
)
from leaveout.objectives.networks import Network
from leaveout.runtime.batches import in_runs, joined
from leaveout.runtime.memory import MANY_GROUPS, budget, chunks
from leaveout.runtime.sharding import entry_point, is_traced, replicate, to_host
from leaveout.runtime.solution import Solution, SolveError, Status
from leaveout.solvers import (
    CG,
    Block,
    DualFactor,
    Factor,
    apply_reduced,
    factorise,
    factorise_rows,
    full_matrix,
    share_of,
    thinned,
    turned,
)
from leaveout.training.run import Trained

__all__ = [
    "Corrected",
    "End",
    "end_of",
    "formed_once",
    "influence_at",
    "newton_at",
    "refuse_settings",
]

_LANES = 16  # groups that are solved together
_LARGEST = 1024  # rows of a factor that stands for more of them, to precondition
_STEPS = 15  # of conjugate gradients that a factor of a group's own saves
_RTOL, _RTOL32 = 1e-6, 1e-4  # of solves, and of those in float32, where products round to 1e-5


class _Formed(NamedTuple):
    """An expansion and its matrix that are kept, and what they are of.

    Attributes:
        objective: whose losses bend.
        theta: (p) where.
        expansion: without damping; of the t parameters that move, where it is of those alone.
        matrix: (t t) likewise.
    """

    objective: AbstractScores
    theta: Float[Array, "p"]
    expansion: AbstractExpansion
    matrix: Float[Array, "t t"]

    def of(self, objective: AbstractScores, theta: Float[Array, "p"]) -> bool:
        """Whether it is of this objective and theta."""
        mine, theirs = (self.objective, self.theta), (objective, theta)
        same = jax.tree.structure(mine) == jax.tree.structure(theirs)
        return same and all(
            a is b or np.array_equal(a, b)
            for a, b in zip(jax.tree.leaves(mine), jax.tree.leaves(theirs), strict=True)
        )


#: matrices by their curvature, where `formed_once` keeps them
_formed: contextvars.ContextVar[dict[Curvature, _Formed] | None] = contextvars.ContextVar(
    "formed", default=None
)


@dataclasses.dataclass(frozen=True, eq=False)
class End:
    """A theta with a curvature, for influence and Newton steps.

    Attributes:
        fit: whose theta it is.
        expansion: of the losses, with that curvature; of the last t parameters, where no others
            move (`Bent.tail`).
        factor: of the curvature and its damping, where t or n allows one.
    """

    fit: Fit
    expansion: AbstractExpansion
    factor: Factor | DualFactor | None

    @property
    def count(self) -> int:
        """How many parameters move, t."""
        return self.expansion.penalty.size

    def changes(self, groups: Groups, newton: bool) -> Solution:
        """Changes in theta of groups: (G + l2 M + d)^-1 g(w), or with G of what stays.

        By conjugate gradients, preconditioned by the factor of the whole where there is one, or by
        each group's own where that costs less than the steps that it saves.
        """
        objective, factor = self.fit.objective, self.factor
        gram = factor.gram if newton and isinstance(factor, DualFactor) else None
        seen = 0 if gram is None else len(gram)
        each = _held(self) + 24 * seen**2
        runs = chunks(np.argsort(groups.size, kind="stable"), each, budget(), _LANES)

        def some(rows):
            taken = objective.taken(leaving(self.fit, groups[rows]))
            most = objective.outputs * int(groups.size[rows].max(initial=0))
            own = seen > 0 and _is_short(objective, seen, most + 1)
            found = _solved(self.expansion, factor, taken, newton, own)
            still = [(0, 0), (objective.p - self.count, 0)]
            return dataclasses.replace(found, value=jnp.pad(found.value, still))

        parts = [some(np.resize(rows, len(runs[0]))) for rows in runs]
        back = np.argsort(np.concatenate(runs))
        return joined(parts, [len(rows) for rows in runs], back=back)


def _rows(objective: AbstractObjective) -> int:
    """Outputs of all examples together."""
    return objective.n * objective.outputs


def _held(end: End) -> int:
    """Bytes of a lane of conjugate gradients."""
    return 8 * (6 * end.count + end.fit.objective.n * end.fit.objective.floats_per_example)


def _is_short(objective: AbstractObjective, rows: int, steps: int = _STEPS) -> bool:
    """Whether a factor by way of so many rows costs less than these steps, or the usual number.

    It takes m^3 / 3 operations of a slow kind, a step about five passes through the network.
    """
    step = 10 * objective.n * objective.p
    return 4 * rows**3 / 3 <= min(steps, _STEPS) * step


def _solver(b: Float[Array, "b t"]) -> CG:
    return CG(rtol=_RTOL if b.dtype == jnp.float64 else _RTOL32)


@eqx.filter_jit
def _solved(
    expansion: AbstractExpansion,
    factor: Factor | DualFactor | None,
    taken: Float[Array, "b n"],
    newton: bool,
    own: bool,
) -> Solution:
    """Steps of groups, in the metric of the whole or, if asked, of what each group leaves."""
    pulls, weights = jax.lax.map(expansion.gradient, taken), expansion.weights
    block = Block(taken if newton else jnp.zeros_like(taken))
    if not own:
        return replicate(_solver(pulls).reduced(expansion, factor, block)(pulls))
    assert isinstance(factor, DualFactor)
    left = block.left(weights)
    share = left / jnp.where(weights > 0, weights, 1.0)[None]
    near = factor.kept(jnp.maximum(share, 0.0))
    found = _solver(pulls).solve(apply_reduced(expansion, left), near.solve, pulls, metric=True)
    kept = share_of(factor, near.solve(turned(factor, found.value)))
    return replicate(dataclasses.replace(found, status=thinned(found.status, kept)))


def end_of(fit: Fit, curvature: Curvature | None) -> End:
    """A fit, or the end of a training, with a curvature: Gauss-Newton by default.

    The factor is formed up to p = 12,000, by p products with all the data. Beyond, it is that of
    the examples' own matrix: of all, where they have up to 12,000 outputs together, else of the
    1,024 rows that bend the loss most, which precondition. Where only the last t parameters move it
    is of those. A Hessian and what has no penalty go by plain conjugate gradients.

    Raises:
        ValueError: for an objective without scores, or what is no curvature.
        SolveError: where the curvature is not positive definite.
    """
    curvature = GaussNewton() if curvature is None else curvature
    if not isinstance(curvature, Curvature):
        raise ValueError(f"expected curvature as lo.curvature.GaussNewton(), got {curvature!r}")
    objective = as_scores(fit.objective, f"the curvature {curvature.name}")
    damping = _damping(fit, curvature)
    last = curvature.moving(objective)
    apart = last < objective.p and _fits(objective, last)
    if not apart and objective.p > DENSE:
        expansion = curvature.at(objective, fit.flat, damping)
        return End(fit, expansion, _dual(objective, expansion))
    held = _undamped(fit, curvature, objective, last if apart else None)
    total = (damping * jnp.sum(objective.weights)).astype(held.matrix.dtype)
    factor, good = _factor(held.matrix, total)
    if apart:  # without a factor where it has none: conjugate gradients may do
        expansion = eqx.tree_at(lambda e: e.penalty, held.expansion, held.expansion.penalty + total)
        return End(fit, expansion, factor if bool(to_host(good)) else None)
    if not bool(to_host(good)):
        raise SolveError(
            f"the curvature {curvature.name} is not positive definite at this theta: use "
            "lo.curvature.GaussNewton(), a larger damping, or more l2"
        )
    return End(fit, curvature.at(objective, fit.flat, damping), factor)


def _fits(objective: AbstractScores, tail: int) -> bool:
    """Whether a factor of the last parameters, and each example's part in them, can be held."""
    held = 3 * _rows(objective) * tail * objective.weights.dtype.itemsize
    return tail <= DENSE and held <= budget()


@eqx.filter_jit
def _tail(expansion: Bent, count: int) -> AbstractExpansion:
    return replicate(expansion.tail(count))


def _dual(objective: AbstractScores, expansion: Bent) -> DualFactor | None:
    """The factor by way of the examples, all or the largest, where nothing is without penalty."""
    usual = isinstance(objective, Network) and not expansion.exact
    if not usual or not bool(jnp.min(expansion.penalty) > 0):
        return None
    size, count = objective.weights.dtype.itemsize, _rows(objective)
    short = _is_short(objective, count)
    held = 2 * count * (objective.p + count + short * count) * size
    if count <= DENSE and held <= budget():
        return factorise_rows(*_roots(expansion), expansion.penalty, short)
    most = min(_LARGEST, count, budget() // (4 * objective.p * size))
    if most == 0 or 4 * count * objective.outputs * size > budget():  # of n K^2 it chooses
        return None
    return factorise_rows(*_roots(expansion, most), expansion.penalty, True)


@eqx.filter_jit
def _roots(expansion: Bent, most: int | None = None):
    return replicate(expansion.roots() if most is None else expansion.largest_roots(most))


@contextlib.contextmanager
def formed_once() -> Iterator[None]:
    """Within it the matrix of a curvature at a theta is formed once, whatever asks, and kept.

    That of one theta at a time: p^2 numbers.
    """
    token = _formed.set({})
    try:
        yield
    finally:
        _formed.reset(token)


def _undamped(
    fit: Fit, curvature: Curvature, objective: AbstractScores, last: int | None
) -> _Formed:
    """A curvature without its damping, which is added to the diagonal; of the last parameters."""
    kept, bare = _formed.get(), dataclasses.replace(curvature, damping=0)

    def formed() -> _Formed:
        whole = bare.at(objective, fit.flat, 0.0)
        expansion = whole if last is None else _tail(whole, last)
        return _Formed(objective, fit.flat, expansion, _matrix(expansion))

    if kept is None or is_traced((fit.flat, objective)):
        return formed()
    held = kept.get(bare)
    if held is None or not held.of(objective, fit.flat):
        kept.clear()  # what is of another theta goes before this one comes
        held = kept[bare] = formed()
    return held


def refuse_settings(**settings: bool) -> None:
    """Refuse settings that a method with a curvature does not look at.

    Raises:
        ValueError: with their names.
    """
    given = [name for name, set_ in settings.items() if set_]
    if given:
        raise ValueError(
            f"{' and '.join(given)} is for fits and their Hessian: with a curvature, or of a Run, "
            "one step is solved by conjugate gradients; leave it out"
        )


def _damping(fit: Fit, curvature: Curvature) -> float:
    if curvature.damping is not None:
        return float(curvature.damping)
    return fit.recipe.damping() if isinstance(fit, Trained) else 0.0


@eqx.filter_jit
def _matrix(expansion: AbstractExpansion) -> Float[Array, "p p"]:
    return full_matrix(expansion, expansion.weights)


@eqx.filter_jit
def _factor(matrix: Float[Array, "p p"], damping: Float[Array, ""]):
    return replicate(factorise(matrix + damping * jnp.eye(len(matrix), dtype=matrix.dtype)))


def _finished(end: End, groups: Groups, newton: bool) -> Change:
    return Change.of(end.changes(groups, newton), end.fit.objective)


@entry_point
def influence_at(
    fit: Fit, measures: Sequence[Measure], curvature: Curvature | None, at_changed: bool
) -> Prepared:
    """Influence with a curvature: additive where measures are, a solve a column."""
    end = end_of(fit, curvature)
    change = _changer(end, newton=False)
    if at_changed:
        return Prepared(change)
    per_point = [
        _additive(end, gradients_of(fit, measure))
        if measure.smooth and not measure.needs_w
        else None
        for measure in measures
    ]
    return Prepared(change, None, per_point)


@entry_point
def newton_at(fit: Fit, curvature: Curvature | None) -> Prepared:
    """The group Newton step with a curvature."""
    return Prepared(_changer(end_of(fit, curvature), newton=True))


def _changer(end: End, newton: bool) -> Callable[[Groups], Change]:
    return lambda groups: _finished(end, groups, newton)


def _additive(end: End, gradients: Float[Array, "m p"]) -> PerPoint:
    """What each point does to columns with these gradients, per unit of w."""
    runs = chunks(np.arange(len(gradients)), _held(end), budget(), MANY_GROUPS)
    gradients = gradients[:, -end.count :]

    def some(columns):
        return _per_point(end.expansion, end.factor, gradients[columns])

    psi, *rest = to_host(in_runs(runs, some, lambda _: len(runs[0])))
    return PerPoint(psi.T, *rest)


@eqx.filter_jit
def _per_point(
    expansion: AbstractExpansion,
    factor: Factor | DualFactor | None,
    gradients: Float[Array, "m p"],
):
    """Of columns: what points do to them (m n), residuals, steps and statuses."""
    nobody = Block(jnp.zeros((len(gradients), expansion.n), gradients.dtype))
    found = _solver(gradients).reduced(expansion, factor, nobody)(gradients)
    unit = jnp.where(expansion.weights > 0, expansion.weights, 1.0)
    psi = unit[None] * expansion.dots(found.value).T
    return replicate((psi, found.residual, found.steps, found.status))


# ---- both ends of it -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Corrected(Method):
    """The metagradient, and what a Newton step adds to influence at the end, as a method.

        effect = metagradient + grad f . (d_Newton - d_influence)

    The metagradient knows the training, the Newton step how strongly a group bends what is left:
    the difference of the two steps restores the scale that a derivative lacks. For each seed.

    Attributes:
        curvature: of both steps.
        since: as in `Metagradient`.
        check: as in `Metagradient`.
        exact: as in `Metagradient`.

    Example:
        >>> lo.Corrected().name
        'corrected metagradient'
        >>> lo.Corrected(lo.curvature.LastLayer())
        Corrected(curvature=LastLayer(damping=None), since=0, check=True, exact=True)
    """

    needs: ClassVar[Collection[Need]] = (Need.trajectory,)

    curvature: Curvature = GaussNewton()
    since: int = 0
    check: bool = True
    exact: bool = True

    @property
    def name(self) -> str:
        """For tables and axes."""
        return self.curvature.title("corrected metagradient")

    @property
    def first_order(self) -> bool:
        """Measures are taken to first order in all three parts."""
        return True

    def prepare(self, fit: Fit, measures: Sequence[Measure]) -> Prepared:
        """The metagradient, the curvature and the measures' gradients, once for all groups."""
        run = as_trained(fit)
        first = Metagradient(self.since, self.check).prepare(run, measures)
        end = end_of(run, self.curvature)
        parts = first.per_point
        assert isinstance(parts, list)  # `Metagradient` gives one a measure
        each = [
            _beyond(end, psi, gradients_of(run, measure)) if isinstance(psi, PerPoint) else None
            for psi, measure in zip(parts, measures, strict=True)
        ]

        def change(groups: Groups) -> Change:
            along = first.change(groups)
            assert isinstance(along, Change)
            more = _apart(end, groups)
            status = jnp.where(along.status == 0, more.status, along.status)
            return dataclasses.replace(along, value=along.value + more.value, status=status)

        def effects(groups: Groups) -> list[Solution | None]:
            if not any(each):
                return [None] * len(each)
            newton = end.changes(groups, True)
            return [None if one is None else _sum(run, groups, *one, newton) for one in each]

        return Prepared(change, effects)


def _beyond(end: End, along: PerPoint, pull: Float[Array, "m p"]):
    """What the metagradient says of points beyond influence at the end, and the pull of columns."""
    straight = _additive(end, pull)
    status = np.where(along.status == 0, straight.status, along.status)
    more = dataclasses.replace(straight, value=along.value - straight.value, status=status)
    return more, pull


def _apart(end: End, groups: Groups) -> Solution:
    """d_Newton - d_influence, and the worse of the two solves."""
    newton, influence = end.changes(groups, True), end.changes(groups, False)
    return Solution(
        newton.value - influence.value,
        jnp.maximum(newton.residual, influence.residual),
        newton.steps + influence.steps,
        jnp.where(newton.status == 0, influence.status, newton.status),
    )


def _sum(run: Trained, groups: Groups, psi: PerPoint, pull, newton: Solution) -> Solution:
    """Effects of points, summed, and that of the Newton step to first order."""
    value = group_sums(groups, w_by(run.objective, groups), psi.value) + newton.value @ pull.T
    worst = int(np.max(psi.status, initial=int(Status.converged)))
    status = jnp.where(newton.status == 0, worst, newton.status).astype(jnp.int8)
    residual = jnp.maximum(newton.residual, np.max(psi.residual, initial=0.0))
    return Solution(value, residual, newton.steps, status)
