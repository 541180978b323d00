"""The container: effects of groups on measures, with what is needed to read them; and its file."""

import dataclasses
import json
from typing import Any

import numpy as np

from leaveout.groups import Groups
from leaveout.runtime.files import read_npz
from leaveout.runtime.solution import Certificate, Status

__all__ = ["ROWS", "Effects", "joined", "load"]

_FORMAT = "leaveout effects 1"
#: what an `Effects` holds an entry a group of
ROWS = ("value", "status", "residual", "steps", "lower", "upper", "certificate")


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
        notes: what a reader of any of them should know.
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
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        failed = int(np.count_nonzero(self.status))
        state = "all converged" if failed == 0 else f"{failed:,} groups did not converge"
        return (
            f"Effects({self.method}: {len(self.groups):,} groups x {len(self.columns)} columns, "
            f"{'; '.join((state, *self.notes))})"
        )

    def __getitem__(self, rows) -> "Effects":
        """The effects of some groups: an integer, a slice, integers or booleans (g)."""
        rows = np.atleast_1d(np.arange(len(self.groups))[rows])
        parts = {
            name: None if (part := getattr(self, name)) is None else part[rows] for name in ROWS
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
        names = ("columns", "measure", "method", "notes")
        text = json.dumps({name: getattr(self, name) for name in names})
        bounds = {name: getattr(self, name) for name in ("lower", "upper", "certificate")}
        np.savez_compressed(
            path,
            format=np.array(_FORMAT),
            text=np.array(text),
            value=self.value,
            status=self.status,
            residual=self.residual,
            steps=self.steps,
            **{f"groups_{key}": part for key, part in self.groups.arrays().items()},
            **{name: part for name, part in bounds.items() if part is not None},
        )


def load(path) -> Effects:
    """Effects written by `Effects.save` as .npz; never unpickles.

    Raises:
        ValueError: if the file is not one of ours.
    """
    file = read_npz(path, _FORMAT)
    try:
        text = json.loads(str(file["text"]))
        prefix = "groups_"
        parts: dict[str, Any] = {
            key.removeprefix(prefix): part for key, part in file.items() if key.startswith(prefix)
        }
        groups = Groups.checked(**parts)
        rows: dict[str, Any] = {name: file.get(name) for name in ROWS}
        found = Effects(
            **rows,
            columns=tuple(text["columns"]),
            measure=tuple(text["measure"]),
            groups=groups,
            method=text["method"],
            notes=tuple(text.get("notes", ())),
        )
        table, column = (len(groups), len(found.columns)), (len(groups),)
        shapes = {"value": table, "lower": table, "upper": table}
        for name in ROWS:
            part, shape = getattr(found, name), shapes.get(name, column)
            if part is None and name in ("lower", "upper", "certificate"):
                continue
            if part is None or part.shape != shape:
                raise ValueError(f"{name} does not have the shape {shape}")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    return found


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
