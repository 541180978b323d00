"""dattri: IFAttributorExplicit, from one batch of all the data.

More batches would be wrong: it adds up their inverse Hessians. Its Hessian is of the summed loss
here, so that nothing has to be scaled.
"""

# it runs in an environment of its own, where its packages are
# pyright: reportMissingImports=false

from attribute import fitted, whole
from dattri.algorithm.influence_function import IFAttributorExplicit
from dattri.task import AttributionTask
from serve import serve
from torch.func import functional_call
from torch.nn.functional import binary_cross_entropy_with_logits


def prepare(problem):
    """A function that returns the influence of every point; the Hessian is formed on the way."""
    model, train, query = fitted(problem)

    def loss(parameters, data):
        x, y = data
        scores = functional_call(model, parameters, (x,))
        return binary_cross_entropy_with_logits(scores, y, reduction="sum")

    def run():
        task = AttributionTask(loss_func=loss, model=model, checkpoints=model.state_dict())
        attributor = IFAttributorExplicit(task=task, regularization=float(problem["l2"]))
        attributor.cache(whole(train))
        values = attributor.attribute(whole(train), whole(query))
        return {"influence": values.detach().numpy(), "scale": 1.0}, {}

    return run


if __name__ == "__main__":
    serve(prepare, "dattri", "torch", "numpy")
