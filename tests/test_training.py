import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import leaveout as lo
from leaveout.fitting.gates import Need
from leaveout.objectives.networks import Network
from leaveout.training.run import replayed
from problems import wrong

RNG = np.random.default_rng(1)
N = 40
X = RNG.normal(size=(N, 3))
Y = (X[:, 0] * X[:, 1] + 0.3 * RNG.normal(size=N) > 0).astype(int)
KEY = jax.random.key(3)
RECIPE = lo.Recipe(optax.sgd(0.1, momentum=0.9), steps=20, batch=8)
FULL = lo.Recipe(optax.sgd(0.1), steps=12, batch=N, order=lo.Order.in_turn)


def mlp(key):
    return eqx.nn.MLP(3, 2, 8, 1, activation=jnp.tanh, key=key, dtype=jnp.float64)


def made(x=X, y=Y, l2=0.4, init=mlp, **options) -> Network:
    return lo.network(init, lo.losses.softmax, (x, y), l2=l2, **options)


def data(count=N):
    return lo.Groups.from_indices([[0, 1, 2], [5], list(range(20))], n=count)


@pytest.fixture(scope="module")
def run() -> lo.Run:
    return lo.train(made(), RECIPE, key=KEY, seeds=2)


def by_hand(objective: Network, run: lo.Run, seed: int, v) -> np.ndarray:
    """A plain loop of optax over jax.grad, the penalty as in LeftKeepingPenalty."""
    one = run.at(seed)
    theta = one.start
    state = run.recipe.optimiser.init(theta)
    for batch in np.asarray(one.batches):

        def value(theta, batch=batch):
            losses = objective.losses(theta)[batch]
            penalty = 0.5 * jnp.sum(objective.penalty * theta**2) / v.sum()
            return jnp.sum(v[batch] * losses) / v[batch].sum() + penalty

        moves, state = run.recipe.optimiser.update(jax.grad(value)(theta), state, theta)
        theta = optax.apply_updates(theta, moves)
    return np.asarray(theta)


def test_a_training_is_a_plain_loop_of_optax(run):
    v = np.ones(N)
    np.testing.assert_allclose(run.theta[1], by_hand(run.objective, run, 1, v), rtol=1e-10)
    assert run.losses.shape == (2, 20)
    assert run.batches.shape == (2, 20, 8)


def test_an_epoch_holds_every_example_once(run):
    epoch = np.asarray(run.batches)[0, :5].ravel()
    assert sorted(epoch) == list(range(N))
    others = np.asarray(run.batches)[1, :5].ravel()
    assert (epoch != others).any()
    for order in lo.Order:
        drawn = np.asarray(RECIPE.but(order=order).batches(KEY, 37))
        assert drawn.shape == (20, 8)
        assert all(len(set(batch)) == 8 for batch in drawn.tolist())


def test_a_seed_is_the_same_whatever_the_number_of_seeds(run):
    alone = lo.train(run.objective, RECIPE, key=KEY)
    np.testing.assert_array_equal(alone.theta[0], run.theta[0])


def test_a_run_repeats_itself_bit_for_bit(run):
    for seed in range(2):
        one, note = replayed(run, seed)
        assert note is None
        np.testing.assert_array_equal(one.without(run.objective.weights[None])[0], run.theta[seed])


def test_a_replay_that_is_not_one_is_refused_with_both_hashes(run):
    marks = dict(run.marks, ends=["0" * 16, *run.marks["ends"][1:]])
    other = dataclasses.replace(run, marks=marks, theta=run.theta + 1e-6)
    with pytest.raises(ValueError, match=r"hash \w{16}, the run's is 0{16}.*exact=False"):
        lo.effects(other, data(), lo.measures.self_loss(), lo.Retrain())
    with pytest.warns(UserWarning, match="trained anew here"):
        anew = lo.effects(other, data(), lo.measures.self_loss(), lo.Retrain(exact=False))
    usual = lo.effects(run, data(), lo.measures.self_loss(), lo.Retrain())
    assert any("trained anew" in note for note in anew.notes)
    np.testing.assert_array_equal(anew.value, usual.value)


class Still(lo.Method):
    """A method of one's own that follows a training, and says nothing of bits."""

    needs = (Need.trajectory,)

    @property
    def name(self) -> str:
        return "still"

    def prepare(self, fit, measures):
        return lo.Prepared(lambda groups: jnp.zeros((len(groups), fit.flat.size)))


def test_a_method_of_ones_own_asks_for_the_same_bits_unless_it_says_otherwise(run):
    marks = dict(run.marks, ends=["0" * 16, *run.marks["ends"][1:]])
    other = dataclasses.replace(run, marks=marks)
    with pytest.raises(ValueError, match=r"the run's is 0{16}"):
        lo.effects(other, data(), lo.measures.self_loss(), Still())
    same = lo.effects(run, data(), lo.measures.self_loss(), Still())
    np.testing.assert_allclose(same.value, 0.0, atol=1e-12)


def test_a_run_survives_its_file(run, tmp_path):
    run.save(tmp_path / "run.npz")
    again = lo.load(tmp_path / "run.npz", objective=made(), recipe=RECIPE)
    np.testing.assert_array_equal(again.theta, run.theta)
    np.testing.assert_array_equal(again.losses, run.losses)
    assert again.marks == run.marks
    assert replayed(again, 1)[1] is None
    with pytest.raises(ValueError, match=r"lo.load\(path, objective=..., recipe=...\)"):
        lo.load(tmp_path / "run.npz")


def test_other_code_data_or_settings_are_refused_on_loading(run, tmp_path):
    path = tmp_path / "run.npz"
    run.save(path)

    def relu(key):
        return eqx.nn.MLP(3, 2, 8, 1, key=key, dtype=jnp.float64)

    with pytest.raises(ValueError, match="the data, weights or penalty"):
        lo.load(path, objective=made(x=X + 1e-9), recipe=RECIPE)
    with pytest.raises(ValueError, match="the data, weights or penalty"):
        lo.load(path, objective=made(l2=0.5), recipe=RECIPE)
    with pytest.raises(ValueError, match=r"the code .* is not what the run was trained with"):
        lo.load(path, objective=made(init=relu), recipe=RECIPE)
    faster = RECIPE.but(optimiser=optax.sgd(0.2, momentum=0.9))
    with pytest.raises(ValueError, match=r"the code .* is not what the run was trained with"):
        lo.load(path, objective=made(), recipe=faster)
    with pytest.warns(UserWarning, match="the code"):
        lo.load(path, objective=made(), recipe=faster, exact=False)
    with pytest.raises(ValueError, match="normaliser of this recipe"):
        lo.load(path, objective=made(), recipe=RECIPE.but(normaliser=lo.Fixed()))
    with pytest.raises(ValueError, match="damaged, or of another recipe"):
        lo.load(path, objective=made(), recipe=RECIPE.but(steps=19))


def test_a_training_that_ends_in_nan_is_refused():
    wild = FULL.but(optimiser=optax.sgd(1e200))
    with pytest.raises(lo.SolveError, match="training ended in NaN or infinity for 1 of 1 seeds"):
        lo.train(made(), wild, key=KEY)


def test_recipes_that_cannot_be_replayed_are_refused():
    for optimiser in (optax.lbfgs(), optax.polyak_sgd()):
        with pytest.raises(ValueError, match="asks for more than gradients"):
            lo.Recipe(optimiser, steps=3, batch=4)
    with pytest.raises(ValueError, match=r"batch of at most n = 40"):
        lo.train(made(), RECIPE.but(batch=41), key=KEY)
    with pytest.raises(ValueError, match="steps as an integer"):
        RECIPE.but(steps=0)
    assert hash(RECIPE.but()) == hash(RECIPE)
    assert RECIPE.but() == RECIPE


def test_only_networks_are_trained(as_users_run_it):
    with pytest.raises(ValueError, match=r"expected an objective from lo.network"):
        lo.train(wrong(lo.logistic(X, Y)), RECIPE, key=KEY)
