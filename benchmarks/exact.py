"""Minima and measures of linear models beyond float64: in 80 bits, or in 50 digits (mpmath).

Nothing of the library's arithmetic is used: losses and slopes are written down here, gradients are
summed in the arithmetic asked for, and Newton steps, whose matrices are float64's in centred and
scaled coordinates, are repeated until the gradient is as small as that arithmetic allows.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np

__all__ = ["DIGITS", "LONG", "LOSSES", "Arithmetic", "Linear"]


@dataclasses.dataclass(frozen=True)
class Arithmetic:
    """How numbers are written and what is done with arrays of them.

    Attributes:
        number: float64 arrays to arrays of these numbers, exactly.
        exp: of an array.
        log1p: of an array.
        floor: the relative size of what is rounded.
    """

    number: Callable[[Any], np.ndarray]
    exp: Callable[[Any], np.ndarray]
    log1p: Callable[[Any], np.ndarray]
    floor: float


def _longdouble(array) -> np.ndarray:
    return np.asarray(array, np.longdouble)


mpmath.mp.dps = 50
#: 80 bits where the processor has them: a refined solve
LONG = Arithmetic(_longdouble, np.exp, np.log1p, float(np.finfo(np.longdouble).eps))
DIGITS = Arithmetic(
    np.frompyfunc(mpmath.mpf, 1, 1),
    np.frompyfunc(mpmath.exp, 1, 1),
    np.frompyfunc(mpmath.log1p, 1, 1),
    1e-48,
)


def _logistic(how: Arithmetic, scores, y):
    s = scores[:, 0]
    size = np.where(s < 0, -s, s)
    tail = how.exp(-size)
    up = tail * 0 + np.where(s < 0, 0, 1)
    chance = np.where(s < 0, tail, 1) / (1 + tail)
    return up * s + how.log1p(tail) - y * s, (chance - y)[:, None]


def _softmax(how: Arithmetic, scores, y):
    top = scores.max(axis=1)[:, None]
    parts = how.exp(scores - top)
    whole = parts.sum(axis=1)
    own = np.eye(scores.shape[1])[y.astype(int)]
    losses = top[:, 0] + how.log1p(whole - 1) - (scores * own).sum(axis=1)
    return losses, parts / whole[:, None] - own


def _poisson(how: Arithmetic, scores, y):
    rate = how.exp(scores[:, 0])
    return rate - y * scores[:, 0], (rate - y)[:, None]


def _squares(how: Arithmetic, scores, y):
    gap = scores[:, 0] - y
    return gap**2 / 2, gap[:, None]


def _huber(how: Arithmetic, scores, y):
    gap = scores[:, 0] - y
    near = np.abs(gap) < 1
    slope = np.where(near, gap, np.where(gap < 0, -1, 1))
    return np.where(near, gap**2 / 2, np.abs(gap) - how.number(0.5)), slope[:, None]


#: name to (losses (n), slopes (n K)) of scores (n K) and coded targets (n)
LOSSES: dict[str, Callable] = {
    "logistic": _logistic,
    "softmax": _softmax,
    "poisson": _poisson,
    "squares": _squares,
    "huber": _huber,
}


def _second(name: str, scores: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(n K K) second derivatives in float64: they only steer."""
    if name == "softmax":
        parts = np.exp(scores - scores.max(axis=1)[:, None])
        chance = parts / parts.sum(axis=1)[:, None]
        return chance[:, :, None] * (np.eye(scores.shape[1]) - chance[:, None])
    s = scores[:, 0]
    if name == "logistic":
        tail = np.exp(-np.abs(s))
        second = tail / (1 + tail) ** 2
    elif name == "poisson":
        second = np.exp(np.clip(s, -700, 700))
    else:
        second = np.ones(len(s)) if name == "squares" else (np.abs(s - y) < 1).astype(float)
    return second[:, None, None]


@dataclasses.dataclass(frozen=True, eq=False)
class Linear:
    """A linear model's data: design (n q), coded targets (n), penalty (q), the name of its loss."""

    loss: str
    design: np.ndarray
    y: np.ndarray
    penalty: np.ndarray

    def losses(self, how: Arithmetic, matrix, design=None, y=None):
        """(m) losses of rows of a design, by default this one, at a weight matrix (K q)."""
        design, y = self.design if design is None else design, self.y if y is None else y
        return LOSSES[self.loss](how, how.number(design) @ matrix.T, how.number(y))[0]

    def minimum(self, how: Arithmetic, start: np.ndarray, v: np.ndarray, steps: int = 1000):
        """The weight matrix (K q) at the minimum of sum_i v_i loss_i and penalty, near `start`.

        None where there is none, or not one: the Hessian is singular in more directions than the
        loss cannot see, or the gradient does not vanish. What all classes share, where nothing
        sees it, stays as it was.
        """
        design, y, penalty = (how.number(part) for part in (self.design, self.y, self.penalty))
        turn, matrix, weights = self._turn(v), how.number(start), how.number(v)
        kept, best, waited, largest = v != 0, np.inf, 0, 0.0
        for _ in range(steps):
            scores = design @ matrix.T
            slopes = weights[kept, None] * LOSSES[self.loss](how, scores, y)[1][kept]
            gradient = slopes.T @ design[kept] + penalty * matrix
            found = self._step(scores, slopes, gradient @ turn, v, turn)
            if found is None:
                return None
            step, size, unit = found
            largest = max(largest, unit)
            unit = max(unit, how.floor**0.2 * largest)  # of an exact fit nothing is left
            waited = 0 if size < 0.5 * best or size > 1e-6 * unit else waited + 1
            best = min(best, size)
            if waited > 1 or size == 0:
                return matrix if best <= how.floor**0.6 * unit else None
            far = 0.0 if self.loss == "squares" else np.abs(self.design @ step.T).max()
            matrix = matrix - how.number(step * (np.log1p(far) / far if far > 1e-9 else 1.0))
        return None

    def has_minimum(self, v: np.ndarray) -> bool:
        """Whether there is a minimum for certain: weights have a penalty, intercepts have bounds.

        A free intercept is bounded where there are examples of every kind left that pulls at it.
        """
        free = self.penalty == 0
        if free[:-1].any() or (v < 0).any():
            return False
        if not free[-1]:
            return True
        left = self.y[v > 0]
        if self.loss in ("squares", "huber"):
            return bool(len(left))
        if self.loss == "poisson":
            return bool((left > 0).any())
        return len(np.unique(left)) == len(np.unique(self.y))

    def _turn(self, v) -> np.ndarray:
        """(q q) T to centred and scaled columns: design T; of a constant last column only."""
        q = self.design.shape[1]
        if not (q and (self.design[:, -1] == 1).all() and self.penalty[-1] == 0):
            scale = np.abs(self.design).max(axis=0)
            return np.diag(1 / np.where(scale > 0, scale, 1.0))
        middle = np.average(self.design, axis=0, weights=np.maximum(v, 0))
        scale = np.abs(self.design - middle).max(axis=0)
        turn = np.diag(1 / np.where(scale > 0, scale, 1.0))
        turn[-1, :-1] = -middle[:-1] * np.diag(turn)[:-1]
        turn[-1, -1] = 1.0
        return turn

    def _step(self, scores, slopes, gradient, v, turn):
        """The Newton step (K q), its length in the Hessian's norm, and that of the sandwich.

        None where the Hessian is singular in more directions than the loss cannot see.
        """
        scores, slopes, gradient = (np.asarray(part, float) for part in (scores, slopes, gradient))
        if not np.isfinite(gradient).all():
            return None
        turned, kept = (self.design @ turn)[v != 0], v != 0
        second = v[kept, None, None] * _second(self.loss, scores, self.y)[kept]
        outputs, q = scores.shape[1], turned.shape[1]
        hessian = np.einsum("nkl,nq,nr->kqlr", second, turned, turned)
        ridge = turn.T @ np.diag(self.penalty) @ turn
        hessian += np.eye(outputs)[:, None, :, None] * ridge[None, :, None]
        hessian = hessian.reshape(outputs * q, -1)
        unit = np.sqrt(np.maximum(np.diag(hessian), 1e-300))
        hessian = hessian / unit[:, None] / unit
        if not np.isfinite(hessian).all():
            return None
        eigen, vectors = np.linalg.eigh(hessian)
        free = np.abs(turn.T) @ self.penalty == 0  # columns in which all classes may shift
        large = eigen > 1e-13 * eigen[-1]
        if (~large).sum() != (free.sum() if outputs > 1 else 0):
            return None
        root = vectors[:, large] / np.sqrt(eigen[large]) / unit[:, None]  # root root' = H^-1
        inner = gradient.ravel() @ root
        each = (slopes[:, :, None] * turned[:, None]).reshape(len(slopes), -1) @ root
        step = (root @ inner).reshape(outputs, q)
        return step @ turn.T, float(np.linalg.norm(inner)), float(np.linalg.norm(each))
