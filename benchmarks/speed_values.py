"""What does training a coalition cost, and how many coalitions do values need?

Census income of the 12 commonest occupations (every eighth person unless --full), whose coalitions
empty whole one-hot columns: `lo.retrain` in a metric of what each leaves (`methods/bricks.py`),
the same without it, and scikit-learn's newton-cholesky from theta_hat, in processor seconds of all
threads a coalition (one thread, where XLA_FLAGS and OMP_NUM_THREADS say so); and whole calls, of
`lo.value` and of pyDVL in an environment of its own, there and on the women and men of heart's four
hospitals. Then Shapley's values from some of the coalitions, of the ten commonest occupations and
of heart (with --full also of classes of work, of those who noted relations of chemicals and
diseases, of COMPAS and of ten patients): the root mean square error over draws, as a share of the
values' spread, of `lo.value`, of the mean of each size alone, of Leverage SHAP on the same
coalitions, and of random orders and their reverses (pyDVL's antithetic sampler), a coalition
counted once. And of 42 countries, whose coalitions nobody can train: how far draws are from each
other, and whether as far as their errors say.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import leaveout as lo
from benchmarks.harness import record
from benchmarks.peers.worker import PeerError, Worker
from leaveout.analysis.coalitions import Contents, left_out
from leaveout.analysis.games import Draws, Table, allotted, estimated, every, of_table
from leaveout.methods import retraining

L2_OVER_N = 1e-3
_SKLEARN = {"smoke": 6, "small": 96, "full": 192}  # coalitions that scikit-learn trains
_ORDERS = {"smoke": 2, "small": 24, "full": 100}  # that pyDVL goes through


class Play(NamedTuple):
    """A game: whose data, and what is asked of coalitions.

    Attributes:
        name: of the data.
        fit: with everybody.
        players: who joins.
        queries: inputs and targets, of which f is the mean loss.
        empty: theta of nobody, where a model has no base rates.
    """

    name: str
    fit: lo.Fit
    players: lo.Groups
    queries: tuple[np.ndarray, np.ndarray]
    empty: np.ndarray | None = None

    @property
    def measure(self) -> lo.measures.Measure:
        """The mean loss of the queries."""
        return lo.measures.loss(self.queries, reduce="mean")


def main(folder: Path, size: str) -> None:
    """Time coalitions, then see how many are needed."""
    twelve, ten = occupations(12, size), occupations(10, size)
    more = [] if size == "smoke" else [heart()]
    rows, versions = costs(twelve, size), {}
    for play in (twelve, *more):
        found, versions = rates(play, size)
        rows += found
    record(folder, "speed_values", rows, versions)
    more += [workclasses(), functions(), defendants(), patients()] if size == "full" else []
    rows = [row for play in (ten, *more) for row in errors(play, size)]
    record(folder, "accuracy_values", rows)
    if size != "smoke":
        record(folder, "accuracy_values", rows + many(size))


def occupations(count: int, size: str) -> Play:
    """The people of the commonest occupations, these as players."""
    if size == "smoke":
        return drawn()
    data = lo.datasets.adult()
    thin = slice(None, None, 1 if size == "full" else 8)
    return _commonest("adult", data, "occupation", count, thin, L2_OVER_N)


def workclasses() -> Play:
    """Everybody by the class of their work, some of few people."""
    return _everybody("adult by work", lo.datasets.adult(), "workclass", L2_OVER_N)


def functions() -> Play:
    """Relations of chemicals and diseases by the ten functions that noted most of them."""
    return _commonest("cdr", lo.datasets.cdr(), "function", 10, slice(None), 0.01)


def defendants() -> Play:
    """The women and men of six races, some of few people."""
    return _everybody("compas", lo.datasets.compas(), "race,sex", 0.01)


def patients() -> Play:
    """The ten patients with most recordings: least squares."""
    play = _commonest("parkinsons", lo.datasets.parkinsons(), "patient", 10, slice(None), 0.01)
    empty = np.zeros(play.fit.objective.p)
    empty[-1] = np.mean(np.asarray(play.fit.objective.examples[1]))
    return play._replace(empty=empty)


def _everybody(name, data, by: str, l2_over_n: float) -> Play:
    """All examples of a data set, its groups by some labels as players."""
    fit = lo.fit(lo.logistic(data.x, data.y, l2=l2_over_n * data.n))
    return Play(name, fit, data.grouped(by), (data.x_query, data.y_query))


def _commonest(name, data, label: str, count: int, thin: slice, l2_over_n: float) -> Play:
    """The examples of the commonest values of a label, these as players."""
    x, y, owner = data.x[thin], data.y[thin], np.asarray(data.labels[label])[thin]
    names, sizes = np.unique(owner, return_counts=True)
    mine = np.isin(owner, names[np.argsort(-sizes, kind="stable")[:count]])
    x, y, owner = x[mine], y[mine], owner[mine]
    kept = np.ptp(x, axis=0) > 0
    make = lo.logistic if np.unique(data.y).size == 2 else lo.squares
    fit = lo.fit(make(x[:, kept], y, l2=l2_over_n * len(x)))
    return Play(name, fit, lo.Groups.from_labels(owner), (data.x_query[:, kept], data.y_query))


def heart() -> Play:
    """The women and men of four hospitals."""
    return _everybody("heart", lo.datasets.heart(), "hospital,sex", 0.01)


def countries() -> Play:
    """Everybody by country of birth, nine tenths in one of them."""
    return _everybody("adult", lo.datasets.adult(), "country", L2_OVER_N)


def drawn() -> Play:
    """A small problem with a one-hot column for each of five players."""
    rng = np.random.default_rng(0)
    owner = rng.integers(0, 5, 400)
    x = np.c_[rng.normal(size=(400, 4)), np.eye(5)[owner]]
    y = (x[:, 0] + 0.3 * owner + rng.logistic(size=400) > 0.6).astype(int)
    fit = lo.fit(lo.logistic(x[:300], y[:300], l2=0.3))
    return Play("drawn", fit, lo.Groups.from_labels(owner[:300]), (x[300:], y[300:]))


def costs(play: Play, size: str) -> list[dict[str, Any]]:
    """A row a way to train every coalition of somebody."""
    fit, players = play.fit, play.players
    members = every(len(players))[2:]
    if size != "full":
        members = members[np.random.default_rng(0).permutation(len(members))[:512]]
    groups = left_out(players, members)
    shape = {
        "data": play.name,
        "n": fit.objective.n,
        "p": fit.objective.p,
        "coalitions": len(groups),
    }
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


def rates(play: Play, size: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Processor seconds of a whole call, for each coalition that it trains; pyDVL beside it."""
    players, owner = play.players, np.zeros(play.players.n, int)
    owner[players.indices] = players.lanes
    objective = play.fit.objective
    shape = {"data": play.name, "n": objective.n, "p": objective.p, "players": len(players)}
    trainings = {"smoke": 20}.get(size, min(512, 2 ** len(players)))

    def ours():
        begin = time.process_time()
        found = lo.value(play.fit, players, play.measure, trainings=trainings)
        return (time.process_time() - begin) / (len(found.members) - 2)

    problem = {
        "x": np.asarray(objective.examples[0])[:, :-1], "y": np.asarray(objective.examples[1]),
        "owner": owner, "l2": float(objective.l2),
        "x_query": play.queries[0], "y_query": play.queries[1],
    }  # fmt: skip
    ours()
    try:
        with Worker("pydvl_values", "values", problem) as worker:
            worker.ask(orders=2)
            pairs = [(ours(), worker.ask(orders=_ORDERS[size])) for _ in range(3)]
            mine = min(spent for spent, _ in pairs)
            theirs = min(said["processor_seconds"] / said["trainings"] for _, said in pairs)
            rows = [("lo.value", mine, {}), ("pyDVL", theirs, {"times_ours": theirs / mine})]
            versions = {"pydvl": worker.versions}
    except PeerError as reason:
        rows, versions = [("lo.value", ours(), {"pydvl skipped": str(reason)})], {}
    return [
        shape | {"method": f"{name}, whole call", "milliseconds": 1e3 * spent, **more}
        for name, spent, more in rows
    ], versions


def errors(play: Play, size: str) -> list[dict[str, Any]]:
    """Root mean square errors of values from some coalitions, beside those of all."""
    fit, players = play.fit, play.players
    whole = lo.value(fit, players, play.measure, empty=play.empty)
    table, of, g = Table(whole.members, whole.trained.worth), lo.Shapley(), len(players)
    at = {row.tobytes(): i for i, row in enumerate(table.members)}
    truth, spread = of_table(table, of), whole.value.std(axis=0)
    traits = Contents.of(fit.objective, players).traits
    rows = []
    some_of_all = (66, 126, 190) if g < 10 else (80, 160, 320, 640)
    for trainings in {"smoke": (20,)}.get(size, some_of_all):
        ours, plain, regressed, orders, inside = [], [], [], [], []
        for seed in range(3 if size == "smoke" else 200):
            key = jax.random.key(seed)
            members = Draws(g, key).upto(allotted(g, of, trainings // 2))
            some = Table(members, table.worth[[at[row.tobytes()] for row in members]])
            value, error = estimated(some, of, traits, key)
            ours.append((value - truth) ** 2 / spread**2)
            plain.append((of_table(some, of) - truth) ** 2 / spread**2)
            regressed.append((leverage_regression(some) - truth) ** 2 / spread**2)
            by_orders = permutations(table, at, trainings, np.random.default_rng(seed))
            orders.append((by_orders - truth) ** 2 / spread**2)
            inside.append(np.abs(value - truth) <= 1.96 * error)
        row = {
            "data": play.name,
            "players": g,
            "trainings": trainings,
            "error": float(np.sqrt(np.mean(ours))),
        }
        row |= {"means_of_sizes": float(np.sqrt(np.mean(plain)))}
        row |= {"leverage_regression": float(np.sqrt(np.mean(regressed)))}
        row |= {"antithetic_permutations": float(np.sqrt(np.mean(orders)))}
        each = np.mean(inside, axis=(0, 2))  # of each player
        rows.append(row | {"in_95_percent": float(each.mean()), "of_the_worst": float(each.min())})
    return rows


def leverage_regression(table: Table) -> np.ndarray:
    """Shapley's values by Leverage SHAP (Musco and Witter, 2025), written anew.

    Weighted least squares of worths on members, the sum of values given: Shapley's kernel over the
    share of each size's coalitions that are there, on the very coalitions that `lo.value` has.
    """
    members, worth = table.members.astype(float), table.worth
    players, size = members.shape[1], members.sum(axis=1)
    inner = (size > 0) & (size < players)
    nobody, everybody = worth[size == 0][0], worth[size == players][0]
    z, s, total = members[inner], size[inner], everybody - nobody
    drawn = np.bincount(s.astype(int), minlength=players)[s.astype(int)]
    root = 1 / np.sqrt(s * (players - s) * drawn)
    left = worth[inner] - nobody - (s / players)[:, None] * total
    centred = z - z.mean(axis=1, keepdims=True)
    value, *_ = np.linalg.lstsq(root[:, None] * centred, root[:, None] * left, rcond=None)
    return value - value.mean(axis=0) + total / players


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


def many(size: str) -> list[dict[str, Any]]:
    """Of players whose coalitions cannot be counted out: how far draws are from each other."""
    play, rows = countries(), []
    for trainings in (640, 1280, 2560) if size == "full" else (640, 1280):
        draws = [
            lo.value(play.fit, play.players, play.measure, trainings=trainings,
                     key=jax.random.key(seed))
            for seed in range(6)
        ]  # fmt: skip
        value, error = (np.stack([getattr(each, part) for each in draws])
                        for part in ("value", "error"))  # fmt: skip
        first, second = np.triu_indices(len(draws), 1)
        apart, doubt = value[first] - value[second], np.hypot(error[first], error[second])
        rows.append({
            "data": "adult by country", "n": play.fit.objective.n, "players": len(play.players),
            "trainings": trainings,
            "error": float(np.sqrt(np.mean(apart**2) / 2) / value.mean(axis=0).std()),
            "said": float(np.sqrt(np.mean(error**2)) / value.mean(axis=0).std()),
            "in_95_percent": float(np.mean(np.abs(apart) <= 1.96 * doubt)),
        })  # fmt: skip
    return rows
