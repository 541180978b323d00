"""What is given in float32 is answered as in float64, on a processor; and as it is, elsewhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer

import leaveout as lo
from leaveout.fitting.double import doubled
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
    assert double.metric is not None
    off = np.linalg.norm((np.asarray(single.flat, float) - exact) @ double.metric.lower)
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


def test_within_jit_and_where_it_is_wanted_float32_stays(table):
    with jax.enable_x64(False):
        fit = lo.fit(lo.logistic(*table, l2=0.5))
        assert is_doubled(fit.objective)
        assert doubled(fit) is doubled(fit)
        with as_given():
            assert doubled(fit) is fit
        with limited(100_000):
            assert doubled(fit) is fit
        value = jax.jit(lambda fit: lo.retrain(fit, groups_of(569)).value)(fit)
    assert value.dtype == jnp.float32
    general = lo.Objective(lambda theta, x: (x - theta) ** 2, np.ones(3, np.float32), 0.0)
    assert not is_doubled(general)


def test_an_accelerator_computes_as_it_is_asked_to(table, monkeypatch):
    with jax.enable_x64(False):
        objective = lo.logistic(*table, l2=0.5)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert not is_doubled(objective)
