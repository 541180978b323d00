"""Effects: what each group's removal does to each measure, f(without) - f(with)."""

import dataclasses
from collections.abc import Callable

import numpy as np

from leaveout.attribution.container import ROWS, Effects
from leaveout.attribution.stream import Question, gathered, plan, pose, stream
from leaveout.attribution.trained import effects_of_run
from leaveout.fitting.double import in_double
from leaveout.fitting.fitted import Fit
from leaveout.fitting.gates import admit, check_fit
from leaveout.groups import Groups
from leaveout.measures import Measures
from leaveout.methods import Method, Newton, Retrain, l2_of_groups
from leaveout.runtime.memory import limited
from leaveout.runtime.options import is_positive
from leaveout.runtime.sharding import entry_point, is_traced, tracing
from leaveout.runtime.solution import Status, raise_unless_converged
from leaveout.runtime.text import warn
from leaveout.training.run import Run

__all__ = ["check_method", "check_outside", "effects"]

# how exactly to retrain what is not narrow enough, and whether to certify by its own Hessian
_LADDER = ((1e-9, False), (1e-12, False), (1e-12, True))


@in_double
@entry_point
def effects(
    fit: Fit | Run,
    groups: Groups,
    measures: Measures,
    method: Method = Newton(),
    *,
    l2=None,
    certify: bool = False,
    tolerance: float | None = None,
    memory=None,
    throw: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Effects:
    """What each group's removal does to each measure: f(without) - f(with).

    Influence is taken to first order (unless `at_changed`, and but for measures such as accuracy
    that have no useful derivative): one solve a column and one pass over the data where the measure
    does not depend on who leaves. Newton steps and retraining evaluate
    the measure at the changed theta. Groups are streamed in chunks; peak memory does not grow with
    their number.

    Of a `Run`, the training of a network, effects are the mean over its seeds, each paired with
    itself: `lo.Retrain()` trains again without each group, `lo.Metagradient()` is its derivative.

    Args:
        fit: the fitted objective, or a `Run` from `lo.train`.
        groups: what leaves.
        measures: one or a list: members of `measures`, or functions f(theta), f(theta, w) of the
            PyTree theta and the float (n) array w of what leaves, to a scalar or a vector.
        method: `Influence()`, `SecondOrder()`, `Krylov()`, `Newton()`, `NewtonChebyshev()` or
            `Retrain()`.
        l2: (g) a penalty for each group's refit, where that changes with who leaves: alpha times
            the weight that is left, of a penalty on the mean loss. Exact for Newton steps and
            retraining, to first order for influence, one solve a group. Default the objective's.
            Where that has one for each coefficient, what multiplies it. Intervals then come from
            the penalty alone. A pandas Series goes by the groups' names.
        certify: fill `lower` and `upper`: a certified interval (numerical; confidence intervals,
            which are statistical, are `confidence`'s) for the effect of RETRAINING, whatever the
            method, that holds it for sure, and `certificate`, which says how good it is. Both the
            retrained theta and theta_hat are enclosed, and so is what float64 rounding can do to
            scores, slopes, losses, sums and solves; `certify.balls` says how, and what is taken
            for granted. Linear models whose loss is convex and states an envelope, not of sparse
            inputs; predictions, losses, self-loss, linear functionals. From a retrained theta about
            two and a half products with the data a group; from an approximation, and where the
            penalty alone proves too little, a Hessian and its factor, n p^2 + p^3, which is mostly
            dearer than retraining.
        tolerance: go on with every group until half its interval is at most this share of the root
            mean square effect of each column: the group is retrained, ever more exactly, and
            `value`, `steps` and the interval are replaced; values outside their interval are moved
            to its nearer end. Groups that cannot be brought so far are warned of and have the
            status `inaccurate`. Implies `certify`.
        memory: bytes that working arrays may take; default a quarter of what is free.
        throw: raise if any effect is flagged; otherwise `status` says which, and `column_status` in
            which columns.
        progress: called with the number of groups done, after each chunk.

    Returns:
        value (g m).

    Raises:
        ValueError: for what is no method or measure, or groups of other data.
        SolveError: for a theta too far from its optimum; with `throw`, if an effect is flagged.

    Example:
        >>> lo.effects(fit, groups, [measure, lambda theta: theta.bias], lo.Retrain()).value.shape
        (4, 2)
        >>> sure = lo.effects(fit, groups, measure, lo.Retrain(), certify=True)
        >>> bool((sure.lower <= sure.value).all() and (sure.value <= sure.upper).all())
        True
    """
    if tolerance is not None and not is_positive(tolerance):
        raise ValueError(f"expected a tolerance > 0, got {tolerance!r}; 1e-3 is a thousandth")
    if progress is not None and not callable(progress):
        raise ValueError(
            f"expected progress as a function of the number of groups done, got {progress!r}"
        )
    if isinstance(fit, Run):
        _check_kind(method)
        if l2 is not None or certify or tolerance is not None:
            raise ValueError("l2=, certify= and tolerance= are for fits; a Run has no intervals")
        how = {"memory": memory, "throw": throw, "progress": progress}
        return effects_of_run(fit, groups, measures, method, **how)
    check_method(fit, method)
    fit, groups = admit(fit, groups, method.needs)
    own = l2_of_groups(l2, groups)
    with limited(memory):
        certify = certify or tolerance is not None
        question = pose(fit, groups, measures, method, l2=own, certify=certify)
        result = gathered(question, progress=progress)
        if tolerance is not None:
            result = _narrowed(question, result, tolerance)
    if throw:
        raise_unless_converged(result.status, result.residual, groups.titles)
    return result


def check_outside(fit: Fit, what: str) -> None:
    """Refuse what plans on the host, where JAX is writing a program down.

    Raises:
        ValueError: with what to call in its place.
    """
    if is_traced(fit) or tracing():
        raise ValueError(
            f"{what} works outside jax.jit; inside, call lo.influence, lo.newton or lo.retrain "
            "and evaluate your function at theta + change"
        )


def check_method(fit: Fit, method: Method) -> None:
    """Refuse what is no method, and a fit that is being traced.

    Raises:
        ValueError: with what to write.
    """
    check_fit(fit)
    check_outside(fit, "lo.effects")
    _check_kind(method)


def _check_kind(method: Method) -> None:
    if not isinstance(method, Method):
        raise ValueError(
            "expected a method such as lo.Influence(), lo.Newton() or lo.Retrain(), or a value of "
            f"your own lo.Method, got {method!r}"
        )


def _narrowed(question: Question, effects: Effects, tolerance: float) -> Effects:
    """The effects with every interval that is too wide replaced by one of a retrained theta."""
    hopeless = np.zeros(len(effects.columns), bool)  # measures that are never certified
    for exactness, full in _LADDER:
        wide = np.flatnonzero((_widths(effects)[:, ~hopeless] > tolerance).any(axis=1))
        if not len(wide):
            break
        again = pose(
            question.fit, question.groups[wide], question.measures, Retrain(exactness),
            l2=None if question.l2 is None else question.l2[wide], certify=True, full=full,
        )  # fmt: skip
        for rows, part in stream(again, plan(again.fit, again.groups)):
            _replace(effects, wide[rows], part)
        hopeless = np.asarray(np.isinf(effects.width).all(axis=0))
    effects = _told(effects, tolerance, hopeless)
    # an approximation can lie outside its own interval, which is for retraining
    return dataclasses.replace(effects, value=np.clip(effects.value, effects.lower, effects.upper))


def _widths(effects: Effects) -> np.ndarray:
    """(g m) half the intervals, as shares of the root mean square effect of their column."""
    known = np.isfinite(effects.value)
    squares = np.where(known, effects.value, 0.0) ** 2
    scale = np.sqrt(squares.sum(axis=0) / np.maximum(known.sum(axis=0), 1))
    return np.nan_to_num(effects.width / np.where(scale > 0, scale, 1.0), nan=np.inf, posinf=np.inf)


def _told(effects: Effects, tolerance: float, hopeless: np.ndarray) -> Effects:
    """The effects with the status of what is still too wide; which is also warned of."""
    if hopeless.any():
        columns = [name for name, never in zip(effects.columns, hopeless, strict=True) if never]
        warn(
            f"nothing can be proven of {', '.join(columns[:5])}{', ...' * (len(columns) > 5)}, so "
            "that the tolerance says nothing of it; ask for predictions, losses, self-loss or "
            "linear functionals of a convex linear model, in float64"
        )
    share = np.where(hopeless, 0.0, _widths(effects))
    wide, share = (share > tolerance), np.max(share, axis=1, initial=0.0)
    each = np.where(wide & (effects.column_status == 0), Status.inaccurate, effects.column_status)
    wide = wide.any(axis=1)
    if wide.any():
        warn(
            f"the tolerance of {tolerance:g} was not reached for {wide.sum():,} of {wide.size:,} "
            f"groups, whose status is now inaccurate: half an interval is still up to "
            f"{share.max():.1e} of the root mean square effect; rounding, or what these groups "
            "leave, allows no more: loosen tolerance, raise l2, or centre the features"
        )
    status = np.where(wide & (effects.status == 0), Status.inaccurate, effects.status)
    return dataclasses.replace(
        effects, status=status.astype(np.int8), column_status=each.astype(np.int8)
    )


def _replace(effects: Effects, rows: np.ndarray, part: Effects) -> None:
    """Write the part over these rows; the steps that both took add up."""
    for name in ROWS:
        new, old = getattr(part, name), getattr(effects, name)
        if old is None:  # of a run only
            continue
        old[rows] = new + old[rows] if name == "steps" else new
