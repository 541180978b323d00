"""What every report says of where its numbers come from: the data, the fit, the software."""

import datetime
import hashlib
import importlib.metadata
import platform

import jax
import numpy as np

from leaveout.fitting.fitted import Fit
from leaveout.objectives.abstract import AbstractScores
from leaveout.runtime.tables import is_sparse
from leaveout.studies.datasets import Dataset
from leaveout.studies.report.page import Section, number

__all__ = ["about"]

_SIZES = {"n": "training examples", "d": "features", "n_query": "query examples"}
_HASHED = 2**30  # bytes of training data up to which a checksum is made of it


def about(fit: Fit | None, data: Dataset | None, command: str | None) -> Section:
    """The section of provenance.

    Args:
        fit: of the model, or None where it is not at hand.
        data: the data set, or None where only the fit is known.
        command: that made the report, or None.
    """
    facts = [] if data is None else _of_data(data)
    if fit is not None:
        facts += _of_fit(fit, bare=data is None)
    names = ("leaveout", "jax", "numpy", "scipy")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    facts.append(("versions", f"{versions}, Python {platform.python_version()}"))
    facts.append(("computed on", str(jax.devices()[0])))
    facts.append(("made on", datetime.date.today().isoformat()))
    if command:
        facts.append(("made by", command))
    return Section("Where this comes from", facts=tuple(facts))


def _of_data(data: Dataset) -> list[tuple[str, str]]:
    """Name, source, licence, sizes and checksums."""
    facts = [("data", f"{data.name}: {data.source}"), ("licence", data.licence)]
    for key, value in data.fingerprint().items():
        inner = value.items() if isinstance(value, dict) else [("", value)]
        facts += [_fact(f"{key} {name}".strip(), part) for name, part in inner]
    return facts


def _fact(key: str, value: object) -> tuple[str, str]:
    """A line of a fingerprint."""
    if isinstance(value, int):
        return _SIZES.get(key, key), f"{value:,}"
    checksum = isinstance(value, str) and len(value) == 64
    name = key.replace("_", " ")
    return f"SHA-256 of {name}" if checksum else name, str(value)


def _of_fit(fit: Fit, bare: bool) -> list[tuple[str, str]]:
    """The model, and where nothing else says what the data is, its size and checksum."""
    objective, facts = fit.objective, []
    if bare:
        count = getattr(objective, "n", None)
        facts += [] if count is None else [("training examples", f"{count:,}")]
        facts += [("SHA-256 of the examples", _checksum(fit))]
    loss = getattr(getattr(objective, "loss", None), "name", None)
    facts += [] if loss is None else [("loss", str(loss))]
    l2 = np.asarray(objective.l2)
    strength = number(float(l2)) if l2.ndim == 0 else f"{l2.size} of them, one a coefficient"
    facts.append(("penalty l2", strength))
    facts.append(("parameters", f"{objective.p:,}"))
    facts.append(("distance from the optimum", f"{float(fit.residual):.1e} (Newton decrement)"))
    return facts


def _checksum(fit: Fit) -> str:
    if not isinstance(fit.objective, AbstractScores):
        return "not made: the examples are not those of a model of scores"
    leaves = [leaf for leaf in jax.tree.leaves(fit.objective.examples) if hasattr(leaf, "nbytes")]
    if sum(leaf.nbytes for leaf in leaves) > _HASHED:
        return "not made: the data is larger than 1 GiB"
    if any(is_sparse(leaf) for leaf in leaves):
        return "not made: the inputs are sparse"
    digest = hashlib.sha256()
    for leaf in leaves:
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()
