"""What rivals in torch are given: a fitted linear model without bias, in float64, and two sets."""

# it runs in an environment of its own, where its packages are
# pyright: reportMissingImports=false

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.set_default_dtype(torch.float64)


def fitted(problem):
    """The model, the training set and the queries; targets are a column of 0.0 and 1.0."""
    weight = torch.from_numpy(np.array(problem["theta"]))[None]
    model = nn.Sequential(nn.Linear(weight.shape[1], 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(weight)
    model.eval()

    def tensors(x, y):
        return TensorDataset(torch.from_numpy(x), torch.from_numpy(y[:, None].astype(float)))

    return (
        model,
        tensors(problem["x"], problem["y"]),
        tensors(problem["x_query"], problem["y_query"]),
    )


def whole(data):
    """A loader of one batch: all of it."""
    return DataLoader(data, batch_size=len(data), collate_fn=_Batch(data))


class _Batch:
    """The batch as the tensors it was made of: torch would stack it example by example."""

    def __init__(self, data):
        self.data = data

    def __call__(self, _):
        return list(self.data.tensors)
