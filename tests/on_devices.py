"""What `test_sharding.py` needs of eight simulated devices: run as a script, it prints JSON.

XLA fixes the number of devices when it starts, so this is a process of its own.
"""

import json
import os
import re
import sys
from typing import Any

os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
)

import equinox as eqx
import jax
import numpy as np
from jax.extend.backend import get_backend

import leaveout as lo
from leaveout.fitting import lbfgs
from leaveout.fitting.fitted import with_rows
from leaveout.fitting.leaving import leaving
from leaveout.methods.coordinates import around
from leaveout.runtime.sharding import entry_point
from problems import groups_of, linear, problem

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
    objective = linear(fitted)
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


def compiled_by(call):
    """The texts of the programs that a call compiles."""
    before = {program.fingerprint for program in get_backend().live_executables()}
    call()
    after = get_backend().live_executables()
    new = [program for program in after if program.fingerprint not in before]
    return [module.to_string() for program in new for module in program.hlo_modules()]


def communication(name):
    """What one gradient of retraining sends, and what all programs of a Newton step send."""
    fitted = lo.fit(lo.shard(problem(name, n=EXAMPLES), mesh(2, 4)))
    groups = groups_of(EXAMPLES, 16)

    @entry_point
    def gradient_of_retraining(fitted):
        problem = around(with_rows(fitted, 2**30), False)
        stays = problem.lay(fitted.objective.stays(leaving(fitted, groups)))
        state = lbfgs.initialise(jax.numpy.zeros((16, fitted.flat.size)))

        def gradient(problem, stays, point):
            return problem.function(stays, None)(point)[1]

        spread = jax.lax.with_sharding_constraint
        point = jax.jit(lambda p: spread(p, jax.sharding.PartitionSpec("groups")))(state.point)
        once: Any = eqx.filter_jit(gradient)
        return once.lower(problem, stays, point).compile().compiled.as_text()

    small = groups[groups.size <= EXAMPLES // 8]  # of softmax, XLA sends all for a larger one
    newton = compiled_by(lambda: lo.newton(fitted, small, lo.solvers.Cholesky()))
    sent = [each for text in newton for each in collectives(text)]
    return [fitted.flat.size, collectives(gradient_of_retraining(fitted)), sent]


def inside_jit():
    """The largest gap between the verbs inside and outside of jit, the mesh current."""
    fitted, groups = lo.fit(lo.shard(problem("logistic", n=64), mesh(2, 4))), groups_of(64)
    where = fitted.objective.weights.sharding
    assert isinstance(where, jax.sharding.NamedSharding)
    assert isinstance(where.mesh, jax.sharding.Mesh)
    gaps = []
    for verb in (lo.influence, lo.newton, lo.retrain):
        with jax.set_mesh(where.mesh):
            inside = jax.jit(lambda f, verb=verb: verb(f, groups).value)(fitted)
        gaps.append(float(abs(inside - verb(fitted, groups).value).max()))
    return max(gaps)


def networks():
    """The largest gaps of effects on a network, over meshes, and how its lanes were laid."""
    import optax

    from test_training import KEY, X, Y, data

    def init(key):
        return eqx.nn.MLP(3, 2, 8, 1, activation=jax.numpy.tanh, key=key, dtype="float32")

    x = X.astype(np.float32)
    recipe = lo.Recipe(optax.sgd(0.1, momentum=0.9), steps=6, batch=8)
    objective = lo.network(init, lo.losses.softmax, (x, Y), l2=0.4)
    groups, query = data()[[0, 1, 2, 0, 1, 2, 0, 1, 2]], lo.measures.margin((x[:5], Y[:5]))
    methods = (lo.Retrain(), lo.Metagradient(check=False), lo.Newton())

    def values(objective, width):
        run = lo.train(objective, recipe, key=KEY, width=width)
        return {m.name: lo.effects(run, groups, query, m).value for m in methods}, run

    alone, _ = values(objective, 1)
    gaps, shares = {}, []
    for shape in ((8, 1), (2, 4)):
        spread, run = values(lo.shard(objective, mesh(*shape)), 8)
        for name, one in alone.items():
            gap = np.abs(spread[name] - one).max() / np.abs(one).max()
            gaps[f"{name} {shape}"] = float(gap)
        shares.append(_lanes_of_a_device(run))
    return {"gaps": gaps, "lanes": shares}


def _lanes_of_a_device(run):
    """How many lanes of a block of eight a device trains, by the shapes of its program."""
    from leaveout.runtime.sharding import on_its_mesh, place
    from leaveout.training.loop import block

    one = run.at(0)
    with on_its_mesh(run.objective):
        v = place(np.ones((8, run.objective.n)), np.float32, "groups", "data")
        lowered: Any = block
        text = lowered.lower(one.course, v).compile().compiled.as_text()
    first = run.objective.parameters(one.start).layers[0].weight.shape  # (8 3) of a lane
    found = re.findall(rf"f32\[(\d+),{first[0]},{first[1]}\]", text)
    return sorted({int(lanes) for lanes in found})


def main():
    if "networks" in sys.argv:
        print(json.dumps(networks()))
        return
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
