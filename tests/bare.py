"""The package without extras: what needs one says which, and all else works.

`python tests/bare.py`, where nothing but `pip install .` was run; CI and the nightly run do so.
"""

import importlib.util
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

import leaveout as lo

SAYS = 'pip install "leaveout[study]"'


def refusals(folder: Path) -> dict[str, Callable[[], object]]:
    """Calls that need an extra, by what they are about."""
    jax.config.update("jax_enable_x64", True)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(24, 3))
    y = (x[:, 0] + rng.normal(size=24) > 0).astype(int)
    fit = lo.fit(lo.logistic(x, y, l2=1.0))
    groups = lo.Groups.from_labels(np.arange(24) // 6)
    effects = lo.effects(fit, groups, lo.measures.loss((x, y), reduce="mean"), lo.Retrain())
    found = lo.credit(fit, groups, lo.measures.loss((x, y), reduce="mean"), null=20)
    compared = lo.compare(effects, effects)
    print(effects, found, compared, lo.trust(fit, groups), sep="\n")
    effects.save(folder / "effects.npz")
    assert np.array_equal(lo.load(folder / "effects.npz").value, effects.value)
    return {
        "effects as a pandas table": effects.to_pandas,
        "effects as Arrow": effects.to_arrow,
        "effects with labelled axes": effects.to_xarray,
        "effects as parquet": lambda: effects.save(folder / "effects.parquet"),
        "a comparison as a pandas table": compared.to_pandas,
        "a credit table": found.to_pandas,
        "a figure": lambda: lo.plot.scatter(effects, effects),
        "a figure of bands": lambda: lo.plot.bands(found),
        "a map": lambda: lo.plot.heat(effects.value, groups.names, ["loss"]),
        "panels": lambda: lo.plot.panels({"a": effects}, effects, [0]),
        "data of scikit-learn": lo.datasets.breast_cancer,
        "clusters": lambda: lo.groups.feature_clusters(
            jax.random.key(0), lo.logistic(x, y), sizes=[3]
        ),
    }


def main() -> int:
    """Try each; returns the exit code."""
    for name in ("pandas", "sklearn", "matplotlib", "xarray", "pyarrow"):
        if importlib.util.find_spec(name) is not None:
            print(f"{name} is installed: run this where only the package is", file=sys.stderr)
            return 2
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        for what, call in refusals(Path(folder)).items():
            try:
                call()
            except ImportError as error:
                good = SAYS in str(error)
                print("right" if good else "WRONG", f"{what}: {error}")
                wrong += not good
            else:
                print("WRONG", f"{what}: worked without an extra")
                wrong += 1
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main())
