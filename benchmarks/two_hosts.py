"""Two processes share one problem: `python -m benchmarks.two_hosts`.

A pattern to copy for several machines. Each process calls `jax.distributed.initialize`, makes the
same objective, and keeps on its own devices (here four simulated ones) half of the examples. The
verbs and `effects` are called by all processes with the same arguments and answer all of them: of
fits, and of a network that is trained again, whose lanes lie on the devices of both. The parent
checks that the effects are those of one process alone, to 1e-10 of the largest.
"""

import json
import os
import socket
import subprocess
import sys
import time

_DEVICES = 4  # simulated, in each process


def main() -> None:
    """Start both processes, and hold what they find against one process alone."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    flags = f"--xla_force_host_platform_device_count={_DEVICES}"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    both = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.two_hosts", address, str(i)],
            env=environment, stdout=subprocess.PIPE, text=True,
        )
        for i in range(2)
    ]  # fmt: skip
    answers = [process.communicate()[0] for process in both]
    if any(process.returncode for process in both):
        raise SystemExit("a process failed; what it wrote is above")
    first, second = (json.loads(answer.splitlines()[-1]) for answer in answers)
    for row, other in zip(first, second, strict=True):
        print(
            f"{row['data']:<14} {row['method']:<10} {row['groups']} groups in "
            f"{row['seconds']:.1f} s, {row['examples_here']} + {other['examples_here']} examples: "
            f"gap {row['gap']:.1e} and {other['gap']:.1e} of the largest effect"
        )
        if row["failed"] or not max(row["gap"], other["gap"]) < 1e-10:
            raise SystemExit("two processes do not give the numbers of one")


def _process(address: str, index: int) -> None:
    """What each process runs."""
    import jax

    jax.config.update("jax_enable_x64", True)
    jax.distributed.initialize(address, num_processes=2, process_id=index)
    import numpy as np
    from jax.sharding import Mesh

    import leaveout as lo

    # neighbours along "groups" are in one process, so "data" is what is cut between processes
    devices = np.array(jax.devices()).reshape(-1, 2).T
    mesh = Mesh(devices, ("groups", "data"))
    rows = []

    def compared(name, alone, spread, groups, measures, method):
        """A row: the effects of both processes beside those of this one alone."""
        expected = lo.effects(alone, groups, measures, method)
        begin = time.perf_counter()
        found = lo.effects(spread, groups, measures, method)
        seconds = time.perf_counter() - begin
        gap = np.abs(found.value - expected.value).max(0) / np.abs(expected.value).max(0)
        pieces = spread.objective.weights.addressable_shards
        here = {piece.index[0].start or 0: piece.data.shape[0] for piece in pieces}
        rows.append({"data": name, "method": method.name, "groups": len(groups),
                     "seconds": seconds, "gap": float(gap.max()),
                     "failed": int(np.count_nonzero(found.status)),
                     "examples_here": sum(here.values())})  # fmt: skip

    for name, make in (("breast_cancer", lo.logistic), ("wine", lo.softmax)):
        data = lo.datasets.load(name)
        objective = make(data.x, data.y, l2=1.0)
        groups = lo.groups.random(jax.random.key(0), data, sizes=lo.groups.sizes(data.n, 12))
        query = data.x_query[:5], data.y_query[:5]
        measures = [lo.measures.loss(query), lo.measures.self_loss()]
        alone, spread = lo.fit(objective), lo.fit(lo.shard(objective, mesh))
        for method in (lo.Influence(), lo.Newton(), lo.Retrain(tolerance=1e-13)):
            compared(name, alone, spread, groups, measures, method)
    import equinox as eqx
    import optax

    data = lo.datasets.load("wine").some(slice(128))
    groups = lo.groups.random(jax.random.key(0), data, sizes=lo.groups.sizes(data.n, 12))
    recipe, key = lo.Recipe(optax.sgd(0.1, momentum=0.9), steps=50, batch=32), jax.random.key(1)

    def init(key):
        return eqx.nn.MLP(data.d, data.outputs, 16, 1, activation=jax.numpy.tanh, key=key)

    objective = lo.network(init, lo.losses.softmax, (data.x, data.y), l2=1.0)
    alone = lo.train(objective, recipe, key=key)
    spread = lo.train(lo.shard(objective, mesh), recipe, key=key, width=8)
    measure = lo.measures.loss((data.x_query[:5], data.y_query[:5]))
    compared("wine, network", alone, spread, groups, [measure], lo.Retrain())
    print(json.dumps(rows))


if __name__ == "__main__":
    if len(sys.argv) == 3:
        _process(sys.argv[1], int(sys.argv[2]))
    else:
        main()
