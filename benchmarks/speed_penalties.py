"""Many penalties: one call of retraining for all of them, or one call each?

Figure C.2 has ten values of l2. `lo.retrain(fit, groups, l2=...)` takes a penalty for each group,
so that ten times the groups go through in one call, in coordinates of one fit; a call for each
penalty has coordinates of its own, which are better. The ten fits that influence needs in either
case are timed apart. `difference` is between the parameters that both reach, over the largest.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import leaveout as lo
from benchmarks.harness import record, timed
from leaveout.studies.koh2019 import published

_CASES = {  # data set to groups
    "smoke": {"breast_cancer": 20},
    "small": {"diabetes": 40},
    "full": {"diabetes": 170, "fishdog": 170, "cdr": 170},
}


def main(folder: Path, size: str) -> None:
    """Time both ways, on breast_cancer in a smoke run, on real data of the paper otherwise."""
    rows = []
    for name, count in _CASES[size].items():
        rows += _measure(name, count)
        record(folder, "speed_penalties", rows)  # so far: the next one takes long


def _measure(name: str, count: int) -> list[dict]:
    data = lo.datasets.load(name)
    objective = lo.datasets.objective_for(data)
    grid = data.n * np.array(published.SWEEP)
    sizes = lo.groups.sizes(data.n, count)
    groups = lo.groups.random(jax.random.key(0), data, sizes=sizes)
    fits, fitting = timed(lambda: [lo.fit(objective.with_l2(l2)) for l2 in grid], 1)
    middle = fits[len(grid) // 2]
    repeated = groups[np.tile(np.arange(count), len(grid))]

    def apart():
        return [lo.retrain(fit, groups) for fit in fits]

    def together():
        return lo.retrain(middle, repeated, l2=np.repeat(grid, count))

    each, one_by_one = timed(apart, 1)
    every, at_once = timed(together, 1)
    theta = jnp.concatenate(
        [fit.flat + change.value for fit, change in zip(fits, each, strict=True)]
    )
    difference = jnp.abs(middle.flat + every.value - theta).max() / jnp.abs(theta).max()
    steps = np.concatenate([change.steps for change in each])
    failed = int(sum(np.count_nonzero(change.status) for change in each))
    row = {"data": name, "groups": count, "penalties": len(grid), "fits_seconds": fitting["median"]}
    return [
        row | {"way": "a call each", "seconds": one_by_one["median"],
               "evaluations": float(steps.mean()), "failed": failed},
        row | {"way": "one call", "seconds": at_once["median"],
               "evaluations": float(np.mean(every.steps)),
               "failed": int(np.count_nonzero(every.status)), "difference": float(difference)},
    ]  # fmt: skip
