"""The penalty of an experiment: given, the data set's own, or cross-validated and kept."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from leaveout.fitting.penalties import cross_validate
from leaveout.objectives.linear import LinearObjective
from leaveout.runtime.files import read_json, write_json
from leaveout.studies.datasets import Dataset
from leaveout.studies.folder import Say, Workspace

__all__ = ["penalised", "quickly"]

_QUICKLY = 1e-3  # l2 / n where a data set prescribes none and nothing is to be cross-validated


def quickly(data: Dataset, l2_over_n: float | None) -> float:
    """The penalty, absolute, without a search: given, the data set's own, or n / 1,000."""
    if l2_over_n is not None:
        return l2_over_n * data.n
    return _QUICKLY * data.n if data.l2 is None else data.l2


def penalised(
    bare: LinearObjective, data: Dataset, l2_over_n: float | None, space: Workspace
) -> tuple[LinearObjective, dict[str, Any] | None]:
    """The objective at its penalty, and how that was chosen, if it was.

    Args:
        bare: the objective at any penalty.
        data: that it is of.
        l2_over_n: the penalty divided by n, or None.
        space: whose folder keeps what cross-validation chose.
    """
    if l2_over_n is not None:
        return bare.with_l2(l2_over_n * data.n), None
    if data.l2 is not None:
        return bare.with_l2(data.l2), None
    path = space.folder / "l2.json"
    if not path.exists():
        _choose(bare, data, path, space.say)
    chosen = read_json(path, "l2")
    return bare.with_l2(chosen["l2"]), chosen


def _choose(bare: LinearObjective, data: Dataset, path: Path, say: Say) -> None:
    say(f"choosing l2/n among {len(data.l2_grid)} values by 5-fold cross-validation")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = cross_validate(bare, np.asarray(data.l2_grid) * data.n)
    for warning in caught:
        say(str(warning.message))
    accuracy = result.accuracy
    chosen = {
        "l2": result.l2,
        "l2_over_n_grid": list(data.l2_grid),
        "accuracy": None if accuracy is None else accuracy.mean(axis=1).tolist(),
        "loss": result.loss.mean(axis=1).tolist(),
        "at_edge": result.at_edge,
    }
    write_json(path, chosen)
