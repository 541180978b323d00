"""How long does a bank of retrainings take, from the call to the last of them, compiling included?

Networks of their published recipes (`studies.networks.setups`), without random halves, or without
each of Parkinson's 42 patients. On a device the banks are those that the field trains: 5,000 halves
of Fashion-MNIST with random labels (SOURCE), and MNIST's 1,700 groups from 8 starts.

`roofline_h200_s` is what the device of that name takes at the least, by its data sheet (67 TFLOP/s
in float32, 4.8 TB/s): the larger of the operations of all steps (no gradient of inputs), and of
reading and writing parameters and momentum once a step. It is no measurement.
"""

import dataclasses
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

import leaveout as lo
from benchmarks.harness import record, time_left
from leaveout.runtime.memory import most_resident
from leaveout.studies.networks import families, setups

_SIZES = {  # groups, and trainings of each; 0 groups are those that come with the data
    "smoke": {"digits": (4, 1)},
    "small": {"digits": (40, 2), "concrete": (40, 2)},
    "full": {
        "concrete": (250, 4),
        "digits": (500, 4),
        "parkinsons": (0, 8),
        "mnist_small": (200, 2),
        "fashion_noisy": (100, 1),
    },
}
_ON_DEVICE = {"fashion_noisy": (5_000, 1), "mnist_small": (1_700, 8)}
_FLOPS, _BYTES = 67e12, 4.8e12  # a second, of an H200
_PASSES = 4  # over the parameters a step: they and the momentum, read and written


def main(folder: Path, size: str) -> None:
    """A row for each bank."""
    there = jax.default_backend() != "cpu"
    rows: list[dict[str, Any]] = []
    for name, (groups, seeds) in (_ON_DEVICE if there else _SIZES[size]).items():
        if time_left(name):
            rows.append(_bank(name, groups, seeds, 1 if size == "smoke" else None))
            record(folder, "speed_banks", rows)


def _bank(name: str, count: int, seeds: int, epochs: int | None) -> dict[str, Any]:
    setup = setups.named(name)
    if epochs is not None:
        setup = dataclasses.replace(setup, epochs=epochs)
    data = setups.whole(lo.datasets.load(name), setup)
    rng, groups = np.random.default_rng(0), families.natural(data)
    if count or groups is None:
        halves = [rng.choice(data.n, data.n // 2, replace=False) for _ in range(count)]
        groups = lo.Groups.from_indices(halves, n=data.n, kind="half")
    objective, recipe = setups.objective(data, setup), setups.recipe(data, setup)
    query = data.x_query[:10], data.y_query[:10]
    measure = lo.measures.margin(query) if data.labelled else lo.measures.prediction(query[0])
    begin = time.perf_counter()
    run = lo.train(objective, recipe, key=jax.random.key(0), seeds=seeds)
    trained, spent = time.perf_counter() - begin, time.process_time()
    effects = lo.effects(run, groups, measure, lo.Retrain())
    seconds, processor = time.perf_counter() - begin, time.process_time() - spent
    trainings, p = len(groups) * seeds, objective.p
    operations = recipe.batch * (6 * p - 2 * data.d * setup.hidden[0])
    work = recipe.steps * np.array([operations / _FLOPS, 4 * _PASSES * p / _BYTES])
    return {
        "data": name, "n": data.n, "p": p, "steps": recipe.steps, "groups": len(groups),
        "seeds": seeds, "trainings": trainings, "flagged": int(np.count_nonzero(effects.status)),
        "seconds": seconds, "of which training the run": trained,
        "processor_s_a_training": processor / trainings, "gib": most_resident() / 2**30,
        "roofline_h200_s": trainings * float(work.max()),
    }  # fmt: skip
