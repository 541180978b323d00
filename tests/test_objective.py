"""Objectives: values, autodiff against SciPy-style differences and against each other."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import leaveout as lo

LOSSES = sorted(
    name for name in lo.losses.__all__ if isinstance(getattr(lo.losses, name), lo.losses.Loss)
)
MAKERS = {name: getattr(lo, name) for name in LOSSES}


def sampled(name, n=40, d=3, outputs=3, seed=0):
    """Inputs, and targets drawn from the loss's own model."""
    loss = getattr(lo.losses, name)
    key = jax.random.key(seed)
    x = jax.random.normal(jax.random.fold_in(key, 0), (n, d))
    weight = jax.random.normal(jax.random.fold_in(key, 1), (d, outputs)) * 0.5
    scores = x @ weight if loss.targets == "classes" else x @ weight[:, 0]
    keys = jax.random.split(jax.random.fold_in(key, 2), n)
    return np.asarray(x), np.asarray(jax.vmap(loss.sample)(keys, scores))


@pytest.fixture(params=LOSSES)
def objective(request):
    x, y = sampled(request.param)
    weights = np.linspace(0.5, 2.0, len(y))
    return MAKERS[request.param](x, y, l2=0.7, weights=weights)


def theta_of(objective, seed=3):
    return 0.3 * jax.random.normal(jax.random.key(seed), (objective.p,))


def test_value_is_the_weighted_sum_plus_the_penalty(objective):
    theta = theta_of(objective)
    losses = objective.losses(theta)
    penalty = 0.35 * jnp.sum(theta[np.asarray(objective.penalised)] ** 2)
    expected = jnp.sum(objective.weights * losses) + penalty
    np.testing.assert_allclose(objective.value(theta), expected, rtol=1e-13)


def test_gradient_matches_central_differences(objective):
    theta, step = theta_of(objective), 1e-6
    eye = jnp.eye(objective.p)
    differences = [
        (objective.value(theta + step * e) - objective.value(theta - step * e)) / (2 * step)
        for e in eye
    ]
    # central differences of a value of size 1e2 are good to about eps * 1e2 / step = 1e-8
    np.testing.assert_allclose(objective.gradient(theta), jnp.stack(differences), atol=1e-6)


def test_hessian_hvp_and_autodiff_of_the_value_agree(objective):
    theta = theta_of(objective)
    whole = jax.hessian(objective.value)(theta)
    np.testing.assert_allclose(objective.hessian(theta), whole, atol=1e-11)
    vector = theta_of(objective, 5)
    np.testing.assert_allclose(objective.hvp(theta, vector), whole @ vector, atol=1e-11)


def test_linear_route_equals_the_general_route(objective):
    theta, rows = theta_of(objective), jnp.array([3, 7, 7, 0])
    general = lo.Objective(
        lambda parameters, example: objective.point_loss(
            jnp.atleast_1d(parameters(example[0])), example[1]
        ),
        (np.asarray(objective.x), np.asarray(objective.y)),
        objective.tree(theta),
        l2=0.7,
        weights=np.asarray(objective.weights),
        penalised=np.asarray(objective.penalised),
    )
    fast, slow = objective.at(theta), general.at(theta)
    w = jnp.linspace(0.0, 1.0, objective.n)
    vector = theta_of(objective, 9)
    for one, other in (
        (objective.value(theta), general.value(theta)),
        (objective.gradient(theta, w), general.gradient(theta, w)),
        (fast.gradient(w), slow.gradient(w)),
        (fast.hvp(w, vector), slow.hvp(w, vector)),
        (fast.hessian(w), slow.hessian(w)),
        (fast.dot(vector), slow.dot(vector)),
        (fast.restrict(rows).gradient(w[:4]), slow.restrict(rows).gradient(w[:4])),
        (fast.diagonal(w), jnp.diagonal(slow.hessian(w))),
    ):
        np.testing.assert_allclose(one, other, atol=1e-11)


def test_weight_zero_is_a_deleted_row_and_weight_two_a_duplicate(objective):
    theta = theta_of(objective)
    stays = np.ones(objective.n)
    stays[[1, 5]], stays[[2]] = 0.0, 2.0
    rows = np.concatenate([np.setdiff1d(np.arange(objective.n), [1, 5]), [2]])
    kept = eqx.tree_at(
        lambda o: (o.design, o.y, o.weights),
        objective,
        (objective.design[rows], objective.y[rows], objective.weights[rows]),
    )
    v = stays * objective.weights
    np.testing.assert_allclose(objective.gradient(theta, v), kept.gradient(theta), atol=1e-12)


def test_a_removed_example_of_infinite_loss_is_not_heard():
    objective = lo.poisson(np.array([[1.0], [2.0], [800.0]]), [1, 2, 3], intercept=False)
    value, gradient = objective.value_and_gradient(jnp.array([1.0]), jnp.array([1.0, 1.0, 0.0]))
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_softmax_has_exactly_one_flat_direction_and_the_gauge_pins_it():
    x, y = sampled("softmax")
    objective = lo.softmax(x, y, l2=0.5)
    theta = theta_of(objective)
    matrix, gauge = objective.hessian(theta), objective.at(theta).gauge()
    assert gauge is not None
    shift = objective.layout.flat(jnp.zeros((3, 4)).at[:, -1].set(1.0))
    assert jnp.linalg.norm(matrix @ shift) < 1e-12
    assert int(jnp.sum(jnp.linalg.eigvalsh(matrix) < 1e-10)) == 1
    assert float(jnp.linalg.eigvalsh(matrix + gauge)[0]) > 0.1
    contrast = objective.gradient(theta)
    np.testing.assert_allclose(gauge @ contrast, 0.0, atol=1e-12)


def test_two_class_softmax_is_logistic_at_half_the_penalty():
    x, y = sampled("logistic")
    binary = lo.fit(lo.logistic(x, y, l2=0.4))
    both = lo.fit(lo.softmax(x, y, l2=0.8))
    np.testing.assert_allclose(
        both.theta.weight[1] - both.theta.weight[0], binary.theta.weight, atol=1e-9
    )


def test_labels_of_any_kind_are_coded_alike():
    x, y = sampled("logistic")
    plain = lo.logistic(x, y)
    for labels in (np.where(y > 0, "spam", "ham"), y.astype(bool), 2 * y.astype(np.int8) - 1):
        np.testing.assert_array_equal(lo.logistic(x, labels).y, plain.y)
    assert lo.logistic(x, np.where(y > 0, "spam", "ham")).classes == ("ham", "spam")


# ---- a user's own loss, in three lines each -----------------------------------------------------


def test_a_users_huber_regression_is_robust():
    def huber(score, y):
        residual = jnp.abs(score - y)
        return jnp.where(residual < 1, 0.5 * residual**2, residual - 0.5)

    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 2))
    y = x @ [1.0, -2.0]
    y[0] += 1e4
    fitted = lo.fit(lo.glm(huber, x, y, l2=1e-3))
    np.testing.assert_allclose(fitted.theta.weight, [1.0, -2.0], atol=0.05)


def test_a_users_bradley_terry_ranks_the_players():
    def bradley_terry(strength, match):
        winner, loser = match
        return jax.nn.softplus(strength[loser] - strength[winner])

    rng = np.random.default_rng(1)
    truth = np.linspace(-1, 1, 6)
    first, second = rng.integers(0, 6, 900), rng.integers(0, 6, 900)
    first, second = first[first != second], second[first != second]
    wins = rng.random(first.size) < 1 / (1 + np.exp(truth[second] - truth[first]))
    matches = (np.where(wins, first, second), np.where(wins, second, first))
    fitted = lo.fit(lo.Objective(bradley_terry, matches, jnp.zeros(6), l2=1e-2))
    assert np.corrcoef(fitted.theta, truth)[0, 1] > 0.97


def test_a_users_two_parameter_robust_loss_with_a_dict_of_parameters():
    def cauchy(theta, example):  # a location and a log scale
        residual = (example - theta["location"]) * jnp.exp(-theta["log_scale"])
        return jnp.log1p(residual**2) + theta["log_scale"]

    sample = 5 + 0.5 * np.random.default_rng(2).standard_cauchy(400)
    start = {"location": np.median(sample), "log_scale": 0.0}
    objective = lo.Objective(cauchy, sample, start, l2=0.0)
    fitted = lo.fit(objective)
    assert set(fitted.theta) == {"location", "log_scale"}
    assert abs(fitted.theta["location"] - 5) < 0.15
    groups = lo.Groups.from_indices([np.argsort(sample)[-8:]], n=400)
    actual = lo.effects(fitted, groups, lambda theta: theta["location"], lo.Retrain())
    predicted = lo.effects(fitted, groups, lambda theta: theta["location"], lo.Newton())
    assert actual.status[0] == 0
    np.testing.assert_allclose(predicted.value, actual.value, rtol=0.05)


def test_an_equinox_module_is_a_theta():
    class Scaled(eqx.Module):
        weight: jax.Array
        label: str = eqx.field(static=True)

        def __call__(self, x):
            return jnp.tanh(self.weight) @ x

    x, y = sampled("logistic")
    objective = lo.Objective(
        lambda model, example: lo.losses.logistic(model(example[0]), example[1]),
        (x, y),
        Scaled(jnp.full(3, 0.1), "kept"),
        l2=1.0,
    )
    fitted = lo.fit(objective)
    assert isinstance(fitted.theta, Scaled)
    assert fitted.theta.label == "kept"
    np.testing.assert_allclose(objective.gradient(fitted.flat), 0.0, atol=1e-9)


def test_columns_of_which_a_parameter_has_no_penalty_are_known():
    x, y = np.random.default_rng(0).normal(size=(9, 3)), np.arange(9) % 3
    two = np.ones((3, 3))
    two[1, 2] = 0.0
    for objective, free in (
        (lo.softmax(x, y, 1.0), (3,)),
        (lo.softmax(x, y, two), (2, 3)),
        (lo.softmax(x, y, two, intercept=False), (2,)),
        (lo.softmax(x, y, 1.0, intercept=False), ()),
        (lo.logistic(x, y > 0, [1.0, 0.0, 2.0]), (1, 3)),
        (lo.logistic(x, y > 0, 0.0), (0, 1, 2, 3)),
    ):
        assert objective.free_columns() == free
        theta = jnp.arange(float(objective.p))
        found = np.sort(objective.at_columns(theta, free))
        np.testing.assert_array_equal(
            found, np.sort(objective.layout.matrix(theta)[:, free], axis=None)
        )


@pytest.mark.parametrize(
    "points", [[9, 10, 11], pytest.param([7, 8, 9, 10, 11], marks=pytest.mark.slow)]
)
def test_a_free_parameter_on_its_way_to_infinity_is_no_minimum(points):
    """An intercept of a loss of any theta, once only one class is left; its gradient dies out."""
    rng = np.random.default_rng(0)
    data = {"x": rng.normal(size=(12, 2)), "y": np.arange(12.0) >= 9}

    def loss(theta, example):
        score = example["x"] @ theta["weight"] + theta["bias"]
        return jax.nn.softplus(score) - example["y"] * score

    free: Any = {"bias": 0.0, "weight": 1.0}
    objective = lo.Objective(loss, data, {"bias": 0.0, "weight": np.zeros(2)}, free)
    fit = lo.fit(objective)
    groups = lo.Groups.from_indices([points, [0, 9]], n=12)
    found = lo.retrain(fit, groups)
    assert found.status.tolist() == [lo.Status.no_minimum, 0]
    same = lo.fit(lo.logistic(data["x"], data["y"], l2=1.0))
    assert lo.retrain(same, groups).status.tolist() == [lo.Status.no_minimum, 0]


def test_lengths_are_compared_in_the_metric_of_the_hessian_alone(monkeypatch):
    """Without a factor a change is in units of theta, a pull in those of the gradient."""
    monkeypatch.setattr("leaveout.fitting.optimum.DENSE", 2)
    rng = np.random.default_rng(0)
    data = {"x": rng.normal(size=(2000, 5)), "y": rng.integers(0, 2, 2000).astype(float)}

    def loss(theta, example):
        score = example["x"] @ theta
        return jax.nn.softplus(score) - example["y"] * score

    fit = lo.fit(lo.Objective(loss, data, np.zeros(5), 1.0))
    assert fit.is_bare
    groups = lo.Groups.from_indices([range(20), range(100, 400), [7]], n=2000)
    assert lo.retrain(fit, groups).status.tolist() == [0, 0, 0]
    found = lo.newton(fit, groups, lo.solvers.CG(1e-6))
    assert found.status.tolist() == [0, 0, 0]
    assert found.steps.max() <= 5  # as many as parameters


def test_selected_entries_are_penalised():
    x, y = sampled("squares")
    free = lo.squares(x, y, l2=1e8, penalised=lo.Linear(np.array([True, False, True]), False))
    weight = lo.fit(free).theta.weight
    assert abs(weight[0]) < 1e-5
    assert abs(weight[1]) > 1e-2


@pytest.mark.slow
def test_a_general_objective_takes_a_penalty_for_every_group():
    sample = np.random.default_rng(3).normal(2.0, 1.0, 30)
    objective = lo.Objective(lambda theta, e: 0.5 * (theta - e) ** 2, sample, 0.0, l2=1.0)
    fitted = lo.fit(objective)
    groups = lo.Groups.from_indices([[0, 1], [5]], n=30)
    change = lo.retrain(fitted, groups, l2=np.array([0.5, 8.0])).value[:, 0]
    left = np.array([np.delete(sample, part).sum() for part in ([0, 1], [5])])
    np.testing.assert_allclose(fitted.flat + change, left / [28.5, 37.0], atol=1e-9)


# ---- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda x, y: lo.logistic(x, y[:-1]), r"y of shape \(40,\).*got \(39,\)"),
        (lambda x, y: lo.logistic(x[:, 0], y), r"matrix \(n, d\), got shape \(40,\)"),
        (lambda x, y: lo.logistic(np.where(x > 2, np.nan, x), y), r"x must be finite, but x\["),
        (lambda x, y: lo.logistic(x, np.arange(40)), "expected two labels in y, got 40"),
        (lambda x, y: lo.logistic(x, np.ones(40)), "expected two labels in y, got only 1.0"),
        (lambda x, y: lo.logistic(x, y, l2=-1.0), "finite number >= 0, got -1.0"),
        (lambda x, y: lo.logistic(x, y, l2=np.nan), "finite number >= 0, got nan"),
        (lambda x, y: lo.logistic(x, y, weights=-np.ones(40)), "base weights >= 0"),
        (lambda x, y: lo.logistic(x, y, weights=np.ones(3)), r"weights of shape \(40,\)"),
        (lambda x, y: lo.logistic(x, y, penalised=np.ones(9)), "parameter, shaped like theta"),
        (lambda x, y: lo.poisson(x, y - 3.0), r"counts >= 0 in y, got -3"),
        (lambda x, y: lo.squares(x, np.where(y > 0, np.inf, y)), r"y must be finite"),
        (lambda x, y: lo.glm(lambda s, t: s * jnp.ones(2), x, y), "must be a scalar"),
        (lambda x, y: lo.Objective(lambda t, e: t, x, 1), "no floating-point parameters"),
        (
            lambda x, y: lo.Objective(lambda t, e: t, (x, y[:-1]), 1.0),
            "common leading axis in data",
        ),
    ],
)
@pytest.mark.usefixtures("as_users_run_it")
def test_data_weights_or_losses_that_do_not_fit_together_are_refused(make, sentence):
    x, y = sampled("logistic")
    with pytest.raises(ValueError, match=sentence):
        make(x, y)


def test_unknown_query_labels_are_named():
    x, y = sampled("logistic")
    fitted = lo.fit(lo.logistic(x, np.where(y > 0, "b", "a")))
    groups = lo.Groups.from_indices([[1, 2]], n=40)
    with pytest.raises(ValueError, match="among 'a', 'b', got 'c'"):
        lo.effects(fitted, groups, lo.measures.loss((x[:1], ["c"])))


def test_the_loss_of_a_sure_example_is_not_rounded_beside_its_score():
    for label, score in ((1.0, 30.0), (0.0, -30.0)):
        found = lo.losses.logistic(jnp.float32(score), jnp.float32(label))
        assert float(found) == pytest.approx(np.log1p(np.exp(-30.0)), rel=1e-5)


@pytest.mark.parametrize("outputs", [1, 3])
def test_curvature_along_a_change_is_that_of_the_matrices(outputs):
    name = "logistic" if outputs == 1 else "softmax"
    objective = MAKERS[name](*sampled(name), l2=0.0)
    rng = np.random.default_rng(0)
    theta, change = (jnp.asarray(rng.normal(size=objective.p)) for _ in range(2))
    v = jnp.asarray(rng.uniform(0.5, 2.0, objective.n))
    whole, own = objective.curvature_along(theta, change, v, (3,))  # the intercepts' column
    matrix = np.asarray(objective.hessian(theta, v))
    np.testing.assert_allclose(whole, change @ matrix @ change, rtol=1e-10)
    np.testing.assert_allclose(own, np.diag(matrix)[-outputs:], rtol=1e-10)
