"""Training a network in torch, as one writes it: a loop over batches.

From a given theta through given batches, so that what comes out can be compared.
"""

# it runs in an environment of its own, where its packages are
# pyright: reportMissingImports=false

import numpy as np
import torch
from network import filled, layered, timed
from serve import serve
from torch import nn
from torch.nn.functional import cross_entropy


def prepare(arrays):
    """A function that trains once."""
    x, y = torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["y"].astype(np.int64))
    batches = [torch.from_numpy(batch.astype(np.int64)) for batch in arrays["batches"]]
    rates, decay = arrays["rates"].tolist(), float(arrays["decay"])
    active, widths = nn.Tanh if arrays["tanh"] else nn.ReLU, arrays["widths"].tolist()

    def train():
        net = filled(layered(widths, active), arrays["start"])
        descent = torch.optim.SGD(net.parameters(), rates[0], momentum=0.9, weight_decay=decay)
        for rate, batch in zip(rates, batches, strict=True):
            descent.param_groups[0]["lr"] = rate
            descent.zero_grad()
            cross_entropy(net(x[batch]), y[batch]).backward()
            descent.step()
        return net

    def run():
        net, spent = timed(train)
        theta = torch.cat([each.detach().reshape(-1) for each in net.parameters()])
        return {"theta": theta.numpy()}, {"processor": spent}

    return run


if __name__ == "__main__":
    serve(prepare, "torch", "numpy")
