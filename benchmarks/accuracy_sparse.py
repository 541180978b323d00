"""Text as it comes: Enron's e-mails by words and pairs of words, p > 100,000, never written out.

Effects on the scores of test e-mails against scikit-learn's refits of the same sparse matrix, as
shares of the largest; and the most memory that the process had, theirs included.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse

import leaveout as lo
from benchmarks.harness import record
from leaveout.runtime.memory import most_resident
from leaveout.studies.datasets.paper import enron_texts

_L2 = 1.0
_QUERIES = 20
_MEMORY = 2**29  # bytes of working arrays


def main(folder: Path, size: str) -> None:
    """Six groups, two minutes; full 24; a smoke run has random words."""
    x, y, query, name = _drawn() if size == "smoke" else _enron()
    rng, n = np.random.default_rng(0), len(y)
    most = max(n // 10, 2)
    sizes = np.geomspace(1, most, 24 if size == "full" else 6).astype(int)
    groups = lo.Groups.from_indices([rng.choice(n, k, replace=False) for k in sizes], n=n)
    record(folder, "accuracy_sparse", [_row(x, y, query, groups, name)])


def _drawn():
    rng = np.random.default_rng(0)
    x = scipy.sparse.random_array((80, 500), density=0.05, rng=rng, format="csr")
    return x[:60], (x @ rng.normal(size=500) > 0)[:60], x[60:], "drawn"


def _enron():
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts, spam, held = enron_texts()
    words = TfidfVectorizer(ngram_range=(1, 2))
    x, query = words.fit_transform(texts[:held]), words.transform(texts[held : held + _QUERIES])
    return x, spam[:held], query, "enron, tf-idf of words and pairs"


def _row(x, y, query, groups, name: str) -> dict[str, Any]:
    begin = time.perf_counter()
    fit = lo.fit(lo.logistic(x, y, l2=_L2))
    fitted = time.perf_counter()
    after_fit = most_resident()
    measure = lo.measures.prediction(query)
    found = lo.effects(fit, groups, measure, lo.Retrain(), memory=_MEMORY)
    retrained, after_retraining = time.perf_counter(), most_resident()
    steps = lo.effects(fit, groups, measure, lo.Newton(), memory=_MEMORY)
    ours = most_resident()
    assert not found.status.any()
    refits = _refits(x, y, query, groups)
    largest = np.abs(refits).max()
    return {
        "data": name,
        "n": x.shape[0],
        "p": x.shape[1] + 1,
        "entries": x.nnz,
        "coordinates": int(np.size((fit.centred or fit).flat)),
        "l2": _L2,
        "groups": len(groups),
        "status": int(found.status.max()),
        "residual": float(found.residual.max()),
        "largest_effect": float(largest),
        "retrained_off": float(np.abs(found.value - refits).max() / largest),
        "newton_off": float(np.abs(steps.value - refits).max() / largest),
        "fit_seconds": fitted - begin,
        "retrain_seconds": retrained - fitted,
        "peak_gib_of_fit": after_fit / 2**30,
        "peak_gib_of_retraining": after_retraining / 2**30,
        "peak_gib": ours / 2**30,
    }


def _refits(x, y, query, groups) -> np.ndarray:
    """(g m) by scikit-learn, each from a cold start to a gradient of 1e-10 of a mean loss."""
    from sklearn.linear_model import LogisticRegression

    def scores(stays) -> np.ndarray:
        model = LogisticRegression(C=1 / _L2, solver="newton-cg", tol=1e-12, max_iter=1000)
        return model.fit(x[stays], y[stays]).decision_function(query)

    whole = scores(np.ones(x.shape[0], bool))
    return np.stack([scores(w == 0) - whole for w in groups.dense()])
