"""Reweighting, adding and relabelling: what the model becomes, against fitting it so."""

import warnings

import jax
import jax.numpy as jnp
import lineax as lx
import mpmath
import numpy as np
import pytest

import leaveout as lo
from problems import groups_of, problem

N = 60
EXACT = lo.Retrain(1e-12)


def rebuilt(name, objective, rows, weights=None, y=None):
    """The same model, fitted to other rows, base weights or targets."""
    x, s = np.asarray(objective.x), np.asarray(objective.weights)
    y = np.asarray(objective.y) if y is None else y
    weights = s[rows] if weights is None else weights
    return lo.fit(getattr(lo, name)(x[rows], y[rows], float(objective.l2), weights=weights)).flat


@pytest.mark.parametrize("name", ["logistic", pytest.param("squares", marks=pytest.mark.slow)])
def test_added_points_are_as_if_they_had_been_there(name):
    whole = problem(name, n=N + 6)
    x, y, s = (np.asarray(part) for part in (whole.x, whole.y, whole.weights))
    seen = lo.fit(getattr(lo, name)(x[:N], y[:N], 0.5, weights=s[:N]))
    fit, groups = lo.add(seen, (x[N:], y[N:]), ["a", "a", "b", "b", "b", "a"], weights=s[N:])
    assert groups.names.tolist() == ["a", "b"]
    np.testing.assert_allclose(groups.w, -s[N:][[0, 1, 5, 2, 3, 4]])
    np.testing.assert_allclose(groups.alpha, groups.sums(groups.w) / (N + 6))
    unheard = fit.objective.gradient(fit.flat) - seen.objective.gradient(seen.flat)
    assert np.abs(unheard).max() < 1e-15
    change = lo.retrain(fit, groups, EXACT)
    assert not change.status.any()
    for row, mine in zip(change.value, ([0, 1, 5], [2, 3, 4]), strict=True):
        with_them = rebuilt(name, whole, np.r_[np.arange(N), N + np.array(mine)])
        np.testing.assert_allclose(row, with_them - seen.flat, atol=1e-8)
    newton = lo.newton(fit, groups)
    error = np.abs(newton.value - change.value).max() / np.abs(change.value).max()
    assert error < (1e-9 if name == "squares" else 0.2)
    predicted = lo.influence(fit, groups)
    assert np.abs(predicted.value - change.value).max() > np.abs(newton.value - change.value).max()


@pytest.mark.parametrize("method", [lo.Retrain(), lo.Newton(lo.solvers.CG(1e-8)), lo.Newton()])
def test_a_point_that_comes_with_a_large_leverage_does_not_hide_the_rest(method):
    """Its pull is 1e5 times what it does: a residual beside its pull says nothing of the others."""
    rng = np.random.default_rng(0)
    x, y, s = rng.normal(size=(16, 20)), rng.normal(size=16), np.ones(16)
    x[0] *= 30
    s[[0, 4, 14]] = 0.0
    w = np.zeros((2, 16))
    w[0, [0, 4, 14]] = -0.6, -0.3, -0.8
    w[1, 0] = -5.0
    fit = lo.fit(lo.squares(x, y, l2=1e-3, weights=s, intercept=False))
    query = rng.normal(size=(4, 20))
    found = lo.effects(fit, lo.Groups.from_weights(w), lo.measures.prediction(query), method)

    def refitted(v):
        rows = np.r_[np.sqrt(v)[:, None] * x, np.sqrt(1e-3) * np.eye(20)]
        return query @ np.linalg.lstsq(rows, np.r_[np.sqrt(v) * y, np.zeros(20)], rcond=None)[0]

    truth = np.stack([refitted(s - one) - refitted(s) for one in w])
    assert not found.status.any()
    np.testing.assert_allclose(found.value, truth, rtol=0, atol=1e-7 * np.abs(truth).max())


SLOW = pytest.mark.slow
OTHERS = lo.solvers.Cholesky(), lo.solvers.LowRank(), lo.solvers.Refined(), lx.CG(0, 1e-13)


@pytest.mark.parametrize("solver", OTHERS, ids=lambda solver: type(solver).__name__)
def test_every_solver_says_where_a_leverage_leaves_no_digits(solver):
    """A residual of 1e-16 of the pull is 1e-2 of the change, at a leverage of 1e14."""
    rng = np.random.default_rng(0)
    x, y, s = rng.normal(size=(16, 20)), rng.normal(size=16), np.ones(16)
    x[0] *= 1e5
    s[[0, 4]] = 0.0
    w = np.zeros((2, 16))
    w[0, [0, 4]] = -0.6, -0.3
    w[1, 5] = 1.0
    fit = lo.fit(lo.squares(x, y, l2=1e-3, weights=s, intercept=False))
    found = lo.newton(fit, lo.Groups.from_weights(w), solver)

    def refitted(v):
        rows, diagonal = mpmath.matrix(x.tolist()), mpmath.diag(v.tolist())
        left = rows.T * diagonal * rows + mpmath.mpf(1e-3) * mpmath.eye(20)
        return mpmath.lu_solve(left, rows.T * diagonal * mpmath.matrix(y.tolist()))

    with mpmath.workdps(50):
        change = [refitted(s - one) - refitted(s) for one in w]
        truth = np.array([[float(entry) for entry in row] for row in change])
    error = np.abs(found.value - truth).max(axis=1) / np.abs(truth).max(axis=1)
    assert error[0] > 1e-3
    assert error[1] < 1e-7
    assert found.status.astype(bool).tolist() == [True, False]


THIN = [
    (lo.logistic, "far", 0, OTHERS[0]),
    (lo.softmax, "dummy", 193, OTHERS[0]),  # pivots keep 1e-8 where a direction keeps 2e-11
    (lo.logistic, "far", 0, lo.solvers.CG()),
    *(
        pytest.param(loss, "dummy" if loss is lo.softmax else "far", seed, solver, marks=SLOW)
        for loss, seed in ((lo.logistic, 0), (lo.logistic, 1), (lo.softmax, 193))
        for solver in (*OTHERS[:3], lx.LU(), lo.solvers.CG())
    ),
]


@pytest.mark.parametrize(("loss", "kind", "seed", "solver"), THIN)
def test_a_step_says_where_next_to_no_curvature_is_left(loss, kind, seed, solver):
    """Three points that the model is sure of stay: rounding of the pull is 1e-6 to 1e-3 of all."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(30, 3))
    if kind == "far":
        x[:3, 0] = 5.5 + seed
        y = x[:, 0] + 0.3 * rng.normal(size=30) > 0
    else:
        x[:, 0] = np.arange(30) < 3
        y = x[:, 1] + 0.3 * rng.normal(size=30) > -1
        y[:3] = True
    two = loss is lo.softmax
    objective = loss(x, y, l2=2e-4 if two else 1e-4)
    fit = lo.fit(objective)
    found = lo.newton(fit, lo.Groups.from_indices([range(3, 30), [7, 9]], n=30), solver)

    def between(theta):
        """Coefficients of one class beside the other, the intercept last."""
        parts = objective.layout.matrix(jnp.asarray(theta))
        return np.asarray(parts[..., 1, :] - parts[..., 0, :] if two else parts[..., 0, :])

    rows, penalty = (
        mpmath.matrix(np.c_[x, np.ones(30)].tolist()),
        mpmath.diag([1e-4, 1e-4, 1e-4, 0.0]),
    )

    def downhill(theta, points):
        pull, bend = penalty * theta, penalty.copy()
        for i in points:
            p = 1 / (1 + mpmath.exp(-(rows[i, :] * theta)[0]))
            pull += (p - int(y[i])) * rows[i, :].T
            bend += p * (1 - p) * rows[i, :].T * rows[i, :]
        return -mpmath.lu_solve(bend, pull)

    with mpmath.workdps(50):
        theta = mpmath.matrix(between(fit.flat).tolist())
        for _ in range(6):
            theta += downhill(theta, range(30))
        steps = [downhill(theta, stays) for stays in (range(3), {*range(30)} - {7, 9})]
        truth = np.array([[float(entry) for entry in step] for step in steps])
    ours = np.stack([between(step) for step in found.value])
    error = np.abs(ours - truth).max(axis=1) / np.abs(truth).max(axis=1)
    assert error[0] > 1e-6
    assert error[1] < 1e-10
    assert found.status.astype(bool).tolist() == [True, False]


@pytest.mark.parametrize("l2", [pytest.param(1e-2, marks=pytest.mark.slow), 2e-8])
def test_conjugate_gradients_reach_a_column_that_only_its_penalty_holds(l2):
    """All points of a dummy leave: its pull is 1e-10 of theirs, and takes it all the way to 0."""
    rng = np.random.default_rng(0)
    x, y = np.c_[rng.normal(size=(150, 3)), np.arange(150) < 60], rng.normal(size=150)
    fit = lo.fit(lo.squares(x, y, l2=l2, intercept=False))
    groups = lo.Groups.from_indices([range(60)], n=150)

    def refitted(rows):
        held = np.r_[x[rows], np.sqrt(l2) * np.eye(4)]
        return np.linalg.lstsq(held, np.r_[y[rows], np.zeros(4)], rcond=None)[0]

    truth = refitted(slice(60, None)) - refitted(slice(None))
    for solver in (lo.solvers.CG(1e-8), lo.solvers.Auto()):
        found = lo.newton(fit, groups, solver)
        assert not found.status.any()
        np.testing.assert_allclose(found.value[0], truth, rtol=0, atol=1e-6 * np.abs(truth).max())


@pytest.mark.slow
def test_points_can_be_added_one_by_one_and_to_any_objective():
    def loss(theta, example):
        return jnp.logaddexp(0.0, -example["sign"] * (example["x"] @ theta["w"]))

    rng = np.random.default_rng(0)
    data = {"x": rng.normal(size=(N, 3)), "sign": np.sign(rng.normal(size=N))}
    new = {"x": rng.normal(size=(2, 3)), "sign": np.array([1.0, -1.0])}
    seen = lo.fit(lo.Objective(loss, data, {"w": np.zeros(3)}))
    fit, groups = lo.add(seen, new)
    assert len(groups) == 2
    change = lo.retrain(fit, groups, EXACT)
    for i in range(2):
        joined = {key: np.concatenate([data[key], new[key][i : i + 1]]) for key in data}
        with_it = lo.fit(lo.Objective(loss, joined, {"w": np.zeros(3)})).flat
        np.testing.assert_allclose(change.value[i], with_it - seen.flat, atol=1e-8)


def test_reweighting_is_fitting_with_other_weights():
    objective = problem("logistic", n=N)
    fit, groups = lo.fit(objective), groups_of(N, 4)
    s = np.asarray(objective.weights)
    np.testing.assert_array_equal(lo.reweight(groups, 0.0).dense(), groups.dense())
    factors = np.array([0.5, 2.0, 3.0, 0.25])
    change = lo.retrain(fit, lo.reweight(groups, factors), EXACT)
    for row, w, factor in zip(change.value, groups.dense(), factors, strict=True):
        weights = s * (1 - w + factor * w)
        there = rebuilt("logistic", objective, np.arange(N), weights)
        np.testing.assert_allclose(row, there - fit.flat, atol=1e-8)


@pytest.mark.parametrize("name", ["logistic", pytest.param("squares", marks=pytest.mark.slow)])
def test_relabelled_groups_are_as_if_labelled_so(name):
    objective = problem(name, n=N)
    fit, groups = lo.fit(objective), groups_of(N, 3)
    y = np.asarray(objective.y)
    other = -y if name == "squares" else 1 - y
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        changed, both = lo.relabel(fit, groups, other)
    warned = any("lo.Newton() equals lo.Influence()" in str(w.message) for w in caught)
    assert warned == (name != "squares")  # where one step is exact there is nothing to warn of
    change = lo.retrain(changed, both, EXACT)
    for row, w in zip(change.value, groups.dense(), strict=True):
        there = rebuilt(name, objective, np.arange(N), y=np.where(w > 0, other, y))
        np.testing.assert_allclose(row, there - fit.flat, atol=1e-8)
    one_step, first = lo.newton(changed, both).value, lo.influence(changed, both).value
    np.testing.assert_allclose(one_step, first, atol=1e-12)


@pytest.mark.slow
def test_influence_overestimates_what_adding_does_and_underestimates_removal():
    data = lo.datasets.breast_cancer()
    fit = lo.fit(lo.logistic(data.x, data.y, l2=2e-3 * data.n))
    sizes = np.full(40, 45)
    groups = lo.groups.random(jax.random.key(0), data, sizes=sizes)
    measure = lo.measures.self_loss()
    for changed, over in ((lo.reweight(groups, 2.0), True), (groups, False)):
        predicted = lo.effects(fit, changed, measure, lo.Influence()).value
        actual = lo.effects(fit, changed, measure, lo.Retrain()).value
        share = np.mean(np.abs(predicted) > np.abs(actual))
        assert share == (1.0 if over else 0.0)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda fit, g: lo.reweight(g, -1.0), "expected a factor >= 0"),
        (lambda fit, g: lo.add(fit, (np.zeros((2, 9)), [0, 1])), r"inputs of shape \(m, 4\)"),
        (lambda fit, g: lo.add(fit, (np.zeros((2, 4)), [0, 7])), "expected labels among"),
        (lambda fit, g: lo.add(fit, (np.zeros((2, 4)), [0])), "as many targets"),
        (lambda fit, g: lo.add(fit, (np.zeros((2, 4)), [0, 1]), g), "groups of the 2 new points"),
        (lambda fit, g: lo.relabel(fit, g, [0, 1]), "expected 60 targets"),
    ],
)
def test_edits_of_negative_factors_other_shapes_or_unknown_labels_are_refused(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call(lo.fit(problem("logistic", n=N)), groups_of(N, 3))
