"""pyDVL: DirectInfluence, the Hessian of the mean loss from one batch of all the data.

Its CgInfluence leaves zeros in the rows of queries beyond the d-th, and weighs a ragged last batch
like a full one.
"""

# it runs in an environment of its own, where its packages are
# pyright: reportMissingImports=false

import time

from attribute import fitted, whole
from pydvl.influence.torch import DirectInfluence
from serve import serve
from torch.nn.functional import binary_cross_entropy_with_logits


def prepare(problem):
    """A function that fits the Hessian and returns the influence of every point."""
    model, train, query = fitted(problem)
    n = len(train)

    def run():
        begin = time.perf_counter()
        influence = DirectInfluence(
            model, binary_cross_entropy_with_logits, regularization=float(problem["l2"]) / n
        ).fit(whole(train))
        preparing = time.perf_counter() - begin
        values = influence.influences(*query.tensors, *train.tensors)
        return {"influence": values.numpy().T, "scale": 1 / n}, {"preparing": preparing}

    return run


if __name__ == "__main__":
    serve(prepare, "pydvl", "torch", "numpy")
