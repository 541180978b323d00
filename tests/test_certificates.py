"""Certificates: an interval that must hold the effect of retraining."""

import dataclasses
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from benchmarks.adversarial import SHAPES, checks

import leaveout as lo
from leaveout.certify.balls import PenaltyBall, penalty_ball
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


def bent(outputs: int, seed: int) -> tuple[PenaltyBall, np.ndarray]:
    """A ball in the penalty's metric for two weights an output, and its matrix written out."""
    rng = np.random.default_rng(seed)
    half, shift = rng.normal(size=(outputs, outputs)), rng.normal(size=(outputs, 2 * outputs))
    values, vectors = np.linalg.eigh(half @ half.T + 0.5 * np.eye(outputs))
    root, back = (vectors * values**power @ vectors.T for power in (-0.5, 0.5))
    wide = np.c_[shift, np.eye(outputs)]
    matrix = wide.T @ (vectors * values @ vectors.T) @ wide
    matrix[: 2 * outputs, : 2 * outputs] += 0.3 * np.eye(2 * outputs)
    zero = jnp.zeros(())
    root, back, shift = (jnp.asarray(part) for part in (root, back, shift))
    ball = PenaltyBall(jnp.zeros(3 * outputs), zero, zero, root, back, shift, jnp.asarray(0.3))
    return ball, matrix


def test_lengths_where_every_coefficient_is_penalised():
    zero = jnp.zeros(())
    ball = PenaltyBall(jnp.zeros(3), zero, zero, None, None, None, jnp.asarray(0.25))
    assert float(ball.size(jnp.array([3.0, 0.0, 4.0]))) == pytest.approx(2.5)
    np.testing.assert_allclose(ball.whiten(jnp.array([[3.0, 0.0, 4.0]])), [[6.0, 0.0, 8.0]])


@pytest.mark.parametrize("outputs", [1, 2])
def test_lengths_in_the_penaltys_metric_are_those_of_its_matrix(outputs):
    (ball, matrix), (other, another) = bent(outputs, 0), bent(outputs, 1)
    rng, inverse = np.random.default_rng(2), np.linalg.inv(matrix)
    some = rng.normal(size=(5, 3 * outputs))
    for one, white in zip(some, ball.whiten(jnp.asarray(some)), strict=True):
        assert float(ball.size(jnp.asarray(one))) == pytest.approx(np.sqrt(one @ matrix @ one))
        assert float(jnp.linalg.norm(white)) == pytest.approx(np.sqrt(one @ inverse @ one))
    # entries that may be wrong by so much, in any direction each
    sizes = rng.uniform(size=3 * outputs)
    corners = np.array(list(itertools.product([-1, 1], repeat=len(sizes)))) * sizes
    worst = np.sqrt(np.einsum("ij,jk,ik->i", corners, inverse, corners).max())
    assert worst <= ball.box(jnp.asarray(sizes)) <= sizes @ np.sqrt(np.diag(inverse)) * (1 + 1e-12)
    alone = [float(ball.box(unit)) for unit in jnp.eye(3 * outputs)]
    np.testing.assert_allclose(alone, np.sqrt(np.diag(inverse)))
    # lengths in one metric by those in another
    most = np.sqrt(np.linalg.eigvals(np.linalg.solve(another, matrix)).real.max())
    assert most <= ball.stretch(other) <= 1 + 2 * np.sqrt(outputs) * most


def test_where_nothing_but_the_penalty_bends_the_ball_just_holds_the_minimum():
    """Nobody stays, so that the minimum is 0: as far away as the metric says, in fifty digits."""
    some = problem("squares", n=9, l2=0.7, intercept=False)
    theta = jnp.asarray([3.0, -0.1, 1e-3, 7.0])
    ball = penalty_ball(some, theta, jnp.zeros(9), free_intercept=False)
    exact = mpmath.sqrt(mpmath.mpf(0.7) * sum(mpmath.mpf(float(t)) ** 2 for t in theta))
    assert exact <= mpmath.mpf(float(ball.radius)) <= exact * (1 + mpmath.mpf(1e-8))


@pytest.mark.parametrize("sign", [-1, 1])
def test_an_intercept_is_bounded_as_far_as_its_curvature_is_known(sign):
    """Of a column of zeros the intercept has a closed form, the logit of a weighted mean."""
    v = jnp.asarray([2.0, 8.0, 0.0, 12.0, 1.0])
    objective = lo.logistic(np.zeros((5, 1)), [0, 1, 1, 1, 0], l2=0.5)
    gap = np.array([1e-3, 0.2, 0.5, 0.9, 0.999, 1.5, 3.0, 8.0])
    thetas = jnp.asarray(np.c_[np.zeros(8), np.log(20 / 3) + sign * gap])
    ball = eqx.filter_jit(
        jax.vmap(lambda theta: penalty_ball(objective, theta, v, free_intercept=True))
    )(thetas)
    away = jnp.asarray(np.c_[np.zeros(8), gap])
    far, radius = np.asarray(jax.vmap(lambda each, d: each.size(d))(ball, away)), ball.radius
    assert (far <= radius).all()
    # over a distance r curvatures change by a factor of e^r at most, and chords by its means
    most = (np.expm1(gap) / gap) / (1 - np.exp(-1.0))
    assert (radius[:3] <= most[:3] * far[:3]).all()
    assert np.isinf(radius[5:]).all()  # where the curvature could be less than what was looked at
    if sign < 0:  # the chord of length 1 to the sure side is the lowest: the bound is all but met
        assert radius[4] <= 1.001 * far[4]


def freely(a, metric, low, high, length, off=0.0, uneven=0.0, radius=None):
    """Points of one output, each with limits of its chords of its own."""
    n = len(np.atleast_1d(a))
    wide = [
        jnp.broadcast_to(jnp.asarray(part, float), n) for part in (a, metric, low, high, length)
    ]
    return Points(
        scores=jnp.zeros((n, 1)), y=jnp.stack(wide[2:4], 1), a=wide[0], metric=wide[1],
        moved=jnp.zeros(n), own=jnp.ones(n), length=wide[4], shifted=jnp.zeros(n),
        off=jnp.asarray(off), uneven=jnp.asarray(uneven), envelope=lambda s, y, r: (y[0], y[1]),
    )  # fmt: skip


@pytest.mark.parametrize(("off", "uneven"), [(0.0, 0.0), (0.2, 0.0), (0.0, 0.1)])
@pytest.mark.parametrize(("low", "high"), [(0.4, 1.5), (0.7, 1.1), (0.1, 4.0)])
def test_what_one_example_can_pull_is_met_exactly(low, high, off, uneven):
    """x = 2 and a = 3, where the metric is 3 x^2 but for what it is uneven: solved by hand."""
    whole, x, a = 12.0, 2.0, 3.0
    root = np.sqrt(whole / (1 + uneven))
    wide = a * max(abs(1 - low), abs(high - 1))
    points = freely([a], a, low, high, x / root, off, uneven)
    for radius, length in ((0.3, 10.0), (0.3, 0.3 * root / x)):
        # the score starts `off` one way, and the chord from it has the other limit
        pull = x * wide * (radius + 2 * off) / root
        pull += uneven * length
        found = float(points.force(jnp.asarray([radius]), jnp.asarray(length)))
        assert pull <= found * (1 + 1e-12)
        assert found <= pull * (1 + 1e-12)


@pytest.mark.parametrize(("moved", "share"), [(0.0, 0.2), (0.5, 1.1 * np.exp(0.5) - 1)])
def test_what_one_example_of_two_classes_can_pull_is_met_exactly(moved, share):
    """At even chances scores that spread by d have the variance d^2 / 4; a = 3, by hand.

    Relative to a metric from scores that were `moved` away, curvatures are e^moved times as large.
    """
    points = Points(
        scores=jnp.zeros((1, 2)), y=jnp.zeros(1), a=jnp.full(1, 3.0), metric=jnp.zeros(1),
        moved=jnp.full(1, moved), own=jnp.ones(1), length=jnp.ones(1), shifted=jnp.zeros(1),
        off=jnp.zeros(()), uneven=jnp.zeros(()), envelope=lambda s, y, r: (0.8, 1.1),
    )  # fmt: skip
    for length, pull in ((100.0, share * np.sqrt(3) * 0.4 / 2), (0.01, share * 0.01)):
        found = float(points.force(jnp.full(1, 0.4), jnp.asarray(length)))
        assert found == pytest.approx(pull, rel=1e-12)


def test_no_choice_of_chords_pulls_more_than_is_said():
    """All corners of the chords' limits, in directions drawn at random and in the worst of them."""
    rng = np.random.default_rng(0)
    x, a, metric = rng.normal(size=(6, 3)), rng.uniform(1, 2, 6), rng.uniform(1, 2, 6)
    metric[5] = 0.0  # an example that the metric does not know
    low, high = metric / a - rng.uniform(0, 0.9, 6), metric / a + rng.uniform(0, 1.5, 6)
    low = np.maximum(low, 0.0)
    uneven, length = 0.1, 0.7
    matrix = (x.T * metric) @ x + 0.2 * np.eye(3)
    given = matrix / (1 + uneven)  # what is taken for it
    inverse = np.linalg.inv(given)
    tall = np.sqrt(np.einsum("ij,jk,ik->i", x, inverse, x))
    points = freely(a, metric, low, high, tall, 0.0, uneven)
    corners = np.where(np.array(list(itertools.product([0, 1], repeat=6))), high, low)
    ratio = []
    for change in rng.normal(size=(30, 3)):
        change *= length / np.sqrt(change @ given @ change)
        delta = x @ change
        pulls = ((a * corners - metric) * delta) @ x + (matrix - given) @ change
        worst = np.sqrt(np.einsum("ij,jk,ik->i", pulls, inverse, pulls).max())
        found = float(points.force(jnp.abs(jnp.asarray(delta)), jnp.asarray(length)))
        assert worst <= found
        ratio.append(found / worst)
    assert min(ratio) < 1.6


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


@pytest.mark.slow
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
