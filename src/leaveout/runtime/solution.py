"""What a numerical answer carries besides its value: residual, steps, and how it ended."""

import enum

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float, Int, Int8

__all__ = [
    "Certificate",
    "Solution",
    "SolveError",
    "Status",
    "flagged_in_words",
    "kept",
    "raise_unless_converged",
]


class Status(enum.IntEnum):
    """How a solve ended. Arrays of statuses hold these codes as int8; 0 is the only good one.

    Example:
        >>> lo.Status(7).name
        'no_minimum'
        >>> lo.Status.max_steps.advice.partition(";")[0]
        'the steps ran out before the residual was reached'
    """

    converged = 0
    singular = 1
    not_positive_definite = 2
    max_steps = 3
    stalled = 4
    nonfinite = 5
    inaccurate = 6
    no_minimum = 7
    too_far = 8
    untrained = 9

    @property
    def advice(self) -> str:
        """One sentence: what happened, and what to do about it."""
        return _ADVICE[self]


_ADVICE = {
    Status.converged: "the solve reached the residual it was asked for",
    Status.singular: (
        "the Hessian of what is left is singular (the group empties a class or a feature, or "
        "columns are collinear), so that many thetas fit it equally well and one of them is "
        "returned: raise l2, or drop the column"
    ),
    Status.not_positive_definite: (
        "the Hessian of what is left has a negative eigenvalue, so no minimum is near; "
        "use a convex loss, raise l2, or add less weight"
    ),
    Status.max_steps: (
        "the steps ran out before the residual was reached; raise max_steps or loosen tolerance"
    ),
    Status.stalled: (
        "rounding stopped all progress before the residual was reached; "
        "use float64, rescale the features, or loosen tolerance"
    ),
    Status.nonfinite: (
        "the loss is NaN or infinite along the way; check the data, or raise l2 if the rest of "
        "the data no longer determines a finite minimum"
    ),
    Status.inaccurate: (
        "the solver finished but its true residual is larger than was asked for, or what is left "
        "has kept so little curvature that rounding shows; use float64, another solver or a "
        "larger l2"
    ),
    Status.no_minimum: (
        "the loss of what is left keeps falling towards infinite parameters (the group empties a "
        "class and the intercept is free, or what is left is separable); the value is where the "
        "steps stopped: raise l2, or penalise the intercept"
    ),
    Status.too_far: (
        "the step is longer than the second-order expansion it was taken from holds (the loss of "
        "the data as changed is higher after it than before, or not yet near its minimum), so that "
        "its size means nothing; use lo.Retrain(), or add less weight"
    ),
    Status.untrained: (
        "no batch of the training has an example left, so that nothing but the penalty moved "
        "theta: leave some examples that the batches hold"
    ),
}


class Certificate(enum.IntEnum):
    """What is known for sure about an effect. Arrays hold these codes as int8.

    Example:
        >>> lo.Certificate(1).name
        'loose'
        >>> lo.Certificate.loose.advice.partition(":")[0]
        'the interval holds the effect of retraining but proves little'
    """

    certified = 0
    loose = 1
    uncertified = 2

    @property
    def advice(self) -> str:
        """One sentence: what the interval says, and what would narrow it."""
        return _MEANING[self]


_MEANING = {
    Certificate.certified: (
        "the interval holds the effect of retraining, and theta is proven to within less than the "
        "change itself"
    ),
    Certificate.loose: (
        "the interval holds the effect of retraining but proves little: the bound on theta is "
        "longer than the change; ask for a tolerance, or start from lo.Retrain()"
    ),
    Certificate.uncertified: (
        "nothing could be proven: the loss states no envelope or is not convex, the measure is not "
        "linear or convex, what stays determines no minimum, or the candidate is too far from it; "
        "raise l2, or start from lo.Retrain()"
    ),
}


class Solution(eqx.Module):
    """The answer to a batch of solves, one row each.

    Attributes:
        value: (b p) the solutions.
        residual: (b) what was reached; the function that returns it says in which norm.
        steps: (b) iterations spent (0 for a direct solve).
        status: (b) `Status` codes.
    """

    value: Float[Array, "b p"]
    residual: Float[Array, "b"]
    steps: Int[Array, "b"]
    status: Int8[Array, "b"]


class SolveError(RuntimeError):
    """A solve ended badly and the caller asked to be told by an exception.

    Example:
        >>> x = np.array([[0.0], [1.0]])
        >>> try:
        ...     lo.fit(lo.logistic(x, [0, 1], l2=0.0))  # separable: no minimum
        ... except lo.SolveError as error:
        ...     print("refused")
        refused
    """


def raise_unless_converged(status, residual, names) -> None:
    """Raise `SolveError` naming the first failed row of a solve.

    Args:
        status: (b) codes.
        residual: (b) residuals, quoted in the message.
        names: (b) what to call the rows, for example "group 'worker 17'".
    """
    status = np.asarray(status)
    failed = np.flatnonzero(status)
    if failed.size == 0:
        return
    first = failed[0]
    code = Status(int(status[first]))
    raise SolveError(
        f"{failed.size:,} of {status.size:,} solves failed, the first of them for {names[first]}: "
        f"{code.name} (residual {float(np.asarray(residual)[first]):.1e}): {code.advice}"
    )


def flagged_in_words(status) -> str:
    """How many groups did not converge, and how: "1 of 7 groups did not converge (1 no_minimum)".

    Args:
        status: (g) codes.
    """
    status = np.asarray(status)
    codes, counts = np.unique(status[status != 0], return_counts=True)
    how = ", ".join(f"{n:,} {Status(int(c)).name}" for c, n in zip(codes, counts, strict=True))
    return f"{int(counts.sum()):,} of {status.size:,} groups did not converge ({how})"


def kept(status, names, what: str, drop: bool) -> np.ndarray:
    """(g) True for the groups that an estimate over all of them may use.

    Args:
        status: (g) codes.
        names: (g) what to call the groups, for example "group 'worker 17'".
        what: the estimate, as the beginning of a sentence.
        drop: whether those that did not converge are left out.

    Raises:
        SolveError: for groups that did not converge, unless they are to be left out.
    """
    good = np.asarray(status) == 0
    if good.all() or drop:
        return good
    first = int(np.argmin(good))
    code = Status(int(np.asarray(status)[first]))
    raise SolveError(
        f"{what} needs every group, but {flagged_in_words(status)}, the first of them "
        f"{names[first]}: {code.advice}; or say drop=True, to leave them out"
    )
