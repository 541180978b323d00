"""Choosing l2 by cross-validation."""

import dataclasses
import enum

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from leaveout.fitting.paths import path
from leaveout.fitting.precision import is_doubled, widened
from leaveout.objectives.abstract import weigh
from leaveout.objectives.expansion import LinearExpansion
from leaveout.objectives.layout import spread
from leaveout.objectives.linear import LinearObjective
from leaveout.runtime.columns import numbered
from leaveout.runtime.deprecated import option
from leaveout.runtime.options import check_key
from leaveout.runtime.sharding import entry_point, to_host
from leaveout.runtime.solution import Solution, Status
from leaveout.runtime.tables import check_rows, common_rows
from leaveout.runtime.text import shortened, warn
from leaveout.solvers import full_matrix, lifted

__all__ = ["Criterion", "CrossValidation", "cross_validate"]

_DENSE = 500  # parameters up to which a fit without penalty is looked at with its whole Hessian
_STILL = 1e-5  # of the largest score, what a Newton step at a minimum leaves
_SEEN = 1e-3  # of a score, what a step in one parameter at a minimum leaves
_GONE = 1e-10  # of the curvature at the beginning, what a minimum has left


class Criterion(enum.StrEnum):
    """What decides between penalties.

    Example:
        >>> [criterion.name for criterion in lo.Criterion]
        ['accuracy', 'loss']
    """

    accuracy = enum.auto()
    loss = enum.auto()


@dataclasses.dataclass(frozen=True, eq=False)
class CrossValidation:
    """The score of every penalty of a grid, over folds.

    Attributes:
        grid: (l) penalties, absolute (not divided by n).
        accuracy: (l folds) share of held-out examples whose label is predicted, or None; base
            weights count here as in training.
        loss: (l folds) mean held-out loss, by base weights likewise.
        criterion: which of them decided.
        best: position of the winner in the grid: the first maximum of the mean accuracy (so ties go
            to the smaller penalty), or the first minimum of the mean loss; of those whose fits
            all converged, where there are any.
        status: (l folds) codes of the fits.

    Example:
        >>> found = lo.cross_validate(objective, [0.01, 1.0, 100.0], criterion=lo.Criterion.loss)
        >>> found.loss.shape, float(found.l2)
        ((3, 5), 1.0)
    """

    grid: np.ndarray
    accuracy: np.ndarray | None
    loss: np.ndarray
    criterion: Criterion
    best: int
    status: np.ndarray

    @property
    def l2(self) -> float:
        """The penalty chosen."""
        return float(self.grid[self.best])

    @property
    def at_edge(self) -> bool:
        """Whether the winner is the first or last of the grid."""
        return self.best in (0, len(self.grid) - 1)


@entry_point
def cross_validate(
    objective: LinearObjective,
    grid,
    *,
    folds: object = 5,
    key: Array | None = None,
    criterion: Criterion | str | None = None,
) -> CrossValidation:
    """Choose l2 by cross-validation, all folds and penalties fitted at once.

    The training part of a fold keeps the penalty as it is (a sum convention does not rescale it).
    Batched L-BFGS down the grid (`path`): about 20 to 60 products with the data a fit.

    Args:
        objective: a linear model; its own l2 is ignored, unless it has one for each coefficient.
        grid: (l) penalties to try, absolute, or what multiplies those of the coefficients; warns if
            the winner is at an edge, and of penalties under which a fold did not converge, which
            are not chosen while there are others.
        folds: how many, or an (n) array of fold numbers. Contiguous blocks of ceil(n / folds)
            examples, as in the paper, unless a key is given.
        key: shuffles the examples before they are cut into folds.
        criterion: `Criterion.accuracy` (default where the targets are labels) or `Criterion.loss`.

    Returns:
        the score of every penalty, and the winner as `.l2`.

    Raises:
        ValueError: for an empty or negative grid, folds that hold everything, or sparse inputs that
            are too many for the span of their rows.

    Example:
        >>> grid = [0.01, 1.0, 100.0]
        >>> lo.cross_validate(objective, grid, folds=4, criterion=lo.Criterion.loss).best
        1
    """
    if not isinstance(objective, LinearObjective):
        raise ValueError("cross_validate scores held-out examples of linear models (lo.glm)")
    if is_doubled(objective):
        how = {"folds": folds, "key": key, "criterion": criterion}
        with jax.enable_x64(True):
            return cross_validate(widened(objective), grid, **how)
    grid = np.atleast_1d(np.asarray(grid, float))
    if grid.size == 0 or not np.isfinite(grid).all() or (grid < 0).any():
        raise ValueError(f"expected a grid of finite penalties >= 0, got {grid}")
    criterion = _criterion(criterion, objective.labelled)
    # (f n) True where held out; examples without weight fill up sharded data, and are not there
    check_rows(common_rows(folds=folds), objective.fingerprint, "folds", "the data")
    weights = to_host(objective.weights)[None]
    held = _folds(objective.n, folds, key) & (weights > 0)
    held = held[held.any(axis=1)]
    kept, scored = weights * ~held, weights * held
    objective = objective.centred()
    if objective.sparse:
        raise ValueError(
            f"cross_validate forms a matrix of {objective.layout.width:,} columns squared, and "
            "these sparse rows are too many for their span; compare fits by hand"
        )
    fits = path(objective, grid, kept)
    accuracy, loss = _held_out(objective, fits.value, jnp.asarray(scored))
    accuracy = np.asarray(accuracy) if objective.labelled else None
    score = accuracy if criterion is Criterion.accuracy else -np.asarray(loss)
    status = _judged(objective, grid, fits, jnp.asarray(kept))
    best = _winner(grid, np.asarray(score).mean(axis=1), status)
    result = CrossValidation(grid, accuracy, np.asarray(loss), criterion, best, status)
    if result.at_edge and grid.size > 1:
        end = "lower" if best == 0 else "upper"
        warn(
            f"cross-validation chose l2 = {result.l2:.3g}, the {end} edge of its grid; "
            f"extend the grid beyond it"
        )
    return result


def _judged(objective: LinearObjective, grid: np.ndarray, fits: Solution, kept) -> np.ndarray:
    """(l f) the codes of the fits, those on their way to infinity `no_minimum`."""
    codes = np.asarray(fits.status).copy()
    for i, l2 in enumerate(grid):
        problem, whole = objective.with_l2(l2), bool(l2 == 0 and objective.p <= _DENSE)
        moving = np.asarray(_moving(problem, fits.value[i], kept, whole))
        codes[i] = np.where((codes[i] == 0) & moving, Status.no_minimum, codes[i])
    return codes


@eqx.filter_jit
def _moving(problem: LinearObjective, thetas, kept, whole: bool):
    """(f) whether a fit is on its way to infinity: see `_endless` and `_endless_alone`."""
    begin = problem.at(problem.initial())
    endless = _endless if whole else _endless_alone
    return jax.lax.map(lambda lane: endless(problem, begin, *lane), (thetas, kept))


def _endless(problem: LinearObjective, begin: LinearExpansion, theta, v):
    """Whether a Newton step still moves scores, or curvature along some direction has died out."""
    matrix, first = full_matrix(problem.at(theta), v), full_matrix(begin, v)
    own = jnp.diagonal(first)
    scale = jnp.sqrt(jnp.where(own > 0, own, 1.0))
    eye = jnp.eye(scale.size, dtype=scale.dtype)
    matrix, first = (part / (scale[:, None] * scale[None]) for part in (matrix, first))
    least = 1e3 * float(jnp.finfo(scale.dtype).eps)
    metric, _ = lifted(first, jnp.ones_like(scale), least)
    left = jnp.linalg.eigvalsh(metric.whiten(metric.whiten(matrix + least * eye).T))[0]
    factor, _ = lifted(matrix, jnp.ones_like(scale), least)
    step = factor.solve((problem.value_and_gradient(theta, v)[1] / scale)[None])[0] / scale
    moved = jnp.max(jnp.where(v > 0, spread(problem.moves(step)), 0.0))
    return (moved > _STILL * jnp.max(spread(problem.moves(theta)))) | (left < _GONE)


def _endless_alone(problem: LinearObjective, begin: LinearExpansion, theta, v):
    """The same of each parameter alone; only one without penalty can be."""
    matrix, design = problem.layout.matrix, problem.design

    def curvature(expansion):
        second = jnp.diagonal(weigh(v, expansion.second), axis1=1, axis2=2)
        return second.T @ design**2 + matrix(problem.penalty)

    left, first = curvature(problem.at(theta)), curvature(begin)
    step = matrix(problem.value_and_gradient(theta, v)[1]) / jnp.where(left > 0, left, jnp.inf)
    moved = jnp.max(jnp.abs(step) * jnp.abs(design).max(axis=0)[None])
    return (moved > _SEEN) | jnp.any(left < _GONE * first)


def _winner(grid: np.ndarray, score: np.ndarray, status: np.ndarray) -> int:
    """Position of the best score, of penalties whose fits all converged; of others with a word."""
    good = (status == 0).all(axis=1)
    if not good.all():
        rest = "they are left out" if good.any() else "the choice says little"
        codes = ", ".join(Status(int(code)).name for code in np.unique(status[status != 0]))
        warn(
            f"cross-validation met penalties under which a fold did not converge ({codes}): "
            f"{shortened(float(l2) for l2 in grid[~good])}; {rest}: raise the lower end of the "
            "grid, or rescale the features"
        )
    return int(np.argmax(np.where(good, score, -np.inf) if good.any() else score))


def _criterion(given, labelled: bool) -> Criterion:
    """What decides: what was asked for, else accuracy where there are labels."""
    if given is None:
        return Criterion.accuracy if labelled else Criterion.loss
    chosen = option(Criterion, given, "criterion")
    if chosen is Criterion.accuracy and not labelled:
        raise ValueError("criterion must be Criterion.loss where the targets are no labels")
    return chosen


def _folds(n, folds, key) -> np.ndarray:
    if np.ndim(folds) == 0:
        count = int(folds)
        if not 2 <= count <= n:
            raise ValueError(f"expected 2 to {n} folds, got {count}")
        number = np.arange(n) // -(-n // count)
        if key is not None:
            check_key(key)
            number = number[np.asarray(jax.random.permutation(key, n))]
    else:
        number = numbered(folds, "fold")
        if number.shape != (n,) or np.unique(number).size < 2:
            raise ValueError(f"expected fold numbers of shape ({n},), at least two different")
    return number[None, :] == np.unique(number)[:, None]


@eqx.filter_jit
def _held_out(objective, points, weights):
    """Accuracy and mean loss of the held-out examples, (l f) each, by their weights (f n)."""

    def score(theta, out):
        count = jnp.sum(out)
        losses = weigh(out, objective.losses(theta))
        if not objective.labelled:
            return jnp.nan, jnp.sum(losses) / count
        scores = objective.scores(theta)
        guess = scores[:, 0] > 0 if scores.shape[1] == 1 else jnp.argmax(scores, axis=1)
        right = guess.astype(jnp.int32) == jnp.asarray(objective.y, jnp.int32)
        return jnp.sum(right * out) / count, jnp.sum(losses) / count

    def row(thetas):
        return jax.lax.map(lambda lane: score(*lane), (thetas, weights))

    return jax.lax.map(row, points)
