"""The report of a `Credit`: which groups help, which hurt, and how sure that is."""

import dataclasses
import os
from pathlib import Path

import numpy as np

from leaveout import plot
from leaveout.analysis.compare import compare
from leaveout.analysis.credit import Credit
from leaveout.attribution.container import Effects
from leaveout.runtime.options import check_is
from leaveout.runtime.solution import Certificate, Status, flagged_in_words
from leaveout.studies.datasets import Dataset
from leaveout.studies.natural_report import short
from leaveout.studies.report.about import about
from leaveout.studies.report.page import (
    Card,
    Drawn,
    Page,
    Row,
    Section,
    Table,
    drawn,
    number,
    write_page,
)

__all__ = ["report"]

_FEW = 12  # columns that a map of colours shows in full
_SHOWN = 30  # rows of the table that are not folded away


def report(
    credit: Credit,
    path: str | os.PathLike = "report.html",
    *,
    column: int | str = 0,
    title: str | None = None,
    data: Dataset | None = None,
    command: str | None = None,
) -> Path:
    """A page for those who decide: which groups help or hurt, by how much, and how sure that is.

    One file of HTML with its figures in it, which opens anywhere. Groups are coloured by whether
    the model is worse or better without them, whatever the sign of the measure.

    Args:
        credit: from `lo.credit`.
        path: of the file, which is replaced if it is there.
        column: the measure that the page is about, by position or name; others stand in a map.
        title: the question; default one made of the groups and the target.
        data: the data set, for its name, size and checksums; default what the fit knows.
        command: what made it, to be quoted.

    Returns:
        the path.

    Raises:
        ImportError: without jinja2 or matplotlib.
        ValueError: for what is no `Credit`.

    Example:
        >>> found = lo.credit(fit, groups, measure, actual=True, null=20)
        >>> lo.report(found, "hospitals.html", title="Which hospitals help?").name
        'hospitals.html'
    """
    check_is(credit, Credit, "a `Credit`, from lo.credit(...)")
    told = _Told(credit, credit.at(column), data)
    page = Page(
        kicker="leave-one-group-out report" + ("" if data is None else f" \u00b7 {data.name}"),
        title=title or told.question(),
        lead=told.lead(),
        cards=told.cards(),
        sections=(
            told.worth(),
            Section("Would chance do the same?", told.chance(), figures=told.bands()),
            *told.elsewhere(),
            Section("How sure is this?", points=told.sure(), figures=told.agreement()),
            Section("What this does not say", points=_CAVEATS),
            about(credit.fit, data, command),
        ),
    )
    return write_page(page, path)


_CAVEATS = (
    "It is about this model and these query examples: the same data can be worth more to another "
    "model, or to other people's questions.",
    "Groups that repeat each other are each worth little alone, and much together; what is said of "
    "one does not add up over several.",
    "A group that hurts need not be wrong: it may be unlike those on which the model is judged.",
    "Intervals, where they are given, are certified: what retraining gives, for sure, on this data "
    "(numerical). What another sample would give is a matter of confidence intervals "
    "(statistical), from lo.confidence.",
)


#: what measures are, in a clause
_SAID = {
    "loss": ", which says how wrong the predictions for the query examples are",
    "self_loss": ", how wrong the predictions for the group's own examples are",
    "accuracy": ", the share of the query examples that are predicted right",
    "AUROC": ", how often a positive query example is ranked above a negative one",
    "calibration error": ", how far chances that are predicted are from those that come true",
    "odds ratio": ", by how much the odds are multiplied for a unit more",
}


class _Told:
    """A credit in words, of one column.

    Attributes:
        credit: from `lo.credit`.
        j: position of the column.
        data: the data set, or None.
    """

    def __init__(self, credit: Credit, j: int, data: Dataset | None):
        self.credit, self.j, self.data = credit, j, data
        best = credit.best
        self.value, self.better = best.value[:, j], best.better[j]
        self.known = best.column_status[:, j] == 0
        self.base = float(credit.base[j])
        self.kind = ", ".join(np.unique(credit.groups.kind).astype(str))
        self.q = np.full(len(self.value), np.nan) if credit.null is None else credit.null.q[:, j]
        self.stands = self.q <= 0.05
        self.order = np.argsort(-np.where(self.known, np.abs(self.value), -1.0), kind="stable")

    # ---- the question ---------------------------------------------------------------------------

    def question(self) -> str:
        """The question that is answered."""
        target = None if self.data is None else self.data.target
        what = "the model" if target is None else f"the model of {target}"
        return f"What would {what} be if one {self.kind} had not been there?"

    def lead(self) -> tuple[str, ...]:
        """What was done, and what is measured."""
        groups, column = self.credit.groups, self.credit.columns[self.j]
        done = "the model is fitted again" if self._actual() else "its change is predicted"
        first = (
            f"A model learnt from {groups.n:,} examples in {len(groups):,} groups ({self.kind}). "
            f"Each group in turn is left out, and {done}."
        )
        sense = {-1: " Less is better.", 1: " More is better.", 0: ""}[self.better]
        now = "" if np.isnan(self.base) else f": {number(self.base)} with all groups"
        said = _SAID.get(self.credit.best.measure[self.j], "")
        return first, f"Measured is the {column}{said}{now}.{sense}"

    def _actual(self) -> bool:
        return self.credit.best.method == "actual"

    # ---- the answer -----------------------------------------------------------------------------

    def cards(self) -> tuple[Card, ...]:
        """The groups that matter most either way, and how many do more than chance."""
        cards = [self._card(self._extreme(side), side) for side in ("helps", "hurts")]
        return (*[card for card in cards if card is not None], self._count())

    def _extreme(self, side: str) -> int | None:
        """The group that does most on one side, if any does anything there."""
        sign = -1 if side == "helps" else 1
        gain = np.where(self.known, sign * (self.better or 1) * self.value, -np.inf)
        i = int(np.argmax(gain))
        return i if gain[i] > 0 else None

    def _card(self, i: int | None, side: str) -> Card | None:
        if i is None:
            return None
        name, rest = str(self.credit.groups.names[i]), self._change(i) + self._by_chance(i)
        if not self.better:
            word = "lowest" if side == "helps" else "highest"
            return Card(name, f"the measure is {word} without it: {rest}")
        word, without = ("helps", "worse") if side == "helps" else ("hurts", "better")
        return Card(name, f"{word} most: without it the model is {without}, {rest}", side)

    def _change(self, i: int) -> str:
        """From what to what."""
        if np.isnan(self.base):
            return number(self.value[i], signed=True)
        share = self._share(i)
        return f"{number(self.base)} becomes {number(self.base + self.value[i])}" + (
            f" ({share})" if share else ""
        )

    def _share(self, i: int) -> str:
        """The effect as a share of the measure."""
        if not np.isfinite(self.base) or self.base == 0:
            return ""
        return f"{number(100 * self.value[i] / abs(self.base), 3, signed=True)} %"

    def _by_chance(self, i: int) -> str:
        if np.isnan(self.q[i]):
            return ""
        return "; more than chance does" if self.stands[i] else "; within what chance does"

    def _count(self) -> Card:
        count = len(self.value)
        if not np.isfinite(self.q).any():
            lost = int((~self.known).sum())
            return Card(f"{count - lost:,} of {count:,}", "groups have an answer")
        null = self.credit.null
        text = "groups do more than random groups of their size and class balance would"
        if null is not None and null.family:
            text = f"groups do more than the best of {null.family:,} would by chance"
        return Card(f"{int(self.stands.sum()):,} of {count:,}", text)

    # ---- the table ------------------------------------------------------------------------------

    def worth(self) -> Section:
        """The table, a row a group; and folded away, every method's numbers."""
        rows = [self._row(i) for i in self.order.tolist()]
        head = self._head()
        tables = [Table(head, tuple(rows[:_SHOWN]), (0, 1), (1, 3))]
        if rows[_SHOWN:]:
            rest = f"{len(rows) - _SHOWN:,} groups of smaller effect"
            tables.append(Table(head, tuple(rows[_SHOWN:]), (0, 1), (1, 3), rest))
        if len(self.credit.effects) > 1:
            tables.append(self._methods())
        said = "Blue groups help: the model is worse without them. Orange groups hurt. "
        said = said if self.better else "The measure has no better side: effects are up or down. "
        method = self.credit.best.method
        return Section(
            "Which groups help, which hurt, by how much" if self.better else "What each group does",
            (f"{said}The verdict is by the {method} effect on the {self.credit.columns[self.j]}.",),
            tables=tuple(tables),
        )

    def _head(self) -> tuple[str, ...]:
        best = self.credit.best
        head = [self.kind, "verdict", "size", f"{best.method} effect", "change"]
        head += [] if self.credit.null is None else ["p", "q"]
        head += [] if best.lower is None else ["certified interval"]
        return (*head, *([] if self.known.all() else ["status"]))

    def _row(self, i: int) -> Row:
        groups, best = self.credit.groups, self.credit.best
        cells = [str(groups.names[i]), self._verdict(i), f"{groups.size[i]:,}"]
        cells.append(number(self.value[i], signed=True) + "*" * (not self.known[i]))
        cells.append(self._share(i) if self.known[i] else "")
        if self.credit.null is not None:
            cells += [number(float(each), 2) for each in (self.credit.null.p[i, self.j], self.q[i])]
        if best.lower is not None and best.upper is not None:
            ends = (best.lower[i, self.j], best.upper[i, self.j])
            cells.append(" to ".join(number(end, signed=True) for end in ends))
        if not self.known.all():
            cells.append(Status(int(best.column_status[i, self.j])).name.replace("_", " "))
        faint = " faint" if np.isfinite(self.q[i]) and not self.stands[i] else ""
        return Row(tuple(cells), self._side(i) + faint, not self.known[i])

    def _methods(self) -> Table:
        """What every method says, a column a method."""
        groups, effects = self.credit.groups, self.credit.effects
        rows = []
        for i in self.order.tolist():
            values = [
                number(each.value[i, self.j], signed=True)
                + "*" * bool(each.column_status[i, self.j])
                for each in effects.values()
            ]
            share = f"{number(float(100 * groups.alpha[i]), 3)} %"
            rows.append(Row((str(groups.names[i]), share, *values), flagged=not self.known[i]))
        head = (self.kind, "share of the data", *effects)
        flagged = any(each.column_status[:, self.j].any() for each in effects.values())
        rest = "The effects by every method" + " (* did not converge)" * flagged
        return Table(head, tuple(rows), rest=rest)

    def _side(self, i: int) -> str:
        if not self.known[i] or not self.better or self.value[i] == 0:
            return ""
        return "hurts" if self.better * self.value[i] > 0 else "helps"

    def _verdict(self, i: int) -> str:
        """Helps or hurts, if no chance does the same."""
        if not self.known[i]:
            return "not known"
        side = self._side(i) or ("higher without it" if self.value[i] > 0 else "lower without it")
        if np.isnan(self.q[i]) or self.stands[i]:
            return side
        return f"{side}, within chance"

    # ---- chance ---------------------------------------------------------------------------------

    def chance(self) -> tuple[str, ...]:
        """Whether random groups do the same, in sentences."""
        null = self.credit.null
        if null is None or not np.isfinite(self.q).any():
            return ("The groups were not compared with random ones on this measure.",)
        names = self.credit.groups.names[self.stands]
        listed = ", ".join(map(str, names[:12])) + (", ..." if len(names) > 12 else "")
        found = f"These do more: {listed}." if len(names) else "None does more."
        if null.family:
            return (
                f"The groups were looked for among {null.family:,}, each described by the columns. "
                f"In {null.draws:,} draws chance dealt every example's influence to another, and "
                "the best of as many groups was taken each time: p is how often that does as much, "
                f"and so allows for the search. {found}",
            )
        return (
            f"Each group was compared with {null.draws:,} random groups of the same size and, of "
            f"classes, the same balance, by {null.method}: p is how often chance does as much; q "
            "allows for there being many groups: of those with q up to 0.05, at most one in twenty "
            f"is there by chance, on average. {found}",
        )

    def bands(self) -> tuple[Drawn, ...]:
        """The groups beside random ones."""
        null = self.credit.null
        if null is None or not (np.isfinite(null.z[:, self.j]) & self.known).any():
            caption = f"Each {self.kind}'s effect on the {self.credit.columns[self.j]}."
            if not self.known.any():
                return ()
            return (drawn(plot.forest(self.credit, self.j, most=_SHOWN), caption),)
        like = "the best group does under chance" if null.family else "random groups of its size do"
        caption = (
            f"Each {self.kind}'s effect (dot) beside what {like} (grey), those most unlike chance "
            "on top."
        )
        return (drawn(plot.bands(self.credit, self.j, most=_SHOWN), caption),)

    # ---- other measures -------------------------------------------------------------------------

    def elsewhere(self) -> tuple[Section, ...]:
        """What the groups do to the other columns of the same measure: other people, say."""
        best = self.credit.best
        same = [k for k, name in enumerate(best.measure) if name == best.measure[self.j]]
        if not 1 < len(same) <= 60:
            return ()
        names = [short(self.credit.columns[k]) for k in same]
        figure = plot.heat(
            best.value[:, same], self.credit.groups.names, names,
            status=best.column_status[:, same], better=self.better or None,
        )  # fmt: skip
        caption = f"Effect of leaving out each {self.kind} (across) on each part (down)."
        said = "A group can help some and hurt others: each row is a part of the query examples."
        return (Section("Whom does it help or hurt?", (said,), figures=(drawn(figure, caption),)),)

    # ---- how sure -------------------------------------------------------------------------------

    def sure(self) -> tuple[str, ...]:
        """Method, agreement, certificates, statuses and notes."""
        best = self.credit.best
        points = [
            "The model was fitted again without each group, to the optimum: for this model, the "
            "effects are the truth."
            if self._actual()
            else f"Effects are predicted by {best.method}; the model was not fitted again. Ask for "
            "actual effects to be certain."
        ]
        points += [line for line in map(self._agrees, self.credit.effects) if line]
        points.append(self._certified())
        lost = int((~self.known).sum())
        points.append(
            flagged_in_words(best.column_status[:, self.j]) + ": " + self._advice()
            if lost
            else f"All {len(self.value):,} groups converged."
        )
        return (*points, *self.credit.notes, *(() if self.data is None else self.data.notes))

    def _advice(self) -> str:
        codes = self.credit.best.column_status[:, self.j]
        return Status(int(codes[codes != 0][0])).advice

    def _agrees(self, name: str) -> str:
        """How a method agrees with retraining."""
        pair = self._pair(name, least=3)
        if pair is None:
            return ""
        found = compare(*pair, resamples=0)
        rank, slope = (float(found[part][0]) for part in ("spearman", "slope"))
        if rank != rank:
            return ""
        return (
            f"{name} predicts these effects with a rank correlation of {rank:.3f}, on average at "
            f"{slope:.2f} times their size."
        )

    def _pair(self, name: str, least: int) -> tuple[Effects, Effects] | None:
        """A method's effects and the actual ones, if so many groups have both."""
        if not self._actual() or name == "actual":
            return None
        pair = _only(self.credit.effects[name], self.j), _only(self.credit.best, self.j)
        both = (pair[0].column_status == 0) & (pair[1].column_status == 0)
        return pair if both.sum() >= least else None

    def _certified(self) -> str:
        best = self.credit.best
        if best.certificate is None:
            return "No certified (numerical) intervals were asked for; certify=True gives them."
        good = int(np.count_nonzero(best.certificate == Certificate.certified))
        widest = float(np.nanmax(best.width[:, self.j]))
        return (
            f"{good:,} of {len(self.value):,} effects are certified: retraining is proven to give "
            f"a value in their interval, which reaches at most {number(widest, 2)} either way."
        )

    def agreement(self) -> tuple[Drawn, ...]:
        """Predicted against actual effects."""
        pairs = {name: self._pair(name, least=2) for name in self.credit.effects}
        drawable = {name: pair[0] for name, pair in pairs.items() if pair is not None}
        if not drawable:
            return ()
        figure = plot.panels(drawable, _only(self.credit.best, self.j), [0])
        return (drawn(figure, "Predicted effects against those of retraining, a mark a group."),)


def _only(found: Effects, j: int) -> Effects:
    """The effects on one column."""
    rows = ("value", "column_status", "lower", "upper", "error")
    parts = {name: getattr(found, name) for name in rows}
    kept = {name: None if part is None else part[:, [j]] for name, part in parts.items()}
    one = {name: (getattr(found, name)[j],) for name in ("columns", "measure", "better")}
    codes = found.column_status[:, j]
    return dataclasses.replace(found, **kept, **one, status=codes, seeds=None)
