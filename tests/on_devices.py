"""What `test_sharding.py` needs of eight simulated devices: run as a script, it prints JSON.

XLA fixes the number of devices when it starts, so this is a process of its own.
"""

import json
import os
import re
import sys

os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
)

import equinox as eqx
import jax
import numpy as np

import leaveout as lo
from leaveout.fitting import lbfgs
from leaveout.fitting.optimum import leaving, whitened
from leaveout.methods.coordinates import around
from leaveout.methods.group_newton import _block, _blocks, _expansion, _solve_block
from leaveout.runtime.sharding import meshed
from problems import groups_of, problem

jax.config.update("jax_enable_x64", True)
EXAMPLES = 4000  # where communication is counted
METHODS = {
    "influence": lo.Influence(),
    "Newton": lo.Newton(),
    "Newton by CG": lo.Newton(lo.solvers.CG(rtol=1e-13)),
    "two Newton steps": lo.Newton(steps=2),
    "actual": lo.Retrain(tolerance=1e-13),
}


def mesh(groups, data):
    return jax.make_mesh((groups, data), ("groups", "data"), devices=jax.devices()[: groups * data])


def values(fitted, methods):
    """Effects on losses of three examples and on self-loss, and the worst status."""
    objective = fitted.objective
    x, y = np.asarray(objective.x[:3]), np.asarray(objective.y[:3]).astype(int)
    measures = [lo.measures.loss((x, y)), lo.measures.self_loss()]
    groups = groups_of(61)
    found = {name: lo.effects(fitted, groups, measures, method) for name, method in methods.items()}
    return {name: each.value for name, each in found.items()}, max(
        int(each.status.max()) for each in found.values()
    )


def numbers(name, shapes, methods):
    """For each mesh and method the largest gap to one device, beside the largest effect."""
    objective = problem(name, n=61)  # 61 is no multiple of anything
    alone, _ = values(lo.fit(objective), methods)
    rows = []
    for shape in shapes:
        spread, status = values(lo.fit(lo.shard(objective, mesh(*shape))), methods)
        for method, one in alone.items():
            gap = np.abs(spread[method] - one).max(0) / np.abs(one).max(0)
            rows.append([name, list(shape), method, float(gap.max()), status])
    return rows


def collectives(text):
    """(operation, shapes) of every collective in a compiled program."""
    kinds = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"
    found = re.findall(rf"= (\(?[^=]*?) ({kinds})(?:-start)?\(", text)
    return [(kind, re.findall(r"\[([\d,]*)\]", shapes)) for shapes, kind in found]


def communication(name):
    """What one gradient of retraining sends, what a block of Newton steps sends."""
    fitted = lo.fit(lo.shard(problem(name, n=EXAMPLES), mesh(2, 4)))
    groups = groups_of(EXAMPLES, 16)

    @meshed
    def compiled(fitted):
        problem = around(whitened(fitted, 2**30), False)
        stays = problem.lay(1 - leaving(fitted, groups))
        state = lbfgs.initialise(jax.numpy.zeros((16, fitted.flat.size)))

        def gradient(problem, stays, point):
            return problem.function(stays, None)(point)[1]

        spread = jax.lax.with_sharding_constraint
        point = jax.jit(lambda p: spread(p, jax.sharding.PartitionSpec("groups")))(state.point)
        first = eqx.filter_jit(gradient).lower(problem, stays, point).compile()
        fit, solver = whitened(fitted, 2**30), lo.solvers.Cholesky()
        expansion = _expansion(fit)
        rows, lanes, width, chosen = next(_blocks(fit, expansion, groups, solver, 2**30))
        block = _block(fit, groups, np.resize(rows, lanes), width)
        second = _solve_block.lower(fit, expansion, block, chosen, False).compile()
        return [collectives(one.compiled.as_text()) for one in (first, second)]

    return [fitted.flat.size, *compiled(fitted)]


def inside_jit():
    """The largest gap between the verbs inside and outside of jit, the mesh current."""
    fitted, groups = lo.fit(lo.shard(problem("logistic", n=64), mesh(2, 4))), groups_of(64)
    gaps = []
    for verb in (lo.influence, lo.newton, lo.retrain):
        with jax.set_mesh(fitted.objective.weights.sharding.mesh):
            inside = jax.jit(lambda f, verb=verb: verb(f, groups).value)(fitted)
        gaps.append(float(abs(inside - verb(fitted, groups).value).max()))
    return max(gaps)


def main():
    everything = [(1, 2), (2, 2), (1, 8), (2, 4), (8, 1)]
    if "slow" in sys.argv:
        found = {
            "numbers": numbers("logistic", everything, METHODS)
            + numbers("softmax", everything[:4], METHODS),
            "communication": {name: communication(name) for name in ("logistic", "softmax")},
            "inside_jit": inside_jit(),
        }
    else:
        few = {name: METHODS[name] for name in ("influence", "Newton", "actual")}
        found = {
            "numbers": numbers("logistic", [(2, 4)], few),
            "communication": {"logistic": communication("logistic")},
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
