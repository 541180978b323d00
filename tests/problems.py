"""Small problems that several test files share."""

import jax
import jax.numpy as jnp
import numpy as np

import leaveout as lo

__all__ = ["LOSSES", "groups_of", "measures_of", "problem", "slow_retrain"]

LOSSES = sorted(
    name for name in lo.losses.__all__ if isinstance(getattr(lo.losses, name), lo.losses.Loss)
)


def problem(name="logistic", n=60, d=4, outputs=3, l2=0.5, seed=0, **options):
    """An objective with targets drawn from its own model and unequal base weights."""
    loss, key = getattr(lo.losses, name), jax.random.key(seed)
    x = jax.random.normal(jax.random.fold_in(key, 0), (n, d))
    weight = 0.5 * jax.random.normal(jax.random.fold_in(key, 1), (d, outputs))
    scores = x @ weight if loss.targets == "classes" else x @ weight[:, 0]
    y = jax.vmap(loss.sample)(jax.random.split(jax.random.fold_in(key, 2), n), scores)
    options.setdefault("weights", np.linspace(0.5, 1.5, n))
    return getattr(lo, name)(np.asarray(x), np.asarray(y), l2=l2, **options)


def groups_of(n, count=9, seed=0):
    """Overlapping groups of 1 to n / 4 points."""
    rng = np.random.default_rng(seed)
    sizes = np.linspace(1, n // 4, count).astype(int)
    return lo.Groups.from_indices([rng.choice(n, k, replace=False) for k in sizes], n=n)


def measures_of(objective, m=3):
    """Predictions, losses, self-loss, a parameter and a function, on the first m examples."""
    x, y = np.asarray(objective.x[:m]), np.asarray(objective.y[:m])
    if objective.classes is not None:
        y = np.asarray(objective.classes)[y.astype(int)]
    return [
        lo.measures.prediction(x),
        lo.measures.loss((x, y)),
        lo.measures.self_loss(),
        lo.measures.parameter([0, -1]),
        lambda theta: jnp.sum(theta.weight**2),
    ]


def slow_retrain(objective, w, start):
    """theta without the group: plain Newton in NumPy on autodiff of the objective, to rounding."""
    stays = jnp.asarray(1 - w)
    gauge = objective.at(start).gauge()
    gauge = 0.0 if gauge is None else gauge
    theta = start
    for _ in range(60):
        matrix = objective.hessian(theta, stays) + gauge
        step = jnp.linalg.solve(matrix, objective.gradient(theta, stays))
        length = min(1.0, 2.0 / float(jnp.linalg.norm(step) + 1e-30))
        theta = theta - length * step
    return theta
