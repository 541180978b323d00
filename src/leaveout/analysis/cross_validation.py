"""The error on held-out groups without fitting anew: from the effects on their own loss."""

import dataclasses

import equinox as eqx
import numpy as np

from leaveout.attribution.stream import gathered, pose
from leaveout.attribution.verb import check_method
from leaveout.fitting.double import in_double
from leaveout.fitting.fitted import Fit
from leaveout.fitting.gates import admit
from leaveout.fitting.leaving import taken_by
from leaveout.groups import Groups
from leaveout.measures import self_loss
from leaveout.methods import Method, Newton, l2_of_groups
from leaveout.runtime.memory import limited
from leaveout.runtime.sharding import entry_point, replicate, to_host
from leaveout.runtime.solution import flagged_in_words, kept, raise_unless_converged

__all__ = ["HeldOut", "cross_validate_groups", "own_losses"]


@dataclasses.dataclass(frozen=True, eq=False)
class HeldOut:
    """The loss of every group under the model that was fitted without it.

    Attributes:
        loss: (g) sum over the group of s w loss, once it has left; where `status` is not 0 it is
            where the steps stopped, and says nothing.
        training_loss: (g) the same while it is in.
        weight: (g) sum of s w, what a mean divides by.
        status: (g) `Status` codes of the changes behind it.
        groups: what was held out.
        method: name of the method.
        drop: whether means leave out the groups that did not converge.

    Example:
        >>> held_out = lo.cross_validate_groups(fit, groups, lo.Retrain())
        >>> bool(held_out.mean > held_out.training_mean)
        True
    """

    loss: np.ndarray
    training_loss: np.ndarray
    weight: np.ndarray
    status: np.ndarray
    groups: Groups
    method: str
    drop: bool = False

    @property
    def mean(self) -> float:
        """The cross-validated error: the mean held-out loss over all points of all groups.

        Raises:
            SolveError: if a group did not converge, unless those are dropped.
        """
        mine = self._kept()
        return float(self.loss[mine].sum() / self.weight[mine].sum())

    @property
    def training_mean(self) -> float:
        """The mean loss of the same points while they are in: what optimism would report.

        Raises:
            SolveError: if a group did not converge, unless those are dropped.
            ValueError: if no group that converged has weight.
        """
        mine = self._kept()
        return float(self.training_loss[mine].sum() / self.weight[mine].sum())

    @property
    def standard_error(self) -> float:
        """Of `mean`, from how the groups differ (their losses per weight, weighted).

        Groups without weight are not there; NaN for fewer than two others.

        Raises:
            SolveError: if a group did not converge, unless those are dropped.
            ValueError: if no group that converged has weight.
        """
        mine = self._kept()
        loss, weight = self.loss[mine], self.weight[mine]
        count = int(np.count_nonzero(weight))
        spread = (loss - weight * self.mean) / weight.sum()
        return float(np.sqrt(np.sum(spread**2) * count / (count - 1))) if count > 1 else np.nan

    def _kept(self) -> np.ndarray:
        """(g) the groups that a mean is over: those that have converged and weigh something."""
        mine = kept(self.status, self.groups.titles, "the held-out error", self.drop)
        if not self.weight[mine].any():
            raise ValueError("expected a group that has weight and converged, got none")
        return mine

    def __repr__(self) -> str:
        head = f"HeldOut({self.method}: {len(self.loss):,} groups, "
        told = flagged_in_words(self.status) if self.status.any() else ""
        if told and not self.drop:
            return f"{head}no mean: {told}; drop=True leaves them out)"
        if not self.weight[self.status == 0].any():
            return f"{head}no mean: {told or 'no group has weight'})"
        dropped = f", without those dropped: {told}" if told else ""
        return (
            f"{head}mean loss {self.mean:.6g} +- {self.standard_error:.2g}, in training "
            f"{self.training_mean:.6g}{dropped})"
        )


@in_double
def cross_validate_groups(
    fit: Fit,
    groups: Groups,
    method: Method = Newton(),
    *,
    drop: bool = False,
    l2=None,
    memory=None,
    throw: bool = False,
) -> HeldOut:
    """Cross-validate by groups: what each loses under the model without it.

    k folds (`groups.folds`, `Groups.from_splits`), one natural group after another, or every point
    (`groups.singles`), from the fit to all data. Retraining gives the truth; influence estimates
    from below: its effect on the group's own loss, g(w)' H^-1 g(w), is short of Newton's and, to
    that order, of the true one, the more the larger the group.

    Args:
        fit: the fitted objective.
        groups: what is held out, one after another.
        method: `Influence()`, `Newton()`, `NewtonChebyshev()` or `Retrain()`.
        drop: leave groups that do not converge out of the means, which else are refused: a group
            that holds a whole class leaves a model whose loss on it is infinite.
        l2: (g) a penalty for each group's refit, as in `effects`.
        memory: as in `effects`.
        throw: as in `effects`.

    Returns:
        losses (g) of the groups, and their means.

    Raises:
        ValueError: for groups that add something.
        SolveError: of a mean, where a group did not converge and `drop` is not said.

    Example:
        >>> lo.cross_validate_groups(fit, groups, lo.Retrain()).loss.shape
        (4,)

    Source: Koh et al. (2019), section 4.3 (self-loss); Pregibon (1981) and Beirami et al. (2017)
    for single points.
    """
    check_method(fit, method)
    fit, groups = admit(fit, groups, method.needs)
    if (taken_by(fit.objective, groups) < 0).any():
        raise ValueError(
            "expected groups that leave: what is added, or counts for more, is not held out "
            "(lo.effects with lo.measures.loss says what it does to the loss of other examples)"
        )
    own = l2_of_groups(l2, groups)
    with limited(memory):
        change = gathered(pose(fit, groups, self_loss(), method, l2=own))
    if throw:
        raise_unless_converged(change.status, change.residual, groups.titles)
    training, weight = own_losses(fit, groups)
    return HeldOut(
        loss=training + change.value[:, 0],
        training_loss=training,
        weight=weight,
        status=change.status,
        groups=groups,
        method=change.method,
        drop=drop,
    )


@entry_point
def own_losses(fit: Fit, groups: Groups) -> tuple[np.ndarray, np.ndarray]:
    """Each group's loss at theta, sum of s w loss, and the sum of s w: (g) each."""
    taken = taken_by(fit.objective, groups)
    losses = np.asarray(to_host(_losses(fit)))[groups.indices]
    terms = np.where(taken != 0, taken * losses, 0.0)  # 0 * inf is NaN
    return groups.sums(terms), groups.sums(taken)


@eqx.filter_jit
def _losses(fit: Fit):
    return replicate(fit.objective.losses(fit.flat))
