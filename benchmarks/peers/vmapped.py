"""Rivals in JAX: a general L-BFGS, vmapped over all groups, in an environment of its own."""

import numpy as np

from benchmarks.peers.problem import ENOUGH, Problem, loosest, median
from benchmarks.peers.worker import PeerError, Worker

__all__ = ["retrain"]

_GIVEN = ("x", "y", "l2", "penalised", "theta")


def retrain(problem: Problem, library: str, whitened: bool = False) -> tuple[dict, dict]:
    """The row of "optax" or "optimistix", compiled, and versions."""
    stays = np.ones((len(problem.lists), len(problem.x)))
    for group, rows in zip(stays, problem.lists, strict=True):
        group[rows] = 0
    given = {name: getattr(problem, name) for name in _GIVEN}
    given |= {"stays": stays} | ({"basis": problem.basis} if whitened else {})
    name = f"{library} L-BFGS, vmapped" + ", in whitened coordinates" * whitened
    try:
        with Worker(f"{library}_retrain", "jax", given) as worker:

            def attempt(tolerance):
                notes = worker.ask(tolerance=tolerance, most=problem.most)
                effects = worker.answer()["change"] @ problem.query.T
                exhausted = notes["evaluations"] >= problem.most
                return problem.error(effects), np.inf if exhausted else notes["seconds"], notes

            tolerance, error, notes = loosest(attempt)
            seconds = median(lambda: worker.ask(tolerance=tolerance, most=problem.most)["seconds"])
            row = {
                "method": f"{name}, at {tolerance:g}",
                "groups": len(problem.lists),
                "ms_a_group": 1e3 * seconds / len(problem.lists),
                "error": error,
                "accurate": error <= ENOUGH,
                "evaluations": notes["evaluations"],
                "most_evaluations": notes["most_evaluations"],
            }
            return row, worker.versions
    except PeerError as reason:
        return {"method": name, "skipped": str(reason)}, {}
