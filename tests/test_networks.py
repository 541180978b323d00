import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import leaveout as lo
from leaveout.objectives.networks import Network

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 3))
LABELS = np.where(X[:, 0] * X[:, 1] > 0, "yes", "no")


def mlp(key, outputs=2, dtype=jnp.float64, **options):
    options = {"activation": jnp.tanh, **options}
    return eqx.nn.MLP(3, outputs, 8, 1, key=key, dtype=dtype, **options)


@pytest.fixture(scope="module")
def objective() -> Network:
    return lo.network(mlp, lo.losses.softmax, (X, LABELS), l2=0.4)


def test_scores_and_losses_are_those_of_the_model(objective):
    model = mlp(jax.random.key(0))
    scores = np.array([model(x) for x in jnp.asarray(X)])
    np.testing.assert_allclose(objective.scores(objective.initial()), scores, rtol=1e-12)
    assert objective.classes == ("no", "yes")
    own = scores[np.arange(40), (LABELS == "yes").astype(int)]
    expected = np.log(np.exp(scores).sum(axis=1)) - own
    np.testing.assert_allclose(objective.losses(objective.initial()), expected, rtol=1e-12)


def test_every_measure_of_queries_works_on_a_network(objective):
    query = (X[:6], LABELS[:6])
    by = np.array(list("aabbab"))
    measures = [
        lo.measures.prediction(X[:6]),
        lo.measures.loss(query),
        lo.measures.loss(query, by=by),
        lo.measures.margin(query, reduce="mean"),
        lo.measures.accuracy(query),
        lo.measures.auroc(query),
        lo.measures.calibration_error(query),
        lo.measures.self_loss(),
    ]
    theta, w = objective.initial(), jnp.zeros(40).at[3].set(1.0)
    bound = [measure.bind(objective) for measure in measures]
    found = jax.jit(lambda theta: [each.values(objective, theta, w) for each in bound])(theta)
    for measure, values in zip(bound, found, strict=True):
        assert values.shape == (len(measure.columns(objective)),)
        assert np.isfinite(values).all()
    margins = found[3]
    scores = np.asarray(objective.scores(theta, X[:6]))
    signs = np.where(LABELS[:6] == "yes", 1, -1)
    np.testing.assert_allclose(margins, (signs * (scores[:, 1] - scores[:, 0])).mean(), rtol=1e-12)


def test_float32_stays_float32():
    objective = lo.network(
        lambda key: mlp(key, dtype=jnp.float32), lo.losses.softmax, (X, LABELS), l2=0.4
    )
    value, gradient = jax.eval_shape(objective.value_and_gradient, objective.initial())
    assert {value.dtype, gradient.dtype, objective.x.dtype} == {jnp.dtype("float32")}


def test_a_function_of_parameters_is_a_network_too():
    def init(key):
        return {"w": jax.random.normal(key, (3,)), "name": "mine"}

    def apply(parameters, x):
        return jnp.tanh(x @ parameters["w"])

    target = X[:, 0]
    objective = lo.network(init, lambda s, y: (s - y) ** 2, (X, target), apply=apply)
    theta = objective.initial()
    assert objective.p == 3
    assert objective.tree(theta)["name"] == "mine"
    np.testing.assert_allclose(
        objective.losses(theta), (np.tanh(X @ np.asarray(theta)) - target) ** 2, rtol=1e-12
    )


def test_inputs_may_be_images():
    images = RNG.normal(size=(10, 1, 4, 4))

    def init(key):
        first, second = jax.random.split(key)
        conv = eqx.nn.Conv2d(1, 2, 3, key=first)
        return eqx.nn.Sequential([conv, eqx.nn.Lambda(jnp.ravel), eqx.nn.Linear(8, 2, key=second)])

    objective = lo.network(init, lo.losses.softmax, (images, np.arange(10) % 2))
    measure = lo.measures.loss((images[:3], [0, 1, 0])).bind(objective)
    values = measure.values(objective, objective.initial(), None)
    np.testing.assert_allclose(values, objective.losses(objective.initial())[:3], rtol=1e-12)


def test_queries_of_another_shape_are_refused(objective):
    with pytest.raises(ValueError, match=r"shape \('m', 3\), as in training"):
        lo.measures.prediction(X[:2, :2]).bind(objective)


def test_models_that_couple_examples_or_draw_are_refused():
    def batch_norm(key):
        return eqx.nn.Sequential([eqx.nn.BatchNorm(3, axis_name="b", mode="ema"), mlp(key)])

    def dropout(key):
        return eqx.nn.Sequential([eqx.nn.Dropout(0.1), mlp(key)])

    with pytest.raises(ValueError, match="couples the examples"):
        lo.network(batch_norm, lo.losses.softmax, (X, LABELS))
    with pytest.raises(ValueError, match="dropout, whose random numbers"):
        lo.network(dropout, lo.losses.softmax, (X, LABELS))


def test_losses_and_outputs_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="loss of one example must be a scalar"):
        lo.network(mlp, lambda s, y: s - y, (X, X[:, :2]))
    with pytest.raises(ValueError, match="gives 3 outputs an example, and y asks for 2"):
        lo.network(lambda key: mlp(key, 3), lo.losses.softmax, (X, LABELS))
    with pytest.raises(ValueError, match="x has 40 rows but y has 39"):
        lo.network(mlp, lambda s, y: jnp.sum(s - y), (X, X[:39, 0]))
    with pytest.raises(ValueError, match="without floating-point arrays"):
        lo.network(lambda key: jnp.tanh, lo.losses.softmax, (X, LABELS))
