"""optimistix: L-BFGS, vmapped over groups and compiled.

Stops where u and J change by less than `tolerance`, relative and absolute.
"""

# it runs in an environment of its own, where its packages are
# pyright: reportMissingImports=false

import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix
from refit import answer, objective
from serve import serve


def prepare(problem):
    """A function of the tolerance that retrains all groups together, from the full fit."""
    function = objective(problem)
    start, stays = jnp.zeros(problem["theta"].shape), jnp.asarray(problem["stays"])

    def minimise(stays, tolerance, most):
        solver = optimistix.LBFGS(rtol=tolerance, atol=tolerance, history_length=10)
        found = optimistix.minimise(
            function, solver, start, args=stays, max_steps=most, throw=False
        )
        return found.value, found.stats["num_steps"]

    together = eqx.filter_jit(jax.vmap(minimise, in_axes=(0, None, None)))

    def run(tolerance, most):
        found = together(stays, jnp.asarray(tolerance), most)
        return answer(problem, *jax.block_until_ready(found))

    return run


if __name__ == "__main__":
    serve(prepare, "optimistix", "jax", "numpy")
