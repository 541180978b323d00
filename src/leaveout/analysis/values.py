"""The container: values of groups, with the coalitions that they come from; and its file."""

import dataclasses
import json
from typing import Any

import numpy as np

from leaveout.analysis.coalitions import Contents, Trained, coalition_names, left_out
from leaveout.analysis.games import Banzhaf, Beta, Semivalue, Shapley, Table, estimated
from leaveout.attribution.container import Effects
from leaveout.attribution.stream import first_failure
from leaveout.groups import Groups
from leaveout.runtime.extras import needed
from leaveout.runtime.files import read_npz, write_npz, write_parquet
from leaveout.runtime.solution import Status
from leaveout.runtime.text import aligned

__all__ = ["Game", "Values", "check_semivalue", "read", "reckoned", "written"]

_KINDS = {"Shapley": Shapley, "Banzhaf": Banzhaf, "Beta": Beta}
_PLAYERS = "players_"  # before the names of what a file holds of the groups
_PARTS = ("worth", "status", "residual", "steps", "given")


@dataclasses.dataclass(frozen=True, eq=False)
class Game:
    """Who plays, and what is asked of their coalitions.

    Attributes:
        groups: the players.
        columns: (m) names of the columns.
        measure: (m) name of the measure each column belongs to.
        whole: (m) f(everybody).
        method: name of that by which coalitions are trained.
        contents: what the players hold.
        key: (k) the seed of the draws.
    """

    groups: Groups
    columns: tuple[str, ...]
    measure: tuple[str, ...]
    whole: np.ndarray
    method: str
    contents: Contents
    key: np.ndarray

    def check_same(self, other: "Game", path) -> None:
        """Refuse the file of another question.

        Raises:
            ValueError: with what is another.
        """
        mine, theirs = self.groups.arrays(), other.groups.arrays()
        same = {
            "groups": mine.keys() == theirs.keys()
            and all(np.array_equal(mine[name], theirs[name]) for name in mine),
            "columns": (self.columns, self.measure) == (other.columns, other.measure),
            "method": self.method == other.method,
            "key": np.array_equal(self.key, other.key),
        }
        same["fit"] = same["columns"] and np.allclose(self.whole, other.whole, rtol=1e-6)
        others = [name for name, equal in same.items() if not equal]
        if others:
            raise ValueError(
                f"{path} holds values of another question (other {', '.join(others)}); give "
                "another out="
            )


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Values:
    """What g groups add to m columns of a measure: f(with) - f(without), opposite to an effect.

    Attributes:
        game: the players, and what they are asked.
        value: (g m) the average of f(coalition and group) - f(coalition), in units of f.
        error: (g m) its standard error; 0 where every coalition was trained.
        alone: (g m) leave-one-in: what the group adds to nobody (or to the data in no group).
        last: (g m) leave-one-out: what it adds to everybody else.
        of: how sizes of coalitions were weighed.
        members: (c g) who is in each coalition: nobody, everybody, then each and its complement.
        trained: what was found of them, f(coalition) - f(everybody) first of all.

    Example:
        >>> found = lo.value(fit, groups, measure)
        >>> found.value.shape, found.exact, len(found.members)
        ((4, 1), True, 16)
        >>> found.under(lo.Banzhaf()).of  # nothing is trained again
        Banzhaf()
    """

    game: Game
    value: np.ndarray
    error: np.ndarray
    alone: np.ndarray
    last: np.ndarray
    of: Semivalue
    members: np.ndarray
    trained: Trained

    @property
    def groups(self) -> Groups:
        """The players."""
        return self.game.groups

    @property
    def columns(self) -> tuple[str, ...]:
        """(m) names of the columns."""
        return self.game.columns

    @property
    def whole(self) -> np.ndarray:
        """(m) f(everybody): of the model as it is."""
        return self.game.whole

    @property
    def exact(self) -> bool:
        """Whether every coalition was trained."""
        return len(self.members) == 2 ** len(self.groups)

    @property
    def status(self) -> np.ndarray:
        """(m) `Status` codes of the columns: a value rests on every coalition."""
        return first_failure(self.trained.status.T)

    @property
    def total(self) -> np.ndarray:
        """(m) f(everybody) - f(nobody): what Shapley's values add up to."""
        return -self.trained.worth[0]

    @property
    def coalitions(self) -> Effects:
        """Every coalition as a group that leaves: f(coalition) - f(everybody), in a long list."""
        trained, leaves = self.trained, left_out(self.groups, self.members)
        weights = self.game.contents.players[:, 0]
        return Effects(
            value=trained.worth,
            status=first_failure(trained.status),
            residual=trained.residual,
            steps=trained.steps,
            columns=self.columns,
            measure=self.game.measure,
            groups=leaves,
            method=self.game.method,
            column_status=trained.status,
            weight=(~self.members).astype(float) @ weights,
            notes=tuple(filter(None, [self._conventions()])),
        )

    def under(self, of: Semivalue) -> "Values":
        """The same coalitions weighed otherwise: nothing is trained.

        Raises:
            ValueError: for what is no value of games.
        """
        check_semivalue(of)
        return reckoned(self.game, self.members, self.trained, of)

    def effects(self) -> Effects:
        """Minus the values, as effects: beside those of other methods, with the same sign."""
        count = len(self.groups)
        return Effects(
            value=-self.value,
            status=np.full(count, self.status.max(), np.int8),
            residual=np.full(count, self.trained.residual.max()),
            steps=np.full(count, len(self.members), np.int32),
            columns=self.columns,
            measure=self.game.measure,
            groups=self.groups,
            method=f"minus {self.of.name}",
            column_status=np.repeat(self.status[None], count, axis=0),
            weight=self.game.contents.players[:, 0],
            error=self.error,
        )

    def order(self, column: int | str = 0) -> np.ndarray:
        """(g) the groups from the largest value to the smallest.

        Raises:
            ValueError: for a name that is not there.
        """
        return np.argsort(-self.value[:, self.at(column)], kind="stable")

    def at(self, column: int | str) -> int:
        """The position of a column, by its name too.

        Raises:
            ValueError: for a name that is not there.
        """
        if not isinstance(column, str):
            return int(column)
        if column not in self.columns:
            raise ValueError(f"unknown column {column!r}; known: {', '.join(self.columns)}")
        return self.columns.index(column)

    def table(self, column: int | str = 0, most: int = 20) -> str:
        """A plain-text table of the groups, the largest value first.

        Raises:
            ValueError: for a name that is not there.
        """
        j = self.at(column)
        star = "*" * bool(self.status[j])
        rows = [["group", "size", self.of.name, "error", "alone", "last"]]
        for i in self.order(j)[:most].tolist():
            parts = self.value, self.alone, self.last
            value, alone, last = (f"{part[i, j]:+.4g}{star}" for part in parts)
            error = "0" if self.exact else f"{self.error[i, j]:.2g}"
            size = f"{self.groups.size[i]:,}"
            rows.append([str(self.groups.names[i]), size, value, error, alone, last])
        rest = len(self.groups) - most
        more = [f"... and {rest:,} groups of smaller value"] if rest > 0 else []
        head = f"what groups add to {self.columns[j]}: f(with) - f(without)"
        return "\n".join([head, *aligned(rows, right=True), *more, *self._notes(j)])

    def _notes(self, j: int) -> list[str]:
        """What a reader of a column should know."""
        count, every_one = len(self.members), "all" if self.exact else "a sample"
        notes = [
            f"{count:,} coalitions, {every_one} of 2^{len(self.groups)}; nobody to everybody: "
            f"{self.total[j]:+.4g}"
        ]
        notes += filter(None, [self._conventions()])
        codes = self.trained.status[:, j]
        if codes.any():
            first = Status(int(codes[np.argmax(codes != 0)]))
            notes.append(f"* {np.count_nonzero(codes):,} coalitions flagged, first {first.name}")
        return notes

    def _conventions(self) -> str:
        given = self.trained.given
        names = coalition_names(self.groups, self.members[given])
        if not names.size:
            return ""
        shown = "; ".join(names[:3]) + ("; ..." if names.size > 3 else "")
        return f"by convention, as they have no minimum: {shown}"

    def __repr__(self) -> str:
        return f"Values({self.of.name}: {len(self.groups):,} groups)\n{self.table()}"

    def to_pandas(self):
        """A long pandas table: one row a group and column."""
        with needed("a table of values"):
            import pandas as pd

        g, m = self.value.shape
        return pd.DataFrame(
            {
                "group": np.repeat(self.groups.names, m),
                "kind": np.repeat(self.groups.kind, m),
                "size": np.repeat(self.groups.size, m),
                "measure": np.tile(self.game.measure, g),
                "column": np.tile(self.columns, g),
                "of": self.of.name,
                "value": self.value.reshape(-1),
                "error": self.error.reshape(-1),
                "alone": self.alone.reshape(-1),
                "last": self.last.reshape(-1),
                "status": np.tile([Status(int(code)).name for code in self.status], g),
            }
        )

    def save(self, path) -> None:
        """Write to `path`, whole or not at all.

        .npz holds everything, for `lo.Values.load`; .parquet the long table of `to_pandas`.

        Raises:
            ValueError: for a path of another ending.
            FileNotFoundError: if there is no such folder.
        """
        if str(path).endswith(".parquet"):
            write_parquet(path, self.to_pandas())
            return
        if not str(path).endswith(".npz"):
            raise ValueError(f"expected a path ending in .npz or .parquet, got {path}")
        write_npz(path, "values", written(self.game, self.members, self.trained, self.of))

    @classmethod
    def load(cls, path) -> "Values":
        """Values written by `save`, or by `lo.value(out=)` once it was finished.

        They are counted again from what the coalitions are worth.

        Raises:
            ValueError: if the file is not one of ours, is damaged, unfinished, or lacks a part.
        """
        game, members, trained, of = read(path)
        if of is None:
            raise ValueError(
                f"{path} is unfinished ({len(members):,} coalitions so far); the same call of "
                "lo.value with out= goes on with it"
            )
        return reckoned(game, members, trained, of)


def reckoned(game: Game, members, trained: Trained, of: Semivalue) -> Values:
    """The values, from what coalitions are worth."""
    table, sizes = Table(members, trained.worth), members.sum(axis=1)
    found, doubt = estimated(table, of, game.contents.traits, game.key)
    players = len(game.groups)
    alone, last = np.empty(found.shape), np.empty(found.shape)
    one, most = np.flatnonzero(sizes == 1), np.flatnonzero(sizes == players - 1)
    alone[members[one].argmax(axis=1)] = trained.worth[one] - trained.worth[0]
    last[members[most].argmin(axis=1)] = trained.worth[1] - trained.worth[most]
    return Values(
        value=found, error=doubt, alone=alone, last=last, of=of, game=game, members=members,
        trained=trained,
    )  # fmt: skip


def check_semivalue(of) -> None:
    """Refuse what is no value of games.

    Raises:
        ValueError: with what to write.
    """
    if not isinstance(of, Semivalue):
        raise ValueError(f"expected lo.Shapley(), lo.Banzhaf() or lo.Beta(a, b), got {of!r}")


# ---- files ---------------------------------------------------------------------------------------


def written(game: Game, members, trained: Trained, of: Semivalue | None) -> dict[str, np.ndarray]:
    """What a file holds; no value yet of a game that is not finished."""
    kind = None if of is None else [type(of).__name__, *vars(of).values()]
    text = {name: getattr(game, name) for name in ("columns", "measure", "method")}
    return {
        "text": np.array(json.dumps({"of": kind, **text})),
        "whole": game.whole,
        "who": members,
        "key": game.key,
        "held": game.contents.players,
        "rest": game.contents.rest,
        "classes": np.array(game.contents.classes),
        **{name: getattr(trained, name) for name in _PARTS},
        **{_PLAYERS + name: part for name, part in game.groups.arrays().items()},
    }


def read(path) -> tuple[Game, np.ndarray, Trained, Semivalue | None]:
    """The game, its coalitions, what is known of them, and of which value, if it is finished."""
    names = ("text", "whole", "who", "key", "held", "rest", "classes", *_PARTS)
    file: dict[str, Any] = read_npz(
        path, "values", (*names, *(_PLAYERS + name for name in Groups.stored()))
    )
    try:
        text = json.loads(str(file["text"]))
        of = None if text["of"] is None else _KINDS[text["of"][0]](*text["of"][1:])
        players = {
            key.removeprefix(_PLAYERS): part
            for key, part in file.items()
            if key.startswith(_PLAYERS)
        }
        groups = Groups.checked(**players)
        game = Game(
            groups=groups,
            columns=tuple(text["columns"]),
            measure=tuple(text["measure"]),
            whole=file["whole"],
            method=str(text["method"]),
            contents=Contents(file["held"], file["rest"], bool(file["classes"])),
            key=file["key"],
        )
        trained = Trained(**{name: file[name] for name in _PARTS})
        _check_stored(game, file["who"], trained)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    return game, file["who"], trained, of


def _check_stored(game: Game, members: np.ndarray, trained: Trained) -> None:
    """What a file holds fits together.

    Raises:
        ValueError: with what does not.
    """
    count, columns, players = len(members), len(game.columns), len(game.groups)
    shapes = {
        "who": (members, (count, players), "b"),
        "worth": (trained.worth, (count, columns), "f"),
        "status": (trained.status, (count, columns), "i"),
        "residual": (trained.residual, (count,), "f"),
        "steps": (trained.steps, (count,), "i"),
        "given": (trained.given, (count,), "b"),
        "whole": (game.whole, (columns,), "f"),
        "held": (game.contents.players, (players, game.contents.rest.size), "f"),
        "key": (game.key, game.key.shape[:1], "u"),
    }
    for name, (part, shape, kind) in shapes.items():
        if part.shape != shape or part.dtype.kind != kind:
            raise ValueError(f"{name} is not an array of the shape {shape}")
