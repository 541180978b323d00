"""The objective that rivals in JAX minimise: of one group, to be vmapped, in float64."""

import jax
import jax.numpy as jnp

jax.config.update("jax_enable_x64", True)


def objective(problem):
    """J(u; stays) at theta_hat + u, or at theta_hat + basis u: plain or better coordinates.

    Less its value at u = 0, term by term: a small group moves J by less than the rounding of the
    whole, and line searches that compare values would stand still.
    """
    x, theta = jnp.asarray(problem["x"]), jnp.asarray(problem["theta"])
    sign = 2.0 * jnp.asarray(problem["y"]) - 1
    l2 = jnp.asarray(problem["l2"] * problem["penalised"])
    basis = jnp.asarray(problem["basis"]) if "basis" in problem else None
    design, offset = (x if basis is None else x @ basis), sign * (x @ theta)
    before = jax.nn.softplus(-offset)

    def function(u, stays):
        losses = jax.nn.softplus(-offset - sign * (design @ u)) - before
        moved = u if basis is None else basis @ u
        return stays @ losses + jnp.sum(l2 * (theta + moved / 2) * moved)

    return function


def answer(problem, u, evaluations):
    """The change in theta, and how many evaluations of value and gradient it took."""
    change = u @ jnp.asarray(problem["basis"]).T if "basis" in problem else u
    spent = {
        "evaluations": float(jnp.median(evaluations)),
        "most_evaluations": int(evaluations.max()),
    }
    return {"change": jax.device_get(change)}, spent
