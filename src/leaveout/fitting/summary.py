"""Coefficients with standard errors: by the model, robust, or clustered by groups.

    model       H^-1 D H^-1 times the dispersion, D the Hessian of the losses, H that and the
                penalty: H^-1 without a penalty
    sandwich    H^-1 (sum_i g_i g_i') H^-1, g_i the gradient of an example, times n / (n - p)
    clustered   H^-1 (sum_c G_c G_c') H^-1, G_c the sum over a cluster, times
                g / (g - 1) (n - 1) / (n - p)

Under a penalty each g_i has its share of the penalty's gradient, by weight: then they add up to 0,
as without one. The losses' gradients alone add up to minus the penalty's, and their squares would
count that pull towards 0, which is the same in every sample, as noise.

Sources: Huber (1967); White (1980); MacKinnon and White (1985), HC1; Liang and Zeger (1986).
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from leaveout.fitting.fitted import Fit
from leaveout.fitting.gates import check_own, inside
from leaveout.groups import Groups
from leaveout.objectives import losses
from leaveout.objectives.abstract import AbstractExpansion, AbstractObjective
from leaveout.objectives.linear import as_linear
from leaveout.objectives.losses import Loss
from leaveout.runtime.extras import needed
from leaveout.runtime.memory import DENSE_COPY, gib
from leaveout.runtime.options import check_inside
from leaveout.runtime.sharding import to_host
from leaveout.runtime.solution import Status
from leaveout.runtime.tables import check_rows
from leaveout.runtime.text import aligned

__all__ = ["Summary", "summarised"]

_FEW = 20  # clusters, below which Cameron and Miller (2015) speak of few
_LIKELIHOODS = (losses.logistic, losses.softmax, losses.poisson, losses.squares)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Summary:
    """Coefficients, their standard errors and confidence intervals; see `Fit.summary`.

    Attributes:
        names: (r) of the coefficients.
        estimate: (r) of each; of softmax, less that of the first class.
        error: (r) standard errors.
        statistic: (r) estimate / error.
        p: (r) two-sided, of the coefficient being 0.
        low: (r) lower ends of the confidence intervals.
        high: (r) upper ends.
        level: of the intervals.
        degrees: of freedom of Student's t, infinite for the normal distribution.
        variance: how the errors were found, in words.
        heading: what was fitted.
        notes: what a reader should know.
        ratio: whether estimates and ends are exponentials; errors are of the logarithm.
    """

    names: tuple[str, ...]
    estimate: np.ndarray
    error: np.ndarray
    statistic: np.ndarray
    p: np.ndarray
    low: np.ndarray
    high: np.ndarray
    level: float
    degrees: float
    variance: str
    heading: str
    notes: tuple[str, ...] = ()
    ratio: bool = False

    def ratios(self) -> "Summary":
        """With exp(coefficient) and the exponentials of the ends: odds ratios, or rate ratios."""
        if self.ratio:
            return self
        shown = {name: np.exp(getattr(self, name)) for name in ("estimate", "low", "high")}
        return dataclasses.replace(self, ratio=True, **shown)

    def to_pandas(self):
        """A pandas table, a row a coefficient."""
        with needed("a table of coefficients"):
            import pandas as pd

        names = ("estimate", "error", "statistic", "p", "low", "high")
        return pd.DataFrame({"name": self.names} | {name: getattr(self, name) for name in names})

    def __repr__(self) -> str:
        sign = "z" if math.isinf(self.degrees) else "t"
        what = "exp(estimate)" if self.ratio else "estimate"
        per = f"{100 * self.level:g} % confidence"
        rows = [["", what, "std. error", sign, f"p (> |{sign}|)", per, ""]]
        for j, name in enumerate(self.names):
            numbers = (self.estimate[j], self.error[j], self.statistic[j])
            ends = (f"{self.low[j]:.4g}", f"{self.high[j]:.4g}")
            rows.append([name, *(f"{value:.4g}" for value in numbers), _chance(self.p[j]), *ends])
        lines = aligned(rows, right=True)
        return "\n".join([self.heading, self.variance, *lines, *self.notes])


def _chance(p: float) -> str:
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}"


def summarised(fit: Fit, clusters: object, *, robust: bool, correct: bool, level: float) -> Summary:
    """The summary of a fit: `Fit.summary` says what is what.

    Raises:
        ValueError: for a fit that is no optimum of its objective, a Hessian that is singular beyond
            what softmax leaves open, or more than fits.
    """
    check_inside(level, "level", "0.95")
    code = Status(int(to_host(fit.status)))
    if code:
        raise ValueError(f"this fit is no optimum, {code.name}: {code.advice}")
    inner = inside(fit)
    check_own(inner)
    groups = None if clusters is None else _clusters(clusters, fit.objective)
    names, rows = _asked(fit.objective, inner.objective)
    parts = _Parts.of(inner, rows)
    variance, degrees, how = _variance(inner, parts, groups, robust, correct)
    estimate = rows @ np.asarray(to_host(inner.flat), float)
    error = np.sqrt(np.maximum(variance, 0.0))
    return _tested(
        names, estimate, error, degrees, level,
        variance=f"standard errors: {how}", heading=repr(fit), notes=_notes(fit, groups, robust),
    )  # fmt: skip


def _tested(
    names: tuple[str, ...],
    estimate: np.ndarray,
    error: np.ndarray,
    degrees: float,
    level: float,
    **words,
) -> Summary:
    """The tests and intervals by Student's t, or the normal distribution."""
    from scipy import stats

    law = stats.norm() if math.isinf(degrees) else stats.t(degrees)
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = estimate / error
    half = law.ppf(0.5 + level / 2) * error
    p = 2 * law.sf(np.abs(statistic))
    return Summary(
        names, estimate, error, statistic, p, estimate - half, estimate + half, level, degrees,
        **words,
    )  # fmt: skip


# ---- what is reported ----------------------------------------------------------------------------


def _asked(
    objective: AbstractObjective, inner: AbstractObjective
) -> tuple[tuple[str, ...], np.ndarray]:
    """Names of the coefficients, and the rows (r p) that make them of the inner theta.

    Raises:
        ValueError: where the rows take more than is written out unasked.
    """
    size = 8 * inner.p * objective.p
    if size > DENSE_COPY:
        raise ValueError(
            f"a summary of {objective.p:,} coefficients needs {gib(size)}: ask for standard errors "
            "of some, lo.jackknife of lo.effects on lo.measures.parameter(names)"
        )
    eye = jnp.eye(inner.p, dtype=inner.weights.dtype)
    shown = np.asarray(jax.vmap(inner.shown)(eye), float).T  # (P p)
    layout = objective.linear_layout
    if layout is None or not _shifts(objective):
        return objective.titles, shown
    output = layout.output_of()
    first = np.flatnonzero(output == 0)  # as many entries as each other class has, in their order
    others = [np.flatnonzero(output == k) for k in range(1, layout.outputs)]
    rows = np.concatenate([shown[mine] - shown[first] for mine in others])
    base = as_linear(objective).score_name(0)
    names = (f"{objective.titles[i]} against {base}" for mine in others for i in mine)
    return tuple(names), rows


def _shifts(objective: AbstractObjective) -> bool:
    """Whether adding a constant to all scores changes nothing."""
    loss = getattr(objective, "loss", None)
    return isinstance(loss, Loss) and loss.shift_invariant


# ---- variances -----------------------------------------------------------------------------------


class _Parts(NamedTuple):
    """What every variance is made of.

    Attributes:
        expansion: every loss to second order.
        losses: (p p) D, the Hessian of the losses.
        pulled: (r p) rows H^-1.
        used: trace of H^-1 D, the parameters that the data determine.
        n: examples with base weight.
    """

    expansion: AbstractExpansion
    losses: np.ndarray
    pulled: np.ndarray
    used: float
    n: int

    @classmethod
    def of(cls, inner: Fit, rows: np.ndarray) -> "_Parts":
        """Of a fit, in its own coordinates.

        Raises:
            ValueError: for a Hessian that is singular beyond the shifts of a loss of classes.
        """
        objective, expansion = inner.objective, inner.expansion()
        bent = np.asarray(to_host(expansion.hessian(objective.weights)), float)
        penalty = np.asarray(to_host(objective.penalty), float)
        inverse = _inverse(bent + np.diag(penalty), _open(objective, penalty))
        weights = np.asarray(to_host(objective.weights))
        used = float(np.sum(inverse * bent.T))
        return cls(expansion, bent, rows @ inverse, used, int((weights > 0).sum()))


def _open(objective: AbstractObjective, penalty: np.ndarray) -> int:
    """Directions left open: a shift of all scores, for each column without penalty."""
    layout = objective.linear_layout
    if layout is None or not _shifts(objective):
        return 0
    return int((np.asarray(layout.matrix(penalty)) == 0).all(axis=0).sum())


def _inverse(hessian: np.ndarray, opened: int) -> np.ndarray:
    """H^-1, or what is one but for the directions left open; scaled to a diagonal of ones first."""
    scale = 1 / np.sqrt(np.maximum(np.diagonal(hessian), np.finfo(float).tiny))
    values, vectors = np.linalg.eigh(scale[:, None] * hessian * scale)
    least = 10 * len(values) * np.finfo(float).eps * max(float(values[-1]), 0.0)
    flat = values <= least
    if flat.sum() > opened:
        raise ValueError(
            "the Hessian is singular: columns add up to others, or to the intercept, and no "
            "penalty decides between them, so that their coefficients have no standard errors; "
            "leave one out, or raise l2"
        )
    vectors, values = vectors[:, ~flat] * scale[:, None], values[~flat]
    return (vectors / values) @ vectors.T


def _variance(
    inner: Fit, parts: _Parts, groups: Groups | None, robust: bool, correct: bool
) -> tuple[np.ndarray, float, str]:
    """(r) variances, the degrees of freedom, and how in words."""
    left = max(parts.n - parts.used, 1.0)
    plain = getattr(inner.objective, "loss", None) is losses.squares
    degrees = left if plain else math.inf
    if groups is not None:
        g = len(groups)
        summed = parts.pulled @ _cluster_sums(inner, parts, groups).T  # (r g)
        factor = g / (g - 1) * (parts.n - 1) / left if correct else 1.0
        how = f"clustered by {g:,} groups ({'CRV1' if correct else 'CRV0'}){_law(g - 1)}"
        return factor * np.sum(summed**2, axis=1), float(g - 1), how
    if robust:
        spread = _scatter(inner, parts)
        factor = parts.n / left if correct else 1.0
        how = f"sandwich ({'HC1' if correct else 'HC0'}){_law(degrees)}"
        return factor * _quadratic(parts.pulled, spread), degrees, how
    spread = parts.losses
    if plain:
        root = np.sqrt(_dispersion(inner, left))
        spread = root[:, None] * spread * root
    return _quadratic(parts.pulled, spread), degrees, f"by the model{_law(degrees)}"


def _law(degrees: float | int) -> str:
    return "" if math.isinf(degrees) else f", t with {degrees:.6g} degrees"


def _quadratic(rows: np.ndarray, middle: np.ndarray) -> np.ndarray:
    return np.sum((rows @ middle) * rows, axis=1)


def _dispersion(inner: Fit, left: float) -> np.ndarray:
    """(p) the variance of the noise of squares, of the output that each parameter belongs to."""
    objective = as_linear(inner.objective, "the dispersion of squares")
    scores = np.asarray(to_host(objective.scores(inner.flat)), float)
    residuals = scores - np.asarray(to_host(objective.y), float).reshape(scores.shape)
    weights = np.asarray(to_host(objective.weights), float)
    n, outputs = int((weights > 0).sum()), objective.outputs
    each = weights @ residuals**2 / (n - (n - left) / outputs)
    return each[objective.layout.output_of()]


def _pull(inner: Fit) -> np.ndarray:
    """(p) the gradient of the penalty: at the minimum, minus that of all losses."""
    return np.asarray(to_host(inner.objective.penalty * inner.flat), float)


def _scatter(inner: Fit, parts: _Parts) -> np.ndarray:
    """(p p) sum_i g_i g_i', each g_i with its share of the penalty's gradient."""
    weights = np.asarray(to_host(inner.objective.weights), float)
    share, pull = weights / weights.sum(), _pull(inner)
    mixed = np.asarray(to_host(parts.expansion.gradient(jnp.asarray(share * weights))), float)
    cross = np.outer(mixed, pull)
    own = np.asarray(to_host(parts.expansion.scatter()), float)
    return own + cross + cross.T + np.sum(share**2) * np.outer(pull, pull)


def _cluster_sums(inner: Fit, parts: _Parts, groups: Groups) -> np.ndarray:
    """(g p) the gradient of each cluster, with its share of the penalty's."""
    weights, pull = np.asarray(to_host(inner.objective.weights), float), _pull(inner)
    together = max(1, DENSE_COPY // (8 * groups.n))
    found = []
    for at in range(0, len(groups), together):
        taken = groups.dense(slice(at, at + together)) * weights
        share = taken.sum(axis=1, keepdims=True) / weights.sum()
        own = np.asarray(to_host(parts.expansion.gradients(jnp.asarray(taken))))
        found.append(own + share * pull)
    return np.concatenate(found)


def _clusters(given: object, objective: AbstractObjective) -> Groups:
    """Groups that share no point and leave none out, from groups or labels.

    Points without base weight are not there, and neither is a cluster of such points.

    Raises:
        ValueError: if they do, or there is one only.
    """
    groups = given if isinstance(given, Groups) else Groups.from_labels(given)
    if groups.n != objective.n:
        raise ValueError(f"the clusters are of {groups.n:,} points, the fit of {objective.n:,}")
    check_rows(groups.fingerprint, objective.fingerprint, "the clusters' labels", "the data")
    if np.unique(groups.indices).size < groups.indices.size or (groups.w != 1).any():
        raise ValueError("the clusters overlap, or leave in part; each point belongs to one")
    weights = np.asarray(to_host(objective.weights))
    outside = np.setdiff1d(np.flatnonzero(weights), groups.indices).size
    if outside:
        raise ValueError(
            f"{outside:,} of {groups.n:,} points are in no cluster (a missing label?): "
            "give each one, or fit without these rows"
        )
    groups = groups[groups.sums(weights[groups.indices]) > 0]
    if len(groups) < 2:
        raise ValueError("expected at least two clusters")
    return groups


def _notes(fit: Fit, groups: Groups | None, robust: bool) -> tuple[str, ...]:
    """What a reader of the intervals should know."""
    found, by_the_model = [], groups is None and not robust
    if np.any(np.asarray(to_host(fit.objective.penalty)) > 0):
        found.append(
            "confidence intervals are of the penalised coefficients: they do not say how far the "
            "penalty has drawn these to 0"
        )
        if by_the_model:
            found.append(
                "errors by the model take its penalised predictions for the noise of the data: "
                "off by tens of percent where the penalty draws far; robust=True is not"
            )
    if groups is not None and len(groups) < _FEW:
        found.append(
            f"{len(groups)} clusters are few: these errors tend to be too small; lo.confidence "
            "leaves each out (the jackknife)"
        )
    known = getattr(fit.objective, "loss", None) in _LIKELIHOODS
    if not known and by_the_model:
        found.append(
            "by the model means that the loss is a negative log-likelihood, which is not known "
            "here; robust=True takes nothing for granted"
        )
    return tuple(found)
