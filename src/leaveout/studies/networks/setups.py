"""How the networks of the studies are trained: published recipes, and what is varied of them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from leaveout.objectives.losses import softmax, squares
from leaveout.objectives.networks import Network, network
from leaveout.studies.datasets import Dataset
from leaveout.training.recipe import LeftKeepingPenalty, Recipe

__all__ = [
    "NORMALISER",
    "VARIANTS",
    "Setup",
    "available",
    "features",
    "named",
    "objective",
    "rate",
    "recipe",
    "whole",
]

_MOMENTUM = 0.9
_ADAM = 3e-3  # its rate, whatever that of SGD is
_ROOT = 1e-6  # in Adam's root, without which a training has no derivative
#: what removal means, in all of them
NORMALISER = LeftKeepingPenalty()
VARIANTS = ("relu", "tanh", "adam")  # SGD with either activation; Adam with tanh


@dataclasses.dataclass(frozen=True)
class Setup:
    """A network and its training.

    Attributes:
        hidden: widths of the hidden layers.
        rate: of learning, in units of a mean loss.
        decay: of weights, in units of a mean loss: l2 / n.
        batch: examples a step; as many of the training examples as whole batches hold take part.
        epochs: how many.
        variant: a word of `VARIANTS`.
        cosine: whether the rate falls to 0 as a cosine does, or stays.
        source: who published it.
        methods: words of those that are run unasked.
    """

    hidden: tuple[int, ...]
    rate: float
    decay: float
    batch: int
    epochs: int
    variant: str = "relu"
    cosine: bool = False
    source: str = ""
    methods: tuple[str, ...] = ("influence", "newton", "metagradient", "corrected")

    @classmethod
    def of_json(cls, fields: Mapping[str, Any]) -> "Setup":
        """From the fields as JSON gives them back."""
        kept: dict[str, Any] = dict(fields)
        kept |= {name: tuple(kept[name]) for name in ("hidden", "methods")}
        return cls(**kept)

    def steps(self, n: int) -> int:
        """Steps in all."""
        return self.epochs * (n // self.batch)

    def in_words(self) -> str:
        """What it is, for a line of text."""
        layers = "-".join(map(str, self.hidden))
        falls = ", cosine" if self.cosine else ""
        optimiser = "Adam" if self.variant == "adam" else f"SGD momentum {_MOMENTUM}"
        active = "relu" if self.variant == "relu" else "tanh"
        return (
            f"{layers} {active}, {optimiser}, rate {self.rate:g}{falls}, decay {self.decay:g}, "
            f"batch {self.batch}, {self.epochs} epochs"
        )


_SOURCE, _DENG = "Bae et al. (2024)", "Deng et al. (2024), no dropout"
_UCI = Setup((128, 128, 128), 0.03, 1e-5, 32, 20, source=_SOURCE)
_IMAGES = Setup((512, 256, 128), 0.03, 1e-3, 64, 20, source=_SOURCE)
_PUBLISHED = {
    "digits": Setup((64,), 0.1, 1e-3, 64, 30, "tanh", cosine=True, source="ours"),
    "concrete": _UCI,
    "parkinsons": dataclasses.replace(_UCI, rate=0.01, decay=3e-5),
    "mnist_small": Setup((128, 64), 0.01, 0.0, 64, 50, source=_DENG),
    "fashion": _IMAGES,
    "fashion_noisy": dataclasses.replace(_IMAGES, rate=0.01, decay=3e-5, epochs=3),
}


def available() -> tuple[str, ...]:
    """Names of the data sets that have a recipe."""
    return tuple(_PUBLISHED)


def named(dataset: str, variant: str | None = None, rate: float | None = None) -> Setup:
    """The recipe of a data set, or a variant of it.

    Args:
        dataset: its name.
        variant: a word of `VARIANTS`; default what was published.
        rate: of learning, in the place of the published one, or of Adam's 3e-3.

    Raises:
        ValueError: for a data set without recipe, or an unknown variant.
    """
    if dataset not in _PUBLISHED:
        raise ValueError(
            f"no network is published for {dataset!r}; known: {', '.join(available())}"
        )
    found = _PUBLISHED[dataset]
    variant = found.variant if variant is None else variant
    if variant not in VARIANTS:
        raise ValueError(f"unknown setup {variant!r}; known: {', '.join(VARIANTS)}")
    usual = _ADAM if variant == "adam" else found.rate
    return dataclasses.replace(found, variant=variant, rate=usual if rate is None else rate)


def whole(data: Dataset, setup: Setup) -> Dataset:
    """The examples of whole batches: in every epoch each is seen once."""
    return data.some(slice(data.n // setup.batch * setup.batch))


def objective(data: Dataset, setup: Setup) -> Network:
    """The network on its data, in float32.

    Of numbers the loss is |s - y|^2 / 2, half of what is published: decay and rate make up for it.
    """
    outputs = data.outputs if data.labelled else 1
    widths = (data.d, *setup.hidden, outputs)
    active = jax.nn.relu if setup.variant == "relu" else jnp.tanh

    def init(key):
        keys = jax.random.split(key, len(widths) - 1)
        pairs = zip(widths[:-1], widths[1:], keys, strict=True)
        layers = [eqx.nn.Linear(a, b, key=k, dtype=jnp.float32) for a, b, k in pairs]
        between = [eqx.nn.Lambda(active) for _ in layers[1:]]
        mixed = [each for pair in zip(layers, between, strict=False) for each in pair]
        return eqx.nn.Sequential([*mixed, layers[-1]])

    def apply(model, x):
        return jnp.squeeze(model(x)) if outputs == 1 else model(x)

    loss, half = (softmax, 1.0) if data.labelled else (squares, 0.5)
    y = data.y if data.labelled else data.y.astype(np.float32)
    examples = data.x.astype(np.float32), y
    return network(init, loss, examples, half * setup.decay * data.n, apply=apply)


def rate(data: Dataset, setup: Setup) -> float:
    """Of learning, of the loss that `objective` has; Adam's does not depend on its scale."""
    return setup.rate if data.labelled or setup.variant == "adam" else 2 * setup.rate


def recipe(data: Dataset, setup: Setup) -> Recipe:
    """How it is trained."""
    import optax

    steps = setup.steps(data.n)
    learning: Any = rate(data, setup)
    if setup.cosine:
        learning = optax.cosine_decay_schedule(learning, steps)
    optimiser = (
        optax.adam(learning, eps_root=_ROOT)
        if setup.variant == "adam"
        else optax.sgd(learning, momentum=_MOMENTUM)
    )
    return Recipe(optimiser, steps=steps, batch=setup.batch, normaliser=NORMALISER)


def features(objective: Network, theta: Array) -> Float[np.ndarray, "n f"]:
    """What the last layer of these networks is given, of every training example."""
    model = objective.tree(theta)
    assert isinstance(model, eqx.nn.Sequential)  # as `objective` makes them
    below = eqx.nn.Sequential(model.layers[:-1])
    return np.asarray(jax.jit(jax.vmap(below))(objective.x), float)
