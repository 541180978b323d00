"""kronfluence: EK-FAC in float64, fitted to all the data in one batch.

An approximation of the Hessian by its nature: a Kronecker product with rescaled eigenvalues.
"""

# it runs in an environment of its own, where its packages are
# pyright: reportMissingImports=false

import time

import torch
from attribute import fitted
from kronfluence.analyzer import Analyzer, prepare_model
from kronfluence.arguments import FactorArguments, ScoreArguments
from kronfluence.task import Task
from serve import serve
from torch.nn.functional import binary_cross_entropy_with_logits


class _Logistic(Task):
    """The summed loss, for training and for measuring."""

    def compute_train_loss(self, batch, model, sample=False):
        """Summed; labels are drawn from the model where the Fisher matrix is wanted."""
        x, y = batch
        scores = model(x)
        if sample:
            with torch.no_grad():
                y = torch.bernoulli(torch.sigmoid(scores))
        return binary_cross_entropy_with_logits(scores, y, reduction="sum")

    def compute_measurement(self, batch, model):
        """Summed."""
        return self.compute_train_loss(batch, model)


def prepare(problem):
    """A function that fits the factors and returns the influence of every point."""
    model, train, query = fitted(problem)
    task = _Logistic()
    model = prepare_model(model, task)
    n, double = len(train), torch.float64
    factors = FactorArguments(
        strategy="ekfac",
        amp_dtype=None,
        activation_covariance_dtype=double,
        gradient_covariance_dtype=double,
        per_sample_gradient_dtype=double,
        lambda_dtype=double,
    )
    scores = ScoreArguments(
        damping_factor=float(problem["l2"]) / n,
        per_sample_gradient_dtype=double,
        precondition_dtype=double,
        score_dtype=double,
    )

    def run():
        analyzer = Analyzer("benchmark", model, task, cpu=True, disable_tqdm=True, output_dir=".")
        begin = time.perf_counter()
        analyzer.fit_all_factors(
            "factors", train, per_device_batch_size=n, factor_args=factors,
            overwrite_output_dir=True,
        )  # fmt: skip
        preparing = time.perf_counter() - begin
        analyzer.compute_pairwise_scores(
            "scores", "factors", query, train,
            per_device_query_batch_size=len(query), per_device_train_batch_size=n,
            score_args=scores, overwrite_output_dir=True,
        )  # fmt: skip
        values = analyzer.load_pairwise_scores("scores")["all_modules"].numpy().T
        return {"influence": values, "scale": 1 / n}, {"preparing": preparing}

    return run


if __name__ == "__main__":
    serve(prepare, "kronfluence", "torch", "numpy")
