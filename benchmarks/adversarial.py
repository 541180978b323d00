"""Balls on problems made to break them, many at a time, and the count of what broke.

`proofs` does the same through the public call, one problem at a time, against a truth beyond
float64; here every ball is tried from every candidate, a hundred times faster.

Gaussian, heavy-tailed and sparse binary features, one example thirty times as far out, exact
duplicates; groups of up to nine tenths, whole classes, those of largest influence, fractions of
examples; l2 from 1e-5 to 1e2; unequal base weights; with and without a free intercept. Every
problem of a shape is fitted, left and certified by one compiled program.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import leaveout as lo
from leaveout.certify.balls import penalty_ball
from leaveout.certify.hessian import frame, hessian_ball
from leaveout.solvers import factorise, full_matrix

__all__ = ["SHAPES", "checks"]

#: loss, outputs, examples, features
SHAPES = (
    ("logistic", 1, 30, 3),
    ("logistic", 1, 80, 8),
    ("logistic", 1, 20, 30),
    ("softmax", 3, 40, 4),
    ("softmax", 5, 40, 3),
    ("poisson", 1, 40, 4),
    ("squares", 1, 30, 5),
)
_QUERIES = 6
_STEPS = 200  # of damped Newton at most: the truth


def checks(shape, count: int, seed: int, intercepts=(True, False)) -> dict[str, int]:
    """How many intervals were looked at, how many are finite, how many do not hold the truth.

    Args:
        shape: a member of `SHAPES`.
        count: problems.
        seed: of the first of them.
        intercepts: True for a free one, False for none; every problem is tried with each.
    """
    keys = jax.random.split(jax.random.key(seed), count)
    known, wrong, total, reached = (np.asarray(part) for part in _run(shape, keys, intercepts))
    return {
        "problems": int(reached.sum()),
        "checks": int(total[reached].sum()),
        "finite": int(known[reached].sum()),
        "violations": int(wrong[reached].sum()),
        "truth_not_reached": int((~reached).sum()),
    }


@eqx.filter_jit
def _run(shape, keys, intercepts):
    # one after the other: two batched factorisations at once can wait for each other for ever
    return jax.lax.map(lambda key: _problem(shape, key, intercepts), keys)


def _features(key, n, d):
    """One of five kinds of data."""
    keys = jax.random.split(key, 5)
    gauss = jax.random.normal(keys[0], (n, d))
    heavy = jax.random.t(keys[1], 2.0, (n, d))
    sparse = jax.random.bernoulli(keys[2], 0.15, (n, d)).astype(gauss.dtype)
    outlier = gauss.at[0].multiply(30.0)
    copies = gauss[jax.random.randint(keys[3], (n,), 0, max(n // 6, 2))]
    kind = jax.random.randint(keys[4], (), 0, 5)
    return jnp.stack([gauss, heavy, sparse, outlier, copies])[kind]


def _targets(key, name, scores):
    loss = getattr(lo.losses, name)
    keys = jax.random.split(key, len(scores))
    if name == "poisson":
        scores = jnp.clip(scores, -3.0, 2.0)
    scores = scores if name == "softmax" else scores[:, 0]
    return jax.vmap(loss.sample)(keys, scores)


def _leaving(key, y, pull):
    """What leaves: w (n) of one of four kinds; something always stays."""
    n = len(pull)
    keys = jax.random.split(key, 5)
    share = jax.random.uniform(keys[0], (), minval=1 / n, maxval=0.9)
    some = (jax.random.uniform(keys[1], (n,)) < share).astype(pull.dtype)
    label = (y == y[0]).astype(pull.dtype)
    tail = (pull >= jnp.quantile(pull, 1 - share / 2)).astype(pull.dtype)
    part = some * jax.random.uniform(keys[2], (n,))
    kind = jax.random.randint(keys[3], (), 0, 4)
    return jnp.stack([some, label, tail, part])[kind].at[1].set(0.0)


def _curved(objective, theta, v):
    """The Hessian of what stays, pinned where it is singular for every theta."""
    gauge = objective.at(theta).gauge()
    return objective.hessian(theta, v) + (0.0 if gauge is None else gauge)


def _minimum(objective, theta, v):
    """The truth by Newton steps damped for self-concordant losses, its decrement and Hessian."""

    def direction(theta):
        matrix, gradient = _curved(objective, theta, v), objective.gradient(theta, v)
        return jax.scipy.linalg.solve(matrix, gradient, assume_a="pos"), gradient

    def unfinished(carry):
        _, decrement, taken = carry
        return (decrement > 1e-13) & (taken < _STEPS)

    def step(carry):
        theta, _, taken = carry
        down, gradient = direction(theta)
        moved = objective.scores(down)
        far = jnp.max(jnp.ptp(moved, axis=1) if moved.shape[1] > 1 else jnp.abs(moved))
        length = jnp.where(far > 1e-9, jnp.log1p(far) / jnp.maximum(far, 1e-9), 1.0)
        return theta - length * down, jnp.sqrt(jnp.maximum(gradient @ down, 0.0)), taken + 1

    theta, *_ = jax.lax.while_loop(unfinished, step, (theta, jnp.asarray(jnp.inf), 0))
    down, gradient = direction(theta)
    decrement = jnp.sqrt(jnp.maximum(gradient @ down, 0.0))
    return theta, decrement, _curved(objective, theta, v)


def _problem(shape, key, intercepts):
    name, outputs, n, d = shape
    keys = jax.random.split(key, 10)
    x = _features(keys[0], n, d)
    true = jax.random.normal(keys[1], (d, outputs)) * jnp.exp(jax.random.normal(keys[2]))
    y = _targets(keys[3], name, x @ true)
    l2 = 10.0 ** jax.random.uniform(keys[4], (), minval=-5.0, maxval=2.0)
    weights = jnp.where(
        jax.random.bernoulli(keys[5]), 1.0, jax.random.uniform(keys[6], (n,), minval=0.2, maxval=3)
    )
    query = _features(keys[7], _QUERIES, d)
    y_query = _targets(keys[8], name, query @ true)
    loss = getattr(lo.losses, name)
    parts = []
    for free in intercepts:
        objective = lo.glm(loss, x, y, outputs, intercept=free, weights=weights).with_l2(l2)
        parts.append(_one(objective, query, y_query, keys[9], free))
    known, wrong, total, reached = (jnp.stack(part) for part in zip(*parts, strict=True))
    return known, wrong, total, reached


def _one(objective, query, y_query, key, free):
    """(finite, wrong, looked at, whether the truths were reached) for one objective."""
    s = objective.weights
    fitted, rest, _ = _minimum(objective, objective.initial(), s)
    expansion = objective.at(fitted)
    factor, definite = factorise(full_matrix(expansion))
    pull = s * expansion.dot(factor.solve(objective.gradient(fitted, 0.5 * s)[None])[0])
    w = _leaving(key, objective.y, pull)
    v = s * (1 - w)
    truth, left, matrix = _minimum(objective, fitted, v)
    gradient = expansion.gradient(s * w)
    newton = jax.scipy.linalg.solve(_curved(objective, fitted, v), gradient, assume_a="pos")
    candidates = [fitted, fitted + factor.solve(gradient[None])[0], fitted + newton, truth]
    framed = frame(objective, fitted, factor)
    measures: list[Any] = [
        lo.measures.prediction(query),
        lo.measures.loss((query, y_query)),
        lo.measures.loss((query, y_query), reduce="mean"),
        lo.measures.self_loss(),
        lo.measures.parameter([0]),
    ]
    measures = [measure.bind(objective) for measure in measures]

    def holds(theta):
        """(finite, wrong, looked at) from one candidate."""
        known = wrong = total = jnp.zeros((), int)
        balls = [penalty_ball(objective, theta, v, free_intercept=free)]
        balls += [
            hessian_ball(framed, theta, v, fresh=fresh, exact=exact)
            for fresh in (True, False)
            for exact in (True, False)
        ]
        for ball in balls:
            for measure in measures:
                low, high = measure.enclose(objective, ball, w)
                value = measure.values(objective, truth, w)
                slope = jax.jacrev(lambda t, m=measure: m.values(objective, t, w))(truth)
                # what the truth itself may be off by
                size = jnp.sum(slope * jnp.linalg.solve(matrix, slope.T).T, axis=1)
                slack = 10 * jnp.sqrt(jnp.maximum(size, 0.0)) * left + 1e-10 * (1 + jnp.abs(value))
                finite = jnp.isfinite(low) & jnp.isfinite(high)
                broken = (
                    (value < low - slack)
                    | (value > high + slack)
                    | jnp.isnan(low)
                    | jnp.isnan(high)
                )
                known += jnp.sum(finite)
                wrong += jnp.sum(broken & jnp.isfinite(ball.radius))
                total += len(value)
        return known, wrong, total

    known, wrong, total = jax.lax.map(holds, jnp.stack(candidates))
    reached = definite & (rest < 1e-7) & (left < 1e-7) & jnp.all(jnp.isfinite(truth))
    return known.sum(), wrong.sum(), total.sum(), reached
