"""A user's data, coded and checked: one clear sentence before anything is traced."""

import pickle
import sys
import types

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jax.flatten_util import ravel_pytree
from jaxtyping import PyTree

from leaveout.objectives.losses import Loss
from leaveout.runtime.sharding import is_traced
from leaveout.runtime.text import shortened

__all__ = [
    "check_data",
    "check_l2",
    "check_penalised",
    "check_pickled",
    "check_scalar",
    "check_tree",
    "check_weights",
    "encode",
    "float_type",
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


def check_l2(l2, dtype):
    """A penalty as a scalar, at least 0."""
    if is_traced(l2):
        return jnp.asarray(l2, dtype)
    value = np.asarray(l2)
    if value.shape != () or not np.isfinite(value) or value < 0:
        raise ValueError(f"expected l2 as one finite number >= 0, got {l2!r}; it is 1 / C")
    return jnp.asarray(value, dtype)


def check_penalised(penalised, like: PyTree):
    """Booleans (p) from a flat array, or from a PyTree (prefix) of booleans."""
    flat, _ = ravel_pytree(like)
    if isinstance(penalised, (np.ndarray, jax.Array)) and penalised.shape == flat.shape:
        return jnp.asarray(_booleans(penalised))
    try:
        full = jax.tree.map(
            lambda mask, part: jax.tree.map(
                lambda leaf: np.broadcast_to(_booleans(mask), np.shape(leaf)), part
            ),
            penalised,
            like,
        )
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"expected penalised as booleans shaped like theta "
            f"({jax.tree.map(np.shape, like)}) or flat ({flat.size},), got {penalised!r}"
        ) from error
    return jnp.asarray(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(full)]))


def _booleans(mask):
    """A mask, as booleans or as 0 and 1; every text would read as true."""
    mask = np.asarray(mask)
    if mask.dtype != bool and not (mask.dtype.kind in "iu" and np.isin(mask, (0, 1)).all()):
        raise ValueError(f"expected booleans, got {mask.dtype}")
    return mask.astype(bool)


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
