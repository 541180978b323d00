"""Random groups like given ones: points dealt out to them, as lists or as sums over them."""

import dataclasses
from collections.abc import Iterator

import numpy as np
from jaxtyping import Array, Float, Int

from leaveout.groups.container import Groups
from leaveout.runtime.columns import numbered
from leaveout.runtime.options import generator
from leaveout.runtime.tables import check_rows, common_rows

__all__ = ["dealt_sums", "shuffles"]

_MANY = 2**15  # points of a stratum from where they are dealt without being permuted
_SIDES = 2**16  # of the die that is thrown for each of them
_LOOKED_AT = 2**16  # points whose numbers are in the cache together
_APART = 4  # standard deviations of a group's count that its size has to be above
_FEW = 8  # the others may be one point in so many


def shuffles(key: Array, like: Groups, within, draws: int) -> Iterator[np.ndarray]:
    """The points of `lookalikes`, draw by draw, in the order of `like.indices`.

    In each stratum the points are permuted and dealt out to the groups in turn, from the start
    again where groups overlap and need more than there are.
    """
    rng = generator(key)
    pools, code = _pools(like, within)
    seats = [np.flatnonzero(code[like.indices] == stratum) for stratum in range(len(pools))]
    for _ in range(draws):
        drawn = np.empty_like(like.indices)
        for pool, seat in zip(pools, seats, strict=True):
            drawn[seat] = rng.permutation(pool)[np.arange(seat.size) % pool.size]
        yield drawn


def _pools(like: Groups, within) -> tuple[list[np.ndarray], np.ndarray]:
    """The points of each stratum, and (n) the stratum of each point."""
    check_rows(common_rows(within=within), like.fingerprint, "within", "the groups' data")
    code = np.zeros(like.n, int) if within is None else numbered(within, "stratum")
    if code.shape != (like.n,):
        raise ValueError(f"expected one stratum for each of {like.n:,} points, got {code.shape}")
    bounds = np.cumsum(np.bincount(code))[:-1]
    return np.split(np.argsort(code, kind="stable"), bounds), code


def dealt_sums(
    key: Array, like: Groups, within, draws: int, values: Float[np.ndarray, "n m"]
) -> Iterator[Float[np.ndarray, "g m"]] | None:
    """Sums of values over random groups of the sizes of the given ones, draw by draw.

    They are those of `lookalikes` in distribution, found without permuting the points: about 8
    nanoseconds a point and draw. Of every point a die says to which group it goes, or to none; the
    groups that then have too many give back some of theirs, drawn at random, to those that have too
    few. All who are dealt to are treated alike, so that every assignment of that many points to
    each group is as likely as any other.

    None where strata are small, groups overlap (in all, more than there are points), take shares of
    points, or are mostly so small that few would be dealt rightly at first.

    Args:
        key: of the draws.
        like: groups.
        within: (n) strata, or None.
        draws: how often.
        values: (n m).
    """
    pools, code = _pools(like, within)
    if like.partial is not None or len(like) >= _SIDES or min(map(len, pools)) < _MANY:
        return None
    strata = [_Stratum.of(like, code, number, values[pool]) for number, pool in enumerate(pools)]
    if not all(stratum.serves for stratum in strata):
        return None
    rng = generator(key)
    return (_dealt(strata, rng) for _ in range(draws))


def _dealt(strata: "list[_Stratum]", rng: np.random.Generator) -> Float[np.ndarray, "g m"]:
    return np.sum([stratum.dealt(rng) for stratum in strata], axis=0)[:-1]


@dataclasses.dataclass(frozen=True, eq=False)
class _Stratum:
    """The points of a stratum, and how many of them each group takes.

    Attributes:
        values: (m N) of its points.
        quota: (g + 1) points of each group, last of none.
        side: (sides) the group that each side of the die stands for.
    """

    values: Float[np.ndarray, "m N"]
    quota: Int[np.ndarray, "_"]
    side: Int[np.ndarray, "sides"]

    @classmethod
    def of(cls, like: Groups, code: np.ndarray, number: int, values: np.ndarray) -> "_Stratum":
        taken = np.bincount(like.lanes[code[like.indices] == number], minlength=len(like))
        quota = np.append(taken, len(values) - taken.sum())
        large = np.where(quota >= _APART * np.sqrt(len(values)), quota, 0)
        bounds = np.rint(_SIDES * np.cumsum(large) / max(large.sum(), 1)).astype(int)
        side = np.repeat(np.arange(len(quota)), np.diff(bounds, prepend=0))
        return cls(np.ascontiguousarray(values.T), quota, side)

    @property
    def serves(self) -> bool:
        """Whether there are enough points, and most go to large groups."""
        large = np.bincount(self.side, minlength=len(self.quota)) > 0
        small = self.quota[~large].sum()
        return bool(self.quota[-1] >= 0 and _FEW * small <= self.quota.sum())

    def dealt(self, rng: np.random.Generator) -> Float[np.ndarray, "_ m"]:
        """Sums over the groups of one draw, last over the points of none."""
        owner, size, sums = self._thrown(rng)
        count = len(self.quota)
        back, old = _given_back(rng, owner, size, np.maximum(size - self.quota, 0))
        new = rng.permutation(np.repeat(np.arange(count), np.maximum(self.quota - size, 0)))
        moved = self.values[:, back]
        return (sums - _sums(old, moved, count) + _sums(new, moved, count)).T

    def _thrown(self, rng) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The group that the die gives each point, how many each has, and the sums (m, g + 1)."""
        (columns, points), count = self.values.shape, len(self.quota)
        owner, size = np.empty(points, np.int32), np.zeros(count, int)
        sums = np.zeros((columns, count))
        for at in range(0, points, _LOOKED_AT):
            some = slice(at, min(at + _LOOKED_AT, points))
            length = some.stop - at
            thrown = rng.bit_generator.random_raw(-(-length // 4)).view(np.uint16)[:length]
            group = self.side.take(thrown)
            owner[some] = group
            size += np.bincount(group, minlength=count)
            sums += _sums(group, self.values[:, some], count)
        return owner, size, sums


def _given_back(rng, owner: np.ndarray, size: np.ndarray, many: np.ndarray):
    """As many points of each group, drawn without replacement, and the groups that they were in.

    Args:
        rng: random numbers.
        owner: (N) the group of each point; -1 is written where one is given back.
        size: (g) of the groups.
        many: (g) how many of each; written to.
    """
    points, groups = [np.zeros(0, int)], [np.zeros(0, int)]
    while many.any():
        some = int(1.2 * np.max(many / np.maximum(size, 1)) * len(owner)) + 64
        drawn = rng.choice(len(owner), min(some, len(owner)), replace=False)
        drawn = drawn[owner[drawn] >= 0]
        drawn = drawn[np.argsort(owner[drawn].astype(np.uint16), kind="stable")]
        group = owner[drawn]
        ends = np.cumsum(np.bincount(group, minlength=len(many)))
        place = np.arange(len(group)) - np.append(0, ends)[group]  # in its group
        drawn, group = (part[place < many[group]] for part in (drawn, group))
        owner[drawn] = -1
        many -= np.bincount(group, minlength=len(many))
        points.append(drawn)
        groups.append(group)
    return np.concatenate(points), np.concatenate(groups)


def _sums(group: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    """(m count) sums of values (m N) over groups."""
    return np.stack([np.bincount(group, column, count) for column in values])
