"""What each natural group does: one table, and its place among random groups like it."""

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any

import numpy as np

from leaveout.analysis.cross_validation import own_losses
from leaveout.analysis.null import Null, Standing, Within, standing
from leaveout.analysis.spectrum import has_factor, leverages_by_weight
from leaveout.analysis.values import Values
from leaveout.attribution.container import Effects
from leaveout.attribution.stream import gathered, pose
from leaveout.attribution.verb import check_method
from leaveout.fitting.double import in_double
from leaveout.fitting.fitted import Fit
from leaveout.fitting.gates import admit
from leaveout.fitting.leaving import group_sums, taken_by
from leaveout.groups import Groups
from leaveout.measures import Measures, as_measures
from leaveout.methods import Influence, Method, Newton, Retrain, l2_of_groups, self_influence
from leaveout.objectives.abstract import AbstractObjective, AbstractScores
from leaveout.runtime.deprecated import instead
from leaveout.runtime.extras import needed
from leaveout.runtime.files import write_parquet
from leaveout.runtime.memory import limited
from leaveout.runtime.options import check_integer, check_is
from leaveout.runtime.sharding import entry_point
from leaveout.runtime.solution import Status, flagged_in_words
from leaveout.runtime.text import aligned

__all__ = ["Credit", "classes_of", "credit", "credited"]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Credit:
    """One row a group; see `credit`.

    Attributes:
        groups: what left.
        columns: (m) names of the columns.
        effects: name of a method to the effects (g m) of the groups.
        classes: (K) labels, or () where the targets are none.
        balance: (g K) how many points of each class leave, by weight w.
        loss: (g) the group's own loss at theta.
        self_influence: (g) influence on it, g(w)' H^-1 g(w); NaN without a factor.
        leverage: (g) parameters' worth of curvature that leaves; NaN without a factor.
        null: the place among random groups, or None.
        base: (m) the columns at theta, f(with), of which effects are changes; NaN for a column that
            depends on who leaves.
        fit: what the effects are of, or None where it is not at hand.

    Example:
        >>> found = lo.credit(fit, groups, measure, null=20)
        >>> found.columns, list(found.effects)
        (('mean of loss',), ['influence', 'Newton'])
        >>> found.to_pandas().shape
        (4, 18)
    """

    groups: Groups
    columns: tuple[str, ...]
    effects: dict[str, Effects]
    classes: tuple
    balance: np.ndarray
    loss: np.ndarray
    self_influence: np.ndarray
    leverage: np.ndarray
    null: Standing | None
    base: np.ndarray
    fit: Fit | None

    @property
    def best(self) -> Effects:
        """The effects by the method named last: the most exact, in the usual order."""
        return list(self.effects.values())[-1]

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the effects should know, by whichever method."""
        every = (note for found in self.effects.values() for note in found.notes)
        return tuple(dict.fromkeys(every))

    def to_pandas(self):
        """A pandas table, a row a group.

        Columns: group, kind, size, alpha, a count for each class, loss, self_influence, leverage;
        then for each column f of the effects: "influence on f" and "status of influence on f" (and
        each other method), the last method's "effect per example on f", "lower" and "upper" where
        certified, and "z", "percentile", "p" and "q".
        """
        with needed("a table of groups"):
            import pandas as pd

        size = self.groups.size
        table: dict[str, Any] = {
            "group": self.groups.names,
            "kind": self.groups.kind,
            "size": size,
            "alpha": self.groups.alpha,
        }
        table |= {f"class {label}": self.balance[:, k] for k, label in enumerate(self.classes)}
        table |= {
            "loss": self.loss,
            "self_influence": self.self_influence,
            "leverage": self.leverage,
        }
        for j, column in enumerate(self.columns):
            for name, each in self.effects.items():
                table[f"{name} on {column}"] = each.value[:, j]
                codes = each.column_status[:, j]
                table[f"status of {name} on {column}"] = [Status(int(c)).name for c in codes]
            table[f"effect per example on {column}"] = self._per_example(j)
            for name, each in self.effects.items():
                if each.lower is not None and each.upper is not None:
                    table[f"lower on {column}, {name}"] = each.lower[:, j]
                    table[f"upper on {column}, {name}"] = each.upper[:, j]
            if self.null is not None:
                for name in ("z", "percentile", "p", "q"):
                    table[f"{name} on {column}"] = getattr(self.null, name)[:, j]
        return pd.DataFrame(table)

    def save(self, path) -> None:
        """Write the table of `to_pandas` to a .parquet file, whole or not at all.

        Raises:
            ValueError: for a path of another ending.
            FileNotFoundError: if there is no such folder.
        """
        if not str(path).endswith(".parquet"):
            raise ValueError(f"expected a path ending in .parquet, got {path}")
        write_parquet(path, self.to_pandas())

    def order(self, column: int | str = 0) -> np.ndarray:
        """(g) the groups from the largest size of effect to the smallest.

        Raises:
            ValueError: for an unknown name.
        """
        return np.argsort(-np.abs(self.best.value[:, self.at(column)]), kind="stable")

    def table(self, column: int | str = 0, most: int = 20) -> str:
        """A plain-text table of the groups with the largest effects on one column.

        Effects whose status is not `converged` are marked by a star.

        Raises:
            ValueError: for an unknown name.
        """
        j = self.at(column)
        head = ["group", "size", "alpha", *self.effects, "per example"]
        head += self.null.head if self.null is not None else []
        rows = [head, *(self._row(i, j) for i in self.order(j)[:most].tolist())]
        rest = len(self.groups) - most
        more = [f"... and {rest:,} groups of smaller effect"] if rest > 0 else []
        lines = [f"effects on {self.columns[j]}", *aligned(rows, right=True), *more]
        return "\n".join([*lines, *self._flagged(j), *self.notes])

    def _row(self, i: int, j: int) -> list[str]:
        """A line of the table."""
        groups, null = self.groups, self.null
        row = [str(groups.names[i]), f"{groups.size[i]:,}", f"{100 * groups.alpha[i]:.2f} %"]
        for each in self.effects.values():
            row += [f"{each.value[i, j]:+.4g}" + "*" * bool(each.column_status[i, j])]
        star = "*" * bool(self.best.column_status[i, j])
        row += [f"{self._per_example(j)[i]:+.3g}{star}"]
        return row if null is None else [*row, *null.cells(i, j)]

    def _flagged(self, j: int) -> list[str]:
        """What the stars of a column mean, a line a method that has some."""
        each = {name: found.column_status[:, j] for name, found in self.effects.items()}
        return [f"* {name}: {flagged_in_words(c)}" for name, c in each.items() if c.any()]

    def __repr__(self) -> str:
        return f"Credit({len(self.groups):,} groups x {len(self.columns)} columns)\n{self.table()}"

    def _per_example(self, column: int) -> np.ndarray:
        """(g) the best effects divided by sizes; not a number for a group of nobody."""
        size = np.where(self.groups.size > 0, self.groups.size, np.nan)
        return self.best.value[:, column] / size

    def at(self, column: int | str) -> int:
        """The position of a column, from itself or from its name.

        Raises:
            ValueError: for an unknown name.
        """
        if not isinstance(column, str):
            return int(column)
        if column not in self.columns:
            raise ValueError(f"unknown column {column!r}; known: {', '.join(self.columns)}")
        return self.columns.index(column)


def _as_null(function):
    """The verb, taking the parts of `Null` as keywords of its own too, for one release."""

    @functools.wraps(function)
    def call(*args, **kwargs):
        parts = {"null_method": "method", "within": "within", "key": "key"}
        given = {new: kwargs.pop(old) for old, new in parts.items() if old in kwargs}
        if given:
            instead("credit(null_method=, within=, key=)", "credit(null=lo.Null(method=, ...))")
            within = given.get("within", Within.classes)
            if within is None or isinstance(within, str):
                given["within"] = Within.classes if within is None else Within.size
            kwargs["null"] = dataclasses.replace(_null(kwargs.get("null", Null())), **given)
        return function(*args, **kwargs)

    return call


@in_double
@_as_null
def credit(
    fit: Fit,
    groups: Groups,
    measures: Measures,
    methods: Method | Iterable[Method] = (Influence(), Newton()),
    *,
    actual: bool = False,
    l2=None,
    certify: bool = False,
    null: Null | int = Null(),
    values: Values | None = None,
    memory=None,
) -> Credit:
    """What each group does to each measure, and whether random groups like it do the same.

    The null band is of random groups of the same size and, for labels, of the same number from
    each class: groups that do not overlap are dealt out anew all together, which is a permutation
    test. It says whether a group is unlike a random set of its size, not whether it does harm.

    Args:
        fit: the fitted objective.
        groups: natural groups, say `Groups.from_labels(frame["hospital"])`.
        measures: as in `effects`.
        methods: one method or several, the most exact last.
        actual: retrain without each group too.
        l2: (g) a penalty for each group's refit, as in `effects`. Random groups are compared under
            the objective's own: to first order another one moves them by as much as the group.
        certify: certify the last method's effects (see `effects`).
        null: the random groups that they are compared with, or how many for each; 0 for none.
        values: from `lo.value` of the same groups and measures: minus them, as effects, in the
            first column.
        memory: as in `effects`.

    Returns:
        a table of the groups; `print` shows it.

    Raises:
        ValueError: for no methods, or what is no method or measure; groups of other data; a null
            that is neither a count nor a `Null`; values of other groups, measures or another model.
        SolveError: for a theta too far from its optimum.

    Example:
        >>> found = lo.credit(fit, groups, measure, actual=True, null=20)
        >>> list(found.effects), found.null.p.shape
        (['influence', 'Newton', 'actual'], (4, 1))
    """
    methods = [methods] if isinstance(methods, Method) else methods
    check_is(methods, Iterable, "methods, such as lo.Newton(), one or several")
    methods = list(methods)
    if actual and not any(method.actual for method in methods):
        methods.append(Retrain())
    if not methods:
        raise ValueError("expected at least one method, for example lo.Influence()")
    null = _null(null)
    asked = [*methods, *([] if null.method is None or null.draws == 0 else [null.method])]
    for method in asked:
        check_method(fit, method)
    fit, groups = admit(fit, groups, {need for method in asked for need in method.needs})
    own = l2_of_groups(l2, groups)
    with limited(memory):
        found = {} if values is None else _minus(values, fit, groups, measures)
        for method in methods:
            how = {"l2": own, "certify": certify and method is methods[-1]}
            found[method.name] = gathered(pose(fit, groups, measures, method, **how))
        return credited(fit, groups, measures, found, null)


@entry_point
def credited(
    fit: Fit, groups: Groups, measures: Measures, effects: dict[str, Effects], null: Null
) -> Credit:
    """`credit` from effects that are known, of groups that are past the gates.

    Args:
        fit: the fitted objective.
        groups: natural groups.
        measures: those of the effects.
        effects: method to effects, the most exact last.
        null: the random groups that they are compared with.
    """
    objective = fit.objective
    classes, code = classes_of(objective, groups.n)
    indicator = np.zeros((groups.n, 0)) if code is None else np.eye(len(classes))[code]
    unknown = np.full(len(groups), np.nan)
    return Credit(
        groups=groups,
        columns=next(iter(effects.values())).columns,
        effects=effects,
        classes=classes,
        balance=np.asarray(group_sums(groups, groups.w, indicator)),
        loss=own_losses(fit, groups)[0],
        self_influence=unknown
        if fit.metric is None
        else np.asarray(self_influence(fit, groups).value)[:, 0],
        leverage=_taken(fit, groups) if has_factor(fit) else unknown,
        null=standing(fit, groups, measures, null, code) if null.draws > 0 else None,
        base=_at_theta(fit, measures),
        fit=fit,
    )


def _at_theta(fit: Fit, measures: Measures) -> np.ndarray:
    """(m) the columns at theta; NaN for those that depend on who leaves."""
    objective, found = fit.objective, []
    for measure in (each.bind(objective) for each in as_measures(measures)):
        if measure.needs_w:
            found.append(np.full(len(measure.columns(objective)), np.nan))
        else:
            found.append(np.asarray(measure.values(objective, fit.flat, None)).reshape(-1))
    return np.concatenate(found)


def _minus(values: Values, fit: Fit, groups: Groups, measures: Measures) -> dict[str, Effects]:
    """Minus the values, as effects of the same groups.

    Raises:
        ValueError: if they are of others, or of another model.
    """
    check_is(values, Values, "values from lo.value")
    theirs = values.groups
    pairs = zip((groups.indices, groups.offsets, groups.w),
                (theirs.indices, theirs.offsets, theirs.w), strict=True)  # fmt: skip
    if not all(np.array_equal(mine, other) for mine, other in pairs):
        raise ValueError("these values are of other groups; make them from the groups given here")
    effects, bound = values.effects(), [m.bind(fit.objective) for m in as_measures(measures)]
    if sum((m.columns(fit.objective) for m in bound), ()) != values.columns:
        raise ValueError("these values are of other measures; make them from those given here")
    own = _at_theta(fit, measures)
    known = np.isfinite(own)
    if not np.allclose(own[known], values.whole[known], rtol=1e-5, atol=0.0):
        raise ValueError(
            f"these values are of another model, whose measures are {values.whole} where those of "
            f"this fit are {own}; make them from this fit"
        )
    return {effects.method: effects}


def _null(null: Null | int) -> Null:
    if isinstance(null, Null):
        return null
    check_integer(null, "null (draws for each group, or a lo.Null)", least=0)
    return Null(int(null))


def _taken(fit: Fit, groups: Groups) -> np.ndarray:
    """Parameters' worth of curvature that leaves with each group."""
    lever = np.asarray(leverages_by_weight(fit)[0])[: groups.n, None]
    return np.asarray(group_sums(groups, taken_by(fit.objective, groups), lever))[:, 0]


def classes_of(objective: AbstractObjective, n: int) -> tuple[tuple, np.ndarray | None]:
    """The labels, and the code of each example's own."""
    if not isinstance(objective, AbstractScores) or objective.classes is None:
        return (), None
    _, y, *_ = objective.examples
    return objective.classes, np.asarray(y).astype(int)[:n]
