"""Effects: what each group's removal does to each measure, f(without) - f(with), streamed."""

import dataclasses
import json
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
import numpy as np

from leaveout.certify.balls import enclose, frame_within
from leaveout.fitting.optimum import Change, Fit, check_groups, leaving, whitened
from leaveout.groups import Groups
from leaveout.measures import as_measures
from leaveout.methods.first_order import Influence, adjoint, group_sums, squared
from leaveout.methods.group_newton import Newton
from leaveout.methods.retraining import Retrain
from leaveout.objectives.checks import is_traced
from leaveout.runtime.files import read_npz
from leaveout.runtime.memory import budget, chunks, exhausted
from leaveout.runtime.sharding import constrain, everywhere, fetch, meshed
from leaveout.runtime.solution import Certificate, Status, raise_unless_converged

__all__ = [
    "Effects",
    "Method",
    "effects",
    "joined",
    "load",
    "plan",
    "stream",
]

_FORMAT = "leaveout effects 1"
_ROWS = ("value", "status", "residual", "steps", "lower", "upper", "certificate")
# how exactly to retrain what is not narrow enough, and whether to certify by its own Hessian
_LADDER = ((1e-9, False), (1e-12, False), (1e-12, True))


@runtime_checkable
class Method(Protocol):
    """How a change in theta is found: a frozen value such as `Influence()` or `Retrain()`."""

    @property
    def name(self) -> str:
        """For tables and axes."""
        ...

    @property
    def first_order(self) -> bool:
        """Whether measures are taken to first order in the change."""
        ...

    def change(self, fit: Fit, groups: Groups, memory=None) -> Change:
        """The change in theta of every group."""
        ...


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
        lower: (g m) certified lower bounds of the effects of retraining, or None.
        upper: (g m) certified upper bounds of the effects of retraining, or None.
        certificate: (g) `Certificate` codes of the bounds, or None.
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
    certificate: np.ndarray | None = None

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
            name: None if (part := getattr(self, name)) is None else part[rows] for name in _ROWS
        }
        return dataclasses.replace(self, groups=self.groups[rows], **parts)

    @property
    def width(self) -> np.ndarray:
        """(g m) half the certified intervals; infinite where there are none."""
        if self.lower is None or self.upper is None:
            return np.full(self.value.shape, np.inf)
        return (self.upper - self.lower) / 2

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
        if self.certificate is not None:
            names = [Certificate(int(code)).name for code in self.certificate]
            table["certificate"] = np.repeat(names, m)
        return pd.DataFrame(table)

    def to_arrow(self):
        """The long table of `to_pandas` as a pyarrow Table."""
        import pyarrow as pa

        return pa.Table.from_pandas(self.to_pandas(), preserve_index=False)

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
        bounds = {name: getattr(self, name) for name in ("lower", "upper", "certificate")}
        np.savez_compressed(
            path,
            format=np.array(_FORMAT),
            text=np.array(text),
            value=self.value,
            status=self.status,
            residual=self.residual,
            steps=self.steps,
            **{f"groups_{key}": part for key, part in _group_arrays(self.groups).items()},
            **{name: part for name, part in bounds.items() if part is not None},
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
    file: Any = read_npz(path, _FORMAT)
    try:
        text = json.loads(str(file["text"]))
        groups = Groups.checked(
            n=int(file["groups_n"]),
            indices=file["groups_indices"],
            offsets=file["groups_offsets"],
            weights=file.get("groups_weights"),
            names=file["groups_names"],
            kind=file["groups_kind"],
        )
        found = Effects(
            **{name: file.get(name) for name in _ROWS},
            columns=tuple(text["columns"]),
            measure=tuple(text["measure"]),
            groups=groups,
            method=text["method"],
        )
        table, column = (len(groups), len(found.columns)), (len(groups),)
        shapes = {"value": table, "lower": table, "upper": table}
        for name in _ROWS:
            part, shape = getattr(found, name), shapes.get(name, column)
            if part is None and name in ("lower", "upper", "certificate"):
                continue
            if part is None or part.shape != shape:
                raise ValueError(f"{name} does not have the shape {shape}")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    return found


@meshed
def effects(
    fit: Fit,
    groups: Groups,
    measures: Any,
    method: Method = Newton(),
    *,
    certify: bool = False,
    tolerance: float | None = None,
    memory=None,
    throw: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Effects:
    """What each group's removal does to each measure: f(without) - f(with).

    Influence is taken to first order (unless `at_changed`, and but for measures such as accuracy
    that have no useful derivative): one solve a column and one pass over the data where the measure
    does not depend on who leaves. Newton steps and retraining evaluate
    the measure at the changed theta. Groups are streamed in chunks; peak memory does not grow with
    their number.

    Args:
        fit: the fitted objective.
        groups: what leaves.
        measures: one or a list: members of `measures`, or functions f(theta), f(theta, w) of the
            PyTree theta and the float (n) array w of what leaves, to a scalar or a vector.
        method: `Influence()`, `SecondOrder()`, `Krylov()`, `Newton()`, `NewtonChebyshev()` or
            `Retrain()`.
        certify: fill `lower` and `upper`: an interval for the effect of RETRAINING, whatever the
            method, that holds it for sure (up to the rounding described in `certificates`), and
            `certificate`, which says how good it is. Linear models whose loss states an envelope;
            predictions, losses, self-loss, linear functionals. From a retrained theta about two and
            a half products with the data a group; from an approximation a Hessian and its factor,
            n p^2 + p^3, which is mostly dearer than retraining.
        tolerance: go on with every group until half its interval is at most this share of the root
            mean square effect of each column: the group is retrained, ever more exactly, and
            `value`, `steps` and the interval are replaced; values outside their interval are moved
            to its nearer end. Implies `certify`.
        memory: bytes that working arrays may take; default a quarter of what is free.
        throw: raise if any group's solve fails; otherwise `status` says which.
        progress: called with the number of groups done, after each chunk.

    Returns:
        value (g m).
    """
    if tolerance is not None and not tolerance > 0:
        raise ValueError(f"expected a tolerance > 0, got {tolerance!r}; 1e-3 is a thousandth")
    certify = certify or tolerance is not None
    parts = []
    chunked = plan(fit, groups, memory)
    streamed = stream(fit, groups, measures, method, chunked, certify=certify, memory=memory)
    for rows, part in streamed:
        parts.append(dataclasses.replace(part, groups=groups))  # not a copy of its own
        if progress is not None:
            progress(len(rows))
    result = joined(parts, groups, np.argsort(np.concatenate(chunked)))
    if tolerance is not None:
        result = _narrowed(fit, groups, measures, result, tolerance, memory)
    if throw:
        names = [f"group {str(name)!r}" for name in groups.names]
        raise_unless_converged(result.status, result.residual, names)
    return result


def _narrowed(fit, groups: Groups, measures, effects: Effects, tolerance, memory) -> Effects:
    """The effects with every interval that is too wide replaced by one of a retrained theta."""
    hopeless = np.zeros(len(effects.columns), bool)  # measures that are never certified
    for exactness, full in _LADDER:
        goal = tolerance * np.sqrt(np.mean(effects.value**2, axis=0))
        wide = np.flatnonzero(((effects.width > goal) & ~hopeless).any(axis=1))
        if not len(wide):
            break
        some, method = groups[wide], Retrain(exactness)
        chunked = plan(fit, some, memory)
        streamed = stream(
            fit, some, measures, method, chunked, certify=True, full=full, memory=memory
        )
        for rows, part in streamed:
            for name in _ROWS:
                new, old = getattr(part, name), getattr(effects, name)
                if name == "steps":
                    new = new + old[wide[rows]]
                old[wide[rows]] = new
        hopeless = np.isinf(effects.width).all(axis=0)
    # an approximation can lie outside its own interval, which is for retraining
    return dataclasses.replace(effects, value=np.clip(effects.value, effects.lower, effects.upper))


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
    certify: bool = False,
    full: bool = False,
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
        certify: as in `effects`.
        full: certify by the Hessian of what stays even after retraining.
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
    if not isinstance(method, Method) or isinstance(method, type):
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
    framed = None
    if certify and (full or not isinstance(method, Retrain)):
        framed = frame_within(fit, budget(memory))
    most: int = max(map(len, chunked)) if length is None else length

    def answer(rows) -> Effects:
        padded = groups[np.resize(rows, most)]
        *found, change = _chunk(fit, padded, bound, method, shared, memory)
        value, status, residual, steps = (part[: len(rows)] for part in found)
        bounds = {}
        if certify:
            change = method.change(fit, padded, memory) if change is None else change
            gone = leaving(fit, padded)
            found = enclose(fit, bound, len(columns), change.value, gone, framed)
            lower, upper, code = (np.array(part[: len(rows)]) for part in fetch(found))
            bounds = {"lower": lower, "upper": upper, "certificate": code}
        if not np.isfinite(value).all():
            broken = ~np.isfinite(value).all(axis=1)
            status = np.where(broken & (status == 0), Status.nonfinite, status).astype(np.int8)
        part, name = groups[rows], method.name
        return Effects(value, status, residual, steps, columns, measure, part, name, **bounds)

    for rows in chunked:
        parts: list[Effects] = []
        left = rows
        while len(left):
            try:
                parts.append(answer(left[:most]))
            except (MemoryError, jax.errors.JaxRuntimeError) as error:
                if not exhausted(error) or most == 1:
                    raise
                warnings.warn(
                    f"memory ran out with {most:,} groups at once; going on with "
                    f"{most // 2:,}: a smaller memory= would do so from the start",
                    stacklevel=3,
                )
                most, memory = most // 2, budget(memory) // 2
                continue
            left = left[most:]
        yield rows, joined(parts, groups[rows])


def joined(parts: list[Effects], groups: Groups, order: Any = slice(None)) -> Effects:
    """The effects of the parts one after the other, then put in order."""
    rows = {
        name: np.concatenate([getattr(part, name) for part in parts])[order]
        for name in _ROWS
        if getattr(parts[0], name) is not None
    }
    return dataclasses.replace(parts[0], groups=groups, **rows)


@meshed
def _per_point(fit, bound, method):
    """For each measure: (psi (n m), residual, steps, status) where the adjoint way serves."""
    if not (isinstance(method, Influence) and method.first_order):
        return [None] * len(bound)
    return [
        None
        if m.needs_w or not m.smooth
        else fetch(adjoint(fit, _gradients(fit, m), method.solver, method.rescaled))
        for m in bound
    ]


@eqx.filter_jit
def _gradients(fit, measure):
    return everywhere(measure.gradients(fit.objective, fit.flat))


@meshed
def _chunk(fit, groups: Groups, bound, method, shared, memory):
    """Effects (g m), status, residual and steps of the groups of one chunk; the change, if any."""
    g = len(groups)
    status, residual, steps = np.zeros(g, np.int8), np.zeros(g), np.zeros(g, np.int32)
    change: Any = None  # computed once, if any measure needs it
    values = []
    for measure, part in zip(bound, shared, strict=True):
        if part is not None:
            psi, reached, taken, code = part
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
    return np.concatenate(values, axis=1), status, residual, steps, change


def _evaluate(fit, groups: Groups, measure, change: Change, method):
    w = leaving(fit, groups) if measure.needs_w else None
    how = _linearised if method.first_order and measure.smooth else _difference
    return how(fit, measure, change.value, w)


@eqx.filter_jit
def _difference(fit, measure, change, w):
    """f(theta + change) - f(theta)."""

    def one(change, w):
        new = measure.values(fit.objective, fit.flat + change, w)
        return new - measure.values(fit.objective, fit.flat, w)

    each = jax.vmap(one, in_axes=(0, None if w is None else 0))
    return everywhere(each(constrain(change, "groups"), w))


@eqx.filter_jit
def _linearised(fit, measure, change, w):
    """Grad f(theta) . change."""

    def one(change, w):
        def value(theta):
            return measure.values(fit.objective, theta, w)

        return jax.jvp(value, (fit.flat,), (change,))[1]

    each = jax.vmap(one, in_axes=(0, None if w is None else 0))
    return everywhere(each(constrain(change, "groups"), w))
