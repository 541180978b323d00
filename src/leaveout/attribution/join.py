"""Effects put together: of other groups below each other, on other measures beside each other."""

import dataclasses
import functools
import operator
from collections.abc import Iterable

import numpy as np

from leaveout.attribution.container import Effects
from leaveout.attribution.stream import first_failure
from leaveout.groups import Groups
from leaveout.runtime.options import check_is
from leaveout.runtime.solution import Certificate

__all__ = ["concat"]

_BESIDE = ("value", "column_status")  # (g m), always there
_BELOW = (*_BESIDE, "status", "residual", "steps", "theta_status")  # by group, always there
#: what need not be there, and what stands in its place where some parts have it
_FILLED = {"lower": -np.inf, "upper": np.inf, "error": np.nan}


def concat(parts: Iterable[Effects]) -> Effects:
    """Effects of one method, joined: the same groups on other measures, or others on the same.

        both = lo.concat([lo.effects(fit, groups, loss), lo.effects(fit, groups, odds)])
        more = lo.concat([lo.effects(fit, hospitals, loss), lo.effects(fit, villages, loss)])

    Where only some have intervals or standard errors, the others' are infinite or NaN.

    Args:
        parts: two or more (or one), by the same method.

    Returns:
        effects (g m) of all their groups, or on all their columns, in the order given; of one part,
        itself.

    Raises:
        ValueError: for other methods, which are compared and not joined (`lo.compare`); for parts
            that differ in groups and in columns, or in neither; for a column that is there twice.

    Example:
        >>> more = lo.effects(fit, groups, lo.measures.parameter([0]))
        >>> both = lo.concat([lo.effects(fit, groups, measure), more])
        >>> both.columns, both.value.shape
        (('mean of loss', 'parameter[0]'), (4, 2))
        >>> len(lo.concat([both[:1], both[1:]]).groups)
        4
    """
    check_is(parts, Iterable, "`Effects`, one or more")
    found = list(parts)
    if not found or not all(isinstance(part, Effects) for part in found):
        kinds = sorted({type(part).__name__ for part in found}) or ["none"]
        raise ValueError(f"expected `Effects`, one or more, got {', '.join(kinds)}")
    if len(found) == 1:
        return found[0]
    methods = list(dict.fromkeys(part.method for part in found))
    if len(methods) > 1:
        raise ValueError(
            f"these effects are by {' and '.join(methods)}: methods are compared (lo.compare), and "
            "joined only with their like"
        )
    groups = all(_same(found[0].groups, part.groups) for part in found[1:])
    columns = all(found[0].columns == part.columns for part in found[1:])
    if groups == columns:
        what = "both the same groups and columns" if groups else "other groups and other columns"
        raise ValueError(
            f"these effects have {what}: join the same groups on other measures, or other groups "
            "on the same measures"
        )
    return _beside(found) if groups else _below(found)


def _same(one: Groups, two: Groups) -> bool:
    """Whether these are the same groups, of the same names."""
    return (
        one.n == two.n
        and np.array_equal(one.offsets, two.offsets)
        and np.array_equal(one.indices, two.indices)
        and np.array_equal(one.w, two.w)
        and np.array_equal(one.names, two.names)
    )


def _beside(parts: list[Effects]) -> Effects:
    """The same groups on other columns."""
    columns = [column for part in parts for column in part.columns]
    twice = sorted({column for column in columns if columns.count(column) > 1})
    if twice:
        raise ValueError(
            f"column {twice[0]!r} is there more than once; give the measures other names (name=)"
        )
    joined = {name: np.concatenate([getattr(p, name) for p in parts], axis=1) for name in _BESIDE}
    worst = {
        name: first_failure(np.stack([getattr(part, name) for part in parts], axis=1))
        for name in ("status", "theta_status")
    }
    most = {
        name: np.max([getattr(part, name) for part in parts], axis=0)
        for name in ("residual", "steps")
    }
    certificates = _each(parts, "certificate", int(Certificate.uncertified))
    return dataclasses.replace(
        parts[0],
        **joined, **worst, **most,
        **_optional(parts, axis=1),
        columns=tuple(columns),
        measure=tuple(name for part in parts for name in part.measure),
        better=tuple(sense for part in parts for sense in part.better),
        certificate=None if certificates is None else np.max(certificates, axis=0),
        seeds=_seeds(parts, axis=2),
        notes=_notes(parts),
    )  # fmt: skip


def _below(parts: list[Effects]) -> Effects:
    """Other groups on the same columns."""
    joined: dict[str, np.ndarray | None] = {
        name: np.concatenate([getattr(part, name) for part in parts]) for name in _BELOW
    }
    for name, filler in (("certificate", int(Certificate.uncertified)), ("weight", np.nan)):
        found = _each(parts, name, filler)
        joined[name] = None if found is None else np.concatenate(found)
    weight = joined["weight"]
    if weight is not None and np.isnan(weight).any():  # of some it is not known
        joined["weight"] = None
    groups = functools.reduce(operator.add, (part.groups for part in parts))
    return dataclasses.replace(
        parts[0],
        **joined,
        **_optional(parts, axis=0),
        groups=groups,
        seeds=_seeds(parts, axis=1),
        notes=_notes(parts),
    )


def _each(parts: list[Effects], name: str, filler: float | int) -> list[np.ndarray] | None:
    """What each part has an entry a group of, the filler where it has none; None if none has."""
    if all(getattr(part, name) is None for part in parts):
        return None
    return [
        np.full(len(part.groups), filler) if getattr(part, name) is None else getattr(part, name)
        for part in parts
    ]


def _optional(parts: list[Effects], axis: int) -> dict[str, np.ndarray | None]:
    """Bounds and standard errors (g m), filled where some have them."""
    found: dict[str, np.ndarray | None] = {}
    for name, filler in _FILLED.items():
        each = [getattr(part, name) for part in parts]
        filled = [
            np.full(part.value.shape, filler) if one is None else one
            for part, one in zip(parts, each, strict=True)
        ]
        known = any(one is not None for one in each)
        found[name] = np.concatenate(filled, axis=axis) if known else None
    return found


def _seeds(parts: list[Effects], axis: int) -> np.ndarray | None:
    """The effects on each seed; None where the parts are not of as many seeds."""
    each = [part.seeds for part in parts]
    known = [one for one in each if one is not None]
    if len(known) < len(each) or len({len(one) for one in known}) > 1:
        return None
    return np.concatenate(known, axis=axis)


def _notes(parts: list[Effects]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(note for part in parts for note in part.notes))
