"""Sets of points of least squares: what leaving any of them does, exactly, and what no set can do.

Of squared loss of one score, with H the Hessian, rows x_i, residuals e_i and weights s_i, leaving S
moves a linear functional a'theta by a' (H - H_S)^-1 sum_S s_i x_i e_i: one product with the rows a
point, by rank-one updates. In the coordinates of H = L L', rows z_i = L^-1 x_i and v = L^-1 a.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float

__all__ = [
    "Leaving",
    "Rows",
    "fewest_points",
    "first_of",
    "least_proven",
    "most_extreme",
    "upper_limits",
]

_RENEWED = 64  # rank-one updates after which what they made is made anew
_ALONE = 1e-8  # of its curvature that a point leaves, below which it cannot leave
_SMALL = 8  # points of a set up to which several first points are tried
_FIRSTS = 16
_BEGUN = 4  # of them, that are followed to a threshold
_ENDS = 64  # points that left, and that stayed, whose exchanges are looked at
_PAIRED = 256  # points of most gain, and of most leverage, whose pairs are looked at
_ROUNDED = 1e-9  # relative, that is added to a limit for rounding
_LOST = 100  # units of it, that what is left of the curvature is known to
_BLOCK = 2**22  # entries of the Gram matrix that are looked at together


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """Least squares in the coordinates that make H the identity.

    Attributes:
        z: (n p) rows L^-1 x_i.
        s: (n) weights.
        e: (n) residuals, score minus target.
        v: (p) the functional.
    """

    z: Float[np.ndarray, "n p"]
    s: Float[np.ndarray, "n"]
    e: Float[np.ndarray, "n"]
    v: Float[np.ndarray, "p"]

    @property
    def influence(self) -> Float[np.ndarray, "n"]:
        """What each point's leaving does to first order."""
        return self.s * self.e * (self.z @ self.v)


class Leaving:
    """Least squares without some points, from which any other may leave, or come back.

    Attributes:
        rows: of the problem.
        on: (n) which points left.
        held: whether what stays holds theta in every direction; nothing else is known if not.
        moved: (p) how far theta moved, in the coordinates that make H the identity.
    """

    def __init__(self, rows: Rows, on: Bool[np.ndarray, "n"] | None = None):
        self.rows = rows
        self.on = np.zeros(rows.s.size, bool) if on is None else on.copy()
        self._renew()

    def _renew(self) -> None:
        """Everything from the rows: inverse, move, residuals, adjoint, leverages."""
        rows, gone = self.rows, self.rows.z[self.on]
        kept = np.eye(rows.z.shape[1]) - (gone.T * rows.s[self.on]) @ gone
        self.held = bool(np.linalg.eigvalsh(kept)[0] > _ALONE)
        self.inverse = np.linalg.inv(kept) if self.held else np.full_like(kept, np.nan)
        self.moved = self.inverse @ (gone.T @ (rows.s[self.on] * rows.e[self.on]))
        self.e = rows.e + rows.z @ self.moved
        self.along = rows.z @ (self.inverse @ rows.v)
        self.own = np.einsum("ip,pq,iq->i", rows.z, self.inverse, rows.z, optimize=True)
        self.updates = 0

    @property
    def effect(self) -> float:
        """On the functional, without minus with."""
        return float(self.rows.v @ self.moved)

    @property
    def loses(self) -> Float[np.ndarray, "n"]:
        """(n) what each point loses when it changes sides; negative where it comes back."""
        return np.where(self.on, -self.rows.s, self.rows.s)

    def gains(self) -> Float[np.ndarray, "n"]:
        """(n) what each point does when it changes sides; 0 where nothing else would hold theta."""
        t = self.loses
        left = 1 - t * self.own
        return np.where(
            left > _ALONE, t * self.e * self.along / np.where(left > _ALONE, left, 1), 0
        )

    def toggle(self, i: int) -> None:
        """Point i changes sides."""
        rows, t = self.rows, float(self.loses[i])
        ahead = self.inverse @ rows.z[i]
        across, left = rows.z @ ahead, 1 - t * self.own[i]
        self.moved = self.moved + t * self.e[i] / left * ahead
        self.inverse = self.inverse + (t / left) * np.outer(ahead, ahead)
        e, along = self.e[i], self.along[i]
        self.e = self.e + (t * e / left) * across
        self.along = self.along + (t * along / left) * across
        self.own = self.own + (t / left) * across**2
        self.on[i] = ~self.on[i]
        self.updates += 1
        if self.updates == _RENEWED:
            self._renew()

    def grow(self, size: int, direction: int, usable: Bool[np.ndarray, "n"]) -> None:
        """Point after point leaves, each time the one that does the most, up to `size`.

        Fewer where nothing that could still leave would leave theta determined.
        """
        while self.on.sum() < size:
            free = usable & ~self.on & self._holds()
            if not free.any():
                return
            self.toggle(int(np.argmax(np.where(free, direction * self.gains(), -np.inf))))

    def _holds(self) -> Bool[np.ndarray, "n"]:
        """Whether theta would be held without each point too."""
        return 1 - self.loses * self.own > _ALONE

    def pair(self, direction: int, usable: Bool[np.ndarray, "n"]) -> tuple[int, int]:
        """The two points whose leaving together does the most, of those that promise it.

        Of two that hide each other neither does anything alone: those of most leverage are looked
        at too.
        """
        gains = np.where(usable & ~self.on, direction * self.gains(), -np.inf)
        heavy = np.where(usable & ~self.on, self.rows.s * self.own, -np.inf)
        ends = [np.argsort(-each, kind="stable")[:_PAIRED] for each in (gains, heavy)]
        some = np.unique(np.concatenate(ends))
        some = some[(usable & ~self.on)[some]]
        each = direction * self._pairs(some, some)
        np.fill_diagonal(each, -np.inf)
        at = np.unravel_index(int(np.argmax(each)), each.shape)
        return int(some[at[0]]), int(some[at[1]])

    def exchange(
        self, direction: int, usable: Bool[np.ndarray, "n"], most: int, enough: float = np.inf
    ) -> None:
        """The pair that gains the most changes sides, as long as one does, at most so often.

        Or until the effect in the direction is more than enough.
        """
        for _ in range(most):
            if direction * self.effect > enough:
                return
            gain, i, j = self._best_pair(direction, usable)
            if not gain > 1e-9 * abs(self.effect):
                return
            self.toggle(j)  # who comes back first: nothing is then lost on the way
            self.toggle(i)

    def _best_pair(self, direction: int, usable) -> tuple[float, int, int]:
        """The best exchange of one that stayed, i, for one that left, j, and what it gains."""
        gains = direction * self.gains()
        outside, inside = np.flatnonzero(usable & ~self.on), np.flatnonzero(self.on)
        if not outside.size or not inside.size:
            return 0.0, 0, 0
        outside = outside[np.argsort(-gains[outside], kind="stable")[:_ENDS]]
        inside = inside[np.argsort(-gains[inside], kind="stable")[:_ENDS]]
        each = direction * self._pairs(outside, inside)
        at = np.unravel_index(int(np.argmax(each)), each.shape)
        return float(each[at]), int(outside[at[0]]), int(inside[at[1]])

    def _pairs(self, i: np.ndarray, j: np.ndarray) -> Float[np.ndarray, "i j"]:
        """What both changing sides does: (along' (D^-1 - R)^-1 e) of two points, D what they lose.

        R is their Gram matrix in the inverse Hessian of what is there.
        """
        z, t = self.rows.z, self.loses
        r = z[i] @ self.inverse @ z[j].T
        a = (1 / t[i] - self.own[i])[:, None]
        b = (1 / t[j] - self.own[j])[None]
        e, along = self.e, self.along
        crossed = along[i][:, None] * e[j][None] + e[i][:, None] * along[j][None]
        top = (along * e)[i][:, None] * b + (along * e)[j][None] * a + r * crossed
        below = a * b - r**2
        left = below * t[i][:, None] * t[j][None]  # of the curvature along both: det(I - D R)
        return np.where(left > _ALONE, top / np.where(left > _ALONE, below, 1.0), -np.inf)


def most_extreme(
    rows: Rows, usable: Bool[np.ndarray, "n"], size: int, direction: int, exchanges: int
) -> Leaving | None:
    """A set of `size` points that moves the functional the most, of those that were tried.

    Grown point by point from nobody, from the best pair and, where it is small, from other first
    points; and the set of one pass; each mended by exchange. None where nothing of that size leaves
    theta determined.
    """
    starts = [first_of(rows, usable, size, direction), Leaving(rows)]
    starts = [one for one in [*starts, *_starts(rows, usable, size, direction)] if one.held]
    for start in starts:
        start.grow(size, direction, usable)
        start.exchange(direction, usable, exchanges)
    whole = [one for one in starts if one.on.sum() == size]
    return max(whole, key=lambda one: direction * one.effect, default=None)


def first_of(rows: Rows, usable: np.ndarray, size: int, direction: int) -> Leaving:
    """Without the points of most influence: the set of one pass."""
    order = np.argsort(np.where(usable, -direction * rows.influence, np.inf), kind="stable")
    on = np.zeros(usable.size, bool)
    on[order[:size]] = True
    return Leaving(rows, on)


def _starts(rows: Rows, usable: np.ndarray, size: int, direction: int) -> list[Leaving]:
    """What else a set may begin with: the best pair, and of small ones some first points."""
    first = Leaving(rows)
    begun = [] if size < 2 or usable.sum() < 2 else [first.pair(direction, usable)]
    if size <= _SMALL:
        gains = np.where(usable, direction * first.gains(), -np.inf)
        begun += [(int(i),) for i in np.argsort(-gains, kind="stable")[1:_FIRSTS] if usable[i]]
    starts = []
    for points in begun:
        start = Leaving(rows)
        for i in points:
            start.toggle(i)
        starts.append(start)
    return starts


def fewest_points(
    rows: Rows, usable: Bool[np.ndarray, "n"], needed: float, direction: int, most: int,
    exchanges: int,
) -> Leaving | None:  # fmt: skip
    """The fewest points found that move the functional by more than `needed`; None up to `most`."""
    best = None
    for start in [Leaving(rows), *_starts(rows, usable, 2, direction)[:_BEGUN]]:
        end = most if best is None else int(best.on.sum()) - 1
        for size in range(int(start.on.sum()) + 1, end + 1):
            if direction * start.effect > needed:
                break
            start.grow(size, direction, usable)
        if direction * start.effect > needed and start.on.sum() <= end:
            best = start
    while best is None or best.on.sum() > 1:
        size = most if best is None else int(best.on.sum()) - 1
        starts = [first_of(rows, usable, size, direction)]
        starts += [] if best is None else [_one_less(best, direction)]
        for start in starts:
            if start.held:
                start.exchange(direction, usable, exchanges, needed)
        enough = [one for one in starts if direction * one.effect > needed]
        if not enough:
            break
        best = enough[0]
    return best


def _one_less(found: Leaving, direction: int) -> Leaving:
    """The set without the point whose coming back costs the least."""
    one = Leaving(found.rows, found.on)
    costs = np.where(one.on, direction * one.gains(), -np.inf)
    one.toggle(int(np.argmax(costs)))
    return one


def upper_limits(rows: Rows, sizes: np.ndarray, direction: int) -> Float[np.ndarray, "k"]:
    """What no set of at most each size can do to the functional in the direction.

    With Z_S the rows of S times s^1/2, M = Z_S' Z_S, g = Z_S' (s^1/2 e) and lambda the largest
    eigenvalue of M, the effect is v' (I - M)^-1 g = v'g + v'M (I - M)^-1 g, so that

        effect <= sum over S of influence + |M v| |g| / (1 - lambda)

    Each part is bounded over all S of at most that size: sums of k terms by the k largest of those
    above 0, lengths of sums of vectors by the largest entries of the rows of their Gram matrix,
    lambda by the trace, Frobenius and Gershgorin. Infinite where nothing is proven (lambda may
    reach 1). Proven in exact arithmetic; for rounding 1e-9 of it is added, and 100 units of
    rounding over 1 - lambda. One Gram matrix of n x n in blocks, each row sorted as far as the
    largest size: n^2 p multiplications, where n counts the points that the functional has to do
    with: other trials of one table have nothing to say.

    Source: after the idea of Rubinstein and Hopkins (2025), ACRE; derived anew.
    """
    rows = _touched(rows)
    if not len(rows.s):
        return np.zeros(len(sizes))
    root, asked = np.sqrt(rows.s), np.minimum(np.asarray(sizes), len(rows.s))
    z, r = rows.z * root[:, None], rows.e * root
    along, own = direction * (z @ rows.v), np.einsum("ip,ip->i", z, z)
    gram = _Gram(z, along, r, asked)
    share = np.minimum(np.sqrt(_most(gram.squares, asked)), gram.spread)
    share = np.minimum(share, _largest(own, asked))
    bent = np.minimum(
        np.sqrt(_most(gram.moments, asked)), _largest(np.abs(along) * own**0.5, asked)
    )
    bent = np.minimum(bent, np.sqrt(share * _largest(along**2, asked)))
    pull = np.minimum(np.sqrt(_most(gram.slopes, asked)), _largest(np.abs(r) * own**0.5, asked))
    left = np.where(share < 1, 1 - share, np.nan)
    bounds = _largest(along * r, asked) + bent * pull / left
    bounds = bounds + (_ROUNDED + _LOST * np.finfo(float).eps / left) * np.abs(bounds)
    return np.where(np.isnan(bounds), np.inf, bounds)


def least_proven(rows: Rows, needed: float, direction: int, most: int) -> int:
    """How many points have to leave, at least, to do more than `needed`; `most` + 1 at most."""
    limits = upper_limits(rows, np.arange(1, most + 1), direction)
    return int(np.argmax(np.append(limits > needed, True))) + 1


def _touched(rows: Rows) -> Rows:
    """The points whose leaving can move the functional, whoever leaves with them.

    Coordinates that no point joins to those of the functional, by an entry in both, are of another
    problem, such as another trial with a constant of its own; so are the points in them.
    """
    from scipy.sparse import csgraph

    there = (rows.z != 0) & (rows.s > 0)[:, None]
    joined = there.T.astype(float) @ there.astype(float)
    _, part = csgraph.connected_components(joined, directed=False)
    mine = np.isin(part, part[rows.v != 0])
    some = there[:, mine].any(axis=1)
    if some.all():
        return rows
    return Rows(rows.z[np.ix_(some, mine)], rows.s[some], rows.e[some], rows.v[mine])


def _largest(values: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """(k) the sum of the largest values above 0, at most as many as each size."""
    return np.cumsum(np.maximum(np.sort(values)[::-1], 0.0))[sizes - 1]


def _most(sums: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """(k) of sums (n k), a column a size, the sum of as many of the largest."""
    ordered = np.sort(sums, axis=0)[::-1]
    return np.array([ordered[:size, k].sum() for k, size in enumerate(sizes)])


class _Gram:
    """Rows of three Gram matrices: of each the diagonal and the size - 1 largest other entries.

    Attributes:
        moments: (n k) of z_i (z_i'v).
        slopes: (n k) of z_i r_i.
        squares: (n k) of the squared entries of the matrix of z_i.
        spread: (k) the largest row of its sizes: Gershgorin's bound.
    """

    def __init__(self, z: np.ndarray, along: np.ndarray, r: np.ndarray, sizes: np.ndarray):
        n, shape = len(z), (len(z), sizes.size)
        self.moments, self.slopes, self.squares = (np.empty(shape) for _ in range(3))
        self.spread = np.zeros(sizes.size)
        for rows in np.array_split(np.arange(n), max(-(-n * n // _BLOCK), 1)):
            r_rows = z[rows] @ z.T
            self.moments[rows] = _row_sums(r_rows * along[rows, None] * along, rows, sizes)
            self.slopes[rows] = _row_sums(r_rows * r[rows, None] * r, rows, sizes)
            own, top = _row_parts(np.abs(r_rows), rows, sizes)
            self.squares[rows] = _summed(own**2, top**2, sizes)
            self.spread = np.maximum(self.spread, _summed(own, top, sizes).max(axis=0))


def _row_sums(block: np.ndarray, rows: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """(b k) the entries on the diagonal, and beside them the size - 1 largest of their rows."""
    return _summed(*_row_parts(block, rows, sizes), sizes)


def _row_parts(
    block: np.ndarray, rows: np.ndarray, sizes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(b) the entries on the diagonal, and (b c) the largest others above 0, falling, else 0."""
    at = np.arange(len(rows))
    own = block[at, rows].copy()
    block[at, rows] = -np.inf
    count = min(int(sizes.max()) - 1, block.shape[1] - 1)
    if count == 0:
        return own, np.zeros((len(rows), 0))
    top = np.partition(block, block.shape[1] - count, axis=1)[:, -count:]
    return own, np.maximum(np.sort(top, axis=1)[:, ::-1], 0.0)


def _summed(own: np.ndarray, top: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """(b k) of each row its own entry and the size - 1 largest others."""
    sums = np.cumsum(np.concatenate([own[:, None], top], axis=1), axis=1)
    return sums[:, sizes - 1]
