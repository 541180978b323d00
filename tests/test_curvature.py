import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import leaveout as lo
from leaveout.methods import end_point
from leaveout.runtime.memory import limited
from leaveout.solvers import DualFactor, share_of, turned
from problems import wrong
from test_training import FULL, KEY, RECIPE, N, X, Y, data, made

GROUPS, QUERY = data(), lo.measures.loss((X[:3], Y[:3]))
DAMPED = lo.curvature.GaussNewton(0.01)


@pytest.fixture(scope="module")
def run() -> lo.Run:
    return lo.train(made(), RECIPE, key=KEY)


def gauss_newton(objective, theta, v):
    """sum_i v_i J_i' Q_i J_i, with Q = diag(p) - p p' written down."""
    jacobians = np.asarray(jax.jacobian(objective.scores)(theta))
    chances = np.asarray(jax.nn.softmax(objective.scores(theta)))
    matrix = np.diag(np.asarray(objective.penalty))
    for weight, jacobian, p in zip(v, jacobians, chances, strict=True):
        matrix = matrix + weight * jacobian.T @ (np.diag(p) - np.outer(p, p)) @ jacobian
    return matrix


def by_hand(run, w, newton, damping=0.01):
    objective, theta = run.objective, run.theta[0]
    v = np.ones(N) - w if newton else np.ones(N)
    matrix = gauss_newton(objective, theta, v) + damping * N * np.eye(objective.p)
    pulls = np.asarray(jax.jacobian(objective.losses)(theta))
    return np.linalg.solve(matrix, w @ pulls)


@pytest.mark.slow
def test_influence_and_newton_are_solves_with_gauss_newton(run):
    w = GROUPS.dense()
    everything = lo.measures.parameter(list(range(run.objective.p)))
    for method in (lo.Influence(curvature=DAMPED), lo.Newton(curvature=DAMPED)):
        found = lo.effects(run, GROUPS, everything, method)
        newton = isinstance(method, lo.Newton)
        expected = np.stack([by_hand(run, each, newton) for each in w])
        np.testing.assert_allclose(found.value, expected, rtol=1e-5, atol=1e-7)
        assert not found.status.any()
    one = lo.effects(run, GROUPS, lo.measures.self_loss(), lo.Influence(curvature=DAMPED))
    pulls = np.asarray(jax.jacobian(run.objective.losses)(run.theta[0]))
    lengths = [(each @ pulls) @ by_hand(run, each, False) for each in w]
    np.testing.assert_allclose(one.value[:, 0], lengths, rtol=1e-5)


@pytest.mark.slow
def test_corrected_is_metagradient_newton_and_influence_put_together(run):
    measures = [QUERY, lo.measures.self_loss()]
    meta = lo.effects(run, GROUPS, measures, lo.Metagradient(check=False))
    influence = lo.effects(run, GROUPS, measures, lo.Influence(curvature=DAMPED))
    newton = lo.effects(run, GROUPS, measures, lo.Newton(linearised=True, curvature=DAMPED))
    found = lo.effects(run, GROUPS, measures, lo.Corrected(DAMPED, check=False))
    expected = meta.value + newton.value - influence.value
    np.testing.assert_allclose(found.value, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_gauss_newton_of_a_linear_model_is_its_hessian():
    fit = lo.fit(lo.logistic(X, Y, l2=1.0))
    query = lo.measures.loss((X[:3], Y[:3]))
    for plain, bent in (
        (lo.Influence(), lo.Influence(curvature=lo.curvature.GaussNewton())),
        (lo.Newton(), lo.Newton(curvature=lo.curvature.Hessian())),
    ):
        expected = lo.effects(fit, GROUPS, query, plain)
        found = lo.effects(fit, GROUPS, query, bent)
        np.testing.assert_allclose(found.value, expected.value, rtol=1e-5)


@pytest.mark.parametrize("method", [lo.Influence, lo.Newton])
def test_base_weights_count_with_a_curvature(method):
    """Least squares by NumPy: weights below and above 1, and a point of none that is added."""
    s = np.linspace(0.2, 2.0, 12)
    s[4] = 0.0
    x, y = X[:12], X[:12, 0] + Y[:12]
    fit = lo.fit(lo.squares(x, y, l2=0.7, weights=s, intercept=False))
    w = np.zeros((3, 12))
    w[0, 0], w[1, [8, 9]], w[2, [4, 11]] = 1.0, [0.5, 1.0], [-1.0, 1.0]
    taken = np.where(s > 0, s * w, w)
    found = lo.effects(
        fit, lo.Groups.from_weights(w), lo.measures.prediction(X[20:22]),
        method(curvature=lo.curvature.GaussNewton()),
    )  # fmt: skip
    assert not found.status.any()
    theta = np.asarray(fit.flat)
    for gone, effect in zip(taken, found.value, strict=True):
        v = s - gone if method is lo.Newton else s
        matrix = (x.T * v) @ x + 0.7 * np.eye(3)
        change = np.linalg.solve(matrix, x.T @ (gone * (x @ theta - y)))
        np.testing.assert_allclose(effect, X[20:22] @ change, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_newton_of_a_linear_network_on_squared_loss_is_retraining():
    target = X @ np.array([1.0, -1.0, 0.5])

    def init(key):
        return eqx.nn.Linear(3, "scalar", key=key, dtype=jnp.float64)

    objective = lo.network(init, lo.losses.squares, (X, target), l2=1.0)
    recipe = FULL.but(optimiser=optax.sgd(0.3, momentum=0.9), steps=600)
    run = lo.train(objective, recipe, key=KEY)
    query = lo.measures.loss((X[:3], target[:3] + 1))
    newton = lo.Newton(curvature=lo.curvature.GaussNewton(0))
    found = lo.effects(run, GROUPS, query, newton)
    actual = lo.effects(run, GROUPS, query, lo.Retrain())
    np.testing.assert_allclose(found.value, actual.value, rtol=1e-4, atol=1e-7)


@pytest.mark.slow
def test_the_last_layer_alone_moves(run):
    everything = lo.measures.parameter(list(range(run.objective.p)))
    method = lo.Newton(curvature=lo.curvature.LastLayer(0.01))
    found = lo.effects(run, GROUPS[[0]], everything, method).value[0]
    model = run.tree(0)
    last, _ = ravel_pytree(eqx.filter(model.layers[-1], eqx.is_inexact_array))
    still = run.objective.p - last.size
    np.testing.assert_array_equal(found[:still], 0.0)
    matrix = gauss_newton(run.objective, run.theta[0], 1 - GROUPS.dense()[0])[still:, still:]
    pulls = np.asarray(jax.jacobian(run.objective.losses)(run.theta[0]))[:3].sum(axis=0)[still:]
    expected = np.linalg.solve(matrix + 0.01 * N * np.eye(last.size), pulls)
    np.testing.assert_allclose(found[still:], expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("apart", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_the_largest_rows_precondition_what_has_no_factor(run, apart, monkeypatch):
    """40 of 80, of examples whose chances are known: the same answers, sooner than without."""
    methods = [lo.Influence(curvature=DAMPED), lo.Newton(curvature=DAMPED)]
    dense = [lo.effects(run, GROUPS, QUERY, method) for method in methods]
    monkeypatch.setattr(end_point, "DENSE", 49)
    monkeypatch.setattr(end_point, "_LARGEST", 40)
    monkeypatch.setattr(end_point, "_is_short", lambda *_: apart)
    factor = end_point.end_of(run.at(0), DAMPED).factor
    assert isinstance(factor, DualFactor)
    assert factor.rows.shape == (40, 50)
    with limited(5_000):  # 40 x 2 x 2 numbers of 8 bytes, four times
        assert end_point.end_of(run.at(0), DAMPED).factor is None
    found = [lo.effects(run, GROUPS, QUERY, method) for method in methods]
    for each, expected in zip(found, dense, strict=True):
        np.testing.assert_allclose(each.value, expected.value, rtol=1e-5)
        assert not each.status.any()
    monkeypatch.setattr(end_point, "_dual", lambda *_: None)
    plain = lo.effects(run, GROUPS, QUERY, methods[1])
    assert plain.steps.sum() > found[1].steps.sum()


LAST = lo.curvature.LastLayer(0.01)


@pytest.fixture(scope="module")
def numbers() -> lo.Run:
    """A regression of one output, whose examples weigh differently."""

    def init(key):
        return eqx.nn.MLP(3, "scalar", 8, 1, activation=jnp.tanh, key=key, dtype=jnp.float64)

    weights = np.arange(N) % 3 / 2
    objective = lo.network(init, lo.losses.squares, (X, X[:, 0] ** 2), l2=0.4, weights=weights)
    return lo.train(objective, RECIPE, key=KEY)


@pytest.mark.parametrize("name", ["run", pytest.param("numbers", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "method",
    [lo.Newton(curvature=LAST)]
    + [pytest.param(each, marks=pytest.mark.slow)
       for each in (lo.Influence(curvature=LAST), lo.Corrected(LAST, check=False))],
)  # fmt: skip
def test_last_parameters_are_held_apart_where_they_fit(name, method, request, monkeypatch):
    """The same as by products with the whole network, in which all others stand still."""
    run = request.getfixturevalue(name)
    query = QUERY if name == "run" else lo.measures.prediction(X[:3])
    apart = lo.effects(run, GROUPS, query, method)
    assert end_point.end_of(run.at(0), LAST).count == 9 * run.objective.outputs
    monkeypatch.setattr(end_point, "_fits", lambda *_: False)
    whole = lo.effects(run, GROUPS, query, method)
    np.testing.assert_allclose(apart.value, whole.value, rtol=1e-5)
    np.testing.assert_array_equal(apart.status, whole.status)


def test_last_parameters_that_have_no_factor_are_solved_without(run, monkeypatch):
    newton = lo.effects(run, GROUPS, QUERY, lo.Newton(curvature=LAST))
    monkeypatch.setattr(end_point, "_factor", lambda *_: (None, jnp.array(False)))
    plain = lo.effects(run, GROUPS, QUERY, lo.Newton(curvature=LAST))
    np.testing.assert_allclose(plain.value, newton.value, rtol=1e-4)
    assert plain.steps.sum() > newton.steps.sum()


def test_a_sweep_forms_the_last_parameters_once(run, monkeypatch):
    dampings, formed, tail = [0.01, 0.1], [], end_point._tail
    monkeypatch.setattr(end_point, "_tail", lambda *a: formed.append(1) or tail(*a))
    method = lo.Newton(curvature=lo.curvature.LastLayer())
    swept = lo.damping_sweep(run, GROUPS, QUERY, dampings, method)
    assert len(formed) == 1
    for damping in dampings:
        own = lo.Newton(curvature=lo.curvature.LastLayer(damping))
        np.testing.assert_allclose(swept[damping].value, lo.effects(run, GROUPS, QUERY, own).value)


def test_a_name_says_which_curvature_it_is_of():
    last, whole = lo.curvature.LastLayer(), lo.curvature.GaussNewton(0.1)
    for method in (lo.Influence, lo.Newton, lo.Corrected):
        assert method(curvature=whole).name == method().name
        assert method(curvature=last).name == f"{method().name}, last layer"
    assert lo.Newton(linearised=True, curvature=last).name == "linearised Newton, last layer"
    assert lo.Influence(curvature=lo.curvature.Hessian()).name == "influence, Hessian"


def test_damping_follows_from_the_recipe():
    assert lo.Recipe(optax.sgd(0.1), steps=50, batch=4).damping() == pytest.approx(1 / 5)
    slower = lo.Recipe(optax.sgd(optax.linear_schedule(0.1, 0.0, 50)), steps=50, batch=4)
    assert slower.damping() == pytest.approx(1 / 2.55)
    decayed = optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1, momentum=0.9))
    assert lo.Recipe(decayed, steps=50, batch=4).damping() < 1 / 5


@pytest.mark.parametrize("optimiser", [optax.adam(0.01), optax.rmsprop(0.01), optax.lion(0.01)])
def test_steps_that_do_not_follow_the_gradient_suggest_no_damping(optimiser):
    """On digits with Adam a hundredth of what the recipe says was right (docs/networks.md)."""
    with pytest.warns(UserWarning, match="may be far off: give one, as in lo.Influence.curvature="):
        lo.Recipe(optimiser, steps=50, batch=4).damping()


@pytest.mark.slow
def test_more_parameters_than_examples_are_solved_by_way_of_the_examples(monkeypatch):
    def wide(key):
        return eqx.nn.MLP(3, 2, 32, 1, activation=jnp.tanh, key=key, dtype=jnp.float64)

    run = lo.train(made(init=wide), RECIPE, key=KEY)
    assert run.objective.p > 100 > run.objective.outputs * N
    methods = [lo.Influence(curvature=DAMPED), lo.Newton(curvature=DAMPED)]
    methods += [lo.Newton(curvature=lo.curvature.LastLayer(0.01))]
    dense = [lo.effects(run, GROUPS, QUERY, method) for method in methods]
    monkeypatch.setattr(end_point, "DENSE", 100)
    assert isinstance(end_point.end_of(run.at(0), DAMPED).factor, DualFactor)
    for apart in (True, False):  # a factor for each group, or that of the whole
        monkeypatch.setattr(end_point, "_is_short", lambda *_, apart=apart: apart)
        plain = [lo.effects(run, GROUPS, QUERY, method) for method in methods]
        for one, other in zip(plain, dense, strict=True):
            np.testing.assert_allclose(one.value, other.value, rtol=1e-5)
            assert not one.status.any()
            assert (one.steps <= other.steps + 1).all()  # as near as the dense factor is
        assert not apart or (plain[1].steps <= 2).all()  # which is all but exact


def test_beyond_the_dense_limit_few_examples_have_a_factor_of_their_own(monkeypatch):
    monkeypatch.setattr(end_point, "DENSE", 30)
    few = lo.train(made(X[:10], Y[:10]), RECIPE.but(steps=2), key=KEY).at(0)
    assert few.objective.p > 30 > few.objective.outputs * few.objective.n
    factor = end_point.end_of(few, DAMPED).factor
    assert isinstance(factor, DualFactor)
    matrix = gauss_newton(few.objective, few.flat, np.ones(10))
    matrix += 0.01 * 10 * np.eye(few.objective.p)
    b = np.random.default_rng(0).normal(size=(2, few.objective.p))
    solved = np.linalg.solve(matrix, b.T).T
    np.testing.assert_allclose(factor.solve(jnp.asarray(b)), solved, rtol=1e-8)
    share = np.array([[0.0, 1, 1, 0, 1, 1, 1, 1, 1, 1], [0.5, 1, 2, 1, 1, 1, 1, 1, 1, 0.25]])
    near = factor.kept(jnp.asarray(share))
    shares = share_of(factor, near.solve(turned(factor, jnp.asarray(b))))
    for kept, row, found, least in zip(share, b, near.solve(jnp.asarray(b)), shares, strict=True):
        matrix, whole = (
            gauss_newton(few.objective, few.flat, v) + 0.01 * 10 * np.eye(few.objective.p)
            for v in (kept, np.ones(10))
        )
        np.testing.assert_allclose(found, np.linalg.solve(matrix, row), rtol=1e-8)
        again = np.linalg.solve(matrix, whole @ row) / np.sqrt(row @ whole @ row)
        np.testing.assert_allclose(least, 1 / np.sqrt(again @ whole @ again), rtol=1e-8)
    bare = dataclasses.replace(few, objective=few.objective.with_l2(0.0))
    assert end_point.end_of(bare, lo.curvature.GaussNewton(0)).factor is None  # H has no inverse
    assert end_point.end_of(few, lo.curvature.Hessian(0.01)).factor is None  # no sum of squares


@pytest.mark.parametrize("kind", [np.float32, pytest.param(np.float64, marks=pytest.mark.slow)])
def test_groups_of_few_examples_are_right_or_flagged(monkeypatch, kind):
    """Base weights of 0, points that come, or with much more weight, all but one that leave."""
    rng, n, p = np.random.default_rng(0), 24, 120
    x, theta = (2 + rng.normal(size=(n, p))).astype(kind), 0.1 * rng.normal(size=p).astype(kind)
    y = (x @ theta + rng.normal(size=n)).astype(kind)
    s = np.linspace(0.2, 3, n).astype(kind)
    s[[4, 7]] = 0
    objective = lo.network(
        lambda _: {"w": jnp.zeros(p, kind)}, lo.losses.squares, (x, y), weights=s,
        apply=lambda tree, x: x @ tree["w"],
    )  # fmt: skip
    trained = lo.train(objective, RECIPE.but(steps=1), key=KEY).at(0)
    here = dataclasses.replace(trained, flat=jnp.asarray(theta))
    w = np.zeros((5, n))
    w[0, ::2], w[1, 5], w[2, [4, 7]], w[3, 9], w[4, 1:] = 1, 1, -1, -50, 1
    w[0, 4] = w[4, 4] = w[4, 7] = 0
    taken = w * np.where(s > 0, s, 1)
    monkeypatch.setattr(end_point, "DENSE", 30)
    x, y, theta = x.astype(float), y.astype(float), theta.astype(float)
    along = rng.normal(size=p) + 2
    for damping in (0.1, 1e-2, 1e-3, 1e-4, 1e-5):
        end = end_point.end_of(here, lo.curvature.GaussNewton(damping))
        assert isinstance(end.factor, DualFactor)
        assert end.factor.gram is not None
        found = end.changes(lo.Groups.from_weights(w), True)
        for step, status, lost in zip(found.value, found.status, taken, strict=True):
            matrix = (x.T * (s - lost)) @ x + damping * np.sum(s) * np.eye(p)
            true = along @ np.linalg.solve(matrix, x.T @ (lost * (x @ theta - y)))
            error = abs(along @ np.asarray(step, float) - true) / abs(true)
            assert error < (0.01 if kind == np.float32 else 1e-5) or status
            assert not status or kind == np.float32


def test_a_group_that_leaves_hardly_any_curvature_is_flagged(monkeypatch):
    rng, n, p = np.random.default_rng(0), 12, 60
    x, theta = rng.normal(size=(n, p)), 0.1 * rng.normal(size=p)
    x[1] = x[0]  # alone along themselves, and pulls that cancel
    y = x @ theta + rng.normal(size=n)
    y[:2] = x[0] @ theta + np.array([1 + 1e-12, -1])
    objective = lo.network(
        lambda _: {"w": jnp.zeros(p)}, lo.losses.squares, (x, y), l2=3e-9,
        apply=lambda tree, x: x @ tree["w"],
    )  # fmt: skip
    trained = lo.train(objective, RECIPE.but(steps=1), key=KEY).at(0)
    monkeypatch.setattr(end_point, "DENSE", 30)
    here = dataclasses.replace(trained, flat=jnp.asarray(theta))
    pair = lo.Groups.from_indices([[0, 1]], n=n)
    for damping, status in ((0, lo.Status.inaccurate), (1e-6, lo.Status.converged)):
        end = end_point.end_of(here, lo.curvature.GaussNewton(damping))
        assert lo.Status(int(end.changes(pair, True).status[0])) == status


def test_a_sweep_over_damping_forms_each_matrix_once(monkeypatch):
    run = lo.train(made(), RECIPE, key=KEY, seeds=2)
    formed = []
    whole = end_point._matrix

    def counted(expansion):
        formed.append(None)
        return whole(expansion)

    monkeypatch.setattr(end_point, "_matrix", counted)
    dampings = (0.01, 0.1, 1.0)
    swept = lo.damping_sweep(run, GROUPS, QUERY, dampings)
    assert len(formed) == 2  # one a seed
    assert tuple(swept) == dampings
    for damping, found in swept.items():
        alone = lo.Influence(curvature=lo.curvature.GaussNewton(damping))
        expected = lo.effects(run, GROUPS, QUERY, alone)
        np.testing.assert_allclose(found.value, expected.value, rtol=1e-9)
    assert len(formed) == 2 + 6


def test_what_is_no_curvature_is_refused(run, as_users_run_it):
    with pytest.raises(lo.SolveError, match="Hessian is not positive definite at this theta"):
        lo.effects(run, GROUPS, QUERY, lo.Influence(curvature=lo.curvature.Hessian(0)))
    with pytest.raises(ValueError, match="damping >= 0"):
        lo.curvature.GaussNewton(-1.0)
    with pytest.raises(ValueError, match=r"expected curvature as lo.curvature"):
        lo.effects(run, GROUPS, QUERY, lo.Influence(curvature=wrong(0.1)))
    with pytest.raises(ValueError, match="steps is for fits and their Hessian"):
        lo.effects(run, GROUPS, QUERY, lo.Newton(steps=2))
    with pytest.raises(ValueError, match="rescaled and solver is for fits"):
        lo.effects(run, GROUPS, QUERY, lo.Influence(lo.solvers.CG(), rescaled=True))
    with pytest.raises(ValueError, match=r"expected method as lo.Influence\(\), lo.Newton\(\)"):
        lo.damping_sweep(run, GROUPS, QUERY, (0.1,), wrong(lo.Retrain()))
    with pytest.raises(ValueError, match="at least one damping"):
        lo.damping_sweep(run, GROUPS, QUERY, ())
