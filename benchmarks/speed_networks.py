"""How long does it take to train a network again without a group, and to differentiate training?

Two networks in float32, SGD with momentum, batches of 64: on digits (64-64-10, tanh, 660 steps) and
on MNIST's first 4,992 images (784-128-10, relu, 5 epochs), where there are. Times are milliseconds
a training, and ratios of things timed in alternation in one run: lanes of `lo.Retrain` beside one
bare scan of the same steps, a Python loop over a jitted step, and a loop of torch where its
environment has been made; and trainings that one pass of the metagradient costs, for one measure
and for 32 together. All start from one theta and end at one, to rounding: rows say how far apart.
Ratios are of processor seconds, which other work disturbs less, or, on a device, of the clock.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import leaveout as lo
from benchmarks.harness import record
from benchmarks.peers import environments
from benchmarks.peers.worker import Worker
from leaveout.training.loop import reverse
from leaveout.training.run import Trained

_LANES = 8
_BATCH = 64


class _Case(NamedTuple):
    """A network on its data, and how it is trained.

    Attributes:
        data: its name on the shelf.
        hidden: the width between.
        tanh: or relu.
        examples: how many of the data train.
        epochs: of whole batches.
        decay: of weights, of a mean loss.
    """

    data: str
    hidden: int
    tanh: bool
    examples: int
    epochs: int
    decay: float


_CASES = (
    _Case("digits", 64, True, 1408, 30, 1e-3),
    _Case("mnist_small", 128, False, 4992, 5, 1e-5),
)


class _Timed(NamedTuple):
    """Something that trains, or differentiates.

    Attributes:
        call: what is timed; returns what is blocked on, or the seconds of another process.
        trainings: or measures, of a call.
        theta: (p) the end of its training, or None.
    """

    call: Callable[[], Any]
    trainings: int
    theta: Callable[[], np.ndarray] | None = None


def main(folder: Path, size: str) -> None:
    """Time them: a few steps in a smoke run, all of them otherwise."""
    rounds = {"smoke": 1, "small": 3, "full": 7}[size]
    rows = []
    for case in _CASES:
        if case.data in lo.datasets.available():
            rows += _rows(case, 20 if size == "smoke" else None, rounds)
    record(folder, "speed_networks", rows)


def _rows(case: _Case, steps: int | None, rounds: int) -> list[dict[str, Any]]:
    """A row for everything that is timed on one network."""
    one, x, y = _trained(case, steps)
    batches, v = np.asarray(one.batches), jnp.ones((_LANES, one.objective.n), one.flat.dtype)
    step, begin = _step(one, case.decay)
    bare = _bare(step, begin, x, y, batches)
    loop = _loop(step, begin, x, y, batches)
    flat = one.objective.flat
    contenders = {
        "one lane": _Timed(lambda: one.without(v[:1]), 1),
        f"{_LANES} lanes": _Timed(lambda: one.without(v), _LANES),
        "bare scan": _Timed(bare, 1, lambda: np.asarray(flat(bare()))),
        "Python loop of jitted steps": _Timed(loop, 1, lambda: np.asarray(flat(loop()))),
        "metagradient, 1 measure": _Timed(_pass(one, 1), 1),
        "metagradient, 32 measures": _Timed(_pass(one, 32), 32),
    }
    with ExitStack() as stack:
        if environments.python("torch") is not None:
            torch = stack.enter_context(_torch(one, case, x, y, batches))
            contenders["torch loop"] = _Timed(torch.ask, 1, lambda: torch.answer()["theta"])
        found, apart = _alternated(contenders, rounds, np.asarray(one.flat))
    by = 1 if jax.default_backend() == "cpu" else 0
    lane = found[f"{_LANES} lanes"][by]
    shape = {"data": case.data, "p": one.objective.p, "steps": len(batches)}
    return [
        shape
        | {"what": name, "ms": each[0], "processor ms": each[1], "in lanes": each[by] / lane}
        | apart.get(name, {})
        for name, each in found.items()
    ]


def _alternated(contenders: dict[str, _Timed], rounds: int, theta: np.ndarray):
    """Median milliseconds by the clock and by the processor; how far each ends from theta."""
    times: dict[str, list[np.ndarray]] = {name: [] for name in contenders}
    apart = {}
    for name, each in contenders.items():
        each.call()  # compiles
        if each.theta is not None:
            off = np.linalg.norm(each.theta() - theta) / np.linalg.norm(theta)
            apart[name] = {"apart": float(off)}
    for _ in range(rounds):
        for name, each in contenders.items():
            begin = time.perf_counter(), time.process_time()
            found = each.call()
            if isinstance(found, dict):  # of another process
                spent = found["seconds"], found["processor"]
            else:
                jax.block_until_ready(found)
                spent = np.subtract((time.perf_counter(), time.process_time()), begin)
            times[name].append(1e3 * np.asarray(spent) / each.trainings)
    return {name: np.median(each, axis=0) for name, each in times.items()}, apart


def _trained(case: _Case, steps: int | None) -> tuple[Trained, np.ndarray, np.ndarray]:
    """A training from one seed, and its data."""
    data = lo.datasets.load(case.data)
    x, y = np.asarray(data.x[: case.examples], np.float32), np.asarray(data.y[: case.examples])
    active = jnp.tanh if case.tanh else jax.nn.relu

    def init(key):
        return eqx.nn.MLP(
            x.shape[1], 10, case.hidden, 1, activation=active, key=key, dtype=jnp.float32
        )

    count = case.epochs * (len(x) // _BATCH) if steps is None else steps
    objective = lo.network(init, lo.losses.softmax, (x, y), l2=case.decay * len(x))
    recipe = lo.Recipe(optax.sgd(_rate(count), momentum=0.9), steps=count, batch=_BATCH)
    return lo.train(objective, recipe, key=jax.random.key(0)).at(0), x, y.astype(np.int32)


def _rate(steps: int) -> optax.Schedule:
    return optax.cosine_decay_schedule(0.1, steps)


def _step(one: Trained, decay: float):
    """What one writes: a step of the optimiser, and the state that it begins with."""
    objective, optimiser = one.course.objective, one.recipe.optimiser

    def step(theta, state, x, y):
        def value(theta):
            scores = jax.vmap(eqx.combine(theta, objective.frozen))(x)
            loss = optax.softmax_cross_entropy_with_integer_labels(scores, y).mean()
            return loss + 0.5 * decay * sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(theta))

        loss, gradient = jax.value_and_grad(value)(theta)
        moves, state = optimiser.update(gradient, state, theta)
        return (optax.apply_updates(theta, moves), state), loss

    theta = objective.parameters(one.start)
    return step, (theta, optimiser.init(theta))


def _loop(step, begin, x, y, batches) -> Callable:
    """A loop over batches in Python, of a step that is jitted."""
    jitted = jax.jit(step)

    def run():
        state = begin
        for batch in batches:
            state, _ = jitted(*state, x[batch], y[batch])
        return state[0]

    return run


def _bare(step, begin, x, y, batches) -> Callable:
    """One compiled scan over the batches that keeps the losses, and knows nothing of groups."""
    x, y, batches = jnp.asarray(x), jnp.asarray(y), jnp.asarray(batches)

    @jax.jit
    def scan(begin, x, y, batches):
        return jax.lax.scan(lambda state, b: step(*state, x[b], y[b]), begin, batches)

    return lambda: scan(begin, x, y, batches)[0][0]


def _pass(one: Trained, measures: int) -> Callable:
    pulls = jax.random.normal(jax.random.key(1), (measures, one.objective.p), one.flat.dtype)
    return lambda: reverse(one.course, one.objective.weights, pulls, 0)


def _torch(one: Trained, case: _Case, x, y, batches) -> Worker:
    """The same steps in torch, from the same theta."""
    rates = np.asarray(_rate(len(batches))(jnp.arange(len(batches))), np.float32)
    widths = np.array([x.shape[1], case.hidden, 10])
    problem = {
        "x": x, "y": y, "batches": batches, "rates": rates, "decay": case.decay,
        "widths": widths, "tanh": case.tanh, "start": np.asarray(one.start, np.float32),
    }  # fmt: skip
    return Worker("torch_network", "torch", problem)
