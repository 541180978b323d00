"""The figures of the gallery: `python docs/examples/gallery.py docs/gallery` makes all of them.

Each function is what stands beside its figure.
"""

import sys
from pathlib import Path

import jax
import numpy as np

import leaveout as lo

jax.config.update("jax_enable_x64", True)
data = lo.datasets.breast_cancer()
fit = lo.fit(lo.logistic(data.x, data.y, l2=1.0))
queries = data.x_query, data.y_query
names = np.where(data.y_query == 1, "benign", "malignant")


def scatter():
    """Predicted against actual effects of 120 random groups on their own loss."""
    groups = lo.groups.random(jax.random.key(0), data, sizes=lo.groups.sizes(data.n, 120))
    predicted = lo.effects(fit, groups, lo.measures.self_loss(), lo.Influence())
    actual = lo.effects(fit, groups, lo.measures.self_loss(), lo.Retrain())
    figure, axes = lo.plot.canvas(1, 1)
    lo.plot.scatter(predicted, actual, ax=axes[0, 0], title="influence")
    return figure


def panels():
    """Three methods on two measures, kinds of groups told apart."""
    groups = lo.groups.of_data(jax.random.key(0), data, num=25)
    measures = [lo.measures.loss(queries, reduce="mean"), lo.measures.self_loss()]
    actual = lo.effects(fit, groups, measures, lo.Retrain())
    methods = (lo.Influence(), lo.Newton(), lo.NewtonChebyshev())
    found = {method.name: lo.effects(fit, groups, measures, method) for method in methods}
    return lo.plot.panels(found, actual, [0, 1])


def bands():
    """Effects of groups beside what random groups of the same size and classes do."""
    groups = lo.Groups.from_labels(data.x[:, 1] // 2, kind="texture")
    found = lo.credit(fit, groups, lo.measures.loss(queries, reduce="sum"), null=500)
    return lo.plot.bands(found)


def heat():
    """Effects of groups on parts of the held-out data, groups of like effects side by side."""
    groups = lo.Groups.from_labels(data.x[:, 1] // 2, kind="texture")
    effects = lo.effects(fit, groups, lo.measures.loss(queries, by=names), lo.Retrain())
    return lo.plot.heat(effects.value, groups.names, ["benign", "malignant"])


def against():
    """What groups are against what they do."""
    groups = lo.Groups.from_labels(data.x[:, 1] // 2, kind="texture")
    effects = lo.effects(fit, groups, lo.measures.self_loss(), lo.Retrain()).value[:, 0]
    figure, axes = lo.plot.canvas(1, 1)
    lo.plot.against(groups.size, effects, ax=axes[0, 0], xlabel="points", ylabel="self-loss")
    return figure


def intervals():
    """Proven intervals of the effect of retraining: mostly narrower than the dots."""
    groups = lo.groups.random(jax.random.key(0), data, sizes=np.full(30, 20))
    measure = lo.measures.loss(queries, reduce="mean")
    sure = lo.effects(fit, groups, measure, lo.NewtonChebyshev(), certify=True)
    figure, axes = lo.plot.canvas(1, 1)
    order = np.argsort(sure.value[:, 0])
    value, width = sure.value[order, 0], sure.width[order, 0]
    axes[0, 0].errorbar(value, range(30), xerr=width, fmt="o", markersize=3, color="#0072B2")
    axes[0, 0].set(xlabel="effect on the mean loss", ylabel="groups, in order")
    return figure


def extreme():
    """Sets that lower three margins the most, beside what influence says and finds."""
    few = data.x_query[[57, 94, 71]], data.y_query[[57, 94, 71]]
    found = lo.extreme(fit, lo.measures.margin(few), [5, 28, 57], direction=-1)
    return lo.plot.extreme(found)


def flips():
    """How many points it takes to turn the signs of ten coefficients."""
    coefficients = lo.measures.parameter(list(data.feature_names[:10]), name="coefficient")
    return lo.plot.flips(lo.flips(lo.fit(data.objective(1.0)), coefficients))


def values():
    """What each group adds to any set of the others."""
    sixths = np.quantile(data.x[:, 1], np.arange(1, 6) / 6)
    texture = [f"texture, sixth {k + 1}" for k in np.digitize(data.x[:, 1], sixths)]
    groups = lo.Groups.from_labels(texture, kind="texture")
    found = lo.value(fit, groups, lo.measures.loss(queries, reduce="mean"))
    return lo.plot.values(found).figure


FIGURES = (scatter, panels, bands, heat, against, intervals, extreme, flips, values)


def main(folder: str | Path) -> None:
    """Write every figure as PNG."""
    for draw in FIGURES:
        lo.plot.write(draw(), Path(folder) / f"{draw.__name__}.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
