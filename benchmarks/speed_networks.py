"""How long does it take to train a network again without a group, and to differentiate training?

A network on digits: 64-64-10, tanh, 660 steps of 64 examples, SGD with momentum, float32. Times are
milliseconds a training, and ratios of things timed in alternation in one process: lanes of
`lo.Retrain` beside one bare scan of the same steps, a Python loop over a jitted step, and a loop of
torch where it is installed; and trainings that one pass of the metagradient costs, for one measure
and for 32 together. Ratios are of processor seconds, which other work disturbs less, or, on a
device, of the clock.
"""

import importlib.util
import time
from collections.abc import Callable
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import leaveout as lo
from benchmarks.harness import record
from leaveout.training.loop import reverse
from leaveout.training.run import Trained

_LANES = 8


def main(folder: Path, size: str) -> None:
    """Time them: a few steps in a smoke run, 30 epochs otherwise."""
    steps, rounds = {"smoke": (20, 1), "small": (660, 3), "full": (660, 7)}[size]
    one = _trained(steps)
    v = jnp.ones((_LANES, one.objective.n), one.flat.dtype)
    contenders: dict[str, tuple[Callable, int]] = {
        "one lane": (lambda: one.without(v[:1]), 1),
        f"{_LANES} lanes": (lambda: one.without(v), _LANES),
        "Python loop of jitted steps": (_loop(one), 1),
        "metagradient, 1 measure": (_pass(one, 1), 1),
        "metagradient, 32 measures": (_pass(one, 32), 32),
    }
    if importlib.util.find_spec("torch") is not None:
        contenders["torch loop"] = (_torch(one), 1)
    times: dict[str, list[np.ndarray]] = {name: [] for name in contenders}
    for call, _ in contenders.values():
        call()  # compiles
    for _ in range(rounds):
        for name, (call, count) in contenders.items():
            begin = time.perf_counter(), time.process_time()
            jax.block_until_ready(call())
            end = time.perf_counter(), time.process_time()
            times[name].append(1e3 * np.subtract(end, begin) / count)
    found = {name: np.median(each, axis=0) for name, each in times.items()}
    by = 1 if jax.default_backend() == "cpu" else 0
    lane = found[f"{_LANES} lanes"][by]
    rows = [
        {"what": name, "ms": each[0], "processor ms": each[1], "in lanes": each[by] / lane}
        for name, each in found.items()
    ]
    shape = {"data": "digits", "p": one.objective.p, "steps": steps}
    record(folder, "speed_networks", [shape | row for row in rows])


def _trained(steps: int) -> Trained:
    data = lo.datasets.digits()
    x, y = np.asarray(data.x[:1408], np.float32), data.y[:1408]

    def init(key):
        return eqx.nn.MLP(64, 10, 64, 1, activation=jnp.tanh, key=key, dtype=jnp.float32)

    objective = lo.network(init, lo.losses.softmax, (x, y), l2=1e-3 * len(x))
    rate = optax.cosine_decay_schedule(0.1, steps)
    recipe = lo.Recipe(optax.sgd(rate, momentum=0.9), steps=steps, batch=64)
    return lo.train(objective, recipe, key=jax.random.key(0)).at(0)


def _loop(one: Trained) -> Callable:
    """What one writes: a step that is jitted, and a loop over batches in Python."""
    course, optimiser = one.course, one.recipe.optimiser
    objective, batches = course.objective, np.asarray(one.batches)
    x, y = np.asarray(objective.x), np.asarray(objective.y)

    @jax.jit
    def step(theta, state, x, y):
        def value(theta):
            scores = jax.vmap(eqx.combine(theta, objective.frozen))(x)
            loss = optax.softmax_cross_entropy_with_integer_labels(scores, y).mean()
            return loss + 0.5e-3 * sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(theta))

        moves, state = optimiser.update(jax.grad(value)(theta), state, theta)
        return optax.apply_updates(theta, moves), state

    def run():
        theta = objective.parameters(one.start)
        state = optimiser.init(theta)
        for batch in batches:
            theta, state = step(theta, state, x[batch], y[batch])
        return theta

    return run


def _pass(one: Trained, measures: int) -> Callable:
    pulls = jax.random.normal(jax.random.key(1), (measures, one.objective.p), one.flat.dtype)
    return lambda: reverse(one.course, one.objective.weights, pulls, 0)


def _torch(one: Trained) -> Callable:
    """The same steps in torch, as one writes them."""
    torch = importlib.import_module("torch")
    objective = one.course.objective
    x = torch.tensor(np.asarray(objective.x))
    y = torch.tensor(np.asarray(objective.y)).long()
    batches = [torch.tensor(np.asarray(batch)).long() for batch in np.asarray(one.batches)]
    layers = (torch.nn.Linear(64, 64), torch.nn.Tanh(), torch.nn.Linear(64, 10))

    def run():
        net = torch.nn.Sequential(*layers)
        descent = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9, weight_decay=1e-3)
        decay = torch.optim.lr_scheduler.CosineAnnealingLR(descent, len(batches))
        for batch in batches:
            descent.zero_grad()
            torch.nn.functional.cross_entropy(net(x[batch]), y[batch]).backward()
            descent.step()
            decay.step()

    return run
