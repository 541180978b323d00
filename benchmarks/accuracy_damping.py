"""How far do predictions at the end of a training hang on the damping of the curvature?

Influence and the group Newton step by Gauss-Newton on a network on digits (64-64-10, tanh, 660
steps of 64 examples, SGD with momentum, and Adam), under dampings from almost none to one that
drowns the curvature, where influence is the product of gradients. The damping that follows from the
recipe is among them. One call of `lo.damping_sweep` a method.
"""

import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

import leaveout as lo
from benchmarks.harness import record
from leaveout.studies.networks import setups
from leaveout.studies.networks.table import scores


def main(folder: Path, size: str) -> None:
    """Score the sweep on random groups, groups within a class, and random halves."""
    rows = [row for variant in ("tanh", "adam") for row in _swept(variant, size)]
    record(folder, "accuracy_damping", rows)


def _swept(variant: str, size: str) -> list[dict[str, Any]]:
    """The rows of one way to train."""
    count, seeds, dampings = {
        "smoke": (3, 1, (1e-2, 1.0)),
        "small": (30, 2, (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e3)),
        "full": (60, 4, (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e3)),
    }[size]
    setup = setups.named("digits", variant)
    data = setups.whole(lo.datasets.digits(), setup)
    recipe = setups.recipe(data, setup)
    recipe = recipe.but(steps=22) if size == "smoke" else recipe
    run = lo.train(setups.objective(data, setup), recipe, key=jax.random.key(0), seeds=seeds)
    groups = groups_of(data, max(count, 5))
    query = lo.measures.margin((data.x_query[:20], data.y_query[:20]))
    actual = lo.effects(run, groups, query, lo.Retrain())
    own, rows = recipe.damping(), []
    for method in (lo.Influence(), lo.Newton()):
        begin = time.process_time()
        swept = lo.damping_sweep(run, groups, query, sorted({*dampings, own}), method)
        spent = (time.process_time() - begin) / len(swept)
        named = {f"{damping:.3g}": each for damping, each in swept.items()}
        for score in scores(named, actual, 100):
            if score.question == "this run":
                rows.append({
                    "setup": variant, "method": method.name, "damping": float(score.method),
                    "of the recipe": score.method == f"{own:.3g}", "family": score.family,
                    "spearman": score.spearman, "low": score.spearman_interval[0],
                    "high": score.spearman_interval[1], "slope": score.slope, "seconds": spent,
                })  # fmt: skip
    return rows


def groups_of(data: lo.datasets.Dataset, count: int) -> lo.Groups:
    """Random groups, groups within a class, and random halves."""
    keys = jax.random.split(jax.random.key(1), 3)
    halves = lo.groups.random(keys[2], data, sizes=np.full(count, data.n // 2))
    halves = lo.Groups.from_indices(
        np.split(halves.indices, halves.offsets[1:-1]), n=data.n, kind="half"
    )
    return (
        lo.groups.random(keys[0], data, sizes=lo.groups.sizes(data.n, count))
        + lo.groups.same_class(keys[1], data, sizes=lo.groups.sizes(data.n, count, high=0.08))
        + halves
    )
