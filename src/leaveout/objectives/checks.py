"""A user's data, coded and checked: one clear sentence before anything is traced."""

import math
import pickle
import sys
import types
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import PyTree

from leaveout.objectives.layout import Linear
from leaveout.objectives.losses import Loss
from leaveout.objectives.sparse import Sparse
from leaveout.runtime.columns import (
    Column,
    as_numbers,
    codes,
    column,
    distinct,
    plain,
    refuse_text_of_missing,
)
from leaveout.runtime.memory import DENSE_COPY
from leaveout.runtime.sharding import is_traced, owned
from leaveout.runtime.tables import as_columns, as_sparse, check_finite, is_table, matrix
from leaveout.runtime.text import shortened

__all__ = [
    "check_data",
    "check_offset",
    "check_penalty",
    "check_pickled",
    "check_scalar",
    "check_tree",
    "check_weights",
    "encode",
    "float_type",
    "leading_axes",
    "parts",
    "targets",
]

_LEAST, _MOST = 1e-138, 1e150  # of the largest target: what is left of its square in float64


def float_type():
    """The precision that numbers come in: float64 if JAX has it enabled."""
    return jnp.result_type(float)


def check_data(loss: Loss, x, y, outputs):
    """Inputs as a matrix (of NumPy, if they are numbers), targets coded, classes, outputs.

    Of `outputs` 0 there are as many as there are classes, or columns of real targets.
    """
    if is_traced((x, y)):
        y = jax.tree.map(jnp.asarray, y)
        wide = outputs == 0 and loss.targets == "real" and y.ndim == 2
        return jnp.asarray(x), y, None, y.shape[1] if wide else max(outputs, 1)
    x = _inputs(x)
    if x.shape[0] < 2:
        raise ValueError(f"expected at least 2 examples, got x of shape {x.shape}")
    classes = None
    if loss.targets == "any":
        coded = encode(y, loss, None)
        lengths = {leaf.shape[:1] for leaf in jax.tree.leaves(coded)}
        if lengths != {(x.shape[0],)}:
            raise ValueError(f"x has {x.shape[0]} rows but y has leading axes {sorted(lengths)}")
    else:
        y = targets(y)
        shape = y.values.shape
        many = outputs == 0 and loss.targets == "real" and len(shape) == 2
        if shape[:1] != x.shape[:1] or (len(shape) > 1 and not many):
            raise ValueError(
                f"expected y of shape ({x.shape[0]},) to go with x of shape {x.shape}, "
                f"got {shape}; give one target per row"
            )
        classes = _classes(y, loss)
        coded = encode(y, loss, classes, shape[1:])
        if loss.targets == "real":
            _check_size(np.asarray(coded))
        if outputs == 0:
            outputs = len(classes) if classes else math.prod(shape[1:])
    if outputs < 1:
        raise ValueError(f"outputs must be at least 1, got {outputs}")
    x = x if isinstance(x, Sparse) else np.asarray(x, float_type())
    return x, coded, classes, outputs


def _inputs(x) -> np.ndarray | Sparse:
    """Inputs (n d), sparse where they come so and have more columns than rows, or are large."""
    sparse = as_sparse(x)
    if sparse is None:
        return matrix(x)
    n, d = sparse.shape
    small = d <= n and 8 * n * d <= DENSE_COPY
    return sparse.toarray() if small else Sparse.of(sparse, float_type())


def targets(y) -> Column:
    """Targets of any library: (n), or (n k) of several columns; a table of one column is one."""
    columns = as_columns(y)
    if len(columns) == 1:
        return columns[0]
    parts = [as_numbers(part) for part in columns]
    numeric = [part for part in parts if part is not None]
    if not numeric or len(numeric) < len(parts):
        raise ValueError(
            f"expected one target per row, got {len(columns)} columns that are not all numbers"
        )
    return column(np.stack(numeric, axis=1))


def _check_size(y: np.ndarray) -> None:
    """Refuse targets whose squares are no numbers: losses would be 0 or infinite for any theta."""
    largest = np.abs(y).max(axis=0, initial=0.0).astype(float)
    wrong = (largest > 0) & ~((largest > _LEAST) & (largest < _MOST))
    if wrong.any():
        raise ValueError(
            f"the largest of y is {largest[wrong].ravel()[0]:.1e}: squares of such numbers are not "
            "told from 0 or from infinity; measure y in another unit"
        )


def _classes(y: Column, loss: Loss) -> tuple | None:
    if loss.targets not in ("binary", "classes"):
        return None
    _check_labels(y)
    found, _ = distinct(y.values)
    refuse_text_of_missing(found, "the targets y")
    classes = tuple(map(plain, found))
    binary = loss.targets == "binary"
    if len(classes) < 2:
        wanted = "two" if binary else "at least two"
        raise ValueError(f"expected {wanted} labels in y, got only {shortened(classes)}")
    if binary and len(classes) > 2:
        raise ValueError(
            f"expected two labels in y, got {len(classes)}: {shortened(classes)}; "
            "use lo.softmax for more than two"
        )
    return classes


def _check_labels(y: Column) -> None:
    """Every example has a label, and a finite one."""
    if not y.there.all():
        lost = np.flatnonzero(~y.there)
        raise ValueError(
            f"y has no label in {lost.size:,} of {y.there.size:,} rows, the first of them row "
            f"{lost[0]}; drop these rows, from x as well"
        )
    if y.values.dtype.kind == "f":
        check_finite(y.values, "y")


def encode(y, loss: Loss, classes: tuple | None, shape: tuple[int, ...] = ()):
    """Targets as the loss wants them; labels become their position in `classes`.

    `shape` is that of one example's real targets.
    """
    if is_traced(y):
        return y
    if loss.targets == "any":
        y = np.asarray(y) if isinstance(y, list) and y and np.isscalar(y[0]) else y
        return jax.tree.map(lambda leaf: owned(_entries(leaf, "y")), y)
    y = y if isinstance(y, Column) else targets(y)
    if loss.targets in ("binary", "classes"):
        _check_labels(y)
        code = codes(y.values, classes or ())
        if (code < 0).any():
            unknown, _ = distinct(y.values[code < 0])
            raise ValueError(
                f"expected labels among {shortened(classes or ())}, got "
                f"{shortened(map(plain, unknown))}; "
                "use the labels the objective was made with"
            )
        kind = float_type() if loss.targets == "binary" else np.int32
        return owned(code, kind)
    values = as_numbers(y)
    if values is None:
        raise ValueError(f"expected numbers in y, got {y.values.dtype}")
    if values.shape[1:] != shape:
        raise ValueError(
            f"expected targets of shape {(len(values), *shape)}, as in training, got {values.shape}"
        )
    check_finite(values, "y")
    if loss.targets == "counts" and (values < 0).any():
        raise ValueError(
            f"expected counts >= 0 in y, got {values.min()} in row {int(values.argmin())}; "
            "use lo.squares for targets of either sign"
        )
    return owned(values, float_type())


def _entries(leaf, name: str):
    """An array of numbers (n ...) as it is, or read from a table or a column."""
    if is_traced(leaf) or isinstance(leaf, jax.Array):
        return leaf
    if is_table(leaf):
        return matrix(leaf, name)
    values = as_numbers(column(leaf))
    if values is None:
        raise ValueError(f"expected numbers in {name}, got {column(leaf).values.dtype}")
    return values


def parts(examples, what: str) -> tuple[Any, Any, Any]:
    """Examples `(x, y)` or `(x, y, offset)` as these three, the offset None if there is none.

    Raises:
        ValueError: if they are neither, or the targets are None.
    """
    several = isinstance(examples, tuple | list)
    if not several or len(examples) not in (2, 3) or examples[1] is None:
        got = type(examples).__name__
        if several:
            got = "no targets" if len(examples) in (1, 2) else f"{len(examples)} parts"
        raise ValueError(
            f"expected the examples of {what} as a pair (x, y), inputs (m, d) and as many targets, "
            f"got {got}; a model with an offset takes (x, y, offset), and "
            "lo.measures.prediction(x) needs no targets"
        )
    x, y, *offset = examples
    return x, y, offset[0] if offset else None


def leading_axes(y: PyTree) -> set[tuple[int, ...]]:
    """The leading axes of targets, each () or (m), of every part where they have several."""
    leaves = [y] if isinstance(y, list) else jax.tree.leaves(y)
    lengths = {np.shape(leaf)[:1] for leaf in leaves}
    return {(len(leaves),)} if isinstance(y, tuple) and lengths == {()} else lengths


def check_tree(data):
    """Data as arrays with their common leading axis."""
    named, treedef = jax.tree_util.tree_flatten_with_path(data)
    leaves = [_entries(leaf, f"data{jax.tree_util.keystr(path)}") for path, leaf in named]
    data = jax.tree.unflatten(treedef, leaves)
    lengths = {np.shape(leaf)[:1] for leaf in leaves}
    if len(lengths) != 1 or () in lengths:
        raise ValueError(
            f"expected arrays with a common leading axis in data, got shapes "
            f"{[np.shape(leaf) for leaf in leaves]}; give one entry per example in each"
        )
    for path, leaf in jax.tree.leaves_with_path(data):
        if not is_traced(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating):
            check_finite(np.asarray(leaf), f"data{jax.tree_util.keystr(path)}")
    return jax.tree.map(owned, data), lengths.pop()[0]


def check_weights(weights, n, dtype):
    """Base weights (n), at least 0."""
    if weights is None:
        return owned(np.ones(n, dtype))
    if is_traced(weights):
        return weights
    weights = np.asarray(_entries(weights, "weights"))
    if weights.shape != (n,):
        raise ValueError(f"expected weights of shape ({n},), got {weights.shape}")
    check_finite(weights, "weights")
    if (weights < 0).any() or not (weights > 0).any():
        raise ValueError("expected base weights >= 0, not all 0; drop the rows you do not want")
    return owned(weights, dtype)


def check_offset(offset, n, outputs, dtype):
    """Offsets (n K), given as (n) where there is one output; None as it is."""
    if offset is None:
        return None
    given = offset if is_traced(offset) else np.asarray(_entries(offset, "offset"), float)
    if np.shape(given) not in {(n, outputs), (n,) if outputs == 1 else (n, outputs)}:
        raise ValueError(
            f"expected an offset for each of {n:,} examples"
            f"{'' if outputs == 1 else f' and {outputs} scores'}, got shape {np.shape(given)}"
        )
    if not is_traced(given):
        check_finite(given, "offset")
    return owned(given, dtype).reshape(n, outputs)


def check_penalty(l2, penalised, like: PyTree, default, dtype):
    """The penalty as one number l2 (), and how heavily it falls on each parameter (p).

    Args:
        l2: a number; or one for each parameter, which is then what it falls with, and l2 is 1.
        penalised: where or how heavily it falls, or None.
        like: theta as a PyTree.
        default: (p) where a number falls if nothing is said.
        dtype: of what comes back.
    """
    falls = None if penalised is None else _per_parameter(penalised, like, "penalised", dtype)
    array = isinstance(l2, np.ndarray | jax.Array)
    if isinstance(l2, float | int | np.number) or (array and l2.ndim == 0):
        if not is_traced(l2) and not (np.isfinite(l2) and l2 >= 0):
            raise ValueError(f"expected l2 as one finite number >= 0, got {l2!r}; it is 1 / C")
        return owned(l2, dtype), owned(default) if falls is None else falls
    each = _per_parameter(l2, like, "l2", dtype)
    return jnp.ones((), dtype), each.astype(dtype) * (1 if falls is None else falls.astype(dtype))


def _per_parameter(given, like: PyTree, name: str, dtype):
    """One value, at least 0, for each parameter (p): booleans as they are, else numbers.

    Given flat; as a PyTree like theta, or a prefix of it; or as the weights alone of a linear
    model, in their shape or one value a feature: then its intercept has 0.
    """
    flat, _ = ravel_pytree(like)
    listed = isinstance(given, list | tuple) and not isinstance(like, list | tuple)
    if not np.isscalar(given) and (listed or hasattr(given, "__array__")):
        given = _entries(given, name)
    array = given if isinstance(given, np.ndarray | jax.Array) and given.ndim > 0 else None
    if array is not None and array.shape == flat.shape:
        full = [array]
    elif array is not None and isinstance(like, Linear):
        full = _weights_only(array, like, name, flat.size)
    else:
        full = _like(given, like, name, flat.size)
    plain = all(leaf.dtype == bool for leaf in full)
    joined = jnp.concatenate(
        [jnp.ravel(jnp.asarray(leaf, bool if plain else dtype)) for leaf in full]
    )
    if not is_traced(joined) and not bool(jnp.all((joined >= 0) & jnp.isfinite(joined))):
        raise ValueError(f"expected finite numbers >= 0 in {name}, got {given!r}")
    return joined


def _like(given, like: PyTree, name: str, size: int) -> list:
    """The values of a PyTree (prefix), spread over the leaves of theta."""
    try:
        full = jax.tree.map(
            lambda value, part: jax.tree.map(
                lambda leaf: jnp.broadcast_to(jnp.asarray(value), np.shape(leaf)), part
            ),
            given,
            like,
        )
    except (ValueError, TypeError) as error:
        raise ValueError(_misshapen(name, like, size, repr(given))) from error
    return jax.tree.leaves(full)


def _weights_only(given, like: Linear, name: str, size: int) -> list:
    """The values of a linear model's weights, the intercept's 0."""
    weight = np.shape(like.weight)
    if given.shape not in (weight, weight[-1:]):
        raise ValueError(_misshapen(name, like, size, f"shape {given.shape}"))
    bias = [] if like.bias is None else [jnp.zeros(np.shape(like.bias), given.dtype)]
    return [jnp.broadcast_to(given, weight), *bias]


def _misshapen(name: str, like: PyTree, size: int, given: str) -> str:
    return (
        f"expected {name} as one value, or one for each parameter, shaped like theta "
        f"({jax.tree.map(np.shape, like)}) or flat ({size},), got {given:.200}"
    )


def check_pickled(function) -> None:
    """Refuse to pickle a function of the user's that pickle would not find again by its name.

    Those that carry functions whole (cloudpickle, dill, and copies) may.

    Raises:
        PicklingError: with what to do.
    """
    if not isinstance(function, types.FunctionType):
        return
    found = sys.modules.get(function.__module__)
    for name in function.__qualname__.split("."):
        found = getattr(found, name, None)
    frame, above = sys._getframe(1), set()
    while frame is not None:
        above |= set(str(frame.f_globals.get("__name__")).split("."))
        frame = frame.f_back
    if found is not function and not above & {"cloudpickle", "copy", "dill"}:
        raise pickle.PicklingError(
            f"pickle finds functions by their names, and the loss {function.__qualname__} has none "
            "in a module: write it with def at the top of one, or use cloudpickle; or keep "
            "fit.flat, and lo.fit(objective, theta=flat) where the objective is made again"
        )


def check_scalar(shape):
    """Refuse the loss of one example if its shape is not ()."""
    if not isinstance(shape, jax.ShapeDtypeStruct) or shape.shape != ():
        raise ValueError(
            f"the loss of one example must be a scalar, got {shape}; "
            "reduce it over its own entries (the library sums over examples)"
        )
