"""Confidence intervals clustered by groups: beside statsmodels, by hand, and as published."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import scipy.stats

import leaveout as lo

PUBLISHED = Path(__file__).parent / "published"


class Odds(lo.measures.Measure):
    """exp of the first entry of theta: a ratio."""

    name: str = "odds"
    needs_w: bool = False

    @property
    def ratio(self):
        return True

    def values(self, objective, theta, w):
        return jnp.exp(objective.shown(theta)[0])[None]

    def columns(self, objective):
        return ("odds",)


@pytest.fixture(scope="module")
def sample():
    """A logistic model of 240 points, in 24 clusters and in 8 others that cross them."""
    rng = np.random.default_rng(3)
    n = 240
    one, other = np.arange(n) % 24, rng.integers(8, size=n)
    x = rng.normal(size=(n, 2)) + rng.normal(size=24)[one, None] / 2
    score = x @ [0.8, -0.5] + rng.normal(size=24)[one] / 2 + rng.normal(size=8)[other] / 2
    y = (score + rng.logistic(size=n) > 0).astype(int)
    return x, y, one, other


def few(match="are few"):
    return pytest.warns(UserWarning, match=match)


def test_intervals_of_least_squares_are_those_of_statsmodels(sample):
    import statsmodels.api as sm

    x, y, one, _ = sample
    fit = lo.fit(lo.squares(x, y.astype(float), l2=0.0))
    settings = {"cov_type": "cluster", "cov_kwds": {"groups": one}, "use_t": True}
    theirs = sm.OLS(y, np.c_[x, np.ones(len(y))]).fit(**settings)
    ours = lo.confidence(
        fit, lo.Groups.from_labels(one), lo.measures.parameter([0, 1, 2]), lo.CRV.CRV1
    )
    np.testing.assert_allclose(ours.error, theirs.bse, rtol=1e-9)
    np.testing.assert_allclose(ours.p, theirs.pvalues, rtol=1e-6)
    np.testing.assert_allclose(np.c_[ours.low, ours.high], theirs.conf_int(), rtol=1e-7)
    assert ours.degrees.tolist() == [23, 23, 23]
    assert ours.without_low is None  # pairs are left out by the jackknife alone
    assert not ours.notes


def test_intervals_of_odds_ratios_are_those_of_statsmodels(sample):
    import statsmodels.api as sm

    x, y, one, _ = sample
    fit = lo.fit(lo.logistic(x, y, l2=0.0))
    settings = {"cov_type": "cluster", "cov_kwds": {"groups": one}, "use_t": True, "disp": 0}
    theirs = sm.Logit(y, np.c_[x, np.ones(len(y))]).fit(tol=1e-12, **settings)
    ours = lo.confidence(fit, lo.Groups.from_labels(one), Odds(), lo.CRV.CRV1)
    assert ours.estimate[0] == pytest.approx(np.exp(theirs.params[0]), rel=1e-9)
    assert ours.error[0] == pytest.approx(theirs.bse[0], rel=1e-8)
    np.testing.assert_allclose([ours.low[0], ours.high[0]], np.exp(theirs.conf_int()[0]), rtol=1e-7)
    assert ours.p[0] == pytest.approx(theirs.pvalues[0], rel=1e-6)


def test_two_ways_of_clustering_are_those_of_statsmodels(sample):
    import statsmodels.api as sm

    x, y, one, other = sample
    fit = lo.fit(lo.squares(x, y.astype(float), l2=0.0))
    settings = {"cov_type": "cluster", "cov_kwds": {"groups": np.c_[one, other]}}
    theirs = sm.OLS(y, np.c_[x, np.ones(len(y))]).fit(**settings)
    ways = lo.Groups.from_labels(one, kind="one"), lo.Groups.from_labels(other, kind="other")
    with few("8 clusters"):
        ours = lo.confidence(fit, ways, lo.measures.parameter([0, 1, 2]), lo.CRV.CRV1)
    alone = [
        sm.OLS(y, np.c_[x, np.ones(len(y))]).fit(cov_type="cluster", cov_kwds={"groups": way}).bse
        for way in (one, other)
    ]
    np.testing.assert_allclose(ours.error, np.maximum(theirs.bse, np.max(alone, axis=0)), rtol=1e-9)
    narrow = [f"parameter[{j}]" for j in np.flatnonzero(theirs.bse < np.max(alone, axis=0))]
    assert all(any(name in note for note in ours.notes) for name in narrow)
    assert ours.degrees.tolist() == [7, 7, 7]


def refitted(x, y, keep):
    """The first coefficient of a logistic model of some rows, by statsmodels."""
    import statsmodels.api as sm

    model = sm.Logit(y[keep], np.c_[x, np.ones(len(y))][keep])
    return model.fit(disp=0, tol=1e-12).params[0]


def test_the_jackknife_is_that_of_refitting_without_each_cluster_and_each_pair(sample):
    x, y, _, other = sample
    fit = lo.fit(lo.logistic(x, y, l2=0.0))
    groups = lo.Groups.from_labels(other, kind="site")
    with few():
        ours = lo.confidence(fit, groups, [Odds(), lo.measures.parameter(0)], null=50)
    whole = refitted(x, y, other >= 0)
    left = np.array([refitted(x, y, other != k) for k in range(8)])
    error = np.sqrt(7 / 8 * np.sum((left - whole) ** 2))
    half = scipy.stats.t.ppf(0.975, 7) * error
    np.testing.assert_allclose(ours.error, error, rtol=1e-6)
    np.testing.assert_allclose([ours.low[1], ours.high[1]], [whole - half, whole + half], rtol=1e-6)
    np.testing.assert_allclose(np.exp([ours.low[1], ours.high[1]]), [ours.low[0], ours.high[0]])
    np.testing.assert_allclose(ours.without[:, 1], left, rtol=1e-7)
    rest = [refitted(x, y, (other != 3) & (other != k)) for k in range(8) if k != 3]
    wide = scipy.stats.t.ppf(0.975, 6) * np.sqrt(6 / 7 * np.sum((np.array(rest) - left[3]) ** 2))
    ends = ours.without_low, ours.without_high
    assert ends[0] is not None
    assert ends[1] is not None
    np.testing.assert_allclose([ends[0][3, 1], ends[1][3, 1]], left[3] + [-wide, wide], rtol=1e-5)
    band = ours.band()
    assert band is not None
    assert (band[0] < ours.estimate).all()
    assert (band[1] > ours.estimate).all()
    of_log = np.array(band)[:, :, 1]  # to first order the same groups do the same to both
    np.testing.assert_allclose(np.exp(of_log), np.array(band)[:, :, 0], rtol=1e-9)
    np.testing.assert_allclose(ours.share.sum(axis=0), 1.0)
    assert "95 % confidence intervals, CRV3, by 8 clusters, site" in repr(ours)
    assert not ours.without_pandas()["low"].isna().to_numpy().any()
    assert ours.to_pandas()["high"].tolist() == ours.high.tolist()


def test_about_the_mean_is_the_jackknife_that_was_there_before(sample):
    x, y, one, _ = sample
    fit = lo.fit(lo.squares(x, y.astype(float), l2=1.0))
    groups, wanted = lo.Groups.from_labels(one), lo.measures.parameter([0, 1])
    ours = lo.confidence(
        fit, groups, wanted, lo.CRV.CRV3J, method=lo.Newton(), pairs=False, level=0.9
    )
    l2 = np.full(24, 23 / 24)  # of what stays
    before = lo.jackknife(lo.effects(fit, groups, wanted, lo.Newton(), l2=l2))
    np.testing.assert_allclose(ours.error, before, rtol=1e-12)
    assert ours.without_low is None
    assert [note for note in ours.notes if "l2 pulls estimates towards 0" in note]


def test_refits_behind_the_variance_keep_the_penalty_an_example(sample):
    x, y, _, other = sample
    l2, design = 30.0, np.c_[x, np.ones(len(y))]

    def ridge(keep, penalty):
        some = design[keep]
        return np.linalg.solve(some.T @ some + np.diag([penalty, penalty, 0]), some.T @ y[keep])

    fit = lo.fit(lo.squares(x, y.astype(float), l2=l2))
    with few():
        ours = lo.confidence(fit, lo.Groups.from_labels(other), lo.measures.parameter([0, 1]))
    whole, stays = ridge(other >= 0, l2), [np.mean(other != k) for k in range(8)]
    like = np.array([ridge(other != k, l2 * stays[k]) for k in range(8)])
    square = np.sum((like - whole) ** 2, axis=0)
    np.testing.assert_allclose(ours.error, np.sqrt(7 / 8 * square)[:2], rtol=1e-6)
    alone = np.array([ridge(other != k, l2) for k in range(8)])
    np.testing.assert_allclose(ours.without, alone[:, :2], rtol=1e-7)  # as a refit gives it
    pairs = [(other != 3) & (other != k) for k in range(8) if k != 3]
    rest = np.array([ridge(keep, l2 * keep.mean()) for keep in pairs])
    wide = np.sqrt(6 / 7 * np.sum((rest - like[3]) ** 2, axis=0))[:2]
    assert ours.without_high is not None
    assert ours.without_low is not None
    half = (ours.without_high[3] - ours.without_low[3]) / 2 / scipy.stats.t.ppf(0.975, 6)
    np.testing.assert_allclose(half, wide, rtol=1e-5)


def test_a_cluster_that_makes_most_of_the_variance_is_named(sample):
    x, y, _, other = sample
    y = y + 40.0 * (other == 5) * x[:, 0]
    fit = lo.fit(lo.squares(x, y, l2=0.0))
    with few():
        ours = lo.confidence(
            fit, lo.Groups.from_labels(other), lo.measures.parameter(0), lo.CRV.CRV0
        )
    assert any(note.startswith("5 makes ") for note in ours.notes)


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"variance": "CRV3"}, r"expected one of lo.CRV.CRV0, .*, got 'CRV3'"),
        ({"level": 95}, "expected a level between 0 and 1, such as 0.95, got 95"),
        ({"variance": lo.CRV.CRV1, "pairs": True}, "come from leaving out pairs of them"),
        ({"measures": lo.measures.self_loss()}, "self_loss depends on who leaves"),
    ],
)
def test_what_makes_no_interval_is_refused_in_a_sentence(sample, asked, sentence, as_users_run_it):
    x, y, one, _ = sample
    fit = lo.fit(lo.squares(x, y.astype(float), l2=0.0))
    given = {"measures": lo.measures.parameter(0)} | asked
    with pytest.raises(ValueError, match=sentence):
        lo.confidence(fit, lo.Groups.from_labels(one), given.pop("measures"), **given)


def test_fewer_than_twenty_are_few_and_pairs_of_up_to_thirty_are_left_out_unasked(sample):
    x, y, *_ = sample
    fit, wanted = lo.fit(lo.squares(x, y.astype(float), l2=0.0)), lo.measures.parameter(0)
    each = {count: lo.Groups.from_labels(np.arange(240) % count) for count in (19, 20, 30, 31)}
    with few("19 clusters .* 18 degrees"):
        lo.confidence(fit, each[19], wanted, lo.CRV.CRV1)
    assert not lo.confidence(fit, each[20], wanted, lo.CRV.CRV1).notes
    for count in (30, 31):
        found = lo.confidence(fit, each[count], wanted, method=lo.Newton())
        assert (found.without_low is None) == (count == 31)


def test_points_without_weight_are_not_counted_among_those_of_the_variance(sample):
    x, y, one, _ = sample
    there = np.arange(240) % 5 > 0
    fit = lo.fit(lo.squares(x, y.astype(float), l2=0.0, weights=there.astype(float)))
    wanted = lo.measures.parameter([0, 1, 2])
    ours = lo.confidence(fit, lo.Groups.from_labels(one), wanted, lo.CRV.CRV1)
    design = np.c_[x, np.ones(240)][there]
    bread = np.linalg.inv(design.T @ design)
    scores = design * (y[there] - design @ bread @ design.T @ y[there])[:, None]
    meat = sum(np.outer(s, s) for s in (scores[one[there] == k].sum(axis=0) for k in range(24)))
    n = there.sum()
    variance = 24 / 23 * (n - 1) / (n - 3) * np.diag(bread @ meat @ bread)
    np.testing.assert_allclose(ours.error, np.sqrt(variance), rtol=1e-9)


@pytest.mark.slow
def test_the_published_example_of_summclust_comes_out_as_printed():
    """Wages of young women by industry, as in the vignette of the R package summclust 0.7.

    Its figures are those of Stata's summclust (MacKinnon, Nielsen and Webb 2023). The data is the
    National Longitudinal Survey's, of the U.S. Bureau of Labor Statistics, as Stata's nlswork.
    """
    with np.load(PUBLISHED / "nlswork.npz") as stored:
        table = pd.DataFrame({name: stored[name].astype(float) for name in stored})
    dummies = pd.get_dummies(table[["grade", "age", "birth_yr"]].astype(int).astype(str),
                             drop_first=True, dtype=float)  # fmt: skip
    x = pd.concat([table[["union", "race", "msp"]], dummies], axis=1)
    fit = lo.fit(lo.squares(x, table["ln_wage"], l2=0.0))
    industry = lo.Groups.from_labels(table["ind_code"], kind="industry")
    wanted = lo.measures.parameter(["union", "race", "msp"])
    gone = pytest.warns(UserWarning, match="theta has no one minimum without")  # a grade or an age
    with few("12 clusters"), gone:
        found = lo.confidence(fit, industry, wanted, method=lo.Newton(), pairs=False)
    np.testing.assert_allclose(found.estimate, [0.20395972, -0.08619813, -0.02751510], atol=5e-9)
    np.testing.assert_allclose(found.error, [0.08358587, 0.01904684, 0.01406412], atol=5e-9)
    np.testing.assert_allclose(found.p, [0.032815614, 0.000864074, 0.076280639], rtol=1e-6)
    np.testing.assert_allclose(found.low, [0.01998847, -0.12811995, -0.05847002], atol=5e-9)
    np.testing.assert_allclose(found.high, [0.387930980, -0.044276312, 0.003439815], atol=5e-9)
    union, msp = found.without[:, 0], found.without[:, 2]
    printed = [0.1624754, 0.1994694, 0.2045197, 0.2053997, 0.2056569, 0.2754228]
    ours = np.quantile(union, [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(np.insert(ours, 3, union.mean()), printed, atol=5e-8)
    printed = [-0.03320040, -0.02893131, -0.02776470, -0.02691999, -0.02610221, -0.01583453]
    ours = np.quantile(msp, [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(np.insert(ours, 3, msp.mean()), printed, atol=5e-9)
    with few("12 clusters"):
        first = lo.confidence(fit, industry, wanted, lo.CRV.CRV1)
    np.testing.assert_allclose(first.error, [0.061167499, 0.016150418, 0.009293046], atol=5e-10)
    np.testing.assert_allclose(first.low, [0.06933097, -0.12174496, -0.04796896], atol=5e-9)
    assert any("of the variance of" in note for note in found.notes)
