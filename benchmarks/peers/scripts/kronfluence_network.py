"""kronfluence on a network: EK-FAC at the end of a training.

Scores (n m) are signed as effects of an example's leaving, but for their scale.
"""

# it runs in an environment of its own, where its packages are
# pyright: reportMissingImports=false

import numpy as np
import torch
from kronfluence.analyzer import Analyzer, prepare_model
from kronfluence.arguments import FactorArguments, ScoreArguments
from kronfluence.task import Task
from network import Problem, timed
from serve import serve

_BATCH = 512


class _Trained(Task):
    """The summed loss for training, and what the groups change for measuring."""

    def __init__(self, problem):
        super().__init__()
        self.problem = problem

    def compute_train_loss(self, batch, model, sample=False):
        """Summed; targets are drawn from the model where the Fisher matrix is wanted."""
        x, y = batch
        scores = model(x)
        if sample:
            with torch.no_grad():
                y = self._drawn(scores)
        return self.problem.loss(scores, y, reduction="sum")

    def compute_measurement(self, batch, model):
        """Summed."""
        x, y = batch
        return self.problem.measured(model(x), y).sum()

    def _drawn(self, scores):
        if self.problem.classes:
            return torch.multinomial(scores.softmax(1), 1).reshape(-1)
        return torch.normal(scores.reshape(-1), torch.ones(len(scores)))


def prepare(arrays):
    """A function of a theta, by the name of its array and its place there, and of dampings."""
    problem = Problem(arrays)
    task = _Trained(problem)

    def fitted(theta):
        model = prepare_model(problem.model(theta), task)
        analyzer = Analyzer("benchmark", model, task, cpu=True, disable_tqdm=True, output_dir=".")
        analyzer.fit_all_factors(
            "factors", problem.train, per_device_batch_size=_BATCH,
            factor_args=FactorArguments(strategy="ekfac", amp_dtype=None),
            overwrite_output_dir=True,
        )  # fmt: skip
        return analyzer

    def scores(analyzer, damping):
        analyzer.compute_pairwise_scores(
            "scores", "factors", problem.query, problem.train,
            per_device_query_batch_size=len(problem.query), per_device_train_batch_size=_BATCH,
            score_args=ScoreArguments(damping_factor=damping + problem.decay),
            overwrite_output_dir=True,
        )  # fmt: skip
        return analyzer.load_pairwise_scores("scores")["all_modules"].numpy().T

    def run(of, seed, dampings):
        """(k n m) scores, and what each of the k would have taken alone."""
        analyzer, first = timed(lambda: fitted(arrays[of][seed]))
        found = [timed(lambda d=damping: scores(analyzer, d)) for damping in dampings]
        spent = [first + each for _, each in found]
        return {"scores": np.stack([each for each, _ in found])}, {"processor": spent}

    return run


if __name__ == "__main__":
    serve(prepare, "kronfluence", "torch", "numpy")
