"""Models trained by scikit-learn: its conventions converted, its parameters polished."""

from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike

from leaveout.fitting.fitted import Fit
from leaveout.fitting.optimum import fit
from leaveout.objectives.linear import logistic, poisson, softmax, squares

__all__ = ["from_sklearn"]


@runtime_checkable
class _Linear(Protocol):
    """A fitted linear estimator."""

    @property
    def coef_(self) -> ArrayLike: ...

    @property
    def intercept_(self) -> ArrayLike: ...

    def get_params(self) -> dict[str, Any]: ...


@runtime_checkable
class _Classifier(_Linear, Protocol):
    """One that knows its labels."""

    @property
    def classes_(self) -> ArrayLike: ...


def from_sklearn(estimator: object, x, y, *, weights=None, throw: bool = True) -> Fit:
    """The fit of a trained scikit-learn estimator: conventions converted, optimum checked.

    LogisticRegression (two classes: `logistic` at l2 = 1 / C; more: `softmax`), Ridge (l2 = alpha),
    LinearRegression (l2 = 0) and PoissonRegressor (l2 = alpha n, or alpha sum of weights). The
    parameters are polished; scikit-learn's default tolerances leave them too rough.

    Args:
        estimator: fitted on (x, y).
        x: (n d) the training inputs.
        y: (n) the training targets.
        weights: (n) the `sample_weight` it was fitted with; a LogisticRegression's `class_weight`
            is taken from the estimator.
        throw: as in `fit`.

    Raises:
        ValueError: for another estimator or a penalty other than l2.
        SolveError: if the parameters are not near the optimum of the converted objective.
    """
    name = type(estimator).__name__
    if not isinstance(estimator, _Linear):
        raise ValueError(f"expected a fitted {name}, but it has no coef_; call its fit(x, y) first")
    parameters = estimator.get_params()
    intercept = bool(parameters.get("fit_intercept", True))
    n = np.shape(x)[0]
    base = np.ones(n) if weights is None else np.asarray(weights, float)
    options: dict[str, Any] = {"intercept": intercept}
    if name == "LogisticRegression" and isinstance(estimator, _Classifier):
        l1_ratio = parameters.get("l1_ratio") or 0
        penalty = parameters.get("penalty", "l2")
        if penalty in ("l1", "elasticnet") or l1_ratio not in (0, 0.0):
            raise ValueError(
                "expected an l2 penalty, got an l1 part; the optimum is not smooth there"
            )
        l2 = 0.0 if penalty is None else 1 / float(parameters["C"])
        classes = np.asarray(estimator.classes_)
        if parameters.get("class_weight") is not None:
            base = base * _class_weights(parameters["class_weight"], classes, np.asarray(y), base)
        if parameters.get("solver") == "liblinear" and intercept:
            if parameters.get("intercept_scaling", 1) != 1:
                raise ValueError("expected intercept_scaling=1 for liblinear")
            options["penalised"] = np.ones(np.size(estimator.coef_) + np.size(classes[1:]), bool)
        make = logistic if len(classes) == 2 else softmax
    elif name in ("Ridge", "LinearRegression"):
        l2 = float(parameters.get("alpha", 0.0))
        make = squares
        if np.ndim(y) > 1:
            raise ValueError(f"expected one target column, got y of shape {np.shape(y)}")
    elif name == "PoissonRegressor":
        l2, make = float(parameters["alpha"]) * float(base.sum()), poisson
    else:
        raise ValueError(
            f"expected LogisticRegression, Ridge, LinearRegression or PoissonRegressor, got {name};"
            " build the objective with lo.glm and pass its parameters to lo.fit(objective, theta=)"
        )
    objective = make(x, y, l2, weights=base, **options)
    weight, bias = np.asarray(estimator.coef_, float), np.asarray(estimator.intercept_, float)
    flat = np.concatenate([weight.ravel(), np.atleast_1d(bias)]) if intercept else weight.ravel()
    return fit(objective, theta=flat, throw=throw)


def _class_weights(given, classes, y, base) -> np.ndarray:
    """scikit-learn's class_weight as one factor an example; "balanced" counts with weights."""
    codes = np.searchsorted(classes, y)
    if isinstance(given, dict):
        return np.array([given.get(label, 1.0) for label in classes])[codes]
    counts = np.bincount(codes, base, len(classes))
    return (base.sum() / (len(classes) * counts))[codes]
