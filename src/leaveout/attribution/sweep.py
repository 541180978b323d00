"""Effects under several dampings, whose matrix is formed once for each theta."""

import dataclasses
from collections.abc import Iterable

from leaveout.attribution.container import Effects
from leaveout.attribution.trained import effects_by
from leaveout.attribution.verb import effects
from leaveout.curvature import GaussNewton
from leaveout.fitting.fitted import Fit
from leaveout.groups import Groups
from leaveout.measures import Measures
from leaveout.methods import Corrected, Influence, Newton, formed_once
from leaveout.runtime.options import check_is
from leaveout.runtime.sharding import entry_point
from leaveout.training.run import Run

__all__ = ["damping_sweep"]


@entry_point
def damping_sweep(
    fit: Fit | Run,
    groups: Groups,
    measures: Measures,
    dampings: Iterable[float],
    method: Influence | Newton | Corrected = Influence(),
    *,
    memory=None,
) -> dict[float, Effects]:
    """`lo.effects` under each of several dampings of the curvature.

    Says how far an answer hangs on a number that nothing but the recipe suggests: show the whole
    sweep, and choose by what you know before retraining, never by the agreement with it. The matrix
    (n p^2) is formed once for every theta, each damping costs a factor (p^3 / 3) and its solves.

    Args:
        fit: a fit, or a `Run`.
        groups: what leaves.
        measures: as in `lo.effects`.
        dampings: in units of a mean loss, at least 0; `run.recipe.damping()` is the default of a
            method.
        method: `lo.Influence`, `lo.Newton` or `lo.Corrected`, with the curvature whose damping is
            varied; default Gauss-Newton.
        memory: as in `lo.effects`.

    Returns:
        each damping to its effects, in the order given.

    Raises:
        ValueError: for no damping, a negative one, or a method without curvature.

    Example:
        >>> found = lo.damping_sweep(fit, groups, measure, [0.0, 0.1])
        >>> {damping: effects.value.shape for damping, effects in found.items()}
        {0.0: (4, 1), 0.1: (4, 1)}
    """
    if not isinstance(method, Influence | Newton | Corrected):
        raise ValueError(
            f"expected method as lo.Influence(), lo.Newton() or lo.Corrected(), got {method!r}"
        )
    check_is(dampings, Iterable, "dampings, one or more, for example [1e-3, 1e-2]")
    curvature = GaussNewton() if method.curvature is None else method.curvature
    asked = {
        damping: dataclasses.replace(
            method, curvature=dataclasses.replace(curvature, damping=damping)
        )
        for damping in dampings
    }
    if not asked:
        raise ValueError("expected at least one damping, for example [1e-3, 1e-2]")
    with formed_once():
        if isinstance(fit, Run):
            found = effects_by(fit, groups, measures, list(asked.values()), memory=memory)
        else:
            found = [effects(fit, groups, measures, one, memory=memory) for one in asked.values()]
    return dict(zip(asked, found, strict=True))
