"""Values of groups: the laws of games, the truth by hand, and error bars that hold it."""

import itertools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import leaveout as lo
from leaveout.analysis.coalitions import Contents
from leaveout.analysis.games import Draws, Table, allotted, estimated, every, fewest, of_table
from problems import wrong

G = 5
SHAPLEY, BANZHAF = lo.Shapley(), lo.Banzhaf()


# ---- games in tables: no model, nothing trained --------------------------------------------------


def weight_of(of, s, players):
    """What joining one set of s others counts, by the book."""
    others = players - 1
    if of == SHAPLEY:
        return math.factorial(s) * math.factorial(others - s) / math.factorial(players)
    if of == BANZHAF:
        return 2.0**-others
    density = math.gamma(of.a + of.b) / math.gamma(of.a) / math.gamma(of.b)
    beta = math.gamma(s + of.b) * math.gamma(others - s + of.a)
    return density * beta / math.gamma(players - 1 + of.a + of.b)


def by_hand(worth, players, of):
    """The sum over every coalition of what a player adds to it: worth is of a set."""
    value = [0.0] * players
    for i in range(players):
        others = [j for j in range(players) if j != i]
        for s in range(players):
            for some in itertools.combinations(others, s):
                added = worth(frozenset(some) | {i}) - worth(frozenset(some))
                value[i] += weight_of(of, s, players) * added
    return np.array(value)


def table_of(worth, players):
    """All coalitions of a game, and what they are worth (c 1)."""
    members = every(players)
    worths = [worth(frozenset(np.flatnonzero(row).tolist())) for row in members]
    return Table(members, np.array(worths, float)[:, None])


def odd_game(some):
    """No symmetry, not additive."""
    return math.sin(sum(3**i for i in some)) + len(some) ** 1.5


KINDS = [SHAPLEY, BANZHAF, lo.Beta(4, 1), lo.Beta(1, 16)]


@pytest.mark.parametrize("of", KINDS, ids=lambda of: of.name)
def test_values_of_a_table_are_the_sums_written_down(of):
    found = of_table(table_of(odd_game, G), of)[:, 0]
    np.testing.assert_allclose(found, by_hand(odd_game, G, of), atol=1e-12)
    np.testing.assert_allclose(of.shares(G).sum(), 1, atol=1e-14)


def test_beta_one_one_is_shapley_and_many_players_overflow_nothing():
    np.testing.assert_allclose(lo.Beta(1, 1).shares(400), SHAPLEY.shares(400), rtol=1e-9)
    for of in KINDS:
        assert np.isfinite(of.shares(400)).all()
        assert of.shares(400).sum() == pytest.approx(1, abs=1e-9)


def test_shapley_adds_up_twins_are_equal_and_null_players_are_worth_nothing():
    def worth(some):  # 0 and 1 are twins, 2 is nobody
        seen = len(some & {0, 1}) ** 2 + 10 * (3 in some) + (4 in some) * len(some & {0, 1})
        return seen + 7.0

    table = table_of(worth, G)
    for of in KINDS:
        value = of_table(table, of)[:, 0]
        assert value[0] == pytest.approx(value[1], abs=1e-12)
        assert value[2] == pytest.approx(0, abs=1e-12)
    total = worth(frozenset(range(G))) - worth(frozenset())
    assert of_table(table, SHAPLEY).sum() == pytest.approx(total, abs=1e-12)


def test_values_are_linear_in_the_game():
    one, other = table_of(odd_game, G), table_of(lambda s: math.cos(len(s)), G)
    both = Table(one.members, 2 * one.worth - 3 * other.worth)
    for of in KINDS:
        apart = 2 * of_table(one, of) - 3 * of_table(other, of)
        np.testing.assert_allclose(of_table(both, of), apart, atol=1e-12)


# ---- some of the coalitions ----------------------------------------------------------------------


def how_many(members):
    """A trait: how many there are."""
    return members.sum(axis=1, keepdims=True).astype(float)


def sampled(whole, of, pairs, key):
    """The estimate and its error from some pairs of a table of all."""
    players = whole.members.shape[1]
    members = Draws(players, key).upto(allotted(players, of, pairs))
    at = {row.tobytes(): i for i, row in enumerate(whole.members)}
    rows = [at[row.tobytes()] for row in members]
    assert len(set(rows)) == len(rows)  # none twice
    return estimated(Table(members, whole.worth[rows]), of, how_many, key)


def test_pairs_are_a_coalition_and_its_complement_and_more_come_behind():
    draws = Draws(7, jax.random.key(0))
    few = draws.upto(allotted(7, SHAPLEY, 15))
    np.testing.assert_array_equal(few[0::2], ~few[1::2])
    assert not few[0].any()
    more = draws.upto(allotted(7, SHAPLEY, 40))
    again = Draws(7, jax.random.key(0)).upto(allotted(7, SHAPLEY, 40))
    np.testing.assert_array_equal(more, again)
    assert {row.tobytes() for row in few} <= {row.tobytes() for row in more}


@pytest.mark.parametrize("players", [2, 3, 6, 9, 40])
def test_everybody_alone_and_all_but_each_are_always_there(players):
    pairs = fewest(players) // 2
    count = allotted(players, SHAPLEY, pairs)
    assert count.sum() == pairs
    sizes = Draws(players, jax.random.key(1)).upto(count).sum(axis=1)
    assert np.count_nonzero(sizes == 1) == players
    assert np.count_nonzero(sizes == players - 1) == players
    assert set(sizes) == set(range(players + 1))


@pytest.mark.parametrize("of", KINDS, ids=lambda of: of.name)
def test_an_estimate_from_all_pairs_is_exact(of):
    whole = table_of(odd_game, G)
    value, error = sampled(whole, of, 2 ** (G - 1) - 1, jax.random.key(0))
    np.testing.assert_allclose(value, of_table(whole, of), atol=1e-12)
    np.testing.assert_array_equal(error, 0)


def test_an_additive_game_is_known_from_few_and_shapley_always_adds_up():
    players = 9
    additive = table_of(lambda s: float(sum(i**2 for i in s)), players)
    value, error = sampled(additive, SHAPLEY, 20, jax.random.key(0))
    np.testing.assert_allclose(value[:, 0], np.arange(players) ** 2, atol=1e-4)
    assert (error < 1e-2).all()
    odd = table_of(odd_game, players)
    value, _ = sampled(odd, SHAPLEY, 25, jax.random.key(0))
    assert value.sum() == pytest.approx(odd.worth[1, 0] - odd.worth[0, 0], abs=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("of", [SHAPLEY, BANZHAF], ids=lambda of: of.name)
def test_error_bars_hold_the_truth_in_90_to_99_percent_of_runs(of):
    """Of a game like those of data: a loss that falls with size, worse where classes are skewed."""
    players, rng = 9, np.random.default_rng(0)
    n, share = rng.integers(5, 60, players), rng.uniform(0.1, 0.9, players)
    pull = rng.normal(size=(players, 3))

    def worth(some):
        held = np.array(sorted(some), int)
        size = n[held].sum()
        mean = (n[held] @ share[held]) / size if size else 0.5
        kinds = np.tanh(pull[held].sum(axis=0)).sum() if size else 0.0
        return -2.0 / np.sqrt(size + 3) - 3 * (mean - 0.5) ** 2 + 0.05 * kinds

    whole = table_of(worth, players)
    truth = of_table(whole, of)

    def traits(members):
        size = members @ n
        mean = (members @ (n * share)) / np.maximum(size, 1)
        return np.stack([np.log(size + 1), (size + 1) ** -0.5, (mean - 0.5) ** 2], axis=1)

    at = {row.tobytes(): i for i, row in enumerate(whole.members)}
    inside = []
    for seed in range(200):
        key = jax.random.key(seed)
        members = Draws(players, key).upto(allotted(players, of, 60))
        rows = [at[row.tobytes()] for row in members]
        value, error = estimated(Table(members, whole.worth[rows]), of, traits, key)
        inside.append(np.abs(value - truth) <= 1.96 * error)
    assert 0.90 <= np.mean(inside) <= 0.99


@pytest.mark.slow
def test_orders_that_cost_no_training_add_little_to_the_error():
    """Of one player who has nearly everything, and many who have little."""
    players, rng = 20, np.random.default_rng(0)
    n = np.append(rng.integers(2, 40, players - 1), 5_000)

    def traits(members):
        return np.stack([np.log(members @ n + 1), (members @ n + 1) ** -0.5], axis=1)

    members = Draws(players, jax.random.key(0)).upto(allotted(players, SHAPLEY, 200))
    kinds = np.tanh(members @ rng.normal(size=(players, 3)))
    worth = -2 / np.sqrt(members @ n + 3) + 0.05 * kinds.sum(axis=1)
    table = Table(members, worth[:, None])
    found = [estimated(table, SHAPLEY, traits, jax.random.key(seed)) for seed in range(4)]
    value, error = (np.stack(each)[:, :, 0] for each in zip(*found, strict=True))
    assert np.sqrt(value.var(axis=0, ddof=1).mean()) < 0.3 * np.sqrt(np.mean(error**2))


# ---- models --------------------------------------------------------------------------------------

N, L2 = 60, 0.3


def data(seed=0, n=N, players=4):
    """Inputs, labels and owners of a small problem, and queries."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n + 20, 3))
    y = (x[:, 0] + 0.7 * rng.normal(size=n + 20) > 0.2).astype(int)
    owner = rng.integers(0, players, n)
    owner[:players] = np.arange(players)
    return x[:n], y[:n], owner, (x[n:], y[n:])


@pytest.fixture(scope="module")
def small():
    """A fit, its players and a measure of two columns."""
    x, y, owner, queries = data()
    fit = lo.fit(lo.logistic(x, y, l2=L2))
    return fit, lo.Groups.from_labels(owner), lo.measures.loss(queries, by=queries[1])


def trained_by_hand(x, y):
    """Logistic regression with a free intercept, by Newton in NumPy."""
    design, penalty = np.c_[x, np.ones(len(x))], np.diag([L2] * x.shape[1] + [0.0])
    theta = np.zeros(design.shape[1])
    for _ in range(50):
        mean = 1 / (1 + np.exp(-design @ theta))
        hessian = (design.T * (mean * (1 - mean))) @ design + penalty
        theta = theta - np.linalg.solve(hessian, design.T @ (mean - y) + penalty @ theta)
    return theta


def worth_by_hand(some, sums):
    """The loss on the queries of each label, of the model of some players."""
    x, y, owner, (xq, yq) = data()
    mine = np.isin(owner, list(some))
    n, ones = mine.sum(), y[mine].sum()
    if ones in (0, n):
        theta = np.array([0, 0, 0, math.log((ones + 1) / (n - ones + 1))])
    else:
        theta = trained_by_hand(x[mine], y[mine])
    score = np.c_[xq, np.ones(len(xq))] @ theta
    losses = np.logaddexp(0, score) - yq * score
    return losses[yq == sums].sum()


@pytest.mark.parametrize("kind", ["numbers", "the same number", "two numbers an example"])
def test_what_coalitions_hold_is_told_of_targets_that_vary(kind):
    """Beside weights the sums of targets in standard deviations, of one target that has any."""
    rng = np.random.default_rng(0)
    y = {
        "numbers": rng.normal(3, 2, size=12), "the same number": np.full(12, 3.0),
        "two numbers an example": rng.normal(size=(12, 2)),
    }[kind]  # fmt: skip
    objective = lo.squares(rng.normal(size=(12, 2)), y, l2=1.0)
    found = Contents.of(objective, lo.Groups.from_indices([range(4), range(4, 10)], n=12))
    assert not found.classes
    weights = np.array([[4.0], [6.0]])
    if kind == "numbers":
        z = (y - y.mean()) / y.std()
        weights = np.c_[weights, [z[:4].sum(), z[4:10].sum()]]
    np.testing.assert_allclose(found.players, weights)
    traits = found.traits(np.array([[True, False], [True, True]]))
    assert traits.shape == (2, 6 if kind == "numbers" else 4)
    assert np.isfinite(traits).all()


@pytest.mark.slow
def test_values_of_a_model_are_those_of_models_trained_one_by_one(small):
    fit, players, measure = small
    found = lo.value(fit, players, measure, method=lo.Retrain(1e-11))
    assert found.exact
    assert not found.status.any()
    for j in (0, 1):
        truth = by_hand(lambda s, j=j: worth_by_hand(s, j), 4, SHAPLEY)
        np.testing.assert_allclose(found.value[:, j], truth, atol=1e-7)
        for i in range(4):
            others = frozenset(range(4)) - {i}
            alone = worth_by_hand({i}, j) - worth_by_hand((), j)
            last = worth_by_hand({0, 1, 2, 3}, j) - worth_by_hand(others, j)
            assert found.alone[i, j] == pytest.approx(alone, abs=1e-7)
            assert found.last[i, j] == pytest.approx(last, abs=1e-7)
    np.testing.assert_allclose(found.value.sum(axis=0), found.total, atol=1e-12)
    np.testing.assert_array_equal(found.error, 0)
    assert "nobody" in found.table()
    np.testing.assert_allclose(found.last, -lo.effects(fit, players, measure, lo.Retrain()).value,
                               atol=1e-6)  # fmt: skip


def test_another_value_of_the_same_coalitions_trains_nothing(small):
    fit, players, measure = small
    one = lo.value(fit, players, measure, lo.Banzhaf())
    done = []
    shapley = lo.value(fit, players, measure, progress=done.append)
    assert sum(done) == 16
    again = shapley.under(lo.Banzhaf())
    np.testing.assert_allclose(again.value, one.value, atol=1e-14)
    assert again.of == lo.Banzhaf()
    effects = shapley.coalitions
    np.testing.assert_array_equal(effects.value, shapley.trained.worth)
    np.testing.assert_array_equal(effects.groups.dense() == 1, ~_stays(players, shapley.members))


def _stays(players, members):
    owner = np.zeros(players.n, int)
    owner[players.indices] = players.lanes
    return members[:, owner]


def test_influence_adds_up_so_that_every_value_of_it_is_minus_the_effect(small):
    fit, players, _ = small
    rest = players[[0, 1, 3]]  # the others stay
    measure = lo.measures.parameter([0, 3])
    effect = lo.effects(fit, rest, measure, lo.Influence()).value
    for of in (lo.Shapley(), lo.Beta(2, 1)):
        found = lo.value(fit, rest, measure, of, method=lo.Influence())
        np.testing.assert_allclose(found.value, -effect, atol=1e-12)
        np.testing.assert_allclose(found.effects().value, effect, atol=1e-12)


def test_values_go_to_a_file_and_come_back(small, tmp_path):
    fit, players, measure = small
    found = lo.value(fit, players, measure, lo.Beta(3, 1), out=tmp_path / "values.npz")
    back = lo.Values.load(tmp_path / "values.npz")
    for name in ("value", "error", "alone", "last", "members"):
        np.testing.assert_array_equal(getattr(back, name), getattr(found, name))
    assert (back.of, back.columns, repr(back)) == (found.of, found.columns, repr(found))
    table = back.to_pandas()
    assert len(table) == 8
    assert set(table["of"]) == {"Beta(3, 1)"}
    with pytest.raises(ValueError, match=r"read it with lo\.Values\.load"):
        lo.load(tmp_path / "values.npz")


def test_what_was_stopped_goes_on_and_another_question_is_refused(small, tmp_path, monkeypatch):
    fit, players, measure = small
    monkeypatch.setattr("leaveout.analysis.valuation.CHUNK_GROUPS", 6)
    path, whole = tmp_path / "values.npz", lo.value(fit, players, measure)

    def stop(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lo.value(fit, players, measure, out=path, progress=stop)
    with pytest.raises(ValueError, match="unfinished"):
        lo.Values.load(path)
    done = []
    found = lo.value(fit, players, measure, out=path, progress=done.append)
    assert sum(done) == 10
    np.testing.assert_allclose(found.value, whole.value, atol=1e-8)
    done.clear()
    lo.value(fit, players, measure, out=path, progress=done.append)
    assert done == []
    with pytest.raises(ValueError, match="another question"):
        lo.value(fit, players[[1, 0, 2, 3]], measure, out=path)


def test_many_players_are_sampled_with_an_error(small):
    fit, _, measure = small
    players = lo.Groups.from_labels(np.arange(N) % 13)
    with pytest.warns(UserWarning, match=r"1 coalition lacks a class.*'12'"):
        found = lo.value(fit, players, measure, trainings=60)
    assert not found.exact
    assert len(found.members) == 62
    assert (found.error > 0).all()
    np.testing.assert_allclose(found.value.sum(axis=0), found.total, atol=1e-10)
    assert len(found.under(lo.Banzhaf()).value) == 13
    with pytest.raises(ValueError, match="at least 36 for 13 groups"):
        lo.value(fit, players, measure, trainings=30)


def test_drawing_stops_at_the_error_asked_for_in_whatever_unit(small):
    """A share of the spread of the values: ten thousand times f is the same question."""
    fit, *_ = small
    players = lo.Groups.from_labels(np.arange(N) % 13)
    with pytest.warns(UserWarning, match="lacks a class"):
        found = [
            lo.value(fit, players, lambda t, u=u: u * jnp.sum(t.weight**2), error=0.2)
            for u in (0.01, 100.0)
        ]
    assert len(found[0].members) == len(found[1].members) < 200
    for one in found:
        assert 0.02 < np.sqrt(np.mean(one.error**2)) / one.value.std() <= 0.2


def test_coalitions_that_did_not_converge_are_told(small):
    fit, _, measure = small
    players = lo.Groups.from_labels(np.arange(N) % 2)
    with pytest.warns(UserWarning, match=r"coalitions.*values rest on all of them"):
        lo.value(fit, players, measure, method=lo.Retrain(1e-12, max_steps=1))


def test_a_coalition_of_one_class_predicts_its_base_rate_and_is_named(small):
    fit, _, measure = small
    y = np.asarray(fit.objective.examples[1])
    owner = np.where(y == 1, np.where(np.arange(N) % 2, 0, 1), 2)
    owner[np.flatnonzero(y == 1)[0]] = 2
    players = lo.Groups.from_labels(np.array(["odd", "even", "other"])[owner])
    with pytest.warns(UserWarning, match=r"3 coalitions lack a class.*even"):
        found = lo.value(fit, players, measure)
    names = found.coalitions.groups.names
    assert set(names[found.trained.given]) == {"nobody", "odd", "even", "even + odd"}
    assert re.search(r"as they have no minimum: (\w+; ){3}\.\.\.$", repr(found), re.M)
    assert not found.status.any()


def test_models_without_base_rates_say_what_nobody_predicts():
    x, y, owner, queries = data()
    fit = lo.fit(lo.squares(x, y.astype(float), l2=L2))
    players = lo.Groups.from_labels(owner)
    measure = lo.measures.loss((queries[0], queries[1].astype(float)), reduce="mean")
    with pytest.raises(ValueError, match="empty="):
        lo.value(fit, players, measure)
    mean = np.array([0, 0, 0, 0.4])
    flat = lo.value(fit, players, measure, empty=mean)
    tree = lo.value(fit, players, measure, empty=lo.Linear(mean[:3], mean[3]))
    np.testing.assert_array_equal(flat.value, tree.value)
    expected = np.mean((queries[1] - 0.4) ** 2) / 2
    assert flat.whole[0] - flat.total[0] == pytest.approx(expected, abs=1e-12)
    bare = lo.fit(lo.squares(x, y.astype(float), l2=L2, intercept=False))
    found = lo.value(bare, players, lo.measures.prediction(queries[0][:2]))
    np.testing.assert_allclose(found.whole, found.total, atol=1e-7)  # nobody predicts 0


def test_what_is_no_game_is_refused(small, as_users_run_it):
    fit, players, measure = small
    overlap = lo.Groups.from_indices([[0, 1], [1, 2]], n=N)
    with pytest.raises(ValueError, match="overlap"):
        lo.value(fit, overlap, measure)
    with pytest.raises(ValueError, match="fractions"):
        lo.value(fit, lo.Groups.from_weights(np.eye(N)[:2] / 2), measure)
    with pytest.raises(ValueError, match="asks what left"):
        lo.value(fit, players, lo.measures.self_loss())
    with pytest.raises(ValueError, match=r"lo\.Shapley"):
        lo.value(fit, players, measure, wrong("shapley"))
    with pytest.raises(ValueError, match="progress"):
        lo.value(fit, players, measure, progress=wrong(3))


def test_a_function_of_theta_is_a_measure_too(small):
    fit, players, _ = small
    found = lo.value(fit, players, lambda theta: jnp.sum(theta.weight**2))
    np.testing.assert_allclose(found.value.sum(), found.total[0], atol=1e-12)


def test_bars_are_drawn(small, tmp_path):
    pytest.importorskip("matplotlib")
    fit, players, measure = small
    found = lo.value(fit, players, measure)
    ax = lo.plot.values(found, column=1, path=tmp_path / "bars.png")
    assert [label.get_text() for label in ax.get_yticklabels()] == [
        str(players.names[i]) for i in found.order(1)[::-1]
    ]
    assert (tmp_path / "bars.png").stat().st_size > 5_000


def test_credit_shows_minus_the_values_beside_the_effects(small):
    fit, players, measure = small
    found = lo.value(fit, players, measure)
    table = lo.credit(fit, players, measure, lo.Influence(), null=0, values=found)
    np.testing.assert_array_equal(table.effects["minus Shapley"].value, -found.value)
    assert "minus Shapley" in table.table()
    with pytest.raises(ValueError, match="other groups"):
        lo.credit(fit, players[[0, 1]], measure, null=0, values=found)
    half = players.with_w(np.full(len(players.indices), 0.5))
    with pytest.raises(ValueError, match="other groups"):
        lo.credit(fit, half, measure, null=0, values=found)
    other = lo.fit(fit.objective.with_l2(2 * float(fit.objective.l2)))
    with pytest.raises(ValueError, match="of other measures"):
        lo.credit(fit, players, lo.measures.parameter([0, 1]), null=0, values=found)
    with pytest.raises(ValueError, match="of another model"):
        lo.credit(other, players, measure, null=0, values=found)


def test_a_study_of_values_writes_its_folder_and_reads_it_again(tmp_path, monkeypatch):
    from leaveout.studies import valued
    from leaveout.studies.cli.main import main
    from leaveout.studies.datasets import Dataset

    x, y, owner, (xq, yq) = data()
    made = Dataset(
        "made", x, y, xq, yq, 1, ("a", "b", "c"), "drawn", "none",
        labels={"site": np.array(list("pqrs"))[owner]},
    )  # fmt: skip
    monkeypatch.setattr(valued.datasets, "load", lambda name: made)
    worth = valued.Worth("made", largest=3, of="beta 2 1", l2_over_n=L2 / N)
    found = valued.run(worth, tmp_path / "out")
    assert len(found.groups) == 3
    assert found.of == lo.Beta(2.0, 1.0)
    assert {"values.npz", "values.parquet", "values.png", "summary.json"} <= {
        path.name for path in (tmp_path / "out").iterdir()
    }
    again = valued.run(worth, tmp_path / "out")
    np.testing.assert_array_equal(again.value, found.value)
    options = ["--largest", "3", "--of", "beta 2 1", "--l2", str(L2 / N)]
    assert main(["value", "made", *options, "--out", str(tmp_path / "out")]) == 0
    assert main(["value", "made", "--of", "gold"]) == 2
