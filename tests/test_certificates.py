"""Certificates: an interval that must hold the effect of retraining."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from benchmarks.adversarial import SHAPES, checks

import leaveout as lo
from leaveout.certify.balls import penalty_ball
from leaveout.certify.radius import Points, ball_around, knapsack
from leaveout.objectives.layout import widest
from problems import groups_of, measures_of, problem

METHODS = (lo.Influence(), lo.Newton(), lo.NewtonChebyshev(), lo.Retrain())


def slow(name):
    """A parameter whose test is not run by default."""
    return pytest.param(name, marks=pytest.mark.slow)


def holds(effects: lo.Effects, actual: np.ndarray, slack: float = 0.0) -> bool:
    """Whether every interval of the first columns holds the effect of retraining."""
    assert effects.lower is not None
    assert effects.upper is not None
    lower, upper = (part[:, : actual.shape[1]] for part in (effects.lower, effects.upper))
    return bool(((lower - slack <= actual) & (actual <= upper + slack)).all())


def codes(effects: lo.Effects) -> np.ndarray:
    """What is said of the intervals of every group."""
    assert effects.certificate is not None
    return effects.certificate


def sorted_knapsack(value, most, budget):
    """The fractional knapsack the obvious way: best first."""
    total = 0.0
    for i in np.argsort(-value):
        take = min(most[i], budget)
        total, budget = total + value[i] * take, budget - take
    return total


@pytest.mark.parametrize("budget", [0.0, 0.3, 2.0, 100.0])
def test_the_knapsack_is_bounded_from_above_and_closely(budget):
    rng = np.random.default_rng(0)
    value, most = rng.exponential(size=300), rng.exponential(size=300) / 100
    exact = sorted_knapsack(value, most, budget)
    found = float(knapsack(jnp.asarray(value), jnp.asarray(most), jnp.asarray(budget)))
    assert exact <= found * (1 + 1e-12) <= exact * 1.01 + 1e-3 * budget + 1e-12


def test_a_ball_allows_for_scores_that_rounding_has_moved():
    """gamma(rho) rho >= R, each side by chords of the slope on a grid, as far as the ball goes."""
    rng, n = np.random.default_rng(0), 8
    scores, length = rng.normal(size=n), rng.uniform(2, 4, size=n)
    chance = 1 / (1 + np.exp(-scores))
    metric, off, start = chance * (1 - chance), 0.03, 0.01
    envelope = lo.losses.logistic.envelope
    assert envelope is not None
    points = Points(
        scores=jnp.asarray(scores)[:, None], y=jnp.zeros(n), a=jnp.ones(n), moved=jnp.zeros(n),
        metric=jnp.asarray(metric), own=jnp.full(n, 0.12), length=jnp.asarray(length),
        shifted=jnp.zeros(n), off=jnp.asarray(off), uneven=jnp.zeros(()),
        envelope=envelope,
    )  # fmt: skip
    rho = float(ball_around(points, jnp.asarray(start)))
    assert 0 < rho < 1
    steps = np.linspace(-1, 1, 2001)[:, None] * (rho * length + off)
    steps = steps[steps[:, 0] != 0]
    chords = (1 / (1 + np.exp(-scores - steps)) - chance) / steps
    low, high = chords.min(axis=0), chords.max(axis=0)
    gamma = 1 - sorted_knapsack(1 - low / metric, np.full(n, 0.12), 1.0)
    needed = start + np.sum((high - low) * off * length)
    assert needed > 1.2 * start  # not to know the scores matters
    assert needed <= gamma * rho <= 1.5 * needed


@pytest.mark.parametrize("name", ["logistic", "poisson", "squares"])
def test_envelopes_hold_every_chord(name):
    loss, rng = getattr(lo.losses, name), np.random.default_rng(0)
    slope = {
        "logistic": lambda s: 1 / (1 + np.exp(-s)),
        "poisson": np.exp,
        "squares": lambda s: s,
    }[name]
    score, radius = rng.normal(size=2000) * 4, rng.exponential(size=2000) * 2
    moved = score + radius * rng.uniform(-1, 1, size=2000)
    chord = (slope(moved) - slope(score)) / (moved - score)
    low, high = loss.envelope(jnp.asarray(score), 0.0, jnp.asarray(radius))
    assert (np.asarray(low) <= chord * (1 + 1e-6)).all()
    assert (chord <= np.asarray(high) * (1 + 1e-6)).all()


def test_envelopes_stand_at_no_and_at_any_distance():
    for name in ("logistic", "poisson", "squares", "softmax"):
        envelope = getattr(lo.losses, name).envelope
        for radius in (0.0, 1e-12, 30.0, 1e3, jnp.inf):
            low, high = envelope(jnp.asarray([-800.0, 0.0, 3.0]), 0.0, jnp.asarray(radius))
            assert (low <= high * (1 + 1e-12)).all()
            assert not jnp.isnan(low + high).any()


@pytest.mark.slow
@pytest.mark.parametrize(
    "shape",
    [pytest.param(s, marks=[] if i == 0 else pytest.mark.slow) for i, s in enumerate(SHAPES)],
    ids=["-".join(map(str, s)) for s in SHAPES],
)
def test_certificates_hold_on_problems_made_to_break_them(shape):
    found = checks(shape, 80, 7, (True,))
    assert found["violations"] == 0
    assert found["checks"] > 20_000
    assert found["finite"] > found["checks"] / 4


@pytest.mark.parametrize("name", ["logistic", slow("softmax"), slow("poisson"), slow("squares")])
def test_effects_of_every_method_come_with_an_interval_for_retraining(name):
    objective = problem(name, n=60, l2=0.5)
    fit, groups, measures = lo.fit(objective), groups_of(60), measures_of(objective)
    actual = lo.effects(fit, groups, measures, lo.Retrain(1e-12)).value
    widths = []
    for method in METHODS:
        effects = lo.effects(fit, groups, measures, method, certify=True)
        assert holds(effects, actual, 1e-9)
        known = np.isfinite(effects.width)
        assert known[:, :-1].mean() > 0.7
        assert known[:, :-1].all() or method != lo.Retrain()
        assert not known[:, -1].any()  # a function of theta of which nothing is known
        assert (codes(effects)[known.any(axis=1)] == lo.Certificate.certified).mean() > 0.8
        widths.append(np.median(effects.width[:, :3]))
    assert widths[1] <= widths[0]
    assert widths[3] < 1e-5


@pytest.mark.slow
def test_intervals_narrow_as_the_candidate_gets_better():
    objective = problem("logistic", n=60, l2=0.5)
    fit, groups = lo.fit(objective), groups_of(60)
    f = lo.measures.prediction(np.asarray(objective.x[:4]))
    widths = [np.median(lo.effects(fit, groups, f, m, certify=True).width) for m in METHODS[:3]]
    assert widths[0] > 3 * widths[1] > 9 * widths[2]


@pytest.mark.slow
def test_a_tolerance_is_met_and_what_it_took_is_said():
    objective = problem("logistic", n=60, l2=1e-3, seed=3)
    fit, groups = lo.fit(objective), groups_of(60)
    measures = measures_of(objective)[:3]
    wide = lo.effects(fit, groups, measures, lo.Influence(), certify=True)
    effects = lo.effects(fit, groups, measures, lo.Influence(), tolerance=1e-4)
    goal = 1e-4 * np.sqrt(np.mean(effects.value**2, axis=0))
    assert (wide.width > goal).any()
    assert (effects.width <= goal).all()
    assert (effects.steps[(wide.width > goal).any(axis=1)] > 0).all()
    actual = lo.effects(fit, groups, measures, lo.Retrain(1e-12)).value
    assert (np.abs(effects.value - actual) <= effects.width * 2 + 1e-9).all()
    assert holds(effects, actual, 1e-9)


def test_what_cannot_be_proven_is_said_not_to_be():
    y = np.arange(30) % 2
    x = np.random.default_rng(0).normal(size=(30, 3))
    x[:, 2] = np.arange(30) < 4  # without these the third weight is free
    groups = lo.Groups.from_indices([range(4), [20]], n=30)
    f = lo.measures.prediction(x[:2])
    fit = lo.fit(lo.logistic(x, y, l2=0.0))
    effects = lo.effects(fit, groups, f, lo.Newton(), certify=True)
    assert codes(effects)[0] == lo.Certificate.uncertified
    assert effects.lower is not None
    assert effects.upper is not None
    assert (effects.lower[0] == -np.inf).all()
    assert (effects.upper[0] == np.inf).all()
    assert codes(effects)[1] == lo.Certificate.certified
    assert "nothing could be proven" in lo.Certificate.uncertified.advice

    def huber(score, y):
        residual = jnp.abs(score - y)
        return jnp.where(residual < 1, residual**2 / 2, residual - 0.5)

    fit = lo.fit(lo.glm(huber, x, x[:, 0], l2=1.0))  # states no envelope, nor that it is convex
    effects = lo.effects(fit, groups, f, lo.Newton(), certify=True)
    assert (codes(effects) == lo.Certificate.uncertified).all()


@pytest.mark.slow
def test_a_users_loss_with_an_envelope_is_certified():
    def huber(score, y):
        residual = jnp.abs(score - y)
        return jnp.where(residual < 1, residual**2 / 2, residual - 0.5)

    def envelope(score, y, radius):
        inside = jnp.abs(score - y) + radius < 1
        return jnp.where(inside, 1.0, 0.0), 1.0

    loss = lo.losses.Loss(huber, "real", convex=True, envelope=envelope)
    rng = np.random.default_rng(1)
    x = rng.normal(size=(60, 3))
    y = x @ [1.0, 0, -1] + rng.standard_t(2, size=60)
    fit, groups = lo.fit(lo.glm(loss, x, y, l2=1.0, intercept=False)), groups_of(60)
    f = lo.measures.prediction(x[:3])
    effects = lo.effects(fit, groups, f, lo.Retrain(), certify=True)
    actual = lo.effects(fit, groups, f, lo.Retrain(1e-12)).value
    assert holds(effects, actual, 1e-9)
    assert np.isfinite(effects.width).all()


def test_categorical_losses_have_the_curvature_of_one():
    scores = jnp.asarray(np.random.default_rng(0).normal(size=(100, 5)) * 4)
    losses = [getattr(lo.losses, name) for name in lo.losses.__all__ if name != "Loss"]
    categorical = [loss for loss in losses if loss.categorical]
    assert categorical
    for loss in categorical:
        p = jax.nn.softmax(scores)
        second = jax.vmap(jax.hessian(lambda s, loss=loss: loss(s, 2)))(scores)
        expected = p[:, :, None] * jnp.eye(5)[None] - p[:, :, None] * p[:, None]
        np.testing.assert_allclose(second, expected, atol=1e-14)
    with pytest.raises(ValueError, match="state these too"):
        lo.losses.Loss(lambda s, y: 0.0, categorical=True)


@pytest.mark.parametrize("outputs", [slow(2), 3, slow(6)])
def test_the_penaltys_metric_is_below_the_curvature_of_what_stays(outputs):
    objective, rng = problem("softmax", outputs=outputs, l2=0.3), np.random.default_rng(outputs)
    fit = lo.fit(objective)
    stays = jnp.asarray(rng.uniform(0, 1.5, size=60) * (rng.uniform(size=60) < 0.8))
    ball = penalty_ball(objective, fit.flat, stays, free_intercept=True)
    changes = rng.normal(size=(50, objective.p))
    changes[:, -outputs:] -= changes[:, -outputs:].mean(axis=1, keepdims=True)  # seen by no score
    bent = np.asarray(objective.hessian(fit.flat, stays))
    curvature = np.einsum("ij,jk,ik->i", changes, bent, changes)
    sizes = np.asarray(jax.vmap(ball.size)(jnp.asarray(changes))) ** 2
    assert (sizes <= curvature).all()
    assert (sizes > 0.1 * curvature).any()
    # whitened rows have the lengths of the other side: |v'd| <= |white v| |d|, and = for one d
    rows = np.asarray(ball.whiten(jnp.eye(objective.p)))
    metric = np.linalg.inv(rows @ rows.T)
    np.testing.assert_allclose(np.einsum("ij,jk,ik->i", changes, metric, changes), sizes, 1e-8)


@pytest.mark.slow
def test_other_losses_of_several_outputs_prove_predictions_only():
    softmax = dataclasses.replace(lo.losses.softmax, categorical=False)
    some, groups = problem("softmax"), groups_of(60, 3)
    fit = lo.fit(lo.glm(softmax, some.x, some.y, 3, l2=0.5))
    x, y = np.asarray(some.x[:2]), np.asarray(some.y[:2])
    measures = [lo.measures.prediction(x), lo.measures.loss((x, y))]
    effects = lo.effects(fit, groups, measures, lo.Retrain(), certify=True)
    actual = lo.effects(fit, groups, measures[0], lo.Retrain(1e-12)).value
    assert np.isfinite(effects.width[:, :6]).all()
    assert holds(effects, actual)
    assert np.isinf(effects.width[:, 6:]).all()
    rough = lo.effects(fit, groups, measures[0], lo.Influence(), certify=True)
    assert (codes(rough) == lo.Certificate.uncertified).any()


def test_the_widest_pair_is_found_from_products():
    rows = np.random.default_rng(0).normal(size=(7, 5, 40))
    found = widest(jnp.asarray(np.einsum("nkp,nlp->nkl", rows, rows)))
    expected = np.linalg.norm(rows[:, :, None] - rows[:, None], axis=3).max(axis=(1, 2))
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert (np.asarray(found) >= expected).all()


@pytest.mark.slow
def test_certified_effects_survive_saving_and_tables(tmp_path):
    objective = problem("logistic", n=40)
    fit, groups = lo.fit(objective), groups_of(40, 4)
    effects = lo.effects(fit, groups, measures_of(objective)[:1], certify=True)
    effects.save(tmp_path / "effects.npz")
    back = lo.load(tmp_path / "effects.npz")
    for name in ("lower", "upper", "certificate"):
        np.testing.assert_array_equal(getattr(back, name), getattr(effects, name))
    assert set(effects.to_pandas()["certificate"]) == {"certified"}
    assert effects.lower is not None
    np.testing.assert_array_equal(effects[1:2].lower, effects.lower[1:2])


@pytest.mark.slow
def test_linear_functionals_are_certified_like_predictions():
    objective = problem("logistic", n=40)
    fit, groups = lo.fit(objective), groups_of(40, 4)
    x = np.asarray(objective.x[:2])
    wide = np.c_[x, np.ones(2)]
    ways = [
        lo.effects(fit, groups, f, certify=True)
        for f in (lo.measures.prediction(x), lo.measures.linear(wide))
    ]
    for name in ("value", "lower", "upper"):
        np.testing.assert_allclose(getattr(ways[0], name), getattr(ways[1], name), atol=1e-12)
    with pytest.raises(ValueError, match="theta has 5 entries"):
        lo.effects(fit, groups, lo.measures.linear(np.ones((1, 3))))


@pytest.mark.slow
def test_the_loss_of_added_points_is_bounded_from_below():
    """It is minus a convex function of theta, so that it bends down away from the centre."""
    fit = lo.fit(problem("logistic", n=40, intercept=False))
    w = np.zeros((2, 40))
    w[0, :4], w[1, :4] = -3.0, [-2.0, 0.5, -1.0, 1.0]
    groups, own = lo.Groups.from_weights(w), lo.measures.self_loss()
    step = lo.effects(fit, groups, own, lo.Newton(), certify=True)
    actual = lo.effects(fit, groups, own, lo.Retrain(1e-12)).value
    assert holds(step, actual)
    assert (step.width < 0.1 * np.abs(actual)).all()


def test_a_tolerance_that_is_not_positive_is_refused():
    objective = problem("logistic", n=40)
    with pytest.raises(ValueError, match="tolerance > 0"):
        lo.effects(lo.fit(objective), groups_of(40), lo.measures.self_loss(), tolerance=0.0)
