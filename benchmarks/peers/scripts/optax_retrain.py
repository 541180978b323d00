"""optax: L-BFGS with its zoom line search, vmapped over groups and compiled.

Stops at a gradient of `tolerance` of the largest that any group starts with. The value and gradient
that the line search ends with are used again, without the branch of `value_and_grad_from_state`:
vmap would turn it into one more evaluation a step.
"""

# it runs in an environment of its own, where its packages are
# pyright: reportMissingImports=false

import jax
import jax.numpy as jnp
import optax
from refit import answer, objective
from serve import serve


def prepare(problem):
    """A function of the tolerance that retrains all groups together, from the full fit."""
    function = objective(problem)
    solver = optax.lbfgs(memory_size=10)

    start, stays = jnp.zeros(problem["theta"].shape), jnp.asarray(problem["stays"])

    def minimise(stays, first, goal, most):
        def value(u):
            return function(u, stays)

        def unfinished(carry):
            _, _, (_, gradient), spent = carry
            return (jnp.linalg.norm(gradient) > goal) & (spent < most)

        def advance(carry):
            u, state, (here, gradient), spent = carry
            update, state = solver.update(
                gradient, state, u, value=here, grad=gradient, value_fn=value
            )
            found = optax.tree.get(state, "value"), optax.tree.get(state, "grad")
            spent += optax.tree.get(state, "info").num_linesearch_steps
            return optax.apply_updates(u, update), state, found, spent

        carry = start, solver.init(start), first, jnp.asarray(1)
        u, _, _, spent = jax.lax.while_loop(unfinished, advance, carry)
        return u, spent

    @jax.jit
    def together(stays, tolerance, most):
        first = jax.vmap(jax.value_and_grad(function), (None, 0))(start, stays)
        goal = tolerance * jnp.linalg.norm(first[1], axis=1).max()
        return jax.vmap(minimise, (0, 0, None, None))(stays, first, goal, most)

    def run(tolerance, most):
        return answer(problem, *jax.block_until_ready(together(stays, tolerance, most)))

    return run


if __name__ == "__main__":
    serve(prepare, "optax", "jax", "numpy")
