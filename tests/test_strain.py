"""Steps that are longer than the loss's expansion holds, and losses that are not convex."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import leaveout as lo
from leaveout.methods.strain import reach_of
from problems import groups_of, linear, problem

N = 80
ONE_STEP = [lo.Newton(), lo.Krylov(3), lo.NewtonChebyshev(), lo.SecondOrder()]


def turned(count):
    """A fit that is sure of its labels, and a group that adds some of them turned around."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, 3))
    y = (x[:, 0] + 0.05 * rng.normal(size=N) > 0).astype(int)
    fitted = lo.fit(lo.logistic(x, y, l2=0.1))
    sure = np.argsort(-np.abs(x[:, 0]))[:count]
    return lo.add(fitted, (x[sure], 1 - y[sure]), np.zeros(count, int))


def names(status):
    return [lo.Status(int(code)).name for code in status]


@pytest.mark.parametrize("method", ONE_STEP, ids=lambda method: method.name)
def test_points_against_what_the_model_is_sure_of_take_a_step_too_far(method):
    fitted, groups = turned(6)
    measure = lo.measures.parameter([0])
    actual = lo.effects(fitted, groups, measure, lo.Retrain())
    found = lo.effects(fitted, groups, measure, method)
    assert names(actual.status) == ["converged"]
    assert names(found.status) == ["too_far"]
    assert abs(found.value[0, 0]) > 5 * abs(actual.value[0, 0])
    with pytest.raises(lo.SolveError, match=r"too_far.*is longer than.*use lo.Retrain"):
        lo.effects(fitted, groups, measure, method, throw=True)


def test_a_step_to_where_the_loss_overflows_is_too_far():
    """Infinity is no higher than infinity: a prediction of 1.8e7 was called converged."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 3))
    fit = lo.fit(lo.poisson(x, rng.poisson(np.exp(x[:, 0])) * 1.0, l2=1.0))
    wider, group = lo.add(fit, (300 * x[:1], np.zeros(1)))
    found = lo.effects(wider, group, lo.measures.prediction(x[:1]), lo.SecondOrder())
    assert names(found.status) == ["too_far"]


@pytest.mark.slow
def test_a_newton_step_that_goes_too_far_is_still_the_newton_step():
    fitted, groups = turned(6)
    objective, w = fitted.objective, jnp.asarray(groups.dense()[0])
    matrix = objective.hessian(fitted.flat, objective.stays(w))
    gradient = fitted.expansion().gradient(objective.taken(w))
    found = lo.newton(fitted, groups)
    np.testing.assert_allclose(found.value[0], jnp.linalg.solve(matrix, gradient), rtol=1e-9)


@pytest.mark.slow
def test_several_steps_are_damped_until_they_settle():
    fitted, _ = turned(12)
    counts = np.array([1, 2, 3, 4, 6, 8, 10, 12])
    rows = np.zeros((len(counts), N + 12))
    rows[:, N:] = np.where(np.arange(12)[None] < counts[:, None], -1.0, 0.0)
    groups = lo.Groups.from_weights(rows)
    actual = lo.retrain(fitted, groups, lo.Retrain(1e-12)).value
    few, many = (lo.newton(fitted, groups, steps=k) for k in (2, 14))
    off, size = (jnp.linalg.norm(change, axis=1) for change in (few.value - actual, actual))
    settled = np.asarray(few.status == lo.Status.converged)
    assert set(names(few.status)) == {"too_far", "converged"}
    assert (np.asarray(off / size)[settled] < 0.1).all()
    assert (off < 2 * size).all()  # one step is wrong by a factor of eight
    assert set(names(many.status)) == {"converged"}
    np.testing.assert_allclose(many.value, actual, atol=1e-7)


@pytest.mark.slow
def test_a_first_step_that_failed_is_not_forgotten_after_the_second():
    fitted, groups = lo.fit(problem("logistic")), groups_of(60, 3)[[1, 2]]
    cut, whole = (
        lo.newton(fitted, groups, solver, steps=2)
        for solver in (lo.solvers.CG(max_steps=1), lo.solvers.CG())
    )
    assert names(cut.status) == ["max_steps"] * 2
    assert names(whole.status) == ["converged"] * 2
    assert (cut.steps < whole.steps).all()


@pytest.mark.parametrize("name", ["logistic", "softmax"])
def test_no_change_moves_scores_further_than_its_reach(name):
    fitted = lo.fit(problem(name))
    changes = jax.random.normal(jax.random.key(0), (200, fitted.flat.size))
    scores = jax.vmap(linear(fitted).scores)(changes)
    moved = jnp.ptp(scores, axis=2) if name == "softmax" else jnp.abs(scores[..., 0])
    known = np.asarray(reach_of(fitted).of(changes)) / np.asarray(moved.max(axis=1))
    assert (known >= 1).all()


def test_what_bends_a_logistic_loss_up_is_bounded_as_far_as_scores_move():
    """Along any move a loss rises by slope and bend; the bend is at most the largest curvature.

    That is p (1 - p), the larger the nearer the score is to 0.
    """
    fitted = lo.fit(problem("logistic"))
    here = np.abs(np.asarray(linear(fitted).scores(fitted.flat)[:, 0]))
    bends = reach_of(fitted).bends
    assert bends is not None
    p = 1 / (1 + np.exp(-here))
    for radius, bound in zip((0.5, 1.0, 2.0, 4.0, np.inf), bends, strict=True):
        highest = 1 / (2 + 2 * np.cosh(np.maximum(here - radius, 0.0)))
        assert (bound <= highest - 2 * p * (1 - p) + 1e-12).all()
        for move in min(radius, 30.0) * np.array([-1.0, -0.5, 0.5, 1.0]):
            rise = np.logaddexp(0, here + move) - np.logaddexp(0, here) - p * move
            assert (2 * rise / move**2 - 2 * p * (1 - p) <= bound + 1e-12).all()


def rises(x, y, theta, change, v, l2):
    """Whether the penalised logistic loss rises along a change: in NumPy, with its formula."""

    def loss(theta):
        scores = x @ theta[:-1] + theta[-1]
        return v @ (np.logaddexp(0, scores) - y * scores) + 0.5 * l2 * theta[:-1] @ theta[:-1]

    return loss(theta + change) > loss(theta)


@pytest.mark.slow
@pytest.mark.parametrize("solver", [lo.solvers.Auto(), lo.solvers.CG()], ids=["direct", "CG"])
def test_the_flag_is_up_exactly_where_the_loss_of_what_stays_rises(solver):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(N, 2))
    y = (x[:, 0] + 0.3 * rng.normal(size=N) > 0).astype(int)
    fitted = lo.fit(lo.logistic(x, y, l2=0.3))
    more = 2.5 * rng.normal(size=(60, 2))
    labels = np.where(rng.random(60) < 0.5, more[:, 0] > 0, more[:, 0] < 0).astype(int)
    owner = rng.integers(0, 25, 60)
    added, groups = lo.add(fitted, (more, labels), owner)
    found = lo.newton(added, groups, solver)
    whole, targets = np.r_[x, more], np.r_[y, labels]
    stays = np.asarray(added.objective.stays(jnp.asarray(groups.dense())))
    theta = np.asarray(fitted.flat)
    expected = [
        rises(whole, targets, theta, np.asarray(change), v, 0.3)
        for change, v in zip(found.value, stays, strict=True)
    ]
    assert 3 < sum(expected) < len(groups) - 3  # both kinds are there
    assert (np.asarray(found.status) == lo.Status.too_far).tolist() == expected
    inside = jax.jit(lambda fit: lo.newton(fit, groups, solver).status)(added)
    np.testing.assert_array_equal(inside, found.status)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["logistic", "poisson", "softmax", "squares"])
def test_changes_within_reach_move_no_score_by_more(name):
    fitted, groups = lo.fit(problem(name)), groups_of(60)
    found = lo.newton(fitted, groups)
    assert not found.status.any()
    reach = np.asarray(reach_of(fitted).of(found.value))
    objective = linear(fitted)
    scores = jax.vmap(objective.scores)(found.value)
    moved = jnp.ptp(scores, axis=2) if objective.outputs > 1 else jnp.abs(scores[..., 0])
    assert (np.asarray(moved.max(axis=1)) <= reach * (1 + 1e-12)).all()
    assert np.isfinite(reach).all()


@pytest.mark.slow
def test_losses_of_which_nothing_is_known_are_always_looked_at():
    x = np.random.default_rng(0).normal(size=(20, 2))
    quartic = lo.fit(lo.glm(lambda score, y: (score - y) ** 4, x, x[:, 0], l2=1.0))
    assert np.isinf(reach_of(quartic).of(jnp.ones((1, 3)))).all()
    assert reach_of(quartic).of(jnp.zeros((1, 3))) == 0


# ---- losses that are not convex -----------------------------------------------------------------


def network(seed=0):
    """A small network of Equinox on a noisy circle, and its objective."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(50, 2))
    y = ((x**2).sum(axis=1) + 0.5 * rng.normal(size=50) > 1.5).astype(float)
    model = eqx.nn.MLP(2, "scalar", 3, 1, jnp.tanh, key=jax.random.key(seed))

    def loss(model, example):
        score = model(example[0])
        return jax.nn.softplus(score) - example[1] * score

    return lo.Objective(loss, (x, y), model, l2=0.1)


@pytest.mark.slow
def test_effects_of_a_network_say_that_they_are_of_a_local_minimum(tmp_path):
    fitted = lo.fit(network(), throw=False)
    groups = groups_of(50, 5)

    def size(model):
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(eqx.filter(model, eqx.is_array)))

    actual = lo.effects(fitted, groups, size, lo.Retrain())
    assert "not known to be convex" in repr(actual)
    assert "local minimum, warm-started from theta" in repr(actual)
    predicted = lo.effects(fitted, groups, size, lo.Influence())
    report = lo.compare(predicted, actual)
    assert sum("local minimum" in note for note in report.notes) == 1
    assert "local minimum" in str(report)
    actual.save(tmp_path / "effects.npz")
    assert lo.load(tmp_path / "effects.npz").notes == actual.notes
    convex = lo.effects(lo.fit(problem()), groups_of(60), lo.measures.self_loss())
    assert not convex.notes
    assert repr(convex).endswith("all converged)")


@pytest.mark.slow
def test_a_retrained_theta_that_is_no_minimum_is_flagged():
    def wells(theta, example):
        return example * (theta**2 - 1) ** 2

    fitted = lo.fit(lo.Objective(wells, np.ones(5), 0.5, l2=0.0))
    groups = lo.Groups.from_indices([[0], [1]], n=5)
    start = jnp.array([[0.0], [1.2]])  # the top between the wells, and a slope
    found = lo.retrain(fitted, groups, start=start)
    assert names(found.status) == ["not_positive_definite", "converged"]
    np.testing.assert_allclose(found.value[1], 0.0, atol=1e-7)


def test_a_minimum_is_looked_at_where_it_is_and_not_on_the_other_side():
    """Huber's location: flat beyond 1, five points at 0 and four at 1.5 that leave.

    The slopes of all of them vanish at 2/3, where each residual is below 1. Of what stays the
    minimum is 0, with a curvature of 5; as far off in the other direction, at 4/3, it has none.
    """

    def huber(score, y):
        apart = jnp.abs(score - y)
        return jnp.where(apart < 1, apart**2 / 2, apart - 0.5)

    loss = lo.losses.Loss(huber, "real", convex=True)
    y = np.r_[np.zeros(5), np.full(4, 1.5)]
    fitted = lo.fit(lo.glm(loss, np.ones((9, 1)), y, l2=0.0, intercept=False))
    np.testing.assert_allclose(fitted.flat, 2 / 3, atol=1e-9)
    found = lo.retrain(fitted, lo.Groups.from_indices([np.arange(5, 9)], n=9))
    np.testing.assert_allclose(found.value, -2 / 3, atol=1e-7)
    assert names(found.status) == ["converged"]


@pytest.mark.slow
def test_a_newton_step_along_which_the_loss_bends_down_is_flagged():
    def wave(theta, pull):
        return -jnp.cos(theta) - pull * theta

    # of n points that pull by P in all, J'' is n cos(theta) and the step from 0 is P / n
    fitted = lo.fit(lo.Objective(wave, np.array([2.0, 2.0, -4.0]), 0.0, l2=0.0))
    found = lo.newton(fitted, lo.Groups.from_indices([[2], [0]], n=3))
    np.testing.assert_allclose(found.value[:, 0], [2.0, -1.0], atol=1e-9)
    assert names(found.status) == ["not_positive_definite", "converged"]
