"""A scikit-learn pipeline to a report: which regions does the model of house prices rest on?

    python docs/examples/pipeline.py --out build

Writes report.html. The data is drawn; put your own pipeline, table and labels in `trained`.
"""

import argparse
from pathlib import Path

import jax
import numpy as np
import pandas as pd
from sklearn.linear_model import Ridge
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

import leaveout as lo


def trained(n: int = 900, seed: int = 0) -> tuple[Pipeline, pd.DataFrame, np.ndarray, np.ndarray]:
    """A fitted pipeline, its inputs and targets, and the region of each."""
    rng = np.random.default_rng(seed)
    region = rng.choice(["coast", "hills", "old town", "suburbs"], n, p=[0.1, 0.2, 0.2, 0.5])
    size, rooms, year = rng.gamma(9, 12, n), rng.integers(1, 7, n), rng.integers(1900, 2020, n)
    x = pd.DataFrame({"size": size, "rooms": rooms, "year": year})
    slope = np.where(region == "coast", 6.0, 3.0)  # a metre costs twice as much there
    y = slope * size + 10 * rooms + 0.5 * (year - 1960) + rng.normal(scale=30, size=n)
    return make_pipeline(StandardScaler(), Ridge(alpha=1.0)).fit(x, y), x, y, region


def main(arguments: list[str] | None = None) -> Path:
    """Write the report; returns its path."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(), metavar="DIR")
    options = parser.parse_args(arguments)
    jax.config.update("jax_enable_x64", True)
    options.out.mkdir(parents=True, exist_ok=True)
    pipeline, x, y, region = trained()
    train = np.arange(len(y)) % 5 > 0
    pipeline.fit(x[train], y[train])
    fit = lo.from_sklearn(pipeline, x[train], y[train], frozen=True)  # the scaler stays as it is
    measure = lo.measures.loss((x[~train], y[~train]), reduce="mean")  # as the pipeline sees them
    regions = lo.Groups.from_labels(region[train], kind="region")
    found = lo.credit(fit, regions, measure, actual=True, null=500)
    print(found)
    return lo.report(
        found, options.out / "report.html", title="Which regions is the model made of?"
    )


if __name__ == "__main__":
    main()
