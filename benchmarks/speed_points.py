"""How long do the Newton steps without each single point take, beside statsmodels?

`GLMInfluence.d_params` of statsmodels is that step, in closed form, for generalised linear models
without penalty. Both start from the same fit; the largest difference between the two answers is
relative to the largest change in theta. Drawn data, because without a penalty Diabetes has no
optimum of full rank. A row with influence shows what the first order costs.
"""

from pathlib import Path

import numpy as np

import leaveout as lo
from benchmarks.harness import record, timed
from benchmarks.peers.problem import median
from benchmarks.peers.worker import PeerError, Worker


def main(folder: Path, size: str) -> None:
    """Time both: n points and d features drawn from a logistic model."""
    n, d = {"smoke": (500, 5), "small": (5_000, 50), "full": (20_000, 100)}[size]
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, d))
    y = (rng.random(n) < 1 / (1 + np.exp(-x @ rng.standard_normal(d) / np.sqrt(d)))).astype(int)
    fitted = lo.fit(lo.logistic(x, y, l2=0.0))
    groups = lo.Groups.from_indices(list(np.arange(n)[:, None]), n=n)
    change, seconds = timed(lambda: lo.newton(fitted, groups), 3)
    _, first_order = timed(lambda: lo.influence(fitted, groups), 3)
    shape = {"n": n, "d": d}
    rows = [
        shape | {"method": "lo.newton, each point alone", "seconds": seconds["median"],
                 "first_run_seconds": seconds["first"],
                 "failed": int(np.count_nonzero(change.status))},
        shape | {"method": "lo.influence, each point alone", "seconds": first_order["median"],
                 "first_run_seconds": first_order["first"]},
    ]  # fmt: skip
    row, versions = _statsmodels(x, y, fitted, np.asarray(change.value))
    record(folder, "speed_points", [*rows, shape | row], versions)


def _statsmodels(x, y, fitted, ours) -> tuple[dict, dict]:
    name = "statsmodels GLMInfluence.d_params"
    problem = {"x": np.c_[x, np.ones(len(x))], "y": y, "theta": np.asarray(fitted.flat)}
    try:
        with Worker("statsmodels_newton", "statsmodels", problem) as worker:
            worker.ask()
            seconds = median(lambda: worker.ask()["seconds"])
            difference = np.abs(worker.answer()["change"] - ours).max() / np.abs(ours).max()
            row = {"method": name, "seconds": seconds, "difference": float(difference)}
            return row, {"statsmodels": worker.versions}
    except PeerError as reason:
        return {"method": name, "skipped": str(reason)}, {}
