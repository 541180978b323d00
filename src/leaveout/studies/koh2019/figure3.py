"""Figure 3 of the paper, the counterexamples: the panels, and their numbers.

Source: Koh, Ang, Teo and Liang (2019), figure 3.
"""

import dataclasses
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from leaveout import plot
from leaveout.analysis.compare import compare
from leaveout.attribution.container import Effects
from leaveout.groups import Groups
from leaveout.methods import Influence, Newton, Retrain
from leaveout.objectives.checks import float_type
from leaveout.runtime.files import write_json
from leaveout.studies.koh2019 import counterexamples, plot_theory
from leaveout.studies.koh2019.counterexamples import Counterexample

__all__ = ["figure"]

_THIRD = 2  # of the queries that the released code draws, the one that it shows
_GUARD = 1e-4
_TILT = 0.05
_SHARES = np.linspace(0, 1, 21)


def figure(names: Sequence[str] | None = None, *, out: str | os.PathLike = ".") -> list[Path]:
    """Figure 3: the paper's panels, the released rule in two precisions, and the compact ones.

    Args:
        names: of data sets: none, it is of generated data.
        out: folder to write to.

    Returns:
        what was written: PNG, PDF, and the numbers as JSON.

    Raises:
        ValueError: for names of data sets, and unless JAX computes in float64.
    """
    if names:
        raise ValueError(f"figure 3 is of generated data; got {', '.join(names)}")
    if float_type() != np.float64:
        raise ValueError(
            'figure 3 compares float32 with float64; call jax.config.update("jax_enable_x64", True)'
        )
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    drawn, axes = plot.canvas(2, 3)
    rows = [
        _honest(axes[0, 0]),
        _copies(axes[0, 1]),
        _reversed(axes[0, 2]),
        *_literal(axes[1, 0], axes[1, 1]),
        *_blind(axes[1, 2]),
    ]
    paths = [out / f"figure_3{suffix}" for suffix in (".png", ".pdf")]
    plot.write(drawn, paths)
    numbers = out / "figure_3.json"
    write_json(numbers, rows, indent=1)
    return [*paths, numbers]


def _pair(example: Counterexample) -> tuple[Effects, Effects]:
    """Influence and Newton's effect of all groups, as in the paper: those too far as well."""
    first, newton = (example.effects(each) for each in (Influence(), Newton(linearised=True)))
    return first, dataclasses.replace(
        newton, status=first.status, column_status=first.column_status
    )


def _facts(panel: str, first: Effects, second: Effects, column: int = 0) -> dict[str, Any]:
    """A row of figure_3.json: influence against Newton at one query."""
    report = compare(first, second, resamples=0)
    one, other = first.value[:, column], second.value[:, column]
    return {
        "panel": panel,
        "groups": len(one),
        "spearman": float(report.spearman[column]),
        "pearson": float(report.pearson[column]),
        "opposite_signs": float(np.mean(np.sign(one) != np.sign(other))),
        "influence": [float(one.min()), float(one.max())],
        "newton": [float(other.min()), float(other.max())],
    }


def _queries(example: Counterexample, first: Effects, second: Effects) -> dict[str, Any]:
    """What holds for all the queries that were drawn for pairs of gauss4."""
    ranks = compare(first, second, resamples=0).spearman
    return {
        "queries": len(ranks),
        "spearman_of_queries": [float(f(ranks)) for f in (np.min, np.mean, np.max)],
        "length_of_query": float(np.linalg.norm(example.x_query[_THIRD])),
        "points": len(np.unique(example.groups.indices)),
    }


def _honest(ax) -> dict[str, Any]:
    example = counterexamples.gauss4()
    first, second = _pair(example)
    actual = example.effects(Retrain())
    plot_theory.signs(first, second, column=_THIRD, ax=ax, title="gauss4: pairs that point apart")
    return _facts("gauss4", first, second, _THIRD) | {
        "read_off_the_paper": {"spearman": 0.49, "opposite_signs": 0.31},  # 83 of its 120 points
        "spearman_newton_actual": float(compare(second, actual, resamples=0).spearman[_THIRD]),
        **_queries(example, first, second),
    }


def _copies(ax) -> dict[str, Any]:
    example = counterexamples.ortho2()
    first, second = _pair(example)
    actual = example.effects(Retrain())
    largest = np.linalg.eigvalsh(example.fit.objective.hessian(example.fit.flat))[-1]
    cone = float(example.fit.objective.l2 / largest)  # l2 / (l2 + sigma_max), proposition 4
    plot_theory.signs(first, second, ax=ax, title="ortho2: copies of one point", cone=cone)
    ratio, kind = (second.value / first.value)[:, 0], example.groups.kind
    return _facts("ortho2", first, second) | {
        "spearman_actual": float(compare(first, actual, resamples=0).spearman[0]),
        "factors": {
            str(name): [float(ratio[kind == name].min()), float(ratio[kind == name].max())]
            for name in dict.fromkeys(kind)
        },
        "cone_slope": cone,
    }


def _reversed(ax) -> dict[str, Any]:
    example = counterexamples.reversal()
    first, second = _pair(example)
    actual = example.effects(Retrain())
    also, title = ("actual", actual, first), "six axes: order reversed"
    plot_theory.signs(first, second, ax=ax, title=title, also=also, close=True)
    ax.set_xlabel("effect")
    return _facts("reversal", first, second) | {
        "spearman_actual": float(compare(first, actual, resamples=0).spearman[0]),
        "factors": (second.value / first.value)[:, 0].tolist(),
        "actual": [float(actual.value.min()), float(actual.value.max())],
    }


def _literal(here, there) -> list[dict[str, Any]]:
    """The released rule in float64, and in float32 with the same groups and queries in float64."""
    example = counterexamples.gauss4(_GUARD)
    first, second = _pair(example)
    plot_theory.signs(first, second, column=_THIRD, ax=here, title="gauss4: released rule, float64")
    row = _facts("released rule, float64", first, second, _THIRD)
    rows = [row | _queries(example, first, second)]
    with jax.enable_x64(False), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that rounding is most of it is what is shown
        rounded = counterexamples.gauss4(_GUARD)
        # as released, the changes in float32; their products with the query in float64
        products = [
            change.astype(float) @ rounded.x_query.T
            for change in counterexamples.changes(rounded.fit, rounded.groups)
        ]
    again = Counterexample(example.fit, rounded.groups, rounded.x_query)
    exact = _pair(again)
    first, second = (
        dataclasses.replace(effects, value=value)
        for effects, value in zip(exact, products, strict=True)
    )
    title = "gauss4: released rule, float32"
    also = ("the same in float64", exact[1], exact[0])
    plot_theory.signs(first, second, column=_THIRD, ax=there, title=title, also=also)
    row = _facts("released rule, float32", first, second, _THIRD)
    rows.append(row | _queries(rounded, first, second))
    row = _facts("groups and queries of float32, in float64", *exact, _THIRD)
    return [*rows, row | _queries(again, *exact)]


def _blind(ax) -> list[dict[str, Any]]:
    """A group that leaves by and by, seen by a query blind to influence, and by a tilted one."""
    rows = []
    for tilt in (0.0, _TILT):
        example = counterexamples.blind_spot(tilt)
        weights = _SHARES[1:, None] * example.groups.dense()
        parts = dataclasses.replace(example, groups=Groups.from_weights(weights))
        series = {
            name: np.append(0.0, parts.effects(method).value[:, 0])
            for name, method in (
                ("influence", Influence()),
                ("Newton", Newton(linearised=True)),
                ("actual", Retrain()),
            )
        }
        title = "a query blind to influence (faint: tilted)"
        plot_theory.removal(_SHARES, series, ax=ax, title=title, faint=tilt > 0)
        ends = {name.lower(): float(effects[-1]) for name, effects in series.items()}
        rows.append({"panel": "blind spot", "tilt": tilt} | ends)
    return rows
