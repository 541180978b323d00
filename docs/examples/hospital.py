"""A hospital table to odds ratios, and which hospital they hang on.

    python docs/examples/hospital.py --out build
    python docs/examples/hospital.py patients.csv --target died --groups hospital --feature treated

Without a file a table is drawn: patients of 24 hospitals, one of which treats the sickest.
"""

import argparse
from pathlib import Path

import jax
import numpy as np
import pandas as pd

import leaveout as lo


def drawn(n: int = 2400, seed: int = 0) -> pd.DataFrame:
    """Patients; in hospital H treatment goes to those who would have died anyway."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "age": rng.normal(65, 10, n).round(1),
            "hospital": rng.choice(list("ABCDEFGHIJKLMNOPQRSTUVWX"), n),
        }
    )
    severe = rng.normal(size=n)
    of_h = frame["hospital"] == "H"
    chosen = np.where(of_h, severe > 0.5, rng.random(n) < 0.5)
    risk = -1 + (frame["age"] - 65) / 20 + severe - 0.8 * chosen
    frame["treated"] = np.where(chosen, "yes", "no")
    frame["died"] = np.where(rng.random(n) < 1 / (1 + np.exp(-risk)), "yes", "no")
    return frame


def main(arguments: list[str] | None = None) -> lo.Confidence:
    """Print odds ratios with clustered intervals, and what they are without each hospital."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", nargs="?", help="a CSV or Parquet file")
    parser.add_argument("--target", default="died")
    parser.add_argument("--groups", default="hospital")
    parser.add_argument("--feature", default="treated", help="whose odds ratio it is about")
    parser.add_argument("--positive", default="yes", help="label whose odds they are")
    parser.add_argument("--out", type=Path, default=Path(), metavar="DIR")
    options = parser.parse_args(arguments)
    jax.config.update("jax_enable_x64", True)
    options.out.mkdir(parents=True, exist_ok=True)
    data = lo.table(
        options.table or drawn(),
        target=options.target,
        groups=options.groups,
        positive=options.positive,
        missing="drop",
    )
    fit = lo.fit(data.objective(l2=0.0))
    odds = lo.confidence(fit, data.groups, lo.measures.odds_ratio(options.feature))
    print(odds)
    for name, ratio in zip(odds.groups.names, odds.without[:, 0], strict=True):
        print(f"without {name}: {ratio:.3f}")
    return odds


if __name__ == "__main__":
    main()
