"""Regularisation paths: a linear model fitted for many penalties and weightings of its examples.

Batched L-BFGS in the metric of one Hessian for all weightings of a penalty: the curvature of every
output averaged, so that a model of K outputs needs a factor of q x q and not of p x p. A penalty
starts from the answer of the next larger one.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from leaveout.fitting import lbfgs
from leaveout.objectives.abstract import weigh
from leaveout.objectives.linear import LinearObjective, crossproduct
from leaveout.runtime.batches import in_runs
from leaveout.runtime.memory import PATH_BYTES, PATH_LANES, chunks
from leaveout.runtime.sharding import entry_point
from leaveout.runtime.solution import Solution, Status
from leaveout.solvers import lifted

__all__ = ["path"]

_HISTORY = 20
_EVALUATIONS = 250  # in one metric; then it is renewed at the point reached
_RENEWALS = 4


@entry_point
def path(
    objective: LinearObjective,
    grid: Float[np.ndarray, "l"],
    v: Float[Array | np.ndarray, "b n"],
    *,
    tolerance: float = 1e-8,
) -> Solution:
    """Argmin J(.; v) for every penalty of a grid and every weighting.

    Two matrix products of the size of the data for each evaluation, for all weightings together;
    a factorisation (n q^2 + q^3 / 3) for each penalty.

    Args:
        objective: its own l2 is ignored, how it is spread over the parameters is not.
        grid: (l) penalties, absolute.
        v: (b n) what each example gets, in place of its base weight.
        tolerance: the length of the gradient in the metric of the Hessian at which a fit is done,
            per square root of p.

    Returns:
        value (l b p); residual, steps and status (l b).
    """
    each = 8 * (objective.n * objective.floats_per_example + objective.p * (2 * _HISTORY + 16))
    runs = chunks(np.arange(len(v)), each, PATH_BYTES, PATH_LANES)
    return in_runs(
        runs, lambda rows: _descend(objective, grid, jnp.asarray(v[rows]), tolerance), axis=1
    )


def _descend(objective, grid, v, tolerance) -> Solution:
    """The path of some weightings, the largest penalty first."""
    start = jnp.tile(objective.initial()[None], (len(v), 1))
    answers = {}
    for i in np.argsort(-grid, kind="stable"):
        problem = objective.with_l2(grid[i])
        running = jnp.ones(len(v), bool)
        solution = _minimise(problem, start, v, tolerance, running)
        for _ in range(_RENEWALS):
            running = solution.status != Status.converged
            if not bool(running.any()):
                break
            more = _minimise(problem, solution.value, v, tolerance, running)
            solution = eqx.tree_at(lambda s: s.steps, more, more.steps + solution.steps)
        answers[i], start = solution, solution.value
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *(answers[i] for i in range(len(grid))))


@eqx.filter_jit
def _minimise(problem, theta, v, tolerance, running) -> Solution:
    """L-BFGS in the metric of the Hessian at the mean of theta (b p)."""
    layout = problem.layout
    basis = _basis(problem, jnp.mean(theta, axis=0), jnp.mean(v, axis=0))

    def moved(u):
        return layout.flat(layout.matrix(u) @ basis.T)

    def function(u):
        def one(u, theta, v):
            value, gradient = problem.value_and_gradient(theta + moved(u), v)
            return value, layout.flat(layout.matrix(gradient) @ basis)

        return jax.vmap(one)(u, theta, v)

    goal = jnp.full(len(theta), tolerance * np.sqrt(problem.p))
    goal = jnp.where(running, goal, jnp.inf)  # what was done stays where it is
    solution = lbfgs.minimise(
        function, jnp.zeros_like(theta), goal, max_steps=_EVALUATIONS, history=_HISTORY
    )
    new = theta + jax.vmap(moved)(solution.value)
    finite = jnp.all(jnp.isfinite(new), axis=1, keepdims=True)
    return eqx.tree_at(lambda s: s.value, solution, jnp.where(finite, new, 0.0))


def _basis(problem, theta, v):
    """(q q) B with B B' the inverse of the curvature of one output, averaged over outputs."""
    own = jax.vmap(problem.own_curvature)(problem.scores(theta), problem.y)
    curvature = jnp.mean(own, axis=1)
    curvature = jnp.maximum(weigh(v, curvature), 0.0)
    penalty = jnp.mean(problem.layout.matrix(problem.penalty), axis=0)
    matrix = crossproduct(curvature[:, None] * problem.design, problem.design) + jnp.diag(penalty)
    scale = jnp.sqrt(jnp.diagonal(matrix))
    scale = jnp.where(scale > 0, scale, 1.0)
    factor, _ = lifted(matrix / (scale[:, None] * scale[None]), jnp.ones_like(scale))
    eye = jnp.eye(scale.size, dtype=scale.dtype)
    inverse = jax.scipy.linalg.solve_triangular(factor.lower, eye, lower=True, trans=1)
    return inverse / scale[:, None]
