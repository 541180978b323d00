"""Figures of the theory on real data: the cones of proposition 3, and what the penalty decides."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from leaveout import measures, plot
from leaveout.analysis import propositions as bounds
from leaveout.fitting.fitted import Fit
from leaveout.fitting.optimum import fit
from leaveout.objectives.linear import objective_for
from leaveout.studies import datasets
from leaveout.studies.koh2019 import figures as paper
from leaveout.studies.koh2019 import plot_sweep, plot_theory, published
from leaveout.studies.removal import Study

__all__ = ["FIGURES", "figure"]

#: figure to the data sets it shows: those whose p x p matrices are small
FIGURES = {"cones": ("diabetes", "cdr"), "penalty": ("diabetes", "fishdog")}


def figure(
    name: str,
    names=None,
    *,
    studies: str | os.PathLike = ".",
    out: str | os.PathLike = ".",
    say: Callable[[str], None] = lambda sentence: None,
    memory=None,
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
        say: called with a sentence at each stage.
        memory: bytes that working arrays may take.

    Returns:
        the paths.
    """
    names = list(FIGURES[name] if names is None else names)
    number = {"cones": "1", "penalty": "C.2"}[name]
    done: dict[str, list[Study]] = {each: [] for each in names}
    for configuration in paper.configurations(number, names):
        ran = paper.study_of(configuration, Path(studies), None, say, memory)
        done[configuration.dataset].append(ran)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    paths = [out / f"figure_{name}{suffix}" for suffix in (".png", ".pdf")]
    if name == "cones":
        drawn, axes = plot.canvas(1, len(names))
        for ax, (each, (ran,)) in zip(axes[0], done.items(), strict=True):
            _cones(ax, each, ran)
        plot.write(drawn, paths)
        return paths
    drawn, axes = plot.canvas(1, 1)
    series = {}
    for each, runs in done.items():
        column = "self_loss"
        rank = [ran.comparisons["influence"] for ran in runs]
        share = [ran.summary["l2"] / _largest(each, ran) for ran in runs]
        series[published.DATA[each]] = (
            np.array(share), np.array([r.spearman[r.columns.index(column)] for r in rank])
        )  # fmt: skip
    plot_sweep.ranks(series, ax=axes[0, 0], xlabel="l2 / sigma_max", ylabel="Spearman on self-loss")
    plot.write(drawn, paths)
    return paths


def _fitted(name: str, ran: Study) -> Fit:
    return fit(objective_for(datasets.load(name), ran.summary["l2"]))


def _largest(name: str, ran: Study) -> float:
    return float(bounds.constants(_fitted(name, ran)).largest)


def _cones(ax: Any, name: str, ran: Study) -> None:
    fitted, groups = _fitted(name, ran), ran.effects["actual"].groups
    parts = bounds.decompose(fitted, groups, measures.self_loss())
    first = parts.influence[:, 0]
    step = (parts.newton - parts.rest)[:, 0]
    own = bounds.cone(fitted, groups)
    everybody = bounds.cone(fitted, groups, of="everybody")
    plot_theory.cones(
        first, step, parts.actual[:, 0], own.lower, own.upper, float(everybody.upper[0]), ax=ax,
        title=published.DATA[name],
    )  # fmt: skip
