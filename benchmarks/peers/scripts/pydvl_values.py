"""pyDVL: ShapleyValuation with its antithetic permutations, over coalitions of groups.

Every coalition on the way of an order is a scikit-learn model, by the solver that is quickest here,
and its mean loss on the queries. One of a single class predicts 1/2: the model has an error there,
and its score is the default.
"""

# it runs in an environment of its own, where its packages are
# pyright: reportMissingImports=false

import time

import numpy as np
from pydvl.valuation import (
    AntitheticPermutationSampler,
    Dataset,
    GroupedDataset,
    MinUpdates,
    ModelUtility,
    ShapleyValuation,
    SupervisedScorer,
)
from serve import serve
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss


def prepare(problem):
    """A function that values the groups by so many random orders."""
    data = GroupedDataset(problem["x"], problem["y"], problem["owner"])
    queries = Dataset(problem["x_query"], problem["y_query"])
    model = LogisticRegression(C=1 / float(problem["l2"]), solver="newton-cholesky", max_iter=1000)
    counted = []

    def score(fitted, x, y):
        counted.append(1)
        return -log_loss(y, fitted.predict_proba(x))

    def run(orders, seed=0):
        counted.clear()
        utility = ModelUtility(
            model, SupervisedScorer(score, queries, default=-np.log(2)), show_warnings=False
        )
        sampler = AntitheticPermutationSampler(seed=seed)
        valuation = ShapleyValuation(utility, sampler, is_done=MinUpdates(orders))
        begin = time.process_time()
        values = valuation.fit(data).result.values
        spent = time.process_time() - begin
        return {"values": values}, {"processor_seconds": spent, "trainings": len(counted)}

    return run


if __name__ == "__main__":
    serve(prepare, "pydvl", "scikit-learn", "numpy")
