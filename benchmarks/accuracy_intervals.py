"""Do certified intervals ever fail?

- adversarial: problems made to break a certificate, every interval compared with the truth;
- proofs: the same through `lo.effects`, on harder inputs, against a truth beyond float64.
"""

from pathlib import Path

import jax

from benchmarks.adversarial import SHAPES, checks
from benchmarks.harness import gathered, record
from benchmarks.proofs import CASES, title

#: problems of a shape; cases of proofs, problems of each in 80 bits and in 50 digits
_SIZES = {"smoke": (2, 1, 3, 1), "small": (100, 5, 20, 2), "full": (400, len(CASES), 350, 10)}


def main(folder: Path, size: str) -> None:
    """Every interval; in a full run a million through the public call."""
    per_shape, cases, *counts = _SIZES[size]
    rows = []
    for name, outputs, n, d in SHAPES[:1] if size == "smoke" else SHAPES:
        found = checks((name, outputs, n, d), per_shape, 1)
        rows.append({"loss": name, "outputs": outputs, "n": n, "d": d} | found)
        jax.clear_caches()  # programs of all are more than a process has maps of memory for
    total = {key: sum(row[key] for row in rows) for key in ("checks", "finite", "violations")}
    record(folder, "accuracy_adversarial", [*rows, {"loss": "all"} | total])
    tasks = {
        title(how, case): ("proofs", how, str(i), str(first), str(count))
        for how, first, count in zip(("long", "digits"), (0, 10**6), counts, strict=True)
        for i, case in enumerate(CASES[:cases])
    }
    rows = gathered(folder, "accuracy_proofs", tasks)
    keys = ("problems", "checks", "finite", "without_truth", "violations", "unbacked")
    whole = {key: sum(row.get(key, 0) for row in rows) for key in keys}
    record(folder, "accuracy_proofs", [*rows, {"case": "all"} | whole])
