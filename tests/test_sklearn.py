"""scikit-learn's estimators: taken out of their wrappers, and what a refit computes anew."""

import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import (
    Lasso,
    LinearRegression,
    LogisticRegression,
    LogisticRegressionCV,
    PoissonRegressor,
    Ridge,
    RidgeClassifier,
    RidgeCV,
)
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, OneHotEncoder, StandardScaler
from sklearn.svm import LinearSVC

import leaveout as lo
from problems import linear, mostly_slow, wrong

N = 150
RNG = np.random.default_rng(5)
X = RNG.normal(size=(N, 3)) * [1, 3, 10] + [0, 1, 5]
LABELS = RNG.integers(0, 4, N)
Y = (X[:, 0] + (LABELS == 0) + RNG.logistic(size=N) > 1).astype(int)
CLASSES = np.array(["a", "b", "c"])[np.clip(Y + RNG.integers(0, 2, N), 0, 2)]
TARGETS = X @ RNG.normal(size=(3, 2)) + RNG.normal(size=(N, 2))
COUNTS = RNG.poisson(np.exp(0.3 * X[:, 0]))
WEIGHTS = RNG.uniform(0.5, 2, N)
GROUPS = lo.Groups.from_labels(LABELS)
EXACT = lo.Retrain(1e-12)


def classifier(**options):
    return LogisticRegression(solver="newton-cholesky", tol=1e-12, **options)


def fresh(estimator) -> Any:
    """The estimator as it was before its fit."""
    return clone(estimator)


def moved(estimator, y, weights, queries=X[:5]):
    """What fitting an estimator again without each group does to its scores (g, m)."""

    def scores(stays):
        sample = None if weights is None else weights[stays]
        again = fresh(estimator).fit(X[stays], y[stays], sample_weight=sample)
        return queries @ again.coef_.ravel() + again.intercept_

    base = scores(np.ones(N, bool))
    return np.array([scores(label != LABELS) - base for label in range(4)])


def said(call):
    """What a call gives, and what it warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = call()
    return found, " ".join(str(each.message) for each in caught)


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
def test_balanced_weights_follow_who_leaves(weights):
    estimator = classifier(class_weight="balanced").fit(X, Y, sample_weight=weights)
    fit, sentence = said(lambda: lo.from_sklearn(estimator, X, Y, weights=weights))
    assert "its balanced class weights (lo.rebalance(groups, y)" in sentence
    truth = moved(estimator, Y, weights)
    groups = lo.rebalance(GROUPS, Y, weights=weights)
    assert groups.names.tolist() == GROUPS.names.tolist()
    found = lo.effects(fit, groups, lo.measures.prediction(X[:5]), EXACT)
    np.testing.assert_allclose(found.value, truth, atol=1e-7 * np.abs(truth).max())
    kept = lo.effects(fit, GROUPS, lo.measures.prediction(X[:5]), EXACT)
    assert np.abs(kept.value - truth).max() > 0.1 * np.abs(truth).max()
    newton = lo.effects(fit, groups, lo.measures.prediction(X[:5]), lo.Newton())
    assert np.abs(newton.value - truth).max() < 0.2 * np.abs(truth).max()


@pytest.mark.slow
def test_balanced_weights_of_several_classes_and_of_parts_of_points_follow():
    estimator = classifier(class_weight="balanced").fit(X, CLASSES)
    fit = lo.from_sklearn(estimator, X, CLASSES, frozen=True)
    half = lo.rebalance(lo.reweight(GROUPS, by=0.5), CLASSES)
    change = lo.retrain(fit, half, EXACT).value
    for label in range(4):
        share = np.where(label == LABELS, 0.5, 1.0)
        again = clone(estimator).fit(X, CLASSES, sample_weight=share)
        now = np.asarray(linear(fit).layout.matrix(fit.flat + change[label]))
        np.testing.assert_allclose(now[:, :3], again.coef_, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: lo.rebalance(GROUPS, np.where(LABELS == 1, "x", "y")), "takes all of class 'x'"),
        (lambda: lo.rebalance(GROUPS, Y[1:]), "a label for each of 150 points"),
        (lambda: lo.rebalance(GROUPS.with_w(-GROUPS.w), Y), "expected groups that leave"),
    ],
)
def test_weights_that_cannot_follow_are_refused(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


@pytest.mark.slow
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
def test_a_penalty_on_the_mean_loss_follows_by_l2(weights):
    options = {"alpha": 0.5, "tol": 1e-12, "max_iter": 10_000, "solver": "newton-cholesky"}
    estimator = PoissonRegressor(**options).fit(X, COUNTS, sample_weight=weights)
    fit, sentence = said(lambda: lo.from_sklearn(estimator, X, COUNTS, weights=weights))
    assert "l2=alpha * fit.objective.stays(groups.dense()).sum(axis=1)) follows it" in sentence
    truth = moved(estimator, COUNTS, weights)
    l2 = 0.5 * fit.objective.stays(GROUPS.dense()).sum(axis=1)
    found = lo.effects(fit, GROUPS, lo.measures.prediction(X[:5]), EXACT, l2=l2)
    np.testing.assert_allclose(found.value, truth, atol=1e-6 * np.abs(truth).max())
    kept = lo.effects(fit, GROUPS, lo.measures.prediction(X[:5]), EXACT)
    assert np.abs(kept.value - truth).max() > 0.01 * np.abs(truth).max()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "y", "sentence"),
    [
        (lambda: make_pipeline(StandardScaler(), classifier()), Y, "the step 'standardscaler'"),
        (
            lambda: GridSearchCV(
                make_pipeline(StandardScaler(), classifier()),
                {"logisticregression__C": [0.1, 1.0]},
            ),
            CLASSES,
            r"its search, which chose {'logisticregression__C'",
        ),
        (
            lambda: make_pipeline(StandardScaler(), RidgeCV(alphas=(0.1, 10.0))),
            TARGETS[:, 0],
            "the choice of alpha",
        ),
        (
            lambda: make_pipeline(
                StandardScaler(),
                LogisticRegressionCV(
                    Cs=[0.1, 1.0],  # pyright: ignore[reportArgumentType]
                    l1_ratios=(0.0,),  # pyright: ignore[reportArgumentType]
                    use_legacy_attributes=False,  # pyright: ignore[reportArgumentType]
                    scoring="neg_log_loss", solver="newton-cholesky", tol=1e-12,
                ),
            ),
            Y,
            "the choice of C",
        ),
    ],
    ids=["pipeline", "search", "ridge", "logistic"],
)  # fmt: skip
def test_models_in_wrappers_are_taken_with_a_word_on_what_a_refit_computes_anew(make, y, sentence):
    estimator = make().fit(X, y)
    fit, told = said(lambda: lo.from_sklearn(estimator, X, y))
    assert sentence.replace("\\", "") in told
    assert "frozen=True" in told
    best = getattr(estimator, "best_estimator_", estimator)
    inputs = best[:-1].transform(X)
    scores = getattr(best, "decision_function", best.predict)(X)
    mine = linear(fit).scores(fit.flat, inputs)
    np.testing.assert_allclose(np.squeeze(mine), scores, atol=1e-5 * np.abs(scores).max())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lo.from_sklearn(estimator, X, y, frozen=True)


@pytest.mark.slow
def test_steps_that_learn_nothing_are_no_matter():
    estimator = make_pipeline(Normalizer(), "passthrough", classifier()).fit(X, Y)
    fit = lo.from_sklearn(estimator, X, Y)
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    scores = linear(fit).scores(fit.flat, unit)[:, 0]
    np.testing.assert_allclose(scores, estimator.decision_function(X), atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize(
    "estimator",
    [
        Ridge(alpha=3.0),
        Ridge(alpha=[0.5, 200.0]),  # pyright: ignore[reportArgumentType]
        LinearRegression(),
    ],
    ids=["one alpha", "one a target", "ols"],
)
def test_several_targets_are_refitted_together(estimator, intercept):
    estimator = fresh(estimator).set_params(fit_intercept=intercept)
    fit = lo.from_sklearn(estimator.fit(X, TARGETS), X, TARGETS)
    found = lo.effects(fit, GROUPS, lo.measures.prediction(X[:2]), lo.Newton()).value
    before = estimator.predict(X[:2])
    for label in range(4):
        stays = label != LABELS
        truth = (fresh(estimator).fit(X[stays], TARGETS[stays]).predict(X[:2]) - before).ravel()
        np.testing.assert_allclose(found[label], truth, atol=1e-9 * np.abs(before).max())


@pytest.mark.slow
def test_a_liblinear_intercept_is_penalised_as_its_scaling_says():
    scaling: Any = 3.0
    options = {"solver": "liblinear", "tol": 1e-12, "max_iter": 100_000}
    estimator = LogisticRegression(C=0.7, intercept_scaling=scaling, **options).fit(X, Y)
    fit = lo.from_sklearn(estimator, X, Y)
    np.testing.assert_allclose(fit.theta.bias, estimator.intercept_[0], atol=1e-5)
    assert float(fit.objective.penalty[-1]) == pytest.approx(1 / 0.7 / 9)


@pytest.mark.parametrize(
    ("estimator", "sentence"),
    [
        (make_pipeline(StandardScaler(), LogisticRegression()), "call its fit"),
        (GridSearchCV(LogisticRegression(), {"C": [1.0]}), "call its fit"),
        (GridSearchCV(LogisticRegression(), {"C": [1.0]}, refit=False).fit(X, Y), "refit=False"),
        (CalibratedClassifierCV(LogisticRegression()).fit(X, Y), "fitted to folds, recalibrated"),
        (OneVsRestClassifier(LogisticRegression()).fit(X, CLASSES), r"estimators_\[k\] and y =="),
        (RandomForestClassifier(3).fit(X, Y), "made of other estimators"),
        (RidgeClassifier().fit(X, Y), "labels coded -1 and 1"),
        (Ridge(positive=True).fit(X, Y), "positive=False"),
        (Lasso().fit(X, Y), "l1 part"),
        (LinearSVC().fit(X, Y), "no second derivative"),
        (StandardScaler().fit(X), "no coefficients"),
        (wrong(3), "got 3"),
        (wrong(LogisticRegression), "got <class"),
    ],
)
def test_what_is_no_linear_model_of_all_the_data_is_told_why(estimator, sentence):
    with pytest.raises(ValueError, match=sentence):
        lo.from_sklearn(estimator, X, Y)


def test_a_table_of_other_columns_than_the_estimator_saw_is_refused():
    pd = pytest.importorskip("pandas")
    table = pd.DataFrame(X, columns=["a", "b", "c"])
    estimator = LogisticRegression(tol=1e-10).fit(table, Y)
    for columns, sentence in (["cba", "in another order"], ["abd", "it lacks 'c'"]):
        other = table.set_axis(list(columns), axis=1)
        with pytest.raises(ValueError, match=sentence):
            lo.from_sklearn(estimator, other, Y)


# ---- tables --------------------------------------------------------------------------------------

FRAME = pd.DataFrame(
    {
        "age": X[:, 2],
        "site": np.array(["a", "b", "c"])[LABELS % 3],
        "note": [" ".join(RNG.choice([f"w{k}" for k in range(40)], 5)) + f" r{i % 70}"
                 for i in range(N)],
    }
)  # fmt: skip


def columns(*, words: bool) -> Any:
    """Numbers scaled, categories one-hot, and texts as words where they are asked for."""
    texts = [(TfidfVectorizer(), "note")] if words else []
    return make_column_transformer(
        (StandardScaler(), ["age"]), (OneHotEncoder(drop="first"), ["site"]), *texts,
        sparse_threshold=1.0 if words else 0.0,
    )  # fmt: skip


CHOOSES: dict[str, Any] = {"Cs": [0.1, 1], "cv": 3, "scoring": "accuracy", "l1_ratios": (0,),
                           "tol": 1e-12, "solver": "newton-cholesky",
                           "use_legacy_attributes": False}  # fmt: skip
EXACTLY: dict[str, Any] = {"solver": "sparse_cg", "tol": 1e-14}
COUNTING: dict[str, Any] = {"solver": "newton-cholesky", "tol": 1e-10}
#: an estimator, its targets, and what is fitted again behind the frozen steps, n of N rows
LAST: dict[str, tuple[Any, Any, Any]] = {
    "LogisticRegression": (classifier(C=2), Y, lambda found, n: classifier(C=2)),
    "LogisticRegressionCV": (
        LogisticRegressionCV(**CHOOSES), Y, lambda found, n: classifier(C=float(found.C_)),
    ),
    "Ridge": (Ridge(**EXACTLY), TARGETS[:, 0], lambda found, n: Ridge(**EXACTLY)),
    "RidgeCV": (
        RidgeCV([0.5, 2]), TARGETS[:, 0], lambda found, n: Ridge(float(found.alpha_)),
    ),
    "PoissonRegressor": (
        PoissonRegressor(**COUNTING), COUNTS,
        lambda found, n: PoissonRegressor(alpha=N / n, **COUNTING),  # l2 = alpha n stays
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", mostly_slow(LAST, "LogisticRegression", "Ridge"))
def test_a_pipeline_of_columns_is_refitted_behind_its_frozen_steps(name):
    estimator, y, again = LAST[name]
    pipe: Any = make_pipeline(columns(words=name == "Ridge"), estimator).fit(FRAME, y)
    fit, sentence = said(lambda: lo.from_sklearn(pipe, FRAME, y))
    assert sentence.count("the step 'columntransformer'") == 1
    x, names = pipe[:-1].transform(FRAME), tuple(pipe[:-1].get_feature_names_out())
    assert linear(fit).names == names
    wanted = ["standardscaler__age", "onehotencoder__site_c"]
    found = lo.effects(fit, GROUPS, lo.measures.parameter(wanted), EXACT)

    def slopes(stays):
        model = again(pipe[-1], stays.sum()).fit(x[stays], y[stays])
        return np.ravel(model.coef_)[[names.index(one) for one in wanted]]

    truth = [slopes(label != LABELS) - slopes(np.ones(N, bool)) for label in range(4)]
    np.testing.assert_allclose(found.value, truth, atol=1e-7)


def test_words_stay_sparse_all_the_way():
    pipe = make_pipeline(columns(words=True), classifier()).fit(FRAME[:80], Y[:80])
    fit = lo.from_sklearn(pipe, FRAME[:80], Y[:80], frozen=True)
    assert fit.objective.sparse
    queries = pipe[:-1].transform(FRAME[80:90])
    assert fit.predict(queries).tolist() == pipe.predict(FRAME[80:90]).tolist()
    svc = make_pipeline(columns(words=True), LinearSVC()).fit(FRAME, Y)
    with pytest.raises(ValueError, match="LinearSVC cannot be taken over: its loss has no second"):
        lo.from_sklearn(svc, FRAME, Y)


# ---- inputs as the first step sees them ----------------------------------------------------------


@pytest.fixture(scope="module")
def piped():
    """A pipeline of columns on 80 rows of the table, and its fit."""
    pipe = make_pipeline(columns(words=False), classifier()).fit(FRAME[:80], Y[:80])
    return pipe, lo.from_sklearn(pipe, FRAME[:80], Y[:80], frozen=True)


MEASURED = {
    "loss": lambda x, y: lo.measures.loss((x, y), by=y),
    "prediction": lambda x, y: lo.measures.prediction(x),
    "accuracy": lambda x, y: lo.measures.accuracy((x, y)),
    "gap": lambda x, y: lo.measures.gap(x, y == y[0]),
}


@pytest.mark.parametrize("name", MEASURED)
def test_measures_take_tables_as_the_first_step_sees_them(piped, name):
    pipe, fit = piped
    rows, y = FRAME[80:], Y[80:]
    groups = lo.Groups.from_labels(np.arange(80) % 3)
    inner = lo.effects(fit, groups, MEASURED[name](pipe[:-1].transform(rows), y))
    for given in (rows, rows.assign(more="text").sort_index(axis="columns", ascending=False)):
        found = lo.effects(fit, groups, MEASURED[name](given, y))
        np.testing.assert_array_equal(found.value, inner.value)
    assert fit.predict(rows).tolist() == pipe.predict(rows).tolist()


def test_a_table_is_never_taken_for_one_that_is_scaled():
    raw = FRAME[["age"]]
    pipe = make_pipeline(StandardScaler(), classifier()).fit(raw, Y)
    fit = lo.from_sklearn(pipe, raw, Y, frozen=True)
    chances = pipe.predict_proba(raw)
    np.testing.assert_allclose(fit.predict(raw, chances=True), chances, atol=1e-6)
    scaled = pipe[:-1].transform(raw)
    np.testing.assert_allclose(fit.predict(scaled, chances=True), chances, atol=1e-6)
    pipe[0].fit(raw * 3)  # the fit has the scaler as it was
    np.testing.assert_allclose(fit.predict(raw, chances=True), chances, atol=1e-6)
    told = make_pipeline(StandardScaler(), classifier()).set_output(transform="pandas")
    either = lo.from_sklearn(told.fit(raw, Y), raw, Y, frozen=True)
    with pytest.raises(ValueError, match="is this what the first step sees, or the last"):
        either.predict(raw)


def test_texts_are_what_a_vectorizer_sees():
    texts = FRAME["note"].tolist()
    pipe = make_pipeline(TfidfVectorizer(), classifier()).fit(texts, Y)
    fit = lo.from_sklearn(pipe, texts, Y, frozen=True)
    inner = lo.effects(fit, GROUPS, lo.measures.prediction(pipe[:-1].transform(texts[:9])))
    for given in (texts[:9], FRAME["note"][:9], np.array(texts[:9])):
        found = lo.effects(fit, GROUPS, lo.measures.prediction(given))
        np.testing.assert_array_equal(found.value, inner.value)


def test_a_file_holds_no_steps_and_says_so(piped, tmp_path):
    pipe, fit = piped
    fit.save(tmp_path / "fit.npz")
    loaded = lo.load(tmp_path / "fit.npz")
    inner = pipe[:-1].transform(FRAME)
    assert loaded.predict(inner).tolist() == fit.predict(inner).tolist()
    with pytest.raises(ValueError, match="does not hold the steps of its pipeline"):
        loaded.predict(FRAME)


def test_a_table_of_texts_is_refused_where_no_step_reads_it():
    fit = lo.fit(lo.logistic(X, Y))
    with pytest.raises(ValueError, match="the inputs of loss as a numeric matrix"):
        lo.effects(fit, GROUPS, lo.measures.loss((FRAME, Y)))
