"""Real, ill-conditioned, unstandardised data: the paper's Diabetes at its own penalty."""

import warnings

import jax
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

import leaveout as lo
from leaveout.fitting.precision import as_given
from leaveout.studies import removal as study

L2_OVER_N = 10 ** (-4 + 1 / 3)  # 2.15e-4, the paper's choice


@pytest.fixture(scope="module")
def diabetes(real_data):
    return lo.datasets.diabetes()


@pytest.mark.slow
def test_default_retraining_agrees_with_newton_cholesky(diabetes):
    l2 = L2_OVER_N * diabetes.n
    fitted = lo.fit(lo.logistic(diabetes.x, diabetes.y, l2=l2))
    query = diabetes.x_query[:10]
    scores = lo.per_point(fitted, lo.measures.prediction(query[:1]))
    groups = lo.groups.tails(jax.random.key(0), np.asarray(scores), num=3)
    actual = lo.effects(fitted, groups, lo.measures.prediction(query), lo.Retrain())
    assert not actual.status.any()
    before = query @ np.asarray(fitted.theta.weight) + float(fitted.theta.bias)
    error = 0.0
    for w, effect in zip(groups.dense(), actual.value, strict=True):
        model = LogisticRegression(C=1 / l2, solver="newton-cholesky", tol=1e-12, max_iter=100)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns where its line search meets rounding
            model.fit(diabetes.x, diabetes.y, sample_weight=1 - w)
        error = max(error, np.abs(model.decision_function(query) - before - effect).max())
    assert error < 1e-7 * np.abs(actual.value).max()


@pytest.mark.slow
def test_float32_retrains_to_what_float64_finds(diabetes):
    x, query = (part.astype(np.float32) for part in (diabetes.x, diabetes.x_query[:10]))
    found, groups = [], None
    for double in (True, False):
        with jax.enable_x64(double), as_given(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what was not reached is in the status
            fit = lo.fit(lo.logistic(x, diabetes.y, l2=L2_OVER_N * diabetes.n))
            if groups is None:
                pull = lo.per_point(fit, lo.measures.loss((query[:1], diabetes.y_query[:1])))
                groups = lo.groups.tails(jax.random.key(0), np.asarray(pull), num=20)
            found.append(lo.effects(fit, groups, lo.measures.prediction(query), lo.Retrain()))
    exact, single = found
    good = single.status == 0
    assert good.sum() > 0.9 * len(good)
    error = np.abs(single.value - exact.value)[good] / np.abs(exact.value).max(axis=0)
    assert error.max() < 2e-5  # 6e-6 by programs that are compiled with care


@pytest.mark.slow
def test_a_few_of_the_papers_groups_are_ranked_as_retraining_ranks_them(diabetes):
    fitted = lo.fit(lo.logistic(diabetes.x, diabetes.y, l2=L2_OVER_N * diabetes.n))
    query = (diabetes.x_query[[66_678]], diabetes.y_query[[66_678]])
    scores = lo.per_point(fitted, lo.measures.loss(query))
    sizes = lo.groups.sizes(diabetes.n, 10)
    key = jax.random.key(0)
    groups = (
        lo.groups.random(key, diabetes, sizes=sizes)
        + lo.groups.same_class(key, diabetes, sizes=sizes)
        + lo.groups.shared_feature(key, diabetes, sizes=sizes)
        + lo.groups.tails(key, np.asarray(scores), num=9)
    )
    effects = [
        lo.effects(fitted, groups, lo.measures.margin(query), method)
        for method in (lo.Influence(), lo.Newton(), lo.Retrain())
    ]
    assert not effects[2].status.any()
    assert lo.compare(effects[0], effects[2]).spearman[0] > 0.99
    assert lo.compare(effects[1], effects[2]).spearman[0] > 0.99


@pytest.mark.slow
def test_a_study_of_170_groups_of_all_families_is_ranked_as_retraining_ranks_it(
    tmp_path, real_data, monkeypatch
):
    monkeypatch.setenv("LEAVEOUT_DATA", str(real_data))
    configuration = study.Configuration("diabetes", per_family=10, l2_over_n=L2_OVER_N)
    result = study.run(configuration, tmp_path / "diabetes")
    actual = result.effects["actual"]
    assert len(actual.groups) == 170
    assert len(set(actual.groups.kind.tolist())) == 7
    assert not actual.status.any()
    shown = actual.columns.index("test prediction[0]")
    assert result.summary["query_points"][0] == 66_678
    assert result.comparisons["influence"].spearman[shown] > 0.99
    assert result.comparisons["newton"].spearman[shown] > 0.99
