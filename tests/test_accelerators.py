"""What is done otherwise on accelerators: the same numbers, seen here by JAX's word for it alone.

Whether a GPU agrees with processors is seen where there is one: `benchmarks/speed_large.py`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import leaveout as lo
from leaveout.runtime.sharding import on_host


@pytest.fixture
def accelerator(monkeypatch):
    """JAX says that it computes on a GPU."""
    return lambda: monkeypatch.setattr(jax, "default_backend", lambda: "gpu")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("classes", "solver"),
    [
        pytest.param(2, lo.solvers.Cholesky(), marks=pytest.mark.slow),
        (3, lo.solvers.LowRank()),
    ],
)
def test_influence_newton_and_retraining_are_those_of_dense_algebra(accelerator, classes, solver):
    rng = np.random.default_rng(classes)
    x = rng.standard_normal((173, 4))
    scores = x @ rng.standard_normal((4, classes)) + rng.gumbel(size=(173, classes))
    make = lo.logistic if classes == 2 else lo.softmax
    objective = make(x, np.argmax(scores, axis=1), l2=0.5)
    lists = [[3], rng.choice(173, 20, replace=False), rng.choice(173, 60, replace=False)]
    groups = lo.Groups.from_indices(lists, n=173)
    groups += lo.Groups.from_weights(rng.uniform(size=(2, 173)))
    w = groups.dense()
    accelerator()
    assert not on_host()
    fit = lo.fit(objective)
    stays = np.asarray(objective.weights) * np.concatenate([np.ones((1, 173)), 1 - w])
    whole, *left = jax.jit(jax.vmap(objective.hessian, (None, 0)))(fit.flat, stays)
    gradient = jax.jit(jax.vmap(objective.gradient))
    pull = gradient(jnp.tile(fit.flat, (5, 1)), stays[1:])
    influence = [_solve(whole, -g) for g in pull]
    np.testing.assert_allclose(lo.influence(fit, groups).value, influence, atol=1e-9)
    step = [_solve(own, -g) for own, g in zip(left, pull, strict=True)]
    np.testing.assert_allclose(lo.newton(fit, groups, solver).value, step, atol=1e-9)
    change = lo.retrain(fit, groups, lo.Retrain(1e-10))
    assert not change.status.any()
    remains = gradient(fit.flat[None] + change.value, stays[1:])
    assert np.abs(remains).max() < 1e-8 * np.abs(pull).max()


def _solve(matrix, b):
    """The smallest solution: softmax does not see a shift of all intercepts."""
    return np.linalg.lstsq(np.asarray(matrix), np.asarray(b), rcond=1e-12)[0]


def test_products_of_float32_are_not_rounded_further(accelerator):
    settings: Any = jax.config  # its attributes are made when JAX is imported
    heard = []

    def loss(score, y):
        heard.append(str(settings.jax_default_matmul_precision))
        return jnp.logaddexp(0.0, score) - y * score

    x = np.random.default_rng(0).standard_normal((97, 3))
    y = (x[:, 0] > 0).astype(float)
    accelerator()
    lo.fit(lo.glm(loss, x, y, l2=1.0))
    assert "float32" in heard
    heard.clear()
    with jax.default_matmul_precision("tensorfloat32"):
        lo.fit(lo.glm(loss, x[:50], y[:50], l2=1.0))
    assert "tensorfloat32" in heard
    assert "float32" not in heard
