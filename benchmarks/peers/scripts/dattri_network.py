"""dattri on a network: influence by CG, TracIn, TRAK, and its loop of retraining.

All training examples are one batch: of several, influence by CG adds up the inverse Hessians.
Scores (n m) are signed as effects of an example's leaving, but for their scale.
"""

# it runs in an environment of its own, where its packages are
# pyright: reportMissingImports=false

import gc
import tempfile
from pathlib import Path

import numpy as np
import torch
from dattri.algorithm.influence_function import IFAttributorCG
from dattri.algorithm.tracin import TracInAttributor
from dattri.algorithm.trak import TRAKAttributor
from dattri.metric.ground_truth import calculate_lds_ground_truth
from dattri.model_util.retrain import retrain_lds
from dattri.task import AttributionTask
from network import Problem, timed
from serve import serve
from torch.func import functional_call
from torch.utils.data import DataLoader


def prepare(arrays):
    """A function of what is asked."""
    problem = Problem(arrays)
    train = DataLoader(problem.train, batch_size=len(problem.train))
    query = DataLoader(problem.query, batch_size=len(problem.query))
    model = problem.fresh()

    def loss(parameters, data):
        x, y = data
        return problem.loss(functional_call(model, parameters, (x,)), y)

    def measured(parameters, data):
        x, y = data
        return problem.measured(functional_call(model, parameters, (x,)), y).sum()

    def states(thetas):
        return [problem.model(theta).state_dict() for theta in thetas]

    def by_cg(seed, damping, iterations):
        task = AttributionTask(loss, model, states(arrays["final"][[seed]]), measured)
        found = IFAttributorCG(task, max_iter=iterations, regularization=damping + problem.decay)
        found.cache(train)
        return found.attribute(train, query)

    def by_tracin(seed):
        way = arrays["way"][seed]
        task = AttributionTask(loss, model, states(way), measured)
        rates = torch.full((len(way),), problem.rate)
        found = TracInAttributor(task, rates, normalized_grad=False)
        found.projector_kwargs = None  # exact products
        return found.attribute(train, query)

    def by_trak(dimensions, regularization, seeds=None, models=None):
        """Of the run's seeds, or of as many models of other starts."""
        thetas = arrays["final"][seeds] if models is None else arrays["many"][:models]

        def left(parameters, data):
            """1 less the residual of an example, as dattri asks for it."""
            x, y = data
            scores = functional_call(model, parameters, (x,))
            if problem.classes:
                return torch.exp(-problem.loss(scores, y))
            return 1 - (y.reshape(-1) - scores.reshape(-1)).squeeze()

        task = AttributionTask(measured, model, states(thetas))
        found = TRAKAttributor(
            task, left, projector_kwargs={"proj_dim": dimensions, "device": "cpu"},
            regularization=regularization,
        )  # fmt: skip
        found.cache(train)
        return -found.attribute(query)

    shelf = {"cg": by_cg, "tracin": by_tracin, "trak": by_trak}

    def run(what, **settings):
        if what == "retrain":
            (values, kept), spent = timed(lambda: _retrained(problem, **settings))
            return {"values": values, "kept": kept}, {"processor": spent}
        scores, spent = timed(lambda: shelf[what](**settings))
        gc.collect()  # of the gigabytes that go round in circles
        return {"scores": scores.detach().numpy()}, {"processor": spent}

    return run


def _retrained(problem, batch, epochs, subsets, dropout):
    """(h m) measures and (h k) who stays, of dattri's loop: every half its own seed."""

    def train(loader, seed=None):
        torch.manual_seed(seed)
        model = problem.fresh(dropout).train()
        optimiser = torch.optim.SGD(
            model.parameters(), lr=problem.rate, momentum=0.9, weight_decay=problem.decay
        )
        for _ in range(epochs):
            for x, y in loader:
                optimiser.zero_grad()
                problem.loss(model(x), y).backward()
                optimiser.step()
        return model

    def values(path, loader):
        model = problem.fresh(dropout)
        model.load_state_dict(torch.load(path))
        model.eval()
        with torch.no_grad():
            return torch.cat([problem.measured(model(x), y) for x, y in loader])

    loader = DataLoader(problem.train, batch_size=batch)
    query = DataLoader(problem.query, batch_size=len(problem.query))
    with tempfile.TemporaryDirectory() as folder:
        retrain_lds(train, loader, folder, num_subsets=subsets, seed=0)
        found, kept = calculate_lds_ground_truth(values, Path(folder), query)
    return -found.numpy(), np.asarray(kept)  # it turns the sign


if __name__ == "__main__":
    serve(prepare, "dattri", "torch", "numpy")
