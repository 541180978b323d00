"""The container: effects of groups on measures, with what is needed to read them; and its file."""

import dataclasses
import json
from typing import Any, overload

import numpy as np

from leaveout.fitting.fitted import Fit
from leaveout.fitting.saved import load_fit
from leaveout.groups import Groups
from leaveout.objectives.abstract import AbstractObjective
from leaveout.objectives.networks import Network
from leaveout.runtime.columns import plain
from leaveout.runtime.extras import needed
from leaveout.runtime.files import (
    kind_in,
    read_npz,
    write_json,
    write_npz,
    write_parquet,
    write_text,
)
from leaveout.runtime.solution import Certificate, Status, flagged_in_words
from leaveout.training.recipe import Recipe
from leaveout.training.run import Run, load_run

__all__ = ["ROWS", "Effects", "joined", "load", "load_effects"]

_OF_GROUPS = "groups_"  # before the names of what a file holds of the groups
#: what an `Effects` holds an entry a group of
ROWS = (
    "value", "status", "residual", "steps", "lower", "upper", "certificate", "column_status",
    "weight", "theta_status", "error",
)  # fmt: skip
#: of those, what need not be there
_OPTIONAL = ("lower", "upper", "certificate", "column_status", "weight", "theta_status", "error")


def _unsaid() -> np.ndarray:
    """Codes that were not given."""
    return np.zeros((0, 0), np.int8)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Effects:
    """Effects of g groups on m columns, with what is needed to read them.

    Attributes:
        value: (g m) f(without) - f(with), in units of f.
        status: (g) `Status` codes: the worst of the columns asked about.
        residual: (g) what the changes' solves reached.
        steps: (g) iterations or evaluations they took.
        columns: (m) names of the columns.
        measure: (m) name of the measure each column belongs to.
        groups: what left.
        method: name of the method.
        lower: (g m) certified lower bounds of the effects of retraining, or None.
        upper: (g m) certified upper bounds of the effects of retraining, or None.
        certificate: (g) `Certificate` codes of the bounds, or None.
        column_status: (g m) `Status` codes of every effect on its own: what stays can leave one
            functional undetermined and determine another. Default `status` for every column.
        weight: (g) how much base weight leaves or comes, the sum of |s w|; 0 for a group that is
            not there. None where it is not known.
        theta_status: (g) `Status` codes of the changes in theta: flagged where theta is not
            determined, or runs to infinity, although the columns have their values or limits.
            Default `status`.
        notes: what a reader of any of them should know.
        error: (g m) of a run of several seeds, the standard error of the mean over them, or None.
        seeds: (s g m) of a run, the effects on each seed, of which `value` is the mean, or None.
        better: (m) 1 for a column of which more is better, -1 of which less is, 0 where that is not
            known: `Measure.better`.

    Example:
        >>> effects = lo.effects(fit, groups, measure, lo.Retrain())
        >>> effects
        Effects(actual: 4 groups x 1 columns, all converged)
        >>> effects.value.shape, effects.columns
        ((4, 1), ('mean of loss',))
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
    column_status: np.ndarray = dataclasses.field(default_factory=_unsaid)
    weight: np.ndarray | None = None
    theta_status: np.ndarray = dataclasses.field(default_factory=_unsaid)
    notes: tuple[str, ...] = ()
    error: np.ndarray | None = None
    seeds: np.ndarray | None = None
    better: tuple[int, ...] = ()

    def __post_init__(self):
        if not self.better:
            object.__setattr__(self, "better", (0,) * len(self.columns))
        each = np.repeat(np.asarray(self.status)[:, None], self.value.shape[1], axis=1)
        if self.column_status.size:  # a group that is flagged has a column that is
            known = self.column_status.any(axis=1, keepdims=True)
            each = np.where(known, self.column_status, each)
        object.__setattr__(self, "column_status", each)
        if not self.theta_status.size:
            object.__setattr__(self, "theta_status", np.asarray(self.status))

    def __repr__(self) -> str:
        state = flagged_in_words(self.status) if self.status.any() else "all converged"
        beside = int(np.count_nonzero((self.theta_status != 0) & (self.status == 0)))
        if beside:
            state += f", {beside:,} of them without one theta of their own"
        if self.certificate is not None:
            proven = int(np.count_nonzero(self.certificate == Certificate.certified))
            state += f", {proven:,} of {len(self.groups):,} certified"
        return (
            f"Effects({self.method}: {len(self.groups):,} groups x {len(self.columns)} columns, "
            f"{'; '.join((state, *self.notes))})"
        )

    def __getitem__(self, rows) -> "Effects":
        """The effects of some groups: an integer, a slice, integers, booleans (g), or names."""
        rows = self.groups.rows(rows)
        parts = {
            name: None if (part := getattr(self, name)) is None else part[rows] for name in ROWS
        }
        seeds = None if self.seeds is None else self.seeds[:, rows]
        return dataclasses.replace(self, groups=self.groups[rows], seeds=seeds, **parts)

    def of_seed(self, seed: int) -> "Effects":
        """The effects on one seed of a run: what is asked of this run, not of the algorithm.

        Raises:
            ValueError: for effects without seeds, or a seed that is not there.
        """
        if self.seeds is None or not 0 <= seed < len(self.seeds):
            count = 0 if self.seeds is None else len(self.seeds)
            raise ValueError(f"expected a seed from 0 below {count}, got {seed}")
        value = self.seeds[seed]
        return dataclasses.replace(self, value=value, seeds=value[None], error=None)

    @property
    def width(self) -> np.ndarray:
        """(g m) half the certified intervals; infinite where there are none."""
        if self.lower is None or self.upper is None:
            return np.full(self.value.shape, np.inf)
        return (self.upper - self.lower) / 2

    def to_pandas(self, *, wide: bool = False):
        """A pandas table: one row a group and column, or, wide, one row a group.

        A wide table has the effects in the columns' names, and the worst status of each group.
        """
        with needed("a table of effects"):
            import pandas as pd

        if wide:
            return pd.DataFrame(self._wide())
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
            "status": [Status(int(code)).name for code in self.column_status.reshape(-1)],
            "residual": np.repeat(self.residual, m),
            "steps": np.repeat(self.steps, m),
        }
        if self.lower is not None and self.upper is not None:
            table |= {"lower": self.lower.reshape(-1), "upper": self.upper.reshape(-1)}
        if self.certificate is not None:
            names = [Certificate(int(code)).name for code in self.certificate]
            table["certificate"] = np.repeat(names, m)
        if self.error is not None:
            table["error"] = self.error.reshape(-1)
        return pd.DataFrame(table)

    def _wide(self) -> dict[str, Any]:
        """Name to column of a table of a row a group."""
        first = {
            "group": self.groups.names,
            "kind": self.groups.kind,
            "size": self.groups.size,
            "alpha": self.groups.alpha,
        }
        effects = {name: self.value[:, j] for j, name in enumerate(self.columns)}
        clash = [name for name in effects if name in (*first, "status")]
        effects = {
            f"effect on {name}" if name in clash else name: effects[name] for name in effects
        }
        return first | effects | {"status": [Status(int(code)).name for code in self.status]}

    def to_arrow(self, *, wide: bool = False):
        """The table of `to_pandas` as a pyarrow Table."""
        with needed("an Arrow table"):
            import pyarrow as pa

        return pa.Table.from_pandas(self.to_pandas(wide=wide), preserve_index=False)

    def records(self) -> list[dict[str, Any]]:
        """The long table as a list of records that JSON can hold, None for what is no number."""
        rows = self.to_pandas().to_dict("records")
        return [{key: _plain(value) for key, value in row.items()} for row in rows]

    def to_xarray(self):
        """An xarray Dataset with dimensions group and column."""
        with needed("an array with labelled axes"):
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
            "column_status": (("group", "column"), self.column_status),
            "residual": ("group", self.residual),
            "steps": ("group", self.steps),
        }
        return xr.Dataset(variables, coordinates, {"method": self.method})

    def save(self, path) -> None:
        """Write to `path`, whole or not at all.

        .npz holds everything, for `load`; .parquet and .csv the long table of `to_pandas`, .json
        its `records`, for others.

        Raises:
            ValueError: for a path of another ending.
            FileNotFoundError: if there is no such folder.
        """
        path = str(path)
        if path.endswith(".parquet"):
            return write_parquet(path, self.to_pandas())
        if path.endswith(".csv"):
            return write_text(path, self.to_pandas().to_csv(index=False, lineterminator="\n"))
        if path.endswith(".json"):
            return write_json(path, self.records(), indent=1)
        if not path.endswith(".npz"):
            raise ValueError(f"expected a path ending in .npz, .parquet, .csv or .json, got {path}")
        names = ("columns", "measure", "method", "notes", "better")
        text = json.dumps({name: getattr(self, name) for name in names})
        rows = {name: getattr(self, name) for name in ROWS}
        arrays = {
            "text": np.array(text),
            **{name: np.asarray(part) for name, part in rows.items() if part is not None},
            **({} if self.seeds is None else {"seeds": self.seeds}),
            **{_OF_GROUPS + key: part for key, part in self.groups.arrays().items()},
        }
        return write_npz(path, "effects", arrays)


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    value = plain(value)
    return None if isinstance(value, float) and not np.isfinite(value) else value


@overload
def load(path) -> Any: ...


@overload
def load(path, *, objective: Network, recipe: Recipe, exact: bool = True) -> Run: ...


@overload
def load(path, *, objective: AbstractObjective) -> Fit: ...


def load(
    path,
    *,
    objective: AbstractObjective | None = None,
    recipe: Recipe | None = None,
    exact: bool = True,
) -> Effects | Fit | Run:
    """What `Effects.save`, `Fit.save` or `Run.save` wrote as .npz; never unpickles.

    Args:
        path: of the file.
        objective: of a run, or of a fit of your own loss, made again as it was.
        recipe: of a run, likewise; both are code, whose structure is compared with the file's.
        exact: of a run, refuse code whose structure is another.

    Returns:
        effects, or a run.

    Raises:
        ValueError: if the file is not one of ours, is damaged, or lacks a part; if objective or
            recipe are not those of the run or fit.

    Example:
        >>> lo.effects(fit, groups, measure).save("effects.npz")
        >>> lo.load("effects.npz")
        Effects(Newton: 4 groups x 1 columns, all converged)
    """
    if recipe is None and kind_in(path) == "fit":
        return load_fit(path, objective)
    if objective is None and recipe is None:
        return load_effects(path)
    if not isinstance(objective, Network) or recipe is None:
        raise ValueError("a run is loaded with both its code: lo.load(path, objective=, recipe=)")
    return load_run(path, objective, recipe, exact=exact)


def load_effects(path) -> Effects:
    """Effects written by `Effects.save` as .npz; see `load`."""
    known = ("text", "seeds", *ROWS, *(_OF_GROUPS + key for key in Groups.stored()))
    file = read_npz(path, "effects", known)
    try:
        text = json.loads(str(file["text"]))
        parts: dict[str, Any] = {
            key.removeprefix(_OF_GROUPS): part
            for key, part in file.items()
            if key.startswith(_OF_GROUPS)
        }
        groups = Groups.checked(**parts)
        rows: dict[str, Any] = {name: file.get(name) for name in ROWS}
        table, column = (len(groups), len(text["columns"])), (len(groups),)
        shapes = {name: table for name in ("value", "lower", "upper", "column_status", "error")}
        seeds = file.get("seeds")
        if seeds is not None and (seeds.shape[1:] != table or seeds.dtype.kind != "f"):
            raise ValueError(f"seeds is not an array of numbers of the shape (s, {table})")
        for name, part in rows.items():
            shape = shapes.get(name, column)
            if part is None and name in _OPTIONAL:
                continue
            if part is None or part.shape != shape or part.dtype.kind not in "fiu":
                raise ValueError(f"{name} is not an array of numbers of the shape {shape}")
        return Effects(
            **{name: part for name, part in rows.items() if part is not None},
            columns=tuple(text["columns"]),
            measure=tuple(text["measure"]),
            groups=groups,
            method=text["method"],
            notes=tuple(text.get("notes", ())),
            seeds=seeds,
            better=_senses(text.get("better", ()), len(text["columns"])),
        )
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def _senses(given, count: int) -> tuple[int, ...]:
    """What a file says of which way is better, column by column."""
    if given and (len(given) != count or not set(given) <= {-1, 0, 1}):
        raise ValueError(f"better is not -1, 0 or 1 for each of {count} columns")
    return tuple(given)


def joined(
    parts: list[Effects], groups: Groups, order: slice | np.ndarray = slice(None)
) -> Effects:
    """The effects of the parts one after the other, then put in order."""
    rows = {
        name: np.concatenate([getattr(part, name) for part in parts])[order]
        for name in ROWS
        if getattr(parts[0], name) is not None
    }
    return dataclasses.replace(parts[0], groups=groups, **rows)
