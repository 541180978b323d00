"""How often does something wrong leave the library without a word? And do studies survive?

- fuzz: random problems (see `fuzz`), every answer of status 0 compared with plain NumPy, and those
  of every method, edit and measure, of far and scaled columns (`fuzz_methods`); groups that alone
  have a column besides, under hardly any penalty.
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
from pathlib import Path

import numpy as np

from benchmarks.fuzz import CASES, OWN, Case, check, draw
from benchmarks.fuzz_methods import LOSSES, title
from benchmarks.harness import gathered, record

#: kinds of problems, problems of each, of each loss by every method, of own columns, kills
_SIZES = {
    "smoke": (1, 20, 0, 0, 0),
    "small": (4, 10, 5, 0, 2),
    "full": (len(CASES), 640, 520, 160, 50),
}


def main(folder: Path, size: str) -> None:
    """Count what was compared, flagged, refused and wrong; and the kills survived."""
    kinds, each, every, own, kills = _SIZES[size]
    tasks = {
        case.title: ["reliability", json.dumps(case), str(each)]
        for case in CASES[:: len(CASES) // kinds]
    }
    tasks |= {title(loss): ["fuzz_methods", loss, str(every)] for loss in LOSSES if every}
    tasks |= {
        _title(case, OWN): ["reliability", json.dumps(case), str(own), OWN]
        for case in CASES[::4]
        if own
    }
    rows = gathered(folder, "reliability", tasks)
    keys = ("problems", "compared", "flagged", "refused", "wrong")
    total = {"case": "all", **{key: sum(row[key] for row in rows) for key in keys}}
    rows.append(total)
    if kills:
        rows.append(_killed(kills))
    record(folder, "reliability", rows)


def _title(case: Case, kind: str | None) -> str:
    return case.title if kind is None else f"{case.title}, own columns"


def _fuzzed(case: Case, count: int, kind: str | None = None) -> dict:
    found, wrong = Counter(), []
    for seed in range(count):
        result = check(draw(case, seed, kind))
        found += Counter({key: result[key] for key in ("compared", "flagged")})
        found["refused"] += bool(result["refused"])
        wrong += [f"seed {seed}: {what}" for what in result["wrong"]]
    return {
        "case": _title(case, kind),
        "problems": count,
        "compared": found["compared"],
        "flagged": found["flagged"],
        "refused": found["refused"],
        "wrong": len(wrong),
        "which": wrong[:20],
    }


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
    print(json.dumps(_fuzzed(Case(*json.loads(sys.argv[1])), int(sys.argv[2]), *sys.argv[3:])))
