"""scikit-learn: fit, 64 fits without a group each, a table. Called as `answer` is."""

import sys

import numpy as np
from sklearn.linear_model import LogisticRegression

with np.load(sys.argv[1]) as given:
    problem = dict(given)
x, y, x_query, y_query = (problem[name] for name in ("x", "y", "x_query", "y_query"))


def loss(kept: np.ndarray) -> float:
    """The mean loss of the queries, of a model of some points."""
    model = LogisticRegression(C=1 / float(problem["l2"]), solver="newton-cholesky", tol=1e-8)
    scores = model.fit(x[kept], y[kept]).decision_function(x_query)
    return float(np.mean(np.logaddexp(0, np.where(y_query > 0, -scores, scores))))


whole = loss(np.ones(len(x), bool))
for points in np.split(problem["points"], problem["ends"][:-1]):
    kept = np.ones(len(x), bool)
    kept[points] = False
    print(f"{loss(kept) - whole:+.3e}")
