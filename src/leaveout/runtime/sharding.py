"""More than one device: where the data lies, and which device does what.

JAX's own machinery does the work. `shard` places the examples over a mesh with the axes "groups"
and "data"; the verbs then run with that mesh as JAX's current one, lay each batch of groups over
"groups", and XLA splits the products: a gradient of b groups costs one all-reduce of (b / groups,
p) numbers over "data". Answers come back whole, on every device. The helpers below say where an
array should lie; without a mesh they do nothing.
"""

import contextlib
import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

__all__ = [
    "constrain",
    "devices",
    "entry_point",
    "on_host",
    "over_lanes",
    "place",
    "replicate",
    "rowwise",
    "shard",
    "to_host",
]

_AXES = ("groups", "data")
_PRECISION = "jax_default_matmul_precision"
_P = ParamSpec("_P")
_R = TypeVar("_R")
_T = TypeVar("_T")


def shard(objective: _T, mesh: Mesh | None = None) -> _T:
    """The objective with its examples spread over the devices of a mesh.

    Fit it and call the verbs and `effects` as ever: `lo.fit(lo.shard(objective, mesh))`. Each
    device of the axis "data" holds n / data examples; along "groups" they are repeated, and batches
    of groups are spread. Where n does not divide, the last example is repeated with base weight 0;
    groups made for the n examples before serve all the same, and w of a measure f(theta, w) has the
    length that the objective has now, zeros at its end.

    With several processes (`jax.distributed.initialize`) every process calls with the same
    objective and mesh, and keeps its own devices' part. Where all data does not fit on one device,
    make the objective under `jax.default_device(jax.devices("cpu")[0])`. Inside `jax.jit`, have the
    mesh current: `with jax.set_mesh(objective.weights.sharding.mesh): ...`.

    Args:
        objective: from `lo.logistic` and its kin, or an `lo.Objective`.
        mesh: devices with axes named "groups", "data" or both, for example
            `jax.make_mesh((2, 4), ("groups", "data"))`; default all devices along "data". What
            `jax.make_mesh` calls its axis types does not matter: they become `Auto`.

    Returns:
        an objective with the same J.

    Raises:
        ValueError: if it is not an objective, or for a mesh of other axes.
    """
    if not hasattr(objective, "examples"):
        raise ValueError(
            f"expected an objective such as lo.logistic(x, y, l2=1.0), got "
            f"{type(objective).__name__}; shard it first, then fit"
        )
    if mesh is None:
        mesh = jax.make_mesh((jax.device_count(),), ("data",))
    if not isinstance(mesh, Mesh) or not set(mesh.axis_names) <= set(_AXES):
        raise ValueError(
            'expected a mesh with axes named "groups" and "data", such as '
            f'jax.make_mesh((2, 4), ("groups", "data")), got {mesh!r}'
        )
    mesh = Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * mesh.devices.ndim)
    parts = mesh.shape.get("data", 1)
    objective_: Any = objective
    more = -objective_.n % parts
    rows = PartitionSpec("data") if "data" in mesh.shape else PartitionSpec()

    def longer(leaf):
        return np.concatenate([leaf, np.repeat(np.asarray(leaf[-1:]), more, axis=0)])

    def put(leaf, spec):
        if not eqx.is_array(leaf):
            return leaf
        leaf = np.asarray(leaf)
        sharding = NamedSharding(mesh, spec)
        return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])

    weights = put(np.pad(np.asarray(objective_.weights), (0, more)), rows)
    examples = jax.tree.map(lambda leaf: put(longer(leaf), rows), objective_.examples)
    bare = eqx.tree_at(lambda o: o.examples, objective_, jax.tree.map(lambda _: 0, examples))
    rest = jax.tree.map(lambda leaf: put(leaf, PartitionSpec()), bare)
    placed = eqx.tree_at(lambda o: o.examples, rest, examples)
    return eqx.tree_at(lambda o: o.weights, placed, weights)


# ---- helpers: nothing happens without a mesh -----------------------------------------------------


def _mesh_of(tree: Any) -> Mesh | None:
    """The mesh over which any array of a tree is spread, or None."""
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, jax.Array) and not isinstance(leaf, jax.core.Tracer):
            mesh = getattr(leaf.sharding, "mesh", None)
            if isinstance(mesh, Mesh) and mesh.size > 1 and set(mesh.axis_names) <= set(_AXES):
                return mesh
    return None


def on_host() -> bool:
    """Whether JAX computes on processors, not on an accelerator."""
    return jax.default_backend() == "cpu"


def entry_point(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """The function, called with the mesh that its arguments lie on as JAX's current one.

    Products of float32 are products of float32 in it: left alone, accelerators round the factors
    to 11 bits (TensorFloat-32) or 8 (bfloat16). A `jax_default_matmul_precision` of your own stays.
    """

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with contextlib.ExitStack() as stack:
            mesh = _mesh_of((args, kwargs))
            if mesh is not None:
                stack.enter_context(jax.set_mesh(mesh))
            if not on_host() and getattr(jax.config, _PRECISION) is None:
                stack.enter_context(jax.default_matmul_precision("float32"))
            return function(*args, **kwargs)

    return call


def _current() -> dict[str, int]:
    """Sizes of the axes of JAX's current mesh that are ours to lay arrays over."""
    mesh = jax.sharding.get_abstract_mesh()
    named = zip(mesh.axis_names, mesh.axis_sizes, mesh.axis_types, strict=True)
    return {name: size for name, size, kind in named if name in _AXES and kind == AxisType.Auto}


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


def replicate(tree: Any) -> Any:
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


def to_host(tree: Any) -> Any:
    """Arrays as NumPy arrays, the whole of them in every process."""

    def one(leaf):
        if isinstance(leaf, jax.Array) and not (
            leaf.is_fully_addressable or leaf.is_fully_replicated
        ):
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


def over_lanes(prepare: Callable, solve: Callable, lanes: Any, batch: int | None):
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
