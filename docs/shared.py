"""What the examples of docstrings take as given."""

import jax
import jax.numpy as jnp
import numpy as np

import leaveout as lo

jax.config.update("jax_enable_x64", True)
rng = np.random.default_rng(0)
x = rng.normal(size=(24, 3))
y = (x[:, 0] + rng.normal(size=24) > 0).astype(int)
objective = lo.logistic(x, y, l2=1.0)
fit = lo.fit(objective)
groups = lo.Groups.from_labels(np.arange(24) // 6)  # four groups of six points
measure = lo.measures.loss((x[:5], y[:5]), reduce="mean")
