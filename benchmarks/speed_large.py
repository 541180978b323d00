"""How long do the largest problems take, on whatever device there is?

Diabetes (n=20,000, one output), MNIST (n=55,000, 7,850 parameters), and `lo.datasets.crowd`, which
has the size of MultiNLI (n=392,702, K=3) and 387 workers: random groups of 0.25 to 25 % of the
first two, each worker of the third. With --full on processors one group in twenty, evenly spread
over the sizes.

`error` is that of the effects of eight groups on the scores of 20 queries, against retraining to
1e-12, over the largest effect. `attained_tflops` counts two products with the data an evaluation
and nothing else. `first_effects` are those eight groups' effects on the first score of the first
query, for comparing devices.
"""

from pathlib import Path

import jax
import numpy as np

import leaveout as lo
from benchmarks.harness import penalty, record, time_left, timed
from leaveout.objectives.linear import LinearObjective
from leaveout.runtime.sharding import on_host

_CASES = {
    "smoke": ("breast_cancer",),
    "small": ("diabetes",),
    "full": ("diabetes", "crowd", "mnist"),
}
_GROUPS = {"breast_cancer": 40, "diabetes": 1_700, "mnist": 1_640}
_SHARE = 20
_CHECKED = 8
_QUERIES = 20


def main(folder: Path, size: str) -> None:
    """Time fits, influence, Newton and retraining."""
    rows = []
    for name in _CASES[size]:
        if not time_left(f"speed_large, {name}"):
            break
        rows += _measure(name, _SHARE if size == "full" and on_host() else 1)
        record(folder, "speed_large", rows)  # so far: the next one takes long


def _measure(name: str, share: int) -> list[dict]:
    data, groups = _problem(name)
    groups = groups[_spread(groups, len(groups) // share)]
    objective = lo.datasets.objective_for(data, penalty(data))
    fit, seconds = timed(lambda: lo.fit(objective), 1)
    row = {"data": name, "n": objective.n, "p": objective.p}
    rows = [row | {"method": "fit", "seconds": seconds["median"], "first": seconds["first"]}]

    def measured(method, call):
        change, seconds = timed(call, 1 if on_host() else 3)
        failed = int(np.count_nonzero(change.status))
        found = {"method": method, "groups": len(groups), "seconds": seconds["median"],
                 "first": seconds["first"], "failed": failed}  # fmt: skip
        rows.append(row | found)
        return change, seconds

    measured("influence", lambda: lo.influence(fit, groups))
    measured("Newton", lambda: lo.newton(fit, groups))
    change, seconds = measured("retrain", lambda: lo.retrain(fit, groups))
    passes = np.asarray(change.steps)
    work = 4 * objective.n * objective.p * float(passes.sum())
    rows[-1] |= {"evaluations": float(np.median(passes)), "most_evaluations": int(passes.max()),
                 "attained_tflops": work / seconds["median"] / 1e12}  # fmt: skip
    rows[-1] |= _checked(data, objective, fit, groups, change.value)
    return rows


def _problem(name: str) -> tuple[lo.datasets.Dataset, lo.Groups]:
    if name == "crowd":
        data = lo.datasets.crowd()
        groups = lo.Groups.from_labels(data.labels["worker"])
    else:
        data, count = lo.datasets.load(name), _GROUPS[name]
        sizes = lo.groups.sizes(data.n, count)
        groups = lo.groups.random(jax.random.key(0), data, sizes=sizes)
    return data, groups


def _spread(groups: lo.Groups, count: int) -> np.ndarray:
    """Positions of groups, evenly spread over the sizes."""
    order = np.argsort(groups.size, kind="stable")
    return order[np.linspace(0, len(groups) - 1, count).astype(int)]


def _checked(data, objective: LinearObjective, fit: lo.Fit, groups: lo.Groups, change) -> dict:
    """The error of the effects of a few groups."""
    rows = _spread(groups, _CHECKED)
    truth = lo.retrain(fit, groups[rows], lo.Retrain(1e-12))
    query = objective.widen(data.x_query[:_QUERIES])

    def effects(change):
        return np.asarray(jax.vmap(lambda c: objective.scores(c, query))(change))

    exact = effects(truth.value)
    error = np.abs(effects(change[rows]) - exact).max() / np.abs(exact).max()
    return {"error": float(error), "checked": groups.size[rows].tolist(),
            "first_effects": exact[:, 0, 0].tolist()}  # fmt: skip
