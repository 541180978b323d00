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
