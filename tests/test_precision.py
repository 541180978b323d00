"""What is given in float32 is answered as in float64, on a processor; and as it is, elsewhere."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_breast_cancer

import leaveout as lo
from leaveout.fitting.double import double_of
from leaveout.fitting.precision import as_given, is_doubled
from leaveout.runtime.memory import limited
from problems import groups_of, mostly_slow

METHODS = [lo.Influence(), lo.Newton(), lo.NewtonChebyshev(), lo.Retrain()]


@pytest.fixture(scope="module")
def table():
    """breast_cancer as numbers that float32 has, standardised; a column counts from a year."""
    x, y = load_breast_cancer(return_X_y=True)
    x = ((x - x.mean(axis=0)) / x.std(axis=0)).astype(np.float32)
    x[:, 0] = np.round(x[:, 0] * 4) + 2000
    return x, y


def fitted(table, double: bool) -> lo.Fit:
    """Its model, JAX set to one precision or the other."""
    x, y = table
    with jax.enable_x64(double):
        return lo.fit(lo.logistic(x, y, l2=0.5))


def asked(fit, call, double: bool = False):
    """What a function of a fit says, JAX set to one precision or the other."""
    with jax.enable_x64(double):
        return call(fit)


def measures(table) -> list:
    """Of three queries, and of whoever leaves."""
    x, y = table
    query = x[:3], y[:3]
    return [lo.measures.prediction(x[:3]), lo.measures.loss(query), lo.measures.self_loss()]


@pytest.mark.parametrize("method", mostly_slow(METHODS, METHODS[1], METHODS[3]), ids=repr)
def test_effects_are_those_of_float64(table, method):
    groups = groups_of(569)
    found, exact = (
        asked(
            fitted(table, double),
            lambda fit: lo.effects(fit, groups, measures(table), method),
            double,
        )
        for double in (False, True)
    )
    assert (found.status == exact.status).all()
    error = np.abs(found.value - exact.value) / np.abs(exact.value).max(axis=0)
    assert error.max() < 1e-6


@pytest.mark.parametrize("verb", mostly_slow([lo.influence, lo.newton, lo.retrain], lo.retrain))
def test_changes_are_those_of_float64_in_float32(table, verb):
    single, double, groups = fitted(table, False), fitted(table, True), groups_of(569)
    found = asked(single, lambda fit: verb(fit, groups))
    exact = np.asarray(verb(double, groups).value)
    assert found.value.dtype == found.residual.dtype == jnp.float32
    assert found.objective is single.objective
    np.testing.assert_allclose(found.value, exact, atol=1e-6 * np.abs(exact).max())


def test_a_fit_is_float32_and_its_optimum_the_one_of_float64(table):
    single, double = fitted(table, False), fitted(table, True)
    floats = [leaf for leaf in jax.tree.leaves(single) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    assert {leaf.dtype for leaf in floats} == {jnp.dtype("float32")}
    exact = np.asarray(double.flat)
    np.testing.assert_allclose(single.flat, exact, atol=1e-6 * np.abs(exact).max())
    inner, other = single.centred, double.centred
    assert inner is not None
    assert other is not None
    assert other.metric is not None
    off = (np.asarray(inner.flat, float) - np.asarray(other.flat)) @ other.metric.lower
    off = np.linalg.norm(off)
    assert 0.5 * off < float(single.residual) < 2 * off + 1e-12


@pytest.mark.slow
def test_what_else_is_asked_of_a_fit_is_answered_as_in_float64(table):
    groups, (x, y) = lo.Groups.from_labels(np.arange(569) % 4), table
    loss = lo.measures.loss((x[:3], y[:3]))
    calls = [
        lambda fit: lo.per_point(fit, loss),
        lambda fit: lo.value(fit, groups, loss).value,
        lambda fit: lo.extreme(fit, loss, 3).value,
        lambda fit: lo.trust(fit, groups).error,
    ]
    for call in calls:
        found, exact = (
            np.asarray(asked(fitted(table, double), call, double)) for double in (False, True)
        )
        np.testing.assert_allclose(found, exact, atol=1e-5 * np.abs(exact).max())


@pytest.mark.slow
def test_a_penalty_is_chosen_as_in_float64(table):
    found = []
    for double in (False, True):
        with jax.enable_x64(double):
            objective = lo.logistic(*table, l2=0.5)
            found.append(lo.cross_validate(objective, [0.01, 0.1, 1.0, 10.0]))
    one, other = found
    assert one.l2 == other.l2
    assert not one.status.any()
    np.testing.assert_allclose(one.loss, other.loss, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the curvature of this loss")
def test_points_are_added_to_it_and_labels_turned(table):
    groups, (x, y) = groups_of(569), table

    def turned(fit):
        both = lo.relabel(fit, groups, 1 - y)
        return lo.effects(*both, lo.measures.prediction(x[:3]), lo.Retrain()).value

    found, exact = (asked(fitted(table, double), turned, double) for double in (False, True))
    np.testing.assert_allclose(found, exact, atol=1e-6 * np.abs(exact).max())


@pytest.mark.slow
def test_intervals_are_certified_of_it_too(table):
    fit, groups = fitted(table, False), groups_of(569)
    loss = lo.measures.loss((table[0][:3], table[1][:3]))
    found = asked(fit, lambda fit: lo.effects(fit, groups, loss, lo.Retrain(), certify=True))
    exact = lo.effects(fitted(table, True), groups, loss, lo.Retrain(1e-12)).value
    assert (found.certificate == 0).all()
    assert (found.lower <= exact).all()
    assert (exact <= found.upper).all()


def test_a_fit_that_was_edited_is_refused_and_one_that_is_no_optimum_warned_of(table):
    fit, groups = fitted(table, False), groups_of(569)
    edited = eqx.tree_at(lambda f: f.objective.l2, fit, jnp.float32(0.6))
    with pytest.raises(ValueError, match="not the one that its theta and factor belong to"):
        asked(edited, lambda fit: lo.newton(fit, groups))
    with jax.enable_x64(False):
        short = lo.fit(lo.logistic(*table, l2=0.5), max_steps=6, throw=False)
        assert int(short.status) == lo.Status.max_steps
        with pytest.warns(UserWarning, match="theta is not at its optimum"):
            lo.effects(short, groups, lo.measures.parameter(0))


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_a_theta_of_float32_is_near_its_own_optimum(offset, tmp_path):
    """Saved and read, given as theta, answered: of targets that are fitted all but exactly, too."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 4)).astype(np.float32)
    y = (x @ np.arange(4.0) + (offset > 0) * rng.normal(size=200) + offset).astype(np.float32)
    groups = groups_of(200)
    with jax.enable_x64(False):
        fit = lo.fit(lo.squares(x, y, l2=1.0 * (offset > 0)))
        fit.save(tmp_path / "fit.npz")
        fits = [fit, lo.load(tmp_path / "fit.npz"), lo.fit(fit.objective, theta=fit.theta)]
        found = [lo.newton(fit, groups).value for fit in fits]
    exact = lo.newton(lo.fit(lo.squares(x, y, l2=1.0 * (offset > 0))), groups).value
    for value in found:
        floor = 1e-6 if offset else 1e-4  # where nothing is left but what rounding leaves
        np.testing.assert_allclose(value, exact, atol=floor * max(np.abs(exact).max(), offset == 0))


def test_columns_far_out_are_measured_from_the_same_place_in_both(table):
    x = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
    groups = groups_of(200)
    with jax.enable_x64(False):
        fit = lo.fit(lo.squares(x + 1000, x[:, 0], l2=1e-3))
        assert fit.centred is not None
        assert float(fit.centred.residual) == float(fit.residual) < 0.1 * float(fit.sandwich)
        found = [lo.newton(fit, groups).status, jax.jit(lambda f: lo.newton(f, groups).status)(fit)]
        with as_given():
            found.append(lo.newton(fit, groups).status)
    assert not np.any(found)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:in float32, residuals")
def test_derivatives_are_taken_outside_in_the_precision_that_is_there(table):
    query, groups = jnp.asarray(table[0][:3]), groups_of(569)
    with jax.enable_x64(False):
        fit, query = lo.fit(lo.logistic(*table, l2=0.5)), query.astype(jnp.float32)
        pull = jax.grad(lambda q: (lo.per_point(fit, lambda t: q @ t.weight) ** 2).sum())(query)
        l2 = jnp.full(len(groups), 0.5)
        steep = jax.jacrev(lambda s: lo.retrain(fit, groups, l2=s * l2).value)(1.0)
    assert pull.dtype == steep.dtype == jnp.float32
    assert np.isfinite(pull).all()
    assert np.isfinite(steep).all()


def test_what_serves_float32_alone_is_asked_in_float32(table):
    """A loop of the user's that keeps its dtype; a method that is given little memory."""
    query, groups, seen = jnp.asarray(table[0][:3]), groups_of(569), []

    class Spy(lo.Method):
        @property
        def name(self):
            return "spy"

        def prepare(self, fit, measures):
            seen.append(fit.flat.dtype)
            return lo.Prepared(lambda groups: jnp.zeros((len(groups), fit.flat.size)))

    with jax.enable_x64(False):
        fit, rows = lo.fit(lo.logistic(*table, l2=0.5)), query.astype(jnp.float32)

        def summed(theta):
            first = jnp.zeros((), jnp.float32)
            return jax.lax.scan(lambda c, row: (c + row @ theta.weight, None), first, rows)[0]

        for measure, memory in ((summed, None), (lambda t: t.bias, None), (lambda t: t.bias, 1e5)):
            lo.effects(fit, groups, measure, Spy(), memory=memory)
    assert seen == ["float32", "float64", "float32"]


def test_the_doubles_of_two_fits_are_remembered_and_those_of_frames(table):
    frame = pd.DataFrame(table[0][:, 1:4], columns=list("abc"))
    with jax.enable_x64(False):
        fits = [lo.fit(lo.logistic(frame, pd.Series(table[1]), l2=l2)) for l2 in (0.5, 1.0)]
        first, again = ([double_of(fit) for fit in fits] for _ in range(2))
    for one, other in zip(first, again, strict=True):
        assert one is not None
        assert other is not None
        assert other.flat is one.flat
        assert one.objective.fingerprint is not None


def test_within_jit_and_where_it_is_wanted_float32_stays(table):
    with jax.enable_x64(False):
        fit = lo.fit(lo.logistic(*table, l2=0.5))
        assert is_doubled(fit.objective)
        assert double_of(fit) is not None
        with as_given():
            assert double_of(fit) is None
        with limited(100_000):
            assert double_of(fit) is None
        value = jax.jit(lambda fit: lo.retrain(fit, groups_of(569)).value)(fit)
    assert value.dtype == jnp.float32
    general = lo.Objective(lambda theta, x: (x - theta) ** 2, np.ones(3, np.float32), 0.0)
    assert not is_doubled(general)


def test_an_accelerator_computes_as_it_is_asked_to(table, monkeypatch):
    with jax.enable_x64(False):
        objective = lo.logistic(*table, l2=0.5)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert not is_doubled(objective)
