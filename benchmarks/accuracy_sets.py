"""How much is there beyond one pass by influence? Sets found, beside AMIP, greedy and brute force.

Brute force on small drawn problems; the score of four test points of breast_cancer; the offer of
credit in Morocco, its sign and its limits; seven trials of microcredit; Diabetes at 5 %.
"""

import time
from pathlib import Path

import numpy as np

import leaveout as lo
from benchmarks.harness import fit_of, record, timed
from benchmarks.rivals_sets import (
    Model,
    amip,
    brute_force,
    fewest_of_amip,
    fewest_of_greedy,
    greedy,
)

_POINTS = (30, 57, 94, 71)
_LIMITS = (5, 10, 20, 50, 100)


def main(folder: Path, size: str) -> None:
    """Drawn problems, breast_cancer; with data Morocco and microcredit; full: Diabetes too."""
    count = {"smoke": 2, "small": 20, "full": 200}[size]
    rows = [_small(kind, count) for kind in ("logistic", "squares")]
    rows += _breast_cancer(_POINTS[: 1 if size == "smoke" else 4], 5 if size == "smoke" else 57)
    record(folder, "accuracy_sets", rows)
    if size != "smoke":
        rows += [*_morocco((28, 138, 276) if size == "full" else (28,)), *_trials()]
        record(folder, "accuracy_sets", rows)
    if size == "full":
        record(folder, "accuracy_sets", [*rows, _diabetes()])


def _model(x, y, a, l2: float, logistic: bool, intercept: bool = True) -> Model:
    wide = np.c_[x, np.ones(len(x))] if intercept else np.asarray(x)
    penalty = np.full(wide.shape[1], l2)
    penalty[x.shape[1] :] = 0.0
    return Model(wide, np.asarray(y, float), np.asarray(a, float), penalty, logistic)


def _small(kind: str, count: int) -> dict:
    """Shares of the best set of 1 to 3 of 14 points, and whether the limit holds."""
    shares, passes, broken = [], [], 0
    for seed in range(count):
        rng = np.random.default_rng(seed)
        x, size, direction = rng.standard_normal((14, 3)), seed % 3 + 1, (-1) ** (seed // 3)
        score = x @ rng.standard_normal(3)
        real = score + rng.standard_normal(14)
        y = real if kind == "squares" else (score + rng.logistic(size=14) > 0).astype(float)
        y = y if kind == "squares" or 0 < y.sum() < 14 else (x[:, 0] > 0).astype(float)
        query = rng.standard_normal(3)
        model = _model(x, y, np.append(query, 1.0), 1.0, kind == "logistic")
        best = brute_force(model, size, direction)
        make = lo.squares if kind == "squares" else lo.logistic
        fit, measure = lo.fit(make(x, y, l2=1.0)), lo.measures.prediction(query[None])
        found = lo.extreme(fit, measure, size, direction=direction, bound=True)
        shares.append(direction * found.value[0] / best)
        passes.append(direction * amip(model, size, direction)[2] / best)
        broken += found.upper is not None and direction * found.upper[0] < best
    return {
        "data": f"{kind}, 14 points, best 1 to 3 by brute force",
        "problems": count,
        "within_1_percent": float(np.mean(np.array(shares) >= 0.99)),
        "worst": float(np.min(shares)),
        "amip_within_1_percent": float(np.mean(np.array(passes) >= 0.99)),
        "amip_worst": float(np.min(passes)),
        "limits_passed": int(broken),
    }


def _breast_cancer(points, most: int) -> list[dict]:
    """The score of test points pushed towards the other class."""
    data = lo.datasets.breast_cancer()
    fit = lo.fit(lo.logistic(data.x, data.y, l2=1.0))
    rows = []
    for point in points:
        query, way = data.x_query[point], 1 if data.y_query[point] == 0 else -1
        measure = lo.measures.prediction(query[None])
        sizes = sorted({max(most // 10, 1), most // 2, most})
        begin = time.process_time()
        found = lo.extreme(fit, measure, sizes, direction=way)
        seconds = time.process_time() - begin
        model = _model(data.x, data.y, np.append(query, 1.0), 1.0, True)
        grown = way * greedy(model, most, way)
        for k, size in enumerate(sizes):
            _, said, passed = amip(model, size, way)
            rows.append({
                "data": "breast_cancer", "point": point, "size": size,
                "influence_says": way * said, "amip": way * passed,
                "greedy": float(grown[size - 1]), "found": float(way * found.value[k]),
                "over_amip": float(found.value[k] / passed),
                "over_greedy": float(way * found.value[k] / grown[size - 1]),
                "refits": int(found.refits[k]), "accuracy": float(found.accuracy[k]),
                "accuracy_now": found.accuracy_now, "seconds_of_all_sizes": seconds,
            })  # fmt: skip
    return rows


def _morocco(sizes: tuple[int, ...]) -> list[dict]:
    """The coefficient of the offer: who turns its sign, and what no set can do."""
    data = lo.datasets.morocco()
    offer = np.eye(data.d + 1)[0]
    fit = lo.fit(lo.squares(data.x, data.y, l2=0.0))
    model = _model(data.x, data.y, offer, 0.0, False)
    begin = time.process_time()
    flips = lo.flips(fit, lo.measures.parameter(0))
    seconds = time.process_time() - begin
    said, refitted = fewest_of_amip(model, 100)
    grown = greedy(model, max(60, *sizes), -1)
    rows = [{
        "data": "morocco, the offer's sign", "now": float(flips.now[0]),
        "influence_says": int(flips.influence_says[0]), "amip_says": said, "amip": refitted,
        "greedy": int(np.argmax(-grown > flips.now[0])) + 1, "found": int(flips.size[0]),
        "seconds": seconds,
    }]  # fmt: skip
    for size in sizes:
        found = lo.extreme(fit, lo.measures.parameter(0), size, direction=-1)
        _, said, passed = amip(model, size, -1)
        rows.append({
            "data": "morocco, the offer", "size": size, "influence_says": said, "amip": passed,
            "greedy": float(grown[size - 1]), "found": float(found.value[0]),
        })  # fmt: skip
    return [*rows, *_limits(data)]


def _limits(data: lo.datasets.Dataset) -> list[dict]:
    """Limits and sets found without the indicators of pairs."""
    own = [k for k, name in enumerate(data.feature_names) if not name.startswith("pair=")]
    fit = lo.fit(lo.squares(data.x[:, own], data.y, l2=0.0))
    begin = time.process_time()
    found = lo.extreme(fit, lo.measures.parameter(0), _LIMITS, direction=-1, bound=True)
    seconds = time.process_time() - begin
    assert found.upper is not None
    flips = lo.flips(fit, lo.measures.parameter(0), bound=True)
    assert flips.at_least is not None
    each = zip(_LIMITS, found.value, found.upper, strict=True)
    head = {"data": "morocco without pairs", "n": data.n, "p": len(own) + 1}
    return [
        *(head | {"size": size, "found": float(value), "limit": float(limit),
                  "limit_over_found": float(limit / value), "seconds_of_all_sizes": seconds}
          for size, value, limit in each),
        head | {"now": float(flips.now[0]), "found": int(flips.size[0]),
                "at_least": int(flips.at_least[0]),
                "influence_says": int(flips.influence_says[0])},
    ]  # fmt: skip


def _trials() -> list[dict]:
    """Who turns the sign of the effect of microcredit on profits, trial by trial."""
    data = lo.datasets.microcredit()
    fit = lo.fit(lo.squares(data.x, data.y, l2=0.0, intercept=False))
    begin = time.process_time()
    flips = lo.flips(fit, lo.measures.parameter(list(range(7, 14))), most=100)
    seconds = time.process_time() - begin
    rows = []
    for k, name in enumerate(data.feature_names[:7]):
        mine = data.labels["trial"] == name
        treated = (data.labels["arm"][mine] == "treated").astype(float)[:, None]
        model = _model(treated, data.y[mine], [1.0, 0.0], 0.0, False)
        said, refitted = fewest_of_amip(model, 60)
        rows.append({
            "data": f"microcredit, {name}", "n": int(mine.sum()), "now": float(flips.now[k]),
            "influence_says": int(flips.influence_says[k]), "amip_says": said, "amip": refitted,
            "greedy": fewest_of_greedy(model, 40), "found": int(flips.size[k]),
            "seconds_of_all": seconds,
        })  # fmt: skip
    return rows


def _diabetes(queries: int = 100) -> dict:
    """Scores of test points at 5 % of 20,000: the search beside retraining one group.

    One group is one of those that were found, or as many points drawn at random, each in a batch.
    """
    data, fit = fit_of("diabetes")
    measure = lo.measures.prediction(data.x_query[:queries])
    some = lo.groups.random(_key(), fit.objective, sizes=[1000] * queries)
    grown, stages = timed(lambda: lo.extreme(fit, measure, 0.05, direction=-1, exchanges=0), 1)
    found, whole = timed(lambda: lo.extreme(fit, measure, 0.05, direction=-1), 1)
    _, one = timed(lambda: lo.effects(fit, found.groups, measure, lo.Retrain()), 1)
    _, one_random = timed(lambda: lo.effects(fit, some, measure, lo.Retrain()), 1)
    each = {
        "stages_seconds": stages["median"], "seconds": whole["median"],
        "retrain_seconds": one["median"], "retrain_random_seconds": one_random["median"],
    }  # fmt: skip
    return {
        "data": "diabetes, 5 %", "queries": queries, "size": int(found.size[0]),
        "over_amip": (found.value / found.one_pass).tolist(), "refits": found.refits.tolist(),
        "stages_over_found": (grown.value / found.value).tolist(),
        **{f"{name}_each": total / queries for name, total in each.items()},
        "stages_retrainings_worth": each["stages_seconds"] / each["retrain_seconds"],
        "retrainings_worth": each["seconds"] / each["retrain_seconds"],
        "accuracy": found.accuracy.tolist(), "accuracy_now": found.accuracy_now,
    }  # fmt: skip


def _key():
    import jax

    return jax.random.key(0)
