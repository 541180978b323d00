"""Without extras: what needs a package of others names it, and the command that installs it."""

import sys

import jax
import numpy as np
import pytest

import leaveout as lo
from leaveout.runtime.extras import needed

MISSING = {
    "pandas": lambda effects, folder: effects.to_pandas(),
    "pyarrow": lambda effects, folder: effects.save(folder / "effects.parquet"),
    "xarray": lambda effects, folder: effects.to_xarray(),
    "matplotlib": lambda effects, folder: lo.plot.scatter(effects, effects),
    "sklearn": lambda effects, folder: lo.datasets.wine(),
}


@pytest.fixture(scope="module")
def effects():
    x = np.arange(12.0).reshape(6, 2) ** 0.5
    fit = lo.fit(lo.squares(x, x[:, 0], l2=1.0))
    groups = lo.Groups.from_labels([0, 0, 1, 1, 2, 2])
    return lo.effects(fit, groups, lo.measures.parameter(0), lo.Newton())


@pytest.mark.parametrize("module", MISSING)
def test_what_needs_a_package_says_which_and_how_to_have_it(module, effects, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    package = {"sklearn": "scikit-learn"}.get(module, module)
    with pytest.raises(ModuleNotFoundError, match=rf"needs {package}.*not installed") as refusal:
        MISSING[module](effects, tmp_path)
    assert 'pip install "leaveout[study]"' in str(refusal.value)


def test_other_errors_inside_are_what_they_are():
    with pytest.raises(ImportError, match="cannot import name"), needed("nothing"):
        exec("from jax import no_such_name")
    with pytest.raises(ZeroDivisionError), needed("nothing"):
        jax.device_get(1 // 0)
