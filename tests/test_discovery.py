"""Groups that can be described: every conjunction, scored and compared with all of them."""

import itertools

import jax
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import leaveout as lo
from leaveout.analysis.discovery import dealt_extremes
from leaveout.groups import Lattice

N = 200


@pytest.fixture(scope="module")
def frame():
    rng = np.random.default_rng(0)
    town = rng.choice(["a", "b", "c"], N, p=[0.5, 0.3, 0.2]).astype(object)
    town[:7] = None
    hours = np.where(rng.random(N) < 0.4, 40.0, rng.integers(1, 99, N))
    return pd.DataFrame({"town": town, "sex": rng.choice(["m", "w"], N), "hours": hours})


@pytest.fixture(scope="module")
def case(frame):
    """A model that treats m and w alike but for what the m of town b taught it."""
    rng = np.random.default_rng(1)
    x = np.c_[rng.standard_normal((N, 2)), frame["sex"] == "m"]
    taught = (frame["sex"] == "m") & (frame["town"] == "b")
    y = np.where(taught, 1, x[:, 0] + rng.logistic(size=N) > 0).astype(int)
    fit = lo.fit(lo.logistic(x, y, l2=1.0))
    return fit, lo.measures.gap(x, by=frame["sex"], between=("m", "w"))


@pytest.fixture(scope="module")
def found(case, frame):
    fit, gap = case
    return lo.discover(
        fit, frame, gap, depth=2, support=(0.05, 0.4), show=3, beam=30, null=lo.Null(99)
    )


def predicates(frame):
    """Columns to the predicates that a reader would write down: name to members."""
    hours = frame["hours"].to_numpy()
    pairs = [
        one.removeprefix("hours ")
        for one in lo.groups.conjunctions(frame[["hours"]], depth=1, support=(0.01, 0.99)).names
    ]
    cut = {}
    for text in pairs:
        if text.startswith("= "):
            cut[f"hours {text}"] = hours == float(text[2:])
        else:
            low, high = map(float, text[4:-1].split(", "))
            cut[f"hours {text}"] = (hours >= low) & (hours <= high)
    town = {f"town = {one}": (frame["town"] == one).to_numpy(bool) for one in "abc"}
    town["town is missing"] = frame["town"].isna().to_numpy()
    sex = {f"sex = {one}": (frame["sex"] == one).to_numpy(bool) for one in "mw"}
    return [cut, sex, town]


# ---- conjunctions --------------------------------------------------------------------------------


def test_every_conjunction_of_the_support_is_there_and_no_other(frame):
    columns, support = predicates(frame), (0.05, 0.3)
    expected = {}
    for depth in (1, 2, 3):
        for some in itertools.combinations(columns, depth):
            for parts in itertools.product(*(each.items() for each in some)):
                members = np.logical_and.reduce([one for _, one in parts])
                if support[0] * N <= members.sum() <= support[1] * N:
                    expected[" and ".join(name for name, _ in parts)] = np.flatnonzero(members)
    groups = lo.groups.conjunctions(frame, depth=3, support=support)
    assert sorted(groups.names) == sorted(expected)
    for i, name in enumerate(groups.names):
        np.testing.assert_array_equal(groups[i].indices, expected[name])


def test_intervals_cut_at_quantiles_and_a_frequent_number_stands_alone(frame):
    (hours, *_) = predicates(frame)
    assert "hours = 40" in hours
    assert sum(each.sum() for each in hours.values()) == N  # each example is in one
    numbers = np.arange(100.0)
    quarters = lo.groups.conjunctions({"number": numbers}, depth=1, support=(0.01, 0.5))
    assert quarters.size.tolist() == [25, 25, 25, 25]
    assert quarters.names.tolist()[0] == "number in [0, 24]"


def test_tables_of_any_library_give_the_same_groups(frame):
    expected = lo.groups.conjunctions(frame, depth=2, support=(0.05, 0.4))
    columns = {name: frame[name].tolist() for name in frame}
    columns["town"] = [one if isinstance(one, str) else None for one in columns["town"]]
    for table in (pl.DataFrame(columns), pa.table(columns), columns):
        made = lo.groups.conjunctions(table, depth=2, support=(0.05, 0.4))
        assert made.names.tolist() == expected.names.tolist()
        np.testing.assert_array_equal(made.indices, expected.indices)


def test_the_order_of_columns_and_rows_changes_nothing(frame):
    expected = lo.groups.conjunctions(frame, depth=2, support=(0.05, 0.4))
    again = lo.groups.conjunctions(frame[["sex", "hours", "town"]], depth=2, support=(0.05, 0.4))
    assert again.names.tolist() == expected.names.tolist()
    np.testing.assert_array_equal(again.indices, expected.indices)
    order = np.random.default_rng(2).permutation(N)
    moved = lo.groups.conjunctions(frame.iloc[order], depth=2, support=(0.05, 0.4))
    assert moved.names.tolist() == expected.names.tolist()
    for one, other in zip(moved.dense(), expected.dense(), strict=True):
        np.testing.assert_array_equal(one, other[order])


def test_conjunctions_of_one_column_never_meet(frame):
    groups = lo.groups.conjunctions(frame[["town"]], depth=3, support=(0.01, 0.9))
    assert np.bincount(groups.indices, minlength=N).max() == 1


# ---- the gap -------------------------------------------------------------------------------------


def test_a_gap_is_a_difference_of_means(case, frame):
    fit, gap = case
    x, m = np.asarray(fit.objective.x), (frame["sex"] == "m").to_numpy()
    chance = 1 / (1 + np.exp(-np.asarray(fit.objective.scores(fit.flat))[:, 0]))
    bound = gap.bind(fit.objective)
    value = bound.values(fit.objective, fit.flat, None)
    np.testing.assert_allclose(value, [chance[m].mean() - chance[~m].mean()])
    assert bound.columns(fit.objective) == ("gap in probability, m - w",)
    y = np.asarray(fit.objective.y)
    whole = lo.measures.gap((x, y), by=frame["sex"], between=("m", "w")).bind(fit.objective)
    np.testing.assert_array_equal(whole.values(fit.objective, fit.flat, None), value)
    both = lo.measures.gap((x, y), by={"m": m, "w": ~m}, of=lo.measures.loss).bind(fit.objective)
    losses = np.asarray(fit.objective.losses(fit.flat))
    expected = losses[m].mean() - losses[~m].mean()
    np.testing.assert_allclose(both.values(fit.objective, fit.flat, None), [expected])


@pytest.mark.slow
def test_intervals_of_a_gap_in_loss_hold_the_truth(case, frame):
    fit, _ = case
    x, y = np.asarray(fit.objective.x), np.asarray(fit.objective.y)
    gap = lo.measures.gap((x, y), by=frame["sex"], of=lo.measures.loss)
    groups = lo.Groups.from_indices([np.arange(k, k + 10) for k in range(0, N, 20)], n=N)
    loose = lo.effects(fit, groups, gap, lo.Newton(), certify=True)
    truth = lo.effects(fit, groups, gap, lo.Retrain()).value
    assert loose.lower is not None
    assert loose.upper is not None
    assert ((loose.lower <= truth) & (truth <= loose.upper)).all()
    assert np.isfinite(loose.width).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"by": np.repeat([0, 1, 2, 0], 50)}, "a gap between two of"),
        ({"between": ("m", "x")}, "a gap between two of"),
        ({"of": lo.measures.accuracy}, "of= as lo.measures.probability"),
    ],
)
def test_what_is_no_gap_is_refused(case, frame, change, message):
    x = np.asarray(case[0].objective.x)
    given = {"by": frame["sex"]} | change
    with pytest.raises(ValueError, match=message):
        lo.measures.gap(x, **given)


# ---- discovery -----------------------------------------------------------------------------------


def test_what_was_planted_is_found_first(found):
    assert found.groups.names[0] == "sex = m and town = b"
    assert found.best.value[0, 0] < 0
    assert (np.diff(found.best.value[:, 0]) >= 0).all()  # the largest first
    assert list(found.effects) == ["influence", "Newton", "actual"]


def test_every_effect_is_that_of_effects(case, found):
    fit, gap = case
    for name, method in (
        ("influence", lo.Influence()), ("Newton", lo.Newton()), ("actual", lo.Retrain()),
    ):  # fmt: skip
        expected = lo.effects(fit, found.groups, gap, method).value
        np.testing.assert_allclose(found.effects[name].value, expected, rtol=1e-10, atol=1e-14)


def test_no_two_of_them_are_the_same_idea(found):
    members = found.groups.dense().astype(bool)
    for one, other in itertools.combinations(members, 2):
        assert (one & other).sum() / (one | other).sum() <= 0.5


def test_a_predicate_that_says_nothing_is_left_out(case, frame):
    fit, gap = case
    told = frame.assign(twin=frame["town"].map({"a": "x", "b": "y", "c": "x"}))
    found = lo.discover(fit, told, gap, depth=3, support=(0.05, 0.4), show=1, null=0)
    assert found.groups.names[0] in ("sex = m and town = b", "sex = m and twin = y")


def test_the_null_is_the_most_extreme_of_the_whole_lattice(case, frame, found):
    fit, gap = case
    groups = lo.groups.conjunctions(frame, depth=2, support=(0.05, 0.4))
    assert found.null is not None
    assert found.null.family == len(groups)
    psi = np.asarray(lo.per_point(fit, gap))[:, 0]
    y, rng = np.asarray(fit.objective.y), np.random.default_rng(5)
    extremes = []
    for _ in range(300):
        dealt = psi.copy()
        for label in (0, 1):
            dealt[y == label] = rng.permutation(psi[y == label])
        extremes.append((groups.dense() @ dealt).min())
    spread = np.std(extremes) * np.sqrt(1 / 300 + 1 / 99)
    np.testing.assert_allclose(found.null.mean[0, 0], np.mean(extremes), atol=4 * spread)
    np.testing.assert_allclose(found.null.p * 100, np.round(found.null.p * 100))  # of 99 draws
    assert found.null.p[0, 0] <= 0.05
    np.testing.assert_array_equal(found.null.p, found.null.q)
    assert f"p of {len(groups):,}" in found.table()


def test_the_place_is_among_the_extremes_of_the_draws(case, frame, found):
    fit, gap = case
    lattice = Lattice.of(frame, depth=2, support=(0.05, 0.4))
    psi, y = np.asarray(lo.per_point(fit, gap))[:, 0], np.asarray(fit.objective.y).astype(int)
    drawn = dealt_extremes(lattice, psi, -1, lo.Null(99), y)
    assert drawn is not None
    own, ordered, null = found.effects["influence"].value[:, 0], np.sort(drawn), found.null
    assert null is not None
    np.testing.assert_allclose(null.mean[:, 0], drawn.mean())
    np.testing.assert_allclose(null.low[:, 0], 0.55 * ordered[2] + 0.45 * ordered[3])  # of 98 gaps
    np.testing.assert_allclose(null.high[:, 0], 0.55 * ordered[-3] + 0.45 * ordered[-4])
    variance = np.sum((drawn - drawn.mean()) ** 2) / 98
    np.testing.assert_allclose(null.z[:, 0], (own - drawn.mean()) / variance**0.5)
    below = (drawn < own[:, None]).sum(axis=1)
    np.testing.assert_allclose(null.percentile[:, 0], 100 * below / 99)
    np.testing.assert_allclose(null.p[:, 0], (1 + below) / 100)


@pytest.mark.slow
def test_p_is_uniform_when_influence_is_chance(frame):
    lattice = Lattice.of(frame, depth=2, support=(0.05, 0.4))
    rng, p = np.random.default_rng(0), []
    for i in range(300):
        psi = rng.standard_normal(N)
        own = min(cells.sums(psi).min() for cells in lattice.cells())
        null = lo.Null(39, within=lo.Within.size, key=jax.random.key(i))
        drawn = dealt_extremes(lattice, psi, -1, null, None)
        assert drawn is not None
        p.append((1 + np.count_nonzero(drawn <= own)) / 40)
    assert abs(np.mean(np.array(p) <= 0.1) - 0.1) < 0.055  # three standard errors
    assert abs(np.mean(p) - 0.5125) < 0.05


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"direction": 2}, "direction as"),
        ({"overlap": 0.0}, "overlap as a share"),
        ({"support": (0.2, 0.1)}, "support as two shares"),
        ({"support": (0.9, 0.95)}, "no conjunction holds"),
        ({"null": lo.Null(9, lo.Newton())}, "influence is what is dealt out"),
    ],
)
def test_what_cannot_be_asked_is_refused(case, frame, change, message):
    fit, gap = case
    with pytest.raises(ValueError, match=message):
        lo.discover(fit, frame, gap, **change)


def test_a_table_of_other_rows_is_refused(case, frame):
    fit, gap = case
    with pytest.raises(ValueError, match="describes 100 examples"):
        lo.discover(fit, frame.iloc[:100], gap)
    with pytest.raises(ValueError, match="measure of one column"):
        lo.discover(fit, frame, lo.measures.parameter([0, 1]))
