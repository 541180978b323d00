"""What each natural group does: one table, and its place among random groups like it."""

import dataclasses
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from leaveout.analysis.cross_validation import own_losses
from leaveout.analysis.null import Null, place_among_random
from leaveout.analysis.spectrum import leverages
from leaveout.attribution.container import Effects
from leaveout.attribution.verb import effects
from leaveout.fitting.fitted import Fit
from leaveout.fitting.gates import check_groups
from leaveout.groups import Groups
from leaveout.methods.first_order import Influence, group_sums, self_influence
from leaveout.methods.group_newton import Newton
from leaveout.methods.protocol import Method
from leaveout.methods.retraining import Retrain
from leaveout.objectives.linear import LinearObjective
from leaveout.runtime.text import aligned

__all__ = ["Credit", "credit"]


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
    """

    groups: Groups
    columns: tuple[str, ...]
    effects: dict[str, Effects]
    classes: tuple
    balance: np.ndarray
    loss: np.ndarray
    self_influence: np.ndarray
    leverage: np.ndarray
    null: Null | None

    @property
    def best(self) -> Effects:
        """The effects by the method named last: the most exact, in the usual order."""
        return list(self.effects.values())[-1]

    def to_pandas(self):
        """A pandas table, a row a group.

        Columns: group, kind, size, alpha, a count for each class, loss, self_influence, leverage;
        then for each column f of the effects: "influence on f" (and each other method), the last
        method's "effect per example on f", "lower" and "upper" where certified, and "z",
        "percentile", "p" and "q".
        """
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
            table[f"effect per example on {column}"] = self.best.value[:, j] / size
            for name, each in self.effects.items():
                if each.lower is not None and each.upper is not None:
                    table[f"lower on {column}, {name}"] = each.lower[:, j]
                    table[f"upper on {column}, {name}"] = each.upper[:, j]
            if self.null is not None:
                for name in ("z", "percentile", "p", "q"):
                    table[f"{name} on {column}"] = getattr(self.null, name)[:, j]
        return pd.DataFrame(table)

    def save(self, path) -> None:
        """Write the table of `to_pandas` to a .parquet file."""
        self.to_pandas().to_parquet(path, index=False)

    def order(self, column: int | str = 0) -> np.ndarray:
        """(g) the groups from the largest size of effect to the smallest."""
        return np.argsort(-np.abs(self.best.value[:, self._at(column)]), kind="stable")

    def table(self, column: int | str = 0, most: int = 20) -> str:
        """A plain-text table of the groups with the largest effects on one column."""
        j = self._at(column)
        head = ["group", "size", "alpha", *self.effects, "per example", "z", "percentile", "q"]
        if self.null is None:
            head = head[:-3]
        rows = [head]
        for i in self.order(j)[:most]:
            size = self.groups.size[i]
            row = [str(self.groups.names[i]), f"{size:,}", f"{100 * self.groups.alpha[i]:.2f} %"]
            row += [f"{each.value[i, j]:+.4g}" for each in self.effects.values()]
            row += [f"{self.best.value[i, j] / size:+.3g}"]
            if self.null is not None:
                null = self.null
                row += [f"{null.z[i, j]:+.1f}", f"{null.percentile[i, j]:.1f}"]
                row += [f"{null.q[i, j]:.3f}"]
            rows.append(row)
        lines = aligned(rows, right=True)
        rest = len(self.groups) - most
        more = [f"... and {rest:,} groups of smaller effect"] if rest > 0 else []
        return "\n".join([f"effects on {self.columns[j]}", *lines, *more])

    def __repr__(self) -> str:
        return f"Credit({len(self.groups):,} groups x {len(self.columns)} columns)\n{self.table()}"

    def _at(self, column: int | str) -> int:
        if not isinstance(column, str):
            return int(column)
        if column not in self.columns:
            raise ValueError(f"unknown column {column!r}; known: {', '.join(self.columns)}")
        return self.columns.index(column)


def credit(
    fit: Fit,
    groups: Groups,
    measures: Any,
    methods: Any = (Influence(), Newton()),
    *,
    actual: bool = False,
    certify: bool = False,
    null: int = 1000,
    null_method: Method | None = None,
    within: Any = None,
    key: Array | None = None,
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
        certify: certify the last method's effects (see `effects`).
        null: random groups for each group; 0 for none. p is never below 2 / (null + 1): with many
            groups ask for more, or Benjamini and Hochberg can reject none.
        null_method: how their effects are found. Default by influence, where a draw costs a sum
            over the group, for measures that do not depend on who leaves; others are then not
            compared. Any method serves, at its cost for g x null groups.
        within: (n) strata in place of the classes, for example site and class; "none" for size
            alone.
        key: of the draws; default one fixed key, so that the same call gives the same table.
        memory: as in `effects`.
    """
    check_groups(fit, groups)
    methods = list(methods) if isinstance(methods, list | tuple) else [methods]
    if actual and not any(isinstance(method, Retrain) for method in methods):
        methods.append(Retrain())
    if not methods:
        raise ValueError("expected at least one method, for example lo.Influence()")
    found = [
        effects(
            fit, groups, measures, method, certify=certify and method is methods[-1], memory=memory
        )
        for method in methods
    ]
    objective, factored = fit.objective, fit.metric is not None
    classes, code = _classes(objective, groups.n)
    unknown = np.full(len(groups), np.nan)
    taken = own = unknown
    if factored and isinstance(objective, LinearObjective):
        lever = np.asarray(leverages(fit)[0])[: groups.n, None]
        taken = np.asarray(group_sums(groups, lever))[:, 0]
    if factored:
        own = np.asarray(self_influence(fit, groups, memory)[0])[:, 0]
    place = None
    if null > 0:
        alone = isinstance(within, str) and within == "none"
        strata = None if alone else code if within is None else within
        key = jax.random.key(0) if key is None else key
        place = place_among_random(
            fit, groups, measures, null_method, strata, int(null), key, memory
        )
    indicator = np.zeros((groups.n, 0)) if code is None else np.eye(len(classes))[code]
    return Credit(
        groups=groups,
        columns=found[0].columns,
        effects={"actual" if isinstance(method, Retrain) else method.name: each
                 for method, each in zip(methods, found, strict=True)},
        classes=classes,
        balance=np.asarray(group_sums(groups, indicator)),
        loss=own_losses(fit, groups)[0],
        self_influence=own,
        leverage=taken,
        null=place,
    )  # fmt: skip


def _classes(objective: Any, n: int) -> tuple[tuple, np.ndarray | None]:
    """The labels, and the code of each example's own."""
    classes = getattr(objective, "classes", None)
    if classes is None:
        return (), None
    return classes, np.asarray(objective.y).astype(int)[:n]
