"""Measures: sums over parts of the queries, and statistics that have no useful derivative."""

import itertools

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, roc_auc_score

import leaveout as lo
from problems import groups_of, mostly_slow, problem

N, M = 60, 40


@pytest.fixture(scope="module", params=mostly_slow(["logistic", "softmax"], "logistic"))
def case(request):
    """A fit, queries with their labels, and a label for each query."""
    objective = problem(request.param, n=N)
    queries = problem(request.param, n=M, seed=5)
    y = np.asarray(objective.classes)[np.asarray(queries.y).astype(int)]
    return lo.fit(objective), (np.asarray(queries.x), y), np.arange(M) % 3


def test_sums_over_parts_are_sums_of_the_columns(case):
    fit, queries, part = case
    groups = groups_of(N, 5)
    masks = {"all": np.ones(M, bool), "even": np.arange(M) % 2 == 0}
    for method in (lo.Newton(), lo.Influence()):
        each = lo.effects(fit, groups, lo.measures.loss(queries), method).value
        found = lo.effects(fit, groups, lo.measures.loss(queries, by=part), method)
        assert found.columns == tuple(f"sum of loss[{k}]" for k in range(3))
        np.testing.assert_allclose(found.value, each @ np.eye(3)[part], atol=1e-12)
        found = lo.effects(fit, groups, lo.measures.loss(queries, reduce="mean", by=masks), method)
        expected = np.stack([each.mean(axis=1), each[:, ::2].mean(axis=1)], axis=1)
        np.testing.assert_allclose(found.value, expected, atol=1e-12)


@pytest.mark.slow
def test_intervals_of_sums_hold_retraining(case):
    fit, queries, part = case
    groups = groups_of(N, 5)
    measure = lo.measures.loss(queries, by=part)
    actual = lo.effects(fit, groups, measure, lo.Retrain(1e-12)).value
    found = lo.effects(fit, groups, measure, lo.Newton(), certify=True)
    assert np.isfinite(found.width).mean() > 0.5
    assert (found.lower <= actual).all()
    assert (actual <= found.upper).all()


def scores_of(fit, x):
    scores = np.asarray(fit.objective.scores(fit.flat, fit.objective.widen(x)))
    return np.c_[np.zeros(len(x)), scores] if scores.shape[1] == 1 else scores


def value(fit, measure):
    bound = measure.bind(fit.objective)
    return np.asarray(bound.values(fit.objective, fit.flat, None))


def test_accuracy_and_calibration_are_the_textbooks(case):
    fit, (x, y), part = case
    scores = scores_of(fit, x)
    chance = np.exp(scores - scores.max(axis=1, keepdims=True))
    chance /= chance.sum(axis=1, keepdims=True)
    guess = np.asarray(fit.objective.classes)[scores.argmax(axis=1)]
    assert value(fit, lo.measures.accuracy((x, y))) == pytest.approx(accuracy_score(y, guess))
    expected = [accuracy_score(y[part == k], guess[part == k]) for k in range(3)]
    np.testing.assert_allclose(value(fit, lo.measures.accuracy((x, y), by=part)), expected)
    sure, error, edges = chance.max(axis=1), 0.0, np.linspace(0, 1, 11)
    for low, high in itertools.pairwise(edges):
        mine = (sure > low) & (sure <= high)
        error += abs(np.sum(guess[mine] == y[mine]) - np.sum(sure[mine])) / M
    assert value(fit, lo.measures.calibration_error((x, y), bins=10)) == pytest.approx(error)


def test_auroc_is_scikit_learns_with_ties_and_by_part():
    objective = problem("logistic", n=N)
    fit = lo.fit(objective)
    x = np.repeat(np.asarray(problem("logistic", n=M, seed=5).x)[:20], 2, axis=0)  # ties
    y, part = np.arange(M) * 7 % 3 % 2, np.arange(M) % 2
    score = scores_of(fit, x)[:, 1]
    assert value(fit, lo.measures.auroc((x, y))) == pytest.approx(roc_auc_score(y, score))
    expected = [roc_auc_score(y[part == k], score[part == k]) for k in range(2)]
    np.testing.assert_allclose(value(fit, lo.measures.auroc((x, y), by=part)), expected)


def test_statistics_are_evaluated_where_influence_leads(case):
    fit, queries, _ = case
    groups = groups_of(N, 6)
    measure = lo.measures.calibration_error(queries)
    found = lo.effects(fit, groups, measure, lo.Influence()).value
    moved = lo.effects(fit, groups, measure, lo.Influence(at_changed=True)).value
    np.testing.assert_allclose(found, moved, atol=1e-12)
    assert np.abs(found).max() > 0
    with pytest.raises(ValueError, match="has no useful derivative, so influence on it cannot"):
        lo.per_point(fit, measure)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda q: lo.measures.loss(q, by=[0, 1]), "expected `by` as one label for each of the 40"),
        (lambda q: lo.measures.loss(q, by={"none": np.zeros(M, bool)}), "of which some are true"),
        (lambda q: lo.measures.loss(q, by={"all": np.ones(M)}), "expected booleans"),
        (lambda q: lo.measures.accuracy((q[0], q[1][:3])), "expected one target for each of"),
        (lambda q: lo.measures.auroc(q).bind(problem("softmax")), "auroc needs two classes"),
        (lambda q: lo.measures.accuracy(q).bind(problem("poisson")), "needs a classifier"),
    ],
)
def test_queries_whose_labels_parts_or_model_do_not_fit_are_refused(make, sentence):
    queries = np.zeros((M, 4)), np.zeros(M, int)
    with pytest.raises(ValueError, match=sentence):
        make(queries)
