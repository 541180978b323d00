"""Searches for sets side by side: all that they ask for is trained as the lanes of one retrain."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import TypeVar

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float

from leaveout.analysis.scores import toggled, values_at
from leaveout.analysis.search import Answer, Ask, Asking, State
from leaveout.attribution.determined import in_question, of_groups
from leaveout.fitting.fitted import Change, Fit
from leaveout.fitting.leaving import taken_by
from leaveout.groups import Groups
from leaveout.measures import Measure
from leaveout.runtime.memory import rung
from leaveout.runtime.sharding import entry_point, replicate, to_host
from leaveout.runtime.solution import Status

__all__ = ["Models"]

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True, eq=False)
class Models:
    """Trains and scores what searches ask for, many of them together.

    Attributes:
        fit: the fitted objective, past the gates.
        units: what may leave: groups that do not overlap.
        measures: bound to the objective.
        retrain: from `methods.retrainer`.
        progress: called with the number of models trained, or None.
    """

    fit: Fit
    units: Groups
    measures: tuple[Measure, ...]
    retrain: Callable[..., Change]
    progress: Callable[[int], None] | None = None

    @property
    def amounts(self) -> Float[np.ndarray, "n"]:
        """What each point loses when its unit leaves; 0 of a point of no unit."""
        out = np.zeros(self.fit.objective.n)
        out[self.units.indices] = taken_by(self.fit.objective, self.units)
        return out

    @property
    def nobody(self) -> State:
        """The model as it is."""
        return State(np.zeros(len(self.units), bool), np.zeros_like(self.fit.flat), 0.0, 0)

    def run(
        self, searches: Sequence[Asking[_T]], columns: Sequence[int]
    ) -> tuple[list[_T], list[np.ndarray]]:
        """What each search finds on its column.

        Returns:
            what they return, and of each (t 2) the sizes and effects of the models it trained.
        """
        found: dict[int, _T] = {}
        asked: dict[int, Ask] = {}
        tried: list[list[State]] = [[] for _ in searches]

        def send(i: int, answer: Answer | None) -> None:
            try:
                asked[i] = next(searches[i]) if answer is None else searches[i].send(answer)
            except StopIteration as end:
                found[i] = end.value
                asked.pop(i, None)

        for i in range(len(searches)):
            send(i, None)
        while asked:
            now = [i for i, ask in asked.items() if ask.sets] or list(asked)
            asks, at = [asked[i] for i in now], [columns[i] for i in now]
            answers = self._trained(asks, at) if asks[0].sets else self._scored(asks, at)
            for i, answer in zip(now, answers, strict=True):
                tried[i] += answer if isinstance(answer, list) else []
                send(i, answer)
        history = [np.array([[s.size, s.effect] for s in each]).reshape(-1, 2) for each in tried]
        return [found[i] for i in range(len(searches))], history

    def groups(self, sets: Sequence[np.ndarray]) -> Groups:
        """Sets of units as groups of points."""
        units = self.units
        listed = [np.repeat(on, units.size) for on in sets]
        return Groups.from_pairs(
            np.concatenate([units.indices[one] for one in listed]),
            np.repeat(np.arange(len(sets)), [one.sum() for one in listed]),
            n=units.n,
            w=None if units.partial is None else np.concatenate([units.w[one] for one in listed]),
        )

    def _trained(self, asks: list[Ask], columns: list[int]) -> list[list[State]]:
        """The models that searches ask for, as lanes of one retrain."""
        pairs = [(one, j) for ask, j in zip(asks, columns, strict=True) for one in ask.sets]
        groups = self.groups([one for one, _ in pairs])
        near = np.stack([ask.state.change for ask in asks for _ in ask.sets])
        change = self.retrain(groups, start=np.asarray(self.fit.flat) + near)
        at = np.array([j for _, j in pairs])
        value, status = np.asarray(change.value), self._status(groups, change, at)
        effect = _moved(self.fit, self.measures, value, at)
        if self.progress is not None:
            self.progress(len(pairs))
        rows = zip(pairs, value, effect.tolist(), status.tolist(), strict=True)
        states = [State(one, moved, f, code) for (one, _), moved, f, code in rows]
        ends = np.cumsum([len(ask.sets) for ask in asks]).tolist()
        return [states[a:b] for a, b in zip([0, *ends], ends, strict=False)]

    def _status(self, groups: Groups, change: Change, columns: np.ndarray) -> np.ndarray:
        """(b) of each model, for its own column: what leaves may have left another undetermined."""
        status = np.array(change.status)
        rows = in_question(self.fit, change, True)
        if rows.size:
            how = {"actual": True, "first_order": False}
            each = of_groups(self.fit, groups, self.measures, change, rows, **how)
            good = each[np.arange(rows.size), columns[rows]]
            status[rows] = np.where(good, Status.converged, status[rows])
        return status

    def _scored(self, asks: list[Ask], columns: list[int]) -> list[np.ndarray]:
        """What every unit would do if it changed sides, by its points' own Newton steps."""
        units, states = self.units, [ask.state for ask in asks]
        listed = np.stack([np.repeat(state.on, units.size) for state in states])
        off = np.zeros((len(states), self.fit.objective.n), bool)
        off[:, units.indices] = listed
        theta = np.asarray(self.fit.flat) + np.stack([state.change for state in states])
        each = toggled(self.fit, self.measures, theta, off, self.amounts, np.array(columns))
        return list(np.add.reduceat(each[:, units.indices], units.offsets[:-1], axis=1))


@entry_point
def _moved(fit: Fit, measures, change: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """(b) f(theta + change) - f(theta), each of its own column."""
    filled = np.resize(np.arange(len(columns)), rung(len(columns), 16))
    found = _differences(fit, measures, change[filled], columns[filled])
    return np.asarray(to_host(found))[: len(columns)]


@eqx.filter_jit
def _differences(fit, measures, change, columns):
    now = values_at(fit, measures, fit.flat)

    def one(lane):
        change, column = lane
        return (values_at(fit, measures, fit.flat + change) - now)[column]

    return replicate(jax.lax.map(one, (change, columns)))
