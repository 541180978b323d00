"""Held-out error from the effects on the groups' own loss, against fitting without them."""

import jax
import numpy as np
import pytest

import leaveout as lo
from problems import problem

N = 60


def test_retraining_is_cross_validation():
    objective = problem("logistic", n=N)
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
