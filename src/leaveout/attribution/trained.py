"""Effects on what was trained: seed by seed, each paired with its own run."""

import dataclasses
from collections.abc import Callable, Collection, Sequence

import numpy as np

from leaveout.attribution.container import Effects
from leaveout.attribution.stream import first_failure, gathered, pose
from leaveout.fitting.gates import Need, admit
from leaveout.groups import Groups
from leaveout.measures import Measures
from leaveout.methods import Method
from leaveout.runtime.memory import limited
from leaveout.runtime.sharding import on_its_mesh
from leaveout.runtime.solution import raise_unless_converged
from leaveout.runtime.text import warn
from leaveout.training.run import Run, Trained, replayed

__all__ = ["effects_by", "effects_of_run", "mean_over_seeds"]

_TOGETHER = 32  # groups of a chunk: how often progress is told


def effects_of_run(
    run: Run,
    groups: Groups,
    measures: Measures,
    method: Method,
    *,
    memory=None,
    throw: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Effects:
    """What each group's removal does to each measure, mean over the seeds of a run.

    Each seed is compared with itself: f(trained without) - f(trained with), from the same start,
    through the same batches. `Effects.seeds` holds them one by one, `Effects.error` the standard
    error of their mean.
    """
    (result,) = effects_by(run, groups, measures, [method], memory=memory, progress=progress)
    if throw:
        raise_unless_converged(result.status, result.residual, groups.titles)
    return result


def effects_by(
    run: Run,
    groups: Groups,
    measures: Measures,
    methods: Sequence[Method],
    *,
    memory=None,
    progress: Callable[[int], None] | None = None,
) -> list[Effects]:
    """The effects by each of several methods that need the same of a run, seed after seed.

    What is found once for a theta serves all of them.
    """
    needs = _needs(methods[0])
    follows, notes, found = Need.trajectory in needs, [], [[] for _ in methods]
    with limited(memory), on_its_mesh(run.objective):
        for seed in range(run.seeds):
            exact = methods[0].exact
            one, note = replayed(run, seed, exact) if follows else (run.at(seed), None)
            notes += [note] if note is not None else []
            for method, parts in zip(methods, found, strict=True):
                parts.append(_of_seed(one, groups, measures, method, progress))
    if notes:
        warn(notes[0])
    meaning = [run.recipe.normaliser.meaning] if follows else []
    said = (*meaning, *dict.fromkeys(notes))
    return [mean_over_seeds(parts, said) for parts in found]


def _needs(method: Method) -> Collection[Need]:
    """What a method needs of a run.

    Raises:
        ValueError: for a method that has no answer to one.
    """
    if method.of_run is not None:
        return method.of_run
    if Need.trajectory in method.needs or not method.needs:
        return method.needs
    raise ValueError(
        f"{method.name} needs {Need.optimum.value}, and a Run claims none; use lo.Retrain(), "
        "lo.Metagradient(), or lo.Influence(), lo.Newton() with a lo.curvature"
    )


def _of_seed(one: Trained, groups: Groups, measures: Measures, method: Method, progress) -> Effects:
    """The effects on one seed."""
    fit, acting = admit(one, groups, ())
    question = pose(fit, acting, measures, method)
    chunks = -(-len(groups) // max(_TOGETHER, one.width))
    return gathered(question, np.array_split(np.arange(len(groups)), chunks), progress)


def mean_over_seeds(found: Sequence[Effects], notes: tuple[str, ...]) -> Effects:
    """The mean over seeds of effects on each, flagged where any seed is.

    Args:
        found: on each seed, of the same groups and columns.
        notes: what a reader should know.
    """
    seeds = np.stack([each.value for each in found])
    codes = np.stack([each.column_status for each in found])
    worst = np.take_along_axis(codes, np.argmax(codes != 0, axis=0)[None], axis=0)[0]
    error = None
    if len(found) > 1:
        error = seeds.std(axis=0, ddof=1) / np.sqrt(len(found))
    return dataclasses.replace(
        found[0],
        value=seeds.mean(axis=0),
        status=first_failure(worst),
        theta_status=first_failure(np.stack([each.theta_status for each in found], axis=1)),
        column_status=worst,
        residual=np.max([each.residual for each in found], axis=0),
        steps=np.sum([each.steps for each in found], axis=0),
        seeds=seeds,
        error=error,
        notes=notes,
    )
