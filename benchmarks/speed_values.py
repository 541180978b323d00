"""What does training a coalition cost, and how many coalitions do values need?

Census income of the 12 commonest occupations (every eighth person unless --full), whose coalitions
empty whole one-hot columns: `lo.retrain` in a metric of what each leaves (`methods/bricks.py`),
the same without it, and scikit-learn's newton-cholesky from theta_hat, in processor seconds of all
threads a coalition (one thread, where XLA_FLAGS and OMP_NUM_THREADS say so). Then, of the ten
commonest, Shapley's values from some of the 1,024 coalitions: the root mean square error over 20
draws, as a share of the values' spread, of `lo.value`, of the mean of each size alone, and of
random orders and their reverses (pyDVL's antithetic sampler), a coalition counted once.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

import leaveout as lo
from benchmarks.harness import record
from leaveout.analysis.coalitions import Contents, left_out
from leaveout.analysis.games import Draws, Table, allotted, estimated, every, of_table
from leaveout.methods import retraining

L2_OVER_N = 1e-3
_SKLEARN = {"smoke": 6, "small": 96, "full": 192}  # coalitions that scikit-learn trains


def main(folder: Path, size: str) -> None:
    """Time coalitions, then see how many are needed."""
    fit, players, _ = game(12, size)
    record(folder, "speed_values", costs(fit, players, size))
    fit, players, measure = game(10, size)
    record(folder, "accuracy_values", errors(fit, players, measure, size))


def game(count: int, size: str) -> tuple[lo.Fit, lo.Groups, lo.measures.Measure]:
    """A fit of the commonest occupations' people, these as players, and a mean loss."""
    if size == "smoke":
        return drawn()
    data = lo.datasets.adult()
    thin = slice(None, None, 1 if size == "full" else 8)
    x, y, owner = data.x[thin], data.y[thin], np.asarray(data.labels["occupation"])[thin]
    names, sizes = np.unique(owner, return_counts=True)
    mine = np.isin(owner, names[np.argsort(-sizes, kind="stable")[:count]])
    x, y, owner = x[mine], y[mine], owner[mine]
    x = x[:, np.ptp(x, axis=0) > 0]
    kept = np.ptp(data.x[thin][mine], axis=0) > 0
    queries = data.x_query[:, kept], data.y_query
    fit = lo.fit(lo.logistic(x, y, l2=L2_OVER_N * len(x)))
    return fit, lo.Groups.from_labels(owner), lo.measures.loss(queries, reduce="mean")


def drawn() -> tuple[lo.Fit, lo.Groups, lo.measures.Measure]:
    """A small problem with a one-hot column for each of five players."""
    rng = np.random.default_rng(0)
    owner = rng.integers(0, 5, 400)
    x = np.c_[rng.normal(size=(400, 4)), np.eye(5)[owner]]
    y = (x[:, 0] + 0.3 * owner + rng.logistic(size=400) > 0.6).astype(int)
    fit = lo.fit(lo.logistic(x[:300], y[:300], l2=0.3))
    return fit, lo.Groups.from_labels(owner[:300]), lo.measures.loss((x[300:], y[300:]))


def costs(fit: lo.Fit, players: lo.Groups, size: str) -> list[dict[str, Any]]:
    """A row a way to train every coalition of somebody."""
    members = every(len(players))[2:]
    if size != "full":
        members = members[np.random.default_rng(0).permutation(len(members))[:512]]
    groups = left_out(players, members)
    shape = {"n": fit.objective.n, "p": fit.objective.p, "coalitions": len(groups)}
    slow, fast = (_spent(lambda: lo.retrain(fit, groups), bricks) for bricks in (False, True))
    apart = np.linalg.norm(np.asarray(fast[0].value - slow[0].value), axis=1)
    apart = apart / np.linalg.norm(np.asarray(slow[0].value), axis=1)
    rows = [
        shape | {"method": name, "milliseconds": 1e3 * seconds / len(groups),
                 "evaluations": float(np.median(change.steps)),
                 "flagged": int(np.count_nonzero(change.status)), "apart": float(apart.max())}
        for name, (change, seconds) in (("lo.retrain", fast), ("one metric for all", slow))
    ]  # fmt: skip
    return [*rows, shape | _sklearn(fit, members, players, _SKLEARN[size])]


def _spent(call: Callable[[], Any], bricks: bool) -> tuple[Any, float]:
    """The answer, and processor seconds of a warm run, the faster of two."""
    usual = retraining.bricks_of
    try:
        if not bricks:
            retraining.bricks_of = lambda *_: None
        answer, seconds = jax.block_until_ready(call()), []
        for _ in range(2 if bricks else 1):
            begin = time.process_time()
            answer = jax.block_until_ready(call())
            seconds.append(time.process_time() - begin)
    finally:
        retraining.bricks_of = usual
    return answer, min(seconds)


def _sklearn(fit: lo.Fit, members: np.ndarray, players: lo.Groups, count: int) -> dict[str, Any]:
    from sklearn.linear_model import LogisticRegression

    objective, owner = fit.objective, np.zeros(players.n, int)
    owner[players.indices] = players.lanes
    x, y = np.asarray(objective.examples[0])[:, :-1], np.asarray(objective.examples[1])
    rows = np.random.default_rng(0).choice(len(members), min(count, len(members)), replace=False)
    theta, seconds, steps = np.asarray(fit.flat), [], []
    for row in rows:
        stays = members[row][owner]
        if np.ptp(y[stays]) == 0:
            continue
        model = LogisticRegression(
            C=1 / float(objective.l2), solver="newton-cholesky", warm_start=True, max_iter=1000
        )
        mine = x[stays], y[stays]
        model.classes_, model.coef_ = np.array([0, 1]), theta[None, :-1].copy()
        model.intercept_ = theta[-1:].copy()
        begin = time.process_time()
        model.fit(*mine)
        seconds.append(time.process_time() - begin)
        steps.append(int(model.n_iter_[0]))
    return {"method": "scikit-learn newton-cholesky", "milliseconds": 1e3 * np.mean(seconds),
            "evaluations": float(np.median(steps))}  # fmt: skip


def errors(fit: lo.Fit, players: lo.Groups, measure, size: str) -> list[dict[str, Any]]:
    """Root mean square errors of values from some coalitions, beside those of all."""
    whole = lo.value(fit, players, measure)
    table, of, g = Table(whole.members, whole.trained.worth), lo.Shapley(), len(players)
    at = {row.tobytes(): i for i, row in enumerate(table.members)}
    truth, spread = of_table(table, of), whole.value.std(axis=0)
    traits = Contents.of(fit.objective, players).traits
    rows = []
    for trainings in {"smoke": (20,)}.get(size, (80, 160, 320, 640)):
        ours, plain, orders, inside = [], [], [], []
        for seed in range(3 if size == "smoke" else 20):
            key = jax.random.key(seed)
            members = Draws(g, key).upto(allotted(g, of, trainings // 2))
            some = Table(members, table.worth[[at[row.tobytes()] for row in members]])
            value, error = estimated(some, of, traits, key)
            ours.append((value - truth) ** 2 / spread**2)
            plain.append((of_table(some, of) - truth) ** 2 / spread**2)
            by_orders = permutations(table, at, trainings, np.random.default_rng(seed))
            orders.append((by_orders - truth) ** 2 / spread**2)
            inside.append(np.abs(value - truth) <= 1.96 * error)
        row = {"players": g, "trainings": trainings, "error": float(np.sqrt(np.mean(ours)))}
        row |= {"means_of_sizes": float(np.sqrt(np.mean(plain)))}
        row |= {"antithetic_permutations": float(np.sqrt(np.mean(orders)))}
        rows.append(row | {"in_95_percent": float(np.mean(inside))})
    return rows


def permutations(table: Table, at: dict, trainings: int, rng: np.random.Generator) -> np.ndarray:
    """What players add in random orders and their reverses, until so many coalitions are known."""
    players, known = table.members.shape[1], set()
    total, count = np.zeros((players, table.worth.shape[1])), 0
    while len(known) < trainings:
        place = rng.permutation(players)
        for each in (place, players - 1 - place):
            chain = each[None] < np.arange(players + 1)[:, None]
            rows = [at[row.tobytes()] for row in chain]
            known |= set(rows) - {0, 1}
            total += np.diff(table.worth[rows], axis=0)[each]
            count += 1
    return total / count
