"""Fits: optima proven or refused, scikit-learn's conventions, the choice of l2."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.linear_model import (
    LinearRegression,
    LogisticRegression,
    PoissonRegressor,
    Ridge,
)
from sklearn.model_selection import KFold

import leaveout as lo
from leaveout.fitting.paths import path
from leaveout.fitting.precision import as_given
from problems import LOSSES, mostly_slow, problem, wrong


def table(load) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets of a data set of scikit-learn's."""
    x, y = load(return_X_y=True)
    return np.asarray(x), np.asarray(y)


@pytest.mark.parametrize("name", LOSSES)
def test_a_fit_is_an_optimum_to_rounding(name):
    fitted = lo.fit(problem(name))
    assert int(fitted.status) == 0
    assert float(fitted.residual) < 1e-9 * float(fitted.sandwich)
    np.testing.assert_allclose(fitted.objective.gradient(fitted.flat), 0.0, atol=1e-10)


def test_residual_and_sandwich_are_what_they_say():
    objective = problem("logistic")
    theta = lo.fit(objective).flat + 0.01
    off = lo.fit(objective, theta=theta, max_steps=0, throw=False)
    inverse = jnp.linalg.inv(objective.hessian(theta))
    gradient = objective.gradient(theta)
    np.testing.assert_allclose(off.residual, jnp.sqrt(gradient @ inverse @ gradient), rtol=1e-9)
    points = jax.vmap(off.expansion().gradient)(jnp.diag(objective.weights))
    lengths = jnp.einsum("np,pq,nq->", points, inverse, points)
    np.testing.assert_allclose(off.sandwich, jnp.sqrt(lengths), rtol=1e-9)


def test_a_theta_trained_elsewhere_is_polished():
    objective = problem("logistic")
    exact = lo.fit(objective)
    near = lo.fit(objective, theta=exact.objective.tree(exact.flat + 1e-3))
    np.testing.assert_allclose(near.flat, exact.flat, atol=1e-12)


def test_a_theta_far_from_optimal_is_refused_with_the_distance():
    objective = problem("logistic")
    with pytest.raises(lo.SolveError, match=r"not near an optimum.*sandwich lengths.*l2 = 1 / C"):
        lo.fit(objective, theta=lo.fit(objective).flat + 1.0)
    with pytest.raises(ValueError, match="expected a theta of 5 parameters"):
        lo.fit(objective, theta=lo.Linear(jnp.zeros(9), jnp.zeros(())))
    with pytest.raises(ValueError, match="theta must be finite"):
        lo.fit(objective, theta=np.full(5, np.nan))


def test_a_fit_that_stops_early_raises_or_says_so():
    objective = problem("logistic")
    with pytest.raises(lo.SolveError, match=r"no optimum: max_steps after 1 steps"):
        lo.fit(objective, max_steps=1)
    assert int(lo.fit(objective, max_steps=1, throw=False).status) == lo.Status.max_steps


def test_counts_of_any_size_are_fitted():
    rng, size = np.random.default_rng(0), 1e13  # a country's exports in cents
    x = rng.normal(size=(40, 2))
    rates = np.round(size * np.exp(0.3 * x[:, 0])) / size
    large = lo.fit(lo.poisson(x, size * rates, l2=1.0))
    small = lo.fit(lo.poisson(x, rates, l2=1.0, weights=np.full(40, size)))
    np.testing.assert_allclose(large.theta.weight, small.theta.weight, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(large.theta.bias, small.theta.bias + np.log(size), rtol=1e-12)


def test_separable_data_without_penalty_has_no_optimum():
    x = np.linspace(-1, 1, 20)[:, None]
    with pytest.raises(lo.SolveError, match=r"no optimum: (no_minimum|singular)"):
        lo.fit(lo.logistic(x, (x[:, 0] > 0).astype(int), l2=0.0))


def test_collinear_columns_without_penalty_are_singular():
    x = np.random.default_rng(0).normal(size=(30, 2))
    x = np.c_[x, x[:, 0]]
    with pytest.raises(lo.SolveError, match="singular"):
        lo.fit(lo.squares(x, x[:, 1], l2=0.0))


def test_a_loss_with_a_bad_start_is_fitted_or_reported():
    objective = lo.Objective(
        lambda theta, example: jnp.log1p((example - theta) ** 2), np.r_[1.0, 1.1, 0.9], 9.0, l2=0.0
    )
    np.testing.assert_allclose(lo.fit(objective).theta, 1.0, atol=1e-10)


def test_float32_that_cannot_bear_the_conditioning_is_warned_of():
    x, y = table(load_breast_cancer)
    x = np.c_[x, x[:, :1] + 1e-3 * np.random.default_rng(0).normal(size=(569, 1))]
    with jax.enable_x64(False), as_given(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        lo.fit(lo.squares(x, y, l2=1e-6), throw=False)
    assert any("too ill-conditioned for float32" in str(w.message) for w in caught)


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize(
    ("estimator", "target", "weighted"),
    [
        (LogisticRegression(C=0.5, tol=1e-8, max_iter=5000), "binary", False),
        (LogisticRegression(C=2.0, tol=1e-8, max_iter=5000, class_weight="balanced"), "binary", 1),
        (LogisticRegression(C=0.5, tol=1e-8, max_iter=5000), "classes", True),
        (Ridge(alpha=3.0), "real", True),
        (LinearRegression(), "real", False),
        (PoissonRegressor(alpha=0.1, tol=1e-10, max_iter=5000), "counts", True),
    ],
    ids=["logistic", "balanced", "softmax", "ridge", "ols", "poisson"],
)
def test_scikit_learns_conventions_are_converted(estimator, target, weighted, intercept):
    x, species = table(load_iris)
    y = {
        "binary": species == 2,
        "classes": np.array(["a", "b", "c"])[species],
        "real": x[:, 3],
        "counts": species,
    }[target]
    x = x[:, :3] - x[:, :3].mean(0)
    weights = np.random.default_rng(0).uniform(0.5, 2, len(y)) if weighted else None
    trained = estimator.set_params(fit_intercept=intercept).fit(x, y, sample_weight=weights)
    fitted = lo.from_sklearn(trained, x, y, weights=weights, frozen=True)
    weight = fitted.theta.weight.reshape(np.shape(trained.coef_))
    np.testing.assert_allclose(weight, trained.coef_, atol=1e-5)
    assert int(fitted.status) == 0


def test_a_liblinear_intercept_is_penalised():
    x, y = table(load_iris)
    trained = LogisticRegression(C=0.7, solver="liblinear", tol=1e-10, max_iter=10_000).fit(
        x, y > 0
    )
    fitted = lo.from_sklearn(trained, x, y > 0)
    np.testing.assert_allclose(fitted.theta.bias, trained.intercept_[0], atol=1e-5)


def test_estimators_that_cannot_be_converted_are_refused():
    x, y = table(load_iris)
    with pytest.raises(ValueError, match="call its fit"):
        lo.from_sklearn(LogisticRegression(), x, y)
    lasso = LogisticRegression(l1_ratio=1.0, solver="saga", tol=1.0).fit(x, y > 0)
    with pytest.raises(ValueError, match="expected an l2 penalty"):
        lo.from_sklearn(lasso, x, y > 0)
    rough = LogisticRegression(C=1.0).fit(x, y > 1)
    with pytest.raises(lo.SolveError, match="not near an optimum"):
        lo.from_sklearn(rough, x, y > 0)


@pytest.mark.parametrize("name", mostly_slow(LOSSES, "logistic", "squares"))
def test_a_path_is_a_fit_for_every_penalty_and_weighting(name):
    objective, grid = problem(name, d=5), np.array([0.05, 20.0, 1.0])  # in any order
    stays = np.stack([np.ones(60), np.arange(60) % 5 != 0, np.linspace(0.2, 1.0, 60)])
    found = path(objective, grid, stays * np.asarray(objective.weights))
    assert found.value.shape == (3, 3, objective.p)
    assert not np.asarray(found.status).any()
    assert np.asarray(found.steps).max() < 200
    for answers, l2 in zip(found.value, grid, strict=True):
        for theta, weight in zip(answers, stays, strict=True):
            alone = problem(name, d=5, l2=l2, weights=objective.weights * weight)
            np.testing.assert_allclose(theta, lo.fit(alone).flat, atol=1e-7)


def test_cross_validation_agrees_with_scikit_learn():
    x, y = table(load_breast_cancer)
    x = (x - x.mean(0)) / x.std(0)
    grid = np.array([0.1, 3.0, 100.0])
    result = lo.cross_validate(lo.logistic(x, y), grid, folds=5)
    assert not result.status.any()
    expected = [
        [
            LogisticRegression(C=1 / l2, tol=1e-10, max_iter=5000)
            .fit(x[train], y[train])
            .score(x[test], y[test])
            for train, test in KFold(5).split(x)
        ]
        for l2 in grid
    ]
    # scikit-learn's folds of 114, 114, 114, 114, 113 are the contiguous blocks of ceil(n / 5)
    assert result.accuracy is not None
    np.testing.assert_allclose(result.accuracy, expected, atol=1e-12)
    assert result.l2 == grid[np.argmax(np.mean(expected, axis=1))]


@pytest.mark.slow
def test_an_example_of_weight_two_is_scored_as_two():
    rng = np.random.default_rng(0)
    x, y, number = rng.normal(size=(40, 3)), rng.integers(2, size=40), np.arange(40) % 4
    twice = np.r_[np.arange(40), np.arange(9)]
    found = lo.cross_validate(lo.logistic(x, y, weights=np.bincount(twice)), [1.0], folds=number)
    alone = lo.cross_validate(lo.logistic(x[twice], y[twice]), [1.0], folds=number[twice])
    assert found.accuracy is not None
    assert alone.accuracy is not None
    np.testing.assert_allclose(found.accuracy, alone.accuracy, rtol=1e-12)
    np.testing.assert_allclose(found.loss, alone.loss, rtol=1e-7)


def test_examples_without_weight_are_no_part_of_cross_validation():
    rng = np.random.default_rng(0)
    x, y, number = rng.normal(size=(40, 3)), rng.integers(2, size=40), np.arange(40) % 4
    there = np.r_[np.ones(40), np.zeros(3)]
    objective = lo.logistic(np.r_[x, x[:3]], np.r_[y, 1 - y[:3]], weights=there)
    found = lo.cross_validate(objective, [1.0], folds=np.r_[number, 0, 1, 1])
    alone = lo.cross_validate(lo.logistic(x, y), [1.0], folds=number)
    assert found.accuracy is not None
    assert alone.accuracy is not None
    np.testing.assert_allclose(found.accuracy, alone.accuracy, rtol=1e-12)
    np.testing.assert_allclose(found.loss, alone.loss, rtol=1e-7)


@pytest.mark.slow
def test_cross_validation_by_loss_takes_folds_follows_the_key_and_warns_of_edges():
    objective = problem("poisson")
    with pytest.warns(UserWarning, match=r"the (lower|upper) edge of its grid"):
        lo.cross_validate(objective, [1e-6, 1e-5], folds=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shuffled, again = (
            lo.cross_validate(objective, [0.1, 5.0, 1e4], folds=4, key=jax.random.key(0))
            for _ in range(2)
        )
    np.testing.assert_array_equal(shuffled.loss, again.loss)
    assert shuffled.accuracy is None
    number = np.arange(60) % 3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an edge may win: that is not what is asked here
        by_hand = lo.cross_validate(objective, [0.1, 5.0, 1e4], folds=number)
    stays = objective.weights * (number != 1)
    theta = lo.fit(objective.with_l2(5.0)).flat
    for _ in range(30):
        problem5 = objective.with_l2(5.0)
        theta -= jnp.linalg.solve(problem5.hessian(theta, stays), problem5.gradient(theta, stays))
    losses, out = objective.losses(theta), number == 1
    held = np.average(losses[out], weights=objective.weights[out])
    np.testing.assert_allclose(by_hand.loss[1, 1], held, rtol=1e-8)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda o: lo.cross_validate(o, []), "grid of finite penalties"),
        (lambda o: lo.cross_validate(o, [1.0], folds=1), "expected 2 to 60 folds, got 1"),
        (lambda o: lo.cross_validate(o, [1.0], folds=np.zeros(60)), "at least two different"),
        (lambda o: lo.cross_validate(o, [1.0], criterion="auc"), "one of Criterion.accuracy"),
        (lambda o: lo.fit(wrong(lambda theta: theta)), "expected an objective such as"),
    ],
)
@pytest.mark.usefixtures("as_users_run_it")
def test_grids_folds_and_criteria_without_meaning_are_refused(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call(problem("logistic"))
