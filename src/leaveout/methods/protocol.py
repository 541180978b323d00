"""What a method is: how a change in theta, or an effect, is found for each group.

To add one, write a frozen dataclass with a name and `prepare`; it then goes through `lo.effects`
(streamed, certified), `lo.credit`, a comparison, a plot and a study like those of the shelf.
"""

import abc
import dataclasses
from collections.abc import Callable, Collection, Sequence
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int8

from leaveout.fitting.double import as_doubled
from leaveout.fitting.fitted import Change, Fit
from leaveout.fitting.gates import Need, admit, inside, is_stale
from leaveout.fitting.implicit import known
from leaveout.groups import Groups, by_group
from leaveout.measures import Measure
from leaveout.objectives.abstract import AbstractObjective
from leaveout.runtime.memory import limited
from leaveout.runtime.sharding import is_traced, replicate
from leaveout.runtime.solution import Solution, Status, raise_unless_converged

__all__ = [
    "Method",
    "PerPoint",
    "Prepared",
    "as_change",
    "as_solution",
    "asked",
    "gradients_of",
    "l2_of_groups",
]


@dataclasses.dataclass(frozen=True, eq=False)
class PerPoint:
    """What each point does to the columns of a measure, for every unit of w of it that leaves.

    Attributes:
        value: (n m) a group's effect is the sum of w times this over its points.
        residual: (m) what the columns' solves reached.
        steps: (m) iterations they took.
        status: (m) `Status` codes.

    Example:
        >>> n, m = 24, 1
        >>> steps, status = np.zeros(m, int), np.zeros(m, np.int8)
        >>> lo.PerPoint(np.zeros((n, m)), np.zeros(m), steps, status).value.shape
        (24, 1)
    """

    value: Float[Array | np.ndarray, "n m"]
    residual: Float[np.ndarray, "m"]
    steps: Int[np.ndarray, "m"]
    status: Int8[np.ndarray, "m"]


@dataclasses.dataclass(frozen=True, eq=False)
class Prepared:
    """A method made ready for a fit and measures: done once, then asked chunk after chunk.

    Attributes:
        change: groups to their changes in theta, a `Change` or an array (g p). Measures that have
            no cheaper way are evaluated at theta + change.
        effects: where there is a cheaper way to effects than by way of theta: groups to an array
            (g m) of all columns; or to one array or `Solution` for each measure, None for a measure
            without.
        per_point: where effects add up over points: an array (n m) of all columns; or one array or
            `PerPoint` for each measure, None for a measure without.
        change_under: as `change`, of groups and the l2 (g) that each one's refit has; None of a
            method that has no answer to it.

    Example:
        >>> prepared = lo.Prepared(lambda groups: jnp.zeros((len(groups), 4)))
        >>> prepared.change(groups).shape
        (4, 4)
    """

    change: Callable[[Groups], Change | Array | np.ndarray]
    effects: (
        Callable[[Groups], Array | np.ndarray | Sequence[Solution | Array | np.ndarray | None]]
        | None
    ) = None
    per_point: Array | np.ndarray | Sequence[PerPoint | Array | np.ndarray | None] | None = None
    change_under: Callable[[Groups, Array], Change | Array | np.ndarray] | None = None

    def changes(self, groups: Groups, l2: Array | None) -> Change | Array | np.ndarray:
        """The changes of groups, each under its own l2 where that is given.

        Raises:
            ValueError: where it is, and the method has no answer to it.
        """
        if l2 is None:
            return self.change(groups)
        if self.change_under is None:
            raise ValueError(
                "this method has no answer to an l2 that changes with the group; use lo.Newton() "
                "or lo.Retrain(), or give its Prepared a change_under"
            )
        return self.change_under(groups, l2)


def l2_of_groups(l2, groups: Groups) -> Array | None:
    """A penalty for each group (g), checked; None as it is, a pandas Series by names of groups.

    Raises:
        ValueError: for another shape, or a value that is negative or not finite.
    """
    if l2 is None:
        return None
    l2 = by_group(l2, groups, "l2")
    if np.shape(l2) != (len(groups),):
        raise ValueError(f"expected l2 of shape ({len(groups)},), got {np.shape(l2)}")
    if not is_traced(l2):
        given = np.asarray(l2, float)
        wrong = ~(np.isfinite(given) & (given >= 0))
        if wrong.any():
            raise ValueError(
                f"expected finite penalties >= 0, got {given[wrong][0]} for "
                f"{groups.titles[int(np.argmax(wrong))]}"
            )
    return jnp.asarray(l2)


class Method(abc.ABC):
    """How effects are found: a frozen value such as `Influence()` or `Retrain()`.

    Attributes:
        name: for tables and axes.
        needs: what is taken for granted of a fit; checked once a call, before `prepare`.
        of_run: what is taken for granted of a Run, the end of a training; None of a method that
            needs an optimum. It is then prepared for each seed's `Trained`.
        exact: whether a run whose training is repeated has to give the same bits.
        first_order: whether measures are taken to first order in the change, instead of evaluated
            at the changed theta.
        actual: whether the change is that of retraining, which others are compared with.

    Example:
        >>> class Nothing(lo.Method):
        ...     name = "nothing"
        ...     def prepare(self, fit, measures):
        ...         return lo.Prepared(lambda groups: jnp.zeros((len(groups), fit.flat.size)))
        >>> lo.effects(fit, groups, measure, Nothing()).value.ravel().round(12).tolist()
        [0.0, 0.0, 0.0, 0.0]
    """

    needs: ClassVar[Collection[Need]] = (Need.optimum,)
    of_run: ClassVar[Collection[Need] | None] = None
    exact: bool = True
    actual: ClassVar[bool] = False

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """For tables and axes."""

    @property
    def first_order(self) -> bool:
        """Whether measures are taken to first order in the change."""
        return False

    @abc.abstractmethod
    def prepare(self, fit: Fit, measures: Sequence[Measure]) -> Prepared:
        """What is done once for all groups, and the functions that are then asked.

        Working arrays are planned by `runtime.memory.budget()`, which knows what `memory=` was.

        Args:
            fit: the fitted objective, which has what the method needs.
            measures: bound to it, in the order of the columns.
        """

    def change(
        self, fit: Fit, groups: Groups, memory=None, *, l2=None, throw: bool = False
    ) -> Change:
        """The change in theta of every group on its own, as the verbs give it."""
        return asked(
            fit,
            groups,
            lambda inner: self.prepare(inner, ()),
            self.needs,
            l2=l2,
            memory=memory,
            throw=throw,
        )


def asked(
    fit: Fit,
    groups: Groups,
    prepare: Callable[[Fit], Prepared],
    needs: Collection[Need] = (Need.optimum,),
    *,
    l2=None,
    memory,
    throw: bool,
) -> Change:
    """A verb: a method's change in theta on its own, past the gates, in memory that is planned.

    Args:
        fit: the fitted objective.
        groups: what leaves.
        prepare: makes the method ready, once the gates are passed, for the fit computed with.
        needs: what it takes for granted of the fit.
        l2: (g) a penalty for each group; default the objective's.
        memory: bytes that working arrays may take; default a quarter of what is free.
        throw: raise for the first group that failed.
    """

    def ask(one: Fit) -> Change:
        found = _asked(one, groups, prepare, needs, l2=l2, memory=memory, throw=throw)
        return found if one is fit else found.narrowed(fit)

    return ask(fit) if is_traced((fit, l2)) else as_doubled(ask, fit, memory)


def _asked(fit: Fit, groups: Groups, prepare, needs, *, l2, memory, throw: bool) -> Change:
    """The same, in the precision of the fit."""
    inner, groups = admit(fit, groups, needs)
    own = l2_of_groups(l2, groups)
    with limited(memory):
        used = inside(fit) if is_traced(fit) else inner
        change = as_change(prepare(used).changes(groups, own), used.objective).shown(fit)
    if is_traced(known(fit)):  # what the gates could not look at
        bad = is_stale(inside(known(fit))) & (change.status == Status.converged)
        status = jnp.where(bad, Status.inaccurate, change.status).astype(jnp.int8)
        change = dataclasses.replace(change, status=status)
    if throw and not is_traced((fit, change)):
        raise_unless_converged(change.status, change.residual, groups.titles)
    return change


def as_change(given: Change | Array | np.ndarray, objective: AbstractObjective) -> Change:
    """What a method's `change` gave, an array (g p) as a change without residuals."""
    if isinstance(given, Change):
        return given
    return Change.of(as_solution(given), objective)


def as_solution(given: Solution | Array | np.ndarray) -> Solution:
    """What a method gave for some groups, an array as a solution of residual 0."""
    if isinstance(given, Solution):
        return given
    value = jnp.asarray(given)
    count = len(value)
    steps, status = jnp.zeros(count, jnp.int32), jnp.zeros(count, jnp.int8)
    return Solution(value, jnp.zeros(count, value.dtype), steps, status)


@eqx.filter_jit
def gradients_of(fit: Fit, measure: Measure) -> Float[Array, "m p"]:
    """The gradient of every column of a measure at theta."""
    return replicate(measure.gradients(fit.objective, fit.flat))
