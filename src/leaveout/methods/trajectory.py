"""Methods that follow a training: retraining without a group, and the derivative of training."""

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from leaveout.fitting.fitted import Change, Fit
from leaveout.fitting.gates import Need
from leaveout.fitting.leaving import leaving
from leaveout.groups import Groups
from leaveout.measures import Measure
from leaveout.methods.protocol import Method, PerPoint, Prepared, gradients_of
from leaveout.objectives.abstract import AbstractObjective
from leaveout.runtime.memory import budget
from leaveout.runtime.options import check_integer, check_is
from leaveout.runtime.sharding import entry_point, on_its_mesh, replicate, to_host
from leaveout.runtime.solution import Solution, Status
from leaveout.runtime.text import shortened, warn
from leaveout.training.loop import forward, reverse
from leaveout.training.run import Run, Trained, refuse_rough

__all__ = ["Metagradient", "Smoothness", "as_trained", "retrained", "smoothness"]

_SMOOTH, _USELESS = 0.9, 0.5  # cosines below which a metagradient is doubted, and refused
_STEP = 0.02  # of every example's weight, by which the test of smoothness moves
_PULLS = 32  # columns that go back through the training together
_CHAOS = 1e-2  # of theta's length that rounding may move its end


def as_trained(fit: Fit) -> Trained:
    """The end of a training, which a method that follows one needs.

    Raises:
        ValueError: for any other fit.
    """
    if not isinstance(fit, Trained):
        raise ValueError(
            f"this method needs {Need.trajectory.value}, which a Fit does not keep: train with "
            "lo.train(lo.network(...), lo.Recipe(...), key=key), or use lo.Newton()"
        )
    return fit


# ---- retraining ----------------------------------------------------------------------------------


def retrained(run: Trained) -> Prepared:
    """Training again without each group: same start, same batches, same program as the run."""
    used = np.unique(to_host(run.batches))

    def change(groups: Groups) -> Change:
        v = run.objective.stays(leaving(run, groups))
        theta = run.without(v)
        finite = np.isfinite(to_host(theta)).all(axis=1)
        some = (to_host(v)[:, used] > 0).any(axis=1)
        status = np.where(some, np.where(finite, 0, Status.nonfinite), Status.untrained)
        return _changed(run, theta - run.flat[None], status)

    return Prepared(change)


def _changed(run: Trained, value: Float[Array, "g p"], status: np.ndarray) -> Change:
    """Changes of theta that took all the steps of the recipe."""
    count = len(value)
    steps = jnp.full(count, run.recipe.steps, jnp.int32)
    residual = jnp.zeros(count, value.dtype)
    solution = Solution(value, residual, steps, jnp.asarray(status, jnp.int8))
    return Change.of(solution, run.objective)


# ---- the derivative of training ------------------------------------------------------------------


@dataclass(frozen=True)
class Metagradient(Method):
    """The derivative of the trained theta in every example's weight, as a method of `effects`.

        effect = -sum_i w_i s_i d f(theta_T(v)) / d v_i  at v = s

    theta_T is what the recipe's steps end at, v weighs the examples in each of them: the first
    order of `Retrain` on the same run. Reverse mode, one pass for all examples: about five
    trainings a column, fewer when many go together; only sqrt(T) states of T are kept. Measures
    that depend on who leaves, or have no derivative, go by forward mode, a training and more for
    every group.

    Attributes:
        since: the step from which v counts; before it the examples keep their base weights.
        check: do `smoothness` first, warn and refuse by it: two more derivatives a seed.
        exact: refuse a run that is not repeated bit for bit here.

    Raises:
        ValueError: for an optimiser without derivative (Adam without eps_root); a training whose
            derivative turns within 2 % of the weights.

    Example:
        >>> lo.Metagradient(since=100).name
        'metagradient since step 100'
    """

    needs: ClassVar[Collection[Need]] = (Need.trajectory,)

    since: int = 0
    check: bool = True
    exact: bool = True

    def __post_init__(self):
        check_integer(self.since, "since", least=0)

    @property
    def name(self) -> str:
        """For tables and axes."""
        return f"metagradient since step {self.since}" if self.since else "metagradient"

    @property
    def first_order(self) -> bool:
        """It is a derivative."""
        return True

    def prepare(self, fit: Fit, measures: Sequence[Measure]) -> Prepared:
        """Derivatives in every example's weight, by reverse mode where they add up."""
        run = as_trained(fit)
        self._refuse(run)
        additive = _per_points(run, measures, self.since)

        def change(groups: Groups) -> Change:
            moves = run.objective.stays(leaving(run, groups)) - run.objective.weights[None]
            found = forward(run.course, run.objective.weights, moves, self.since)
            finite = np.isfinite(to_host(found)).all(axis=1)
            return _changed(run, found, np.where(finite, 0, Status.nonfinite))

        return Prepared(change, None, additive)

    def _refuse(self, run: Trained) -> None:
        if self.since >= run.recipe.steps:
            raise ValueError(
                f"expected since as a step before the last of {run.recipe.steps:,}, got "
                f"{self.since:,}"
            )
        refuse_rough(run.recipe.optimiser, run.objective.parameters(run.start))
        if not self.check:
            return
        cosine = _cosine_of(run)
        if not cosine >= _USELESS:
            raise ValueError(
                f"{_doubt(cosine)}; use lo.Retrain(), or check=False to have it anyway"
            )
        if cosine < _SMOOTH:
            warn(f"{_doubt(cosine)}; compare with lo.Retrain()")


def _per_points(run: Trained, measures: Sequence[Measure], since: int) -> list[PerPoint | None]:
    """For each measure what every point does to it; None where that does not add up."""
    adds = [not m.needs_w and m.smooth for m in measures]
    pulls = [gradients_of(run, m) for m, good in zip(measures, adds, strict=True) if good]
    if not pulls:
        return [None] * len(adds)
    found = _reversed(run, jnp.concatenate(pulls), since)
    cuts = np.cumsum([len(pull) for pull in pulls])[:-1]
    fields = (found.value.T, found.residual, found.steps, found.status)
    columns = zip(*(np.split(to_host(part), cuts) for part in fields), strict=True)
    parts = (PerPoint(value.T, *rest) for value, *rest in columns)
    return [next(parts) if good else None for good in adds]


@entry_point
def _reversed(run: Trained, pulls: Float[Array, "m p"], since: int) -> PerPoint:
    """`reverse` of all pulls, as effects of points; residual is how far theta ended from the run's.

    That is rounding, for the same steps went another way through the compiler.
    """
    s, held = run.objective.weights, 16 * (run.objective.p + run.objective.n)
    most = int(np.clip(budget() // held, 1, _PULLS))
    parts = [
        reverse(run.course, s, pulls[at : at + most], since) for at in range(0, len(pulls), most)
    ]
    slopes = jnp.concatenate([part for part, _ in parts])
    length = jnp.linalg.norm(run.flat)
    apart = float(jnp.linalg.norm(parts[0][1] - run.flat) / jnp.where(length > 0, length, 1.0))
    psi = -jnp.where(s > 0, s, 1.0)[:, None] * slopes.T
    count, finite = len(pulls), np.isfinite(to_host(psi)).all(axis=0)
    status = np.where(finite, 0 if apart <= _CHAOS else Status.inaccurate, Status.nonfinite)
    steps = np.full(count, run.recipe.steps, np.int32)
    return PerPoint(psi, np.full(count, apart), steps, status.astype(np.int8))


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Smoothness:
    """Whether the derivative of training stays what it is when weights move a little.

    Attributes:
        cosine: (s) for each seed, between the derivatives of the training loss in all weights, as
            they are and after a step of 2 %: 1 where the trained theta is smooth in them.

    Example:
        >>> lo.Smoothness(np.array([0.99, 0.97])).worst
        0.97
    """

    cosine: np.ndarray

    def __repr__(self) -> str:
        each = ", ".join(f"{one:.3f}" for one in self.cosine[:8])
        words = "smooth" if self.worst >= _SMOOTH else "doubtful"
        words = words if self.worst >= _USELESS else "too rough for a metagradient"
        return f"Smoothness({each}{', ...' * (len(self.cosine) > 8)}: {words})"

    @property
    def worst(self) -> float:
        """The smallest cosine."""
        return float(np.min(self.cosine))


@entry_point
def smoothness(run: Run) -> Smoothness:
    """The cosine between derivatives of training at v = s and after a step of 2 %, a seed each.

    Every weight moves by 2 %, up or down at random (always by the same draw). At 1 the derivative
    says what a group does; below .9, which is warned of, the trained theta bends within the step;
    below .5 `Metagradient` is refused. About eight trainings a seed.

    Args:
        run: from `lo.train`.

    Returns:
        a cosine for each seed.

    Raises:
        ValueError: for an optimiser that has no derivative.

    Example:
        >>> import optax
        >>> def init(key):
        ...     return {"w": jax.random.normal(key, (3,))}
        >>> net = lo.network(init, lo.losses.logistic, (x, y), apply=lambda p, x: x @ p["w"])
        >>> run = lo.train(net, lo.Recipe(optax.sgd(0.1), steps=6, batch=8), key=jax.random.key(0))
        >>> bool(lo.smoothness(run).worst > 0.9)
        True
    """
    check_is(run, Run, "a Run from lo.train")
    first = run.at(0)
    refuse_rough(run.recipe.optimiser, run.objective.parameters(first.start))
    with on_its_mesh(run.objective):
        found = Smoothness(np.array([_cosine_of(run.at(seed)) for seed in range(run.seeds)]))
    bad = np.flatnonzero(~(found.cosine >= _SMOOTH))
    if bad.size:
        warn(f"{_doubt(found.worst)}; it is below {_SMOOTH} for seeds {shortened(bad.tolist())}")
    return found


def _doubt(cosine: float) -> str:
    return (
        f"the derivative of this training turns when weights move by {_STEP:.0%}: its cosine with "
        f"itself is {cosine:.2f} (1 where training is smooth), so that it says little of groups"
    )


def _cosine_of(run: Trained) -> float:
    s = run.objective.weights
    signs = jax.random.rademacher(jax.random.key(0), s.shape, s.dtype)
    moved = s * (1 + _STEP * signs)
    ends = run.flat, run.without(moved[None])[0]
    one, other = (
        reverse(run.course, v, _pull(run.objective, theta)[None], 0)[0][0]
        for v, theta in zip((s, moved), ends, strict=True)
    )
    lengths = jnp.linalg.norm(one) * jnp.linalg.norm(other)
    return float(one @ other / jnp.where(lengths > 0, lengths, 1.0))


@eqx.filter_jit
def _pull(objective: AbstractObjective, theta: Float[Array, "p"]) -> Float[Array, "p"]:
    """The gradient of the training loss, without the penalty."""
    return replicate(objective.at(theta).gradient(objective.weights))
