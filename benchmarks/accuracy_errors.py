"""Are standard errors under a penalty as large as estimates vary from sample to sample?

Samples of 200 examples of a model, fitted under penalties from none to one that takes most of the
coefficients: the root mean square of each kind of standard error over the deviation of the
estimates. The examples are independent, so that errors by 20 clusters of ten are right, too. Beside
what the library gives stand the plain sums of squares of the effects of clusters under l2 as it is.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import leaveout as lo
from benchmarks.harness import record

N, CLUSTERS = 200, 20
COEFFICIENTS = {"logistic": (1.5, -1.0, 0.5), "poisson": (0.6, -0.4, 0.2)}
PENALTIES = {"logistic": (0.0, 10.0, 40.0), "poisson": (0.0, 50.0, 200.0)}
_WANTED = lo.measures.parameter([0, 1, 2])


def main(folder: Path, size: str) -> None:
    """Draw the samples of each model, and fit them under each penalty."""
    draws = {"smoke": 3, "small": 300, "full": 2000}[size]
    rows = [
        row
        for loss, penalties in PENALTIES.items()
        for l2 in (penalties[-1:] if size == "smoke" else penalties)
        for row in _rows(loss, l2, draws)
    ]
    record(folder, "accuracy_errors", rows)


def _rows(loss: str, l2: float, draws: int) -> list[dict[str, Any]]:
    """A row a kind of error: its least and greatest ratio over the coefficients."""
    rng, estimates, errors = np.random.default_rng(0), [], []
    for _ in range(draws):
        x, y = _sample(loss, rng)
        fit = lo.fit(getattr(lo, loss)(x, y, l2=l2))
        estimates.append(np.asarray(fit.flat)[:3])
        errors.append({kind: error(fit) for kind, error in _KINDS.items()})
    spread, mean = np.std(estimates, axis=0, ddof=1), np.mean(estimates, axis=0)
    left = float(np.linalg.norm(mean) / np.linalg.norm(COEFFICIENTS[loss]))
    found = []
    for kind in _KINDS:
        typical = np.sqrt(np.mean([each[kind] ** 2 for each in errors], axis=0))
        least, *_, most = np.sort(typical / spread)
        found.append({"loss": loss, "l2": l2, "left of the coefficients": left, "draws": draws,
                      "error": kind, "least": float(least), "most": float(most)})  # fmt: skip
    return found


def _sample(loss: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    x = rng.normal(size=(N, 3))
    score = x @ COEFFICIENTS[loss]
    if loss == "poisson":
        return x, rng.poisson(np.exp(score))
    return x, (rng.random(N) < 1 / (1 + np.exp(-score))).astype(int)


def _clusters() -> lo.Groups:
    return lo.Groups.from_labels(np.arange(N) % CLUSTERS)


def _plain(fit: lo.Fit, method: lo.Method, variance: lo.CRV) -> np.ndarray:
    """The sum of squares of effects under l2 as it is."""
    change = lo.effects(fit, _clusters(), _WANTED, method).value
    return np.sqrt([variance.of(each, N, fit.objective.p) for each in change.T])


_KINDS: dict[str, Callable[[lo.Fit], np.ndarray]] = {
    "by the model": lambda fit: fit.summary().error[:3],
    "HC1": lambda fit: fit.summary(robust=True).error[:3],
    "CRV1": lambda fit: fit.summary(_clusters()).error[:3],
    "CRV1, plain": lambda fit: _plain(fit, lo.Influence(), lo.CRV.CRV1),
    "CRV3": lambda fit: lo.confidence(fit, _clusters(), _WANTED, pairs=False).error,
    "CRV3, plain": lambda fit: _plain(fit, lo.Retrain(), lo.CRV.CRV3),
}
