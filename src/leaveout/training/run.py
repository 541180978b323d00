"""What a training was: everything that repeats it bit for bit, hashes that prove it, its file."""

import dataclasses
import json
import os
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PyTree

from leaveout.fitting.fitted import Fit
from leaveout.objectives.networks import Network
from leaveout.runtime.files import read_npz, write_npz
from leaveout.runtime.hashes import of_arrays, of_program
from leaveout.runtime.options import check_integer, check_is
from leaveout.runtime.sharding import devices, entry_point, on_host, to_host
from leaveout.runtime.solution import SolveError
from leaveout.runtime.text import shortened, warn
from leaveout.training.loop import Course, block, trained
from leaveout.training.recipe import Optimiser, Recipe, singular_at_zero

__all__ = ["Run", "Trained", "load_run", "refuse_rough", "replayed", "train"]

_ARRAYS = ("text", "theta", "losses", "key", "starts", "ends", "orders")
_WIDE = 256  # lanes of a block on an accelerator


class Trained(Fit):
    """The end of one training: a theta with the way to it, and no claim of an optimum.

    Attributes:
        start: (p) where it began.
        batches: (t b) the examples of every step.
        recipe: how it was trained.
        width: lanes of a block.
    """

    start: Float[Array, "p"] = eqx.field(kw_only=True)
    batches: Int[Array, "t b"] = eqx.field(kw_only=True)
    recipe: Recipe = eqx.field(static=True, kw_only=True)
    width: int = eqx.field(static=True, kw_only=True)

    @property
    def course(self) -> Course:
        """The training, but for what leaves."""
        assert isinstance(self.objective, Network)  # `train` saw to it
        return Course(self.objective, self.recipe, self.start, self.batches)

    def without(self, v: Float[Array, "g n"]) -> Float[Array, "g p"]:
        """Theta trained with v (g n), what each example gets, block after block."""
        return _in_blocks(self.course, v, self.width)[0]


def _in_blocks(course: Course, v: Float[Array, "g n"], width: int):
    """`block` for any number of lanes: the last block is filled up, its program stays the same.

    On processors blocks go side by side, a thread a core: a small training keeps one busy.
    """
    count = len(v)
    filled = jnp.concatenate([v, jnp.repeat(v[-1:], -count % width, axis=0)])
    blocks = [filled[at : at + width] for at in range(0, len(filled), width)]

    def one(part):
        return to_host(block(course, part))

    found = [one(blocks[0])]  # compiles, once
    threads = _threads()
    if threads > 1 and len(blocks) > 2:
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(threads) as pool:
            found += pool.map(_as_here(one), blocks[1:])
    else:
        found += map(one, blocks[1:])
    theta, losses = (np.concatenate(each)[:count] for each in zip(*found, strict=True))
    return jnp.asarray(theta), jnp.asarray(losses)


def _threads() -> int:
    """Blocks that are trained side by side."""
    return (os.cpu_count() or 1) if on_host() and devices() == 1 else 1


def _as_here(function: Callable) -> Callable:
    """A function for other threads, run with the precisions in force in this one.

    JAX keeps those of a `with` for the thread that entered it.
    """
    wide = bool(getattr(jax.config, "jax_enable_x64", False))
    products = getattr(jax.config, "jax_default_matmul_precision", None)

    def call(part):
        with jax.enable_x64(wide), jax.default_matmul_precision(products):
            return function(part)

    return call


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Run:
    """What training did, and everything that repeats it bit for bit.

    Attributes:
        objective: the network and its data.
        recipe: how it was trained.
        theta: (s p) at the end, a row a seed; no optimum is claimed. `tree` makes models of them.
        losses: (s t) the value whose gradient each step followed.
        key: of the first seed's start and order; those of seed k are `fold_in(key, k)`.
        width: lanes that are trained together in a block.
        marks: hashes: of the program, the data, and of each seed's start, order and end.
        versions: of what computed it.

    Example:
        >>> import optax
        >>> def init(key):
        ...     return {"w": jax.random.normal(key, (3,))}
        >>> net = lo.network(init, lo.losses.logistic, (x, y), apply=lambda p, x: x @ p["w"])
        >>> run = lo.train(net, lo.Recipe(optax.sgd(0.1), steps=6, batch=8), key=jax.random.key(0))
        >>> run.seeds, run.theta.shape, run.losses.shape
        (1, (1, 3), (1, 6))
    """

    objective: Network
    recipe: Recipe
    theta: Float[Array, "s p"]
    losses: Float[Array, "s t"]
    key: Key[Array, ""]
    width: int
    marks: dict[str, str | list[str]]
    versions: dict[str, str]

    def __repr__(self) -> str:
        last = np.asarray(self.losses)[:, -1]
        return (
            f"Run({self.seeds} seeds x {self.recipe.steps:,} steps of "
            f"{self.recipe.batch} examples, {self.objective.p:,} parameters, {self.theta.dtype}; "
            f"last value {last.mean():.4g})"
        )

    @property
    def seeds(self) -> int:
        """How many trainings there are."""
        return len(self.theta)

    @property
    def batches(self) -> Int[Array, "s t b"]:
        """The examples of every step."""
        return jnp.stack([self.at(seed).batches for seed in range(self.seeds)])

    def tree(self, seed: int = 0) -> PyTree:
        """The model of a seed."""
        return self.objective.tree(self.theta[seed])

    def at(self, seed: int) -> Trained:
        """One of its trainings, for methods."""
        start, batches = _drawn(self.objective, self.recipe, self.key, seed)
        unknown = jnp.full((), jnp.nan, self.theta.dtype)
        return Trained(
            self.objective, self.theta[seed], None, unknown, unknown,
            jnp.asarray(self.recipe.steps, jnp.int32), jnp.zeros((), jnp.int8),
            start=start, batches=batches, recipe=self.recipe, width=self.width,
        )  # fmt: skip

    def save(self, path) -> None:
        """Write numbers, key and hashes to an .npz file, whole or not at all, without pickle.

        The objective and the recipe are code: give them again to `lo.load`.

        Raises:
            FileNotFoundError: if there is no such folder.
        """
        text = {
            "recipe": self.recipe.plain(), "width": self.width, "versions": self.versions,
            "impl": str(jax.random.key_impl(self.key)), "dtype": str(self.theta.dtype),
            "program": self.marks["program"], "data": self.marks["data"],
        }  # fmt: skip
        arrays = {
            "text": np.array(json.dumps(text)),
            "theta": np.asarray(self.theta),
            "losses": np.asarray(self.losses),
            "key": np.asarray(jax.random.key_data(self.key)),
            **{name: np.array(self.marks[name], str) for name in ("starts", "orders", "ends")},
        }
        write_npz(path, "run", arrays)


@entry_point
def train(
    objective: Network,
    recipe: Recipe,
    *,
    key: Key[Array, ""],
    seeds: int = 1,
    width: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Run:
    """Train a network from several starts, so that it can be trained again without a group.

    Of seed k start and batches are those of `fold_in(key, k)`, whatever the number of seeds.

    Args:
        objective: from `lo.network`.
        recipe: optimiser, steps, batch, what removal means.
        key: random key.
        seeds: how many trainings.
        width: lanes that a block trains together; default 1 on processors, 256 on accelerators.
            A run is repeated bit for bit in blocks of the same width.
        progress: called with 1 after each seed.

    Returns:
        a `Run`: `theta (s p)`, `losses (s t)`, and what a replay needs.

    Raises:
        ValueError: for another objective, a batch larger than n.
        SolveError: if a training ends in NaN or infinity.

    Example:
        >>> import optax
        >>> def init(key):
        ...     return {"w": jax.random.normal(key, (3,))}
        >>> net = lo.network(init, lo.losses.logistic, (x, y), apply=lambda p, x: x @ p["w"])
        >>> recipe = lo.Recipe(optax.sgd(0.1), steps=6, batch=8)
        >>> lo.train(net, recipe, key=jax.random.key(0), seeds=2).theta.shape
        (2, 3)
    """
    check_integer(seeds, "seeds")
    _check(objective, recipe)
    width = (1 if on_host() else _WIDE) if width is None else width
    check_integer(width, "width")
    key = key if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else jax.random.wrap_key_data(key)
    thetas, losses = [], []
    for seed in range(seeds):
        theta, loss = _once(Course(objective, recipe, *_drawn(objective, recipe, key, seed)), width)
        thetas.append(theta)
        losses.append(loss)
        if progress is not None:
            progress(1)
    theta = np.stack(thetas)
    _refuse_diverged(theta)
    marks = _marks(objective, recipe, key, theta)
    found = jnp.asarray(theta), jnp.asarray(np.stack(losses))
    return Run(objective, recipe, *found, key, width, marks, _versions())


def _once(course: Course, width: int) -> tuple[np.ndarray, np.ndarray]:
    """One training on everything, as the first lane of a block."""
    theta, losses = _in_blocks(course, course.objective.weights[None], width)
    return np.asarray(theta)[0], np.asarray(losses)[0]


def _check(objective: Network, recipe: Recipe) -> None:
    if not isinstance(objective, Network):
        raise ValueError(
            f"expected an objective from lo.network, got {type(objective).__name__}; models that "
            "are solved to an optimum go to lo.fit"
        )
    check_is(recipe, Recipe, "a recipe as lo.Recipe(...)")
    if recipe.batch > objective.n:
        raise ValueError(
            f"expected a batch of at most n = {objective.n:,} examples, got {recipe.batch:,}"
        )


def _drawn(objective: Network, recipe: Recipe, key, seed: int):
    """Start (p) and batches (t b) of a seed."""
    first, second = jax.random.split(jax.random.fold_in(key, seed))
    return objective.drawn(first), recipe.batches(second, objective.n)


def _refuse_diverged(theta: np.ndarray) -> None:
    bad = np.flatnonzero(~np.isfinite(theta).all(axis=1))
    if bad.size:
        raise SolveError(
            f"training ended in NaN or infinity for {bad.size} of {len(theta)} seeds "
            f"({shortened(bad.tolist())}): lower the learning rate, or look at the data"
        )


# ---- proof that a replay is one ------------------------------------------------------------------


def _marks(objective: Network, recipe: Recipe, key, theta) -> dict[str, str | list[str]]:
    """All hashes of a run."""
    drawn = [_drawn(objective, recipe, key, seed) for seed in range(len(theta))]
    return {
        "program": _program(objective, recipe),
        "data": _data(objective),
        "starts": [of_arrays([start]) for start, _ in drawn],
        "orders": [of_arrays([order]) for _, order in drawn],
        "ends": [of_arrays([row]) for row in theta],
    }


def _data(objective: Network) -> str:
    return of_arrays(jax.tree.leaves((objective.examples, objective.l2, objective.penalised)))


def _program(objective: Network, recipe: Recipe) -> str:
    """A hash of the structure of the code: what JAX writes down of network, loss and optimiser."""
    arrays, rest = eqx.partition(objective, eqx.is_array)
    batches = jnp.zeros((recipe.steps, recipe.batch), jnp.int32)

    def course(arrays, start, batches, v):
        whole = Course(eqx.combine(arrays, rest), recipe, start, batches)
        return trained(whole, v, v != 0)

    arguments = arrays, objective.start, batches, objective.weights
    return of_program(course, *arguments, beside=str(recipe.plain()))


def _versions() -> dict[str, str]:
    """What computed: whatever can change bits."""
    import optax

    return {
        "jax": jax.__version__,
        "optax": optax.__version__,
        "device": jax.devices()[0].device_kind,
        "precision": str(getattr(jax.config, "jax_default_matmul_precision", None)),
    }


def replayed(run: Run, seed: int, exact: bool = True) -> tuple[Trained, str | None]:
    """A seed's training done again, and a sentence where that gave other bits.

    Raises:
        ValueError: where it did, unless it may.
    """
    one = run.at(seed)
    theta, _ = _once(one.course, one.width)
    found, ends = of_arrays([theta]), run.marks["ends"]
    here = eqx.tree_at(lambda t: t.flat, one, jnp.asarray(theta))
    if found == ends[seed]:
        return here, None
    apart = float(np.abs(theta - np.asarray(one.flat)).max())
    told = (
        f"training seed {seed} again gives another theta (hash {found}, the run's is "
        f"{ends[seed]}; they differ by up to {apart:.1e}): it was computed with {run.versions}, "
        f"this is {_versions()}"
    )
    if exact:
        raise ValueError(
            f"{told}; give the method exact=False to start from the theta that is found here"
        )
    note = "the run was trained anew here, and is not the saved one bit for bit"
    return here, note


def refuse_rough(optimiser: Optimiser, theta: PyTree) -> None:
    """Refuse an optimiser through which no derivative goes.

    Raises:
        ValueError: with the remedy.
    """
    if singular_at_zero(optimiser, theta):
        raise ValueError(
            "this optimiser has no derivative where a gradient is 0 (the root of Adam's second "
            "moment), so there is no metagradient of it: train with eps_root > 0, such as "
            "optax.adam(rate, eps_root=1e-6)"
        )


# ---- files ---------------------------------------------------------------------------------------


def load_run(path, objective: Network, recipe: Recipe, *, exact: bool = True) -> Run:
    """A run from its file: code is given again, numbers, key and hashes come from the file.

    Args:
        path: of the file.
        objective: made again, as when the run was trained.
        recipe: likewise.
        exact: refuse code that JAX writes down otherwise than then.

    Raises:
        ValueError: for other data, another recipe or other code; if the file is damaged.
    """
    _check(objective, recipe)
    file = read_npz(path, "run", _ARRAYS)
    try:
        text = json.loads(str(file["text"]))
        key = jax.random.wrap_key_data(jnp.asarray(file["key"]), impl=_impl(text["impl"]))
        theta, losses, width = file["theta"], file["losses"], int(text["width"])
        marks = {name: [str(one) for one in file[name]] for name in ("starts", "orders", "ends")}
        if theta.ndim != 2 or losses.shape != (len(theta), recipe.steps):
            raise ValueError(f"theta has shape {theta.shape}, losses {losses.shape}")
        if [of_arrays([row]) for row in theta] != marks["ends"]:
            raise ValueError("theta is not the one whose hash it holds")
        told = {"program": str(text["program"]), "data": str(text["data"]), **text["recipe"]}
        versions = {str(name): str(value) for name, value in text["versions"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} is damaged, or of another recipe: {error}") from error
    _refuse_other_code(told, objective, recipe, exact)
    every = {**marks, "program": told["program"], "data": told["data"]}
    found = jnp.asarray(theta), jnp.asarray(losses)
    return Run(objective, recipe, *found, key, width, every, versions)


def _impl(name: str) -> str:
    """The name of a kind of random keys, as JAX takes it."""
    return name.split("'")[1] if "'" in name else name


def _refuse_other_code(told: dict, objective: Network, recipe: Recipe, exact: bool) -> None:
    """Refuse data, settings and code that are not those of the file."""
    here = {"program": _program(objective, recipe), "data": _data(objective), **recipe.plain()}
    other = [name for name in here if here[name] != told.get(name)]
    if not other:
        return
    name = next((one for one in other if one != "program"), "program")
    what = {
        "data": "the data, weights or penalty of this objective are",
        "program": "the code (network, loss, optimiser and schedule, or the JAX beneath) is",
    }.get(name, f"{name} of this recipe is")
    sentence = f"{what} not what the run was trained with: {here[name]}, the file has {told[name]}"
    if name != "program" or exact:
        more = "; exact=False takes it all the same" if name == "program" else ""
        raise ValueError(f"{sentence}{more}")
    warn(sentence)
