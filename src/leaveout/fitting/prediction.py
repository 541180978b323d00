"""What a fitted model says of new inputs: labels, chances, expected values."""

import jax
import numpy as np

from leaveout.fitting.fitted import Fit
from leaveout.objectives import losses
from leaveout.objectives.abstract import as_scores
from leaveout.runtime.sharding import to_host
from leaveout.runtime.tables import common_rows

__all__ = ["predicted"]


def predicted(fit: Fit, x, offset, chances: bool) -> np.ndarray:
    """Predictions of inputs (m d): `Fit.predict` says which.

    Raises:
        ValueError: for chances of what has no classes, a loss of which only scores are known, or
            where x and the offset have a pandas index and they differ.
    """
    objective = as_scores(fit.objective, "predict")
    common_rows(x=x, offset=offset)
    inputs = objective.inputs(x)
    scores = objective.scores(fit.flat, inputs)
    added = objective.offset_of(offset, len(scores), "predict")
    scores = scores if added is None else scores + added
    if objective.labelled:
        return _of_classes(objective, scores, chances)
    if chances:
        raise ValueError("chances are of classes, and this model has none")
    values = np.asarray(to_host(scores))
    if objective.loss is losses.poisson:
        values = np.exp(values)
    elif objective.loss.targets != "real":
        raise ValueError(
            f"of the loss {objective.loss.name} only scores are known: "
            "fit.objective.scores(fit.flat, fit.objective.inputs(x))"
        )
    return values[:, 0] if values.shape[1] == 1 else values


def _of_classes(objective, scores, chances: bool) -> np.ndarray:
    """The likeliest label of each, or the chance of each label (m K)."""
    if scores.shape[1] == 1:
        scores = jax.numpy.concatenate([jax.numpy.zeros_like(scores), scores], axis=1)
    if chances:
        return np.asarray(to_host(jax.nn.softmax(scores, axis=1)))
    best = np.asarray(to_host(scores)).argmax(axis=1)
    return np.asarray(objective.classes or range(scores.shape[1]))[best]
