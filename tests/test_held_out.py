"""Held-out error from the effects on the groups' own loss, against fitting without them."""

import jax
import numpy as np
import pytest

import leaveout as lo
from problems import problem

N = 60


def test_retraining_is_cross_validation():
    objective = problem("logistic", n=N, weights=np.linspace(1.0, 5.0, N))  # their sum is not n
    fit, groups = lo.fit(objective), lo.groups.folds(jax.random.key(0), objective, 5)
    found = lo.cross_validate_groups(fit, groups, lo.Retrain(1e-12))
    x, y, s = (np.asarray(part) for part in (objective.x, objective.y, objective.weights))
    total = 0.0
    for held in groups.dense() > 0:
        model = lo.fit(lo.logistic(x[~held], y[~held], 0.5, weights=s[~held]))
        total += np.sum(s[held] * np.asarray(objective.losses(model.flat))[held])
    assert found.mean == pytest.approx(total / s.sum(), rel=1e-8)
    losses = np.asarray(objective.losses(fit.flat))
    assert found.training_mean == pytest.approx(np.sum(s * losses) / s.sum())
    assert 0 < found.standard_error < found.mean
    assert "5 groups, mean loss" in repr(found)


def test_one_newton_step_is_the_ridge_press_statistic():
    objective = problem("squares", n=N, weights=None)
    fit = lo.fit(objective)
    found = lo.cross_validate_groups(fit, lo.groups.singles(objective), lo.Newton())
    design, y = np.asarray(objective.design), np.asarray(objective.y)
    hat = design @ np.linalg.solve(np.asarray(objective.hessian(fit.flat)), design.T)
    residual = y - np.asarray(objective.scores(fit.flat))[:, 0]
    press = (residual / (1 - np.diag(hat))) ** 2 / 2
    np.testing.assert_allclose(found.loss, press, rtol=1e-9)
    assert found.standard_error == pytest.approx(np.std(press, ddof=1) / np.sqrt(N), rel=1e-9)


def test_what_is_added_or_counts_for_more_is_not_held_out():
    objective = problem("squares", n=N, weights=None)
    fit = lo.fit(objective)
    more, added = lo.add(fit, (np.asarray(objective.x)[:2], np.asarray(objective.y)[:2]))
    twice = lo.reweight(lo.Groups.from_indices([[0, 1]], n=N), by=2.0)
    for here, groups in ((more, added), (fit, twice)):
        with pytest.raises(ValueError, match="expected groups that leave"):
            lo.cross_validate_groups(here, groups)


@pytest.mark.slow
def test_influence_is_biased_downward_and_the_more_the_larger_the_group():
    objective = problem("logistic", n=N, d=8)
    fit, short = lo.fit(objective), []
    for k in (20, 3):
        groups = lo.groups.folds(jax.random.key(1), objective, k)
        truth, step, first = (
            lo.cross_validate_groups(fit, groups, method)
            for method in (lo.Retrain(), lo.Newton(linearised=True), lo.Influence())
        )
        assert (first.loss < step.loss).all()  # to first order in the change: a theorem
        assert first.training_mean < first.mean < truth.mean
        short.append((truth.mean - first.mean) / (truth.mean - truth.training_mean))
    assert short == sorted(short)


# ---- the choice of a penalty ---------------------------------------------------------------------


def by_hand(x, y, l2, number):
    """(f) mean held-out losses of ridge regression, each fold by its normal equations."""
    found = []
    for k in np.unique(number):
        (a, b), (q, t) = ((x[side], y[side]) for side in (number != k, number == k))
        weight = np.linalg.solve(
            a.T @ (a - a.mean(0)) + l2 * np.eye(a.shape[1]), (a - a.mean(0)).T @ b
        )
        bias = b.mean() - a.mean(0) @ weight
        found.append(np.mean((q @ weight + bias - t) ** 2) / 2)
    return found


@pytest.mark.filterwarnings("ignore:cross-validation chose")
def test_every_fold_has_its_say_in_the_choice_of_a_penalty():
    rng = np.random.default_rng(0)
    x, number = rng.normal(size=(40, 2)), np.repeat([0, 1, 2, 3], 10)
    y = x[:, 0] + 0.1 * rng.normal(size=40)
    grid = [0.01, 30.0, 300.0]
    for odd in (0, 3):  # a fold of its own kind turns the choice, the first one or the last
        turned = np.where(number == odd, -y, y)
        found = lo.cross_validate(lo.squares(x, turned), grid, folds=number)
        right = np.array([by_hand(x, turned, l2, number) for l2 in grid])
        np.testing.assert_allclose(found.loss, right, rtol=1e-6)
        others = np.delete(right, odd, axis=1).mean(axis=1)
        assert found.best == np.argmin(right.mean(axis=1)) != np.argmin(others)


@pytest.mark.filterwarnings("ignore:cross-validation chose")
def test_a_penalty_without_a_minimum_in_some_fold_is_not_chosen_in_silence():
    x = np.r_[np.linspace(-5, -2, 10), np.linspace(2, 5, 10), 3.0][:, None]
    y, number = np.repeat([0, 1, 0], [10, 10, 1]), np.r_[np.arange(20) % 4, 4]
    with pytest.raises(lo.SolveError, match="no_minimum"):
        lo.fit(lo.logistic(x[:20], y[:20], l2=0.0))
    model, by = lo.logistic(x, y), lo.Criterion.loss
    with pytest.warns(UserWarning, match=r"did not converge .no_minimum.: 0\.0; they are left out"):
        found = lo.cross_validate(model, [0.0, 1.0, 1e3], folds=number, criterion=by)
    assert found.status.tolist() == [[0, 0, 0, 0, lo.Status.no_minimum], [0] * 5, [0] * 5]
    assert found.best > 0
    events = np.where(number == 0, y, 0)  # no event stays: the intercept has no end at any penalty
    with pytest.warns(UserWarning, match=r"0\.2, 0\.1, 0\.3; the choice says little"):
        found = lo.cross_validate(lo.logistic(x, events), [0.2, 0.1, 0.3], folds=number)
    assert (found.status != 0).tolist() == [[True] + [False] * 4] * 3


def test_points_of_no_weight_are_held_out_like_others():
    """They take nothing with them: nothing is added either."""
    weights = np.ones(N)
    weights[:3] = 0.0
    fit = lo.fit(problem("logistic", n=N, weights=weights))
    groups = lo.Groups.from_labels(np.arange(N) // 15)
    found = lo.cross_validate_groups(fit, groups, lo.Retrain())
    assert np.isfinite(found.mean)
    with pytest.raises(ValueError, match="expected groups that leave"):
        lo.cross_validate_groups(fit, lo.reweight(groups, 2.0), lo.Retrain())
