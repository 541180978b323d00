"""Fits in files: data, names and theta of a linear model; of others theta, and hashes of the rest.

Never unpickled. What is read is fitted again from its theta, which proves that it is the optimum.
"""

import json
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from leaveout.fitting.fitted import Fit
from leaveout.fitting.optimum import fit
from leaveout.objectives import losses
from leaveout.objectives.abstract import AbstractObjective
from leaveout.objectives.layout import Layout
from leaveout.objectives.linear import LinearObjective, as_linear
from leaveout.objectives.losses import Loss
from leaveout.objectives.sparse import Sparse, widened
from leaveout.objectives.steps import Steps
from leaveout.runtime.files import read_npz, write_npz
from leaveout.runtime.hashes import of_arrays, of_program
from leaveout.runtime.sharding import to_host

__all__ = ["load_fit", "save_fit"]

_PLAIN = ("y", "offset", "weights", "l2", "penalised", "fingerprint")
_SPARSE = ("data", "indices", "indptr", "shape")
_KNOWN = ("text", "flat", "x", *_PLAIN, *(f"x_{part}" for part in _SPARSE))
_NAMED = ("classes", "names", "targets")
_LABELS = (str, bool, int, float)


def save_fit(found: Fit, path) -> None:
    """Write a fit as .npz, whole or not at all: `Fit.save` says what.

    Raises:
        ValueError: for a path of another ending, or labels and names that no file can hold.
    """
    if not str(path).endswith(".npz"):
        raise ValueError(f"expected a path ending in .npz, got {path}")
    objective = found.objective
    loss, flat = getattr(objective, "loss", None), np.asarray(to_host(found.flat))
    text: dict[str, object] = {"status": int(to_host(found.status))}
    if objective.linear_layout is None or not _of_shelf(loss):
        text |= {"program": _program(objective), "data": _data(objective)}
        write_npz(path, "fit", {"text": np.array(json.dumps(text)), "flat": flat})
        return
    assert isinstance(loss, Loss)
    layout, arrays = objective.linear_layout, _arrays(objective)
    text |= {"loss": loss.name, "layout": [layout.features, layout.outputs, layout.intercept]}
    for name in _NAMED:
        text[name] = _labels(getattr(objective, name), name)
    steps = as_linear(objective).steps
    if steps is not None:  # which are code
        text["steps"] = [_labels(steps.takes, "names"), _labels(steps.gives, "names")]
    write_npz(path, "fit", {"text": np.array(json.dumps(text)), "flat": flat, **arrays})


def _of_shelf(loss: object) -> bool:
    """Whether a loss is one of ours, which its name says wholly."""
    return any(loss is getattr(losses, name) for name in losses.__all__)


def _arrays(objective: AbstractObjective) -> dict[str, np.ndarray]:
    """Everything of a linear model that is an array."""
    given = {name: getattr(objective, name) for name in _PLAIN}
    arrays = {name: np.asarray(to_host(part)) for name, part in given.items() if part is not None}
    x = as_linear(objective).x
    if not isinstance(x, Sparse):
        return arrays | {"x": np.asarray(to_host(x))}
    rows = x.host()
    parts = (rows.data, rows.indices, rows.indptr, np.array(rows.shape))
    return arrays | {f"x_{name}": part for name, part in zip(_SPARSE, parts, strict=True)}


def _labels(given: tuple | None, what: str) -> list | None:
    """Labels or names as JSON gives them back.

    Raises:
        ValueError: for others than texts, numbers and booleans.
    """
    if given is not None and not all(type(label) in _LABELS for label in given):
        kinds = sorted({type(label).__name__ for label in given})
        raise ValueError(
            f"a file holds {what} that are texts, numbers or booleans, got {', '.join(kinds)}; "
            "make them text before the fit"
        )
    return None if given is None else list(given)


def load_fit(path, objective: AbstractObjective | None = None) -> Fit:
    """A fit by `Fit.save`, fitted again from its theta.

    Args:
        path: of the file.
        objective: made again as it was, of one that the file does not hold.

    Raises:
        ValueError: for a file that is damaged or in another precision; without an objective where
            one is needed; for one of other data or code.
        SolveError: if its theta is not the optimum of what it holds.
    """
    file = read_npz(path, "fit", _KNOWN)
    flat = file.get("flat")
    if flat is not None and flat.dtype == np.float64 and not jax.config.read("jax_enable_x64"):
        raise ValueError(
            f"{path} holds a fit in float64; call jax.config.update('jax_enable_x64', True) first"
        )
    try:
        text = json.loads(str(file["text"]))
        good = int(text["status"]) == 0
        kept = None if "program" in text else _objective(text, file)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if kept is None:
        kept = _given_again(path, text, objective)
    return fit(kept, theta=flat, throw=good)


def _objective(text, file) -> LinearObjective:
    """The linear model that the file holds."""
    features, outputs, intercept = text["layout"]
    layout = Layout(int(features), int(outputs), bool(intercept))
    x, n = _inputs(file), len(file["weights"])
    shapes = {"flat": (layout.size,), "penalised": (layout.size,), "weights": (n,), "l2": (),
              "offset": (n, layout.outputs)}  # fmt: skip
    for name, shape in shapes.items():
        if name in file and file[name].shape != shape:
            raise ValueError(f"{name} has shape {file[name].shape}, not {shape}")
    if x.shape != (n, layout.features) or len(file["y"]) != n:
        raise ValueError(f"x has shape {x.shape}, y {file['y'].shape}")
    parts: dict[str, Any] = {n: jnp.asarray(file[n]) for n in _PLAIN[:-1] if n in file}
    labels: dict[str, Any] = {
        name: None if text[name] is None else tuple(text[name]) for name in _NAMED
    }
    return LinearObjective(
        design=widened(x, layout.intercept),
        layout=layout,
        loss=_loss(str(text["loss"])),
        offset=parts.pop("offset", None),
        fingerprint=file.get("fingerprint"),
        steps=_steps(text.get("steps")),
        **parts,
        **labels,
    )


def _steps(stored: list | None) -> Steps | None:
    """What is known of the steps before the model without their code: names."""
    if stored is None:
        return None
    takes, gives = (None if names is None else tuple(names) for names in stored)
    return Steps(takes, gives, None)


def _inputs(file):
    """The inputs, as arrays or sparse rows."""
    if "x" in file:
        return jnp.asarray(file["x"])
    from scipy.sparse import csr_array

    data, indices, indptr, shape = (file[f"x_{part}"] for part in _SPARSE)
    rows = csr_array((data, indices, indptr), tuple(int(size) for size in shape))
    rows.check_format()
    return Sparse.of(rows, jnp.asarray(file["flat"]).dtype)


def _loss(name: str) -> Loss:
    """A loss of the shelf by its name.

    Raises:
        ValueError: if there is none.
    """
    found = getattr(losses, name, None)
    if name not in losses.__all__ or not isinstance(found, Loss):
        raise ValueError(f"it names a loss {name!r}, which is none of ours")
    return found


# ---- code that is given again --------------------------------------------------------------------


def _given_again(path, text, objective: AbstractObjective | None) -> AbstractObjective:
    """An objective whose code and data are those of the file.

    Raises:
        ValueError: if there is none, or they are others.
    """
    if objective is None:
        raise ValueError(
            f"{path} holds a fit of your own loss, which is code: give the objective again, "
            "lo.load(path, objective=objective)"
        )
    if _data(objective) != text["data"]:
        raise ValueError(f"the data, weights or penalty of this objective are not those of {path}")
    if _program(objective) != text["program"]:
        raise ValueError(
            f"the loss of this objective is not the one of {path} (or JAX writes it down "
            "otherwise); lo.fit(objective, theta=) takes a theta all the same"
        )
    return objective


def _data(objective: AbstractObjective) -> str:
    """A hash of all arrays of an objective."""
    return of_arrays(jax.tree.leaves((objective.examples, objective.l2, objective.penalised)))


def _program(objective: AbstractObjective) -> str:
    """A hash of what JAX writes down of the losses, and of the arrays that they hold."""
    arrays, rest = eqx.partition(objective, eqx.is_array)

    def values(arrays, theta):
        return eqx.combine(arrays, rest).losses(theta)

    return of_program(values, arrays, objective.initial())
