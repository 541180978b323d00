"""Values of the players of a game, from what coalitions of them are worth: all of these, or some.

A semivalue is what a player adds to a coalition, v(C with i) - v(C), averaged over coalitions of
each size, and over sizes by weights that are its own. Nothing here trains, or knows of data.

Sources: Dubey, Neyman and Weber (1981), semivalues; Ghorbani and Zou (2019), Wang and Jia (2023),
Kwon and Zou (2022), their use for data; Musco and Witter (2025), pairs of a coalition and its
complement, drawn by leverage; Witter et al. (2025), an estimate as a model's own value plus that of
what the model leaves.
"""

import abc
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Int

from leaveout.runtime.options import check_positive, generator

__all__ = [
    "Banzhaf",
    "Beta",
    "Draws",
    "Semivalue",
    "Shapley",
    "Table",
    "allotted",
    "estimated",
    "every",
    "fewest",
    "of_table",
]

_LISTED = 4096  # subsets of a size up to which they are all written down, and shuffled
_ENUMERATED = 16  # players up to which a model's own value is a sum over all coalitions
_ORDERS = 2_000  # random orders, each with its reverse, in which it is taken beyond: at first,
_MOST = 128_000  # and at most,
_AS_WELL = 0.05  # until they add no more than this to the variance
_BLOCKS = 20  # parts of these, whose spread is their error
_TOGETHER = 64  # orders that are gone through at once
_FOLDS = 5  # parts of the pairs: the model of each is fitted to the others
_RIDGES = np.logspace(-7, 1, 9)  # penalties tried, of columns in standard deviations


class Semivalue(abc.ABC):
    """How sizes of coalitions are weighed: a frozen value such as `Shapley()`."""

    @property
    def name(self) -> str:
        """For tables and axes."""
        return type(self).__name__

    @abc.abstractmethod
    def shares(self, players: int) -> Float[np.ndarray, "g"]:
        """The weight of joining s others, s = 0 .. g - 1; they add up to 1."""


@dataclass(frozen=True)
class Shapley(Semivalue):
    """Every size alike: the mean over all orders in which players can join.

    The only one whose values add up to what all players together are worth.

    Example:
        >>> lo.Shapley().shares(4)
        array([0.25, 0.25, 0.25, 0.25])
        >>> found = lo.value(fit, groups, measure, lo.Shapley())
        >>> np.allclose(found.value.sum(axis=0), found.total)
        True
    """

    def shares(self, players):
        """The weight of joining s others."""
        return np.full(players, 1 / players)


@dataclass(frozen=True)
class Banzhaf(Semivalue):
    """Every coalition alike, so that most weight is on joining half of the others.

    Of all semivalues it keeps the order of players best where the worths are noisy.

    Example:
        >>> lo.Banzhaf().shares(4)
        array([0.125, 0.375, 0.375, 0.125])
        >>> lo.value(fit, groups, measure, lo.Banzhaf()).of
        Banzhaf()
    """

    def shares(self, players):
        """The weight of joining s others."""
        return np.exp(_log_chosen(players - 1) - (players - 1) * math.log(2))


@dataclass(frozen=True)
class Beta(Semivalue):
    """Beta Shapley: `Beta(1, 1)` is Shapley, a > b leans towards joining few, a < b many.

    Attributes:
        a: above b, what a group does where data is scarce counts more.
        b: above a, where there is much.

    Raises:
        ValueError: if one of them is not positive.

    Example:
        >>> lo.Beta(4, 1).name
        'Beta(4, 1)'
        >>> lo.Beta(4, 1).shares(3).round(2)  # of joining nobody, one, both others
        array([0.67, 0.27, 0.07])

    Source: Kwon and Zou (2022), equation 5.
    """

    a: float | int
    b: float | int

    def __post_init__(self):
        check_positive(self.a, "a")
        check_positive(self.b, "b")

    @property
    def name(self) -> str:
        """For tables and axes."""
        return f"Beta({self.a:g}, {self.b:g})"

    def shares(self, players):
        """The weight of joining s others: the beta-binomial distribution."""
        others, s = players - 1, np.arange(players)
        logs = _log_chosen(others) + _log_beta(s + self.b, others - s + self.a)
        return np.exp(logs - _log_beta(self.b, self.a))


def _log_beta(a, b):
    from scipy.special import betaln

    return betaln(a, b)


def _log_chosen(n: int) -> np.ndarray:
    """Logarithms of the numbers of subsets of n, of sizes 0 .. n."""
    s = np.arange(n + 1)
    return -math.log(n + 1) - _log_beta(s + 1, n - s + 1)


# ---- all coalitions ------------------------------------------------------------------------------


class Table(NamedTuple):
    """What coalitions are worth: nobody, everybody, then each coalition and its complement.

    Attributes:
        members: (c g) who is in it.
        worth: (c m) what it is worth, in each of m columns.
    """

    members: Bool[np.ndarray, "c g"]
    worth: Float[np.ndarray, "c m"]

    @property
    def sizes(self) -> Int[np.ndarray, "c"]:
        """How many are in each."""
        return self.members.sum(axis=1)


def every(players: int) -> Bool[np.ndarray, "c g"]:
    """All coalitions, in the order of a `Table`."""
    half = 1 << (players - 1)
    codes = np.arange(half)
    some = (codes[:, None] >> np.arange(players)[None]) & 1 == 1
    return np.stack([some, ~some], axis=1).reshape(2 * half, players)


def of_table(table: Table, of: Semivalue) -> Float[np.ndarray, "g m"]:
    """The value of every player: exact of all coalitions, else from the mean of each size."""
    return _weights(table.members, of).T @ table.worth


def _weights(members: np.ndarray, of: Semivalue) -> Float[np.ndarray, "c g"]:
    """What each coalition counts for each player, where those of a size stand for all of it."""
    sizes, players = members.sum(axis=1), members.shape[1]
    joined, left = _by_size(players, of)
    there = np.maximum(np.bincount(sizes, minlength=players + 1), 1)
    mine, others = joined[sizes] / there[sizes], left[sizes] / there[sizes]
    return np.where(members, mine[:, None], -others[:, None])


def _by_size(players: int, of: Semivalue) -> tuple[np.ndarray, np.ndarray]:
    """(g + 1) what all coalitions of a size weigh together for a member, and for one who is not."""
    shares, s = of.shares(players), np.arange(1, players + 1)
    joined = np.concatenate([[0.0], players / s * shares])
    left = np.concatenate([players / s[::-1] * shares, [0.0]])
    return joined, left


# ---- some of them --------------------------------------------------------------------------------


def _pairs_there(players: int) -> list[int]:
    """How many pairs of a coalition and its complement there are, by the size of the smaller."""
    sizes = range(1, players // 2 + 1)
    return [math.comb(players, s) // (2 if 2 * s == players else 1) for s in sizes]


def fewest(players: int) -> int:
    """Trainings without which nothing can be said: everybody alone, all but one, one pair a size.

    Nobody and everybody are not counted.
    """
    return 2 * sum(_pairs_there(players)[:1]) + 2 * max(players // 2 - 1, 0)


def allotted(players: int, of: Semivalue, pairs: int) -> Int[np.ndarray, "k"]:
    """How many pairs of each size are drawn, of `pairs` in all.

    Everybody alone, and all but one, always; the others by leverage, which for Shapley's value is
    the same for every size, at least one and never more than there are.
    """
    there = np.array([min(count, pairs) for count in _pairs_there(players)], float)
    sizes, (joined, left) = np.arange(1, len(there) + 1), _by_size(players, of)
    total = joined + left
    share = (total[sizes] + total[players - sizes]) * sizes * (players - sizes)
    least = np.where(sizes == 1, there, np.minimum(1.0, there))

    def given(level):
        return np.clip(level * share, least, there)

    low, high = 0.0, 1.0
    while given(high).sum() < min(pairs, there.sum()) and high < 1e300:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if given(middle).sum() <= pairs else (low, middle)
    count = np.floor(given(low) + 1e-9)
    spare = int(min(pairs, there.sum()) - count.sum())
    for at in np.argsort(count - given(low), kind="stable")[: max(spare, 0)]:
        count[at] += count[at] < there[at]
    return count.astype(int)


@dataclass
class Draws:
    """Pairs of a coalition and its complement, drawn size by size, none twice.

    Asked again for more, it gives those that it gave and others behind them.

    Attributes:
        players: g.
        key: of the draws.
    """

    players: int
    key: Array | np.ndarray
    _streams: list[Iterator[np.ndarray]] = field(init=False, repr=False)
    _given: list[list[np.ndarray]] = field(init=False, repr=False)

    def __post_init__(self):
        rng, half = generator(self.key), self.players // 2
        each = rng.spawn(half)
        sizes = range(1, half + 1)
        self._streams = [_subsets(one, self.players, s) for one, s in zip(each, sizes, strict=True)]
        self._given = [[] for _ in sizes]

    def upto(self, counts: Int[np.ndarray, "k"]) -> Bool[np.ndarray, "c g"]:
        """Nobody, everybody, then so many pairs of each size, or as many as were given before."""
        for given, stream, count in zip(self._given, self._streams, counts, strict=True):
            given.extend(itertools.islice(stream, max(int(count) - len(given), 0)))
        nobody = np.zeros(self.players, bool)
        some = np.array([nobody, *itertools.chain.from_iterable(self._given)])
        return np.stack([some, ~some], axis=1).reshape(-1, self.players)


def _subsets(rng: np.random.Generator, players: int, size: int) -> Iterator[np.ndarray]:
    """(g) subsets of a size in random order, of half of the players those with the first."""
    halves = 2 * size == players
    if math.comb(players, size) <= _LISTED:
        all_of_them = [list(one) for one in itertools.combinations(range(players), size)]
        for at in rng.permutation(len(all_of_them)):
            if not halves or 0 in all_of_them[at]:
                yield _mask(players, all_of_them[at])
        return
    seen = set()
    while True:
        mask = _mask(players, rng.permutation(players)[:size])
        mask = ~mask if halves and not mask[0] else mask
        if mask.tobytes() not in seen:
            seen.add(mask.tobytes())
            yield mask


def _mask(players: int, some) -> np.ndarray:
    mask = np.zeros(players, bool)
    mask[some] = True
    return mask


# ---- what some of them say of all ----------------------------------------------------------------

#: of coalitions (c g), what is known of them without training (c k): say, how many points they have
Traits = Callable[[np.ndarray], np.ndarray]


def estimated(
    table: Table, of: Semivalue, traits: Traits, key: Array | np.ndarray
) -> tuple[Float[np.ndarray, "g m"], Float[np.ndarray, "g m"]]:
    """The value of every player, and its standard error: 0 where every coalition is there.

    A model of the worths, linear in traits and members, is fitted to the coalitions there are; the
    estimate is the model's own value, which needs no training, and the value of what the model
    leaves, from the mean of each size. The error comes from pairs that the model was not fitted to.

    Args:
        table: coalitions, drawn by `Draws`, and what they are worth.
        of: the value.
        traits: what is known of any coalition without training.
        key: of the random orders in which the model's value is taken where players are many, and of
            the parts into which the pairs are cut.
    """
    players = table.members.shape[1]
    if len(table.members) == 2**players:
        value = of_table(table, of)
        return value, np.zeros(value.shape)
    rng = generator(key)
    known = _Known.of(table, of, traits, rng)
    fold = _cut(table, rng)
    spread = np.stack([known.variance(table, of, fold, ridge) for ridge in _RIDGES])
    best = np.argmin(spread.sum(axis=1), axis=0)  # (m) the ridge of each column
    model = known.fitted(table, np.ones(len(table.members), bool), _RIDGES[best])
    variance = np.take_along_axis(spread, best[None, None], axis=0)[0]
    own, doubt = known.own_value(model)
    while known.orders < _MOST and (doubt.sum(axis=0) > _AS_WELL * variance.sum(axis=0)).any():
        known = known.surer(of, traits, rng)  # it costs no training
        own, doubt = known.own_value(model)
    left = Table(table.members, table.worth - known.columns @ model)
    return own + of_table(left, of), np.sqrt(variance + doubt)


def _cut(table: Table, rng: np.random.Generator) -> Int[np.ndarray, "c"]:
    """The fold of every coalition, pairs together; -1 for nobody and everybody."""
    pairs = len(table.members) // 2 - 1
    fold = rng.permutation(np.arange(pairs) % _FOLDS)
    return np.repeat(np.concatenate([[-1], fold]), 2)


@dataclass(frozen=True, eq=False)
class _Known:
    """What a model of the worths is made of.

    Attributes:
        columns: (c k) of the coalitions there are: a one, traits and members, in units of their
            standard deviations.
        weight: (c) of a coalition in the fit.
        scale: (k) these units.
        own: (b g t) the players' values in the games whose worths are the traits, from b random
            parts of the orders; one part where these are exact.
        orders: how many random ones there were.
    """

    columns: np.ndarray
    weight: np.ndarray
    scale: np.ndarray
    own: np.ndarray
    orders: int | float

    @classmethod
    def of(cls, table: Table, of: Semivalue, traits: Traits, rng) -> "_Known":
        """From the coalitions there are."""
        inner = slice(2, None)  # not nobody and everybody
        found = traits(table.members)
        raw = np.concatenate([found, table.members], axis=1).astype(float)
        centre, scale = raw[inner].mean(axis=0), raw[inner].std(axis=0)
        scale = np.where(scale > 1e-12 * (1 + np.abs(centre)), scale, np.inf)
        ones = np.ones((len(raw), 1))
        columns = np.concatenate([ones, (raw - centre) / scale], axis=1)
        players = table.members.shape[1]
        orders = math.inf if players <= _ENUMERATED else _ORDERS
        own = _own_values(players, of, traits, rng, orders)
        return cls(columns, _importance(table, of), np.append(1.0, scale), own, orders)

    def surer(self, of: Semivalue, traits: Traits, rng) -> "_Known":
        """With as many random orders again."""
        again = _own_values(self.own.shape[1], of, traits, rng, self.orders)
        return replace(self, own=(self.own + again) / 2, orders=2 * self.orders)

    def fitted(self, table: Table, rows: np.ndarray, ridge) -> Float[np.ndarray, "k m"]:
        """The model of some of the coalitions, by ridge regression."""
        rows = rows & (np.arange(len(rows)) > 1)
        design, weight = self.columns[rows], self.weight[rows, None]
        weight = weight / weight.sum()
        gram, right = design.T @ (weight * design), design.T @ (weight * table.worth[rows])
        free = np.ones(len(gram))
        free[0] = 0.0
        penalties = np.broadcast_to(ridge, (table.worth.shape[1],))
        model = np.zeros((len(gram), table.worth.shape[1]))
        for each in np.unique(penalties):
            mine = penalties == each
            model[:, mine] = np.linalg.solve(gram + each * np.diag(free), right[:, mine])
        return model

    def variance(self, table: Table, of: Semivalue, fold, ridge) -> Float[np.ndarray, "g m"]:
        """Of the estimate, from what models of the other folds leave of each pair."""
        left = np.zeros(table.worth.shape)
        for each in range(_FOLDS):
            model = self.fitted(table, (fold != each) & (fold >= 0), ridge)
            mine = fold == each
            left[mine] = table.worth[mine] - self.columns[mine] @ model
        terms = _weights(table.members, of)[:, :, None] * left[:, None]
        pairs = terms[2::2] + terms[3::2]  # (pairs g m)
        return np.einsum("k,kgm->gm", _undrawn(table)[2::2], pairs**2)

    def own_value(self, model) -> tuple[np.ndarray, np.ndarray]:
        """(g m) the model's own values, and their variance over random orders."""
        blocks, players, _ = self.own.shape
        nothing = np.zeros((blocks, players, 1))
        additive = np.broadcast_to(np.eye(players), (blocks, players, players))
        each = (np.concatenate([nothing, self.own, additive], axis=2) / self.scale) @ model
        doubt = each.var(axis=0, ddof=1) / len(each) if len(each) > 1 else np.zeros(each.shape[1:])
        return each.mean(axis=0), doubt


def _undrawn(table: Table) -> Float[np.ndarray, "c"]:
    """The share of coalitions of each one's size that were not drawn."""
    sizes, players = table.sizes, table.members.shape[1]
    there = np.bincount(sizes, minlength=players + 1)
    share = [1 - int(there[s]) / math.comb(players, s) for s in range(players + 1)]
    return np.array(share)[sizes]


def _importance(table: Table, of: Semivalue) -> Float[np.ndarray, "c"]:
    """How much a coalition's residual weighs in the variance of an estimate."""
    sizes, players = table.sizes, table.members.shape[1]
    joined, left = _by_size(players, of)
    there = np.maximum(np.bincount(sizes, minlength=players + 1), 1)
    return ((joined + left) / there)[sizes]


def _own_values(
    players: int, of: Semivalue, traits: Traits, rng, orders: int | float
) -> Float[np.ndarray, "b g t"]:
    """The players' values in the games whose worths are the traits, exact or by random orders."""
    if not math.isfinite(orders):
        members = every(players)
        return of_table(Table(members, traits(members)), of)[None]
    weight = players * of.shares(players)
    count = int(orders) // _BLOCKS
    return np.stack([_by_orders(rng, players, weight, traits, count) for _ in range(_BLOCKS)])


def _by_orders(rng, players: int, weight, traits: Traits, count: int) -> np.ndarray:
    """(g t) the mean over random orders, and their reverses, of what each player adds."""
    total: np.ndarray | float = 0.0
    joined = np.arange(players + 1)[:, None]  # how many have
    for first in range(0, count, _TOGETHER):
        many = np.tile(np.arange(players), (min(_TOGETHER, count - first), 1))
        place = rng.permuted(many, axis=1)  # of each player in each order
        for each in (place, players - 1 - place):
            worths = traits((each[:, None] < joined).reshape(-1, players))
            added = np.diff(worths.reshape(len(each), players + 1, -1), axis=1) * weight[:, None]
            total = total + np.take_along_axis(added, each[:, :, None], axis=1).sum(axis=0)
    return np.asarray(total) / (2 * count)
