"""An objective whose examples lie over the devices of a mesh."""

from typing import TypeVar

import equinox as eqx
import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from leaveout.objectives.abstract import AbstractObjective
from leaveout.objectives.networks import Network
from leaveout.runtime.sharding import AXES

__all__ = ["shard"]

_Objective = TypeVar("_Objective", bound=AbstractObjective)


def shard(objective: _Objective, mesh: Mesh | None = None) -> _Objective:
    """The objective with its examples spread over the devices of a mesh.

    Fit it, or train it, and call the verbs and `effects` as ever:
    `lo.fit(lo.shard(objective, mesh))`. Each device of the axis "data" holds n / data examples;
    along "groups" they are repeated, and batches of groups are spread. Where n does not divide, the
    last example is repeated with base weight 0; groups made for the n examples before serve all the
    same, and w of a measure f(theta, w) has the length that the objective has now, zeros at its
    end. Of a network the lanes of a block are spread over "groups": train it with `width=` a
    multiple of them.

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
        ValueError: if it is not an objective, if its inputs are sparse, for a mesh of other axes,
            or where the examples of a network do not divide: its batches are drawn from all n.

    Example:
        >>> mesh = jax.make_mesh((1,), ("data",))
        >>> lo.fit(lo.shard(objective, mesh)).flat.shape
        (4,)
    """
    if not isinstance(objective, AbstractObjective):
        raise ValueError(
            f"expected an objective such as lo.logistic(x, y, l2=1.0), got "
            f"{type(objective).__name__}; shard it first, then fit"
        )
    if objective.sparse:
        raise ValueError(
            "sparse inputs are not spread over devices; give x.toarray() where there is room for "
            "it, or fit on one device"
        )
    mesh = _checked(mesh)
    parts = mesh.shape.get("data", 1)
    more = -objective.n % parts
    if more and isinstance(objective, Network):
        raise ValueError(
            f"batches of a network are drawn from its n = {objective.n:,} examples, which "
            f"{parts} devices do not divide: leave {objective.n % parts} out, or spread groups "
            'alone, jax.make_mesh((devices,), ("groups",))'
        )
    rows = PartitionSpec("data") if "data" in mesh.shape else PartitionSpec()

    def longer(leaf):
        return np.concatenate([leaf, np.repeat(np.asarray(leaf[-1:]), more, axis=0)])

    def put(leaf, spec):
        if not eqx.is_array(leaf):
            return leaf
        leaf = np.asarray(leaf)
        sharding = NamedSharding(mesh, spec)
        return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])

    weights = put(np.pad(np.asarray(objective.weights), (0, more)), rows)
    examples = jax.tree.map(lambda leaf: put(longer(leaf), rows), objective.examples)
    bare = eqx.tree_at(lambda o: o.examples, objective, jax.tree.map(lambda _: 0, examples))
    rest = jax.tree.map(lambda leaf: put(leaf, PartitionSpec()), bare)
    placed = eqx.tree_at(lambda o: o.examples, rest, examples)
    return eqx.tree_at(lambda o: o.weights, placed, weights)


def _checked(mesh: Mesh | None) -> Mesh:
    if mesh is None:
        mesh = jax.make_mesh((jax.device_count(),), ("data",))
    if not isinstance(mesh, Mesh) or not set(mesh.axis_names) <= set(AXES):
        raise ValueError(
            'expected a mesh with axes named "groups" and "data", such as '
            f'jax.make_mesh((2, 4), ("groups", "data")), got {mesh!r}'
        )
    return Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * mesh.devices.ndim)
