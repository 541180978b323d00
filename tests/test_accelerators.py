"""What is done otherwise on accelerators: the same numbers, seen here by JAX's word for it alone.

Whether a GPU agrees with processors is seen where there is one: `benchmarks/speed_large.py`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import leaveout as lo


@pytest.fixture
def accelerator(monkeypatch):
    """JAX says that it computes on a GPU."""
    return lambda: monkeypatch.setattr(jax, "default_backend", lambda: "gpu")


def _changes(objective, groups, solver):
    fit = lo.fit(objective)
    newton, retrained = lo.newton(fit, groups, solver), lo.retrain(fit, groups, lo.Retrain(1e-10))
    return [lo.influence(fit, groups).value, newton.value, retrained.value]


@pytest.mark.parametrize("classes", [2, 3])
def test_changes_are_those_of_a_processor(accelerator, classes):
    rng = np.random.default_rng(classes)
    x = rng.standard_normal((173, 4))
    scores = x @ rng.standard_normal((4, classes)) + rng.gumbel(size=(173, classes))
    make = lo.logistic if classes == 2 else lo.softmax
    objective = make(x, np.argmax(scores, axis=1), l2=0.5)
    lists = [[3], rng.choice(173, 20, replace=False), rng.choice(173, 60, replace=False)]
    groups = lo.Groups.from_indices(lists, n=173)
    groups += lo.Groups.from_weights(rng.uniform(size=(2, 173)))
    solver = lo.solvers.LowRank() if classes == 3 else lo.solvers.Cholesky()
    on_host = _changes(objective, groups, solver)
    accelerator()
    for found, expected in zip(_changes(objective, groups, solver), on_host, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-8 * np.abs(expected).max())


def test_products_of_float32_are_not_rounded_further(accelerator):
    heard = []

    def loss(score, y):
        heard.append(str(jax.config.jax_default_matmul_precision))
        return jnp.logaddexp(0.0, score) - y * score

    x = np.random.default_rng(0).standard_normal((97, 3))
    y = (x[:, 0] > 0).astype(float)
    accelerator()
    fit = lo.fit(lo.glm(loss, x, y, l2=1.0))
    lo.retrain(fit, lo.Groups.from_indices([[0, 1]], n=97))
    assert heard.count("float32") > 2
    heard.clear()
    with jax.default_matmul_precision("tensorfloat32"):
        lo.fit(lo.glm(loss, x[:50], y[:50], l2=1.0))
    assert "tensorfloat32" in heard
    assert "float32" not in heard
