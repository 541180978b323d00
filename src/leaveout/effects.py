"""Effects: what each group's removal does to each measure, f(without) - f(with), streamed."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from leaveout.fit import Change, Fit, check_groups, whitened
from leaveout.groups import Groups
from leaveout.influence import Influence, adjoint, group_sums, squared
from leaveout.inputs import is_traced
from leaveout.measures import as_measures
from leaveout.memory import budget, chunks
from leaveout.newton import Newton
from leaveout.retrain import Retrain
from leaveout.solution import Status, raise_unless_converged

__all__ = [
    "Effects",
    "effects",
    "load",
    "plan",
    "stream",
]

Method = Influence | Newton | Retrain


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Effects:
    """Effects of g groups on m columns, with what is needed to read them.

    Attributes:
        value: (g m) f(without) - f(with), in units of f.
        status: (g) `Status` codes of the changes behind them.
        residual: (g) what the changes' solves reached.
        steps: (g) iterations or evaluations they took.
        columns: (m) names of the columns.
        measure: (m) name of the measure each column belongs to.
        groups: what left.
        method: name of the method.
        lower: (g m) certified lower bounds, or None.
        upper: (g m) certified upper bounds, or None.
    """

    value: np.ndarray
    status: np.ndarray
    residual: np.ndarray
    steps: np.ndarray
    columns: tuple[str, ...]
    measure: tuple[str, ...]
    groups: Groups
    method: str
    lower: np.ndarray | None = None
    upper: np.ndarray | None = None

    def __repr__(self) -> str:
        failed = int(np.count_nonzero(self.status))
        state = "all converged" if failed == 0 else f"{failed:,} groups did not converge"
        return (
            f"Effects({self.method}: {len(self.groups):,} groups x {len(self.columns)} columns, "
            f"{state})"
        )

    def __getitem__(self, rows) -> "Effects":
        """The effects of some groups: an integer, a slice, integers or booleans (g)."""
        rows = np.atleast_1d(np.arange(len(self.groups))[rows])
        parts = {
            name: None if (part := getattr(self, name)) is None else part[rows]
            for name in ("value", "status", "residual", "steps", "lower", "upper")
        }
        return dataclasses.replace(self, groups=self.groups[rows], **parts)

    def to_pandas(self):
        """A long pandas table: one row a group and column."""
        import pandas as pd

        g, m = self.value.shape
        table = {
            "group": np.repeat(self.groups.names, m),
            "kind": np.repeat(self.groups.kind, m),
            "size": np.repeat(self.groups.size, m),
            "alpha": np.repeat(self.groups.alpha, m),
            "measure": np.tile(self.measure, g),
            "column": np.tile(self.columns, g),
            "method": self.method,
            "effect": self.value.reshape(-1),
            "status": np.repeat([Status(int(code)).name for code in self.status], m),
            "residual": np.repeat(self.residual, m),
            "steps": np.repeat(self.steps, m),
        }
        if self.lower is not None and self.upper is not None:
            table |= {"lower": self.lower.reshape(-1), "upper": self.upper.reshape(-1)}
        return pd.DataFrame(table)

    def to_xarray(self):
        """An xarray Dataset with dimensions group and column."""
        import xarray as xr

        coordinates = {
            "group": self.groups.names,
            "column": list(self.columns),
            "kind": ("group", self.groups.kind),
            "size": ("group", self.groups.size),
            "alpha": ("group", self.groups.alpha),
            "measure": ("column", list(self.measure)),
        }
        variables = {
            "effect": (("group", "column"), self.value),
            "status": ("group", self.status),
            "residual": ("group", self.residual),
            "steps": ("group", self.steps),
        }
        return xr.Dataset(variables, coordinates, {"method": self.method})

    def save(self, path) -> None:
        """Write to `path`: .npz holds everything, .parquet the long table of `to_pandas`."""
        path = str(path)
        if path.endswith(".parquet"):
            self.to_pandas().to_parquet(path, index=False)
            return
        if not path.endswith(".npz"):
            raise ValueError(f"expected a path ending in .npz or .parquet, got {path}")
        text = json.dumps({"columns": self.columns, "measure": self.measure, "method": self.method})
        bounds = {} if self.lower is None else {"lower": self.lower, "upper": self.upper}
        np.savez_compressed(
            path,
            format=np.array("leaveout effects 1"),
            text=np.array(text),
            value=self.value,
            status=self.status,
            residual=self.residual,
            steps=self.steps,
            **{f"groups_{key}": part for key, part in _group_arrays(self.groups).items()},
            **bounds,
        )


def _group_arrays(groups: Groups) -> dict[str, np.ndarray]:
    arrays = {
        "n": np.array(groups.n),
        "indices": groups.indices,
        "offsets": groups.offsets,
        "names": np.asarray(groups.names, str),
        "kind": np.asarray(groups.kind, str),
    }
    return arrays if groups.weights is None else arrays | {"weights": groups.weights}


def load(path) -> Effects:
    """Effects written by `Effects.save` as .npz; never unpickles.

    Raises:
        ValueError: if the file is not one of ours.
    """
    with np.load(path, allow_pickle=False) as file:
        if "format" not in file or str(file["format"]) != "leaveout effects 1":
            raise ValueError(f"{path} does not hold effects saved by leaveout")
        text = json.loads(str(file["text"]))
        groups = Groups(
            n=int(file["groups_n"]),
            indices=file["groups_indices"],
            offsets=file["groups_offsets"],
            weights=file["groups_weights"] if "groups_weights" in file else None,
            names=file["groups_names"],
            kind=file["groups_kind"],
        )
        return Effects(
            value=file["value"],
            status=file["status"],
            residual=file["residual"],
            steps=file["steps"],
            columns=tuple(text["columns"]),
            measure=tuple(text["measure"]),
            groups=groups,
            method=text["method"],
            lower=file["lower"] if "lower" in file else None,
            upper=file["upper"] if "upper" in file else None,
        )


def effects(
    fit: Fit,
    groups: Groups,
    measures: Any,
    method: Method = Newton(),
    *,
    memory=None,
    throw: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Effects:
    """What each group's removal does to each measure: f(without) - f(with).

    Influence is taken to first order (unless `at_changed`): one solve a column and one pass over
    the data where the measure does not depend on who leaves. Newton steps and retraining evaluate
    the measure at the changed theta. Groups are streamed in chunks; peak memory does not grow with
    their number.

    Args:
        fit: the fitted objective.
        groups: what leaves.
        measures: one or a list: members of `measures`, or functions f(theta), f(theta, w) of the
            PyTree theta and the float (n) array w of what leaves, to a scalar or a vector.
        method: `Influence()`, `Newton()` or `Retrain()`.
        memory: bytes that working arrays may take; default a quarter of what is free.
        throw: raise if any group's solve fails; otherwise `status` says which.
        progress: called with the number of groups done, after each chunk.

    Returns:
        value (g m).
    """
    parts = []
    chunked = plan(fit, groups, memory)
    for rows, part in stream(fit, groups, measures, method, chunked, memory=memory):
        parts.append(part)
        if progress is not None:
            progress(len(rows))
    back = np.argsort(np.concatenate(chunked))
    joined = {
        name: np.concatenate([getattr(part, name) for part in parts])[back]
        for name in ("value", "status", "residual", "steps")
    }
    result = dataclasses.replace(parts[0], groups=groups, **joined)
    if throw:
        names = [f"group {str(name)!r}" for name in groups.names]
        raise_unless_converged(result.status, result.residual, names)
    return result


def plan(fit: Fit, groups: Groups, memory=None) -> list[np.ndarray]:
    """The chunks in which `stream` takes the groups: of like size, as many as fit in memory.

    All of one length, give or take one, so that one shape serves them all.
    """
    check_groups(fit, groups)
    objective = fit.objective
    each = 8 * (objective.n * (objective.numbers + 2) + 8 * objective.p)
    order = np.argsort(-groups.size, kind="stable")
    return np.array_split(order, len(chunks(order, each, budget(memory), 1024)))


def stream(
    fit: Fit,
    groups: Groups,
    measures: Any,
    method: Method,
    chunked,
    *,
    length: int | None = None,
    memory=None,
) -> Iterator[tuple[np.ndarray, Effects]]:
    """Effects chunk by chunk, for callers that save as they go.

    Args:
        fit: the fitted objective.
        groups: what leaves.
        measures: as in `effects`.
        method: as in `effects`.
        chunked: arrays of positions in `groups`, from `plan`.
        length: groups to which each chunk is filled up; default that of the longest. Give that of
            the whole plan where these are some of its chunks, for the same bits.
        memory: as in `effects`.

    Yields:
        the positions, and the effects of those groups.
    """
    check_groups(fit, groups)
    if is_traced(fit):
        raise ValueError(
            "lo.effects works outside jax.jit; inside, call lo.influence, lo.newton or lo.retrain "
            "and evaluate your function at theta + change"
        )
    if not isinstance(method, Method):
        raise ValueError(
            f"expected a method such as lo.Influence(), lo.Newton() or lo.Retrain(), got {method!r}"
        )
    objective = fit.objective
    bound = tuple(m.bind(objective) for m in as_measures(measures))
    names = [m.columns(objective) for m in bound]
    columns = tuple(column for part in names for column in part)
    measure = tuple(m.name for m, part in zip(bound, names, strict=True) for _ in part)
    if not method.first_order:
        fit = whitened(fit, budget(memory))  # once for all chunks
    shared = _per_point(fit, bound, method)
    length = max(map(len, chunked)) if length is None else length
    for rows in chunked:
        padded = groups[np.resize(rows, length)]
        answer = _chunk(fit, padded, bound, method, shared, memory)
        value, status, residual, steps = (part[: len(rows)] for part in answer)
        if not np.isfinite(value).all():
            broken = ~np.isfinite(value).all(axis=1)
            status = np.where(broken & (status == 0), Status.nonfinite, status).astype(np.int8)
        part = groups[rows]
        yield rows, Effects(value, status, residual, steps, columns, measure, part, method.name)


def _per_point(fit, bound, method):
    """For each measure: (psi (n m), residual, steps, status) where the adjoint way serves."""
    if not (isinstance(method, Influence) and method.first_order):
        return [None] * len(bound)
    return [None if m.needs_w else adjoint(fit, _gradients(fit, m), method.solver) for m in bound]


@eqx.filter_jit
def _gradients(fit, measure):
    return measure.gradients(fit.objective, fit.flat)


def _chunk(fit, groups: Groups, bound, method, shared, memory):
    """Effects (g m), status, residual and steps of the groups of one chunk."""
    g = len(groups)
    status, residual, steps = np.zeros(g, np.int8), np.zeros(g), np.zeros(g, np.int32)
    change: Any = None  # computed once, if any measure needs it
    values = []
    for measure, part in zip(bound, shared, strict=True):
        if part is not None:
            psi, reached, taken, code = (np.asarray(leaf) for leaf in part)
            # a column's solve serves every group: the worst of them is what a group can claim
            code, reached, taken = code[np.argmax(code != 0)], reached.max(), taken.max()
            value = group_sums(groups, psi)
        elif measure.own and isinstance(method, Influence) and method.by_factor(fit):
            value, reached, code = squared(fit, groups, memory)
            taken = 0
        else:
            change = method.change(fit, groups, memory) if change is None else change
            value, reached, taken = change.value, change.residual, change.steps
            code, value = change.status, _evaluate(fit, groups, measure, change, method)
        values.append(np.asarray(value))
        status = np.where(status == 0, np.asarray(code), status).astype(np.int8)
        residual, steps = np.maximum(residual, reached), np.maximum(steps, taken)
    return np.concatenate(values, axis=1), status, residual, steps


def _evaluate(fit, groups: Groups, measure, change: Change, method):
    w = jnp.asarray(groups.dense(), fit.flat.dtype) if measure.needs_w else None
    how = _linearised if method.first_order else _difference
    return how(fit, measure, change.value, w)


@eqx.filter_jit
def _difference(fit, measure, change, w):
    """f(theta + change) - f(theta)."""

    def one(change, w):
        new = measure.values(fit.objective, fit.flat + change, w)
        return new - measure.values(fit.objective, fit.flat, w)

    return jax.vmap(one, in_axes=(0, None if w is None else 0))(change, w)


@eqx.filter_jit
def _linearised(fit, measure, change, w):
    """Grad f(theta) . change."""

    def one(change, w):
        def value(theta):
            return measure.values(fit.objective, theta, w)

        return jax.jvp(value, (fit.flat,), (change,))[1]

    return jax.vmap(one, in_axes=(0, None if w is None else 0))(change, w)
