"""Does `lo.solvers.Auto` choose well? Newton steps by every route, over n, p, K and |w|.

`ratio` is the time of Auto over that of the fastest route: 1.5 is what its count of operations is
allowed to miss by. Routes that would take more than ten times what Auto's count says is the
cheapest are left out.
"""

from functools import partial
from pathlib import Path
from statistics import median

import jax
import numpy as np

import leaveout as lo
from benchmarks.harness import drawn, record, timed
from leaveout.fitting.fitted import with_rows
from leaveout.solvers import CG, Auto, Block, Cholesky, LowRank

_GRIDS = {  # (n, d, K), groups at once
    "smoke": [((300, 10, 1), 8), ((120, 8, 3), 8)],
    "small": [((2_000, 30, 1), 64), ((2_000, 300, 1), 64), ((1_000, 30, 3), 64)],
    "full": [
        ((2_000, 30, 1), 128), ((2_000, 300, 1), 128), ((20_000, 127, 1), 128),
        ((5_000, 1_000, 1), 32), ((300, 1_000, 1), 32),
        ((2_000, 30, 3), 64), ((10_000, 100, 3), 64), ((1_000, 50, 10), 32),
    ],
}  # fmt: skip
_ROUNDS = 5  # the routes take turns
_SHARES = (0.0025, 0.025, 0.25)  # of the examples in a group


def main(folder: Path, size: str) -> None:
    """Time all routes on every point of the grid."""
    rows = []
    for (n, d, outputs), count in _GRIDS[size]:
        fit = _fit(n, d, outputs)
        for share in _SHARES:
            group = max(int(share * n), 1)
            groups = lo.groups.random(jax.random.key(1), fit.objective, sizes=[group] * count)
            chosen, routes = _routes(fit, group)
            calls = {type(solver).__name__: partial(lo.newton, fit, groups, solver)
                     for solver in [Auto(), *routes]}  # fmt: skip
            for call in calls.values():
                jax.block_until_ready(call())  # compiled
            rounds = [
                {name: timed(call, 1)[1]["median"] for name, call in calls.items()}
                for _ in range(_ROUNDS)
            ]
            each = {name: 1e3 * median(r[name] for r in rounds) / count for name in calls}
            best = min(value for name, value in each.items() if name != "Auto")
            ratio = each["Auto"] / best
            shape = {"n": n, "p": fit.objective.p, "K": outputs, "group": group, "groups": count}
            milliseconds = {f"ms {name}": value for name, value in each.items()}
            rows.append(shape | {"chosen": chosen} | milliseconds | {"ratio": ratio})
        record(folder, "speed_auto", rows)
    worst = max(row["ratio"] for row in rows)
    within = np.mean([row["ratio"] <= 1.5 for row in rows])
    rows.append({"n": "all", "worst_ratio": float(worst), "within_1.5": float(within)})
    record(folder, "speed_auto", rows)


def _fit(n: int, d: int, outputs: int) -> lo.Fit:
    x, y = drawn(n, d, outputs)
    return lo.fit((lo.logistic if outputs == 1 else lo.softmax)(x, y, l2=1e-3 * n))


def _routes(fit: lo.Fit, group: int):
    """The name of Auto's choice for such a group, and the routes that are worth timing."""
    fit = with_rows(fit, 2**30)
    assert fit.metric is not None
    zeros = np.zeros((1, group))
    block = Block(jax.numpy.asarray(zeros), jax.numpy.asarray(zeros.astype(int)))
    costs = Auto().costs(fit.expansion(), fit.metric, block)
    least = min(costs.values())
    kinds = [type(solver) for solver, cost in costs.items() if cost <= 10 * least]
    name = type(min(costs, key=lambda solver: costs[solver])).__name__
    return name, [kind() for kind in (Cholesky, CG, LowRank) if kind in kinds]
