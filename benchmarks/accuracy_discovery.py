"""Which describable group makes a gap? Every conjunction scored, the leaders ranked and retrained.

Adult in full (32,561 rows) to depth 3: processor seconds of scoring, the recall of the ten groups
of largest effect among those retrained, the whole call. COMPAS. And a table of the size of German
credit, 800 rows to depth 4, beside what Gopher's notebook reports on another machine: 19.4 s of
processor time for 13,381 patterns, without retraining or a null.
"""

import time
from pathlib import Path

import numpy as np

import leaveout as lo
from benchmarks.harness import record
from leaveout.groups import Lattice
from leaveout.studies.discovery import described

_GOPHER = 19.4  # seconds of processor time


def main(folder: Path, size: str) -> None:
    """A drawn table of German credit's size; with data COMPAS and Adult, a fourth or all of it."""
    rows = [_drawn(200 if size == "smoke" else 800)]
    if size != "smoke":
        rows += _fairness("compas", "race", 1, _retrained(size))
        rows += _fairness("adult", "sex", 1 if size == "full" else 4, _retrained(size))
    record(folder, "accuracy_discovery", rows)


def _retrained(size: str) -> int:
    """How many conjunctions are retrained to know the true ten."""
    return 1500 if size == "full" else 500


def _drawn(n: int) -> dict:
    """Twenty columns of two to five values, and what scoring them takes."""
    rng = np.random.default_rng(0)
    frame = {f"c{k:02d}": rng.integers(0, 2 + k % 4, n) for k in range(20)}
    psi = rng.standard_normal(n)
    begin = time.process_time()
    lattice = Lattice.of(frame, depth=4, support=(0.05, 0.3))
    sums = [cells.sums(psi) for cells in lattice.cells()]
    seconds = time.process_time() - begin
    return {
        "data": "drawn, as German credit", "n": n, "conjunctions": int(sum(map(len, sums))),
        "score_seconds": seconds, "gopher_seconds_13381_patterns_elsewhere": _GOPHER,
    }  # fmt: skip


def _fairness(name: str, between: str, every: int, retrained: int) -> list[dict]:
    """The gap in predicted probability, and who makes it."""
    data = lo.datasets.load(name)
    rows = slice(None, None, every)
    fit = lo.fit(lo.logistic(data.x[rows], data.y[rows], l2=1e-3 * len(data.y[rows])))
    column = data.query_labels[between]
    values, count = np.unique(column, return_counts=True)
    pair = sorted(values[np.argsort(-count)[:2]].tolist())
    gap = lo.measures.gap(data.x_query, by=column, between=pair)
    frame = {key: value[rows] for key, value in described(data, ("COMPAS score",)).items()}
    n = fit.objective.n
    bound = gap.bind(fit.objective)
    now = float(bound.values(fit.objective, fit.flat, None)[0])
    way = -1 if now > 0 else 1
    psi = np.asarray(lo.per_point(fit, gap))[:, 0]
    begin = time.process_time()
    lattice = Lattice.of(frame, depth=3)
    parts = [(lattice.predicates(cells), cells.sums(psi)) for cells in lattice.cells()]
    scored = time.process_time() - begin
    sums = np.concatenate([part for _, part in parts])
    predicates = np.concatenate([part for part, _ in parts])
    begin, wall = time.process_time(), time.perf_counter()
    found = lo.discover(fit, frame, gap, direction=way)
    seconds, wall = time.process_time() - begin, time.perf_counter() - wall
    strata = np.char.add(np.asarray(frame["label"]).astype(str), frame[between].astype(str))
    strict = lo.discover(fit, frame, gap, direction=way, null=lo.Null(200, within=strata))
    head = {"data": name, "n": n, "gap": now, "between": f"{pair[0]} - {pair[1]}"}
    assert found.null is not None
    assert strict.null is not None
    lines = []
    for i, group in enumerate(found.groups.names):
        lines.append(head | {
            "group": str(group), "size": int(found.groups.size[i]),
            **{each: float(effects.value[i, 0]) for each, effects in found.effects.items()},
            "share_of_gap": float(found.best.value[i, 0] / now),
            "p_within_class": float(found.null.p[i, 0]),
            "p_within_class_and_side": float(strict.null.p[i, 0]),
        })  # fmt: skip
    recall = _recall(fit, gap, lattice, predicates, sums, way, retrained)
    unrestricted = lo.extreme(fit, gap, int(found.groups.size[0]), direction=way, stages=4,
                              exchanges=0)  # fmt: skip
    return [
        head | {"conjunctions": len(sums), "score_seconds": scored, "call_seconds": seconds,
                "call_wall_seconds": wall, **recall,
                "unrestricted_one_pass": float(unrestricted.one_pass[0]),
                "unrestricted_found": float(unrestricted.value[0])},
        *lines,
    ]  # fmt: skip


def _recall(fit, gap, lattice, predicates, sums, way: int, retrained: int) -> dict:
    """Of the ten conjunctions of largest effect among those retrained, how many each way names.

    Retrained are the first third by influence and, of the others, twice as many drawn at random.
    The last way is that of `lo.discover`: twice as many by Newton, the best of them by retraining.
    """
    order, rng = np.argsort(-way * sums, kind="stable"), np.random.default_rng(0)
    first, rest = order[: retrained // 3], order[retrained // 3 :]
    some = np.concatenate([first, rng.choice(rest, min(2 * retrained // 3, len(rest)), False)])
    groups = lattice.groups(predicates[some])
    actual = way * lo.effects(fit, groups, gap, lo.Retrain()).value[:, 0]
    truth = set(np.argsort(-actual, kind="stable")[:10])
    said = {
        "influence": way * sums[some],
        "newton": way * lo.effects(fit, groups, gap, lo.Newton()).value[:, 0],
    }
    leaders = np.argsort(-said["newton"], kind="stable")[:20]
    said["newton_and_retraining"] = np.full(len(some), -np.inf)
    said["newton_and_retraining"][leaders] = actual[leaders]
    return {
        f"recall_at_10_{name}": len(truth & set(np.argsort(-value, kind="stable")[:10])) / 10
        for name, value in said.items()
    } | {"retrained": len(some)}
