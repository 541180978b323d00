"""How often does something wrong leave the library without a word? And do studies survive?

- fuzz: random problems (see `fuzz`), every answer of status 0 compared with plain NumPy, and those
  of every method, edit and measure, of far and scaled columns (`fuzz_methods`). Each kind of
  problem runs in a process of its own: what thousands of programs take of the system's memory maps
  is then given back.
- kills: a study is killed (SIGKILL) at a random moment and gone on with, until it is finished; its
  chunks must be those of an uninterrupted one, bit for bit.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from multiprocessing.pool import ThreadPool
from pathlib import Path
from queue import SimpleQueue

import numpy as np

from benchmarks.fuzz import CASES, Case, check, draw
from benchmarks.fuzz_methods import LOSSES, title
from benchmarks.harness import alone, environment, record

#: kinds of problems, problems of each, problems of each loss by every method, kills
_SIZES = {"smoke": (1, 20, 0, 0), "small": (4, 10, 5, 2), "full": (len(CASES), 640, 520, 50)}


def main(folder: Path, size: str) -> None:
    """Count what was compared, flagged, refused and wrong; and the kills survived.

    The full run takes hours: one that was stopped goes on, and each row says at which commit.
    """
    kinds, each, every, kills = _SIZES[size]
    tasks = {
        _name(case): ["reliability", json.dumps(case), str(each)]
        for case in CASES[:: len(CASES) // kinds]
    }
    tasks |= {title(loss): ["fuzz_methods", loss, str(every)] for loss in LOSSES if every}
    rows = _begun(
        folder / "reliability.json", {case: int(task[-1]) for case, task in tasks.items()}
    )
    there = {row["case"] for row in rows}
    left = [task for case, task in tasks.items() if case not in there]
    cores = sorted(os.sched_getaffinity(0))
    idle = SimpleQueue()
    for core in cores:
        idle.put(core)
    commit = environment()["commit"]
    with ThreadPool(len(cores)) as pool:
        for row in pool.imap_unordered(lambda task: _alone(task, idle), left):
            rows.append(row | {"commit": commit})
            record(folder, "reliability", rows)  # so far: the next one takes long
    rows.sort(key=lambda row: list(tasks).index(row["case"]))
    keys = ("problems", "compared", "flagged", "refused", "wrong")
    total = {"case": "all", **{key: sum(row[key] for row in rows) for key in keys}}
    rows.append(total)
    if kills:
        rows.append(_killed(kills))
    record(folder, "reliability", rows)


def _begun(path: Path, problems: dict[str, int]) -> list[dict]:
    """Rows of a run of these `problems` by case that was stopped."""
    if not path.exists():
        return []
    rows = json.loads(path.read_text("utf-8"))["rows"]
    whole = any(row["case"] == "all" for row in rows)
    return [] if whole else [row for row in rows if problems.get(row["case"]) == row["problems"]]


def _alone(task: list[str], idle: SimpleQueue) -> dict:
    """A row, made in a process and on a core of its own: so small programs gain nothing by two."""
    core = idle.get()
    try:
        return alone(*task, core=core)
    finally:
        idle.put(core)


def _fuzzed(case: Case, count: int) -> dict:
    found, wrong = Counter(), []
    for seed in range(count):
        result = check(draw(case, seed))
        found += Counter({key: result[key] for key in ("compared", "flagged")})
        found["refused"] += bool(result["refused"])
        wrong += [f"seed {seed}: {what}" for what in result["wrong"]]
    return {
        "case": _name(case),
        "problems": count,
        "compared": found["compared"],
        "flagged": found["flagged"],
        "refused": found["refused"],
        "wrong": len(wrong),
        "which": wrong[:20],
    }


def _name(case: Case) -> str:
    free = "free intercept" if case.intercept else "no intercept"
    return f"{case.loss}, K={case.outputs}, n={case.n}, d={case.d}, {free}"


def _killed(kills: int) -> dict:
    """A study of wine, killed at random moments."""
    rng, killed, runs = np.random.default_rng(0), 0, 0
    with tempfile.TemporaryDirectory() as root:
        command = [sys.executable, "-m", "leaveout", "study", "wine", "--groups", "8"]
        command += ["--l2", "0.01", "--memory", "0.008", "--out"]
        begin = time.perf_counter()
        subprocess.run([*command, f"{root}/whole"], check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - begin
        same = True
        while killed < kills:
            folder = Path(root) / f"broken {runs}"
            while killed < kills and not (folder / "summary.json").exists():
                with subprocess.Popen([*command, str(folder)], stdout=subprocess.DEVNULL) as study:
                    try:
                        study.wait(rng.uniform(0.1, 0.9) * seconds)
                    except subprocess.TimeoutExpired:
                        study.send_signal(signal.SIGKILL)
                        killed += 1
            subprocess.run([*command, str(folder)], check=True, stdout=subprocess.DEVNULL)
            same &= _same(Path(root) / "whole", folder)
            shutil.rmtree(folder)
            runs += 1
    return {"case": "kills", "kills": killed, "studies": runs, "bit_identical": bool(same)}


def _same(one: Path, other: Path) -> bool:
    names = sorted(os.listdir(one / "chunks"))
    if names != sorted(os.listdir(other / "chunks")):
        return False
    for name in names:
        with np.load(one / "chunks" / name) as a, np.load(other / "chunks" / name) as b:
            if any(not np.array_equal(a[key], b[key]) for key in a.files):
                return False
    return True


if __name__ == "__main__":
    import jax

    jax.config.update("jax_enable_x64", True)
    print(json.dumps(_fuzzed(Case(*json.loads(sys.argv[1])), int(sys.argv[2]))))
