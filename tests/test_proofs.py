"""Certificates through the public call, against a truth beyond float64; and what they say."""

import dataclasses
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from benchmarks.exact import DIGITS, LONG, Linear
from benchmarks.proofs import CASES, attacks

import leaveout as lo
from leaveout.certify.balls import gradient_sizes, penalty_ball
from leaveout.certify.hessian import frame, hessian_ball
from leaveout.certify.radius import Points, ball_around, ball_centred
from leaveout.objectives.rounding import score_error, slope_error, steepness, units_of
from problems import mostly_slow

N = 40
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, 3))
Y = (RNG.random(N) < 1 / (1 + np.exp(-X[:, 0]))).astype(int)
GROUPS = lo.Groups.from_indices([[0], [1, 2, 3], range(10), range(3, 30, 2)], n=N)


def measures(x: np.ndarray, y: np.ndarray = Y) -> list:
    """Predictions, losses, their mean and self-loss."""
    both = x[:2], y[:2]
    return [
        lo.measures.prediction(x[:2]),
        lo.measures.loss(both),
        lo.measures.loss(both, reduce="mean"),
        lo.measures.self_loss(),
    ]


def true_effects(x, y, l2: float, groups: lo.Groups, start, how=DIGITS) -> np.ndarray:
    """Effects on `measures` of logistic regression with a free intercept, beyond float64."""
    model = Linear("logistic", np.c_[x, np.ones(len(x))], y.astype(float), np.array([l2] * 3 + [0]))

    def columns(matrix, gone):
        losses = model.losses(how, matrix)
        own = (how.number(gone) * losses).sum()
        scores = how.number(model.design[:2]) @ matrix[0]
        return np.concatenate([scores, losses[:2], [losses[:2].sum() / 2, own]])

    rows = []
    whole = model.minimum(how, start, np.ones(len(x)))
    for w in groups.dense():
        left = model.minimum(how, start, 1 - w)
        rows.append(columns(left, w) - columns(whole, w))
    return np.array(rows)


def broken(effects: lo.Effects, truth: np.ndarray, how=DIGITS) -> int:
    """How many intervals do not hold the truth, without any slack."""
    assert effects.lower is not None
    assert effects.upper is not None
    out = (truth < how.number(effects.lower)) | (truth > how.number(effects.upper))
    return int(np.asarray(out, bool).sum())


def start_of(fit: lo.Fit) -> np.ndarray:
    """The weight matrix (K q) of a fit."""
    objective: Any = fit.objective
    return np.asarray(objective.layout.matrix(fit.flat))


# ---- the truth itself ----------------------------------------------------------------------------


def test_the_truth_of_least_squares_is_the_normal_equations_solved_in_fifty_digits():
    x = np.c_[X + 6e4, np.ones(N)]
    y = X @ [1.0, -2.0, 0.5] + np.sin(np.arange(N))
    penalty = np.array([0.3, 0.3, 0.3, 0.0])
    found = Linear("squares", x, y, penalty).minimum(DIGITS, np.zeros((1, 4)), np.ones(N))
    exact = mpmath.matrix(x.tolist())
    left = exact.T * exact + mpmath.diag(penalty.tolist())
    solved = mpmath.lu_solve(left, exact.T * mpmath.matrix(y.tolist()))
    assert found is not None
    assert max(abs(a - b) for a, b in zip(found[0], solved, strict=True)) < mpmath.mpf(10) ** -30


@pytest.mark.slow
def test_the_truth_in_eighty_bits_is_that_of_fifty_digits():
    fit = lo.fit(lo.logistic(X + 2000, Y, l2=0.01))
    ways = [true_effects(X + 2000, Y, 0.01, GROUPS, start_of(fit), how) for how in (LONG, DIGITS)]
    gap = np.abs(np.asarray(ways[0], float) - np.asarray(ways[1], float))
    assert gap.max() < 1e-13


# ---- adversaries ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_no_interval_is_violated_beyond_float64():
    found = attacks(15, 0, LONG, CASES[:1], [lo.Newton()])
    assert found["which"] == []
    assert not found.get("crossed")
    assert found["finite"] > 1500


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=["-".join(map(str, c)) for c in CASES])
def test_no_interval_of_any_method_is_violated_beyond_float64(case):
    found = attacks(12, 0, LONG, [case])
    assert found["which"] == []
    assert not found.get("crossed")
    assert found["finite"] > 0.5 * (found["checks"] - found.get("without_truth", 0))


@pytest.mark.slow
def test_no_interval_is_violated_in_fifty_digits():
    found = attacks(3, 1000, DIGITS, CASES[:4])
    assert found["which"] == []
    assert found["finite"] > 0


# ---- the radii, of models small enough for NumPy ------------------------------------------------


def chances(scores: np.ndarray) -> np.ndarray:
    """Of classes, or of the one class beside another, at scores (n K)."""
    if scores.shape[1] == 1:
        return 1 / (1 + np.exp(-scores))
    up = np.exp(scores - scores.max(axis=1)[:, None])
    return up / up.sum(axis=1)[:, None]


def curvatures(scores: np.ndarray) -> np.ndarray:
    """(n K K) second derivatives of the losses."""
    p = chances(scores)
    if scores.shape[1] == 1:
        return (p * (1 - p))[:, :, None]
    return p[:, :, None] * np.eye(p.shape[1]) - p[:, :, None] * p[:, None]


@pytest.mark.parametrize("outputs", [1, 3])
def test_balls_around_any_theta_hold_the_minimum_and_shrink_with_its_distance(outputs):
    """Truth and metric by NumPy: the one ball is about as long as the way, the other its square."""
    rng, n = np.random.default_rng(outputs), 12
    x, a = rng.normal(size=(n, 2)), rng.uniform(0, 2, size=n)
    a[3] = 0.0
    own = rng.integers(outputs, size=n)[:, None] == np.arange(outputs)
    y = rng.random((n, 1)) < 0.4 if outputs == 1 else own
    turn = np.eye(outputs)[None, :, :, None] * x[:, None, None, :]
    rows = turn.reshape(n, outputs, 2 * outputs)  # scores are rows @ theta

    def pull(theta):
        return np.einsum("n,nk,nkp->p", a, chances(rows @ theta) - y, rows) + 0.4 * theta

    def hessian(theta):
        bend = a[:, None, None] * curvatures(rows @ theta)
        return np.einsum("nkp,nkl,nlq->pq", rows, bend, rows) + 0.4 * np.eye(2 * outputs)

    truth = np.zeros(2 * outputs)
    for _ in range(50):
        truth = truth - np.linalg.solve(hessian(truth), pull(truth))
    assert np.abs(pull(truth)).max() < 1e-12
    way = rng.normal(size=2 * outputs)
    way /= np.sqrt(way @ hessian(truth) @ way)
    envelope = (lo.losses.logistic if outputs == 1 else lo.losses.softmax).envelope
    assert envelope is not None
    shares = []
    for distance in (0.4, 0.1, 0.005):
        theta, anchor = truth + distance * way, truth - 0.5 * distance * way
        metric, scores = hessian(anchor), rows @ theta
        inverse, step = np.linalg.inv(metric), np.linalg.solve(metric, pull(theta))
        inside = a[:, None, None] * curvatures(rows @ anchor)
        gram = np.einsum("nkp,pq,nlq->nkl", rows, inverse, rows)
        square = np.einsum("nkk->nk", gram)
        apart = square if outputs == 1 else (square[:, :, None] + square[:, None] - 2 * gram)
        shift, moved = rows @ step, scores - rows @ anchor
        points = Points(
            scores=jnp.asarray(scores), y=jnp.asarray(own[:, 0]), a=jnp.asarray(a),
            metric=jnp.asarray(inside[:, 0, 0]), moved=jnp.asarray(np.ptp(moved, axis=1)),
            own=jnp.asarray(np.einsum("nkl,nkl->n", inside, gram)),
            length=jnp.asarray(np.sqrt(apart.reshape(n, -1).max(axis=1))),
            shifted=jnp.asarray(np.abs(shift[:, 0]) if outputs == 1 else np.ptp(shift, axis=1)),
            off=jnp.zeros(()), uneven=jnp.zeros(()), envelope=envelope,
        )  # fmt: skip
        start = jnp.asarray(np.sqrt(pull(theta) @ step))
        rho = ball_around(points, start)
        q = ball_centred(points, start, rho)
        gaps = [theta - truth, theta - step - truth]
        far, near = (np.sqrt(gap @ metric @ gap) for gap in gaps)
        assert far <= rho
        assert near <= q <= rho + start
        shares.append((rho / far, q / distance**2))
    assert shares[-1][0] < 1.1
    assert shares[-1][1] < 1.2 * shares[-2][1]  # of second order


def test_slopes_change_no_faster_than_is_said():
    """Of every direction in which two or four scores can move by no more than one, by NumPy."""
    rng = np.random.default_rng(0)
    scores = 2 * rng.normal(size=(20, 4))
    scores[0] = 0.0  # two and two: here it is as much as can be
    corners = np.array(np.meshgrid(*[[-1.0, 1.0]] * 4)).reshape(4, -1)
    most = np.abs(curvatures(scores) @ corners).sum(axis=1).max(axis=1)
    plain = lo.softmax(rng.normal(size=(20, 2)), np.arange(20) % 4)
    loss = dataclasses.replace(lo.losses.softmax, categorical=False)
    other = lo.glm(loss, plain.x, plain.y, 4)
    y, off = jnp.arange(20) % 4, jnp.asarray(0.3)
    for objective, limit in ((plain, 1.0), (other, 8.0 * most.max())):
        found = np.asarray(steepness(objective, jnp.asarray(scores), y, off))
        assert (most <= found * (1 + 1e-12)).all()
        assert (found <= limit).all()
    assert most[0] == pytest.approx(1.0)
    binary = lo.logistic(X, Y)
    found = np.asarray(steepness(binary, jnp.asarray(scores[:, :1]), y > 1, off))
    one, moves = scores[:, :1], np.r_[np.linspace(-0.3, -0.003, 100), np.linspace(0.003, 0.3, 100)]
    chords = (1 / (1 + np.exp(-one - moves)) - chances(one)) / moves
    assert (chords.max(axis=1) <= found * (1 + 1e-9)).all()
    assert (found <= np.expm1(0.3) / 0.3 * curvatures(one)[:, 0, 0] * (1 + 1e-12)).all()


# ---- theta_hat is enclosed as well ---------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("method", [lo.NewtonChebyshev(), lo.Retrain(1e-12)])
def test_a_theta_that_is_not_quite_an_optimum_is_allowed_for(method):
    """At 5e-7 sandwich lengths a point's effect can be smaller than what theta_hat is off by."""
    x = X + 6e4
    exact = lo.fit(lo.logistic(x, Y, l2=0.5))
    assert exact.metric is not None
    direction = exact.metric.unwhiten(jnp.ones((1, 4)) / 2)[0]
    theta = exact.flat + 5e-7 * exact.sandwich * direction
    near = lo.fit(exact.objective, theta=theta, max_steps=0, throw=False)
    w = np.zeros((3, N))
    w[0, 0], w[1, 1], w[2, :10] = 1e-7, 1e-6, 1.0
    groups = lo.Groups.from_weights(w)
    with pytest.warns(UserWarning, match="not at its optimum.*of 3 groups"):
        found = lo.effects(near, groups, measures(x), method, certify=True)
    truth = true_effects(x, Y, 0.5, groups, start_of(exact))
    assert broken(found, truth) == 0
    assert found.certificate is not None
    assert (found.certificate == lo.Certificate.certified).all()
    assert np.isfinite(found.width).all()
    loss = lo.measures.loss((x[:1], Y[:1])).bind(exact.objective)
    at, there = (float(loss.values(fit.objective, fit.flat, None)[0]) for fit in (exact, near))
    width = found.width[0, found.measure.index("loss")]
    assert width < 0.1 * abs(at - there)  # with f(theta_hat) as given it would not hold


@pytest.mark.slow
def test_a_retrained_theta_that_is_as_far_as_theta_hat_itself_is_flagged():
    exact = lo.fit(lo.logistic(X, Y, l2=0.5))
    off = dataclasses.replace(exact, residual=1e-5 * exact.sandwich)
    w = np.zeros((2, N))
    w[0, 0], w[1, :10] = 1e-6, 1.0
    groups = lo.Groups.from_weights(w)
    with pytest.warns(UserWarning, match=r"of the smallest predicted change.*1 of 2 groups"):
        found = lo.retrain(off, groups)
    assert list(found.status) == [lo.Status.inaccurate, lo.Status.converged]
    assert not lo.retrain(exact, groups).status.any()


# ---- rounding ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "method", mostly_slow([lo.NewtonChebyshev(), lo.Retrain(1e-12)], lo.Retrain(1e-12))
)
def test_raw_years_are_allowed_for_in_losses_and_self_loss(method):
    x = np.c_[1990.0 + np.arange(N) % 30, X[:, 1:]]
    fit = lo.fit(lo.logistic(x, Y, l2=1e-3))
    found = lo.effects(fit, GROUPS, measures(x), method, certify=True)
    truth = true_effects(x, Y, 1e-3, GROUPS, start_of(fit))
    assert broken(found, truth) == 0
    assert np.isfinite(found.width).all()


@pytest.mark.slow
@pytest.mark.parametrize("far", [0.0, 2000.0, 1e7])
def test_scores_and_slopes_are_as_wrong_as_is_said(far):
    x = X + far
    objective = lo.logistic(x, Y)
    theta = jnp.asarray([3.0, -2.0, 1.0, -2 * far + 0.1])
    exact = DIGITS.number(np.c_[x, np.ones(N)]) @ DIGITS.number(np.asarray(theta))
    scores = objective.scores(theta)
    gap = np.abs(np.asarray(DIGITS.number(np.asarray(scores)[:, 0]) - exact, float))
    off = score_error(objective, theta)
    assert (gap <= np.asarray(off)).all()
    assert (gap <= np.asarray(score_error(objective, theta, x))).all()
    slopes = np.asarray(objective.weighted(scores, jnp.ones(N))[1])[:, 0]
    true = 1 / (1 + DIGITS.exp(-exact)) - Y
    wrong = np.abs(np.asarray(DIGITS.number(slopes) - true, float))
    assert (wrong <= np.asarray(slope_error(objective, scores, objective.y, off))).all()


@pytest.mark.parametrize(("far", "l2"), [(1e7, 1e-3), (0.0, 1e9)])
def test_each_entry_of_a_gradient_is_as_wrong_as_is_said(far, l2):
    """In rational numbers, of slopes as given and two outputs; and not much wider than that."""
    x, rng = X + far * np.array([1.0, 0.0, -3.0]), np.random.default_rng(4)
    penalty = l2 * np.array([[1.0, 2.0, 0.5], [3.0, 1.0, 1.0]])
    objective = lo.squares(x, np.c_[Y, X[:, 0]], l2=penalty)
    slopes, theta = rng.normal(size=(N, 2)), rng.normal(size=objective.p)
    found = objective.pull(jnp.asarray(slopes)) + objective.penalty * theta
    design = np.c_[x, np.ones(N)]
    falls = np.r_[penalty.ravel(), 0.0, 0.0]
    places = [(k, j) for k in range(2) for j in range(3)] + [(0, 3), (1, 3)]
    said = gradient_sizes(
        objective, jnp.asarray(slopes), jnp.asarray(theta), jnp.asarray(np.abs(design).max(axis=0))
    )
    for i, (k, j) in enumerate(places):
        pairs = [(slopes[:, k], design[:, j]), (falls[i : i + 1], theta[i : i + 1])]
        terms = [
            Fraction(float(a)) * Fraction(float(b)) for p in pairs for a, b in zip(*p, strict=True)
        ]
        assert abs(Fraction(float(found[i])) - sum(terms)) <= Fraction(float(said[i]))
        size = sum(map(abs, terms)) + Fraction(1, 10**9)
        assert float(said[i]) <= 1000 * np.finfo(float).eps * float(size)


def test_units_cover_the_worst_of_short_sums():
    assert all(units_of(terms) >= terms / 2 for terms in range(1, 168))


# ---- what cannot be proven -----------------------------------------------------------------------


@pytest.mark.slow
def test_a_hessian_that_rounding_makes_definite_is_never_certified():
    """Columns that add up: the factor exists by rounding alone, the minimum is no point."""
    x = np.c_[X[:, 0], X[:, 1], X[:, 0] + X[:, 1]]
    objective = lo.logistic(x, Y, l2=0.0)
    fit = lo.fit(lo.logistic(x, Y, l2=1e-2))
    bare = dataclasses.replace(fit, objective=objective)
    assert bare.metric is not None
    framed = frame(objective, bare.flat, bare.metric)
    for v in (jnp.ones(N), jnp.ones(N).at[:5].set(0.0)):
        ball = hessian_ball(framed, bare.flat, v, fresh=True, exact=True)
        assert not jnp.isfinite(ball.radius)


@pytest.mark.slow
def test_negative_weights_are_never_certified():
    objective = lo.logistic(X, Y, l2=0.5)
    fit = lo.fit(objective)
    assert fit.metric is not None
    framed, v = frame(objective, fit.flat, fit.metric), jnp.ones(N).at[0].set(-1e-3)
    assert not jnp.isfinite(hessian_ball(framed, fit.flat, v, fresh=True, exact=True).radius)
    assert not jnp.isfinite(penalty_ball(objective, fit.flat, v, free_intercept=True).radius)


@pytest.mark.slow
def test_a_loss_that_does_not_say_that_it_is_convex_is_not_certified():
    loss = dataclasses.replace(lo.losses.logistic, convex=False)
    fit = lo.fit(lo.glm(loss, X, Y, l2=0.5))
    found = lo.effects(fit, GROUPS, measures(X)[0], certify=True)
    assert (np.asarray(found.certificate) == lo.Certificate.uncertified).all()


ADDED: dict[str, Callable] = {"poisson": lo.poisson, "squares": lo.squares, "logistic": lo.logistic}


@pytest.mark.slow
@pytest.mark.parametrize("name", mostly_slow(ADDED, "logistic"))
def test_bounds_are_numbers_in_order_however_much_is_added(name):
    y = Y if name == "logistic" else 30.0 * Y
    fit = lo.fit(ADDED[name](3 * X, y, l2=1e-6, weights=np.where(np.arange(N) < 3, 0.0, 1.0)))
    w = np.zeros((4, N))
    w[0, 0], w[1, :3], w[2, 5:9], w[3, ::2] = -1e6, -1.0, -1e12, 1.0
    groups = lo.Groups.from_weights(w)
    for method in (lo.Influence(), lo.Newton()):
        found = lo.effects(fit, groups, measures(3 * X, y), method, certify=True)
        assert found.lower is not None
        assert found.upper is not None
        assert (found.lower <= found.upper).all()  # false of NaN
        infinite = np.isinf(found.width)
        assert (found.lower[infinite] < 0).all() or not infinite.any()


# ---- what is said --------------------------------------------------------------------------------


@pytest.mark.slow
def test_without_a_penalty_retraining_is_certified_as_an_approximation_is():
    fit = lo.fit(lo.logistic(X, Y, l2=0.0))
    ways = [
        lo.effects(fit, GROUPS, measures(X), method, certify=True)
        for method in (lo.NewtonChebyshev(), lo.Retrain())
    ]
    known = [np.isfinite(found.width).all(axis=1) for found in ways]
    assert known[0].any()
    assert (known[1] | ~known[0]).all()
    codes = [np.asarray(found.certificate) == lo.Certificate.certified for found in ways]
    assert (codes[1] | ~codes[0]).all()
    assert f"{codes[1].sum()} of 4 certified)" in repr(ways[1])
    assert "certified" not in repr(lo.effects(fit, GROUPS, measures(X)))
    truth = true_effects(X, Y, 0.0, GROUPS[:3], start_of(fit))
    assert broken(ways[1][:3], truth) == 0


@pytest.mark.slow
def test_a_tolerance_that_cannot_be_reached_says_so():
    x = X + 6e4
    fit = lo.fit(lo.logistic(x, Y, l2=0.5))
    with pytest.warns(UserWarning, match=r"tolerance of 1e-15 was not reached for \d of 4 groups"):
        found = lo.effects(fit, GROUPS, measures(x)[0], lo.Newton(), tolerance=1e-15)
    assert (np.asarray(found.status) == lo.Status.inaccurate).any()
    with pytest.warns(UserWarning, match="nothing can be proven of norm"):
        found = lo.effects(fit, GROUPS, [measures(x)[0], norm], lo.Newton(), tolerance=1e-2)
    assert not found.status.any()


def norm(theta):
    """A function of which nothing is known."""
    return jnp.sum(theta.weight**2)
