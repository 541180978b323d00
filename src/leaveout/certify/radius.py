"""How far the minimum can be from a theta: radii that a bound on the curvature's change proves."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

__all__ = ["Points", "ball_around", "ball_centred", "knapsack"]

_BISECTIONS = 12
_ROUNDS = 12  # at most, to find a ball that the map takes into itself


def knapsack(
    value: Float[Array, "n"], most: Float[Array, "n"], budget: Float[Array, ""]
) -> Float[Array, ""]:
    """An upper bound of max sum_i value_i z_i over 0 <= z_i <= most_i, sum_i z_i <= budget.

    By duality every threshold t >= 0 gives one, t budget + sum_i most_i (value_i - t)_+. The best t
    is where the budget is spent on what is worth more than t: found by bisection, a pass over the
    n numbers each time, instead of by sorting them.
    """
    top = jnp.max(jnp.where(most > 0, value, 0.0))

    def halve(_, bracket):
        low, high = bracket
        middle = (low + high) / 2
        over = jnp.sum(jnp.where(value > middle, most, 0.0)) > budget
        return jnp.where(over, middle, low), jnp.where(over, high, middle)

    low, high = jax.lax.fori_loop(0, _BISECTIONS, halve, (jnp.zeros_like(top), top))

    def dual(t):
        return t * budget + jnp.sum(jnp.where(most > 0, most * jnp.maximum(value - t, 0.0), 0.0))

    return jnp.minimum(jnp.minimum(dual(low), dual(high)), dual(jnp.zeros_like(top)))


class Points(eqx.Module):
    """What the bounds need to know of the n examples, seen from a theta.

    Attributes:
        scores: (n K) at theta.
        y: targets.
        a: (n) what stays of each, base weight included.
        metric: (n) M_i, a_i times the second derivative inside the metric, for one output; for K
            outputs, nothing.
        moved: (n) for K outputs: range of the change in scores from where the metric was taken.
        own: (n) h_i, the share of the metric that the example makes up, at most.
        length: (n) t_i, its largest difference of scores in radii.
        shifted: (n) D_i, the same for the Newton step from theta.
        off: () how far rounding may have left the scores from what they are at theta.
        uneven: () how far the metric may be from what its examples and the penalty make up, in
            itself: (1 - uneven) M <= sum_i M_i x_i x_i' + penalty <= (1 + uneven) M.
    """

    scores: Float[Array, "n K"]
    y: PyTree
    a: Float[Array, "n"]
    metric: Float[Array, "n"]
    moved: Float[Array, "n"]
    own: Float[Array, "n"]
    length: Float[Array, "n"]
    shifted: Float[Array, "n"]
    off: Float[Array, ""]
    uneven: Float[Array, ""]
    envelope: Callable = eqx.field(static=True)

    def chords(self, radius):
        """(low, high) of a_i times the curvature chords within `radius` of the scores.

        For one output as they are, for K outputs relative to the metric's. With the scores `off`,
        chords from what they are: as long, of a curvature that is e^(2 off) times another at most
        for K outputs; for one see `unclear`.
        """
        one = self.scores.shape[1] == 1
        scores = self.scores[:, 0] if one else self.scores
        within = jnp.broadcast_to(radius, self.a.shape) + self.off
        low, high = jax.vmap(self.envelope)(scores, self.y, within)
        if one:
            there = self.a != 0
            return jnp.where(there, self.a * low, 0.0), jnp.where(there, self.a * high, 0.0)
        moved = self.moved + 2 * self.off
        return jnp.exp(-moved) * low, jnp.exp(moved) * high

    def unclear(self, radius):
        """Bound of what not knowing where chords begin adds to the gradient, in M^-1.

        For one output: from a score that is e off, (off + d) k - off k' is the change of the slope,
        k and k' chords from the score as computed, so that d times a chord is off by no more than
        |e| (high - low).
        """
        if self.scores.shape[1] > 1:
            return jnp.zeros(())
        low, high = self.chords(radius)
        return jnp.sum(jnp.where(high > low, (high - low) * self.off * self.length, 0.0))

    def shortfall(self, radius):
        """How far the curvature can fall below the metric's, relative to it."""
        low, _ = self.chords(radius)
        if self.scores.shape[1] == 1:
            share = low / jnp.where(self.metric > 0, self.metric, 1.0)
            return jnp.where(self.metric > 0, jnp.maximum(1 - share, 0.0), 0.0)
        return jnp.where(self.a > 0, jnp.maximum(1 - low, 0.0), 0.0)

    def force(self, radius, length):
        """Bound of |sum_i x_i (a_i s_i - M_i) delta_i| in M^-1, for |delta_i| <= radius_i.

        Args:
            radius: (n).
            length: bound of the whole displacement in the metric.
        """
        low, high = self.chords(radius)
        if self.scores.shape[1] == 1:
            wide = jnp.maximum(jnp.abs(high - self.metric), jnp.abs(low - self.metric))
            share = wide / jnp.where(self.metric > 0, self.metric, 1.0)
            share = jnp.where(self.metric > 0, share, jnp.where(wide > 0, jnp.inf, 0.0))
            radius = radius + 2 * self.off  # chords may differ by twice `wide`: see `unclear`
            most = self.metric * radius**2
        else:
            share = jnp.where(self.a > 0, jnp.maximum(jnp.abs(1 - low), jnp.abs(high - 1)), 0.0)
            wide = self.a
            most = jnp.minimum(self.own * length**2, self.a * radius**2 / 4)
        regular = share <= 1
        value = jnp.where(regular, share, 0.0) ** 2
        # to what the examples make up of the metric, at most, and from what they do
        whole = 1 + self.uneven
        budget = whole * (length + 2 * self.off * jnp.sqrt(jnp.sum(self.metric))) ** 2
        together = jnp.sqrt(whole * knapsack(value, jnp.where(regular, most, 0.0), budget))
        alone = wide * radius * self.length
        alone = jnp.sum(jnp.where(regular | (wide == 0), 0.0, alone))
        return together + alone + self.uneven * length


def ball_around(points: Points, start) -> Float[Array, ""]:
    """The smallest rho found with gamma(rho) rho >= R: theta is no further than rho from theta*.

    R is `start`, the length of the gradient in M^-1, and what is `unclear` of it at rho.
    """

    def gamma(rho):
        value = points.shortfall(rho * points.length)
        return 1 - points.uneven - knapsack(value, points.own, 1 + points.uneven)

    def unproven(carry):
        rho, proven, tried = carry
        return ~proven & (tried < _ROUNDS) & jnp.isfinite(rho)

    def grow(carry):
        rho, _, tried = carry
        convexity, gradient = gamma(rho), start + points.unclear(rho * points.length)
        need = jnp.where(convexity > 0, gradient / convexity, jnp.inf)
        proven = need <= rho
        return jnp.where(proven, rho, 1.05 * need), proven, tried + 1

    begin = 1.02 * start / jnp.maximum(gamma(jnp.zeros(())), 0.0)
    rho, proven, _ = jax.lax.while_loop(unproven, grow, (begin, jnp.asarray(False), 0))
    return jnp.where(proven, rho, jnp.inf)


def ball_centred(points: Points, start, rho) -> Float[Array, ""]:
    """Radius of a ball around theta - M^-1 gradient that holds theta*; rho from `ball_around`."""

    def bound(q, rho):
        radius = jnp.minimum(points.shifted + points.length * q, rho * points.length)
        return points.force(radius, jnp.minimum(start + q, rho))

    # on the ball of radius q around the Newton step, e - M^-1 gradient(theta + e) stays within
    # bound(q) of it: a ball mapped into itself holds a point that does not move (Brouwer)
    alone = jnp.full((), jnp.finfo(start.dtype).max)

    def unproven(carry):
        q, proven, tried = carry
        return ~proven & (tried < _ROUNDS) & jnp.isfinite(q)

    def grow(carry):
        q, _, tried = carry
        image = bound(q, alone)
        proven = image <= q
        return jnp.where(proven, q, 1.1 * image), proven, tried + 1

    q, proven, _ = jax.lax.while_loop(
        unproven, grow, (1.02 * bound(jnp.zeros(()), alone), jnp.asarray(False), 0)
    )
    rho = jnp.minimum(rho, jnp.where(proven, q + start, alone))
    q = jnp.minimum(jnp.where(proven, q, jnp.inf), rho + start)

    def contract(_, carry):
        q, rho = carry
        q = jnp.minimum(q, bound(q, rho))
        return q, jnp.minimum(rho, q + start)

    q, rho = jax.lax.fori_loop(0, 3, contract, (q, rho))
    return jnp.where(q < alone / 4, q, jnp.inf)
