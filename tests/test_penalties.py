"""One penalty for each coefficient, and one for each group's refit."""

import dataclasses
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import polars as pl
import pytest

import leaveout as lo
from problems import LOSSES, USUAL, groups_of, linear, mostly_slow, problem, wrong

N, D = 60, 4
EXACT = lo.Retrain(1e-12)
METHODS = [
    lo.Influence(), lo.Influence(rescaled=True), lo.SecondOrder(), lo.Krylov(2), lo.Newton(),
    lo.Newton(lo.solvers.LowRank()), lo.Newton(lo.solvers.CG()), lo.Newton(steps=2),
    lo.NewtonChebyshev(), EXACT,
]  # fmt: skip
FIRST = [METHODS[0], *METHODS[2:]]  # rescaled, influence is that of whole points
EACH = np.array([0.1, 0.5, 2.0, 9.0])
GROUPS = groups_of(N, 5)
OWN = np.array([0.2, 0.5, 0.9, 3.0, 20.0])  # l2 of the five groups


def without(k):
    """What the examples get without group k."""
    return np.linspace(0.5, 1.5, N) * (1 - GROUPS.dense()[k])


# ---- for each coefficient ------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "method", mostly_slow([lo.Influence(), lo.NewtonChebyshev(), EXACT], lo.NewtonChebyshev())
)
@pytest.mark.parametrize("name", USUAL)
def test_a_penalty_for_each_coefficient_is_one_for_all_of_columns_in_other_units(name, method):
    plain = problem(name, d=D, l2=1.0)
    x, y = np.asarray(plain.x), np.asarray(plain.y)
    weights = np.asarray(plain.weights)
    own = getattr(lo, name)(x, y, EACH, weights=weights)
    same = getattr(lo, name)(x / np.sqrt(EACH), y, 1.0, weights=weights)
    fits = lo.fit(own), lo.fit(same)
    factor = np.sqrt(EACH)
    np.testing.assert_allclose(
        np.asarray(fits[0].theta.weight) * factor, fits[1].theta.weight, atol=1e-9, rtol=1e-9
    )
    queries = x[:3], x[:3] / factor
    found = [
        lo.effects(fit, GROUPS, [lo.measures.prediction(q), lo.measures.self_loss()], method)
        for fit, q in zip(fits, queries, strict=True)
    ]
    scale = np.abs(found[1].value).max()
    np.testing.assert_allclose(found[0].value, found[1].value, atol=1e-8 * scale)


@pytest.mark.slow
def test_least_squares_with_a_penalty_for_each_coefficient_solve_their_normal_equations():
    objective = problem("squares", d=D)
    x, y, s = (np.asarray(part) for part in (objective.x, objective.y, objective.weights))
    wide, penalty = np.c_[x, np.ones(N)], np.append(EACH, 0.0)
    theta = np.linalg.solve((wide.T * s) @ wide + np.diag(penalty), wide.T @ (s * y))
    for l2 in (EACH, EACH.tolist(), penalty, jnp.asarray(EACH), lo.Linear(EACH, 0.0)):
        found = lo.fit(lo.squares(x, y, l2, weights=s))
        np.testing.assert_allclose(found.flat, theta, atol=1e-10)
    halved = lo.fit(lo.squares(x, y, 0.5, weights=s, penalised=2 * penalty))
    np.testing.assert_allclose(halved.flat, theta, atol=1e-10)
    held = lo.fit(lo.squares(x, y, np.append(EACH, 3.0), weights=s))
    held_penalty = np.diag(np.append(EACH, 3.0))
    theta = np.linalg.solve((wide.T * s) @ wide + held_penalty, wide.T @ (s * y))
    np.testing.assert_allclose(held.flat, theta, atol=1e-10)


@pytest.mark.slow
def test_several_outputs_take_a_penalty_a_feature_or_one_for_each_coefficient():
    objective = problem("softmax", d=D)
    x, y = np.asarray(objective.x), np.asarray(objective.y)
    one = lo.softmax(x, y, EACH)
    two = lo.softmax(x, y, np.tile(EACH, (3, 1)))
    np.testing.assert_array_equal(one.penalty, two.penalty)
    np.testing.assert_array_equal(linear(lo.fit(two)).penalty[: 3 * D], np.tile(EACH, 3))
    np.testing.assert_array_equal(one.penalty[3 * D :], 0.0)


@pytest.mark.slow
def test_any_objective_takes_a_penalty_for_each_part_of_theta():
    def loss(theta, example):
        return 0.5 * (example["x"] @ theta["w"] + theta["b"] - example["y"]) ** 2

    objective = problem("squares", d=D, weights=None)
    x, y = np.asarray(objective.x), np.asarray(objective.y)
    data, start = {"x": x, "y": y}, {"w": np.zeros(D), "b": 0.0}
    l2: Any = {"w": EACH, "b": 0.0}
    given = lo.fit(lo.Objective(loss, data, start, l2))
    same = lo.fit(lo.squares(x, y, EACH))
    np.testing.assert_allclose(given.theta["w"], same.theta.weight, atol=1e-10)
    one, two = (lo.retrain(fit, GROUPS, EXACT) for fit in (given, same))
    np.testing.assert_allclose(one.value[:, 1:], two.value[:, :D], atol=1e-9)
    start = [np.zeros(D), 0.0]
    parts = lo.Objective(lambda t, e: t[1] * e["y"], data, start, 3.0, penalised=[True, False])
    np.testing.assert_array_equal(parts.penalty, [3.0] * D + [0.0])
    l2 = np.tile(EACH, (2, 1))
    matrix = lo.Objective(lambda t, e: jnp.sum(t**2) * e["y"], data, np.zeros((2, D)), l2)
    np.testing.assert_array_equal(matrix.penalty, np.tile(EACH, 2))


@pytest.mark.slow
@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("name", mostly_slow(["logistic", "poisson", "softmax"], "logistic"))
def test_intervals_hold_under_a_penalty_for_each_coefficient(name, intercept):
    plain = problem(name, d=D, intercept=intercept)
    x, y = np.asarray(plain.x), np.asarray(plain.y)
    options = {"weights": np.asarray(plain.weights), "intercept": intercept}
    fit = lo.fit(getattr(lo, name)(x, y, EACH, **options))
    measures = [lo.measures.prediction(x[:3]), lo.measures.self_loss()]
    truth = lo.effects(fit, GROUPS, measures, lo.Retrain(1e-13)).value
    for method in (lo.Retrain(1e-5), lo.NewtonChebyshev()):
        found = lo.effects(fit, GROUPS, measures, method, certify=True)
        assert found.lower is not None
        assert found.upper is not None
        slack = 1e-9 * np.abs(truth).max()
        assert (found.lower <= truth + slack).all()
        assert (truth - slack <= found.upper).all()
        assert np.isfinite(found.upper).any()


@pytest.mark.slow
def test_a_grid_multiplies_the_penalties_of_the_coefficients():
    objective = problem("logistic", d=D)
    x, y = np.asarray(objective.x), np.asarray(objective.y)
    folds = np.arange(N) % 3
    both = lo.logistic(x, y, EACH), lo.logistic(x / np.sqrt(EACH), y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an edge may win: that is not what is asked here
        own, same = (lo.cross_validate(each, [0.1, 1.0, 4.0], folds=folds) for each in both)
    np.testing.assert_allclose(own.loss, same.loss, rtol=1e-6)


@pytest.mark.slow
def test_a_fit_has_a_derivative_by_each_penalty():
    objective = problem("squares", d=D)
    x, y = np.asarray(objective.x), np.asarray(objective.y)

    def value(l2):
        return lo.squares(x, y, l2).value(jnp.arange(5.0))

    np.testing.assert_allclose(jax.grad(value)(jnp.asarray(EACH)), np.arange(4.0) ** 2 / 2)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"l2": [1.0, 2.0]}, r"one for each parameter.*\(4,\)"),
        ({"l2": np.ones((2, 4))}, "one for each parameter"),
        ({"l2": [1.0, -1.0, 1.0, 1.0]}, "finite numbers >= 0 in l2"),
        ({"l2": [1.0, np.nan, 1.0, 1.0]}, "finite numbers >= 0 in l2"),
        ({"l2": -1.0}, "finite number >= 0"),
        ({"l2": "ridge"}, "one for each parameter"),
        ({"penalised": [True]}, "expected penalised as one value"),
    ],
)
@pytest.mark.usefixtures("as_users_run_it")
def test_penalties_without_meaning_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        problem("logistic", d=D, **options)


# ---- for each group ------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_retraining_under_a_penalty_for_each_group_is_a_fit_under_it(name):
    fit = lo.fit(problem(name, d=D))
    found = lo.effects(fit, GROUPS, lo.measures.parameter(range(fit.objective.p)), EXACT, l2=OWN)
    assert not found.status.any()
    for k, l2 in enumerate(OWN):
        again = lo.fit(problem(name, d=D, l2=l2, weights=without(k)))
        moved = np.asarray(again.flat - fit.flat)
        np.testing.assert_allclose(found.value[k], moved, atol=1e-8 * np.abs(moved).max())


@pytest.mark.parametrize("method", mostly_slow(METHODS[4:], lo.Newton(), lo.NewtonChebyshev()))
def test_newton_steps_under_a_penalty_for_each_group_are_exact_for_squares(method):
    fit = lo.fit(problem("squares", d=D))
    x, y = np.asarray(linear(fit).x), np.asarray(linear(fit).y)
    wide = np.c_[x, np.ones(N)]
    found = method.change(fit, GROUPS, l2=OWN)
    for k, l2 in enumerate(OWN):
        v = without(k)
        matrix = (wide.T * v) @ wide + np.diag([l2] * D + [0.0])
        theta = np.linalg.solve(matrix, wide.T @ (v * y))
        np.testing.assert_allclose(fit.flat + found.value[k], theta, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("method", mostly_slow(FIRST, lo.SecondOrder(), lo.Newton()))
def test_every_method_is_first_order_in_who_leaves_and_what_the_penalty_becomes(method):
    fit, small = lo.fit(problem("logistic", d=D)), 1e-5
    some = GROUPS.with_w(np.full(GROUPS.indices.size, small))
    l2 = 0.5 + small * (OWN - 0.5)
    found = method.change(fit, some, l2=l2).value / small
    hessian = np.asarray(fit.objective.hessian(fit.flat))
    taken = fit.objective.taken(GROUPS.dense())
    pull = (OWN - 0.5)[:, None] * np.append(np.asarray(fit.theta.weight), 0.0)
    gradients = np.asarray(jax.vmap(fit.objective.at(fit.flat).gradient)(taken))
    slope = np.linalg.solve(hessian, (gradients - pull).T).T
    np.testing.assert_allclose(found, slope, atol=2e-4 * np.abs(slope).max())


@pytest.mark.slow
@pytest.mark.parametrize("method", mostly_slow(METHODS, lo.Influence(), lo.SecondOrder()))
def test_the_penalty_that_there_is_changes_nothing(method):
    fit = lo.fit(problem("softmax", d=D) if method != METHODS[1] else problem("logistic", d=D))
    measures = [lo.measures.prediction(np.asarray(linear(fit).x[:3])), lo.measures.self_loss()]
    own = lo.effects(fit, GROUPS, measures, method, l2=np.full(5, 0.5))
    plain = lo.effects(fit, GROUPS, measures, method)
    scale = np.abs(plain.value).max()
    np.testing.assert_allclose(own.value, plain.value, atol=1e-8 * scale)


@pytest.mark.slow
def test_any_objective_and_groups_in_chunks_take_a_penalty_for_each_group():
    def loss(theta, example):
        return jnp.logaddexp(0.0, -example["sign"] * (example["x"] @ theta))

    rng = np.random.default_rng(0)
    data = {"x": rng.normal(size=(N, 3)), "sign": np.sign(rng.normal(size=N))}
    fit = lo.fit(lo.Objective(loss, data, np.zeros(3), 0.5))
    many = groups_of(N, 12)
    l2 = rng.permutation(np.linspace(0.1, 4.0, 12))
    found = lo.effects(fit, many, lo.measures.parameter([0, 1, 2]), EXACT, l2=l2, memory=2**16)
    newton = lo.effects(fit, many, lo.measures.parameter([0, 1, 2]), lo.Newton(steps=6), l2=l2)
    np.testing.assert_allclose(newton.value, found.value, atol=1e-8)
    k = 7
    stays = jax.tree.map(lambda leaf: leaf[many.dense()[k] == 0], data)
    again = lo.fit(lo.Objective(loss, stays, np.zeros(3), l2[k]))
    np.testing.assert_allclose(found.value[k], again.flat - fit.flat, atol=1e-9)


@pytest.mark.slow
def test_intervals_and_tolerances_are_for_the_refit_under_the_groups_own_penalty():
    fit = lo.fit(problem("logistic", d=D))
    measure = lo.measures.prediction(np.asarray(linear(fit).x[:3]))
    truth = lo.effects(fit, GROUPS, measure, lo.Retrain(1e-13), l2=OWN).value
    found = lo.effects(fit, GROUPS, measure, lo.Newton(), l2=OWN, tolerance=1e-6)
    assert found.lower is not None
    assert found.upper is not None
    assert (found.lower <= truth + 1e-12).all()
    assert (truth - 1e-12 <= found.upper).all()
    np.testing.assert_allclose(found.value, truth, atol=1e-6 * np.sqrt(np.mean(truth**2)))


@dataclasses.dataclass(frozen=True)
class Still(lo.Method):
    """Nothing ever changes."""

    @property
    def name(self) -> str:
        return "still"

    def prepare(self, fit, measures):
        return lo.Prepared(lambda groups: jnp.zeros((len(groups), fit.objective.p)))


@pytest.mark.parametrize(
    ("method", "l2", "sentence"),
    [
        (lo.Newton(), 1.0, r"expected l2 of shape \(5,\), got \(\)"),
        (lo.Retrain(), OWN[:3], r"expected l2 of shape \(5,\)"),
        (lo.Influence(), -OWN, "expected finite penalties >= 0, got -0.2 for group '0'"),
        (Still(), OWN, "has no answer to an l2 that changes with the group"),
    ],
)
def test_penalties_for_each_group_without_meaning_are_refused(method, l2, sentence):
    with pytest.raises(ValueError, match=sentence):
        lo.effects(lo.fit(problem("logistic", d=D)), GROUPS, lo.measures.self_loss(), method, l2=l2)


def test_tables_and_cross_validation_take_a_penalty_for_each_group():
    fit = lo.fit(problem("squares", d=D))
    measures = [lo.measures.parameter([0, 1]), lo.measures.self_loss()]
    alone = lo.effects(fit, GROUPS, measures, lo.Newton(), l2=OWN)
    table = lo.credit(fit, GROUPS, measures, lo.Newton(), l2=OWN, null=0)
    np.testing.assert_array_equal(table.best.value, alone.value)
    held = lo.cross_validate_groups(fit, GROUPS, lo.Newton(), l2=OWN)
    np.testing.assert_allclose(held.loss - held.training_loss, alone.value[:, 2], rtol=1e-9)
    for call in (
        lambda l2: lo.credit(fit, GROUPS, measures, l2=l2),
        lambda l2: lo.cross_validate_groups(fit, GROUPS, l2=l2),
    ):
        with pytest.raises(ValueError, match=r"expected l2 of shape \(5,\)"):
            call(2.0)


# ---- by names ------------------------------------------------------------------------------------


def test_a_penalty_by_names_goes_to_its_columns():
    rng = np.random.default_rng(4)
    frame = pd.DataFrame(rng.normal(size=(N, 3)), columns=["age", "paid", "own"])
    y = np.arange(N) % 2
    named = pd.Series({"own": 9.0, "age": 0.1, "paid": 2.0})
    right = lo.logistic(frame, y, np.array([0.1, 2.0, 9.0])).penalty
    for given in (named, named.to_dict(), pd.Series([0.1, 2.0, 9.0])):
        np.testing.assert_array_equal(lo.logistic(frame, y, given).penalty, right)
        np.testing.assert_array_equal(lo.logistic(frame, y, penalised=given).penalty, right)
    held = lo.logistic(frame, y, {**named, "intercept": 0.5})
    np.testing.assert_array_equal(held.penalty, [0.1, 2.0, 9.0, 0.5])
    table = lo.table(frame.assign(y=y), target="y").objective(named)
    np.testing.assert_array_equal(table.penalty, right)
    np.testing.assert_array_equal(lo.logistic(frame.to_numpy(), y, named).penalty[0], 9.0)
    with pytest.raises(ValueError, match="it lacks 'paid', 'own', and 'Age' is unknown"):
        lo.logistic(frame, y, {"age": 1.0, "Age": 1.0})
    with pytest.raises(
        ValueError, match="there are no names here; give an array to go by position"
    ):
        lo.logistic(frame.to_numpy(), y, {"age": 1.0})
    for index in (["age", pd.NA, "own"], pd.array([0, 1, None], "Int64")):
        with pytest.raises(ValueError, match=r"it lacks .* unknown"):
            lo.logistic(frame, y, pd.Series([0.1, 2.0, 9.0], index))
    with pytest.raises(ValueError, match="expected numbers in l2"):
        lo.logistic(frame, y, pd.Series({"own": "a", "age": "b", "paid": "c"}))
    unnamed = pl.Series([0.1, 2.0, 9.0])
    np.testing.assert_array_equal(lo.logistic(frame, y, wrong(unnamed)).penalty, right)


def test_a_penalty_of_groups_goes_by_their_names():
    """As `labels.value_counts()` has them: largest first."""
    labels = pd.Series(np.repeat(["u", "v", "w"], [5, 20, 10]))
    groups = lo.Groups.from_labels(labels)
    x = np.random.default_rng(5).normal(size=(35, 2))
    fit = lo.fit(lo.squares(x, x[:, 0] + x[:, 1] ** 2))
    own = 0.1 * (35 - labels.value_counts())
    right = lo.newton(fit, groups, l2=0.1 * (35 - groups.size)).value
    np.testing.assert_array_equal(lo.newton(fit, groups, l2=own).value, right)
    np.testing.assert_array_equal(lo.newton(fit, groups, l2=own.loc[["u", "v", "w"]]).value, right)
    by_position = pd.Series(own.loc[["u", "v", "w"]].to_numpy())
    np.testing.assert_array_equal(lo.newton(fit, groups, l2=by_position).value, right)
    factor = pd.Series({"w": 3.0, "u": 0.0, "v": 2.0})
    np.testing.assert_array_equal(
        lo.reweight(groups, factor).w, lo.reweight(groups, [0.0, 2.0, 3.0]).w
    )
    with pytest.raises(ValueError, match="it lacks 'u', and 'x' is unknown"):
        lo.newton(fit, groups, l2=own.rename({"u": "x"}))
    pairs = pd.DataFrame({"a": labels, "b": np.arange(35) % 2})
    crossed = lo.Groups.from_labels(pairs)
    sizes = pairs.groupby(["b", "a"]).size()  # ("u", 1) is called "u, 1" there
    with pytest.raises(ValueError, match="it lacks"):
        lo.reweight(crossed, sizes)
    doubled = lo.reweight(crossed, pairs.groupby(["a", "b"]).size().iloc[::-1])
    np.testing.assert_array_equal(doubled.w, 1 - np.repeat(crossed.size, crossed.size))


@pytest.mark.parametrize("own", [0.5, 2.0])
def test_a_penalty_of_a_groups_own_holds_what_it_leaves_without_examples(own):
    """Without the group its column is empty: under no penalty open, under any of its own 0."""
    rng = np.random.default_rng(0)
    x, site = rng.normal(size=(60, 2)), np.arange(60) // 15
    x = np.c_[x, site == 0]
    y = (rng.random(60) < 1 / (1 + np.exp(-x @ [1.0, -1.0, 0.5]))).astype(int)
    fit, groups = lo.fit(lo.logistic(x, y, l2=0.0)), lo.Groups.from_labels(site)
    every = lo.measures.parameter(range(4))
    assert lo.effects(fit, groups, every, lo.Retrain()).status[0] != 0
    found = lo.effects(fit, groups, every, lo.Retrain(1e-10), l2=np.full(4, own))
    assert not found.status.any()
    rest = lo.fit(lo.logistic(x[site > 0], y[site > 0], l2=own)).flat
    np.testing.assert_allclose(found.value[0], rest - fit.flat, atol=1e-7)
