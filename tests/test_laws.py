"""The laws that tie weights, changes and effects together."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import leaveout as lo
from problems import USUAL, groups_of, linear, measures_of, mostly_slow, problem, slow_retrain


def slow(name):
    return pytest.param(name, marks=pytest.mark.slow)


METHODS = [lo.Influence(), lo.Newton(), lo.Retrain(tolerance=1e-11)]


@pytest.fixture(scope="module", params=USUAL)
def fitted(request):
    return lo.fit(problem(request.param))


@pytest.fixture(scope="module")
def groups():
    return groups_of(60)


def retrained(fitted, groups):
    w = jnp.asarray(groups.dense())
    return (
        jnp.stack([slow_retrain(fitted.objective, row, fitted.flat) for row in w])
        - fitted.flat[None]
    )


def contrast(fitted, change):
    """What the loss can see of a change: scores of the training data."""
    objective = fitted.objective
    return jax.vmap(lambda c: objective.scores(fitted.flat + c))(change)


@pytest.mark.parametrize("fitted", mostly_slow(USUAL, "logistic", "softmax"), indirect=True)
def test_retraining_equals_slow_newton_to_convergence(fitted, groups):
    fast = lo.retrain(fitted, groups, lo.Retrain(tolerance=1e-12))
    assert not fast.status.any()
    slow = retrained(fitted, groups)
    scale = float(jnp.abs(slow).max())
    np.testing.assert_allclose(
        contrast(fitted, fast.value), contrast(fitted, slow), atol=1e-9 * max(scale, 1)
    )


def test_influence_is_the_derivative_of_retraining_at_zero(fitted, groups):
    step = 1e-4
    tiny = {
        sign: lo.retrain(
            fitted,
            lo.Groups.from_weights(sign * step * groups.dense()),
            lo.Retrain(tolerance=1e-12),
        ).value
        for sign in (1.0, -1.0)
    }
    derivative = (tiny[1.0] - tiny[-1.0]) / (2 * step)
    influence = lo.influence(fitted, groups).value
    # the truncation of a central difference is of the order step^2 = 1e-8
    np.testing.assert_allclose(contrast(fitted, derivative), contrast(fitted, influence), atol=2e-6)


def test_newton_equals_retraining_on_squared_loss(groups):
    fitted = lo.fit(problem("squares"))
    newton = lo.newton(fitted, groups).value
    actual = lo.retrain(fitted, groups, lo.Retrain(tolerance=1e-13)).value
    np.testing.assert_allclose(newton, actual, atol=1e-11)


def test_influence_adds_over_disjoint_groups(fitted):
    a, b = lo.Groups.from_indices([[1, 4, 9]], n=60), lo.Groups.from_indices([[0, 30]], n=60)
    parts = lo.influence(fitted, a).value + lo.influence(fitted, b).value
    np.testing.assert_allclose(lo.influence(fitted, a | b).value, parts, atol=1e-13)


def test_influence_is_the_same_of_one_group_and_of_many(fitted, groups):
    """One is refined by passes over the data, many by H as it is summed over them."""
    many = lo.influence(fitted, groups)
    few = [lo.influence(fitted, groups[[k]]) for k in range(len(groups))]
    largest = np.abs(many.value).max()
    together = np.concatenate([one.value for one in few])
    np.testing.assert_allclose(many.value, together, rtol=0, atol=1e-12 * largest)
    assert max(many.residual.max(), *(one.residual.max() for one in few)) < 1e-12


def test_errors_of_influence_and_newton_are_of_second_order():
    fitted = lo.fit(problem("logistic"))
    whole = groups_of(60, 3).dense()
    errors = {"influence": [], "newton": []}
    for t in (0.2, 0.1, 0.05):
        part = lo.Groups.from_weights(t * whole)
        actual = lo.retrain(fitted, part, lo.Retrain(tolerance=1e-13)).value
        for name, verb in (("influence", lo.influence), ("newton", lo.newton)):
            gap = jnp.linalg.norm(verb(fitted, part).value - actual, axis=1)
            errors[name].append(np.asarray(gap))
    for name, gaps in errors.items():
        ratios = np.array([gaps[0] / gaps[1], gaps[1] / gaps[2]])
        assert (np.abs(np.log2(ratios) - 2) < 0.4).all(), (name, ratios)
    assert np.median(errors["newton"][0]) < np.median(errors["influence"][0])


@pytest.mark.slow
def test_copies_of_one_point_follow_proposition_four():
    """Newton / influence = 1 / (1 - k phi'' x' H^-1 x) for k copies of one point."""
    rng = np.random.default_rng(0)
    copies = 5
    x = np.vstack([np.repeat([[1.5, -0.5]], copies, axis=0), rng.normal(size=(30, 2))])
    y = np.r_[np.ones(copies), rng.integers(0, 2, 30)]
    fitted = lo.fit(lo.logistic(x, y, l2=0.3, intercept=False))
    p = jax.nn.sigmoid(linear(fitted).scores(fitted.flat)[0, 0])
    leverage = p * (1 - p) * x[0] @ jnp.linalg.solve(fitted.objective.hessian(fitted.flat), x[0])
    for k in range(1, copies + 1):
        group = lo.Groups.from_indices([np.arange(k)], n=len(y))
        ratio = lo.newton(fitted, group).value / lo.influence(fitted, group).value
        np.testing.assert_allclose(ratio, 1 / (1 - k * leverage), rtol=1e-12)


def test_ridge_leave_one_out_has_its_closed_form():
    objective = problem("squares", n=25, weights=np.ones(25))
    fitted = lo.fit(objective)
    singles = lo.Groups.from_indices([[i] for i in range(25)], n=25)
    change = lo.retrain(fitted, singles, lo.Retrain(tolerance=1e-12)).value
    design, scores = objective.design, objective.scores(fitted.flat)[:, 0]
    hat = jnp.diagonal(design @ jnp.linalg.solve(objective.hessian(fitted.flat), design.T))
    press = (objective.y - scores) / (1 - hat)
    left_out = scores + jnp.sum(design * jax.vmap(objective.layout.flat)(change[:, None, :]), 1)
    np.testing.assert_allclose(objective.y - left_out, press, atol=1e-10)


def test_removing_everything_by_newton_leads_to_zero():
    objective = problem("logistic", intercept=False)
    fitted = lo.fit(objective)
    nearly = lo.Groups.from_weights(np.full((1, 60), 1.0 - 1e-12))
    np.testing.assert_allclose(lo.newton(fitted, nearly).value[0], -fitted.flat, atol=1e-8)


def test_the_gradients_of_all_losses_sum_to_minus_that_of_the_penalty(fitted):
    gradient = fitted.expansion().gradient(fitted.objective.weights)
    np.testing.assert_allclose(gradient, -fitted.objective.penalty * fitted.flat, atol=1e-9)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
@pytest.mark.parametrize("name", ["logistic", slow("softmax"), slow("poisson"), slow("squares")])
def test_order_and_batching_of_groups_change_nothing(name, groups, method):
    fitted = lo.fit(problem(name))
    measures = measures_of(fitted.objective)
    whole = lo.effects(fitted, groups, measures, method)
    assert not whole.status.any()
    order = np.random.default_rng(1).permutation(len(groups))
    shuffled = lo.effects(fitted, groups[order], measures, method)
    np.testing.assert_allclose(shuffled.value, whole.value[order], atol=1e-8)
    one_by_one = np.concatenate(
        [lo.effects(fitted, groups[i], measures, method).value for i in (0, 4, 8)]
    )
    np.testing.assert_allclose(one_by_one, whole.value[[0, 4, 8]], atol=1e-8)
    tight = lo.effects(fitted, groups, measures, method, memory=20_000)
    np.testing.assert_allclose(tight.value, whole.value, atol=1e-8)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_order_of_examples_changes_nothing(method):
    objective = problem("logistic")
    groups = groups_of(60)
    order = np.random.default_rng(2).permutation(60)
    x, y = np.asarray(objective.x)[order], np.asarray(objective.y)[order]
    weights = np.asarray(objective.weights)[order]
    mixed = lo.fit(lo.logistic(x, y, l2=0.5, weights=weights))
    moved = lo.Groups.from_masks(groups.dense().astype(bool)[:, order])
    measures = measures_of(objective)
    before = lo.effects(lo.fit(objective), groups, measures, method).value
    after = lo.effects(mixed, moved, measures, method).value
    np.testing.assert_allclose(after, before, atol=1e-8)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_a_group_of_weight_minus_one_is_a_duplicate(method):
    objective = problem("logistic", weights=np.ones(60))
    fitted = lo.fit(objective)
    twice = lo.Groups.from_weights(-np.eye(60)[[7]])
    x = np.vstack([objective.x, objective.x[7]])
    y = np.r_[objective.y, objective.y[7]]
    again = lo.fit(lo.logistic(x, y, l2=0.5)).flat - fitted.flat
    change = method.change(fitted, twice).value[0]
    loose = {"influence": 0.2, "Newton": 0.02, "actual": 1e-8}[method.name]
    assert jnp.linalg.norm(change - again) < loose * jnp.linalg.norm(again)
    assert jnp.linalg.norm(again) > 1e-3


@pytest.mark.parametrize("fitted", mostly_slow(USUAL, "logistic"), indirect=True)
def test_the_verbs_agree_inside_jit(fitted, groups):
    for verb in (lo.influence, lo.newton, lo.retrain):
        outside = verb(fitted, groups)
        inside = jax.jit(lambda f, verb=verb: verb(f, groups).value)(fitted)
        np.testing.assert_allclose(inside, outside.value, atol=1e-8)
