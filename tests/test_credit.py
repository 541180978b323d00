"""The table of natural groups, and their place among random ones."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import scipy.stats

import leaveout as lo
from problems import problem

N = 80


@pytest.fixture(scope="module")
def case():
    """A fit in which the labels of group 'bad' are turned round, its groups, and measures."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N + 200, 4))
    y = (x @ [2.0, -1.0, 1.0, 0.0] + rng.logistic(size=N + 200) > 0).astype(int)
    site = np.array(["good", "fair", "bad", "idle"])[np.arange(N) % 4]
    queries, (x, y) = (x[N:], y[N:]), (x[:N], y[:N])
    y = np.where(site == "bad", 1 - y, y)
    measures = [lo.measures.loss(queries, reduce="sum"), lo.measures.self_loss()]
    return lo.fit(lo.logistic(x, y, l2=1.0)), lo.Groups.from_labels(site), measures


def placed(found: lo.Credit) -> lo.Standing:
    """The place among random groups, which was asked for."""
    assert found.null is not None
    return found.null


def test_a_planted_group_stands_out_and_the_table_says_everything(case):
    fit, groups, measures = case
    found = lo.credit(fit, groups, measures, actual=True, certify=True, null=400)
    table = found.to_pandas().set_index("group")
    column, null = "sum of loss", placed(found)
    assert null.q[groups.names == "bad", 0] < 0.05
    assert null.z[groups.names == "bad", 0] < -3
    assert (null.z[groups.names != "bad", 0] > 0).all()
    actual = table[f"actual on {column}"]
    assert actual.to_dict()["bad"] < 0  # without it the queries are predicted better
    for name, method in (("influence", lo.Influence()), ("Newton", lo.Newton())):
        expected = lo.effects(fit, groups, measures, method).value[:, 0]
        np.testing.assert_allclose(table[f"{name} on {column}"], expected)
    lower, upper = (table[f"{side} on {column}, actual"] for side in ("lower", "upper"))
    assert np.all((lower <= actual) & (actual <= upper))
    np.testing.assert_allclose(table[f"effect per example on {column}"], actual / 20)
    y = np.asarray(fit.objective.y)
    np.testing.assert_array_equal(table["class 1"], groups.dense() @ y)
    np.testing.assert_allclose(
        table["loss"], groups.dense() @ np.asarray(fit.objective.losses(fit.flat))
    )
    h = np.linalg.inv(np.asarray(fit.objective.hessian(fit.flat)))
    g = np.asarray([fit.expansion().gradient(w) for w in groups.dense()])
    np.testing.assert_allclose(table["self_influence"], np.einsum("gp,pq,gq->g", g, h, g))
    total = np.trace(
        h @ np.asarray(fit.objective.hessian(fit.flat) - np.diag(fit.objective.penalty))
    )
    assert np.asarray(table["leverage"]).sum() == pytest.approx(total)
    assert np.isnan(np.asarray(table["z on self_loss"])).all()  # its influence does not add
    order = found.groups.names[found.order()]
    assert [line.split()[0] for line in found.table().splitlines()[2:]] == order.tolist()
    assert repr(found).startswith("Credit(4 groups x 2 columns)")


def test_the_band_is_that_of_groups_made_anew_within_classes(case):
    fit, groups, (measure, _) = case
    found = lo.credit(fit, groups, measure, lo.Influence(), null=lo.Null(50, key=jax.random.key(3)))
    like = lo.groups.lookalikes(
        jax.random.key(3), groups, like=groups, within=np.asarray(fit.objective.y), draws=50
    )
    null, drawn = placed(found), lo.effects(fit, like, measure, lo.Influence()).value.reshape(50, 4)
    own = lo.effects(fit, groups, measure, lo.Influence()).value[:, 0]
    np.testing.assert_allclose(null.mean[:, 0], drawn.mean(axis=0))
    z = (own - drawn.mean(axis=0)) / drawn.std(axis=0, ddof=1)
    np.testing.assert_allclose(null.z[:, 0], z)
    inner = np.sort(drawn, axis=0)  # 95 % of 50 draws: ends between the 2nd and 3rd from outside
    np.testing.assert_allclose(null.low[:, 0], 0.775 * inner[1] + 0.225 * inner[2])
    np.testing.assert_allclose(null.high[:, 0], 0.775 * inner[-2] + 0.225 * inner[-3])
    below = (drawn < own).sum(axis=0)
    np.testing.assert_allclose(null.percentile[:, 0], 2 * below)
    p = np.minimum(2 * (1 + np.minimum(below, 50 - below)) / 51, 1)
    np.testing.assert_allclose(null.p[:, 0], p)
    np.testing.assert_allclose(null.q[:, 0], scipy.stats.false_discovery_control(p))


def test_random_groups_that_do_the_same_are_half_below_and_against_a_small_p():
    """Of a mean: what a point's leaving does goes by its own number, and many are alike."""
    y, key = np.r_[9.0, 9.0, 9.0, np.arange(37) % 2], jax.random.key(1)
    fit = lo.fit(lo.squares(np.zeros((40, 1)), y, l2=1.0))
    groups = lo.Groups.from_labels(np.arange(40))
    null = lo.Null(60, within=lo.Within.size, key=key)
    measure = lo.measures.parameter(1)
    found = placed(lo.credit(fit, groups, measure, lo.Influence(), null=null))
    like = lo.groups.lookalikes(key, groups, like=groups, draws=60)
    drawn = y[like.indices].reshape(60, 40)
    above, equal = (drawn < y).sum(axis=0), (drawn == y).sum(axis=0)  # a large number lowers it
    assert equal[:3].min() > 0
    np.testing.assert_allclose(found.percentile[:, 0], 100 * (60 - above - equal / 2) / 60)
    p = np.minimum(2 * (1 + np.minimum(above, 60 - above - equal) + equal) / 61, 1)
    np.testing.assert_allclose(found.p[:, 0], p)
    assert p[:3].max() < 0.5  # though some are alike


def test_a_long_table_counts_what_it_does_not_show(case):
    fit, groups, (measure, _) = case
    found = lo.credit(fit, groups, measure, lo.Influence(), null=0)
    lines = found.table(most=1).splitlines()
    assert lines[2].split()[0] == str(groups.names[np.abs(found.best.value[:, 0]).argmax()])
    assert lines[3:] == ["... and 3 groups of smaller effect"]
    assert "smaller effect" not in found.table(most=4)


def test_draws_that_are_flagged_are_counted_and_leave_no_band(case):
    fit, groups, (measure, _) = case
    null = lo.Null(6, method=lo.Retrain(max_steps=0))
    found = placed(lo.credit(fit, groups, measure, lo.Influence(), null=null))
    assert (found.flagged == 6).all()
    for part in (found.mean, found.low, found.high, found.z, found.p):
        assert np.isnan(part).all()


@pytest.mark.slow
def test_random_groups_are_false_alarms_as_often_as_they_may_be(case):
    fit, _, (measure, _) = case
    y = np.asarray(fit.objective.y)
    p = []
    for seed in range(40):
        labels = np.random.default_rng(seed).permutation(np.arange(N) % 5)
        found = lo.credit(
            fit, lo.Groups.from_labels(labels), measure, lo.Influence(),
            null=lo.Null(99, within=y, key=jax.random.key(seed)),
        )  # fmt: skip
        p.append(placed(found).p[:, 0])
    p = np.concatenate(p)  # 200 of them, nearly uniform
    assert 0.01 <= np.mean(p <= 0.05) <= 0.1
    assert scipy.stats.kstest(p, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("method", [None, lo.Newton()], ids=["influence", "newton"])
def test_the_band_of_a_group_does_not_depend_on_an_empty_one_beside_it(method):
    data = lo.datasets.breast_cancer()
    fit = lo.fit(lo.logistic(data.x, data.y, l2=1.0))
    measure = lo.measures.loss((data.x[:2], data.y[:2]))
    ten = np.arange(data.n) < 10
    alone = lo.Groups.from_masks([ten], coalitions=True)
    beside = lo.Groups.from_masks([np.zeros(data.n, bool), ten], coalitions=True)
    null = lo.Null(30, method=method)
    one, two = (lo.credit(fit, groups, measure, null=null).null for groups in (alone, beside))
    assert one is not None
    assert two is not None
    np.testing.assert_allclose(two.mean[0], 0.0, atol=1e-15)
    np.testing.assert_allclose(two.mean[1], one.mean[0], rtol=1e-9)
    np.testing.assert_allclose(two.low[1], one.low[0], rtol=1e-9)


def test_a_band_of_any_method_compares_like_with_like(case):
    fit, groups, measures = case
    found = lo.credit(fit, groups, measures, lo.Newton(), null=lo.Null(20, lo.Newton()))
    null = placed(found)
    np.testing.assert_allclose(null.effect, found.best.value, atol=1e-12)
    assert np.isfinite(null.z).all()
    assert null.method == "Newton"


def test_credit_is_saved_as_a_table_and_needs_no_classes(tmp_path):
    objective = problem("squares", n=N)
    groups = lo.Groups.from_labels(np.arange(N) % 3)
    found = lo.credit(lo.fit(objective), groups, lo.measures.parameter(0), null=20)
    found.save(tmp_path / "credit.parquet")
    table = pd.read_parquet(tmp_path / "credit.parquet")
    assert table["Newton on parameter[0]"].tolist() == found.best.value[:, 0].tolist()
    assert not [name for name in table if name.startswith("class")]
    assert lo.credit(lo.fit(objective), groups, lo.measures.parameter(0), null=0).null is None


@pytest.mark.slow
def test_the_table_says_that_a_minimum_is_a_local_one():
    rng = np.random.default_rng(4)
    x, start = rng.normal(size=(20, 1)), jnp.array([0.3, 0.2])
    data = x, np.tanh(x[:, 0]) + 0.1 * rng.normal(size=20)

    def loss(theta, example):
        return (theta[0] * jnp.tanh(theta[1] * example[0][0]) - example[1]) ** 2

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of curvature, which depends on where one looks
        fit = lo.fit(lo.Objective(loss, data, start, l2=0.1))
    groups = lo.Groups.from_labels(np.arange(20) % 4)
    found = lo.credit(fit, groups, lo.measures.self_loss(), (lo.Influence(), lo.Newton()), null=0)
    (note,) = found.notes  # once, of two methods
    assert note.startswith("the loss is not known to be convex")
    assert found.table().splitlines()[-1] == note


def test_clustered_standard_errors_are_those_of_statsmodels():
    import statsmodels.api as sm

    rng = np.random.default_rng(0)
    x, village = rng.normal(size=(N, 3)), np.arange(N) % 9
    y = x @ [1.0, 0.0, -1.0] + rng.normal(size=9)[village] + rng.normal(size=N)
    fit = lo.fit(lo.squares(x, y, l2=0.0))
    groups, every = lo.Groups.from_labels(village), lo.measures.parameter([0, 1, 2, 3])
    settings = {"cov_type": "cluster", "cov_kwds": {"groups": village, "use_correction": False}}
    theirs = sm.OLS(y, np.c_[x, np.ones(N)]).fit(**settings)
    ours = lo.jackknife(lo.effects(fit, groups, every, lo.Influence()), infinitesimal=True)
    np.testing.assert_allclose(ours, theirs.bse, rtol=1e-9)
    left = [
        np.linalg.lstsq(np.c_[x, np.ones(N)][village != k], y[village != k], rcond=None)[0]
        for k in range(9)
    ]
    deleted = np.sqrt(8 / 9 * np.sum((left - np.mean(left, axis=0)) ** 2, axis=0))
    exact = lo.jackknife(lo.effects(fit, groups, every, lo.Newton()))
    np.testing.assert_allclose(exact, deleted, rtol=1e-9)
    with pytest.raises(ValueError, match="the groups overlap"):
        lo.jackknife(lo.effects(fit, groups + groups, every))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"methods": []}, "expected at least one method"),
        ({"null": lo.Null(within=[0, 1])}, "expected one stratum for each of 80 points"),
    ],
)
def test_credit_by_no_method_other_strata_or_unknown_columns_is_refused(case, change, sentence):
    fit, groups, measures = case
    with pytest.raises(ValueError, match=sentence):
        lo.credit(fit, groups, measures, **change)
    with pytest.raises(ValueError, match="unknown column 'what'"):
        lo.credit(fit, groups, measures, lo.Influence(), null=0).table("what")


def test_groups_of_numbers_have_no_balance_of_classes():
    fit = lo.fit(lo.squares(np.eye(6)[:, :2] + np.arange(6)[:, None], np.arange(6.0), l2=1.0))
    found = lo.credit(
        fit, lo.Groups.from_labels(np.arange(6) // 2), lo.measures.self_loss(), null=0
    )
    assert found.classes == ()
    assert found.balance.shape == (3, 0)
