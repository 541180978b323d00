import contextlib
import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import leaveout as lo
from leaveout.methods import trajectory
from leaveout.training.loop import reverse
from leaveout.training.run import Trained
from problems import mostly_slow, wrong
from test_training import FULL, KEY, RECIPE, N, X, Y, by_hand, data, made

NORMALISERS = (lo.LeftKeepingPenalty(), lo.Left(), lo.Fixed())


def theta(t):
    return lo.measures.parameter(list(range(t)))


@pytest.fixture(scope="module")
def run() -> lo.Run:
    return lo.train(made(), RECIPE, key=KEY, seeds=2)


def test_retraining_is_a_plain_loop_without_the_group(run):
    found = lo.effects(run, data(), theta(run.objective.p), lo.Retrain())
    assert found.seeds is not None
    assert found.error is not None
    v = np.ones(N)
    v[:20] = 0
    expected = by_hand(run.objective, run, 1, v) - np.asarray(run.theta[1])
    np.testing.assert_allclose(found.seeds[1, 2], expected, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(found.value, found.seeds.mean(axis=0))
    np.testing.assert_allclose(found.error, np.abs(found.seeds[0] - found.seeds[1]) / 2)
    assert "divided by what is left of them" in found.notes[0]


@pytest.mark.slow
def test_lanes_do_not_depend_on_each_other(run):
    usual = lo.effects(run, data(), lo.measures.self_loss(), lo.Retrain())
    turned = lo.effects(run, data()[[2, 0, 1]], lo.measures.self_loss(), lo.Retrain())
    np.testing.assert_array_equal(turned.seeds, usual[[2, 0, 1]].seeds)
    wide = lo.train(run.objective, RECIPE, key=KEY, seeds=2, width=2)
    other = lo.effects(wide, data(), lo.measures.self_loss(), lo.Retrain())
    np.testing.assert_allclose(other.value, usual.value, rtol=1e-10)


def test_memory_does_not_grow_with_the_number_of_groups(run, monkeypatch):
    lanes = []
    whole = Trained.without

    def counted(self, v):
        lanes.append(len(v))
        return whole(self, v)

    monkeypatch.setattr(Trained, "without", counted)
    many = data()[np.arange(99) % 3]
    found = lo.effects(run, many, lo.measures.self_loss(), lo.Retrain())
    assert max(lanes) <= 32  # whose thetas are there together; each is trained in blocks of one
    assert sum(lanes) < 2 * 99 + 2 * 4
    few = lo.effects(run, data(), lo.measures.self_loss(), lo.Retrain())
    np.testing.assert_array_equal(found.seeds, few[np.arange(99) % 3].seeds)


def test_nobody_leaves_and_nothing_changes(run):
    nobody = lo.Groups.from_indices([[], [3]], n=N, coalitions=True)
    found = lo.effects(run, nobody, theta(run.objective.p), lo.Retrain())
    np.testing.assert_array_equal(found.value[0], 0.0)


@pytest.mark.parametrize("normaliser", mostly_slow(NORMALISERS, lo.Left()))
def test_a_row_that_left_is_a_row_that_was_never_there(normaliser):
    recipe = FULL.but(normaliser=normaliser)
    one = lo.train(made(), recipe, key=KEY)
    group = lo.Groups.from_indices([[N - 1]], n=N)
    found = lo.effects(one, group, theta(one.objective.p), lo.Retrain())
    share = (N - 1) / N
    less = recipe.but(batch=N - 1)
    if isinstance(normaliser, lo.Fixed):  # steps are shorter by what is missing
        less = less.but(optimiser=optax.sgd(0.1 * share))
    l2 = 0.4 * share if isinstance(normaliser, lo.Left) else 0.4
    other = lo.train(made(X[:-1], Y[:-1], l2=l2), less, key=KEY)
    change = np.asarray(other.theta[0] - one.theta[0])
    np.testing.assert_allclose(found.value[0], change, rtol=1e-8, atol=1e-13)


def test_what_left_is_not_heard():
    x = X.copy()
    x[7] = 1e200  # a loss of infinity, and gradients that are none

    def cubic(key):
        return {"w": 0.1 * jax.random.normal(key, (3, 2))}

    def apply(parameters, x):
        return (x**3) @ parameters["w"]

    def trained(x, weights):
        objective = lo.network(cubic, lo.losses.softmax, (x, Y), 0.4, apply=apply, weights=weights)
        return lo.train(objective, FULL, key=KEY)

    without = np.ones(N)
    without[7] = 0
    with pytest.raises(lo.SolveError, match="ended in NaN"):
        trained(x, None)
    np.testing.assert_array_equal(trained(x, without).theta, trained(X, without).theta)


@pytest.mark.slow
def test_a_lane_that_ends_in_nan_is_flagged_and_alone():
    def fragile(scores, y):  # not a number if the first twenty are missing from its training
        return jnp.sum((scores - y) ** 2)

    objective = lo.network(
        lambda key: {"a": jnp.zeros(())}, fragile, (X, np.r_[np.zeros(20), np.full(20, 2.0)]),
        apply=lambda parameters, x: jnp.sqrt(1.5 - parameters["a"]),
    )  # fmt: skip
    recipe = lo.Recipe(optax.sgd(0.5), steps=40, batch=N, order=lo.Order.in_turn)
    objective = dataclasses.replace(objective)
    one = lo.train(objective, recipe, key=KEY)
    groups = lo.Groups.from_indices([[0], list(range(20, 40))], n=N)
    found = lo.effects(one, groups, lambda t: t["a"], lo.Retrain())
    assert found.column_status[:, 0].tolist() == [0, lo.Status.nonfinite]


@pytest.mark.slow
def test_groups_may_hold_a_class_empty_a_batch_or_all_of_them(run):
    in_turn = RECIPE.but(order=lo.Order.in_turn, steps=2)  # sees the first 16 examples
    one = lo.train(made(), in_turn, key=KEY)
    lists = [np.flatnonzero(Y == 1), np.arange(8), np.arange(16)]
    groups = lo.Groups.from_indices(lists, n=N)
    found = lo.effects(one, groups, theta(one.objective.p), lo.Retrain())
    assert found.status.tolist() == [0, 0, lo.Status.untrained]
    start = np.asarray(one.at(0).start)
    second = by_hand_one_step(one, np.arange(8, 16), start * (1 - 0.1 * 0.4 / 32))
    momentum = 0.9 * (-0.1 * 0.4 / 32) * start
    expected = second + momentum - np.asarray(one.theta[0])
    np.testing.assert_allclose(found.value[1], expected, rtol=1e-8, atol=1e-12)


def by_hand_one_step(run: lo.Run, batch, theta):
    objective = run.objective

    def value(t):
        return jnp.mean(objective.losses(t)[batch]) + 0.2 * jnp.sum(t**2) / 32

    return np.asarray(theta - 0.1 * jax.grad(value)(theta))


def test_effects_of_seeds_survive_their_file(run, tmp_path):
    found = lo.effects(run, data(), lo.measures.self_loss(), lo.Retrain())
    found.save(tmp_path / "e.npz")
    again = lo.load(tmp_path / "e.npz")
    np.testing.assert_array_equal(again.seeds, found.seeds)
    np.testing.assert_array_equal(again.error, found.error)
    first = found[[0]].seeds
    assert first is not None
    assert first.shape == (2, 1, 1)


def test_what_is_for_fits_is_refused_of_a_run(run):
    with pytest.raises(ValueError, match="are for fits"):
        lo.effects(run, data(), lo.measures.self_loss(), lo.Retrain(), certify=True)
    with pytest.raises(ValueError, match="a Run claims none"):
        lo.effects(run, data(), lo.measures.self_loss(), lo.SecondOrder())
    with pytest.raises(ValueError, match="groups were made for n=41"):
        lo.effects(run, data(41), lo.measures.self_loss(), lo.Retrain())


# ---- the derivative of training ------------------------------------------------------------------


def narrow(key):
    return eqx.nn.MLP(3, 2, 8, 1, activation=jnp.tanh, key=key, dtype=jnp.float32)


def forward(one, groups, since):
    """Changes of theta by forward mode."""
    change = lo.Metagradient(since=since, check=False).prepare(one, []).change(groups)
    assert isinstance(change, lo.Change)
    return change.value


@pytest.mark.slow
def test_reverse_forward_and_finite_differences_agree(run):
    query = lo.measures.loss((X[:3], Y[:3]))
    points = lo.Groups.from_indices([[i] for i in range(4)], n=N)
    backward = lo.effects(run, points, query, lo.Metagradient(check=False))
    h = 1e-6
    w = np.zeros((8, N))
    w[np.arange(8), np.repeat(np.arange(4), 2)] = np.tile([h, -h], 4)
    both = lo.effects(run, lo.Groups.from_weights(w), query, lo.Retrain()).value
    slopes = (both[::2] - both[1::2]) / (2 * h)
    np.testing.assert_allclose(backward.value, slopes, rtol=1e-5, atol=1e-9)
    assert backward.seeds is not None
    one = run.at(0)
    moved = forward(one, points, 0)
    pulls = query.bind(one.objective).gradients(one.objective, one.flat)
    np.testing.assert_allclose(moved @ pulls.T, backward.seeds[0], rtol=1e-10, atol=1e-14)


@pytest.mark.slow
def test_reverse_and_forward_agree_in_single_precision():
    single = lo.train(made(x=wrong(X.astype(np.float32)), init=narrow), RECIPE, key=KEY)
    query = lo.measures.loss((X[:3].astype(np.float32), Y[:3]))
    points = lo.Groups.from_indices([[i] for i in range(4)], n=N)
    found = lo.effects(single, points, query, lo.Metagradient(check=False)).value
    one = single.at(0)
    assert one.flat.dtype == jnp.float32
    pulls = query.bind(one.objective).gradients(one.objective, one.flat)
    moved = forward(one, points, 0) @ pulls.T
    np.testing.assert_allclose(moved, found, rtol=0, atol=1e-5 * np.abs(found).max())


@pytest.mark.parametrize("steps", [64, 400])
def test_reverse_mode_holds_few_states(steps):
    """At most three roots of the steps, a state being theta and its momentum."""

    def wide(key):
        return eqx.nn.MLP(3, 2, 500, 1, activation=jnp.tanh, key=key, dtype=jnp.float64)

    one = lo.train(made(init=wide), RECIPE.but(steps=1, batch=2), key=KEY).at(0)
    course = one.course._replace(batches=jnp.zeros((steps, 2), int))
    p = one.objective.p
    compiled: Any = reverse  # of Equinox's filter_jit
    program = compiled.lower(course, one.objective.weights, jnp.zeros((1, p)), 0).compile()
    held = program.compiled.memory_analysis().temp_size_in_bytes
    assert held < 3 * steps**0.5 * 2 * p * 8


@pytest.mark.slow
def test_self_loss_and_accuracy_go_by_forward_mode(run):
    h = 1e-6
    group = data()[[0]]
    found = lo.effects(run, group, lo.measures.self_loss(), lo.Metagradient(check=False))
    expected = []
    for seed in range(2):
        one = run.at(seed)
        moves = h * np.where(np.arange(N) < 3, 1.0, 0.0)
        ends = one.without(jnp.asarray(np.stack([1 - moves, 1 + moves])))
        up, down = (float(jnp.sum(run.objective.losses(end)[:3])) for end in ends)
        expected.append((up - down) / (2 * h))
    np.testing.assert_allclose(found.value[0, 0], np.mean(expected), rtol=1e-6)


@pytest.mark.slow
def test_since_leaves_the_early_steps_alone(run):
    h = 1e-6
    plain = lo.train(made(), RECIPE.but(optimiser=optax.sgd(0.1)), key=KEY)
    one = plain.at(0)
    middle = lo.train(made(), plain.recipe.but(steps=15), key=KEY).theta[0]
    v = jnp.ones((2, N)).at[:, 5].set(jnp.array([1 - h, 1 + h]))
    rest = dataclasses.replace(
        one, start=middle, batches=one.batches[15:], recipe=plain.recipe.but(steps=5)
    )
    up, down = rest.without(v)
    found = forward(one, data()[[1]], 15)[0]
    np.testing.assert_allclose(found, (up - down) / (2 * h), rtol=1e-5, atol=1e-9)
    with pytest.raises(ValueError, match="a step before the last of 20"):
        lo.effects(run, data(), lo.measures.self_loss(), lo.Metagradient(since=20))


@pytest.mark.slow
def test_adam_needs_a_root_that_has_a_derivative():
    adam = lo.train(made(), RECIPE.but(optimiser=optax.adam(0.01)), key=KEY)
    with pytest.raises(ValueError, match=r"eps_root > 0, such as"):
        lo.effects(adam, data(), lo.measures.self_loss(), lo.Metagradient())
    rooted = RECIPE.but(optimiser=optax.adam(0.01, eps_root=1e-6))
    smooth = lo.train(made(), rooted, key=KEY)
    query = lo.measures.loss((X[:2], Y[:2]))
    w = np.zeros((2, N))
    w[0, 5], w[1, 5] = 1e-6, -1e-6
    up, down = lo.effects(smooth, lo.Groups.from_weights(w), query, lo.Retrain()).value
    found = lo.effects(smooth, data()[[1]], query, lo.Metagradient(check=False)).value[0]
    np.testing.assert_allclose(found, (up - down) / 2e-6, rtol=1e-4, atol=1e-8)


@pytest.mark.slow
def test_base_weights_count_in_the_derivative_of_training():
    """Against differences of a plain loop: weights below and above 1."""
    s = np.linspace(0.25, 2.0, N)
    one = lo.train(made(weights=s), FULL.but(steps=2), key=KEY)
    points = lo.Groups.from_indices([[2], [35]], n=N)
    query = lo.measures.parameter([0, one.objective.p - 1])
    found = lo.effects(one, points, query, lo.Metagradient(check=False)).value
    for i, effect in zip((2, 35), found, strict=True):
        h = 1e-5 * s[i] * np.eye(N)[i]
        less, more = (by_hand(one.objective, one, 0, s + move) for move in (-h, h))
        np.testing.assert_allclose(effect, (less - more)[[0, -1]] / 2e-5, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(
    ("cosines", "seeds"),
    [((0.95, 0.9), None), ((0.9, 0.89), "1"), ((0.5, 0.4), "0, 1"), ((np.nan, 0.95), "0")],
)
def test_a_derivative_that_turns_is_warned_of_and_refused(run, monkeypatch, cosines, seeds):
    """At .9 and above it says what a group does; below .5, or where it is none, it is refused."""
    given = dict(zip([run.at(seed).flat.tobytes() for seed in range(2)], cosines, strict=True))
    monkeypatch.setattr(trajectory, "_cosine_of", lambda one: given[one.flat.tobytes()])
    warned = pytest.warns(UserWarning, match=rf"turns.*below 0\.9 for seeds {seeds}$")
    with contextlib.nullcontext() if seeds is None else warned:
        np.testing.assert_array_equal(lo.smoothness(run).cosine, cosines)
    for seed, cosine in enumerate(cosines):
        refused = pytest.raises(ValueError, match="check=False")
        doubted = pytest.warns(UserWarning, match="compare with lo.Retrain")
        fine = contextlib.nullcontext()
        with fine if cosine >= 0.9 else doubted if cosine >= 0.5 else refused:
            lo.Metagradient().prepare(run.at(seed), [])


def test_weights_that_count_from_the_end_on_are_refused(run):
    late = lo.Metagradient(since=RECIPE.steps - 1, check=False)
    late.prepare(run.at(0), [])
    with pytest.raises(ValueError, match="a step before the last of 20, got 20"):
        dataclasses.replace(late, since=RECIPE.steps).prepare(run.at(0), [])
    with pytest.raises(ValueError, match="since"):
        lo.Metagradient(since=-1)


@pytest.mark.slow
def test_a_training_that_is_not_smooth_is_refused(run):
    assert lo.smoothness(run).worst > 0.95

    def relu(key):
        return eqx.nn.MLP(3, 2, 32, 2, key=key, dtype=jnp.float64)

    wild = lo.Recipe(optax.sgd(2.0, momentum=0.9), steps=60, batch=8)
    rough = lo.train(made(init=relu), wild, key=KEY)
    with pytest.warns(UserWarning, match=r"turns when weights move by 2%"):
        assert lo.smoothness(rough).worst < 0.5
    with pytest.raises(ValueError, match="check=False"):
        lo.effects(rough, data(), lo.measures.loss((X, Y)), lo.Metagradient())


# ---- where training is solving -------------------------------------------------------------------


def linear(key):
    return eqx.nn.Linear(3, 2, key=key, dtype=jnp.float64)


@pytest.mark.slow
@pytest.mark.parametrize("normaliser", [lo.LeftKeepingPenalty(), lo.Fixed()])
def test_convex_training_to_its_end_is_solving(normaliser):
    recipe = lo.Recipe(
        optax.sgd(0.5, momentum=0.9), steps=600, batch=N, normaliser=normaliser,
        order=lo.Order.in_turn,
    )  # fmt: skip
    run = lo.train(made(init=linear, l2=2.0), recipe, key=KEY)
    fit = lo.fit(lo.softmax(X, Y, l2=2.0, penalised=np.ones(8)))
    groups, query = data(), lo.measures.loss((X[:5], Y[:5]))
    np.testing.assert_allclose(run.theta[0], fit.flat, atol=1e-8)
    retrained = lo.effects(run, groups, query, lo.Retrain())
    expected = lo.effects(fit, groups, query, lo.Retrain())
    np.testing.assert_allclose(retrained.value, expected.value, atol=1e-7)
    derivative = lo.effects(run, groups, query, lo.Metagradient())
    expected = lo.effects(fit, groups, query, lo.Influence())
    np.testing.assert_allclose(derivative.value, expected.value, atol=1e-7)
