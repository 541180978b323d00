"""Columns far from zero, and what cannot be measured from nearer: right, or said not to be."""

import warnings
from fractions import Fraction

import jax
import numpy as np
import pytest

import leaveout as lo
from leaveout.objectives.centre import _units
from problems import linear, mostly_slow

N, OFFSETS = 120, np.array([1.0, 0.0, -3.0])
METHODS = [lo.Influence(), lo.Newton(), lo.NewtonChebyshev(), lo.Retrain(1e-10)]


def inputs(offset, seed=0, n=N):
    """Inputs far from zero, and the same brought back: the difference has no rounding."""
    far = np.random.default_rng(seed).normal(size=(n, 3)) + offset * OFFSETS
    return far, far - offset * OFFSETS


def targets(kind, near):
    rng, score = np.random.default_rng(1), near @ np.array([1.0, -1.0, 0.5])
    if kind == "softmax":
        return np.digitize(score + rng.normal(size=len(near)), [-1.0, 1.0])
    if kind == "squares":
        return score + rng.normal(size=len(near))
    return (rng.random(len(near)) < 1 / (1 + np.exp(-score))).astype(int)


def both(kind, offset):
    """Fits and queries of the far and of the near inputs."""
    far, near = inputs(offset)
    y = targets(kind, near)
    make, queries = getattr(lo, kind), inputs(offset, 2, 5)
    return [lo.fit(make(x, y, l2=0.5)) for x in (far, near)], queries, y[:5]


GROUPS = lo.Groups.from_labels(np.arange(N) % 5)


def close(found, expected, tolerance=1e-9):
    error = np.abs(found - expected) / np.abs(expected).max(axis=0)
    assert error.max() < tolerance, error


@pytest.mark.parametrize("kind", mostly_slow(["logistic", "squares", "softmax"], "logistic"))
@pytest.mark.parametrize("offset", mostly_slow([1e3, 1e6, 1e8], 1e8))
def test_effects_do_not_see_where_columns_are_measured_from(kind, offset):
    fits, queries, y = both(kind, offset)
    for method in METHODS:
        found = [
            lo.effects(
                fit,
                GROUPS,
                [lo.measures.prediction(x), lo.measures.loss((x, y)), lo.measures.self_loss()],
                method,
            )
            for fit, x in zip(fits, queries, strict=True)
        ]
        assert (found[0].status == 0).all()
        close(found[0].value, found[1].value)


@pytest.mark.slow
@pytest.mark.parametrize("kind", mostly_slow(["logistic", "softmax"], "softmax"))
def test_parameters_and_changes_are_those_of_the_inputs_as_given(kind):
    offset = 1e5
    (far, near), _, _ = both(kind, offset)
    np.testing.assert_allclose(far.theta.weight, near.theta.weight, rtol=1e-8)
    moved = near.theta.bias - near.theta.weight @ (offset * OFFSETS)
    np.testing.assert_allclose(far.theta.bias, moved, rtol=1e-9)
    np.testing.assert_allclose(far.objective.flat(far.theta), far.flat, rtol=1e-12)
    for verb in (lo.influence, lo.newton, lo.retrain):
        trees = [verb(fit, GROUPS).tree() for fit in (far, near)]
        np.testing.assert_allclose(trees[0].weight, trees[1].weight, rtol=1e-5, atol=1e-9)
        bias = trees[1].bias - trees[1].weight @ (offset * OFFSETS)
        np.testing.assert_allclose(trees[0].bias, bias, rtol=1e-5)


@pytest.mark.parametrize("size", [1e-160, 1e-139, 1e151, 1e200])
def test_targets_whose_squares_are_no_numbers_are_refused(size):
    """Found at 1e-154: every effect of retraining was 0, and converged."""
    y = size * np.sin(np.arange(30.0))
    with pytest.raises(ValueError, match="measure y in another unit"):
        lo.squares(np.cos(np.arange(30.0))[:, None], y, l2=0.0)


@pytest.mark.parametrize("size", [1e-130, 1e-20, 1e140])
def test_effects_scale_with_the_targets(size):
    """In float64; what is smaller or larger is refused."""
    x, y = np.random.default_rng(0).normal(size=(2, 60, 2))
    groups = lo.Groups.from_labels(np.arange(60) // 10)
    one, other = (
        lo.effects(lo.fit(lo.squares(x, scale * y[:, 0], l2=0.0)), groups,
                   lo.measures.parameter([0, 1]), lo.Retrain())
        for scale in (1.0, size)
    )  # fmt: skip
    assert not other.status.any()
    np.testing.assert_allclose(other.value / size, one.value, rtol=1e-9)


def test_rows_are_measured_once_a_fit_unless_they_are_replaced():
    (far, _), _, _ = both("logistic", 1e6)
    assert far.centred is not None
    inner, given = linear(far.centred), linear(far)
    assert given.measured_as(inner).design is inner.design
    other = lo.logistic(given.x[::-1], given.y, l2=0.5)
    assert np.array_equal(other.measured_as(inner).design, inner.design[::-1])


@pytest.mark.slow
def test_measures_of_theta_are_in_the_inputs_as_given():
    offset = 1e4
    (far, near), _, _ = both("logistic", offset)
    bias = far.objective.p - 1
    own = lo.effects(far, GROUPS, lambda theta: theta.bias, lo.Newton()).value
    vector = np.append(-offset * OFFSETS, 1.0)
    expected = lo.effects(near, GROUPS, lo.measures.linear(vector), lo.Newton()).value
    close(own, expected)
    for method in (lo.Newton(), lo.Influence()):
        entry = lo.effects(far, GROUPS, lo.measures.parameter(bias), method).value
        line = lo.effects(far, GROUPS, lo.measures.linear(np.eye(4)[bias]), method).value
        close(entry, line, 1e-12)
    close(lo.effects(far, GROUPS, lo.measures.parameter(bias), lo.Newton()).value, expected)


@pytest.mark.slow
def test_the_factor_handed_out_is_that_of_the_inputs_as_given():
    (far, _), _, _ = both("softmax", 1e3)
    assert far.metric is not None
    assert far.centred is not None
    hessian = np.asarray(far.objective.hessian(far.flat))
    lower = np.asarray(far.metric.lower)
    gauge = np.asarray(far.centred.objective.at(far.centred.flat).gauge())
    jacobian = np.asarray(jax.jacobian(far.centred.objective.taken_in)(far.flat))
    np.testing.assert_allclose(
        lower @ lower.T, hessian + jacobian.T @ gauge @ jacobian, rtol=1e-6, atol=1e-6
    )


@pytest.mark.slow
@pytest.mark.parametrize("l2", mostly_slow([0.5, 1e-6], 1e-6))
def test_a_large_constant_column_changes_nothing(l2):
    _, near = inputs(0.0)
    y = targets("logistic", near)
    wide = np.c_[near, np.full(N, 1e7)]
    found = [
        lo.effects(
            lo.fit(lo.logistic(x, y, l2=l2)), GROUPS, lo.measures.self_loss(), lo.Retrain(1e-10)
        ).value
        for x in (wide, near)
    ]
    close(found[0], found[1])


@pytest.mark.slow
def test_points_added_and_relabelled_are_measured_from_the_same_place():
    fits, queries, y = both("logistic", 1e6)
    answers = []
    for fit, x in zip(fits, queries, strict=True):
        measure = lo.measures.prediction(x)
        more, added = lo.add(fit, (x, y))
        with pytest.warns(UserWarning, match="curvature of this loss"):
            turned, both_ways = lo.relabel(fit, GROUPS, 1 - np.asarray(linear(fit).y))
        answers.append(
            [
                lo.effects(more, added, measure, lo.Newton()).value,
                lo.effects(turned, both_ways, measure, lo.Influence()).value,
            ]
        )
    for far, near in zip(*answers, strict=True):
        close(far, near)


@pytest.mark.slow
def test_cross_validation_does_not_see_where_columns_are_measured_from():
    far, near = inputs(1e6)
    y = targets("logistic", near)
    losses = [lo.cross_validate(lo.logistic(x, y), [1.0]).loss for x in (far, near)]
    np.testing.assert_allclose(*losses, rtol=1e-6)


def exact_ridge(x, y, l2):
    """Two weights of ridge regression without intercept, in rational numbers."""
    rows = [[Fraction(float(v)) for v in row] for row in x]
    y = [Fraction(float(v)) for v in y]
    a, b, d = (
        sum(r[i] * r[j] for r in rows) + (Fraction(l2) if i == j else 0)
        for i, j in ((0, 0), (0, 1), (1, 1))
    )
    u, v = (sum(r[i] * t for r, t in zip(rows, y, strict=True)) for i in (0, 1))
    det = a * d - b * b
    return [(d * u - b * v) / det, (a * v - b * u) / det]


@pytest.mark.slow
@pytest.mark.parametrize("offset", mostly_slow([1e2, 1e4, 1e5, 1e6], 1e5))
@pytest.mark.parametrize("method", [lo.Newton(), lo.Retrain(1e-10), lo.Influence()])
def test_ill_conditioned_columns_are_right_or_flagged(offset, method):
    rng = np.random.default_rng(3)
    near = rng.normal(size=(40, 2))
    x, y = near + offset * np.array([1.0, -2.0]), near @ np.ones(2) + rng.normal(size=40)
    groups = lo.Groups.from_indices([[0, 1, 2], [5, 9, 20, 30]], n=40)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = lo.fit(lo.squares(x, y, l2=0.5, intercept=False))
        found = lo.effects(fit, groups, lo.measures.parameter([0, 1]), method)
    whole = exact_ridge(x, y, 0.5)
    for k in range(2):
        kept = np.setdiff1d(np.arange(40), groups[[k]].indices)
        truth = [
            float(a - b) for a, b in zip(exact_ridge(x[kept], y[kept], 0.5), whole, strict=True)
        ]
        if method == lo.Influence():  # exact only in its solve: of that the residual speaks
            assert found.residual[k] < 1e-7 or found.status[k]
            continue
        error = np.abs(found.value[k] - truth).max() / np.abs(truth).max()
        assert error < 1e-7 or found.status[k] != lo.Status.converged
    # at 1e4 influence's residual is 4e-9 or 2e-8, by the version of jax, where 1e-8 is asked
    if offset <= (1e2 if method == lo.Influence() else 1e4):
        assert (found.status == 0).all()


def test_an_ill_conditioned_hessian_is_warned_of_in_float64():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(40, 2)) + 1e5
    with pytest.warns(UserWarning, match="too ill-conditioned for float64"):
        lo.fit(lo.squares(x, x[:, 0] - 1e5, l2=0.5, intercept=False))


@pytest.mark.slow
def test_a_group_that_leaves_nearly_separable_classes_is_retrained_to_its_own_minimum():
    rng = np.random.default_rng(20261128)
    x = np.r_[rng.normal(size=(50, 2)) - 2.5, rng.normal(size=(50, 2)) + 2.5, [[3, 3], [-3, -3.0]]]
    y = np.r_[np.repeat([0, 1], 50), 0, 1]
    fit = lo.fit(lo.logistic(x, y, l2=1e-6))
    groups = lo.Groups.from_indices([[100, 101]], n=102)
    found = lo.effects(fit, groups, lo.measures.parameter([0, 1]), lo.Retrain())
    alone = lo.fit(lo.logistic(x[:100], y[:100], l2=1e-6))
    expected = np.asarray(alone.flat - fit.flat)[None, :2]
    assert found.status[0] == lo.Status.converged
    close(found.value, expected, 1e-6)


def test_columns_of_much_the_same_curvature_keep_their_units():
    assert _units(np.array([1.0, 3.0, 0.0])) is None
    assert _units(np.zeros(2)) is None
    units = _units(np.array([1.0, 4.0**20, 0.0]))
    assert units is not None
    np.testing.assert_array_equal(units, [1.0, 2.0**20, 1.0])
