"""More than one device: where an array should lie, and which device does what.

JAX's own machinery does the work. The objective's examples lie over a mesh with the axes "groups"
and "data" (`objectives.sharded`); the verbs then run with that mesh as JAX's current one, lay each
batch of groups over "groups", and XLA splits the products: a gradient of b groups costs one
all-reduce of (b / groups, p) numbers over "data". Answers come back whole, on every device. Without
a mesh nothing here does anything.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

__all__ = [
    "AXES",
    "at_once",
    "constrain",
    "devices",
    "entry_point",
    "in_jax",
    "is_traced",
    "on_host",
    "on_its_mesh",
    "over_lanes",
    "owned",
    "place",
    "place_all",
    "replicate",
    "rowwise",
    "settings",
    "to_host",
    "tracing",
    "whole_products",
]

AXES = ("groups", "data")
_PRECISION = "jax_default_matmul_precision"
_P = ParamSpec("_P")
_R = TypeVar("_R")
_T = TypeVar("_T")


def _mesh_of(tree: PyTree) -> Mesh | None:
    """The mesh over which any array of a tree is spread, or None."""
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, jax.Array) and not isinstance(leaf, jax.core.Tracer):
            where = leaf.sharding
            mesh = where.mesh if isinstance(where, NamedSharding) else None
            if isinstance(mesh, Mesh) and mesh.size > 1 and set(mesh.axis_names) <= set(AXES):
                return mesh
    return None


def is_traced(tree: PyTree) -> bool:
    """True if any leaf is an abstract value inside jit, grad or vmap."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))


def tracing() -> bool:
    """Whether JAX is writing a program down, as inside jit, whatever one computes with."""
    return isinstance(jnp.zeros(()), jax.core.Tracer)


def at_once() -> contextlib.AbstractContextManager:
    """Inside, what is computed with numbers that are known is known, though a program is written.

    Without that JAX would write it into the program, whatever it is computed with.
    """
    return jax.ensure_compile_time_eval() if tracing() else contextlib.nullcontext()


@contextlib.contextmanager
def in_jax(what: str) -> Iterator[None]:
    """Inside, a user's function that needs the numbers JAX's arrays stand for is told so.

    Raises:
        ValueError: in the place of JAX's report on its tracers.
    """
    try:
        yield
    except (jax.errors.JAXTypeError, jax.errors.JAXIndexError):
        raise ValueError(
            f"{what} calls NumPy, float() or an `if` on arrays that JAX differentiates; write it "
            "with jax.numpy (jnp.where in the place of `if`)"
        ) from None


def on_host() -> bool:
    """Whether JAX computes on processors, not on an accelerator."""
    return jax.default_backend() == "cpu"


def entry_point(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """A public function that computes: `on_its_mesh`, and with `whole_products`."""

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with on_its_mesh((args, kwargs)), whole_products():
            return function(*args, **kwargs)

    return call


def on_its_mesh(tree: PyTree) -> contextlib.AbstractContextManager:
    """Inside, the mesh that any array of a tree is spread over is JAX's current one."""
    mesh = _mesh_of(tree)
    return contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh)


def whole_products() -> contextlib.AbstractContextManager:
    """Inside, products of float32 are products of float32.

    Left alone, accelerators round the factors to 11 bits (TensorFloat-32) or 8 (bfloat16). A
    `jax_default_matmul_precision` of your own stays.
    """
    if on_host() or getattr(jax.config, _PRECISION) is not None:
        return contextlib.nullcontext()
    return jax.default_matmul_precision("float32")


def settings() -> tuple:
    """What a program depends on besides its arguments: precisions, and JAX's current mesh."""
    precision = getattr(jax.config, _PRECISION)
    return jax.config.read("jax_enable_x64"), precision, jax.sharding.get_abstract_mesh()


def _current() -> dict[str, int]:
    """Sizes of the axes of JAX's current mesh that are ours to lay arrays over."""
    mesh = jax.sharding.get_abstract_mesh()
    named = zip(mesh.axis_names, mesh.axis_sizes, mesh.axis_types, strict=True)
    return {name: size for name, size, kind in named if name in AXES and kind == AxisType.Auto}


def devices() -> int:
    """Devices that the data lies on: 1 without a mesh."""
    return int(np.prod(list(_current().values()), dtype=int))


def _spec(shape, axes) -> PartitionSpec:
    """What of `axes` there is, and divides its dimension."""
    sizes = _current()
    spec = []
    for length, axis in zip(shape, axes, strict=False):
        names = tuple(n for n in (axis if isinstance(axis, tuple) else (axis,)) if n in sizes)
        fits = names and length % np.prod([sizes[name] for name in names]) == 0
        spec.append(names if fits else None)
    return PartitionSpec(*spec)


def constrain(array, *axes):
    """An array inside `jit` whose leading dimensions lie over these axes; repeated over others."""
    if devices() == 1:
        return array
    return jax.lax.with_sharding_constraint(array, _spec(array.shape, axes))


def replicate(tree: _T) -> _T:
    """Arrays inside `jit`, all of them on every device."""
    return jax.tree.map(constrain, tree)


def place(values: np.ndarray, dtype, *axes) -> jax.Array:
    """An array of the host on the devices, its leading dimensions over these axes.

    Not to be written to afterwards: a processor takes it as it is where `memory.zeros` made it.
    """
    values = np.asarray(values, dtype)
    if devices() == 1:
        return jax.device_put(values)
    try:
        mesh = jax.sharding.get_mesh()
    except ValueError:  # inside jit a mesh has no devices to put anything on
        return constrain(jnp.asarray(values), *axes)
    sharding = NamedSharding(mesh, _spec(values.shape, axes))
    return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])


def place_all(tree: PyTree) -> PyTree:
    """Arrays of the host on the devices, each on all of them, in one go."""
    if devices() == 1:
        return jax.device_put(tree)
    return jax.tree.map(lambda leaf: place(leaf, leaf.dtype), tree)


def owned(values, dtype=None) -> jax.Array:
    """Numbers as an array that nobody can write to: JAX shares the memory of NumPy's as it is."""
    values = values if isinstance(values, jax.Array) else jax.device_put(np.array(values, dtype))
    return values if dtype is None else values.astype(dtype)


def to_host(tree: PyTree) -> PyTree:
    """Arrays as NumPy arrays, the whole of them in every process."""

    def one(leaf):
        if isinstance(leaf, jax.Array) and not (
            leaf.is_fully_addressable or leaf.is_fully_replicated
        ):
            from jax.experimental import multihost_utils

            return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
        return np.asarray(leaf)

    return jax.tree.map(one, tree)


def rowwise(function: Callable, whole_one, rows):
    """function(whole_one, rows) for a function of row after row: each device takes its own rows.

    XLA would bring all rows to every device where the function calls LAPACK.
    """
    if devices() == 1:
        return function(whole_one, rows)
    spec = _spec(rows.shape, ("data",))
    specs = (PartitionSpec(), spec)
    return jax.shard_map(function, in_specs=specs, out_specs=spec, check_vma=False)(whole_one, rows)


def over_lanes(prepare: Callable, solve: Callable, lanes: PyTree, batch: int | None):
    """solve(prepare(lane)) for every lane of a batch of solves, `batch` (or one) of them at a time.

    Over several devices, `prepare` may look at all the data and is done by all; its outcomes are
    dealt out, and each device solves its own, one at a time.
    """
    count, share = jax.tree.leaves(lanes)[0].shape[0], devices()
    if share == 1:
        return jax.lax.map(lambda lane: solve(prepare(lane)), lanes, batch_size=batch)
    spec = PartitionSpec(tuple(_current()))
    one_by_one = jax.shard_map(
        lambda part: jax.lax.map(solve, part), in_specs=spec, out_specs=spec, check_vma=False
    )

    def deal(lanes):
        ready = jax.tree.map(
            lambda leaf: jax.lax.with_sharding_constraint(leaf, spec), jax.lax.map(prepare, lanes)
        )
        return one_by_one(ready)

    def cut(leaf):
        filled = jnp.concatenate([leaf, jnp.repeat(leaf[:1], -count % share, axis=0)])
        return filled.reshape(-1, share, *leaf.shape[1:])

    answers = jax.lax.map(deal, jax.tree.map(cut, lanes))
    whole = replicate(answers)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:count], whole)
