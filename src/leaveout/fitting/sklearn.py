"""Models trained by scikit-learn: its conventions converted, its parameters polished.

What an estimator computes from its data beside theta (class weights, a penalty that follows n, a
scaler, a penalty chosen by cross-validation) stays here as it is. An estimator that is fitted again
computes it anew, which `from_sklearn` says.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike

from leaveout.fitting.fitted import Fit
from leaveout.fitting.optimum import fit
from leaveout.objectives import losses
from leaveout.objectives.linear import LinearObjective
from leaveout.objectives.models import glm, logistic, poisson, softmax, squares
from leaveout.objectives.steps import Steps
from leaveout.runtime.tables import Names, check_names, common_rows, is_table, names_of
from leaveout.runtime.text import shortened, warn

__all__ = ["from_sklearn"]


@runtime_checkable
class _Estimator(Protocol):
    """Anything of scikit-learn's."""

    def get_params(self) -> dict[str, Any]: ...


@runtime_checkable
class _Linear(_Estimator, Protocol):
    """A fitted linear estimator."""

    @property
    def coef_(self) -> ArrayLike: ...

    @property
    def intercept_(self) -> ArrayLike: ...


@runtime_checkable
class _Pipeline(_Estimator, Protocol):
    """Steps that transform, and an estimator of what they give."""

    @property
    def steps(self) -> list[tuple[str, Any]]: ...

    def __getitem__(self, part: slice, /) -> Any: ...


@runtime_checkable
class _Search(_Estimator, Protocol):
    """A search that fitted the best of its estimators to all data."""

    @property
    def best_estimator_(self) -> Any: ...

    @property
    def best_params_(self) -> dict[str, Any]: ...


@dataclasses.dataclass(frozen=True)
class _Anew:
    """What a refit computes anew, and what to do where that is meant."""

    what: str
    instead: str = "nothing here follows it; fit the estimator again where that matters"


@dataclasses.dataclass(frozen=True, eq=False)
class _Bare:
    """A linear estimator out of its wrappers, and the inputs as it saw them.

    Attributes:
        estimator: that holds the coefficients.
        x: its inputs.
        anew: what a refit of the wrappers computes anew.
        names: of the inputs, where steps before it say them.
        steps: that make them of what the whole was given.
    """

    estimator: _Linear
    x: Any
    anew: tuple[_Anew, ...] = ()
    names: Names | None = None
    steps: Steps | None = None

    @property
    def name(self) -> str:
        """Of its class."""
        return type(self.estimator).__name__


@dataclasses.dataclass(frozen=True, eq=False)
class _Recipe:
    """How an estimator's objective is made.

    Attributes:
        make: of x, y and l2, weights and further options.
        y: targets as it takes them.
        l2: the penalty, in the sum convention.
        factor: what the base weights are multiplied by.
        penalised: as in `glm`.
        anew: what a refit computes anew.
    """

    make: Callable[..., LinearObjective]
    y: Any
    l2: float | np.ndarray
    factor: float | np.ndarray = 1.0
    penalised: np.ndarray | None = None
    anew: tuple[_Anew, ...] = ()


def from_sklearn(
    estimator: object, x, y, *, weights=None, frozen: bool = False, throw: bool = True
) -> Fit:
    """The fit of a trained scikit-learn estimator: conventions converted, optimum checked.

    LogisticRegression (two classes: `logistic` at l2 = 1 / C; more: `softmax`), Ridge (l2 = alpha,
    of several targets too), LinearRegression (l2 = 0) and PoissonRegressor (l2 = alpha n, or alpha
    sum of weights); LogisticRegressionCV and RidgeCV with the penalty they chose; and each of them
    at the end of a Pipeline or as the best of a GridSearchCV. The parameters are polished;
    scikit-learn's default tolerances leave them too rough.

    The objective is the one of this theta: what the estimator computed from the data to get there
    stays as it is when points leave. Where fitting it again would compute that anew, there is a
    warning:

    - balanced class weights; `lo.rebalance` makes groups that they follow,
    - PoissonRegressor's l2 = alpha n; `lo.effects(..., l2=)` takes the one of each group's refit,
    - steps of a pipeline that learn (a scaler), and a penalty chosen by cross-validation.

    Args:
        estimator: fitted on (x, y).
        x: (n d) the training inputs; of a pipeline those that its first step saw, a table of texts
            and categories for a ColumnTransformer or a vectorizer, whose sparse results stay
            sparse. Measures and `fit.predict` take a table or texts as the first step sees them,
            an array as the last one does, `pipeline[:-1].transform(x)`; names are those that the
            steps give, `lo.measures.parameter("number__age")`.
        y: (n) the training targets, (n K) for several.
        weights: (n) the `sample_weight` it was fitted with; a LogisticRegression's `class_weight`
            is taken from the estimator.
        frozen: what a refit would compute anew is meant to stay as it is: no warning.
        throw: as in `fit`.

    Returns:
        the fit of the converted objective, polished.

    Raises:
        ValueError: for another estimator or a penalty other than l2, or where two of x, y and
            weights have a pandas index and they differ.
        SolveError: if the parameters are not near the optimum of the converted objective.

    Example:
        >>> from sklearn.linear_model import Ridge
        >>> lo.from_sklearn(Ridge(alpha=2.0).fit(x, y), x, y).objective.l2.item()
        2.0
    """
    rows = common_rows(x=x, y=y, weights=weights)
    bare = _bare(estimator, x)
    if bare.name not in _RECIPES:
        raise ValueError(_refusal(bare.estimator))
    recipe, inputs = _RECIPES[bare.name], bare.x
    seen = getattr(bare.estimator, "feature_names_in_", None)
    if seen is not None:
        check_names(names_of(inputs), tuple(seen), "x")
    base = np.ones(len(y)) if weights is None else np.asarray(weights, float)
    found = recipe(bare.estimator, np.asarray(y), base)
    intercept = bool(bare.estimator.get_params().get("fit_intercept", True))
    options = {"intercept": intercept, "penalised": found.penalised}
    objective = found.make(inputs, found.y, found.l2, weights=base * found.factor, **options)
    objective = dataclasses.replace(
        objective, names=bare.names or objective.names, steps=bare.steps
    )
    if objective.fingerprint is None:  # a step made an array of the table, its rows are the same
        objective = dataclasses.replace(objective, fingerprint=rows)
    if not frozen:
        _warn_if_anew(type(estimator).__name__, bare.anew + found.anew)
    return fit(objective, theta=_flat(bare.estimator, intercept), throw=throw)


# ---- out of wrappers -----------------------------------------------------------------------------


def _bare(estimator: object, x) -> _Bare:
    """The linear estimator inside, the inputs it saw, and what a refit of the whole does anew."""
    name = type(estimator).__name__
    if not isinstance(estimator, _Estimator) or isinstance(estimator, type):
        raise ValueError(f"{_EXPECTED}, got {estimator!r:.100}")
    if isinstance(estimator, _Pipeline):
        return _after_steps(estimator, x)
    if isinstance(estimator, _Search):
        inner, best = _bare(estimator.best_estimator_, x), estimator.best_params_
        return dataclasses.replace(
            inner, anew=(_Anew(f"its search, which chose {best}"), *inner.anew)
        )
    if name.endswith("SearchCV") and _fitted(estimator):
        raise ValueError(
            f"this {name} has refit=False, so that it holds no model of all the data; fit one with "
            "the parameters that it found best"
        )
    if isinstance(estimator, _Linear):
        return _Bare(estimator, x)
    if not _fitted(estimator):
        raise ValueError(f"expected a fitted {name}, but it has no coef_; call its fit(x, y) first")
    raise ValueError(_refusal(estimator))


def _after_steps(pipeline: _Pipeline, x) -> _Bare:
    """The last estimator of a pipeline, given what the steps before it make of the inputs."""
    *before, (_, last) = pipeline.steps
    steps = [(name, step) for name, step in before if step not in (None, "passthrough")]
    sampling = [name for name, step in steps if hasattr(step, "fit_resample")]
    if sampling:
        raise ValueError(
            f"step {sampling[0]!r} resamples the training data, so that groups of it are none of "
            "what the model was fitted to; give the last step and the resampled (x, y)"
        )
    given = pipeline[:-1].transform(x) if steps and _fitted(last) else x
    inner = _bare(last, given)
    if given is not x:
        inner = dataclasses.replace(
            inner,
            names=_names(pipeline[:-1], given, inner.names),
            steps=Steps.of([step for _, step in steps], x, given).before(inner.steps),
        )
    learning = [name for name, step in steps if _learns(step)]
    if not learning:
        return inner
    what = f"the step{'s' * (len(learning) > 1)} {shortened(learning)}"
    return dataclasses.replace(inner, anew=(_Anew(what), *inner.anew))


def _names(steps: Any, given: object, known: Names | None) -> Names | None:
    """What the steps call the columns that they give; None for those that do not say."""
    if known is not None or is_table(given):  # said by a pipeline inside, or by the table itself
        return known
    try:
        names = steps.get_feature_names_out()
    except (AttributeError, ValueError, NotImplementedError):  # a step that has no names
        return None
    return tuple(map(str, names))


def _learns(step: object) -> bool:
    """Whether a transformer takes anything from the data it is fitted to."""
    tags = getattr(step, "__sklearn_tags__", None)
    return tags is None or bool(getattr(tags(), "requires_fit", True))


def _fitted(estimator: object) -> bool:
    """Whether an estimator has attributes that only a fit gives it."""
    if isinstance(estimator, _Pipeline):
        return _fitted(estimator.steps[-1][1])
    names = vars(estimator) if hasattr(estimator, "__dict__") else ()
    return any(name.endswith("_") and not name.startswith("_") for name in names)


def _flat(estimator: _Linear, intercept: bool) -> np.ndarray:
    weight, bias = np.asarray(estimator.coef_, float), np.asarray(estimator.intercept_, float)
    return np.concatenate([weight.ravel(), bias.ravel()]) if intercept else weight.ravel()


def _warn_if_anew(name: str, anew: Iterable[_Anew]) -> None:
    """Say what a refit would compute anew, each with what to do."""
    told = [f"{each.what} ({each.instead})" for each in anew]
    if told:
        warn(
            f"effects are those of training with what {name} computed from all the data kept; "
            f"fitted again without a group it would compute anew {'; '.join(told)}. If they are "
            "meant to stay: lo.from_sklearn(..., frozen=True)"
        )


# ---- one recipe an estimator ---------------------------------------------------------------------


def _logistic(estimator: Any, y: np.ndarray, base: np.ndarray) -> _Recipe:
    """LogisticRegression: C times the sum of losses."""
    parameters, classes = estimator.get_params(), np.asarray(estimator.classes_)
    _refuse_l1(parameters.get("penalty"), parameters.get("l1_ratio"))
    l2 = 0.0 if parameters.get("penalty", "l2") is None else 1 / float(parameters["C"])
    return _classifier(estimator, y, base, l2, classes)


def _logistic_cv(estimator: Any, y: np.ndarray, base: np.ndarray) -> _Recipe:
    """LogisticRegressionCV: fitted to all data at the C it chose."""
    parameters, classes = estimator.get_params(), np.asarray(estimator.classes_)
    chosen, l1_ratio = np.unique(estimator.C_), getattr(estimator, "l1_ratio_", None)
    _refuse_l1(parameters.get("penalty"), l1_ratio)
    if not parameters.get("refit", True):
        raise ValueError(
            "expected LogisticRegressionCV(refit=True); without it its coefficients are a mean "
            "over folds, no optimum"
        )
    if chosen.size > 1:
        raise ValueError(
            f"expected one C for all classes, got {chosen}: these are models of one class against "
            "the rest; fit lo.logistic(x, y == label, l2=1 / C) for each"
        )
    found = _classifier(estimator, y, base, 1 / float(chosen[0]), classes)
    chosen = _Anew(f"the choice of C, which is {chosen[0]:.4g}")
    return dataclasses.replace(found, anew=(chosen, *found.anew))


def _classifier(estimator: Any, y, base: np.ndarray, l2: float, classes: np.ndarray) -> _Recipe:
    """Logistic regression of two classes, or of more."""
    parameters, two = estimator.get_params(), len(classes) == 2
    weighted, penalised = parameters.get("class_weight"), None
    if parameters.get("solver") == "liblinear":
        if not two:
            raise ValueError(
                "liblinear fits one class against the rest, for each of them; fit "
                "lo.logistic(x, y == label, l2=1 / C) for each, or use another solver"
            )
        if parameters.get("fit_intercept", True):  # the weight of a column intercept_scaling
            own = 1 / float(parameters.get("intercept_scaling", 1)) ** 2
            penalised = np.append(np.ones(np.size(estimator.coef_)), own)
    follows = _Anew(
        "its balanced class weights",
        "lo.rebalance(groups, y) makes groups that they follow, "
        "lo.rebalance(groups, y, weights=...) where it was fitted with sample weights",
    )
    return _Recipe(
        make=logistic if two else softmax,
        y=y,
        l2=l2,
        factor=1.0 if weighted is None else _class_weights(weighted, classes, y, base),
        penalised=penalised,
        anew=(follows,) if isinstance(weighted, str) else (),
    )


def _refuse_l1(penalty: object, l1_ratio: object) -> None:
    shares = np.ravel(np.asarray(l1_ratio, object))
    if penalty in ("l1", "elasticnet") or any(share not in (None, 0) for share in shares):
        raise ValueError("expected an l2 penalty, got an l1 part; the optimum is not smooth there")


def _ridge(estimator: Any, y: np.ndarray, base: np.ndarray) -> _Recipe:
    """Ridge and LinearRegression: half the sum of squares is ours, so that l2 = alpha."""
    parameters = estimator.get_params()
    if parameters.get("positive"):
        raise ValueError(
            "expected positive=False: where a coefficient is held at 0 the optimum is not smooth, "
            "and there is no influence on it"
        )
    return _least_squares(parameters.get("alpha", 0.0), y)


def _ridge_cv(estimator: Any, y: np.ndarray, base: np.ndarray) -> _Recipe:
    """RidgeCV: Ridge at the alpha it chose, or one for each target."""
    alpha = np.asarray(estimator.alpha_)
    chosen = _Anew(f"the choice of alpha, which is {np.array2string(alpha, precision=4)}")
    return dataclasses.replace(_least_squares(alpha, y), anew=(chosen,))


def _least_squares(alpha, y: np.ndarray) -> _Recipe:
    """Least squares of one target, or of several, each with a penalty of its own."""
    alpha, outputs = np.asarray(alpha, float).ravel(), int(np.prod(y.shape[1:]))
    if outputs == 1:
        return _Recipe(squares, y.reshape(len(y)), float(alpha[0]))
    if not np.isfinite(np.asarray(y, float)).all():
        raise ValueError("y must be finite, but some targets are NaN or infinite")
    l2 = float(alpha[0]) if alpha.size == 1 else alpha

    def make(x, y, l2, **options):
        if np.ndim(l2):
            l2 = np.broadcast_to(
                l2[:, None], (outputs, (getattr(x, "shape", None) or np.shape(x))[1])
            )
        several = dataclasses.replace(losses.squares, targets="any")
        return glm(several, x, y, outputs, l2, **options)

    return _Recipe(make, np.asarray(y, float), l2)


def _poisson(estimator: Any, y: np.ndarray, base: np.ndarray) -> _Recipe:
    """PoissonRegressor: the mean loss, so that l2 = alpha n."""
    alpha = float(estimator.get_params()["alpha"])
    stays = "alpha * fit.objective.stays(groups.dense()).sum(axis=1)"
    follows = _Anew(
        f"its penalty, alpha = {alpha:.4g} times the weight of all points",
        f"lo.effects(fit, groups, measures, method, l2={stays}) follows it",
    )
    return _Recipe(poisson, y, alpha * float(base.sum()), anew=(follows,) if alpha else ())


def _class_weights(given, classes, y, base) -> np.ndarray:
    """scikit-learn's class_weight as one factor an example; "balanced" counts with weights."""
    codes = np.searchsorted(classes, y)
    if isinstance(given, Mapping):
        return np.array([given.get(label, 1.0) for label in classes])[codes]
    counts = np.bincount(codes, base, len(classes))
    return (base.sum() / (len(classes) * counts))[codes]


_RECIPES: dict[str, Callable[[Any, np.ndarray, np.ndarray], _Recipe]] = {
    "LinearRegression": _ridge,
    "LogisticRegression": _logistic,
    "LogisticRegressionCV": _logistic_cv,
    "PoissonRegressor": _poisson,
    "Ridge": _ridge,
    "RidgeCV": _ridge_cv,
}

_EXPECTED = (
    f"expected {', '.join(_RECIPES)}, alone, at the end of a Pipeline, or as the best of a "
    "GridSearchCV"
)


# ---- why others are refused ----------------------------------------------------------------------

_L1 = "its l1 part makes the optimum not smooth, and there is no influence there"
_HINGE = "its loss has no second derivative, so that there is no influence; see lo.logistic"
_EACH = "it holds a model for each {}; give estimators_[k] and {}"
_WHY = {
    "CalibratedClassifierCV": "its scores are those of classifiers fitted to folds, recalibrated "
    "and averaged; give the classifier that it calibrates, fitted to all of (x, y)",
    "ClassifierChain": _EACH.format("target", "the inputs and targets that it was fitted to"),
    "ElasticNet": _L1,
    "ElasticNetCV": _L1,
    "FixedThresholdClassifier": "it only moves the threshold of a classifier; give its estimator_",
    "HuberRegressor": "it fits a scale beside the coefficients; write its loss for lo.Objective",
    "Lasso": _L1,
    "LassoCV": _L1,
    "LinearSVC": _HINGE,
    "MultiOutputClassifier": _EACH.format("target", "y[:, k]"),
    "MultiOutputRegressor": _EACH.format("target", "y[:, k]"),
    "OneVsOneClassifier": _EACH.format("pair of classes", "the examples of its two"),
    "OneVsRestClassifier": _EACH.format("class", "y == classes_[k]"),
    "RidgeClassifier": "it is least squares on labels coded -1 and 1; fit lo.squares to these "
    "targets, at l2=alpha",
    "RidgeClassifierCV": "it is least squares on labels coded -1 and 1; fit lo.squares to these "
    "targets, at l2=alpha_",
    "SGDClassifier": "it stops before an optimum; fit lo.logistic(x, y, l2=alpha * n), if its loss "
    'is "log_loss"',
    "SGDRegressor": "it stops before an optimum; fit lo.squares(x, y, l2=alpha * n)",
    "TransformedTargetRegressor": "its regressor saw other targets; give regressor_ and "
    "transformer_.transform(y)",
    "TunedThresholdClassifierCV": "it only moves a classifier's threshold; give its estimator_",
}


def _refusal(estimator: object) -> str:
    return f"{type(estimator).__name__} cannot be taken over: {_why_not(estimator)} ({_EXPECTED})"


def _why_not(estimator: object) -> str:
    """What an estimator is instead, and what to do."""
    name = type(estimator).__name__
    if name in _WHY:
        return _WHY[name]
    if isinstance(estimator, _Linear):
        return (
            "its objective is not one that is known here; build it with lo.glm and pass its "
            "parameters to lo.fit(objective, theta=)"
        )
    if any(hasattr(estimator, held) for held in ("estimators_", "estimator_")):
        return (
            "it is made of other estimators; give one of those that it holds (estimator_, "
            "estimators_), with the inputs and targets that this one was fitted to"
        )
    return "it has no coefficients, so it is no linear model; see lo.Objective for losses of others"
