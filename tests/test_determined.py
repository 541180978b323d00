"""What is determined although theta is not, or its residuals are: each against a fit of its own."""

import numpy as np
import pytest

import leaveout as lo
from problems import mostly_slow

N, SITES = 160, 8
SITE = np.arange(N) % SITES
APPROXIMATE = [lo.Newton(), lo.NewtonChebyshev(), lo.Newton(steps=3)]


def targets(name, scores, rng):
    if name == "squares":
        return scores + rng.normal(size=len(scores))
    if name == "poisson":
        return rng.poisson(np.exp(scores))
    return (scores + rng.logistic(size=len(scores)) > 0).astype(int)


@pytest.fixture(scope="module", params=mostly_slow(["squares", "logistic", "poisson"], "logistic"))
def sites(request):
    """A dummy for each site, without penalty, and what the slopes are without each site."""
    rng = np.random.default_rng(0)
    x, own = rng.normal(size=(N, 2)), rng.normal(size=SITES)
    y = targets(request.param, x @ [0.5, -0.5] + 0.5 * own[SITE], rng)
    make = getattr(lo, request.param)

    def fit(kept):
        design = np.c_[x, np.eye(SITES)[SITE]][kept]
        used = design.any(axis=0)
        return np.asarray(lo.fit(make(design[:, used], y[kept], 0.0, intercept=False)).flat)[:2]

    whole = lo.fit(make(np.c_[x, np.eye(SITES)[SITE]], y, 0.0, intercept=False))
    right = np.array([fit(k != SITE) - np.asarray(whole.flat)[:2] for k in range(SITES)])
    return whole, lo.Groups.from_labels(SITE), right


@pytest.mark.slow
def test_slopes_beside_the_dummies_of_what_left_are_determined(sites):
    fit, groups, right = sites
    measures = [lo.measures.parameter([0, 1]), lo.measures.parameter(2), lo.measures.self_loss()]
    found = lo.effects(fit, groups, measures, lo.Retrain(1e-10))
    assert not found.column_status[:, :2].any()
    np.testing.assert_allclose(found.value[:, :2], right, atol=1e-8 * np.abs(right).max())
    assert (found.column_status[:, 2] != 0).tolist() == [True] + [False] * (SITES - 1)
    assert found.column_status[:, 3].all()  # nobody is left who says how well the site is predicted
    assert found.status.all()
    slopes = lo.effects(fit, groups, measures[0], lo.Retrain(1e-10))
    assert not slopes.status.any()  # the worst of what is asked
    assert slopes.theta_status.all()
    deviation = right - right.mean(axis=0)  # the dummies that leave are no parameters any more
    error = np.sqrt((SITES - 1) / SITES * np.sum(deviation**2, axis=0))
    with pytest.warns(UserWarning, match="no one minimum without '0', .*have values or limits"):
        np.testing.assert_allclose(lo.jackknife(slopes), error, rtol=1e-6)
    assert (lo.retrain(fit, groups).status != 0).all()  # theta itself is not


@pytest.mark.slow
@pytest.mark.parametrize("method", APPROXIMATE, ids=lambda method: method.name)
def test_approximations_say_so_too(sites, method):
    fit, groups, right = sites
    measures = [lo.measures.parameter([0, 1]), lo.measures.parameter(2), lo.measures.self_loss()]
    found = lo.effects(fit, groups, measures, method)
    assert not found.column_status[:, :2].any()
    assert (found.column_status[:, 2] != 0).tolist() == [True] + [False] * (SITES - 1)
    assert found.column_status[:, 3].all()
    share = np.abs(found.value[:, :2] - right).max() / np.abs(right).max()
    assert share < 0.2  # as short as a step is where what it starts from is determined


@pytest.mark.slow
def test_a_measure_that_moves_along_what_is_free_is_flagged_whatever_its_derivative():
    rng = np.random.default_rng(1)
    x = np.c_[rng.normal(size=40), np.arange(40) < 5]  # a dummy of the first five
    y = x[:, 0] + rng.normal(size=40)
    fit = lo.fit(lo.squares(x, y, l2=0.0))
    groups = lo.Groups.from_indices([np.arange(5)], n=40)
    at = float(fit.flat[1] + lo.newton(fit, groups).value[0, 1])

    def flat_where_it_ends(theta):
        return (theta.weight[1] - at) ** 2 + theta.weight[0]

    found = lo.effects(fit, groups, [flat_where_it_ends, lo.measures.parameter(0)], lo.Newton())
    assert found.column_status.tolist() == [[lo.Status.singular, lo.Status.converged]]


@pytest.mark.slow
def test_slopes_have_limits_where_the_intercept_has_none():
    """All events leave: with a penalty the slopes end at 0."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(80, 3))
    y = (np.arange(80) < 8).astype(int)
    fit = lo.fit(lo.logistic(x, y, l2=1.0))
    groups = lo.Groups.from_indices([np.arange(8), np.arange(20, 28)], n=80)
    measures = [lo.measures.parameter([0, 1, 2]), lo.measures.parameter(3)]
    found = lo.effects(fit, groups, measures, lo.Retrain())
    expected = [[0, 0, 0, lo.Status.no_minimum], [0, 0, 0, 0]]
    assert found.column_status.tolist() == expected
    np.testing.assert_allclose(found.value[0, :3], -np.asarray(fit.flat[:3]), rtol=1e-5)


@pytest.mark.slow
def test_slopes_have_limits_where_a_site_keeps_no_event():
    """The events of a site leave, the others of it stay: its own intercept goes to infinity."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(N, 2))
    y = targets("logistic", x @ [0.5, -0.5], rng)
    design = np.c_[x, np.eye(SITES)[SITE]]
    free = np.r_[np.ones(2, bool), np.zeros(SITES, bool)]
    fit = lo.fit(lo.logistic(design, y, l2=1.0, intercept=False, penalised=free))
    leaves = (SITE == 3) & (y == 1)
    groups = lo.Groups.from_masks(leaves[None])
    found = lo.effects(fit, groups, lo.measures.parameter([0, 1, 5]), lo.Retrain())
    assert found.column_status.tolist() == [[0, 0, lo.Status.no_minimum]]
    kept = SITE != 3
    used = np.arange(SITES + 2) != 5
    alone = lo.logistic(
        design[kept][:, used], y[kept], l2=1.0, intercept=False, penalised=free[used]
    )
    right = np.asarray(lo.fit(alone).flat)[:2] - np.asarray(fit.flat)[:2]
    np.testing.assert_allclose(found.value[0, :2], right, atol=1e-6 * np.abs(right).max())


@pytest.mark.slow
def test_a_class_that_can_be_separated_leaves_nothing_determined():
    rng = np.random.default_rng(4)
    x = np.r_[rng.normal(size=(30, 2)) - 4, rng.normal(size=(30, 2)) + 4, [[4.0, 4], [-4, -4]]]
    y = np.repeat([0, 1, 0, 1], [30, 30, 1, 1])
    fit = lo.fit(lo.logistic(x, y, l2=0.0))
    groups = lo.Groups.from_indices([[60, 61]], n=62)
    found = lo.effects(fit, groups, lo.measures.parameter([0, 1, 2]), lo.Retrain())
    assert found.column_status.all()


# ---- targets that are met exactly ----------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        lambda x: lo.squares(x, np.full(len(x), 7.0), l2=1.0),
        lambda x: lo.squares(x, x @ [1.0, 2.0], l2=0.0),
        lambda x: lo.squares(x, 1e6 + x @ [1.0, 2.0], l2=0.0),
    ],
    ids=["constant", "noiseless", "far"],
)
def test_targets_that_are_met_exactly_are_met_without_any_group(make):
    x = np.random.default_rng(5).normal(size=(60, 2))
    fit = lo.fit(make(x))
    groups = lo.Groups.from_labels(np.arange(60) % 5)
    size = np.abs(np.asarray(fit.flat)).max()
    for method in (lo.Influence(), lo.Newton(), lo.Retrain()):
        found = lo.effects(fit, groups, lo.measures.parameter([0, 1, 2]), method)
        assert not found.status.any()
        np.testing.assert_allclose(found.value, 0.0, atol=1e-12 * size)
    again = lo.fit(fit.objective, theta=fit.theta)
    np.testing.assert_allclose(again.flat, fit.flat, atol=1e-12 * size)


@pytest.mark.slow
def test_as_many_parameters_as_points_fit_and_no_point_can_leave():
    rng = np.random.default_rng(6)
    fit = lo.fit(lo.squares(rng.normal(size=(3, 2)), rng.normal(size=3), l2=0.0))
    found = lo.effects(fit, lo.Groups.from_labels(np.arange(3)), lo.measures.parameter(0))
    assert found.status.all()


def test_counts_that_are_all_0_are_refused_with_a_way_out():
    x = np.random.default_rng(7).normal(size=(40, 2))
    with pytest.raises(lo.SolveError, match=r"every count is 0.*intercept=False.*penalised="):
        lo.fit(lo.poisson(x, np.zeros(40, int), l2=1.0))
    assert np.isfinite(lo.fit(lo.poisson(x, np.zeros(40, int), l2=1.0, intercept=False)).flat).all()
