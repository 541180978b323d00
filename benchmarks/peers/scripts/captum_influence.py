"""Captum: NaiveInfluenceFunction, of full rank and with gradients per batch.

The ranks it takes by default, 50, cut off the rest of the spectrum without a word.
"""

# it runs in an environment of its own, where its packages are
# pyright: reportMissingImports=false

import time

import torch
from attribute import fitted, whole
from captum.influence import NaiveInfluenceFunction
from serve import serve
from torch.nn import BCEWithLogitsLoss


def prepare(problem):
    """A function that decomposes the Hessian and returns the influence of every point."""
    model, train, query = fitted(problem)
    torch.save(model.state_dict(), "model.pt")

    def load(model, path):
        model.load_state_dict(torch.load(path))
        return 1.0

    def run():
        begin = time.perf_counter()
        influence = NaiveInfluenceFunction(
            model,
            whole(train),
            "model.pt",
            load,
            loss_fn=BCEWithLogitsLoss(reduction="sum"),
            sample_wise_grads_per_batch=True,
            projection_dim=train.tensors[0].shape[1],
            hessian_reg=float(problem["l2"]),
            hessian_inverse_tol=1e-14,
        )
        preparing = time.perf_counter() - begin
        values = influence.influence(query.tensors)
        return {"influence": values.numpy().T, "scale": 1.0}, {"preparing": preparing}

    return run


if __name__ == "__main__":
    serve(prepare, "captum", "torch", "numpy")
