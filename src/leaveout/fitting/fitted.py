"""What a fit holds, and what a change in theta holds."""

import dataclasses
from typing import TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int8, PyTree

from leaveout.objectives.abstract import AbstractExpansion, AbstractObjective
from leaveout.objectives.checks import check_pickled
from leaveout.objectives.expansion import LinearExpansion
from leaveout.objectives.linear import as_linear
from leaveout.objectives.losses import Loss
from leaveout.objectives.scored import scored
from leaveout.runtime.compilation import compiled
from leaveout.runtime.deprecated import instead
from leaveout.runtime.memory import budget, gib
from leaveout.runtime.remembered import remembered
from leaveout.runtime.sharding import is_traced, to_host
from leaveout.runtime.solution import Solution, Status
from leaveout.runtime.text import warn
from leaveout.solvers import Factor, OutputFactor, attach_rows, reachable

if TYPE_CHECKING:
    from leaveout.fitting.summary import Summary

__all__ = [
    "Change",
    "Fit",
    "expansion_of",
    "ill_conditioned",
    "rounding",
    "warn_if_float32_stalled",
    "with_rows",
]


class Fit(eqx.Module):
    """An optimum of an objective.

    Attributes:
        objective: what was minimised.
        flat: (p) theta as a flat vector; `theta` is the PyTree.
        metric: the Cholesky factor of the Hessian at theta, or None where p is too large for it
            (that of `centred` can be there all the same).
        residual: how far theta is from the minimum, in the norm of H: the Newton decrement
            (g' H^-1 g)^1/2.
        sandwich: how far the minimum itself moves when the sample is drawn again, in the same norm:
            the sandwich length (sum_i |g_i|^2 in H^-1)^1/2, the natural unit for `residual`.
        steps: Newton steps (or L-BFGS evaluations) taken.
        status: how it ended.
        centred: the same optimum of `objective.centred()`, which is what verbs compute with, or
            None where that is the objective itself.
        blocks: where there is no metric, what is near it: a factor for each output of a linear
            model, or None.

    Example:
        >>> fit.flat.shape, lo.Status(int(fit.status)).name
        ((4,), 'converged')
        >>> fit.theta.weight.shape, fit.theta.bias.shape
        ((3,), ())
    """

    objective: AbstractObjective
    flat: Float[Array, "p"]
    metric: Factor | None
    residual: Float[Array, ""]
    sandwich: Float[Array, ""]
    steps: Int[Array, ""]
    status: Int8[Array, ""]
    centred: "Fit | None" = None
    blocks: OutputFactor | None = None

    def __reduce_ex__(self, protocol):
        """Pickled whole; a loss that pickle would not find again is refused in a sentence."""
        loss = getattr(self.objective, "loss", None)
        check_pickled(loss.value if isinstance(loss, Loss) else loss)
        return super().__reduce_ex__(protocol)

    def __repr__(self) -> str:
        if is_traced(self):
            return f"Fit({type(self.objective).__name__}, traced)"
        objective = self.objective
        code, reached = Status(int(to_host(self.status))), float(to_host(self.residual))
        parts = (
            f"{objective.in_words} on {objective.n:,} examples",
            f"{objective.known_size:,} parameters",
            f"l2 {objective.l2_in_words}",
            f"Newton decrement {reached:.1e}",
            code.name if code == Status.converged else f"{code.name}: {code.advice}",
        )
        return f"Fit({', '.join(parts)})"

    @property
    def theta(self) -> PyTree:
        """The parameters as the PyTree the objective was made with."""
        return self.objective.tree(self.flat)

    def save(self, path) -> None:
        """Write to an .npz file, whole or not at all, without pickle, for `lo.load(path)`.

        Of a linear model with a loss of ours the file holds the data (as inputs, not the table),
        names and theta. Of others, whose loss is code, it holds theta and hashes:
        `lo.load(path, objective=objective)` then takes the objective made again.

        Raises:
            ValueError: for a path of another ending, or labels and names that no file can hold.
            FileNotFoundError: if there is no such folder.
        """
        from leaveout.fitting.saved import save_fit

        save_fit(self, path)

    def predict(self, x, *, offset=None, chances: bool = False) -> np.ndarray:
        """What the model says of new inputs: (m) labels, or expected values.

        Args:
            x: (m d) inputs as the objective's own, or a table with its columns; of a data set made
                by `lo.table` what `data.coded(rows)` gives.
            offset: (m), where the model has one.
            chances: of a classifier, the chance of each label (m K), in the order of
                `fit.objective.classes`.

        Raises:
            ValueError: for other columns, or a loss of which only scores are known.
        """
        from leaveout.fitting.prediction import predicted

        return predicted(self, x, offset, chances)

    def summary(
        self,
        clusters=None,
        *,
        robust: bool = False,
        correct: bool = True,
        level: float = 0.95,
    ) -> "Summary":
        """Coefficients with standard errors, tests and confidence intervals.

            print(fit.summary(data.groups))
            print(fit.summary().ratios())  # odds ratios

        By the model (the inverse Hessian, times the dispersion of squares), which takes the loss
        for a negative log-likelihood; or robust, or clustered, which do not. Squares use Student's
        t with n - p degrees of freedom, clustered with g - 1, else by the normal distribution. Of
        softmax the differences from the first class. With a penalty, of the penalised coefficients,
        p being the trace of H^-1 D, D the Hessian of the losses alone. Errors by the model are then
        off by what the penalty does to its predictions: in simulations a third too large
        (logistic) or a quarter too small (Poisson) where it halves the coefficients; the sandwich
        and clusters, in which each example has its share of the penalty, were within a tenth.

        Args:
            clusters: `Groups` that share no point, or (n) labels: errors clustered by them.
            robust: the sandwich of the examples' own gradients.
            correct: times n / (n - p), or of clusters g / (g - 1) (n - 1) / (n - p), as R, Stata
                and statsmodels do (HC1, CRV1); if not, HC0, CRV0.
            level: of the confidence intervals.

        Raises:
            ValueError: for a fit that is no optimum, or whose objective was replaced, columns that
                add up to others without a penalty, clusters that overlap or leave points out, more
                than fits in memory.

        Source: Huber (1967), White (1980), Liang and Zeger (1986).
        """
        from leaveout.fitting.summary import summarised

        return summarised(self, clusters, robust=robust, correct=correct, level=level)

    def expansion(self) -> AbstractExpansion:
        """Every loss to second order around theta."""
        return _expanded(self.objective, self.flat, self.blocks)

    @property
    def is_bare(self) -> bool:
        """Whether nothing is known of the shape of H."""
        return self.metric is None and self.blocks is None

    @property
    def factor(self) -> Factor | None:
        """Deprecated: `metric`."""
        instead("Fit.factor", "Fit.metric")
        return self.metric

    @property
    def spread(self) -> Float[Array, ""]:
        """Deprecated: `sandwich`."""
        instead("Fit.spread", "Fit.sandwich")
        return self.sandwich


class Change(eqx.Module):
    """What removing each of g groups does to theta: theta_without - theta.

    Attributes:
        value: (g p) changes, flat, in units of theta.
        residual: (g) what was reached; the verb says in which norm.
        steps: (g) iterations or evaluations spent, 0 for a direct solve.
        status: (g) `Status` codes.
        objective: whose theta it is.

    Example:
        >>> change = lo.newton(fit, groups)
        >>> change.value.shape, change.status.tolist()
        ((4, 4), [0, 0, 0, 0])
    """

    value: Float[Array, "g p"]
    residual: Float[Array, "g"]
    steps: Int[Array, "g"]
    status: Int8[Array, "g"]
    objective: AbstractObjective

    @classmethod
    def of(cls, solution: Solution, objective: AbstractObjective) -> "Change":
        """The change that a batch of solves gives, a group a row."""
        return cls(solution.value, solution.residual, solution.steps, solution.status, objective)

    def shown(self, fit: Fit) -> "Change":
        """The change in the coordinates of a fit, where it was found for `fit.centred`.

        Raises:
            ValueError: where that is more than fits: all of theta, for every group.
        """
        if self.objective is fit.objective:
            return self
        size = self.value.dtype.itemsize * len(self.value) * fit.objective.p
        if fit.objective.p > self.objective.p and size > budget():
            raise ValueError(
                f"the changes of {len(self.value):,} groups in {fit.objective.p:,} parameters take "
                f"{gib(size)}, where {gib(budget())} are there; ask lo.effects, which needs none "
                "of them, or for fewer groups at once"
            )
        value = self.objective.shown(self.value)
        return Change(value, self.residual, self.steps, self.status, fit.objective)

    def narrowed(self, fit: Fit) -> "Change":
        """The change as one of a fit in less precision, of which it was found for a double."""
        dtype = fit.flat.dtype
        return Change(
            self.value.astype(dtype),
            self.residual.astype(dtype),
            self.steps,
            self.status,
            fit.objective,
        )

    def finished(self, fit: Fit, asked: float) -> "Change":
        """The change as it is handed out: where float32 fell short of the residual asked, said."""
        warn_if_float32_stalled(fit, self.residual, asked)
        return self

    def tree(self) -> PyTree:
        """The changes as the PyTree of parameters, each leaf with a leading axis g."""
        return jax.vmap(self.objective.parameters)(self.value)


def expansion_of(fit: Fit) -> AbstractExpansion:
    """Every loss to second order around theta, compiled; that of the last fit is remembered."""
    return _remembered_expansion(fit.objective, fit.flat, fit.blocks)


@remembered
def _remembered_expansion(objective, flat, blocks) -> AbstractExpansion:
    found = _compiled_expansion(objective, flat, blocks)
    if isinstance(found, LinearExpansion):  # not a copy of the design, which a program gives back
        found = dataclasses.replace(found, design=as_linear(objective).design)
    return found


def _expanded(
    objective: AbstractObjective, flat: Float[Array, "p"], blocks: OutputFactor | None
) -> AbstractExpansion:
    """Every loss to second order; of many outputs without K x K numbers an example."""
    found = None if blocks is None else scored(objective, flat, blocks)
    return objective.at(flat) if found is None else found


_compiled_expansion = eqx.filter_jit(_expanded)  # of these alone: attached rows are no new shape
# two, for one fit is asked for rows alone and for the gram matrix beside them
_remembered_rows, _remembered_gram = remembered(attach_rows), remembered(attach_rows)


@compiled
def rounding(
    flat: Float[Array, "p"], metric: Factor | None, sandwich: Float[Array, ""]
) -> Float[Array, ""]:
    """The Newton decrement that rounding leaves where the model fits its targets exactly, else 0.

    Every example's gradient is then rounding, of eps times the scores, and so is the sandwich
    length: how far theta is from its minimum can only be measured by the length of theta itself.
    """
    if metric is None:
        return jnp.zeros((), flat.dtype)
    length = 1e3 * jnp.finfo(flat.dtype).eps * jnp.linalg.norm(flat @ metric.lower)
    return jnp.where(sandwich <= length, length, 0.0)


def with_rows(fit: Fit, available: int, gram: bool = False) -> Fit:
    """The fit with the design in coordinates that make H the identity, where that serves.

    It serves linear models of one output, and is done where it fits: n p numbers (and n^2 for the
    `gram` matrix X H^-1 X') in a quarter of the memory available. Otherwise the fit as it is; also
    where H is so ill-conditioned that these coordinates make it the identity only to few digits.
    """
    factor, rows = fit.metric, fit.objective.rows
    if factor is None or rows is None:
        return fit
    if factor.rows is None and (8 * rows.size > available / 4 or ill_conditioned(fit)):
        return fit
    gram = gram and factor.gram is None and 8 * len(rows) ** 2 <= available / 4
    if factor.rows is not None and not gram:
        return fit
    factor = _remembered_rows(factor, rows) if factor.rows is None else factor
    factor = _remembered_gram(factor, rows, gram) if gram else factor
    return eqx.tree_at(lambda f: f.metric, fit, factor, is_leaf=lambda leaf: leaf is None)


def ill_conditioned(fit: Fit) -> bool:
    """Whether rounding in L^-1 H L^-T would be seen in effects."""
    if fit.metric is None or is_traced(fit):
        return False
    return fit.metric.digits_lost() > 1e-2 * float(jnp.finfo(fit.flat.dtype).eps) ** 0.5


def warn_if_float32_stalled(fit: Fit, residual, asked: float) -> None:
    """Warn where rounding in float32 ends solves before they reach what was asked."""
    if is_traced((fit, residual)) or fit.flat.dtype == jnp.float64:
        return
    asked = reachable(asked, fit.flat.dtype)
    reached = np.asarray(to_host(residual))
    reached = reached[np.isfinite(reached)]
    if reached.size and not reached.max() <= asked:
        inflation = np.nan if fit.metric is None else float(to_host(fit.metric.inflation()))
        warn(
            f"in {fit.flat.dtype}, residuals of {reached.max():.1e} are what was reached where "
            f"{asked:.0e} was asked (the condition number of H is at least {inflation:.1e}); call "
            'jax.config.update("jax_enable_x64", True) first, or ask for less'
        )
