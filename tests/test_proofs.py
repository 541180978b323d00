"""Certificates through the public call, against a truth beyond float64; and what they say."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from benchmarks.exact import DIGITS, LONG, Linear
from benchmarks.proofs import CASES, attacks

import leaveout as lo
from leaveout.certify.balls import penalty_ball
from leaveout.certify.hessian import frame, hessian_ball
from leaveout.objectives.rounding import score_error, slope_error, units_of
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
