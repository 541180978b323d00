"""Problems, timing and recording that every benchmark shares."""

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from multiprocessing.pool import ThreadPool
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import jax
import numpy as np

import leaveout as lo
from leaveout.runtime.files import write_text

__all__ = [
    "alone",
    "cores",
    "drawn",
    "environment",
    "fit_of",
    "gathered",
    "minutes_left",
    "penalty",
    "record",
    "stop_after",
    "time_left",
    "timed",
]

#: data set to l2 / n: the choice of cross-validation, where there is one
_L2_OVER_N = {
    "adult": 1e-4,
    "breast_cancer": 2e-3,
    "cdr": 10 ** (-4 + 1 / 3),
    "crowd": 1e-4,
    "diabetes": 10 ** (-4 + 1 / 3),
    "digits": 1e-3,
    "enron": 10 ** (-4 + 1 / 3),
    "fishdog": 1e-4,
    "mnist": 1e-3,
    "mnist_small": 1e-3,
}


def penalty(data: lo.datasets.Dataset) -> float:
    """l2 of a data set."""
    return data.n * _L2_OVER_N[data.name]


def fit_of(name: str) -> tuple[lo.datasets.Dataset, lo.Fit]:
    """A data set, and its logistic or softmax regression at that l2."""
    data = lo.datasets.load(name)
    return data, lo.fit(lo.datasets.objective_for(data, penalty(data)))


def drawn(n: int, d: int, outputs: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian inputs, and labels of a linear model: 0.0 and 1.0, or `outputs` classes."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, d))
    scores = x @ rng.standard_normal((d, outputs)) / np.sqrt(d) + rng.gumbel(size=(n, outputs))
    return x, (scores[:, 0] > 0.5).astype(float) if outputs == 1 else np.argmax(scores, axis=1)


def timed(call: Callable[[], Any], repeats: int = 5) -> tuple[Any, dict[str, float]]:
    """The answer of a call, the seconds of its first run (compilation included) and of the others.

    The answer is waited for. The median of the repeats is what is compared.
    """
    begin = time.perf_counter()
    answer = jax.block_until_ready(call())
    first = time.perf_counter() - begin
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        answer = jax.block_until_ready(call())
        seconds.append(time.perf_counter() - begin)
    return answer, {
        "first": first,
        "median": statistics.median(seconds),
        "least": min(seconds),
        "most": max(seconds),
    }


_end: list[float] = []  # when no other case is begun


def stop_after(minutes: float | None) -> None:
    """From now, how long cases may be begun; None for ever."""
    _end[:] = [] if minutes is None else [time.monotonic() + 60 * minutes]


def minutes_left() -> float | None:
    """How long cases may still be begun; None for ever."""
    return (_end[0] - time.monotonic()) / 60 if _end else None


def time_left(what: str) -> bool:
    """Whether a case may still be begun; said where not."""
    minutes = minutes_left()
    left = minutes is None or minutes > 0
    if not left:
        print(f"left out, as the time is up: {what}", flush=True)
    return left


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def environment() -> dict[str, Any]:
    """Versions, device, precision and commit."""
    commit = ""
    if shutil.which("git"):  # and a checkout
        head = ["git", "rev-parse", "--short", "HEAD"]
        commit = subprocess.run(head, capture_output=True, text=True, check=False).stdout.strip()
    packages = ("leaveout", "jax", "jaxlib", "numpy", "scipy", "scikit-learn")
    return {
        "commit": commit,
        "versions": {name: version(name) for name in packages},
        "python": platform.python_version(),
        "device": str(jax.devices()[0].device_kind),
        "cores": cores(),
        "float64": bool(jax.config.read("jax_enable_x64")),
    }


def alone(
    module: str, *arguments: str, core: int | None = None, variables: dict[str, str] | None = None
) -> dict[str, Any]:
    """The row that a module of `benchmarks` prints last, as JSON, in a process of its own.

    Args:
        module: its name.
        arguments: of its command line.
        core: of the processor, the only one that the process may use; default all.
        variables: of its environment, beside those of this process.
    """
    pinned = () if core is None else ("taskset", "-c", str(core))
    command = [*pinned, sys.executable, "-m", f"benchmarks.{module}", *arguments]
    there = os.environ | (variables or {})
    ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=there)
    return json.loads(ran.stdout.splitlines()[-1])


def gathered(folder: Path, name: str, tasks: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """A row of each task, made in a process and on a core of its own, recorded as they come.

    So small programs gain nothing by two cores, and what thousands of them take of the system's
    maps of memory is given back. It takes hours: a run that was stopped goes on, and each row says
    at which commit it was made.

    Args:
        folder: where to.
        name: of the file.
        tasks: what `alone` is given, by the row's `case`; the last is the row's `problems`.
    """
    rows = _begun(folder / f"{name}.json", {case: int(task[-1]) for case, task in tasks.items()})
    there = {row["case"] for row in rows}
    idle: SimpleQueue[int] = SimpleQueue()
    for core in sorted(os.sched_getaffinity(0)):
        idle.put(core)

    def made(task: Sequence[str]) -> dict[str, Any]:
        core = idle.get()
        try:
            return alone(*task, core=core)
        finally:
            idle.put(core)

    commit = environment()["commit"]
    with ThreadPool(cores()) as pool:
        left = [task for case, task in tasks.items() if case not in there]
        for row in pool.imap_unordered(made, left):
            rows.append(row | {"commit": commit})
            record(folder, name, rows)  # so far: the next one takes long
    return sorted(rows, key=lambda row: list(tasks).index(row["case"]))


def _begun(path: Path, problems: Mapping[str, int]) -> list[dict[str, Any]]:
    """Rows of a run of these `problems` by case that was stopped."""
    if not path.exists():
        return []
    rows = json.loads(path.read_text("utf-8"))["rows"]
    whole = any(row["case"] == "all" for row in rows)
    return [] if whole else [row for row in rows if problems.get(row["case"]) == row["problems"]]


def record(
    folder: Path, name: str, rows: list[dict[str, Any]], peers: dict[str, Any] | None = None
) -> None:
    """Write rows and environment as JSON, and print the rows as a table.

    Args:
        folder: where to.
        name: of the file, and of the table.
        rows: what was measured.
        peers: versions of rivals that ran in environments of their own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    where = environment() | ({"peers": peers} if peers else {})
    text = json.dumps({"environment": where, "rows": rows}, indent=2)
    write_text(folder / f"{name}.json", text + "\n")
    print(f"\n{name}")
    for row in rows:
        print("  " + "  ".join(f"{key} {_text(value)}" for key, value in row.items()))


def _text(value) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
