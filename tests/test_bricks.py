"""A metric of what is left: the same answers as the slow way, in fewer evaluations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import leaveout as lo
from leaveout.fitting.fitted import with_rows
from leaveout.methods import bricks, retraining
from leaveout.methods.coordinates import Plain, Turned, Whitened, around
from leaveout.runtime.memory import budget
from problems import problem, slow_retrain

N, PLAYERS = 240, 5


@pytest.fixture(autouse=True)
def whatever_is_compiled(monkeypatch):
    """A metric of their own for few groups too, for which compiling would not be worth it."""
    monkeypatch.setattr("leaveout.methods.bricks._COMPILED", 0.0)


def hot(n=N, players=PLAYERS, classes=2, seed=0):
    """Inputs with a one-hot column for each player, who is larger the later, and targets."""
    rng = np.random.default_rng(seed)
    owner = np.sort(
        rng.choice(players, n, p=np.arange(1, players + 1) / (players * (players + 1) / 2))
    )
    x = np.concatenate([rng.normal(size=(n, 4)), np.eye(players)[owner]], axis=1)
    scores = x[:, :classes] + 0.5 * owner[:, None] / players + rng.gumbel(size=(n, classes))
    return owner, x, scores.argmax(axis=1)


def coalitions(owner, players=PLAYERS):
    """What leaves with every coalition of somebody, but not of everybody."""
    codes = np.arange(1, 2**players - 1)
    stays = (codes[:, None] >> np.arange(players)) & 1 == 1
    return lo.Groups.from_masks(~stays[:, owner], coalitions=True)


@pytest.fixture(scope="module")
def shared():
    """A fit of logistic regression, and its coalitions."""
    owner, x, y = hot()
    return lo.fit(lo.logistic(x, y, l2=1e-2)), coalitions(owner)


def without_bricks(fit, groups, monkeypatch, method=lo.Retrain()):
    """The slow way: every group in the metric of all the data."""
    with monkeypatch.context() as patch:
        patch.setattr(retraining, "bricks_of", lambda *_: None)
        return lo.retrain(fit, groups, method)


@pytest.mark.slow
def test_coalitions_are_retrained_as_the_slow_way_does_in_fewer_evaluations(shared, monkeypatch):
    fit, groups = shared
    slow, fast = without_bricks(fit, groups, monkeypatch), lo.retrain(fit, groups)
    np.testing.assert_array_equal(slow.status, 0)
    np.testing.assert_array_equal(fast.status, 0)
    size = np.linalg.norm(slow.value, axis=1)
    apart = np.linalg.norm(np.asarray(fast.value - slow.value), axis=1)
    assert (apart <= 1e-6 * size).all()
    assert float(jnp.max(fast.residual)) <= 1e-8
    assert np.median(fast.steps) <= 0.6 * np.median(slow.steps)
    assert np.median(fast.steps) <= 15


def test_a_coalition_alone_is_newton_by_hand(shared):
    fit, groups = shared
    some = groups[[0, 7, 20]]
    found = lo.retrain(fit, some, lo.Retrain(1e-11)).value
    for w, change in zip(some.dense(), found, strict=True):
        there = slow_retrain(fit.objective, jnp.asarray(w), fit.flat)
        np.testing.assert_allclose(change + fit.flat, there, atol=1e-7)


@pytest.mark.slow
def test_so_are_coalitions_of_three_classes(monkeypatch):
    owner, x, y = hot(classes=3)
    fit, groups = lo.fit(lo.softmax(x, y, l2=1e-2)), coalitions(owner)
    slow, fast = without_bricks(fit, groups, monkeypatch), lo.retrain(fit, groups)
    np.testing.assert_array_equal(fast.status, slow.status)
    good = np.asarray(slow.status) == 0
    size = np.linalg.norm(slow.value, axis=1)
    apart = np.linalg.norm(np.asarray(fast.value - slow.value), axis=1)
    assert (apart <= 1e-6 * size)[good].all()
    assert np.median(fast.steps) < np.median(slow.steps)


def test_a_coalition_of_one_class_still_has_no_minimum(shared):
    fit, _ = shared
    y = np.asarray(fit.objective.examples[1])
    some = np.flatnonzero(y == 1)[:40]
    mask = np.ones((1, N), bool)
    mask[0, some] = False
    one = lo.Groups.from_masks(mask, coalitions=True)
    assert lo.retrain(fit, one).status[0] == lo.Status.no_minimum


def test_atoms_are_the_examples_that_leave_together():
    rng = np.random.default_rng(0)
    w = np.kron(rng.choice([0.0, 0.25, 1.0], (6, 8)), np.ones(4))[:, rng.permutation(32)]
    groups = lo.Groups.from_weights(np.maximum(w, 1e-3 * (np.arange(32) == 0)), coalitions=True)
    atoms = bricks.atoms_of(groups, 32)
    assert atoms is not None
    dense = groups.dense()
    np.testing.assert_array_equal(atoms.w[:, atoms.owner], dense)
    assert atoms.w.shape[1] == len(np.unique(dense.T, axis=0))


def test_adding_points_and_families_without_structure_have_none():
    groups = lo.Groups.from_weights(-np.eye(4))
    assert bricks.atoms_of(groups, 4) is None
    singles = lo.Groups.from_indices(np.arange(600)[:, None], n=600)
    assert bricks.atoms_of(singles, 600) is None


def test_bricks_add_up_to_what_leaves_and_turn_it_round(shared):
    fit, groups = shared
    here = with_rows(fit.centred or fit, budget())
    found = bricks.bricks_of(around(here, False), groups)
    assert found is not None
    pieces, rows = found
    own, metric = groups[rows], here.metric
    assert metric is not None
    turns = pieces.turns(np.arange(len(rows)))
    for w, turn in zip(own.dense()[:4], turns[:4], strict=True):
        left = here.objective.hessian(here.flat, here.objective.stays(w))
        white = metric.whiten(metric.whiten(left).T)
        np.testing.assert_allclose(turn.T @ white @ turn, np.eye(len(turn)), atol=1e-9)


@pytest.mark.slow
def test_coordinates_of_lanes_are_a_change_of_variables(shared):
    fit, groups = shared
    here = with_rows(fit.centred or fit, budget())
    inner = around(here, False)
    found = bricks.bricks_of(inner, groups)
    assert found is not None
    pieces, rows = found
    some = np.arange(3)
    turned = Turned(inner, pieces.turns(some))
    v = inner.lay(here.objective.stays(jnp.asarray(groups[rows[:3]].dense())))
    z = jax.random.normal(jax.random.key(0), (3, here.flat.size))
    theta = turned.theta(z, None)
    np.testing.assert_allclose(turned.push(theta, None), z, atol=1e-9)
    u = inner.push(theta, None)
    _, slope = turned.function(v, None)(z)
    _, flat = inner.function(v, None)(u)
    np.testing.assert_allclose(slope, jnp.einsum("bij,bi->bj", turned.turn, flat), atol=1e-9)
    one, other = turned.curvature(z, v, None), inner.curvature(u, v, None)
    for name in ("along", "left", "whole"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("own_l2", [False, True])
def test_values_in_coordinates_are_those_of_the_loss_of_what_stays(own_l2):
    """Of a loss that is not known to be convex; NumPy's, but for a constant a lane."""
    known = problem("logistic", n=40, d=3)
    x, y, s = (np.asarray(part) for part in (known.x, known.y, known.weights))
    own = lo.glm(lambda score, y: jax.nn.softplus(score) - y * score, x, y.astype(float),
                 l2=0.5, weights=s)  # fmt: skip
    fit = lo.fit(own)
    inner = around(with_rows(fit, budget()), own_l2)
    assert isinstance(inner, Plain if own_l2 else Whitened)
    l2 = jnp.array([0.1, 0.5, 3.0]) if own_l2 else None
    v = s * (1 - np.eye(40)[:3] - np.eye(40)[3:6])
    u = jnp.concatenate([jnp.zeros((1, 3, 4)), jax.random.normal(jax.random.key(0), (4, 3, 4))])
    function = inner.function(inner.lay(jnp.asarray(v)), l2)
    values = np.stack([np.asarray(function(lanes)[0]) for lanes in u])

    def by_hand(theta, v, l2):
        scores = x @ theta[:-1] + theta[-1]
        return v @ (np.logaddexp(0, scores) - y * scores) + 0.5 * l2 * theta[:-1] @ theta[:-1]

    each = [0.5] * 3 if l2 is None else np.asarray(l2)
    thetas = np.stack([inner.theta(lanes, l2) for lanes in u])
    expected = np.array([[by_hand(*lane) for lane in zip(t, v, each, strict=True)] for t in thetas])
    np.testing.assert_allclose(values - values[:1], expected - expected[:1], atol=1e-10)


def test_ordinary_groups_stay_in_the_metric_that_all_share():
    model = problem("logistic", n=120)
    fit = lo.fit(model)
    groups = lo.Groups.from_labels(np.arange(120) % 6)
    here = with_rows(fit.centred or fit, budget())
    assert bricks.bricks_of(around(here, False), groups) is None
