"""The search for sets that move a measure the most: by stages, then by exchange.

A search is a generator. It asks (`Ask`) for the models without some sets, or for what every unit
would do from one of them, and is sent what it asked for. Searches run side by side
(`lanes.Models`), so that what all of them ask for is trained as the lanes of one retrain.
"""

import dataclasses
from collections.abc import Generator, Sequence
from typing import NamedTuple, TypeAlias, TypeVar

import numpy as np
from jaxtyping import Bool, Float

from leaveout.runtime.solution import Status

__all__ = ["Answer", "Ask", "Asking", "Found", "State", "Task", "by_stages", "fewest"]

_FEW = 8  # units of a set up to which several exchanges of one are tried together
_TRIES = 4  # of them, that promise a gain
_LAST = 16  # of them at the end, whatever they promise
_GAIN = 1e-9  # relative, below which an exchange has gained nothing


class State(NamedTuple):
    """The model without a set of units.

    Attributes:
        on: (u) which units left.
        change: (p) in theta.
        effect: on the column that is asked about, in units of f.
        status: of the change.
    """

    on: Bool[np.ndarray, "u"]
    change: Float[np.ndarray, "p"]
    effect: float
    status: int

    @property
    def size(self) -> int:
        """How many units left."""
        return int(np.count_nonzero(self.on))

    @property
    def told(self) -> float:
        """The effect; NaN of what is no model."""
        return self.effect if self.admissible else float("nan")

    @property
    def admissible(self) -> bool:
        """Whether it is a model: there is a minimum, and it was found."""
        return self.status == Status.converged and bool(np.isfinite(self.effect))


class Ask(NamedTuple):
    """What a search asks for: models without `sets`; or, of one it has, what every unit would do.

    Attributes:
        state: whose scores are wanted; or a model that is near those that are, to begin from.
        sets: (s) of booleans (u), or none.
    """

    state: State
    sets: tuple[Bool[np.ndarray, "u"], ...] = ()


_T = TypeVar("_T")
#: states, for the sets that were asked for; or scores (u)
Answer: TypeAlias = list[State] | np.ndarray
#: what asks, is sent answers, and returns something
Asking: TypeAlias = Generator[Ask, Answer, _T]


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """One search: how many units, which way, and how hard to look.

    Attributes:
        direction: +1 or -1.
        influence: (u) what each unit does to first order, which is what one pass goes by.
        nobody: the model as it is.
        stages: in how many steps the set is grown.
        exchanges: models that may be trained to exchange units.
        open: (u) which units may leave.
    """

    direction: int
    influence: Float[np.ndarray, "u"]
    nobody: State
    stages: int
    exchanges: int
    open: Bool[np.ndarray, "u"]

    def gain(self, state: State) -> float:
        """The effect in the direction; minus infinity of what is no model."""
        return self.direction * state.effect if state.admissible else -np.inf

    def top(self, scores: np.ndarray, count: int, on: np.ndarray | None = None) -> np.ndarray:
        """(u) a set with the `count` units of largest score in the direction more than `on`."""
        on = np.zeros(self.open.size, bool) if on is None else on
        usable = np.where(self.open & ~on, self.direction * scores, -np.inf)
        return on | (_largest(usable, count) & self.open)

    def order(self, scores: np.ndarray) -> np.ndarray:
        """Units from the largest score in the direction on, those that may leave only."""
        ranked = np.argsort(-self.direction * scores, kind="stable")
        return ranked[self.open[ranked]]


def _largest(values: np.ndarray, count: int) -> np.ndarray:
    """(u) the `count` largest; of equal ones those that come first. They need not be sorted."""
    if not 0 < count < values.size:
        return np.full(values.size, count > 0)
    least = np.partition(values, values.size - count)[values.size - count]
    chosen = values > least
    chosen[np.flatnonzero(values == least)[: count - np.count_nonzero(chosen)]] = True
    return chosen


def _best(task: Task, states: Sequence[State]) -> State | None:
    """The one of the largest effect in the direction; None where none is a model."""
    states = [state for state in states if state.admissible]
    return max(states, key=task.gain, default=None)


class Found(NamedTuple):
    """What a search came to.

    Attributes:
        best: the set of the largest effect that was trained.
        one_pass: the set that influence alone would take.
    """

    best: State
    one_pass: State


def by_stages(task: Task, size: int) -> Asking[Found]:
    """A set of `size` units: one pass, stage by stage, then by exchange; the best that was trained.

    The set of one pass (by influence, and by rescaled influence) is trained too, so that what is
    found is never worse.
    """
    scores = yield from _scores(task.nobody)
    passes = [task.top(task.influence, size), task.top(scores, size)]
    tried = yield from _train(task.nobody, _unlike(passes))
    grown = yield from _grown(task, size, scores)
    best = _best(task, [*tried, *([] if grown is None else [grown])])
    if best is None:
        return Found(tried[0], tried[0])
    return Found((yield from _exchanged(task, best)), tried[0])


def _scores(state: State) -> Asking[np.ndarray]:
    """What every unit would do if it changed sides."""
    found = yield Ask(state)
    assert isinstance(found, np.ndarray)
    return found


def _train(near: State, sets: Sequence[np.ndarray]) -> Asking[list[State]]:
    """The models without some sets, found from one that is near them."""
    found = yield Ask(near, tuple(sets))
    assert isinstance(found, list)
    return found


def _unlike(sets: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Sets, each once."""
    return list({one.tobytes(): one for one in sets}.values())


def _grown(task: Task, size: int, scores: np.ndarray) -> Asking[State | None]:
    """Stage by stage, what leaves next by what it would do then; None where that came to an end.

    A stage without a minimum is taken in smaller steps, and a unit that takes it away is shut out.
    """
    state, open, refused = task.nobody, task.open.copy(), 0
    goals = np.ceil(size * np.arange(1, task.stages + 1) / task.stages).astype(int)
    for goal in np.unique(goals).tolist():
        step = goal - state.size
        while state.size < goal:
            here = dataclasses.replace(task, open=open)
            chosen = here.top(scores, min(step, goal - state.size), state.on)
            if chosen.sum() == state.size or refused > task.exchanges:
                return None
            (new,) = yield from _train(state, [chosen])
            if new.admissible:
                state = new
                if state.size == size:
                    return state
                scores = yield from _scores(state)
                continue
            refused += 1
            if step == 1:
                open = open & ~(chosen & ~state.on)
            step = max(step // 2, 1)
    return state


def _exchanged(task: Task, state: State, enough: float = np.inf) -> Asking[State]:
    """Units that left for units that stayed, as long as the refit confirms a gain.

    The best b of both, b = a quarter of the set, halved whenever that gains nothing; of a small set
    at the end the best single ones, whatever they promise.
    """
    width, spent = max(state.size // 4, 1), 0
    scores = yield from _scores(state)
    while spent < task.exchanges and task.gain(state) <= enough:
        sets = _swaps(task, state, scores, width)[: task.exchanges - spent]
        tried = (yield from _train(state, sets)) if sets else []
        spent += len(sets)
        new = _best(task, tried)
        if new is not None and task.gain(new) > task.gain(state) + _GAIN * abs(state.effect):
            state = new
            scores = yield from _scores(state)
        elif width:
            width //= 2
        else:
            break
    return state


def _ends(task: Task, state: State, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Units that left, and units that stayed, those that promise most to change sides first."""
    order = task.order(scores)
    return order[state.on[order]], order[~state.on[order]]


def _swaps(task: Task, state: State, scores: np.ndarray, width: int) -> list[np.ndarray]:
    """Sets in which the best of those that left and those that stayed have changed sides.

    Many at once whatever each promises, for what they do together is another thing; of single ones
    those that promise a gain, several where the set is small. Width 0 is for the last look.
    """
    inside, outside = _ends(task, state, scores)
    width = min(width, inside.size, outside.size)
    if width > 1:
        return [_flipped(state.on, inside[:width], outside[:width])]
    if not width and state.size > _FEW:
        return []
    near = range(3) if width else range(_LAST)
    pairs = [(i, j) for i in near for j in near if i < inside.size and j < outside.size]
    gains = np.array([task.direction * (scores[inside[i]] + scores[outside[j]]) for i, j in pairs])
    order = np.argsort(-gains, kind="stable")
    tries = _TRIES if state.size <= _FEW else 1
    order = order[gains[order] > 0][:tries] if width else order[:_LAST]
    return [_flipped(state.on, inside[[i]], outside[[j]]) for i, j in (pairs[k] for k in order)]


def _flipped(on: np.ndarray, inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
    new = on.copy()
    new[inside], new[outside] = False, True
    return new


def fewest(task: Task, needed: float, most: int) -> Asking[State | None]:
    """The fewest units found whose leaving moves f by more than `needed` in the direction.

    Grown stage by stage until that is enough, cut back along the order found by bisection, compared
    with the orders of one pass; then made smaller by one and mended by exchange, as long as that is
    enough. None where no set of up to `most` was.
    """
    scores = yield from _scores(task.nobody)
    found = yield from _enough(task, scores, needed, most)
    for order in (task.order(task.influence), task.order(scores)):
        length = most if found is None else found.size - 1
        other = yield from _along(task, task.nobody, order, length, needed)
        found = found if other is None else other
    size = 1
    while found is None and size <= most:  # more points can do less: each size is searched
        best = (yield from by_stages(task, size)).best
        found = best if task.gain(best) > needed else None
        size *= 2
    while found is not None and found.size > 1:
        fewer = yield from _one_less(task, found, needed)
        if fewer is None:
            break
        found = fewer
    return found


def _enough(task: Task, scores: np.ndarray, needed: float, most: int) -> Asking[State | None]:
    """A set that is enough: half of what seems to be missing leaves at a time."""
    state, shy, barred = task.nobody, 1, np.zeros(task.open.size, bool)
    while state.size < most and barred.sum() <= task.exchanges:
        order = task.order(scores)
        order = order[~(state.on | barred)[order]]
        missing = needed - task.direction * state.effect
        enough = np.cumsum(task.direction * scores[order]) > missing
        half = -(-int(np.argmax(enough) + 1) // 2) if enough.any() else most // task.stages
        step = min(max(half // shy, 1), most - state.size, order.size)
        if step == 0:
            return None
        (new,) = yield from _train(state, [_flipped(state.on, order[:0], order[:step])])
        if task.gain(new) > needed:
            return (yield from _shortest(task, state, order, step, new, needed))
        if new.admissible:
            state, shy = new, 1
            scores = yield from _scores(state)
        elif step == 1:  # without this one there is no minimum
            barred[order[0]] = True
        else:
            shy *= 2
    return None


def _along(
    task: Task, state: State, order: np.ndarray, length: int, needed: float
) -> Asking[State | None]:
    """The first units of an order that are enough, if the first `length` are."""
    length = min(length, order.size)
    if length < 1:
        return None
    (whole,) = yield from _train(state, [_flipped(state.on, order[:0], order[:length])])
    if not task.gain(whole) > needed:
        return None
    return (yield from _shortest(task, state, order, length, whole, needed))


def _shortest(
    task: Task, state: State, order: np.ndarray, length: int, whole: State, needed: float
) -> Asking[State]:
    """By bisection, how few units of an order are enough beside those of a state that are not."""
    low, high = 0, length
    while high - low > 1:
        middle = (low + high) // 2
        (new,) = yield from _train(whole, [_flipped(state.on, order[:0], order[:middle])])
        if task.gain(new) > needed:
            high, whole = middle, new
        else:
            low = middle
    return whole


def _one_less(task: Task, found: State, needed: float) -> Asking[State | None]:
    """A set of one unit less that is enough: the least costly comes back, others are exchanged."""
    scores = yield from _scores(found)
    inside, outside = _ends(task, found, scores)
    (new,) = yield from _train(found, [_flipped(found.on, inside[:1], outside[:0])])
    if new.admissible and not task.gain(new) > needed:
        new = yield from _exchanged(task, new, needed)
    return new if task.gain(new) > needed else None
