"""What rivals in torch are given of networks: trained thetas, in float32, and two sets.

Layers are linear with relu between them. A theta is flat: of each layer its weights, then its bias.
"""

# it runs in an environment of its own, where its packages are
# pyright: reportMissingImports=false

import time
from itertools import pairwise

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

__all__ = ["Problem", "filled", "layered", "timed"]


class Problem:
    """The arrays of a problem as torch has them."""

    def __init__(self, arrays):
        self.widths = [int(width) for width in arrays["widths"]]
        self.classes = self.widths[-1] > 1
        self.decay, self.rate = float(arrays["decay"]), float(arrays["rate"])
        self.train = self._set(arrays["x"], arrays["y"])
        self.query = self._set(arrays["x_query"], arrays["y_query"])

    def _set(self, x, y):
        target = y.astype(np.int64) if self.classes else y.astype(np.float32)
        return TensorDataset(torch.from_numpy(x.astype(np.float32)), torch.from_numpy(target))

    def fresh(self, dropout=0.0):
        """A network as torch draws it."""
        return layered(self.widths, nn.ReLU, dropout)

    def model(self, theta):
        """The network of a theta."""
        return filled(self.fresh(), theta).eval()

    def loss(self, scores, y, reduction="mean"):
        """As it is trained: of classes, or half the squared error."""
        if self.classes:
            return cross_entropy(scores.reshape(-1, self.widths[-1]), y.reshape(-1),
                                 reduction=reduction)  # fmt: skip
        each = (scores.reshape(-1) - y.reshape(-1)) ** 2 / 2
        return each.mean() if reduction == "mean" else each.sum()

    def measured(self, scores, y):
        """What the groups change, of each example: the margin of its class, or the output."""
        if not self.classes:
            return scores.reshape(-1)
        scores = scores.reshape(-1, self.widths[-1])
        own = torch.arange(self.widths[-1])[None] == y.reshape(-1)[:, None]  # as vmap can do
        true = torch.where(own, scores, torch.zeros_like(scores)).sum(1)
        return true - torch.where(own, torch.full_like(scores, -1e30), scores).logsumexp(1)


def layered(widths, active, dropout=0.0):
    """Linear layers with an activation between them, as torch draws them."""
    layers = []
    for i, (inner, outer) in enumerate(pairwise(widths)):
        layers += [active()] if i else []
        layers += [nn.Dropout(dropout)] if i and dropout else []
        layers.append(nn.Linear(inner, outer))
    return nn.Sequential(*layers)


def filled(model, theta):
    """The model with the parameters of a flat theta."""
    at = 0
    with torch.no_grad():
        for parameter in model.parameters():
            size = parameter.numel()
            part = torch.from_numpy(np.array(theta[at : at + size], np.float32))
            parameter.copy_(part.reshape(parameter.shape))
            at += size
    return model


def timed(function):
    """What a function returns, and the processor's seconds it took, of all threads."""
    begin = time.process_time()
    found = function()
    return found, time.process_time() - begin
