"""Networks: any model of one example's input, with the loss of its scores."""

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Key, PyTree, Shaped

from leaveout.objectives.abstract import AbstractScores
from leaveout.objectives.checks import (
    check_data,
    check_penalty,
    check_scalar,
    check_tree,
    check_weights,
    encode,
    parts,
)
from leaveout.objectives.general import GeneralExpansion
from leaveout.objectives.losses import Loss
from leaveout.objectives.models import Penalty
from leaveout.runtime.sharding import in_jax, is_traced, owned
from leaveout.runtime.tables import (
    Fingerprint,
    Names,
    check_finite,
    check_names,
    common_rows,
    is_table,
    matrix,
    names_of,
)

__all__ = ["Examples", "Network", "network"]

#: inputs (n ...) and targets (n ...); what is no such pair is refused in a sentence
if TYPE_CHECKING:
    Examples: TypeAlias = tuple[PyTree, PyTree] | list[PyTree]
else:
    Examples = object


def network(
    init: Callable,
    loss: Callable,
    examples: Examples,
    l2: Penalty = 0.0,
    *,
    apply: Callable | None = None,
    weights=None,
    penalised=None,
) -> "Network":
    """The objective of a network under any loss of its outputs.

        J(theta) = sum_i s_i loss(model(x_i), y_i) + l2/2 |theta|^2

    It has scores, the outputs: predictions, losses, margins, accuracies are measures of it. Its
    parameters keep their precision: those of float32 are trained in float32.

    Args:
        init: `init(key)` to a model: an Equinox module, called on the input of ONE example, or any
            PyTree of parameters with `apply`. Its inexact arrays are the parameters theta.
        loss: `loss(outputs, y)` to a scalar, of ONE example, pure JAX; outputs is () where the
            model gives one number, else (K). One of `lo.losses` also checks and codes targets.
        examples: `(x, y)`: inputs (n ...), an array or a table; and targets (n ...).
        l2: penalty, at least 0, a sum convention: a weight decay `wd` of a mean loss is `wd * n`.
            Or one for each parameter, a PyTree like the model's parameters, or flat (p).
        apply: `apply(parameters, x)` to the outputs of one example; default `parameters(x)`.
        weights: (n) base weights s_i >= 0; default 1.
        penalised: how heavily l2 falls on each parameter; default all, biases too.

    Returns:
        the objective, for `lo.train`.

    Raises:
        ValueError: for a model that couples examples (batch normalisation) or draws random numbers
            (dropout), a loss that is no scalar, NaN in the data, lengths that differ.

    Example:
        >>> def init(key):
        ...     return {"w": jax.random.normal(key, (3,))}
        >>> lo.network(init, lo.losses.logistic, (x, y), apply=lambda p, x: x @ p["w"]).y.shape
        (24,)
    """
    for function, name in ((init, "init"), (loss, "loss"), (apply or init, "apply")):
        if not callable(function):
            raise ValueError(
                f"expected {name} as a function, got {type(function).__name__}; write "
                "lo.network(lambda key: eqx.nn.MLP(..., key=key), lo.losses.softmax, (x, y))"
            )
    x, y, offset = parts(examples, "lo.network")
    if offset is not None:
        raise ValueError("a network takes (x, y); add what is known to its output in `apply`")
    model = init(jax.random.key(0))
    _refuse_coupled(model)
    theta, frozen = eqx.partition(model, eqx.is_inexact_array)
    start, unravel = ravel_pytree(theta)
    if start.size == 0:
        raise ValueError("init(key) gave a model without floating-point arrays; give at least one")
    loss, names, dtype = loss if isinstance(loss, Loss) else Loss(loss), names_of(x), start.dtype
    rows = common_rows(x=x, y=y, weights=weights)
    inputs = _inputs(x, dtype)
    held, outputs = _looked_at(model, apply or _called, inputs)
    y, classes = _targets(loss, y, len(inputs), outputs, dtype)
    l2, penalised = check_penalty(l2, penalised, theta, np.ones(start.size, bool), dtype)
    made = Network(
        x=inputs, y=y, weights=check_weights(weights, len(inputs), dtype), l2=l2,
        penalised=penalised, start=start, frozen=frozen, init=init, apply=apply or _called,
        unravel=unravel, loss=loss, width=outputs, held=held, classes=classes, names=names,
        fingerprint=rows,
    )  # fmt: skip
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), y)
    scores = jax.ShapeDtypeStruct((outputs,) if outputs > 1 else (), dtype)
    with in_jax("the loss"):
        check_scalar(jax.eval_shape(loss, scores, one))
    return made


class Network(AbstractScores):
    """Losses of the outputs of a network; made by `network`.

    Attributes:
        x: (n ...) inputs.
        y: (n ...) coded targets.
        weights: (n) base weights s.
        l2: () the penalty.
        penalised: (p) how heavily it falls on each entry of theta.
        start: (p) a theta, that of `init(key(0))`.
        frozen: what of the model is not trained.
        init: of a key, to a model.
        apply: of a model and the input of one example, to its outputs.
        unravel: flat theta to the trained leaves.
        loss: the loss of one example.
        width: K, outputs of an example.
        held: numbers that stand by while one example is evaluated.
        classes: the labels that the codes 0..K-1 stand for, or None.
        names: of the features, where x was a table.
        fingerprint: which rows the examples are, where they had a pandas index.
    """

    x: Shaped[Array, "n ..."]
    y: PyTree
    weights: Float[Array, "n"]
    l2: Float[Array, ""]
    penalised: Bool[Array, "p"] | Float[Array, "p"]
    start: Float[Array, "p"]
    frozen: PyTree
    init: Callable = eqx.field(static=True)
    apply: Callable = eqx.field(static=True)
    unravel: Callable = eqx.field(static=True)
    loss: Loss = eqx.field(static=True)
    width: int = eqx.field(static=True)
    held: int = eqx.field(static=True)
    classes: tuple | None = eqx.field(static=True)
    names: Names | None = eqx.field(static=True, default=None)
    fingerprint: Fingerprint | None = None

    @property
    def outputs(self) -> int:
        """K, scores of an example."""
        return self.width

    @property
    def floats_per_example(self) -> int:
        """What an evaluation of one example holds, twice: forward and back."""
        return 2 * self.held + 2

    @property
    def examples(self):
        """Inputs, targets and base weights."""
        return self.x, self.y, self.weights

    def initial(self):
        """The theta of `init(key(0))`."""
        return self.start

    def drawn(self, key: Key[Array, ""]) -> Float[Array, "p"]:
        """The theta that training starts from with this key, flat."""
        return self.flat(self.init(key))

    def tree(self, theta):
        """Flat theta as the model."""
        return eqx.combine(self.unravel(theta), self.frozen)

    def parameters(self, theta):
        """Flat theta as the trained leaves of the model, the others None."""
        return self.unravel(theta)

    def flat(self, theta):
        """A model, or its trained leaves, as the flat vector."""
        flat, _ = ravel_pytree(eqx.filter(theta, eqx.is_inexact_array))
        if flat.shape != (self.p,):
            raise ValueError(
                f"expected a model of {self.p:,} parameters, got one of {flat.size:,}; pass the "
                "parameters of this very network"
            )
        return flat.astype(self.weights.dtype)

    def of(self, model: PyTree, x: Array) -> Float[Array, "K"]:
        """Scores of ONE input under a model."""
        return jnp.reshape(self.apply(model, x), (self.width,)).astype(self.weights.dtype)

    def scores(self, theta, x=None):
        """Scores of inputs (m ...), a column an output; of the training data by default."""
        model, x = self.tree(theta), self.x if x is None else jnp.asarray(x)
        return jax.vmap(lambda one: self.of(model, one))(x)

    def losses(self, theta):
        """Each example's loss, without base weights."""
        return jax.vmap(self.point_loss)(self.scores(theta), self.y)

    def inputs(self, x):
        """Inputs (m ...), in the precision of the model.

        Raises:
            ValueError: for another shape than in training, or a table with other columns.
        """
        check_names(names_of(x), self.names, "these inputs")
        x = _inputs(x, self.weights.dtype)
        if x.shape[1:] != self.x.shape[1:]:
            raise ValueError(
                f"expected inputs of shape {('m', *self.x.shape[1:])}, as in training, got "
                f"{x.shape}"
            )
        return x.astype(self.x.dtype)

    def encode(self, y):
        """Targets in the user's labels, coded as in training."""
        shape = self.y.shape[1:] if self.loss.targets in ("real", "counts") else ()
        return _precise(encode(y, self.loss, self.classes, shape), self.weights.dtype)

    def encoded(self, examples):
        """New examples `(x (m ...), y (m))` as `examples`, and how many."""
        x, y, _ = parts(examples, "lo.add")
        inputs = self.inputs(x)
        return (inputs, self.encode(y)), len(inputs)

    def at(self, theta):
        """Every loss to second order around theta (differentiated when asked)."""
        theta = jnp.asarray(theta)
        return GeneralExpansion(
            objective=self, theta=theta, weights=self.weights, penalty=self.penalty
        )


def _called(model, x):
    return model(x)


def _precise(tree: PyTree, dtype) -> PyTree:
    """Floating-point arrays in one precision, the others as they are."""

    def one(leaf):
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(one, tree)


def _inputs(x, dtype) -> Shaped[Array, "n ..."]:
    """Inputs as one array of finite numbers, integers as they are."""
    if is_traced(x):
        return x
    if is_table(x):
        x = matrix(x)
    array = np.asarray(x)
    if array.dtype.kind not in "fiub" or array.ndim == 0:
        raise ValueError(f"expected inputs (n, ...) as numbers, got {array.dtype} {array.shape}")
    if array.dtype.kind == "f":
        check_finite(array.reshape(len(array), -1), "x")
    return _precise(owned(array), dtype)


def _targets(loss: Loss, y, count: int, outputs: int, dtype):
    """Targets coded, and their classes; the loss has to go with so many outputs."""
    if loss.targets == "any":
        coded, length = check_tree(y)
        if length != count:
            raise ValueError(f"x has {count:,} rows but y has {length:,}; give one target a row")
        return _precise(coded, dtype), None
    _, coded, classes, wanted = check_data(loss, np.zeros((count, 1)), y, 0)
    wanted = 1 if loss.targets in ("binary", "counts") else wanted
    if wanted != outputs:
        raise ValueError(
            f"the model gives {outputs} outputs an example, and y asks for {wanted}"
            f"{f' (the labels {classes})' if classes else ''}; make the last layer as wide"
        )
    return _precise(coded, dtype), classes


def _looked_at(model, apply: Callable, x) -> tuple[int, int]:
    """Numbers held while one input is evaluated, and the outputs: read off the traced model."""
    inexact, rest = eqx.partition(model, eqx.is_inexact_array)
    one = jax.ShapeDtypeStruct(x.shape[1:], x.dtype)
    try:
        with in_jax("the model"):
            jaxpr, out = jax.make_jaxpr(
                lambda part, x: apply(eqx.combine(part, rest), x), return_shape=True
            )(inexact, one)
    except (RuntimeError, NameError) as error:  # a layer that wants a key, or the name of an axis
        raise ValueError(
            f"the model cannot be evaluated on one example without more: {error}; leave dropout "
            "out (eqx.nn.inference_mode), and anything that looks at a whole batch"
        ) from error
    if not isinstance(out, jax.ShapeDtypeStruct) or len(out.shape) > 1:
        raise ValueError(
            f"expected the model to give scores () or (K) for one example, got {out}; apply is "
            "called on ONE input, without a leading axis of examples"
        )
    held = sum(int(np.prod(v.aval.shape)) for e in jaxpr.eqns for v in e.outvars)
    return held, int(np.prod(out.shape))


def _refuse_coupled(model) -> None:
    """Refuse layers whose outputs depend on other examples, or on chance."""

    def special(layer):
        return isinstance(layer, eqx.nn.Dropout | eqx.nn.StateIndex)

    for layer in jax.tree.leaves(model, is_leaf=special):
        if isinstance(layer, eqx.nn.StateIndex):
            raise ValueError(
                "the model has a layer with a state, as batch normalisation has, which couples the "
                "examples of a batch: what a point does is then not its own loss; use LayerNorm or "
                "GroupNorm"
            )
        if isinstance(layer, eqx.nn.Dropout) and not layer.inference and layer.p > 0:
            raise ValueError(
                "the model has dropout, whose random numbers a replay does not have: set p=0 or "
                "inference=True"
            )
