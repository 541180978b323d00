"""A method of your own beside all of ours, on the paper's seven kinds of groups.

    python docs/examples/own_method.py --groups 10 --out build

Prints how well each predicts retraining, its linear datamodelling score, and writes a figure.
"""

import argparse
import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import leaveout as lo


@dataclasses.dataclass(frozen=True)
class Diagonal(lo.Method):
    """The Newton step with the diagonal of the Hessian in its place: no matrix is formed."""

    name = "diagonal Newton"

    def prepare(self, fit, measures):
        """What all groups share, and the map from groups to changes in theta (g p)."""
        objective = fit.objective

        def change(groups):
            v = objective.stays(groups.dense())
            slope = jax.vmap(lambda v: objective.gradient(fit.flat, v))(v)
            curvature = jax.vmap(lambda v: jnp.diagonal(objective.hessian(fit.flat, v)))(v)
            return -slope / curvature

        return lo.Prepared(change)


def paper_groups(fit: lo.Fit, data: lo.datasets.Dataset, num: int) -> lo.Groups:
    """The paper's seven kinds of groups, `num` of each, tails on the first query."""
    scores = lo.per_point(fit, lo.measures.loss((data.x_query[:1], data.y_query[:1])))
    residuals = np.asarray(fit.expansion().first)  # the derivative of each loss by its score
    return lo.groups.seven(jax.random.key(0), data, residuals, scores, num=num)


def main(arguments: list[str] | None = None) -> dict[str, lo.Effects]:
    """Compare the methods; returns their effects by name."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--groups", type=int, default=10, metavar="N", help="of each kind")
    parser.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="for the figure")
    options = parser.parse_args(arguments)
    jax.config.update("jax_enable_x64", True)
    data = lo.datasets.breast_cancer()
    fit = lo.fit(lo.logistic(data.x, data.y, l2=1.0))
    groups = paper_groups(fit, data, options.groups)
    measure = lo.measures.margin((data.x_query[:5], data.y_query[:5]))
    actual = lo.effects(fit, groups, measure, lo.Retrain())
    methods = (Diagonal(), lo.Influence(), lo.Newton(), lo.NewtonChebyshev())
    found = {method.name: lo.effects(fit, groups, measure, method) for method in methods}
    for name, effects in found.items():
        slope = lo.compare(effects, actual).slope.mean()
        score = lo.lds(effects, actual)
        print(
            f"{name:<16} LDS {score.value:.3f} [{score.low:.3f}, {score.high:.3f}], "
            f"slope {slope:.2f}"
        )
    options.out.mkdir(parents=True, exist_ok=True)
    lo.plot.panels(found, actual, [0], path=options.out / "own_method.png")
    return found | {"actual": actual}


if __name__ == "__main__":
    main()
