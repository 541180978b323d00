"""How much of what the device can do do we reach?

The roof is a square matrix product in float64, timed in the same run. An evaluation of the value
and the gradient of many groups at once contains two products with the data, u rows' and its
transpose: they are timed bare, and `share` is their time over that of the whole evaluation.

- lo.glm with a user's own loss: automatic differentiation of the loss at the score;
- the same loss said to be convex (`losses.Loss(own, convex=True)`): gradients only, since a search
  along a line does without values; lo.logistic says so itself;
- lo.Objective: the general route, one loss of all parameters an example;
- lo.softmax, ten outputs, in its own coordinates (two products with a p x p basis on top).

`attained` is the rate of the bare products, and of a whole retraining, over the roof.
"""

from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import leaveout as lo
from benchmarks.harness import drawn, record, timed
from leaveout.fitting.fitted import with_rows
from leaveout.methods.coordinates import around

_SHAPES = {  # n, d, groups at once; the same for ten outputs; side of the square product
    "smoke": ((600, 10, 16), (300, 8, 8), 256),
    "small": ((20_000, 127, 256), (5_000, 100, 64), 2048),
    "full": ((20_000, 127, 512), (20_000, 200, 128), 4096),
}


def main(folder: Path, size: str) -> None:
    """Time the roof, evaluations and a retraining."""
    (n, d, groups), (n_many, d_many, groups_many), side = _SHAPES[size]
    square = jax.random.normal(jax.random.key(0), (side, side))
    _, seconds = timed(lambda: square @ square)
    roof = 2 * side**3 / seconds["median"]
    rows = [{"what": "matrix product", "shape": f"{side} x {side}", "gflops": roof / 1e9}]
    x, y = drawn(n, d)
    convex = lo.losses.Loss(_own, convex=True)
    rows += [
        _evaluation("lo.glm, own loss", lo.glm(_own, x, y, l2=1.0), groups, roof),
        _evaluation("lo.glm, own loss, convex", lo.glm(convex, x, y, l2=1.0), groups, roof),
        _evaluation("lo.logistic", lo.logistic(x, y, l2=1.0), groups, roof),
        _evaluation("lo.Objective", lo.Objective(_one, (x, y), np.zeros(d), l2=1.0), groups, roof),
    ]
    x_many, y_many = drawn(n_many, d_many, 10)
    rows.append(
        _evaluation("lo.softmax, K=10", lo.softmax(x_many, y_many, l2=1.0), groups_many, roof)
    )
    rows.append(_retraining(lo.fit(lo.logistic(x, y, l2=1.0)), 2 * groups, roof))
    record(folder, "speed_roofline", rows)


def _own(score, y):
    return jax.nn.softplus(score) - y * score


def _one(theta, example):
    return _own(example[0] @ theta, example[1])


def _evaluation(what: str, objective, groups: int, roof: float) -> dict:
    """Value and gradient of `groups` groups at once, beside the products that they contain."""
    fit = with_rows(lo.fit(objective), 2**34)
    problem = around(fit, own_l2=False)
    n, p = objective.n, objective.p
    outputs = objective.outputs
    rows = jax.random.normal(jax.random.key(1), (n, p // outputs))
    some = lo.groups.random(jax.random.key(2), objective, sizes=[n // 10] * groups)
    stays = problem.lay(objective.stays(jnp.asarray(some.dense())))
    u = 0.01 * jax.random.normal(jax.random.key(3), (groups, p))
    wide = u.reshape(groups * outputs, -1)

    @eqx.filter_jit
    def evaluate(problem, stays, u):
        return problem.function(stays, None)(u)

    @jax.jit
    def bare(u, rows):
        return (u @ rows.T) @ rows

    _, ours = timed(lambda: evaluate(problem, stays, u), 9)
    _, products = timed(lambda: bare(wide, rows), 9)
    work = 4 * n * p * groups
    return {
        "what": what, "shape": f"n={n:,} p={p:,} groups={groups}",
        "seconds": ours["median"], "bare_seconds": products["median"],
        "share": products["median"] / ours["median"],
        "attained": work / ours["median"] / roof, "bare_attained": work / products["median"] / roof,
    }  # fmt: skip


def _retraining(fit: lo.Fit, count: int, roof: float) -> dict:
    """Groups of 0.25 to 25 % retrained: counted evaluations over the time it took."""
    objective = fit.objective
    sizes = lo.groups.sizes(objective.n, count)
    groups = lo.groups.random(jax.random.key(4), objective, sizes=sizes)
    change, seconds = timed(lambda: lo.retrain(fit, groups), 3)
    evaluations = float(np.mean(np.asarray(change.steps)))
    work = 4 * objective.n * objective.p * evaluations * count
    return {
        "what": "lo.retrain", "shape": f"n={objective.n:,} p={objective.p:,} groups={count}",
        "seconds": seconds["median"], "evaluations_a_group": evaluations,
        "attained": work / seconds["median"] / roof,
    }  # fmt: skip
