"""Figures of the theory on real data: the cones of proposition 3, and what the penalty decides."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from leaveout import measures, plot
from leaveout.analysis import propositions as bounds
from leaveout.fitting.fitted import Fit
from leaveout.fitting.optimum import fit
from leaveout.plot import Axes
from leaveout.studies import datasets
from leaveout.studies.datasets import objective_for
from leaveout.studies.folder import Progress, Say
from leaveout.studies.given import known
from leaveout.studies.koh2019 import figures as paper
from leaveout.studies.koh2019 import plot_sweep, plot_theory, published
from leaveout.studies.removal import Study

__all__ = ["FIGURES", "figure"]

#: figure to the data sets it shows: those whose p x p matrices are small
FIGURES = {"cones": ("diabetes", "cdr"), "penalty": ("diabetes", "fishdog")}


def figure(
    name: str,
    names: Sequence[str] | None = None,
    *,
    studies: str | os.PathLike = ".",
    out: str | os.PathLike = ".",
    progress: Progress | None = None,
    say: Say = lambda sentence: None,
    memory: float | int | None = None,
) -> list[Path]:
    """A figure of the theory; studies that are missing are run first.

    "cones": Newton's effect on the group's own loss over influence's, group by group, inside the
    paper's cone (everybody's mu) and inside its own (`bounds.cone`). "penalty": how well influence
    ranks groups, against l2 over the largest curvature sigma_max.

    Args:
        name: one of `FIGURES`.
        names: data sets, in place of its own.
        studies: where the studies' folders are.
        out: folder to write to, as PNG and PDF.
        progress: as in `removal.run`.
        say: as in `removal.run`.
        memory: as in `removal.run`.

    Returns:
        the paths.
    """
    names = list(FIGURES[name] if names is None else names)
    number = {"cones": "1", "penalty": "C.2"}[name]
    done: dict[str, list[Study]] = {each: [] for each in names}
    for configuration in paper.configurations(number, names):
        ran = paper.study_of(configuration, Path(studies), progress, say, memory)
        done[known(configuration.dataset)].append(ran)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    paths = [out / f"figure_{name}{suffix}" for suffix in (".png", ".pdf")]
    (_draw_cones if name == "cones" else _draw_ranks)(done, paths)
    return paths


def _draw_cones(done: dict[str, list[Study]], paths: list[Path]) -> None:
    """A panel a data set, of its one study."""
    drawn, axes = plot.canvas(1, len(done))
    for ax, (each, (ran,)) in zip(axes[0], done.items(), strict=True):
        _cones(ax, each, ran)
    plot.write(drawn, paths)


def _draw_ranks(done: dict[str, list[Study]], paths: list[Path]) -> None:
    """A line a data set, of its studies at every penalty."""
    drawn, axes = plot.canvas(1, 1)
    series = {}
    for each, runs in done.items():
        rank = [ran.comparisons["influence"] for ran in runs]
        share = [ran.summary["l2"] / _largest(each, ran) for ran in runs]
        series[published.DATA[each]] = (
            np.array(share), np.array([r.spearman[r.columns.index("self_loss")] for r in rank])
        )  # fmt: skip
    plot_sweep.ranks(series, ax=axes[0, 0], xlabel="l2 / sigma_max", ylabel="Spearman on self-loss")
    plot.write(drawn, paths)


def _fitted(name: str, ran: Study) -> Fit:
    return fit(objective_for(datasets.load(name), ran.summary["l2"]))


def _largest(name: str, ran: Study) -> float:
    return float(bounds.constants(_fitted(name, ran)).largest)


def _cones(ax: Axes, name: str, ran: Study) -> None:
    fitted, groups = _fitted(name, ran), ran.effects["actual"].groups
    parts = bounds.decompose(fitted, groups, measures.self_loss())
    first = parts.influence[:, 0]
    step = (parts.newton - parts.rest)[:, 0]
    own = bounds.cone(fitted, groups)
    everybody = bounds.cone(fitted, groups, of=bounds.Mu.everybody)
    plot_theory.cones(
        first, step, parts.actual[:, 0], own.lower, own.upper, float(everybody.upper[0]), ax=ax,
        title=published.DATA[name],
    )  # fmt: skip
