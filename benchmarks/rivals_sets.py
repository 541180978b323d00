"""Rivals of `lo.extreme` and `lo.flips`, written for the benchmark: NumPy, one model at a time.

AMIP: sort by influence, take the largest, train once. Adaptive greedy: take the largest, train,
score again, one by one. And brute force. Linear models of one score with an intercept last.
"""

import contextlib
import dataclasses
import itertools

import numpy as np
from scipy.special import expit

__all__ = ["Model", "amip", "brute_force", "fewest_of_amip", "fewest_of_greedy", "greedy"]


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """Logistic regression or least squares, and a functional a'theta.

    Attributes:
        x: (n p) design with its ones.
        y: (n) targets, 0 and 1 for the logistic loss.
        a: (p) the functional.
        penalty: (p) of each coefficient.
        logistic: else least squares.
    """

    x: np.ndarray
    y: np.ndarray
    a: np.ndarray
    penalty: np.ndarray
    logistic: bool

    def parts(self, theta, kept):
        """Slopes (n) and Hessian (p p) of what is kept."""
        score = self.x @ theta
        chance = expit(score)
        slope = (chance if self.logistic else score) - self.y
        bend = chance * (1 - chance) if self.logistic else np.ones_like(score)
        hessian = (self.x.T * (bend * kept)) @ self.x + np.diag(self.penalty)
        return slope, bend, hessian

    def fit(self, kept, theta=None):
        """Theta by Newton's method, its steps halved where they overshoot."""
        theta = np.zeros(self.x.shape[1]) if theta is None else theta
        for _ in range(100):
            slope, _, hessian = self.parts(theta, kept)
            gradient = self.x.T @ (slope * kept) + self.penalty * theta
            step = np.linalg.solve(hessian, gradient)
            if gradient @ step < 1e-20:
                break
            length, now = 1.0, self.value(theta, kept)
            while self.value(theta - length * step, kept) > now and length > 1e-6:
                length /= 2
            theta = theta - length * step
        return theta

    def value(self, theta, kept):
        """The objective."""
        score = self.x @ theta
        loss = (
            np.logaddexp(0, score) - self.y * score if self.logistic else (score - self.y) ** 2 / 2
        )
        return loss @ kept + 0.5 * self.penalty @ theta**2

    def influence(self, theta, kept):
        """(n) what each point's leaving does to a'theta, to first order."""
        slope, _, hessian = self.parts(theta, kept)
        return slope * (self.x @ np.linalg.solve(hessian, self.a))

    def steps(self, theta, kept):
        """(n) the same by each point's own Newton step: exact of least squares."""
        slope, bend, hessian = self.parts(theta, kept)
        ahead = np.linalg.solve(hessian, self.x.T).T
        own = np.einsum("ip,ip->i", self.x, ahead)
        return slope * (ahead @ self.a) / (1 - bend * own)

    def effect(self, points, theta):
        """On a'theta, of leaving these out."""
        kept = np.ones(len(self.y))
        kept[list(points)] = 0
        return float(self.a @ (self.fit(kept, theta) - theta))


def amip(model: Model, size: int, direction: int):
    """The points of one pass, what influence says of them, and their effect."""
    everyone = np.ones(len(model.y))
    theta = model.fit(everyone)
    psi = model.influence(theta, everyone)
    points = np.argsort(-direction * psi, kind="stable")[:size]
    return points, float(psi[points].sum()), model.effect(points, theta)


def greedy(model: Model, size: int, direction: int):
    """(size) effects of the sets that adaptive greedy grows, one point and one fit at a time."""
    kept = np.ones(len(model.y))
    first = theta = model.fit(kept)
    effects = []
    for _ in range(size):
        gains = np.where(kept > 0, direction * model.steps(theta, kept), -np.inf)
        kept[np.argmax(gains)] = 0
        theta = model.fit(kept, theta)
        effects.append(float(model.a @ (theta - first)))
    return np.array(effects)


def brute_force(model: Model, size: int, direction: int) -> float:
    """The largest effect of any set that leaves a minimum."""
    theta, best = model.fit(np.ones(len(model.y))), -np.inf
    for points in itertools.combinations(range(len(model.y)), size):
        with contextlib.suppress(np.linalg.LinAlgError):  # an intercept on its way to infinity
            best = max(best, direction * model.effect(points, theta))
    return best


def fewest_of_amip(model: Model, most: int) -> tuple[int, int]:
    """How many points flip the sign of a'theta: by the sum of influence, and refitted; or -1."""
    everyone = np.ones(len(model.y))
    theta = model.fit(everyone)
    now = model.a @ theta
    psi = -np.sign(now) * model.influence(theta, everyone)
    order = np.argsort(-psi, kind="stable")
    said = np.flatnonzero(np.cumsum(psi[order]) > abs(now))
    for size in range(1, most + 1):
        if -np.sign(now) * model.effect(order[:size], theta) > abs(now):
            return int(said[0]) + 1 if said.size else -1, size
    return int(said[0]) + 1 if said.size else -1, -1


def fewest_of_greedy(model: Model, most: int) -> int:
    """How many points flip the sign of a'theta, one by one; or -1."""
    now = model.a @ model.fit(np.ones(len(model.y)))
    direction = -int(np.sign(now))
    enough = np.flatnonzero(direction * greedy(model, most, direction) > abs(now))
    return int(enough[0]) + 1 if enough.size else -1
