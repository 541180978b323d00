"""Does the memory that `lo.effects` takes grow with the number of groups?

Every row is a process of its own: data, fit, the effects of up to 1,700 of the groups, so that
what is needed is compiled; then the peak of resident memory while the effects of all are computed
under a budget `memory=`, less what was resident before. `per_group_kib` is the growth since the row
before, spread over the groups that came on top: the answer's own numbers are `answer_kib` a group.
It tells where both rows fill whole chunks (100 groups of Diabetes do not). The allocator is told to
give back what is freed (MALLOC_MMAP_THRESHOLD_, which costs time): left alone it keeps blocks of up
to 32 MiB, and what is resident is then up to twice what is in use.
"""

import contextlib
import json
import sys
import time
from itertools import pairwise
from pathlib import Path

from benchmarks.harness import alone, fit_of, record
from leaveout.runtime.memory import give_back, most_resident, resident

_MIB = 2**20
_BUDGET = {"breast_cancer": 16, "diabetes": 256, "mnist_small": 1024}  # MiB
_METHODS = ("influence", "Newton", "actual")
_WARM = 1_700  # groups at most, spread over all sizes, before anything is measured


def main(folder: Path, size: str) -> None:
    """Measure: on breast_cancer in a smoke run, on real data of the paper otherwise."""
    cases = {
        "smoke": [("breast_cancer", (20, 200))],
        "small": [("diabetes", (100, 1_700))],
        "full": [("diabetes", (100, 1_700, 20_000)), ("mnist_small", (100, 1_640))],
    }[size]
    rows = []
    for data, counts in cases:
        for method in _METHODS:
            measured = [_row(data, method, count) for count in counts]
            for fewer, row in pairwise(measured):
                more = row["groups"] - fewer["groups"]
                row["per_group_kib"] = 1024 * (row["peak_mib"] - fewer["peak_mib"]) / more
            rows += measured
            record(folder, "memory_effects", rows)  # so far: the next one takes long


def _row(data: str, method: str, count: int) -> dict:
    at_once = {"MALLOC_MMAP_THRESHOLD_": "65536"}
    return alone("memory_effects", data, method, str(count), variables=at_once)


def _measure(name: str, method: str, count: int) -> dict:
    """What the process of one row does."""
    import jax
    import numpy as np

    jax.config.update("jax_enable_x64", True)
    import leaveout as lo

    data, fit = fit_of(name)
    groups = lo.groups.random(jax.random.key(0), data, sizes=lo.groups.sizes(data.n, count))
    query = data.x_query[:10], data.y_query[:10]
    measures = [lo.measures.loss(query), lo.measures.self_loss()]
    chosen = {"influence": lo.Influence(), "Newton": lo.Newton(), "actual": lo.Retrain()}[method]
    budget = _BUDGET[name] * _MIB
    some = groups[np.unique(np.linspace(0, count - 1, _WARM).astype(int))]
    lo.effects(fit, some, measures, chosen, memory=budget)
    before = _forget_peak()
    begin = time.perf_counter()
    effects = lo.effects(fit, groups, measures, chosen, memory=budget)
    seconds = time.perf_counter() - begin
    peak = _peak()
    return {"data": name, "method": method, "groups": count, "budget_mib": _BUDGET[name],
            "resident_before_mib": before / _MIB, "peak_mib": (peak - before) / _MIB,
            "answer_kib": effects.value[0].nbytes / 1024, "seconds": seconds,
            "failed": int(effects.status.astype(bool).sum())}  # fmt: skip


def _forget_peak() -> int:
    """Bytes resident now; the peak is counted from here where the system lets it be."""
    give_back()  # what is free, but kept, would hide growth
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return most_resident()
    return resident()


def _peak() -> int:
    """The most bytes that were resident at once since `_forget_peak`."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    return most_resident()


if __name__ == "__main__":
    print(json.dumps(_measure(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
