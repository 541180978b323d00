"""Small problems that several test files share."""

from collections.abc import Iterable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import leaveout as lo
from leaveout.objectives.abstract import AbstractObjective
from leaveout.objectives.linear import LinearObjective

__all__ = [
    "LOSSES",
    "USUAL",
    "groups_of",
    "linear",
    "measures_of",
    "mostly_slow",
    "problem",
    "slow_retrain",
    "spearman",
    "wrong",
]

LOSSES = sorted(
    name for name in lo.losses.__all__ if isinstance(getattr(lo.losses, name), lo.losses.Loss)
)

#: the same for suites in which every loss goes many ways: rates only in the slow run
USUAL = [pytest.param(n, marks=pytest.mark.slow) if n == "poisson" else n for n in LOSSES]


def mostly_slow(cases: Iterable[Any], *few: Any) -> list[Any]:
    """Cases of which a few run always, the others in the slow run."""
    return [case if case in few else pytest.param(case, marks=pytest.mark.slow) for case in cases]


def wrong(value: Any) -> Any:
    """A value of the wrong type, for tests of refusals."""
    return value


def problem(
    name="logistic", n=60, d=4, outputs=3, l2=0.5, seed=0, **options: Any
) -> LinearObjective:
    """An objective with targets drawn from its own model and unequal base weights."""
    loss, key = getattr(lo.losses, name), jax.random.key(seed)
    x = jax.random.normal(jax.random.fold_in(key, 0), (n, d))
    weight = 0.5 * jax.random.normal(jax.random.fold_in(key, 1), (d, outputs))
    scores = x @ weight if loss.targets == "classes" else x @ weight[:, 0]
    y = jax.vmap(loss.sample)(jax.random.split(jax.random.fold_in(key, 2), n), scores)
    options.setdefault("weights", np.linspace(0.5, 1.5, n))
    return getattr(lo, name)(np.asarray(x), np.asarray(y), l2=l2, **options)


def linear(fit: lo.Fit) -> LinearObjective:
    """The objective of a fit, known to be a linear model's."""
    assert isinstance(fit.objective, LinearObjective)
    return fit.objective


def groups_of(n, count=9, seed=0) -> lo.Groups:
    """Overlapping groups of 1 to n / 4 points."""
    rng = np.random.default_rng(seed)
    sizes = np.linspace(1, n // 4, count).astype(int)
    return lo.Groups.from_indices([rng.choice(n, k, replace=False) for k in sizes], n=n)


def measures_of(objective: AbstractObjective, m=3) -> list:
    """Predictions, losses, self-loss, a parameter and a function, on the first m examples."""
    assert isinstance(objective, LinearObjective)
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


def spearman(one, other) -> float:
    """The rank correlation, by SciPy."""
    found: Any = scipy.stats.spearmanr(one, other)
    return float(found.statistic)


@eqx.filter_jit
def slow_retrain(objective, w, start):
    """Theta without the group: plain Newton steps of bounded length, to rounding."""
    v = objective.weights * (1 - w)
    gauge = objective.at(start).gauge()
    gauge = 0.0 if gauge is None else gauge

    def step(_, theta):
        matrix = objective.hessian(theta, v) + gauge
        direction = jnp.linalg.solve(matrix, objective.gradient(theta, v))
        return theta - direction * jnp.minimum(1.0, 2.0 / (jnp.linalg.norm(direction) + 1e-30))

    return jax.lax.fori_loop(0, 60, step, start)
