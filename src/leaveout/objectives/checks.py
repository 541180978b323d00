"""A user's data, coded and checked: one clear sentence before anything is traced."""

from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jax.flatten_util import ravel_pytree
from jaxtyping import PyTree

from leaveout.objectives.layout import Linear
from leaveout.objectives.losses import Loss
from leaveout.runtime.sharding import is_traced
from leaveout.runtime.text import shortened

__all__ = [
    "check_data",
    "check_offset",
    "check_penalty",
    "check_scalar",
    "check_tree",
    "check_weights",
    "encode",
    "float_type",
    "parts",
    "same_length",
]


def float_type():
    """The precision that numbers come in: float64 if JAX has it enabled."""
    return jnp.result_type(float)


def check_data(loss: Loss, x, y, outputs):
    """Inputs as a matrix, targets coded, the classes, and the number of outputs."""
    if is_traced((x, y)):
        return jnp.asarray(x), jax.tree.map(jnp.asarray, y), None, max(outputs, 1)
    if scipy.sparse.issparse(x):
        raise ValueError(
            f"x is a sparse matrix {x.shape}; this library works on dense ones: give x.toarray()"
        )
    x = np.asarray(x)
    if x.ndim != 2 or x.dtype.kind not in "fiub":
        raise ValueError(
            f"expected x as a numeric matrix (n, d), got shape {x.shape} of {x.dtype}; "
            "give one row per example, categories one-hot coded"
        )
    if x.shape[0] < 2 or x.shape[1] < 1:
        raise ValueError(f"expected at least 2 examples and 1 feature, got x of shape {x.shape}")
    _check_finite(x, "x")
    if loss.targets == "any":
        y = jax.tree.map(np.asarray, y)
        lengths = {leaf.shape[:1] for leaf in jax.tree.leaves(y)}
        if lengths != {(x.shape[0],)}:
            raise ValueError(f"x has {x.shape[0]} rows but y has leading axes {sorted(lengths)}")
        classes, coded = None, jax.tree.map(jnp.asarray, y)
    else:
        y = np.asarray(y)
        if y.shape != (x.shape[0],):
            raise ValueError(
                f"expected y of shape ({x.shape[0]},) to go with x of shape {x.shape}, "
                f"got {y.shape}; give one target per row"
            )
        classes = _classes(y, loss)
        coded = encode(y, loss, classes)
    if loss.targets == "classes":
        outputs = len(classes or ())
    if outputs < 1:
        raise ValueError(f"outputs must be at least 1, got {outputs}")
    return jnp.asarray(x, float_type()), coded, classes, outputs


def _classes(y, loss: Loss) -> tuple | None:
    if loss.targets not in ("binary", "classes"):
        return None
    if y.dtype.kind == "f":
        _check_finite(y, "y")
    classes = tuple(
        label.item() if isinstance(label, np.generic) else label for label in np.unique(y)
    )
    if loss.targets == "binary" and len(classes) != 2:
        raise ValueError(
            f"expected two labels in y, got {len(classes)}: {shortened(classes or ())}; "
            "use lo.softmax for more than two"
        )
    if len(classes) < 2:
        raise ValueError(f"expected at least two labels in y, got only {shortened(classes or ())}")
    return classes


def encode(y, loss: Loss, classes: tuple | None):
    """Targets as the loss wants them; labels become their position in `classes`."""
    if is_traced(y):
        return y
    if loss.targets == "any":
        return jax.tree.map(jnp.asarray, y)
    y = np.asarray(y)
    if loss.targets in ("binary", "classes"):
        table = np.asarray(classes)
        codes = np.clip(np.searchsorted(table, y), 0, len(table) - 1)
        unknown = np.unique(y[table[codes] != y])
        if unknown.size:
            raise ValueError(
                f"expected labels among {shortened(classes or ())}, got "
                f"{shortened(unknown.tolist())}; use the labels the objective was made with"
            )
        return jnp.asarray(codes, float_type() if loss.targets == "binary" else jnp.int32)
    if y.dtype.kind not in "fiub":
        raise ValueError(f"expected numbers in y, got {y.dtype}")
    _check_finite(y, "y")
    if loss.targets == "counts" and (y < 0).any():
        raise ValueError(
            f"expected counts >= 0 in y, got {y.min()} in row {int(y.argmin())}; "
            "use lo.squares for targets of either sign"
        )
    return jnp.asarray(y, float_type())


def parts(examples, what: str) -> tuple[Any, Any, Any]:
    """Examples `(x, y)` or `(x, y, offset)` as these three, the offset None if there is none."""
    if not isinstance(examples, tuple | list) or len(examples) not in (2, 3):
        raise ValueError(
            f"expected the examples of {what} as (x, y), or (x, y, offset) where the model has an "
            f"offset, got one {type(examples).__name__} instead of two or three arrays"
        )
    x, y, *offset = examples
    return x, y, offset[0] if offset else None


def same_length(y: PyTree, count: int) -> bool:
    """Whether targets, an array or a PyTree of them, have one entry an example."""
    lengths = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(y)}
    return lengths == {(count,)} if not isinstance(y, list | tuple) else len(y) == count


def check_tree(data):
    """Data as arrays with their common leading axis."""
    data = jax.tree.map(lambda leaf: leaf if is_traced(leaf) else np.asarray(leaf), data)
    leaves = jax.tree.leaves(data)
    lengths = {leaf.shape[:1] for leaf in leaves}
    if len(lengths) != 1 or () in lengths:
        raise ValueError(
            f"expected arrays with a common leading axis in data, got shapes "
            f"{[leaf.shape for leaf in leaves]}; give one entry per example in each"
        )
    for path, leaf in jax.tree.leaves_with_path(data):
        if not is_traced(leaf) and leaf.dtype.kind == "f":
            _check_finite(leaf, f"data{jax.tree_util.keystr(path)}")
    return jax.tree.map(jnp.asarray, data), lengths.pop()[0]


def _check_finite(values, name):
    bad = ~np.isfinite(values)
    if bad.any():
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ValueError(
            f"{name} must be finite, but {name}{list(where)} is {values[where]} "
            f"({int(bad.sum()):,} such entries); impute or drop them first"
        )


def check_weights(weights, n, dtype):
    """Base weights (n), at least 0."""
    if weights is None:
        return jnp.ones(n, dtype)
    if is_traced(weights):
        return weights
    weights = np.asarray(weights)
    if weights.shape != (n,):
        raise ValueError(f"expected weights of shape ({n},), got {weights.shape}")
    _check_finite(weights, "weights")
    if (weights < 0).any() or not (weights > 0).any():
        raise ValueError("expected base weights >= 0, not all 0; drop the rows you do not want")
    return jnp.asarray(weights, dtype)


def check_offset(offset, n, outputs, dtype):
    """Offsets (n K), given as (n) where there is one output; None as it is."""
    if offset is None:
        return None
    given = offset if is_traced(offset) else np.asarray(offset, float)
    if np.shape(given) not in {(n, outputs), (n,) if outputs == 1 else (n, outputs)}:
        raise ValueError(
            f"expected an offset for each of {n:,} examples"
            f"{'' if outputs == 1 else f' and {outputs} scores'}, got shape {np.shape(given)}"
        )
    if not is_traced(given):
        _check_finite(given, "offset")
    return jnp.asarray(given, dtype).reshape(n, outputs)


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
        return jnp.asarray(l2, dtype), jnp.asarray(default) if falls is None else falls
    each = _per_parameter(l2, like, "l2", dtype)
    return jnp.ones((), dtype), each.astype(dtype) * (1 if falls is None else falls.astype(dtype))


def _per_parameter(given, like: PyTree, name: str, dtype):
    """One value, at least 0, for each parameter (p): booleans as they are, else numbers.

    Given flat; as a PyTree like theta, or a prefix of it; or as the weights alone of a linear
    model, in their shape or one value a feature: then its intercept has 0.
    """
    flat, _ = ravel_pytree(like)
    if isinstance(given, list | tuple) and not isinstance(like, list | tuple):
        given = np.asarray(given)
    array = isinstance(given, np.ndarray | jax.Array) and given.ndim > 0
    if array and given.shape == flat.shape:
        full = [given]
    else:
        spread = _weights_only if array and isinstance(like, Linear) else _like
        full = spread(given, like, name, flat.size)
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
        raise ValueError(_misshapen(name, like, size, given)) from error
    return jax.tree.leaves(full)


def _weights_only(given, like: Linear, name: str, size: int) -> list:
    """The values of a linear model's weights, the intercept's 0."""
    weight = np.shape(like.weight)
    if given.shape not in (weight, weight[-1:]):
        raise ValueError(_misshapen(name, like, size, f"shape {given.shape}"))
    bias = [] if like.bias is None else [jnp.zeros(np.shape(like.bias), given.dtype)]
    return [jnp.broadcast_to(given, weight), *bias]


def _misshapen(name: str, like: PyTree, size: int, given: object) -> str:
    return (
        f"expected {name} as one value, or one for each parameter, shaped like theta "
        f"({jax.tree.map(np.shape, like)}) or flat ({size},), got {given!s:.200}"
    )


def check_scalar(shape):
    """Refuse the loss of one example if its shape is not ()."""
    if not isinstance(shape, jax.ShapeDtypeStruct) or shape.shape != ():
        raise ValueError(
            f"the loss of one example must be a scalar, got {shape}; "
            "reduce it over its own entries (the library sums over examples)"
        )
