"""Models fitted by statsmodels: the same objective without a penalty, its names, its parameters."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

from leaveout.fitting.fitted import Fit
from leaveout.fitting.optimum import fit
from leaveout.objectives.linear import LinearObjective
from leaveout.objectives.models import logistic, poisson, softmax, squares
from leaveout.runtime.tables import Names, is_table

__all__ = ["from_statsmodels"]


@runtime_checkable
class _Model(Protocol):
    """A model of statsmodels: targets, design, names."""

    endog: np.ndarray
    exog: np.ndarray
    exog_names: Any
    data: Any


@runtime_checkable
class _Results(Protocol):
    """What its fit returned."""

    model: Any
    params: Any


@dataclasses.dataclass(frozen=True, eq=False)
class _Recipe:
    """How the objective of a model is made.

    Attributes:
        make: of x, y and l2.
        y: targets as it takes them.
        weights: base weights, or None.
        offset: known amounts added to the scores, or None.
    """

    make: Callable[..., LinearObjective]
    y: np.ndarray
    weights: np.ndarray | None = None
    offset: np.ndarray | None = None


def from_statsmodels(results: object, *, throw: bool = True) -> Fit:
    """The fit of a model that statsmodels fitted: its data, names and parameters, optimum checked.

        results = smf.logit("died ~ age + C(ward)", frame).fit()
        fit = lo.from_statsmodels(results)
        print(lo.effects(fit, groups, lo.measures.odds_ratio("age")))

    Logit, OLS, WLS, Poisson, MNLogit (`softmax`; its coefficients are differences from those of the
    first class) and GLM of the families Gaussian (identity link), Binomial (logit) and Poisson
    (log), with their weights, offsets and exposures. There is no penalty. A column of ones is the
    intercept, wherever it stands. Rows that statsmodels left out as incomplete are not there:
    groups are of those it kept, `results.model.data.row_labels`.

    Args:
        results: what `fit()` returned.
        throw: as in `lo.fit`.

    Returns:
        the fit, at the optimum that the parameters are near.

    Raises:
        ValueError: for another model, family or link, or a fit with a penalty.
        SolveError: if the parameters are not near the optimum of the objective.

    Example:
        >>> import statsmodels.api as sm
        >>> results = sm.OLS(x[:, 0], sm.add_constant(x[:, 1:])).fit()
        >>> taken = lo.from_statsmodels(results)
        >>> taken.objective.names, np.allclose(taken.theta.bias, results.params[0])
        (('x1', 'x2'), True)
    """
    inner = _unwrapped(results)
    if not isinstance(inner, _Results) or not isinstance(inner.model, _Model):
        raise ValueError(f"expected what fit() of statsmodels returned, got {results!r:.100}")
    name, kind = type(inner.model).__name__, type(inner).__name__
    if "Regularized" in kind or kind.startswith("L1"):
        raise ValueError(
            f"this {name} was fitted with fit_regularized, whose penalty is of another form; fit "
            "lo.glm with l2="
        )
    if name not in _RECIPES:
        raise ValueError(f"{name} cannot be taken over; known are {', '.join(_RECIPES)}")
    recipe = _RECIPES[name](inner.model)
    x, names, ones = _inputs(inner.model)
    objective = recipe.make(
        x, recipe.y, 0.0, intercept=ones is not None, weights=recipe.weights, offset=recipe.offset
    )
    if not is_table(x):
        objective = dataclasses.replace(objective, names=names)
    return fit(objective, theta=_flat(inner, objective, ones), throw=throw)


def _unwrapped(results):
    """The results inside their wrapper, which has attributes only once they are asked for."""
    return getattr(results, "_results", results)


def _inputs(model: _Model) -> tuple[Any, Names, int | None]:
    """Inputs without the constant column, their names, and where that column was."""
    design = np.asarray(model.exog, float)
    same = np.flatnonzero((design == 1).all(axis=0))
    ones = int(same[0]) if same.size else None
    kept = [j for j in range(design.shape[1]) if j != ones]
    names = tuple(str(model.exog_names[j]) for j in kept)
    table: Any = getattr(model.data, "orig_exog", None)
    if is_table(table) and len(table) == len(design):  # its index says which rows there are
        return table.iloc[:, kept], names, ones
    return design[:, kept], names, ones


def _flat(results: _Results, objective: LinearObjective, ones: int | None) -> np.ndarray:
    """The parameters as the flat theta; of several classes with zeros for the first."""
    given = np.asarray(results.params, float)
    table = given.reshape(len(given), -1)  # (q K)
    if objective.outputs > 1:
        table = np.c_[np.zeros(len(table)), table]
        table = table - table.mean(axis=1, keepdims=True)
    kept = [j for j in range(len(table)) if j != ones]
    parts = [table[kept].T.ravel(), *([] if ones is None else [table[ones]])]
    return np.concatenate(parts)


# ---- one recipe a model --------------------------------------------------------------------------


def _logit(model: Any) -> _Recipe:
    """Logit: labels 0 and 1."""
    return _Recipe(logistic, _labels(model.endog), offset=_offset(model))


def _least_squares(model: Any) -> _Recipe:
    """OLS and WLS."""
    weights = np.asarray(model.weights, float)
    plain = weights.ndim == 0 or (weights == 1).all()
    return _Recipe(squares, np.asarray(model.endog, float), None if plain else weights)


def _counts(model: Any) -> _Recipe:
    """Poisson regression."""
    return _Recipe(poisson, np.asarray(model.endog, float), offset=_offset(model))


def _multinomial(model: Any) -> _Recipe:
    """MNLogit, whose codes bear the names of its classes where it knows them."""
    codes = np.asarray(model.endog)
    codes = codes.argmax(axis=1) if codes.ndim == 2 else codes.astype(int)
    known: Mapping[int, object] = getattr(model, "_ynames_map", {})
    names = [str(known.get(k, k)) for k in range(int(codes.max()) + 1)]
    ordered = sorted(names) == names  # else the first class would be another one
    return _Recipe(softmax, np.asarray(names)[codes] if ordered else codes)


_FAMILIES = {("Gaussian", "identity"): squares, ("Binomial", "logit"): logistic,
             ("Poisson", "log"): poisson}  # fmt: skip


def _generalised(model: Any) -> _Recipe:
    """GLM of a family and its canonical link."""
    family, link = type(model.family).__name__, type(model.family.link).__name__.lower()
    if (family, link) not in _FAMILIES:
        known = ", ".join(f"{one} ({two})" for one, two in _FAMILIES)
        raise ValueError(
            f"GLM of the family {family} with the link {link} cannot be taken over: known are "
            f"{known}; write its loss for lo.glm"
        )
    make, y = _FAMILIES[family, link], np.asarray(model.endog, float)
    weights = np.asarray(model.freq_weights, float) * np.asarray(model.var_weights, float)
    trials = np.asarray(getattr(model, "n_trials", 1))
    if make is logistic and (trials != 1).any():
        raise ValueError(
            "expected Binomial of labels 0 and 1, got counts of several trials; give each trial a "
            "row, or two rows with freq_weights"
        )
    y = _labels(y) if make is logistic else y
    return _Recipe(make, y, None if (weights == 1).all() else weights, _offset(model))


def _offset(model: Any) -> np.ndarray | None:
    """The offset and the log of the exposure, as statsmodels keeps it."""
    parts = [getattr(model, name, None) for name in ("offset", "exposure")]
    known = [np.asarray(part, float) for part in parts if part is not None]
    total = np.broadcast_to(sum(known, np.zeros(())), np.shape(model.endog)[:1])
    return total.copy() if np.any(total) else None


def _labels(y) -> np.ndarray:
    """Labels 0 and 1.

    Raises:
        ValueError: for other numbers, such as shares.
    """
    values = np.asarray(y, float)
    if not np.isin(values, (0, 1)).all():
        raise ValueError(f"expected labels 0 and 1, got {values[~np.isin(values, (0, 1))][0]}")
    return values.astype(int)


_RECIPES: dict[str, Callable[[Any], _Recipe]] = {
    "GLM": _generalised,
    "Logit": _logit,
    "MNLogit": _multinomial,
    "OLS": _least_squares,
    "Poisson": _counts,
    "WLS": _least_squares,
}
