"""Fitting: theta at a true optimum, with the proof beside it.

Influence, Newton steps and retraining all start from theta_hat = argmin J(.; 1). If theta is not
an optimum they answer another question, so `fit` measures how far it is: the Newton decrement
(g' H^-1 g)^1/2, beside the sandwich length (sum_i |g_i|^2 in H^-1)^1/2, which is how far theta_hat
itself moves when the sample is drawn again, in the same norm.
"""

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from leaveout.fitting import lbfgs
from leaveout.fitting.descent import descended
from leaveout.fitting.fitted import Fit, rounding
from leaveout.fitting.implicit import DENSE, attached, known
from leaveout.fitting.passes import count_blocks, second_order
from leaveout.fitting.paths import path
from leaveout.fitting.places import (
    FAR,
    Place,
    assess,
    lifted_step,
    moved,
    sampled,
    sandwich_at,
)
from leaveout.fitting.precision import is_doubled, narrowed, widened
from leaveout.objectives.abstract import AbstractObjective
from leaveout.objectives.linear import LinearObjective
from leaveout.objectives.scored import scored
from leaveout.runtime.remembered import remembered
from leaveout.runtime.sharding import entry_point, is_traced, replicate, to_host
from leaveout.runtime.solution import SolveError, Status
from leaveout.runtime.text import warn
from leaveout.solvers import (
    CG,
    Factor,
    OutputFactor,
    factorise,
    factorise_outputs,
)

__all__ = ["factor_at", "fit", "fitted_wide"]

#: what to do about a fit, where that differs from what to do about a group
_ADVICE = {
    Status.singular: "the Hessian is singular (columns that add up to others, or a constant one "
    "beside the intercept, without a penalty); raise l2, or drop the column",
    Status.no_minimum: "the loss keeps falling towards infinite parameters (the classes can be "
    "separated, one is empty, or every count is 0); raise l2, and if it is the intercept that runs "
    "away, which has no penalty, fit without it (intercept=False) or penalise it (penalised=)",
}
_ROUNDED = 1e-11  # sandwich lengths that rounding leaves at an ordinary optimum
_ALMOST = 1e-6  # sandwich lengths from where the next Newton step, or the one after, is the last
_ROUNDING = 256  # units of rounding in a decrement, in sandwich lengths, that are an optimum
_NEAR = 0.1  # a theta trained elsewhere may be this share of a sandwich length away


@entry_point
def fit(
    objective: AbstractObjective,
    theta: PyTree | None = None,
    *,
    tolerance: float = 1e-6,
    max_steps: int = 200,
    throw: bool = True,
) -> Fit:
    """Minimise an objective to rounding, or check and polish a theta trained elsewhere.

    Damped Newton steps, continued until the decrement no longer falls; n p^2 + p^3 / 3 a step. On a
    processor more than 65,536 examples are looked at in blocks, of a convex loss a few blocks
    first: beside the data nothing is then held that has an entry an example and parameter.
    L-BFGS where p is too large for a dense Hessian; of linear models of K > 1 outputs in the metric
    of K factors of q x q, q columns of the design, which influence, Newton steps and retraining
    then work in too. Residuals are in its norm, which is near that of H. Where a linear model has
    more columns than examples and all weights are penalised alike, p is the rank of the rows: theta
    is sought in their span (`Fit.centred`), once a factorisation of n^2 d has found it.

    On a processor a linear model given in float32 is fitted in float64, and theta rounded at the
    end, which is what `Fit.residual` then measures; so it is asked later (`fitting.precision`).

    Under `jax.grad` or `jax.jvp` (outside `jax.jit`) theta and the factor have the derivatives of
    the minimum in whatever the objective holds as floats, by one solve with the Hessian.

    Args:
        objective: what to minimise.
        theta: parameters trained elsewhere, as their PyTree (or flat); refused if further than a
            tenth of a sandwich length from the optimum. Default: start from scratch.
        tolerance: the decrement that counts as an optimum, in sandwich lengths; in float32 at
            least 3e-5.
        max_steps: Newton steps at most.
        throw: raise when the optimum was not reached; otherwise `Fit.status` says so.

    Returns:
        theta, flat and as its PyTree, with the proof that it is an optimum.

    Raises:
        SolveError: if no optimum was found, or `theta` is not near one.
        ValueError: if theta does not have the objective's parameters.

    Example:
        >>> fit = lo.fit(lo.squares(x, y, l2=1.0))
        >>> lo.Status(int(fit.status)).name, bool(fit.residual < 1e-6 * fit.sandwich)
        ('converged', True)
    """
    if not isinstance(objective, AbstractObjective):
        raise ValueError(
            f"expected an objective such as lo.logistic(x, y, l2=1.0), got {objective!r}"
        )
    if is_traced((objective, theta)) and not is_traced(known((objective, theta))):
        found = fit(
            *known((objective, theta)), tolerance=tolerance, max_steps=max_steps, throw=throw
        )
        return attached(found, objective)
    if theta is None and is_doubled(objective):
        with jax.enable_x64(True):
            found = fitted_wide(objective, tolerance, max_steps)
            if throw and int(found.status):
                fit(found.objective, tolerance=tolerance, max_steps=max_steps)  # which says why
            return _rounded(found, objective)
    elsewhere = theta is not None
    tolerance = max(tolerance, _ROUNDING * float(jnp.finfo(objective.weights.dtype).eps))
    start = objective.initial() if theta is None else _as_flat(objective, theta)
    traced = is_traced((objective, start))
    inner = objective if traced else objective.centred()
    dense = inner.p <= DENSE and not inner.sparse
    if not traced and inner.sparse:
        _refuse_undetermined(inner)
    if dense and traced:
        raise ValueError(
            "lo.fit chooses its steps by the numbers it meets, so it works outside jax.jit and "
            "jax.vmap only: call it before them (jax.grad and jax.jvp on their own are fine)"
        )
    search = _newton if dense else _large
    result = search(inner, inner.taken_in(start), tolerance, max_steps, elsewhere)
    if inner is not objective:
        result = _shown(objective, result)
    if is_traced(result.flat):
        return result
    if dense:
        _warn_precision(result.centred or result)
    broken = _broken(objective, result.flat)
    if broken and int(result.status) == Status.converged:  # derivatives may not show it
        result = eqx.tree_at(lambda r: r.status, result, jnp.int8(Status.nonfinite))
    if throw and int(result.status):
        code = Status(int(result.status))
        why = broken or _ADVICE.get(code, code.advice)
        raise SolveError(
            f"no optimum: {code.name} after {int(result.steps)} steps, "
            f"{_apart(result.residual, result.sandwich)} from it where {tolerance:.0e} was asked: "
            f"{why}"
        )
    return result


@functools.partial(remembered, most=2)
def fitted_wide(objective: AbstractObjective, tolerance: float = 1e-6, max_steps: int = 200) -> Fit:
    """The fit in float64 of an objective in float32, inside `jax.enable_x64`; `status` says how."""
    return fit(widened(objective), tolerance=tolerance, max_steps=max_steps, throw=False)


def _rounded(found: Fit, objective: AbstractObjective) -> Fit:
    """A fit in float64 as one of the objective in float32, with the decrement of theta there.

    That is of theta in the coordinates that are computed with: in the user's an intercept may
    belong to a place far from all data.
    """
    inner = found if found.centred is None else found.centred
    fit, residual = narrowed(found), narrowed(found.residual)
    if inner.metric is not None:
        moved = (widened(narrowed(inner.flat)) - inner.flat) @ inner.metric.lower
        residual = narrowed(jnp.hypot(inner.residual, jnp.linalg.norm(moved)))
    fit = dataclasses.replace(fit, objective=objective, residual=residual)
    if fit.centred is None:
        return fit
    measured = objective.measured_as(fit.centred.objective)
    centred = dataclasses.replace(fit.centred, objective=measured, residual=residual)
    flat = centred.objective.shown(centred.flat)  # by which `inside` knows that it is the same
    return dataclasses.replace(fit, flat=flat, centred=centred)


def _refuse_undetermined(objective) -> None:
    """Refuse sparse rows that leave theta undetermined: nothing would see it on the way.

    Raises:
        ValueError: with what to do.
    """
    n, p = objective.n * objective.outputs, objective.p
    if float(objective.l2) == 0 and n < p:
        raise ValueError(
            f"theta is not determined: {p:,} parameters, {n:,} scores to fit them to, and no "
            "penalty (the Hessian is singular); give l2 > 0"
        )


def _shown(objective, inner: Fit) -> Fit:
    """The optimum in the user's coordinates, from that of the centred objective."""
    flat, metric = inner.objective.shown(inner.flat), inner.metric
    if inner.objective.p != objective.p:  # theta in the span of the rows
        dense = objective.p <= DENSE and not objective.sparse
        metric = factor_at(objective, flat) if dense else None
    elif metric is not None:
        metric = Factor(_turned(inner.objective, metric.lower))
    return dataclasses.replace(
        inner, objective=objective, flat=flat, metric=metric, centred=inner, blocks=None
    )


@eqx.filter_jit
def _turned(inner, lower):
    """The factor of A' L L' A, A the Jacobian of the inner theta in the user's; by QR of L' A."""
    turn = jax.vmap(inner.taken_in)(jnp.eye(len(lower), dtype=lower.dtype)).T
    upper = jnp.linalg.qr(lower.T @ turn, mode="r")
    return replicate((upper * jnp.sign(jnp.diagonal(upper))[:, None]).T)


def _broken(objective, theta) -> str:
    """Which example has a loss that is no number, if any."""
    losses = np.asarray(to_host(_losses(objective, theta)))
    bad = np.flatnonzero(~np.isfinite(losses) & (np.asarray(to_host(objective.weights)) > 0))
    if not bad.size:
        return ""
    return (
        f"the loss of example {bad[0]} is {losses[bad[0]]} ({bad.size:,} such examples); check "
        "that example, and the loss"
    )


@eqx.filter_jit
def _losses(objective, theta):
    return replicate(objective.losses(theta))


def _as_flat(objective, theta):
    if isinstance(theta, np.ndarray | jax.Array) and theta.shape == (objective.p,):
        flat = jnp.asarray(theta, objective.weights.dtype)
    else:
        flat = objective.flat(theta)
    if not is_traced(flat) and not bool(jnp.all(jnp.isfinite(flat))):
        raise ValueError("theta must be finite, but it has NaN or infinite entries")
    return flat


@eqx.filter_jit
def factor_at(objective: AbstractObjective, theta: Float[Array, "p"]) -> Factor:
    """The factor of the Hessian at theta (p)."""
    return replicate(factorise(second_order(objective, theta).matrix)[0])


@dataclasses.dataclass(frozen=True, eq=False)
class _Search:
    """Where damped Newton stands.

    Attributes:
        place: the last theta.
        best: the one of smallest decrement.
        sandwich: the sandwich length, once it has been measured.
        shift: what the Hessian was lifted by, relative to its diagonal.
        steps: Hessians formed.
        waiting: steps since the decrement last halved.
    """

    place: Place
    best: Place
    sandwich: Float[Array, ""] | None
    shift: float = 0.0
    steps: int = 0
    waiting: int = 0


def _newton(objective, begin, tolerance, max_steps, elsewhere) -> Fit:
    """Damped Newton on a dense Hessian, to the rounding floor.

    Every step forms one Hessian; the sandwich length, as costly, is measured when the decrement
    first stops falling, which is when it is needed.
    """
    place = assess(objective, begin if elsewhere else _beginning(objective, begin))
    search, over = _Search(place, place, None), False
    if elsewhere:
        sandwich = sandwich_at(objective, place)
        floor = rounding(begin, place.factor, sandwich)
        near = float(place.decrement) <= float(floor)
        decrement = 0.0 if near else float(place.decrement)
        _refuse_far(objective, bool(place.definite), decrement, float(sandwich))
    while search.steps < max_steps and not over:
        search = _descend(objective, search)
        lost = not (np.isfinite(search.place.decrement) and search.place.definite)
        if lost and search.steps < max_steps // 2:
            over = not np.isfinite(search.place.theta).all()
            continue
        search = _ranked(search)
        if search.waiting or _seems_there(objective, search):
            search, over = _settle(objective, search, tolerance)
    best, sandwich = search.best, search.sandwich
    sandwich = sandwich_at(objective, best) if sandwich is None else sandwich
    status = _verdict(best, begin, sandwich, tolerance, search.steps >= max_steps, elsewhere)
    counts = jax.device_put((np.array(search.steps, np.int32), np.array(status, np.int8)))
    return Fit(objective, best.theta, best.factor, best.decrement, sandwich, *counts)


def _beginning(objective, begin):
    """Where Newton starts: where p is large, from the end of a path that needs no p x p."""
    if objective.p <= FAR or not isinstance(objective, LinearObjective):
        return sampled(objective, begin)
    return path(objective, np.asarray(objective.l2)[None], objective.weights[None]).value[0, 0]


def _descend(objective, search: _Search) -> _Search:
    """A damped Newton step, the Hessian lifted where it is not definite."""
    place, shift = search.place, search.shift
    step = place.step
    if not bool(place.definite) or shift >= 1e-12:
        step, used = lifted_step(objective, place, np.asarray(shift, step.dtype))
        shift = 0.1 * float(used)
    place = moved(objective, place, -np.asarray(step))
    return dataclasses.replace(search, place=place, shift=shift, steps=search.steps + 1)


def _ranked(search: _Search) -> _Search:
    """The better of the last place and the best so far, and how long it has been waited for."""
    place, best = search.place, search.best
    reached, before = float(place.decrement), float(best.decrement)
    better = reached < 0.5 * before or not np.isfinite(before)
    if better or reached <= before:
        best = place
    return dataclasses.replace(search, best=best, waiting=0 if better else search.waiting + 1)


def _seems_there(objective, search: _Search) -> bool:
    """Whether to ask before the decrement stops falling: another pass over the data costs as much.

    The sandwich length of a true model is p^1/2.
    """
    near = float(search.best.decrement) <= _ALMOST * objective.p**0.5
    return near and count_blocks(objective) > 1


def _settle(objective, search: _Search, tolerance) -> tuple[_Search, bool]:
    """What to do where the decrement no longer falls: stop, or once step without looking at J."""
    best, sandwich, reached = search.best, search.sandwich, float(search.best.decrement)
    sandwich = sandwich_at(objective, best) if sandwich is None else sandwich
    small = reached <= float(_goal(best, sandwich, np.float64(tolerance)))
    search = dataclasses.replace(search, sandwich=sandwich if small else None)
    done = search.waiting > 1 or reached <= _ROUNDED * float(sandwich)
    if search.waiting >= 20 or (small and done):
        return search, True
    if small and search.waiting:  # J itself may be too flat for its rounding
        undamped = assess(objective, best.theta, -np.asarray(best.step))
        best = undamped if float(undamped.decrement) < reached else best
        search = dataclasses.replace(search, place=best, best=best, steps=search.steps + 1)
    return search, False


@eqx.filter_jit
def _goal(best: Place, sandwich, tolerance):
    """The decrement that counts as an optimum; of a model that fits exactly that of rounding."""
    return jnp.maximum(tolerance * sandwich, rounding(best.theta, best.factor, sandwich))


def _verdict(best: Place, begin, sandwich, tolerance, spent, elsewhere) -> Status:
    """How a fit ended."""
    step, theta = np.asarray(best.step), np.asarray(best.theta)
    far = _still(step.dtype) * np.linalg.norm(theta - np.asarray(begin))
    moving = np.linalg.norm(step) > far
    if not np.isfinite(best.decrement):
        return Status.singular
    if not bool(best.definite):
        return Status.no_minimum if moving else Status.singular
    if not float(best.decrement) <= float(_goal(best, sandwich, np.float64(tolerance))):
        if spent:
            return Status.max_steps
        return Status.no_minimum if moving else Status.stalled
    if moving and not elsewhere and bool(jnp.any(best.theta != begin)):
        return Status.no_minimum
    return Status.converged


def _still(dtype) -> float:
    """The share of its way from which on theta still moves, where another step is as long."""
    return max(1e-5, 30 * float(jnp.finfo(dtype).eps) ** 0.5)


def _apart(decrement, sandwich) -> str:
    """How far theta is from the minimum, in plain words and then in the terms of the art."""
    lengths = float(decrement / sandwich) if sandwich > 0 else np.inf
    return (
        f"{lengths:.2g} of the sampling error of theta (Newton decrement {float(decrement):.1e}, "
        f"{lengths:.2g} sandwich lengths)"
    )


def _refuse_far(objective, definite: bool, decrement: float, sandwich: float) -> None:
    if not definite or not np.isfinite(decrement):
        raise SolveError(
            "theta is not near a minimum: the Hessian there is not positive definite; "
            "train it further, or let lo.fit(objective) find the optimum; a network that is "
            "trained, not solved, goes through lo.train(objective, recipe)"
        )
    if decrement > _NEAR * sandwich:
        raise SolveError(
            f"theta is not near an optimum of this objective: it is {_apart(decrement, sandwich)} "
            f"away, where {_NEAR} is the most that is polished; check that l2 = 1 / C, the "
            "intercept, the weights and the data are those it was trained with, train it to a "
            "tighter tolerance, or call lo.fit(objective) without theta"
        )


def _large(objective, theta, tolerance, max_steps, elsewhere) -> Fit:
    """L-BFGS where a dense Hessian is too large, the decrement by conjugate gradients.

    Of linear models of many outputs in the metric of their blocks.
    """
    sandwich = jnp.sqrt(jnp.asarray(float(objective.p)))  # the sandwich length of a true model
    if elsewhere:
        blocks = None if is_traced((objective, theta)) else factorise_outputs(objective, theta)
        _refuse_far(objective, True, float(_left(objective, theta, blocks)[0]), float(sandwich))
    begin, descent = theta, descended(objective, theta, 100 * max_steps)
    if descent is None:
        scale = jnp.linalg.norm(objective.gradient(jnp.zeros_like(theta)))
        solution = _minimised(objective, theta, 1e-12 * scale, 100 * max_steps)
        theta, blocks = solution.value[0], None
        steps, code = solution.steps[0], solution.status[0]
    else:
        theta, blocks = descent.theta, descent.factor
        steps, code = jnp.int32(descent.steps), jnp.int8(descent.status)
    decrement, step = _left(objective, theta, blocks)
    reached = decrement <= tolerance * sandwich
    status = jnp.where(reached, Status.converged, code)
    status = jnp.where(~reached & (status == 0), Status.inaccurate, status)
    if blocks is not None and not elsewhere:
        far = jnp.linalg.norm(step) > _still(step.dtype) * jnp.linalg.norm(theta - begin)
        status = jnp.where(reached & far & jnp.any(theta != begin), Status.no_minimum, status)
    status = status.astype(jnp.int8)
    return Fit(objective, theta, None, decrement, sandwich, steps, status, blocks=blocks)


@eqx.filter_jit
def _left(objective, theta, blocks: OutputFactor | None):
    """The decrement, and the Newton step that is left."""
    gradient = objective.gradient(theta)
    expansion = objective.at(theta) if blocks is None else scored(objective, theta, blocks)
    step = CG(1e-6).full(expansion, None, gradient[None]).value[0]
    return replicate((jnp.sqrt(jnp.maximum(gradient @ step, 0.0)), step))


@eqx.filter_jit
def _minimised(objective, theta, goal, max_steps: int):
    def function(points):
        return jax.vmap(objective.value_and_gradient)(points)

    return lbfgs.minimise(function, theta[None], goal[None], max_steps=max_steps)


def _warn_precision(result: Fit) -> None:
    if result.metric is None:
        return
    lost, double = result.metric.digits_lost(), result.flat.dtype == jnp.float64
    if lost <= (1e-7 if double else 1e-3) or (double and int(result.status)):
        return
    digits = max(0, -np.log10(lost)) if np.isfinite(lost) else 0
    remedy = (
        "drop columns that others nearly add up to, measure columns from near their means, or raise"
        if double
        else 'call jax.config.update("jax_enable_x64", True) first, or raise'
    )
    warn(
        f"the Hessian is too ill-conditioned for {result.flat.dtype}: the variance inflation of a "
        f"parameter is {lost / jnp.finfo(result.flat.dtype).eps:.1e}, so about {digits:.0f} digits "
        f"survive; {remedy} l2"
    )
