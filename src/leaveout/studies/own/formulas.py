"""Formulas, as of R and statsmodels, read by `formulaic`."""

import ast
import dataclasses
import re
from typing import Any

import numpy as np

from leaveout.runtime.extras import needed
from leaveout.runtime.text import shortened
from leaveout.studies.own.coding import MANY, Block, Coding, written_out
from leaveout.studies.own.frames import Frame, kind_of

__all__ = ["Formula", "right_side", "sources_of"]

_INTERCEPT = "Intercept"


@dataclasses.dataclass(frozen=True, eq=False)
class Formula(Coding):
    """A formula, and what it learnt from the training rows.

    Attributes:
        text: its right side.
        spec: of formulaic, with the state of its transforms.
        named: the columns that it names.
        categories: source to the values of it that training rows have, where it stands for
            categories.
    """

    text: str
    spec: Any
    named: tuple[str, ...]
    categories: dict[str, frozenset]

    @classmethod
    def learnt(cls, text: str, frame: Frame) -> "Formula":
        """From the training rows.

        Raises:
            ValueError: for a formula that cannot be read or evaluated.
        """
        from formulaic import model_matrix
        from formulaic.errors import FormulaicError

        sources = sources_of(text, frame)
        texts = {name for name in sources if kind_of(frame[name]) == "text"}
        seen = {name: frozenset(frame[name].values.tolist()) for name in sources}
        sparse = any(len(seen[name]) > MANY for name in texts)
        try:
            found: Any = model_matrix(
                text, _pandas(frame, sources), output="sparse" if sparse else "numpy",
                na_action="raise",
            )  # fmt: skip
        except (FormulaicError, ValueError, TypeError, NameError) as error:
            first = str(error).partition("\n")[0]
            raise ValueError(f"the formula {text!r} cannot be evaluated: {first}") from error
        spec = found.model_spec
        kinds = {name: kind.value for name, (kind, _) in spec.encoder_state.items()}
        terms = [term for term, kind in kinds.items() if kind == "categorical"]
        coded = {name for name in sources if any(_names(term, name) for term in terms)}
        return cls(text, spec, tuple(sources), {name: seen[name] for name in texts | coded})

    @property
    def intercept(self) -> bool:
        """Whether the formula has one: it is then the model's own, and free of penalty."""
        return _INTERCEPT in self.spec.column_names

    @property
    def names(self) -> tuple[str, ...]:
        """As formulaic calls them."""
        return tuple(name for name in self.spec.column_names if name != _INTERCEPT)

    def inputs(self, frame: Frame) -> tuple[Block, np.ndarray]:
        """The model matrix without its intercept."""
        known = np.ones(frame.n, bool)
        for name, values in self.categories.items():
            known &= np.array([value in values for value in frame[name].values.tolist()], bool)
        found = self.spec.get_model_matrix(_pandas(frame.rows(known), self.named))
        block = getattr(found, "__wrapped__", found)
        kept = [name != _INTERCEPT for name in self.spec.column_names]
        return written_out(block, frame.n, known, np.flatnonzero(kept)), known

    def record(self) -> list[dict[str, Any]]:
        """The formula, its columns, and what its transforms keep."""
        state = repr(sorted(self.spec.transform_state.items()))
        levels = {name: sorted(map(str, values)) for name, values in self.categories.items()}
        return [{"kind": "formula", "text": self.text, "names": list(self.names),
                 "levels": levels, "state": state}]  # fmt: skip


def _names(term: str, name: str) -> bool:
    """Whether a term names a column, as a word of its own."""
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", term) is not None


def right_side(formula: str, target: str) -> str:
    """The right side of a formula, whose left side, if it has one, is the target.

    Raises:
        ValueError: if it is another.
    """
    left, tilde, right = formula.partition("~")
    if tilde and left.strip().strip("`") not in ("", target):
        raise ValueError(
            f"the left side of the formula is {left.strip()!r}, and the target is {target!r}; "
            "give the right side alone, or one target"
        )
    return right.strip() if tilde else formula.strip()


def sources_of(text: str, frame: Frame) -> list[str]:
    """The columns that a formula names.

    Raises:
        ImportError: without formulaic.
        ValueError: if it cannot be read, or names a column that is not there.
    """
    with needed("a formula", "table"):
        import formulaic
        from formulaic.errors import FormulaicError
    try:
        read: Any = formulaic.Formula
        terms = [term for product in read(text) for term in product.factors]
        named, used = _told({(term.expr, term.eval_method.name) for term in terms})
    except (FormulaicError, SyntaxError, AttributeError, TypeError) as error:
        first = str(error).partition("\n")[0]
        raise ValueError(f"the formula {text!r} cannot be read: {first}") from error
    for name in named:
        frame[name]
    wanted = named | (used & set(frame.columns))
    if not wanted:
        known = shortened(frame.columns)
        raise ValueError(f"the formula {text!r} names no column; there are {known}")
    return sorted(wanted)


def _told(factors: set[tuple[str, str]]) -> tuple[set[str], set[str]]:
    """Columns that factors name by themselves, and names that occur in calls such as scale(age)."""
    named = {text for text, how in factors if how == "LOOKUP"}
    used: set[str] = set()
    for text in (text for text, how in factors if how == "PYTHON"):
        named |= set(re.findall(r"`([^`]+)`", text))
        tree = ast.parse(re.sub(r"`[^`]+`", "_", text), mode="eval")
        calls = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        names = (node for node in ast.walk(tree) if isinstance(node, ast.Name))
        used |= {node.id for node in names if id(node) not in calls} - {"_"}
    return named, used


def _pandas(frame: Frame, names):
    """Some columns as a pandas table; categories in the order they were declared."""
    import pandas as pd

    table = pd.DataFrame({name: frame[name].values for name in names})
    for name in set(names) & set(frame.levels):
        table[name] = pd.Categorical(table[name], categories=list(frame.levels[name]))
    return table
