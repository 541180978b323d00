"""How does the time of a group grow with the number of groups, n, p and the share that leaves?

One of the four is varied, the others stay: 1,024 random groups, each of a tenth of 8,192 examples,
64 features drawn from a Gaussian. `evaluations` counts, for retraining, passes over all the data
for value and gradient; it is what hardly depends on any of the four but the share.
"""

from pathlib import Path

import jax
import numpy as np

import leaveout as lo
from benchmarks.harness import drawn, record, timed

_METHODS = {"influence": lo.influence, "Newton": lo.newton, "retrain": lo.retrain}
_USUAL = {"groups": 1024, "n": 8192, "d": 64, "alpha": 0.1}
_SWEEPS = {
    "groups": (16, 128, 1024, 8192),
    "n": (512, 2048, 8192, 32_768),
    "d": (16, 64, 256, 1024),
    "alpha": (0.0025, 0.01, 0.05, 0.1, 0.25, 0.5),
}


def main(folder: Path, size: str) -> None:
    """Sweep all four: two points of each in a small run, one in a smoke run."""
    rows = []
    for name, values in _SWEEPS.items():
        chosen = {"smoke": values[:1], "small": values[:2], "full": values}[size]
        usual = _USUAL | ({"groups": 64} if size != "full" else {})
        for value in chosen:
            rows += [{"sweep": name} | row for row in _point(usual | {name: value})]
    record(folder, "speed_scaling", rows)


def _point(at: dict) -> list[dict]:
    n, d, count = at["n"], at["d"], at["groups"]
    x, y = drawn(n, d)
    fit = lo.fit(lo.logistic(x, y, l2=1e-3 * n))
    sizes = np.full(count, max(int(at["alpha"] * n), 1))
    groups = lo.groups.random(jax.random.key(0), fit.objective, sizes=sizes)
    rows = []
    for name, method in _METHODS.items():
        change, seconds = timed(lambda m=method: m(fit, groups), 3)
        assert not change.status.any()
        row = at | {"method": name, "ms_a_group": 1e3 * seconds["median"] / count}
        if name == "retrain":
            row |= {"evaluations": float(np.median(change.steps)),
                    "most_evaluations": int(change.steps.max())}  # fmt: skip
        rows.append(row)
    return rows
