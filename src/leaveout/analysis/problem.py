"""What searches for sets have in common: who may leave, what they do, how the answer is checked."""

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from leaveout.analysis.exact import Leaving, Rows
from leaveout.analysis.lanes import Models
from leaveout.analysis.search import State, Task
from leaveout.attribution.container import Effects
from leaveout.attribution.stream import gathered, pose
from leaveout.fitting.fitted import Fit
from leaveout.fitting.gates import Need, admit, check_fit
from leaveout.fitting.leaving import taken_by
from leaveout.groups import Groups
from leaveout.measures import Measure, Measures
from leaveout.methods import Influence, Retrain, retrainer
from leaveout.objectives.abstract import AbstractScores
from leaveout.objectives.losses import squares
from leaveout.runtime.options import check_is
from leaveout.runtime.sharding import replicate, to_host
from leaveout.runtime.solution import Status

__all__ = ["NOT_ASKED", "Problem", "problem_of"]

NOT_ASKED = "ask for it with bound=True"
_NO_LIMIT = {
    "loss": "one is known for least squares of one target; of other losses what was derived so far "
    "is infinite on real data",
    "measure": "one is known for what is linear in theta: coefficients, predictions, their sums",
    "groups": "one is known for points that leave whole, not for groups or what is added",
}


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """A fit, what may leave, and the columns to move.

    Attributes:
        fit: the fitted objective, past the gates.
        units: what may leave: groups that do not overlap.
        measures: bound to the objective.
        columns: (m) names of their columns.
        influence: (u m) what each unit does to first order.
        open: (u) which units have a weight that could leave.
        models: trains what searches ask for.
        rows: of linear functionals of least squares, (m) what exact formulas need; else None.
        unknown: why they do not apply: a key of the reasons why no limit is known.
    """

    fit: Fit
    units: Groups
    measures: tuple[Measure, ...]
    columns: tuple[str, ...]
    influence: Float[np.ndarray, "u m"]
    open: Bool[np.ndarray, "u"]
    models: Models
    rows: list[Rows] | None
    unknown: str

    @property
    def many(self) -> int:
        """How many units may leave."""
        return int(np.count_nonzero(self.open))

    def task(self, column: int, direction: int, stages: int, exchanges: int) -> Task:
        """A search on one column."""
        influence, nobody = self.influence[:, column], self.models.nobody
        return Task(direction, influence, nobody, stages, exchanges, self.open)

    def first(self, column: int, size: int, direction: int) -> Bool[np.ndarray, "u"]:
        """The set that one pass by influence takes."""
        return self.task(column, direction, 1, 0).top(self.influence[:, column], size)

    def unproven(self, bound: bool) -> str:
        """Why no limit is given; empty where one is."""
        if not bound:
            return NOT_ASKED
        return _NO_LIMIT[self.unknown] if self.unknown else ""

    def state_of(self, leaving: Leaving) -> State:
        """What exact formulas know of a set, as a model."""
        if not leaving.held:
            return State(leaving.on, np.zeros_like(leaving.rows.v), np.nan, Status.singular)
        assert self.fit.metric is not None  # the rows are in its coordinates
        change = np.asarray(self.fit.metric.unwhiten(jnp.asarray(leaving.moved)[None])[0])
        return State(leaving.on, change, leaving.effect, Status.converged)

    def named(self, states: list[State], titles: list[str]) -> Groups:
        """The sets of some models as groups."""
        made = self.models.groups([state.on for state in states])
        kind = np.full(len(states), "extreme")
        rows = self.units.fingerprint
        return dataclasses.replace(
            made, names=np.array(titles), kind=kind, notes=(), fingerprint=rows
        )

    def retrained(self, groups: Groups, certify: bool) -> Effects:
        """The truth about them."""
        return gathered(pose(self.fit, groups, self.measures, Retrain(), certify=certify))

    def values(self) -> Float[np.ndarray, "m"]:
        """The columns of the model as it is."""
        parts = [each.values(self.fit.objective, self.fit.flat, None) for each in self.measures]
        return np.asarray(to_host(jnp.concatenate(parts)))

    @property
    def accuracy_name(self) -> str:
        """What `accuracy` is: of numbers R squared."""
        objective = self.fit.objective
        numbers = isinstance(objective, AbstractScores) and not objective.labelled
        return "R squared" if numbers else "accuracy"

    def accuracy(self, states: list[State]) -> Float[np.ndarray, "s"]:
        """Of the models without, on all training examples."""
        objective = self.fit.objective
        scored = isinstance(objective, AbstractScores)
        if not states or not scored or not (objective.labelled or objective.loss is squares):
            return np.full(len(states), np.nan)
        theta = np.stack([state.change for state in states]) + np.asarray(self.fit.flat)
        found = np.asarray(to_host(_accuracy(objective, theta)))
        known = np.array([np.isfinite(state.effect) for state in states])
        return np.where(known, found, np.nan)


def problem_of(
    fit: Fit, measure: Measures, among: Groups | None, progress: Callable[[int], None] | None
) -> Problem:
    """The problem of a call, past the gates.

    Raises:
        ValueError: for measures that do not add up over points, or groups that overlap.
    """
    check_fit(fit)
    units = _every_point(fit) if among is None else among
    _check_apart(units)
    fit, units = admit(fit, units, (Need.optimum, Need.curvature))
    posed = pose(fit, units, measure, Influence())
    for each in posed.measures:
        _check_summable(each)
    columns = tuple(name for part in posed.columns for name in part)
    taken = np.abs(taken_by(fit.objective, units))
    unknown = _unknown(fit, posed.measures, units)
    return Problem(
        fit=fit,
        units=units,
        measures=posed.measures,
        columns=columns,
        influence=np.asarray(gathered(posed).value),
        open=units.sums(taken) > 0,
        models=Models(fit, units, posed.measures, retrainer(fit, Retrain()), progress),
        rows=None if unknown else _rows(fit, posed.measures),
        unknown=unknown,
    )


def _every_point(fit: Fit) -> Groups:
    """Each training point on its own."""
    n = fit.objective.n
    every = np.arange(n)[:, None]
    return Groups.from_indices(list(every), n=n, kind="point")


def _check_apart(units: Groups) -> None:
    check_is(units, Groups, "among= as lo.Groups")
    twice = np.flatnonzero(np.bincount(units.indices, minlength=units.n) > 1)
    if twice.size:
        raise ValueError(
            f"expected groups that do not overlap, but {twice.size:,} points are in several (point "
            f"{twice[0]} is one): what leaves with one would leave with another too"
        )


def _check_summable(measure: Measure) -> None:
    if measure.needs_w:
        raise ValueError(
            f"{measure.name} depends on who leaves together, so that points have no effect of "
            "their own to choose by; use lo.measures.loss, prediction or parameter"
        )
    if not measure.smooth:
        raise ValueError(
            f"{measure.name} has no useful derivative to choose points by; use lo.measures.loss, "
            "and look at its effect afterwards"
        )


def _unknown(fit: Fit, measures: tuple[Measure, ...], units: Groups) -> str:
    """Why exact formulas do not apply; empty where they do."""
    objective = fit.objective
    scored = isinstance(objective, AbstractScores) and objective.loss is squares
    if not scored or objective.rows is None:
        return "loss"
    if not all(each.affine(objective) for each in measures):
        return "measure"
    alone = (units.size == 1).all() and (units.w == 1).all() and len(units) == objective.n
    return "" if alone else "groups"


def _rows(fit: Fit, measures: tuple[Measure, ...]) -> list[Rows]:
    """The design and each column's gradient in the coordinates that make H the identity."""
    assert fit.metric is not None  # Need.curvature
    objective = fit.objective
    assert isinstance(objective, AbstractScores)  # _unknown
    assert objective.rows is not None
    gradients = [each.gradients(objective, fit.flat) for each in measures]
    z, v = (fit.metric.whiten(part) for part in (objective.rows, jnp.concatenate(gradients)))
    e = objective.scores(fit.flat)[:, 0] - objective.examples[1]
    z, s, e, v = to_host((z, objective.weights, e, v))
    return [Rows(z, s, e, one) for one in v]


@eqx.filter_jit
def _accuracy(
    objective: AbstractScores, theta: Float[Array | np.ndarray, "b p"]
) -> Float[Array, "b"]:
    """The share of labels predicted right, or R squared of numbers, by base weights."""
    s, y = objective.weights, objective.examples[1]

    def one(theta):
        scores = objective.scores(theta)
        if objective.labelled:
            guess = scores[:, 0] > 0 if objective.outputs == 1 else jnp.argmax(scores, axis=1)
            return jnp.sum(s * (guess == y)) / jnp.sum(s)
        y_rows = jnp.reshape(y, scores.shape)
        middle = (s @ y_rows / jnp.sum(s))[None]
        return 1 - jnp.sum(s @ (scores - y_rows) ** 2) / jnp.sum(s @ (y_rows - middle) ** 2)

    return replicate(jax.lax.map(one, theta))
