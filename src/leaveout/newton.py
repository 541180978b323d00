"""The group Newton step: one reweighted solve a group, (H(1) - H(w))^-1 g(w)."""

from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from leaveout.fit import Change, Fit, check_groups, whitened
from leaveout.groups import Groups
from leaveout.inputs import is_traced
from leaveout.memory import bucket, budget, chunks
from leaveout.solution import Solution, raise_unless_converged
from leaveout.solvers import Auto, Block, as_solver

__all__ = [
    "Newton",
    "newton",
]

_NARROWEST = 64  # points to which the smallest lists are padded: below it compiling costs more


@dataclass(frozen=True)
class Newton:
    """The group Newton step as a method of `effects`.

    Attributes:
        solver: any member of `solvers`, or a lineax linear solver.
        linearised: take f to first order in the change instead of evaluating it there.
    """

    solver: Any = Auto()
    linearised: bool = False

    @property
    def name(self) -> str:
        """For tables and axes."""
        return "linearised Newton" if self.linearised else "Newton"

    @property
    def first_order(self) -> bool:
        """Whether f is taken to first order in the change."""
        return self.linearised

    def change(self, fit: Fit, groups: Groups, memory=None) -> Change:
        """`newton` with this solver."""
        return newton(fit, groups, self.solver, memory=memory)


def newton(
    fit: Fit, groups: Groups, solver: Any = Auto(), *, memory=None, throw: bool = False
) -> Change:
    """Change in theta after one Newton step on what each group leaves behind.

        change = (H(1) - H(w))^-1 g(w)

    Exact when the loss is quadratic. Its error is second order in the part removed, like
    influence's, with a much smaller constant. Costs what `solvers` says, at most |w| p^2 + p^3 / 3
    a group.

    Args:
        fit: the fitted objective.
        groups: what leaves.
        solver: any member of `solvers`, or a lineax linear solver; Auto chooses block by block.
        memory: bytes that working arrays may take; default a quarter of what is free.
        throw: raise if any group's solve fails.

    Returns:
        value (g p) in units of theta; residual is relative, in the norm of H(1)^-1. A group that
        leaves a singular Hessian gets the smallest solution and the status `singular`.

    Raises:
        ValueError: if `groups` was made for another number of examples.

    Source: Koh et al. (2019), the one-step Newton approximation of section 4.
    """
    check_groups(fit, groups)
    objective, solver = fit.objective, as_solver(solver)
    available = budget(memory)
    fit = whitened(fit, available, gram=_wants_gram(groups, objective))
    expansion = _expansion(fit)
    order, parts = [], []
    for rows, width, kept in _blocks(groups, objective, available):
        lanes = bucket(len(rows))
        padded = np.concatenate([rows, np.full(lanes - len(rows), rows[-1])])
        block = _block(groups, padded, width, kept, objective.weights.dtype)
        part = _solve_block(expansion, fit.factor, block, solver)
        if not is_traced(part):
            jax.block_until_ready(part)  # one block at a time: its memory, and see `_together`
        parts.append(jax.tree.map(lambda leaf, k=len(rows): leaf[:k], part))
        order.append(rows)
    joined = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)
    back = np.argsort(np.concatenate(order))
    value, residual, steps, status = (
        leaf[back] for leaf in (joined.value, joined.residual, joined.steps, joined.status)
    )
    change = Change(value, residual, steps, status, objective)
    if throw and not is_traced(fit):
        raise_unless_converged(status, residual, [f"group {str(n)!r}" for n in groups.names])
    return change


def _wants_gram(groups: Groups, objective) -> bool:
    """Whether X H^-1 X' as a whole is cheaper than its part for each group that is small enough."""
    size = groups.size.astype(float)
    return objective.n < objective.p and np.sum(size**2) > objective.n**2


def _blocks(groups: Groups, objective, available: int):
    """Runs of groups of like size: (rows, padded width, whether the lists hold what stays)."""
    n, p = objective.n, objective.p
    size = groups.size
    # what stays needs the shorter list where more than half of the points leave
    kept = size > n // 2
    length = np.where(kept, n, size)
    widths = np.array([min(bucket(k, _NARROWEST), n) for k in length])
    for key in sorted({(bool(k), int(w)) for k, w in zip(kept, widths, strict=True)}):
        rows = np.flatnonzero((kept == key[0]) & (widths == key[1]))
        rows = rows[np.argsort(size[rows], kind="stable")]
        each = 8 * (4 * key[1] + (2 + objective.numbers) * n + 6 * p)
        for chunk in chunks(rows, each, available, 256):
            yield chunk, key[1], key[0]


def _block(groups: Groups, rows, width, kept, dtype) -> Block:
    if kept:
        stays = 1 - groups.dense(rows)
        indices = np.broadcast_to(np.arange(groups.n), stays.shape)
        return Block(jnp.asarray(indices), jnp.asarray(stays, dtype), kept=True)
    indices, weights = groups.padded(rows, width)
    return Block(jnp.asarray(indices), jnp.asarray(weights, dtype))


@eqx.filter_jit
def _expansion(fit: Fit):
    return fit.expansion()


@eqx.filter_jit
def _solve_block(expansion, factor, block, solver) -> Solution:
    leaves = block.leaves(expansion.n)
    gradient = jax.vmap(expansion.gradient)(leaves)
    return solver.reduced(expansion, factor, block, gradient)
