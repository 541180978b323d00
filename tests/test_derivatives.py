"""Derivatives of fits, steps and retraining in what the objective holds, and factors gone stale."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import leaveout as lo
from problems import groups_of, mostly_slow, problem

GROUPS = groups_of(60, 4)
TIGHT = lo.Retrain(tolerance=1e-13)
#: numbers to multiply changes with: a derivative of one number sees all of them
MIX = np.random.default_rng(7).normal(size=(4, 5))
ALONG = np.random.default_rng(8).normal(size=60)


def moved(objective, what, t):
    """The objective with one of its parts moved by t along a direction."""
    along = jnp.asarray(ALONG)
    steps = {
        "l2": (lambda o: o.l2, lambda part: part + t),
        "weights": (lambda o: o.weights, lambda part: part + t * along),
        "x": (lambda o: o.design, lambda part: part.at[:, 1].add(t * along)),
        "y": (lambda o: o.y, lambda part: part + 0.1 * t * along),
    }
    where, step = steps[what]
    return eqx.tree_at(where, objective, step(where(objective)))


def mixed(fit):
    """What each verb says, a number each."""
    parts = (
        lo.influence(fit, GROUPS).value,
        lo.newton(fit, GROUPS).value,
        lo.newton(fit, GROUPS, lo.solvers.CG(1e-13)).value,
        lo.newton(fit, GROUPS, chebyshev=True).value,
        lo.retrain(fit, GROUPS, TIGHT).value,
    )
    mix = jnp.asarray(MIX[:, : fit.flat.size])
    return jnp.stack([mix[0] @ fit.flat, *(jnp.sum(mix * part) for part in parts)])


def central(function, step=1e-4):
    return (function(step) - function(-step)) / (2 * step)


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    mostly_slow(
        [(n, w) for n in ("logistic", "poisson", "squares") for w in ("l2", "weights", "x", "y")],
        ("logistic", "l2"),
    ),
    ids="-".join,
)
def test_derivatives_are_those_of_a_full_refit(case):
    name, what = case
    objective = problem(name)

    def refitted(t):
        return mixed(lo.fit(moved(objective, what, t)))

    expected = central(refitted)
    # central differences of 1e-4 are right to 1e-8 of third derivatives of order 1
    np.testing.assert_allclose(jax.jacfwd(refitted)(0.0), expected, rtol=1e-5, atol=1e-7)
    backward = jax.jacrev(refitted)(0.0)
    np.testing.assert_allclose(backward, jax.jacfwd(refitted)(0.0), rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_any_loss_of_any_data_has_derivatives():
    linear = problem("logistic")
    data = (np.asarray(linear.x), np.asarray(linear.y, float))

    def loss(theta, example):
        x, y = example
        return jax.nn.softplus(theta @ x) - y * (theta @ x)

    def retrained(t):
        x = data[0] + t * ALONG[:, None] * jnp.eye(4)[0][None]
        own = lo.Objective(loss, data, np.zeros(4), l2=0.5)
        own = eqx.tree_at(lambda o: o.data, own, (x, jnp.asarray(data[1])))
        return jnp.sum(MIX[:, :4] * lo.retrain(lo.fit(own), GROUPS, TIGHT).value)

    np.testing.assert_allclose(jax.grad(retrained)(0.0), central(retrained), rtol=1e-6)


@pytest.mark.slow
def test_second_derivatives_are_right_too():
    objective = problem("logistic")

    def retrained(t):
        fit = lo.fit(objective.with_l2(0.5 + t))
        return jnp.sum(MIX * lo.retrain(fit, GROUPS, TIGHT).value)

    expected = central(jax.grad(retrained))
    np.testing.assert_allclose(jax.grad(jax.grad(retrained))(0.0), expected, rtol=1e-6)


@pytest.mark.slow
def test_a_penalty_for_each_group_has_its_derivative_in_jit_as_well():
    fitted = lo.fit(problem("logistic"))

    def retrained(l2):
        return jnp.sum(MIX * lo.retrain(fitted, GROUPS, TIGHT, l2=l2).value)

    at = jnp.array([0.2, 0.5, 1.0, 3.0])
    expected = [central(lambda t, i=i: retrained(at.at[i].add(t))) for i in range(4)]
    np.testing.assert_allclose(jax.grad(retrained)(at), expected, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(jax.grad(retrained))(at), expected, rtol=1e-5)


def test_influence_under_a_penalty_for_each_group_is_refused_or_derived_of_few_points_too():
    x, y = np.random.default_rng(0).standard_normal((400, 3)), np.arange(400) % 2
    fitted = lo.fit(lo.logistic(x, y, l2=1.0))
    few = lo.Groups.from_indices([[0, 1], [5]], n=400)  # so few that their rows are looked at alone
    at = jnp.array([1.0, 2.0])

    def rescaled(l2):
        return jnp.sum(lo.influence(fitted, few, rescaled=True, l2=l2).value)

    expected = [central(lambda t, i=i: rescaled(at.at[i].add(t))) for i in range(2)]
    np.testing.assert_allclose(jax.grad(rescaled)(at), expected, rtol=1e-6)
    with pytest.raises(
        ValueError, match="no derivatives of influence and Newton steps under an l2"
    ):
        jax.grad(lambda l2: jnp.sum(lo.influence(fitted, few, l2=l2).value))(at)


def test_a_theta_from_outside_is_a_constant_of_retraining():
    objective = problem("logistic")
    fitted = lo.fit(objective)

    def without(weights):  # the theta that is retrained does not know of theta_hat
        seen = eqx.tree_at(lambda f: f.objective.weights, fitted, weights)
        return jnp.sum(MIX * (fitted.flat[None] + lo.retrain(seen, GROUPS, TIGHT).value))

    def refitted(t):
        fit = lo.fit(moved(objective, "weights", t))
        return jnp.sum(MIX * (fit.flat[None] + lo.retrain(fit, GROUPS, TIGHT).value))

    slope = jax.grad(without)(objective.weights)
    np.testing.assert_allclose(slope @ ALONG, central(refitted), rtol=1e-6)


@pytest.mark.slow
def test_what_stays_without_a_minimum_has_no_derivative():
    x = np.random.default_rng(0).normal(size=(20, 4))
    objective = lo.squares(x, x[:, 0] ** 2, l2=0.0)
    groups = lo.Groups.from_indices([np.arange(17), np.arange(12)], n=20)

    def retrained(t, rows):
        fit = lo.fit(eqx.tree_at(lambda o: o.y, objective, objective.y * (1 + t)))
        return lo.retrain(fit, groups[rows]).value.sum()

    assert np.isnan(jax.grad(retrained)(0.0, [0]))
    assert np.isfinite(jax.grad(retrained)(0.0, [1]))


def far_mix(x, what, t, offset):
    """What each verb says of inputs that are `offset` away, one part moved by t; a number each."""
    y = np.where(x[:, 0] + np.random.default_rng(9).logistic(size=60) > 0, 1, 0)
    objective = moved(lo.logistic(x + offset * np.array([1.0, 0.0, -2.0]), y, l2=0.5), what, t)
    fit = lo.fit(objective)
    changes = lo.influence(fit, GROUPS), lo.newton(fit, GROUPS), lo.retrain(fit, GROUPS, TIGHT)
    parts = [jnp.sum(MIX[:, :3] * change.value[:, :3]) for change in changes]
    return jnp.stack([fit.flat[0], *parts])


@pytest.mark.slow
@pytest.mark.parametrize("what", ["l2", "weights", "x"])
def test_derivatives_do_not_see_where_columns_are_measured_from(what):
    x = (
        np.round(2.0**20 * np.random.default_rng(5).normal(size=(60, 3))) / 2**20
    )  # exact there, too
    slopes = [jax.jacrev(lambda t, o=o: far_mix(x, what, t, o))(0.0) for o in (1e6, 0.0)]
    np.testing.assert_allclose(*slopes, rtol=1e-7)


def test_a_constant_column_far_out_has_its_derivative_too():
    rng = np.random.default_rng(5)
    x, y = np.c_[np.full(30, 1e6), rng.normal(size=(30, 2))], rng.normal(size=30)

    def weight(t, offset):
        objective = lo.squares(x - np.array([offset, 0, 0]), y, l2=0.5)
        objective = eqx.tree_at(lambda o: o.design, objective, objective.design.at[3, 0].add(t))
        return lo.fit(objective).flat[0]

    slopes = [jax.grad(weight)(0.0, offset) for offset in (0.0, 1e6)]
    assert abs(slopes[0]) > 1e-2
    np.testing.assert_allclose(*slopes, rtol=1e-9)


# ---- factors of another objective ---------------------------------------------------------------


@pytest.mark.parametrize("call", [lo.influence, lo.newton, lo.retrain], ids=lambda f: f.__name__)
def test_a_fit_whose_objective_was_replaced_is_refused(call):
    fitted = lo.fit(problem("logistic"))
    others = [moved(fitted.objective, what, 1e-3) for what in ("l2", "weights", "x", "y")]
    for objective in others:
        with pytest.raises(ValueError, match=r"not the one that .*were replaced.*call lo.fit"):
            call(dataclasses.replace(fitted, objective=objective), GROUPS)
    call(dataclasses.replace(fitted, objective=moved(fitted.objective, "l2", 0.0)), GROUPS)
    refitted = lo.fit(others[0], theta=fitted.theta)
    stale = dataclasses.replace(refitted, metric=lo.fit(fitted.objective.with_l2(50.0)).metric)
    with pytest.raises(ValueError, match="the factor is off by a share"):
        call(stale, GROUPS)


@pytest.mark.slow
@pytest.mark.parametrize("call", [lo.influence, lo.newton], ids=lambda f: f.__name__)
def test_a_theta_that_stays_while_its_objective_moves_is_refused(call):
    fitted = lo.fit(problem("logistic"))

    def stale(l2, fit=fitted):
        fit = eqx.tree_at(lambda f: f.objective.l2, fit, l2)
        return call(fit, GROUPS).value.sum()

    for way in (jax.grad(stale), jax.jit(stale)):
        with pytest.raises(ValueError, match=r"it moves while they stay.*call lo.fit"):
            way(0.5)
    inside = jax.jit(stale)
    with pytest.raises(ValueError, match="it moves while they stay"):
        jax.grad(lambda l2: inside(l2, fitted))(0.5)
    change = jax.jit(lambda fit, l2: call(eqx.tree_at(lambda f: f.objective.l2, fit, l2), GROUPS))
    assert not change(fitted, 0.5).status.any()
    assert (change(fitted, 0.6).status == lo.Status.inaccurate).all()


def test_a_theta_replaced_in_a_fit_of_far_columns_is_refused():
    rng = np.random.default_rng(5)
    x, y = 1e5 + rng.normal(size=(60, 3)), rng.normal(size=60)
    fitted = lo.fit(lo.squares(x, y, l2=0.5))
    assert fitted.centred is not None
    with pytest.raises(ValueError, match="not the one that its theta and factor belong to"):
        lo.newton(dataclasses.replace(fitted, flat=fitted.flat.at[1].add(0.1)), GROUPS)


def test_a_fit_inside_jit_is_refused():
    objective = problem("logistic")
    with pytest.raises(ValueError, match=r"outside jax.jit and jax.vmap only"):
        jax.jit(lambda l2: lo.fit(objective.with_l2(l2)).flat)(1.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "method", [lo.Newton(steps=2), lo.Krylov()], ids=lambda method: method.name
)
def test_steps_without_derivatives_say_so(method):
    objective = problem("logistic")

    def stepped(t):
        return method.change(lo.fit(objective.with_l2(t)), GROUPS).value.sum()

    with pytest.raises(ValueError, match="there are no derivatives of Krylov steps"):
        jax.grad(stepped)(0.5)


def test_methods_are_constants_of_a_program_that_takes_them():
    shelf = (lo.Influence(), lo.Krylov(), lo.Newton(), lo.NewtonChebyshev(), lo.SecondOrder())
    for method in (*shelf, lo.Retrain()):
        assert not jax.tree.leaves(method)
    fit = lo.fit(problem("squares"))
    inside = jax.jit(lambda fit, method: method.change(fit, GROUPS).value)
    outside = lo.influence(fit, GROUPS).value
    np.testing.assert_allclose(inside(fit, lo.Influence()), outside, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("verb", [lo.newton, lo.retrain])
def test_an_example_without_base_weight_has_its_derivative_in_it(verb):
    """What one unit of it more would do: 0 before, as if it could not be heard."""
    bare = np.linspace(0.5, 1.5, 60).copy()
    bare[5] = 0.0
    objective, group = problem("logistic"), lo.Groups.from_indices([[1, 2], [5, 7]], n=60)

    def found(weight):
        weights = jnp.asarray(bare).at[5].set(weight)
        fit = lo.fit(eqx.tree_at(lambda o: o.weights, objective, weights))
        mix = jnp.asarray(MIX[:2, : fit.flat.size])
        return jnp.sum(mix * verb(fit, group).value) + fit.flat @ mix[0]

    there = jax.grad(found)(0.0)
    step = 1e-5  # there is no other side
    ahead = (4 * found(step) - found(2 * step) - 3 * found(0.0)) / (2 * step)
    np.testing.assert_allclose(there, ahead, rtol=1e-4)
