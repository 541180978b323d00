"""How wide are certified intervals, and what do they cost?

- ladder: on real data, each approximation's error, the share of groups it certifies and how
  widely, and what both cost, beside retraining; then what a tolerance of 1e-3 takes;
- trust: how often a green, amber or red light was right about influence.

Widths and errors are shares of the root mean square actual effect of a column, medians over groups
and columns. Columns are predictions and losses of ten queries each; groups of 0.25 to 25 %, half
of them random, half from the tails of influence on the first query's loss.
"""

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

import leaveout as lo
from benchmarks.harness import fit_of, record, timed

_METHODS = (lo.Influence(), lo.Influence(rescaled=True), lo.SecondOrder(), lo.Krylov(1),
            lo.Newton(), lo.NewtonChebyshev(), lo.Newton(steps=2), lo.Retrain())  # fmt: skip
_QUERIES = 10
_LEVELS = (1e-4, 1e-3, 1e-2, 1e-1)  # of l2 / n


def main(folder: Path, size: str) -> None:
    """Everything; the paper's data only in a full run."""
    smoke = size == "smoke"
    names = {
        "smoke": ["breast_cancer"],
        "small": ["breast_cancer"],
        "full": ["breast_cancer", "diabetes", "cdr", "digits", "mnist_small", "fishdog"],
    }[size]
    methods, levels = (_METHODS[::4], _LEVELS[:1]) if smoke else (_METHODS, _LEVELS)
    ladder, trust, count = [], [], 20 if smoke else 200
    for name in names:
        more, light = _measure(name, methods, count)
        ladder, trust = ladder + more, trust + light
        record(folder, "accuracy_certificates", ladder)
        record(folder, "accuracy_trust", trust)
    if size == "full":
        record(folder, "accuracy_trust", trust + _occupations())
    steps = []
    for name in names:
        steps += _penalties(name, levels, count)
        record(folder, "accuracy_penalties", steps)


def _measure(name: str, methods: Sequence[lo.Method], count: int) -> tuple[list[dict], list[dict]]:
    data, fit = fit_of(name)
    measures, groups = _measures(data), _groups(data, fit, count)
    memory = 2**31
    actual = lo.effects(fit, groups, measures, lo.Retrain(1e-11), memory=memory).value
    rms = np.sqrt(np.mean(actual**2, axis=0))
    big = fit.objective.p > 2000
    rows = []
    for method in methods:
        if big and (method == lo.SecondOrder() or "resc" in method.name):
            continue
        repeats = 5 if method == lo.Retrain() else 1  # where their ratio is the question
        plain, alone = timed(
            lambda m=method: lo.effects(fit, groups, measures, m, memory=memory).value, repeats
        )
        proven, with_bounds = timed(
            lambda m=method: lo.effects(fit, groups, measures, m, certify=True, memory=memory),
            repeats,
        )
        rows.append({
            "data": name, "method": method.name, "groups": count,
            **_proven(np.asarray(plain), proven, actual),
            "ms_a_group": 1e3 * alone["median"] / count,
            "ms_a_group_certified": 1e3 * with_bounds["median"] / count,
        })  # fmt: skip
    begin = lo.Retrain() if big else lo.NewtonChebyshev()
    met, seconds = timed(
        lambda: lo.effects(fit, groups, measures, begin, tolerance=1e-3, memory=memory), 1
    )
    outside = (actual < met.lower - 1e-9 * rms) | (actual > met.upper + 1e-9 * rms)
    rows.append({
        "data": name, "method": f"tolerance 1e-3 from {begin.name}", "groups": count,
        "median_error": float(np.median(np.abs(met.value - actual) / rms)),
        "finite": float((met.width <= 1.1e-3 * rms).all(axis=1).mean()),
        "certified": float(np.mean(met.certificate == lo.Certificate.certified)),
        "median_half_width": float(np.median(met.width / rms)),
        "violations": int(outside.sum()), "checked": met.value.size,
        "ms_a_group": 1e3 * seconds["median"] / count,
        "retrained": float(np.mean(met.steps > 0)),
    })  # fmt: skip
    return rows, [] if big else _lights(name, fit, groups, measures, actual)


def _penalties(name: str, levels: Sequence[float], count: int) -> list[dict]:
    """What one Newton-Chebyshev step proves, at each of several penalties."""
    data, rows = lo.datasets.load(name), []
    objective = lo.datasets.objective_for(data)
    for level in levels:
        fit = lo.fit(objective.with_l2(level * data.n))
        groups, measures = _groups(data, fit, count), _measures(data)
        actual = lo.effects(fit, groups, measures, lo.Retrain(1e-11)).value
        proven = lo.effects(fit, groups, measures, lo.NewtonChebyshev(), certify=True)
        row = {"data": name, "l2_over_n": level, "groups": count}
        rows.append(row | _proven(proven.value, proven, actual))
    return rows


def _proven(value, proven: lo.Effects, actual) -> dict:
    """Errors, and what intervals prove, as shares of each column's root mean square effect."""
    rms = np.sqrt(np.mean(actual**2, axis=0))
    slack = 1e-9 * rms + 1e-12
    outside = (actual < proven.lower - slack) | (actual > proven.upper + slack)
    width, known = proven.width / rms, np.isfinite(proven.width).all(axis=1)
    return {
        "median_error": float(np.median(np.abs(value - actual) / rms)),
        "finite": float(known.mean()),
        "certified": float(np.mean(proven.certificate == lo.Certificate.certified)),
        "median_half_width": float(np.median(width[known])) if known.any() else None,
        "violations": int(outside.sum()), "checked": int(np.isfinite(width).sum()),
    }  # fmt: skip


def _measures(data) -> list:
    query = data.x_query[:_QUERIES]
    return [
        lo.measures.prediction(query),
        lo.measures.loss((query, data.y_query[:_QUERIES])),
    ]


def _groups(data, fit, count: int) -> lo.Groups:
    """Random groups, and groups from both tails of influence on the first query's loss."""
    keys = jax.random.split(jax.random.key(0))
    random = lo.groups.random(keys[0], data, sizes=lo.groups.sizes(data.n, count // 2))
    pull = lo.per_point(fit, lo.measures.loss((data.x_query[:1], data.y_query[:1])))
    return random + lo.groups.tails(keys[1], pull, num=count // 4)


def _occupations() -> list[dict]:
    """Lights of groups that have a feature of their own: Adult's occupations."""
    data = lo.datasets.adult()
    fit = lo.fit(lo.logistic(data.x, data.y, l2=1e-4 * data.n))
    groups = lo.Groups.from_labels(data.labels["occupation"])
    measures = [lo.measures.prediction(data.x_query[:_QUERIES])]
    actual = lo.effects(fit, groups, measures, lo.Retrain(1e-11)).value
    return _lights("adult, by occupation", fit, groups, measures, actual)


def _lights(name, fit, groups, measures, actual) -> list[dict]:
    """How often influence was within 10 and 50 % of the truth, by colour of light."""
    light = lo.trust(fit, groups).light
    k = _QUERIES * fit.objective.layout.outputs  # predictions
    influence = lo.effects(fit, groups, measures, lo.Influence()).value[:, :k]
    error = np.linalg.norm(influence - actual[:, :k], axis=1)
    error /= np.linalg.norm(actual[:, :k], axis=1)
    rows = []
    for colour in lo.Light:
        mine = error[light == colour]
        rows.append({
            "data": name, "light": colour.name, "groups": len(mine),
            "within_10": float(np.mean(mine < 0.1)) if len(mine) else None,
            "within_50": float(np.mean(mine < 0.5)) if len(mine) else None,
            "median_error": float(np.median(mine)) if len(mine) else None,
        })  # fmt: skip
    return rows
