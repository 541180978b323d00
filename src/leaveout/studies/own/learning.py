"""What each column of a table is, and how it is coded: learnt from the training rows.

A kind is asked for or taken from what the column holds. What cannot be meant is refused, each in a
sentence: dates, numbers among texts, names of rows, columns without entries.
"""

from collections.abc import Mapping

import numpy as np

from leaveout.runtime.columns import Column, distinct, plain
from leaveout.runtime.tables import is_sparse
from leaveout.runtime.text import shortened, warn
from leaveout.studies.own.coding import Block, Category, Columns, Number, Part, finite_numbers
from leaveout.studies.own.frames import Frame, kind_of
from leaveout.studies.own.words import Vectorizer, is_prose, words_of

__all__ = ["learnt", "warn_of_copies"]

_KINDS = ("number", "category", "text")
_NAMES = 20  # different texts from which they can be names of rows, or numbers gone wrong


def learnt(
    frame: Frame, features: Mapping[str, object], *, indicator: bool, standardise: bool
) -> tuple[Columns, tuple[str, ...]]:
    """How these columns are coded, from the training rows; and notes on what was left out.

    Args:
        frame: the training rows.
        features: column to its kind, None for what it looks like, or a vectorizer.
        indicator: whether what is missing is coded; if not, nothing is.
        standardise: numbers in standard deviations from their mean.

    Raises:
        ValueError: for a column that cannot be coded, or where none varies.
    """
    parts, constant = [], []
    for name, asked in features.items():
        part = _part(frame, name, asked, indicator, standardise)
        (constant if part is None else parts).append(name if part is None else part)
    if not parts:
        raise ValueError(
            f"no column of {frame.title} varies over the training rows: {shortened(constant)}"
        )
    note = f"left out, the same in all training rows: {', '.join(constant)}"
    return Columns(tuple(parts)), (note,) if constant else ()


def warn_of_copies(x: Block, names: tuple[str, ...], y: np.ndarray, target: str) -> None:
    """Warn of inputs that are the same, or that say the target: one sentence each."""
    if is_sparse(x):
        return
    seen: dict[bytes, str] = {}
    same, telling = [], []
    low, high = float(y.min()), float(y.max())
    answers = {np.ascontiguousarray(each, float).tobytes() for each in (y, low + high - y)}
    for name, column in zip(names, x.T, strict=True):
        key = np.ascontiguousarray(column + 0.0).tobytes()
        if key in seen:
            same.append(f"{name!r} and {seen[key]!r}")
        if key in answers:
            telling.append(name)
        seen.setdefault(key, name)
    if telling:
        warn(
            f"{shortened(telling)} says the target {target!r} itself; leave it out of the features"
        )
    if same:
        warn(
            f"{'; '.join(same[:3])} are the same in all training rows: without a penalty nothing "
            "determines their coefficients; keep one"
        )


def _part(
    frame: Frame, name: str, asked: object, indicator: bool, standardise: bool
) -> Part | None:
    """How a column is coded; None for one that is the same in all rows."""
    given = frame[name]
    _check_kind(name, asked)
    if kind_of(given) == "nothing":
        raise ValueError(f"column {name!r} has no entries, all are missing; leave it out")
    kind = asked or _looks(frame, name)
    absent = indicator and not given.there.all()
    if kind in ("number", "boolean"):
        return _number(name, given, str(kind), absent, standardise)
    if kind in _WHY:
        raise ValueError(_WHY[str(kind)].format(name, _types(given)))
    if kind == "category":
        declared = frame.levels.get(name, ())
        return _category(name, given, declared, absent, sure=bool(asked or declared))
    return words_of(name, given, None if kind == "text" else kind, absent)


def _check_kind(name: str, asked: object) -> None:
    """Refuse what is asked of a column and is no kind and no vectorizer."""
    if asked is None or asked in _KINDS or isinstance(asked, Vectorizer):
        return
    raise ValueError(
        f"expected the kind of column {name!r} as one of {shortened(_KINDS)}, or a vectorizer of "
        f"scikit-learn's, got {asked!r:.80}"
    )


def _looks(frame: Frame, name: str) -> str:
    """What a column looks like: text is words where it is prose, else categories."""
    if name in frame.levels:
        return "category"
    values, there = frame[name]
    found = kind_of(frame[name])
    if found == "text":
        return "text" if is_prose(values[there]) else "category"
    return found


_WHY = {
    "date": "column {0!r} holds dates: give numbers, such as days since one of them, or "
    "categories, such as the month; or leave it out",
    "mixed": "column {0!r} holds entries of several types ({1}); make them all numbers or all text",
}


def _number(name: str, given: Column, kind: str, absent: bool, standardise: bool) -> Number | None:
    values = finite_numbers(name, given)
    there = values[given.there]
    if not absent and (there == there[0]).all():
        return None
    fill = float(np.median(there)) if absent else None
    if not standardise or kind == "boolean":
        return Number(name, kind, fill=fill)
    whole = there if fill is None else np.where(given.there, values, fill)
    return Number(name, kind, float(whole.mean()), float(whole.std()) or 1.0, fill)


def _category(
    name: str, given: Column, declared: tuple, absent: bool, *, sure: bool
) -> Category | None:
    there = given.values[given.there]
    levels = distinct(there)[0]
    if not sure:
        _refuse_names(name, there, levels)
    if declared:
        known = set(levels)
        levels = [level for level in declared if level in known]
    part = Category(name, tuple(map(plain, levels)), absent)
    return part if part.names else None


def _refuse_names(name: str, there: np.ndarray, levels: list) -> None:
    """Refuse texts that are names of rows, and texts that are numbers but for a few.

    Raises:
        ValueError: with what to do.
    """
    if len(levels) <= _NAMES:
        return
    odd = [level for level in levels if not _is_number(level)]
    if 2 * len(odd) < len(levels):
        told = f"the others are {shortened(odd, 3)}" if odd else "as text"
        raise ValueError(
            f"column {name!r} holds text, but {len(levels) - len(odd):,} of its {len(levels):,} "
            f"different entries are numbers ({told}): make it numbers, the others missing, or say "
            f'features={{{name!r}: "category"}}'
        )
    if 2 * len(levels) > there.size:
        raise ValueError(
            f"column {name!r} has {len(levels):,} different texts in {there.size:,} rows: it names "
            f'rows, and says nothing of others; leave it out, or say features={{{name!r}: "text"}} '
            "for its words"
        )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except (TypeError, ValueError):
        return False
    return True


def _types(given: Column) -> str:
    """The types of a column's entries."""
    found = sorted({type(value).__name__ for value in given.values[given.there].tolist()})
    return ", ".join(found)
