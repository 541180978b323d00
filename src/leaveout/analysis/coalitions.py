"""What coalitions of groups are worth: the model trained on them alone, and what it is with nobody.

The rest of the data, what is in no group, always stays.
"""

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, PyTree

from leaveout.analysis.games import Traits
from leaveout.attribution.stream import Question, gathered, pose
from leaveout.fitting.fitted import Fit
from leaveout.groups import Groups
from leaveout.measures import Measures
from leaveout.methods import Method
from leaveout.objectives.abstract import AbstractObjective, AbstractScores
from leaveout.runtime.memory import bucket
from leaveout.runtime.options import check_is
from leaveout.runtime.sharding import replicate, to_host
from leaveout.runtime.solution import Status, flagged_in_words
from leaveout.runtime.text import shortened, warn

__all__ = [
    "Contents",
    "Trained",
    "check_players",
    "coalition_names",
    "left_out",
    "say_flagged",
    "trainer",
    "worth_of_everybody",
]

_NAMED = 4  # players that the name of a coalition lists


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """What was found of some coalitions.

    Attributes:
        worth: (c m) f(coalition) - f(everybody).
        status: (c m) `Status` codes.
        residual: (c) what training reached.
        steps: (c) evaluations that it took.
        given: (c) whether theta is a convention, as there is no minimum.
    """

    worth: np.ndarray
    status: np.ndarray
    residual: np.ndarray
    steps: np.ndarray
    given: np.ndarray

    @classmethod
    def nothing(cls, columns: int) -> "Trained":
        """Of no coalition."""
        return cls.everybody(0, columns)

    @classmethod
    def everybody(cls, count: int, columns: int) -> "Trained":
        """Of everybody, so many times: the model as it is."""
        nothing = np.zeros(count)
        steps, status = nothing.astype(np.int32), np.zeros((count, columns), np.int8)
        return cls(np.zeros((count, columns)), status, nothing, steps, nothing.astype(bool))

    def with_rows(self, rows: np.ndarray, found: "Trained") -> "Trained":
        """The same, some coalitions replaced."""

        def put(old: np.ndarray, new: np.ndarray) -> np.ndarray:
            whole = old.astype(new.dtype)
            whole[rows] = new
            return whole

        return Trained(*map(put, _parts(self), _parts(found)))

    def joined(self, other: "Trained") -> "Trained":
        """Both, one behind the other."""
        return Trained(*map(np.concatenate, zip(_parts(self), _parts(other), strict=True)))

    def __getitem__(self, rows) -> "Trained":
        """Some of the coalitions."""
        return Trained(*(part[rows] for part in _parts(self)))


def _parts(trained: Trained) -> list[np.ndarray]:
    return [getattr(trained, each.name) for each in dataclasses.fields(trained)]


@dataclasses.dataclass(frozen=True, eq=False)
class Contents:
    """What coalitions hold, known before any training.

    Attributes:
        players: (g q) of each player: weight; then the weight of each class, or the sum of the
            targets in standard deviations, or nothing.
        rest: (q) of the data that is in no group.
        classes: whether the columns are of classes.
    """

    players: Float[np.ndarray, "g q"]
    rest: Float[np.ndarray, "q"]
    classes: bool

    @classmethod
    def of(cls, objective: AbstractObjective, groups: Groups) -> "Contents":
        """Of these players."""
        each, classes = _each_holds(objective)
        each = each[: groups.n]
        held = np.zeros(groups.n, bool)
        held[groups.indices] = True
        sums = np.stack([groups.sums(column[groups.indices]) for column in each.T], axis=1)
        return cls(sums, each[~held].sum(axis=0), classes)

    def held(self, members: Bool[np.ndarray, "c g"]) -> Float[np.ndarray, "c q"]:
        """What coalitions hold."""
        return members.astype(float) @ self.players + self.rest

    @property
    def traits(self) -> Traits:
        """Sizes and balances of coalitions, in the shapes in which losses depend on them."""
        least = self.players[:, 0][self.players[:, 0] > 0].min(initial=1.0) + self.rest[0]
        whole = self.held(np.ones((1, len(self.players)), bool))[0]
        mean = whole[1:] / whole[0]

        def traits(members: np.ndarray) -> np.ndarray:
            held = self.held(members)
            n = np.maximum(held[:, 0], least)
            found = [np.log(n), n**-0.5, 1 / n, n / whole[0]]
            if held.shape[1] > 1:
                off = np.sum((held[:, 1:] / n[:, None] - mean) ** 2, axis=1)
                found += [off, off * n**-0.5]
            return np.stack(found, axis=1)

        return traits


def _each_holds(objective: AbstractObjective) -> tuple[np.ndarray, bool]:
    """(n q) weight, then classes or targets, of every example; and whether they are classes."""
    s = np.asarray(to_host(objective.weights))[:, None]
    if not isinstance(objective, AbstractScores):
        return s, False
    y = objective.examples[1]
    if not isinstance(y, jax.Array):  # targets of a loss of one's own may be anything
        return s, False
    y = np.asarray(to_host(y))
    if objective.classes is not None:
        return np.concatenate([s, s * np.eye(len(objective.classes))[y.astype(int)]], 1), True
    if y.ndim == 1 and y.dtype.kind == "f" and y.std() > 0:
        return np.concatenate([s, s * ((y - y.mean()) / y.std())[:, None]], axis=1), False
    return s, False


def check_players(groups: Groups) -> None:
    """Players share no point, and join whole.

    Raises:
        ValueError: with what to do.
    """
    check_is(groups, Groups, "lo.Groups")
    found, counts = np.unique(groups.indices, return_counts=True)
    if (counts > 1).any():
        point = found[np.argmax(counts > 1)]
        both = [str(groups.names[i]) for i in groups.lanes[groups.indices == point]]
        raise ValueError(
            f"the groups overlap: point {point} is in {shortened(both)}; a value is what a group "
            "adds to others, so that each point joins with one group"
        )
    if (groups.w != 1).any():
        raise ValueError("expected groups that hold their points whole; values have no fractions")


def coalition_names(players: Groups, members: Bool[np.ndarray, "c g"]) -> np.ndarray:
    """(c) what messages and tables call coalitions."""
    names, most = players.names, len(players)

    def one(row: np.ndarray) -> str:
        some = names[row]
        if some.size in (0, most):
            return "everybody" if some.size else "nobody"
        if some.size <= _NAMED:
            return " + ".join(some)
        if most - some.size <= _NAMED:
            return "all but " + " + ".join(names[~row])
        return f"{' + '.join(some[:_NAMED])} + {some.size - _NAMED} more"

    return np.array([one(row) for row in members], str)


def left_out(players: Groups, members: Bool[np.ndarray, "c g"]) -> Groups:
    """What leaves with each coalition: the players that are not in it."""
    owner = np.full(players.n, len(players))
    owner[players.indices] = players.lanes
    leaves = np.concatenate([~members, np.zeros((len(members), 1), bool)], axis=1)
    rows, points = np.nonzero(leaves[:, owner])
    counts = np.bincount(rows, minlength=len(members))
    return dataclasses.replace(
        players,
        indices=points.astype(np.int64),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        partial=None,
        names=coalition_names(players, members),
        kind=np.full(len(members), "coalition"),
        notes=(),
        coalitions=True,
    )


def trainer(
    fit: Fit,
    players: Groups,
    measures: Measures,
    method: Method,
    empty: PyTree | None,
    contents: Contents,
) -> tuple[Question, Callable[[np.ndarray], Trained]]:
    """The question that is asked of coalitions, and what trains some of them.

    Args:
        fit: past the gates.
        players: no two share a point.
        measures: as in `effects`.
        method: by which theta is found.
        empty: theta of nobody, or None.
        contents: of the players.

    Raises:
        ValueError: for a measure of what left; at a coalition of nobody without a minimum or a
            convention.
    """
    question = pose(fit, players, measures, method)
    for measure in question.measures:
        if measure.needs_w:
            raise ValueError(
                f"expected measures of theta alone, got {measure.name}, which asks what left; a "
                "coalition's worth is that of its model: give a loss or a prediction"
            )
    convention = _Convention(question.fit.objective, contents, empty)

    def train(members: np.ndarray) -> Trained:
        theta = convention.theta(players, members)
        given = np.isfinite(theta).all(axis=1)
        found = Trained.nothing(sum(map(len, question.columns)))
        if not given.all():
            found = found.joined(_by_training(question, left_out(players, members[~given])))
        if given.any():
            found = found.joined(_by_convention(question, theta[given]))
        order = np.concatenate([np.flatnonzero(~given), np.flatnonzero(given)])
        return found[np.argsort(order)]

    return question, train


def _by_training(question: Question, leaves: Groups) -> Trained:
    found = gathered(dataclasses.replace(question, groups=leaves))
    nobody = np.zeros(len(leaves), bool)
    return Trained(found.value, found.column_status, found.residual, found.steps, nobody)


def _by_convention(question: Question, theta: Float[np.ndarray, "c p"]) -> Trained:
    """Measures at thetas that are given."""
    count = len(theta)
    filled = np.resize(theta, (bucket(count), theta.shape[1]))
    dtype = question.fit.flat.dtype
    there = to_host(_values(question.fit, question.measures, jnp.asarray(filled, dtype)))[:count]
    worth = there - worth_of_everybody(question)
    status = np.where(np.isfinite(worth), Status.converged, Status.nonfinite).astype(np.int8)
    nothing = np.zeros(count)
    return Trained(worth, status, nothing, nothing.astype(np.int32), np.ones(count, bool))


def worth_of_everybody(question: Question) -> Float[np.ndarray, "m"]:
    """F at theta_hat."""
    return to_host(_values(question.fit, question.measures, question.fit.flat[None]))[0]


@eqx.filter_jit
def _values(fit: Fit, measures, theta):
    """(c m) f at thetas (c p)."""

    def one(theta):
        each = [measure.values(fit.objective, theta, None) for measure in measures]
        return jnp.concatenate(each)

    return replicate(jax.vmap(one)(theta))


@dataclasses.dataclass(frozen=True, eq=False)
class _Convention:
    """What coalitions stand for that have no minimum: of nobody, or of too few classes."""

    objective: AbstractObjective
    contents: Contents
    empty: PyTree | None

    def theta(self, players: Groups, members: np.ndarray) -> Float[np.ndarray, "c p"]:
        """(c p) theta of those coalitions; not a number for the others, which are trained.

        Raises:
            ValueError: for a coalition of nobody, where nothing says what it predicts.
        """
        held = self.contents.held(members)
        theta = np.full((len(members), self.objective.p), np.nan)
        nobody = held[:, 0] <= 1e-12 * max(held[:, 0].max(initial=0.0), 1.0)
        base = self.objective.predicting(held[:, 1:]) if self.contents.classes else None
        if base is not None:
            lacking = (held[:, 1:] <= 0).any(axis=1)
            theta[lacking] = np.asarray(to_host(base))[lacking]
            _say_base_rates(coalition_names(players, members[lacking & ~nobody]))
        if self.empty is not None and nobody.any():
            theta[nobody] = self._taken_in()
        elif nobody.any() and base is None and not self._has_minimum():
            raise ValueError(
                "the groups are all of the data, and a coalition of nobody has no minimum: say "
                "which theta it has, as empty= (shaped like fit.theta, or flat)"
            )
        return theta

    def _has_minimum(self) -> bool:
        """Whether the penalty alone determines theta."""
        return bool((np.asarray(to_host(self.objective.penalty)) > 0).all())

    def _taken_in(self) -> np.ndarray:
        objective, given = self.objective, self.empty
        if isinstance(given, np.ndarray | jax.Array) and given.shape == (objective.known_size,):
            return np.asarray(to_host(objective.taken_in(jnp.asarray(given))))
        return np.asarray(to_host(objective.flat(given)))


def _say_base_rates(names: np.ndarray) -> None:
    if names.size:
        counted = "1 coalition lacks" if names.size == 1 else f"{names.size:,} coalitions lack"
        warn(
            f"{counted} a class, and a free intercept has no minimum there; predicted for all are "
            f"smoothed base rates, (n_k + 1) / (n + K), weights 0: {shortened(names.tolist())}"
        )


def say_flagged(trained: Trained, names: Callable[[np.ndarray], np.ndarray]) -> None:
    """Warn of coalitions whose training is flagged: every value rests on all of them."""
    codes = trained.status.max(axis=1, initial=0)
    if codes.any():
        which = shortened(names(codes != 0).tolist(), 3)
        warn(
            f"{flagged_in_words(codes).replace('groups', 'coalitions')}: {which}; values rest on "
            f"all of them: {Status(int(codes[np.argmax(codes != 0)])).advice}"
        )
