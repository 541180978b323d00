"""Has it become slower? `python -m benchmarks.series RESULTS` adds a run to a series.

RESULTS is the folder of a run of `python -m benchmarks`. Each of our times is divided by that of
plain scikit-learn on the same data in the same run, so that another machine, or a busy one, moves
both. A line of JSON a run; the last line is compared with the median of those before on as many
cores, and what takes more than a quarter longer is said, with the exit code 1.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path

from leaveout.runtime.files import write_text

__all__ = ["add", "main", "ratios", "slower"]

OURS = ("influence", "Newton", "retrain at 1e-8", "retrain at 1e-6")
ALLOWED = 1.25


def ratios(rows: list[dict]) -> dict[str, float]:
    """Our milliseconds a group over scikit-learn's best, by data and method."""
    found = {}
    for data in dict.fromkeys(row["data"] for row in rows):
        mine = [row for row in rows if row["data"] == data]
        plain = [
            row["ms_a_group"]
            for row in mine
            if row["method"].startswith("scikit-learn") and row.get("accurate", True)
        ]
        for row in mine:
            if plain and row["method"] in OURS:
                found[f"{data}, {row['method']}"] = row["ms_a_group"] / min(plain)
    return found


def slower(series: list[dict]) -> dict[str, tuple[float, float]]:
    """What grew by more than a quarter: its ratio now, and the median of the runs before."""
    *before, last = series
    like = [run for run in before if run["cores"] == last["cores"]]
    found = {}
    for name, now in last["ratios"].items():
        past = [run["ratios"][name] for run in like if name in run["ratios"]]
        if past and now > ALLOWED * statistics.median(past):
            found[name] = (now, statistics.median(past))
    return found


def add(results: Path, path: Path) -> list[dict]:
    """The series with this run at its end, written."""
    read = json.loads((results / "speed_methods.json").read_text(encoding="utf-8"))
    where = read["environment"]
    run = {name: where[name] for name in ("commit", "device", "cores")}
    run |= {"jax": where["versions"]["jax"], "ratios": ratios(read["rows"])}
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    series = [*map(json.loads, lines), run]
    write_text(path, "".join(json.dumps(each) + "\n" for each in series))
    return series


def main(arguments: list[str] | None = None) -> int:
    """Add a run and say what became slower; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.series", description=__doc__)
    default = Path(__file__).parent / "results"
    parser.add_argument("results", nargs="?", type=Path, default=default, help="of a run")
    parser.add_argument("--series", type=Path, default=default / "series.jsonl", metavar="FILE")
    options = parser.parse_args(arguments)
    series = add(options.results, options.series)
    for name, ratio in series[-1]["ratios"].items():
        print(f"{name}: {ratio:.3f} of scikit-learn's time")
    worse = slower(series)
    for name, (now, past) in worse.items():
        print(f"slower: {name}, {now:.3f} of scikit-learn's time, {past:.3f} before")
    print(f"{len(series)} runs in {options.series}")
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
