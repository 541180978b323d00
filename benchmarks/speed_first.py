"""How long does one wait, from starting a process to its last line?

Whole processes, timed from outside: imports; a script that fits, asks about 16 groups by three
methods, prints a table, and asks about 23 groups more; scikit-learn's answer to the same question,
which are 64 fits; the main job; and `leaveout credit heart`. `cache` says what of JAX's programs is
there already: none are (`empty`), those of an earlier process (`kept`), or the process compiles
none. All of a round are run one after the other, and rounds in turn, so that ratios are of one run;
`seconds` are medians, of wall time, `processor` of processor time, of children too. `programs` are
compiled, or taken from the cache. `over_rival` divides by the least time of scikit-learn's script.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import leaveout as lo
from benchmarks.harness import penalty, record

_RIVAL = "scikit-learn newton-cholesky, 64 fits"


class _Job(NamedTuple):
    """A process.

    Attributes:
        what: it is, for a row.
        arguments: of the interpreter; {folder} is a new one.
        compiles: whether it asks JAX for programs.
        counts: whether its last line is JSON.
    """

    what: str
    arguments: tuple[str, ...]
    compiles: bool = True
    counts: bool = True


def main(folder: Path, size: str) -> None:
    """Time them: once in a smoke run, three times, five times."""
    rounds = {"smoke": 1, "small": 3, "full": 5}[size]
    with tempfile.TemporaryDirectory() as place:
        where = Path(place)
        jobs = _jobs(_problem(where, "breast_cancer" if size == "smoke" else "diabetes"), size)
        found: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for turn in range(rounds):
            for number, job in enumerate(jobs):
                kept = where / f"programs {number}"  # of the first round's process
                empty = where / f"programs {number}, {turn}" if turn else kept
                caches = {"empty": empty, "kept": kept} if job.compiles else {"none": kept}
                for cache, programs in caches.items():
                    runs = found.setdefault((job.what, cache), [])
                    runs.append(_timed(job, programs, where))
            record(folder, "speed_first", _rows(found))  # so far


def _jobs(problem: Path, size: str) -> list[_Job]:
    here = "benchmarks.first"
    jobs = [
        _Job("import jax", ("-c", "import jax"), compiles=False, counts=False),
        _Job("import leaveout", ("-c", "import leaveout"), compiles=False, counts=False),
        _Job(_RIVAL, ("-m", f"{here}.refits", str(problem)), compiles=False, counts=False),
        _Job("fit, 16 groups by three methods", ("-m", f"{here}.answer", str(problem))),
    ]
    groups = () if size != "smoke" else ("--groups", "3")
    study = ("-m", f"{here}.command", "study", "breast_cancer", *groups, "--out", "{folder}")
    jobs.append(_Job("leaveout study breast_cancer", study))
    if size != "smoke" and os.environ.get("LEAVEOUT_DATA"):
        credit = ("-m", f"{here}.command", "credit", "heart", "--out", "{folder}")
        jobs.append(_Job("leaveout credit heart", credit))
    return jobs


def _problem(folder: Path, name: str) -> Path:
    """A data set, and 64 random groups of it, in a file."""
    data = lo.datasets.load(name)
    rng, sizes = np.random.default_rng(0), lo.groups.sizes(data.n, 64)
    lists = [rng.choice(data.n, count, replace=False) for count in sizes]
    path = folder / "problem.npz"
    np.savez(
        path, x=data.x, y=data.y, x_query=data.x_query, y_query=data.y_query, l2=penalty(data),
        points=np.concatenate(lists), ends=np.cumsum(sizes),
    )  # fmt: skip
    return path


def _timed(job: _Job, cache: Path, where: Path) -> dict[str, Any]:
    """One run of a process, which has to succeed."""
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PLATFORMS": "cpu",
    }
    with tempfile.TemporaryDirectory(dir=where) as folder:
        arguments = [part.format(folder=Path(folder) / "study") for part in job.arguments]
        before, begin = _spent(), time.perf_counter()
        ran = subprocess.run(
            [sys.executable, *arguments], env=environment, capture_output=True, text=True
        )
        taken = {"seconds": time.perf_counter() - begin, "processor": _spent() - before}
        if ran.returncode:
            raise RuntimeError(f"{job.what} ended with {ran.returncode}: {ran.stderr[-2_000:]}")
    return taken | (json.loads(ran.stdout.splitlines()[-1]) if job.counts else {})


def _spent() -> float:
    """Seconds that processors have spent on processes that ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _rows(found: dict[tuple[str, str], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    rival = min(one["seconds"] for one in found[_RIVAL, "none"])
    rows = []
    for (what, cache), runs in found.items():
        medians = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        least = min(run["seconds"] for run in runs)
        row = {"what": what, "cache": cache} | medians | {"least": least, "runs": len(runs)}
        rows.append(row | ({"over_rival": row["seconds"] / rival} if "groups by" in what else {}))
    return rows
