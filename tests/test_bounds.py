"""The paper's propositions and the identities behind them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import leaveout as lo
from problems import groups_of, linear, measures_of, problem

SLOW = pytest.mark.slow
KINDS = tuple(lo.bounds.Mu)


def penalised(name="logistic", n=60, **options):
    """A fit all of whose parameters are penalised, as in the paper's propositions."""
    options = {"l2": 0.5, "intercept": False} | options
    return lo.fit(problem(name, n=n, **options))


def balanced_copies(count, l2):
    """One dimension: `count` copies of x = 1 with balanced labels beside one that stays."""
    y = np.r_[np.arange(count) % 2, 1]
    fit = lo.fit(lo.logistic(np.ones((count + 1, 1)), y, l2=l2, intercept=False))
    return fit, lo.Groups.from_indices([np.arange(count)], n=count + 1)


@pytest.mark.slow
def test_the_printed_proposition_1_is_violated_and_the_safe_form_is_not():
    fit, groups = balanced_copies(100, 1e-3)
    f = lo.measures.prediction(np.ones((1, 1)))
    error = abs(float(lo.bounds.decompose(fit, groups, f).newton_error[0, 0]))
    printed = float(lo.bounds.newton_gap(fit, groups, f, sigma=lo.bounds.Sigma.printed)[0, 0])
    assert error == pytest.approx(3.253, abs=0.01)
    assert printed == pytest.approx(1.54, abs=0.1)
    assert printed < error < lo.bounds.newton_gap(fit, groups, f)[0, 0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["logistic", pytest.param("softmax", marks=SLOW)])
def test_proposition_1_bounds_the_error_of_newton(name):
    fit, groups = penalised(name), groups_of(60)
    measures = (
        measures_of(fit.objective)[:3] if name == "logistic" else measures_of(fit.objective)[:1]
    )
    error = np.abs(lo.bounds.decompose(fit, groups, measures).newton_error)
    assert (error <= lo.bounds.newton_gap(fit, groups, measures) + 1e-10).all()


@pytest.mark.slow
def test_a_free_intercept_or_a_loss_without_constants_leaves_proposition_1_infinite():
    groups = groups_of(60)
    for name, intercept in (("logistic", True), ("poisson", False)):
        fit = penalised(name, intercept=intercept)
        f = lo.measures.prediction(np.ones((1, 4)))
        assert np.isinf(lo.bounds.newton_gap(fit, groups, f)).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["logistic", "squares", *(pytest.param(n, marks=SLOW) for n in ("softmax", "poisson"))]
)
def test_the_parts_of_the_error_add_up_and_are_what_they_say(name):
    fit, groups = penalised(name, intercept=True), groups_of(60)
    parts = lo.bounds.decompose(fit, groups, measures_of(fit.objective))
    whole = parts.newton_error + parts.curvature + parts.measure_curvature + parts.rest
    np.testing.assert_allclose(parts.actual - parts.influence, whole, atol=1e-12)
    first = 3 * linear(fit).layout.outputs  # predictions come first
    assert np.abs(parts.measure_curvature[:, :first]).max() < 1e-12
    assert np.abs(parts.rest[:, :first]).max() < 1e-12
    assert np.abs(parts.rest[:, first]).max() > (1e-12 if name == "squares" else 1e-6) or (
        name == "squares"
    )
    if name == "squares":
        assert np.abs(parts.newton_error).max() < 1e-9


def test_curvature_is_the_gradient_through_d_of_w():
    fit, groups = penalised(), groups_of(60)
    f = lo.measures.prediction(np.ones((1, 4)))
    curvature = lo.bounds.decompose(fit, groups, f).curvature[:, 0]
    hessian = np.asarray(fit.objective.hessian(fit.flat))
    values, vectors = np.linalg.eigh(hessian)
    half = vectors / np.sqrt(values) @ vectors.T
    expansion = fit.expansion()
    for i, taken in enumerate(fit.objective.weights[None] * groups.dense()):
        share = half @ np.asarray(expansion.hessian(taken)) @ half
        d = np.linalg.inv(np.eye(4) - share) - np.eye(4)
        gradient = np.asarray(expansion.gradient(taken))
        assert curvature[i] == pytest.approx(np.ones(4) @ half @ d @ half @ gradient, abs=1e-12)
        np.testing.assert_allclose(
            lo.bounds.spectrum(fit, groups)[i], np.linalg.eigvalsh(share), atol=1e-12
        )


@pytest.mark.parametrize("name", ["logistic", pytest.param("softmax", marks=SLOW)])
@pytest.mark.parametrize("of", KINDS)
def test_newton_on_self_loss_lies_in_the_cone(name, of):
    fit, groups = penalised(name), groups_of(60)
    parts = lo.bounds.decompose(fit, groups, lo.measures.self_loss())
    cone = lo.bounds.cone(fit, groups, of=of)
    ratio = ((parts.newton - parts.rest) / parts.influence)[:, 0]
    assert (cone.lower <= ratio * (1 + 1e-9)).all()
    assert (ratio <= cone.upper * (1 + 1e-9)).all()


def test_cones_narrow_with_what_is_known():
    fit, groups = penalised(), groups_of(60)
    widest, group, narrow = (lo.bounds.cone(fit, groups, of=of) for of in KINDS)
    assert (widest.upper >= group.upper * (1 - 1e-12)).all()
    assert (group.upper >= narrow.upper * (1 - 1e-12)).all()
    assert (narrow.lower >= group.lower).all()
    ratio = float(lo.bounds.constants(fit).largest / 0.5)
    np.testing.assert_allclose(widest.upper, 1 + 1.5 * ratio + 0.5 * ratio**2, rtol=1e-9)


def test_newton_over_influence_is_d_of_w_for_copies_of_a_point():
    base = problem("logistic", n=40, l2=0.7, weights=np.ones(40))
    x, y = np.asarray(base.x), np.asarray(base.y)
    fit = lo.fit(
        lo.logistic(np.r_[x, np.tile(x[:1], (12, 1))], np.r_[y, np.full(12, y[0])], l2=0.7)
    )
    groups = lo.Groups.from_indices([40 + np.arange(k) for k in (1, 5, 12)], n=52)
    f = lo.measures.prediction(x[3:6])
    influence, newton, once = (
        lo.effects(fit, groups, f, method).value
        for method in (lo.Influence(), lo.Newton(), lo.Krylov(1))
    )
    expected = lo.bounds.copies(fit, groups)
    np.testing.assert_allclose(newton / influence, expected[:, None] * np.ones(3), rtol=1e-10)
    np.testing.assert_allclose(once, newton, rtol=1e-10)
    assert (expected > 1).all()


def test_corollary_1_bounds_newton_beside_influence_on_predictions():
    fit, groups = penalised(), groups_of(60)
    f = lo.measures.prediction(np.asarray(linear(fit).x[:5]))
    parts = lo.bounds.decompose(fit, groups, f)
    gap = np.abs(parts.newton - parts.influence)
    own = lo.bounds.prediction_gap(fit, groups, f)
    assert (gap <= own).all()
    assert (own <= lo.bounds.prediction_gap(fit, groups, f, of=lo.bounds.Mu.everybody)).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["logistic", pytest.param("softmax", marks=SLOW)])
def test_trust_agrees_with_its_definitions(name):
    fit, groups = penalised(name, intercept=True), groups_of(60)
    trust = lo.trust(fit, groups)
    shares = np.asarray(lo.bounds.spectrum(fit, groups))
    np.testing.assert_allclose(trust.leverage, shares.sum(axis=1), rtol=1e-10)
    np.testing.assert_allclose(trust.mu, shares[:, -1], rtol=1e-10)
    assert (trust.share <= trust.mu * (1 + 1e-9)).all()
    change = lo.newton(fit, groups).value
    expansion, objective = fit.expansion(), linear(fit)
    assert fit.metric is not None
    h = np.asarray(fit.metric.lower @ fit.metric.lower.T)
    first = lo.influence(fit, groups).value
    gap, size = (np.sqrt(np.einsum("gp,pq,gq->g", v, h, v)) for v in (change - first, first))
    assert (gap <= trust.missed * size * (1 + 1e-7)).all()
    assert np.median(trust.missed * size / gap) < 1.5
    for i, w in enumerate(groups.dense()):
        s = objective.weights
        left = np.asarray(expansion.hessian(s * (1 - w))) + np.diag(expansion.penalty)
        gauge = expansion.gauge()
        left += 0.0 if gauge is None else np.asarray(gauge)
        size = np.sqrt(np.asarray(expansion.gradient(s * w)) @ np.asarray(change[i]))
        rows = np.asarray(jax.vmap(lambda x: objective.layout.flat(
            jnp.zeros((objective.layout.outputs, 5)).at[0].set(x)
        ))(objective.design[w == 0]))  # fmt: skip
        if name == "logistic":
            longest = np.sqrt(np.max(np.sum(rows @ np.linalg.inv(left) * rows, axis=1)))
            assert longest * size <= trust.nu[i] * (1 + 1e-9)


def test_trust_of_two_parameters_is_what_it_says_it_is():
    """Where S has two eigenvalues the quadrature of what influence misses is exact."""
    rng = np.random.default_rng(1)
    x, s = rng.normal(size=(40, 2)), rng.uniform(0.5, 2, 40)
    y = (x[:, 0] + rng.logistic(size=40) > 0).astype(int)
    fit = lo.fit(lo.logistic(x, y, l2=0.5, weights=s, intercept=False))
    lists = [range(4, 5), range(5, 12), range(15, 35)]
    found = lo.trust(fit, lo.Groups.from_indices(lists, n=40))
    mean = 1 / (1 + np.exp(-x @ np.asarray(fit.flat)))
    bent = s * mean * (1 - mean)
    hessian = (x.T * bent) @ x + 0.5 * np.eye(2)
    for i, points in enumerate(lists):
        gone = np.isin(np.arange(40), points)
        taken, slope = (x[gone].T * bent[gone]) @ x[gone], x[gone].T @ (s * (mean - y))[gone]
        first, newton = np.linalg.solve(hessian, slope), np.linalg.solve(hessian - taken, slope)
        shares = np.linalg.eigvals(np.linalg.solve(hessian, taken)).real
        lengths = [np.sqrt(v @ hessian @ v) for v in (newton - first, first)]
        moves = (x @ first)[~gone]
        share = bent[~gone] * moves**2
        moved = np.sqrt(np.average(moves**2, weights=share))
        error = lengths[0] / lengths[1] + moved / 2
        np.testing.assert_allclose(
            [found.leverage[i], found.mu[i], found.share[i], found.missed[i], found.moved[i]],
            [shares.sum(), shares.max(), first @ taken @ first / lengths[1] ** 2,
             lengths[0] / lengths[1], moved], rtol=1e-7,
        )  # fmt: skip
        assert found.error[i] == pytest.approx(error, rel=1e-7)
        assert found.light[i] == np.searchsorted([0.1, 0.5], error, side="right")
    assert found.light.tolist() == [lo.Light.green, lo.Light.amber, lo.Light.red]


def test_a_group_with_a_column_of_its_own_is_red():
    rng = np.random.default_rng(0)
    x, site = rng.normal(size=(120, 3)), np.arange(120) % 6
    x = np.c_[x, site[:, None] == np.arange(6)]
    y = rng.random(120) < 1 / (1 + np.exp(-x @ np.r_[1, -1, 0, rng.normal(size=6)]))
    fit, groups = lo.fit(lo.logistic(x, y, l2=1e-2)), lo.Groups.from_labels(site)
    trust = lo.trust(fit, groups)
    assert np.median(trust.share) < 0.3  # along the gradient little is amiss
    assert np.median(trust.mu) > 0.99
    assert (trust.light == lo.Light.red).all()


def test_leverages_of_everybody_sum_to_the_degrees_of_freedom():
    fit = penalised()
    halves = lo.Groups.from_indices([range(30), range(30, 60)], n=60)
    hessian = np.asarray(fit.objective.hessian(fit.flat))
    freedom = np.trace((hessian - 0.5 * np.eye(4)) @ np.linalg.inv(hessian))
    assert lo.trust(fit, halves).leverage.sum() == pytest.approx(freedom, rel=1e-10)


def test_a_group_that_empties_a_feature_is_not_green():
    x = np.random.default_rng(0).normal(size=(40, 3))
    x[:, 2] = np.arange(40) < 5
    fit = lo.fit(lo.logistic(x, np.arange(40) % 2, l2=1e-3))
    trust = lo.trust(fit, lo.Groups.from_indices([range(5), [20]], n=40))
    assert trust.mu[0] > 0.99 > trust.mu[1]
    assert trust.light[0] > lo.Light.green


def test_an_unknown_sigma_or_cone_is_refused_with_the_known_ones():
    fit, groups = penalised(), groups_of(60)
    with pytest.raises(ValueError, match=r"sigma as one of Sigma\.zero, Sigma\.printed"):
        lo.bounds.newton_gap(fit, groups, lo.measures.self_loss(), sigma="least")
    with pytest.raises(ValueError, match=r"of as one of Mu\.everybody"):
        lo.bounds.cone(fit, groups, of="all")


# ---- identities behind the methods ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "order"),
    [
        (lo.Influence(at_changed=True), 2),
        (lo.Newton(), 2),
        (lo.SecondOrder(), 3),
        (lo.NewtonChebyshev(), 3),
        (lo.NewtonChebyshev(lo.solvers.CG()), 3),
        (lo.NewtonChebyshev(lo.solvers.LowRank()), 3),
        (lo.Newton(steps=2), 4),
    ],
)
def test_errors_shrink_with_the_part_removed_at_their_order(method, order):
    fit, groups = penalised("logistic", intercept=True), groups_of(60)
    errors = []
    for part in (0.2, 0.1):
        some = lo.Groups.from_weights(part * np.asarray(groups.dense()))
        actual = lo.retrain(fit, some, lo.Retrain(1e-13)).value
        errors.append(np.linalg.norm(np.asarray(method.change(fit, some).value - actual), axis=1))
    rate = np.log2(np.median(errors[0] / errors[1]))
    assert rate == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize(
    "name", ["logistic", "softmax", *(pytest.param(n, marks=SLOW) for n in ("squares", "poisson"))]
)
def test_rescaled_influence_is_the_newton_step_of_single_points(name):
    fit = penalised(name, intercept=True)
    groups = lo.Groups.from_indices([[i] for i in range(0, 60, 7)], n=60)
    rescaled = lo.influence(fit, groups, rescaled=True).value
    np.testing.assert_allclose(rescaled, lo.newton(fit, groups).value, rtol=1e-9, atol=1e-12)
    f = lo.measures.prediction(np.asarray(linear(fit).x[:2]))
    points = np.asarray(lo.per_point(fit, f, rescaled=True))[::7]
    effects = lo.effects(fit, groups, f, lo.Influence(rescaled=True)).value
    np.testing.assert_allclose(points, effects, rtol=1e-9, atol=1e-12)


def test_rescaled_influence_refuses_what_is_not_linear():
    fit = lo.fit(lo.Objective(lambda t, e: (t - e) ** 2, np.arange(5.0), 0.0))
    with pytest.raises(ValueError, match="rescaled influence needs a linear model"):
        lo.influence(fit, lo.Groups.from_indices([[0]], n=5), rescaled=True)


def test_krylov_steps_reach_the_newton_step_once_they_span_what_leaves():
    fit = penalised(intercept=True)
    groups = lo.Groups.from_indices([[1, 2, 3]], n=60)
    newton = np.asarray(lo.newton(fit, groups).value)
    errors = [
        np.linalg.norm(np.asarray(lo.Krylov(k).change(fit, groups).value) - newton)
        for k in (1, 2, 3)
    ]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-10 * np.linalg.norm(newton)


@pytest.mark.slow
def test_chebyshev_is_exact_for_squares_and_takes_any_objective():
    fit, groups = penalised("squares"), groups_of(60)
    plain, bent = lo.newton(fit, groups).value, lo.newton(fit, groups, chebyshev=True).value
    np.testing.assert_allclose(bent, plain, atol=1e-12)
    linear = problem("poisson", n=60, l2=0.5, weights=np.ones(60))
    general = lo.Objective(
        lambda t, e: lo.losses.poisson(e[0] @ t[:-1] + t[-1], e[1]),
        (np.asarray(linear.x), np.asarray(linear.y)),
        np.zeros(5),
        l2=0.5,
        penalised=np.r_[np.ones(4, bool), False],
    )
    ways = [lo.newton(lo.fit(o), groups, chebyshev=True).value for o in (linear, general)]
    np.testing.assert_allclose(ways[0], ways[1], rtol=1e-6, atol=1e-9)


def test_relabelling_leaves_the_hessian_alone_so_that_newton_is_influence():
    fit = penalised(weights=np.ones(60))
    objective = linear(fit)
    flipped = lo.glm(
        lo.losses.logistic, objective.x, 1 - np.asarray(objective.y), l2=0.5, intercept=False
    )
    np.testing.assert_allclose(
        flipped.at(fit.flat).second, objective.at(fit.flat).second, rtol=0, atol=1e-15
    )


@pytest.mark.slow
def test_the_span_of_the_data_is_all_that_predictions_see():
    wide = problem("logistic", n=20, d=50, l2=0.5, intercept=False)
    x = np.asarray(wide.x)
    basis = np.linalg.qr(x.T)[0]
    narrow = lo.glm(lo.losses.logistic, x @ basis, np.asarray(wide.y), l2=0.5, intercept=False,
                    weights=np.asarray(wide.weights))  # fmt: skip
    groups = groups_of(20)
    effects = [
        lo.effects(lo.fit(o), groups, lo.measures.prediction(np.asarray(o.x)), lo.Newton()).value
        for o in (wide, narrow)
    ]
    np.testing.assert_allclose(effects[0], effects[1], atol=1e-11)


def test_influence_along_the_way_adds_up_to_the_effect_of_everybody():
    # Aumann and Shapley: -int_0^1 grad f' H_t^-1 g_t dt = f(theta(1)) - f(theta(0))
    objective = problem("logistic", n=40, l2=1.0, intercept=False, weights=np.ones(40))
    f = lo.measures.prediction(np.asarray(objective.x[:2]))
    nodes, weights = np.polynomial.legendre.leggauss(16)
    total = np.zeros(2)
    for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        t = node**3
        at = lo.glm(lo.losses.logistic, objective.x, objective.y, l2=1.0, intercept=False,
                    weights=np.full(40, t))  # fmt: skip
        everybody = np.asarray(lo.per_point(lo.fit(at), f)).sum(axis=0) / t
        total += 3 * node**2 * weight * -everybody
    fit = lo.fit(objective)
    np.testing.assert_allclose(total, np.asarray(objective.x[:2]) @ np.asarray(fit.flat), atol=1e-5)


def test_the_duality_gap_is_the_gradient_squared_over_twice_l2():
    objective = problem("logistic", n=40, l2=0.7, intercept=False, weights=np.ones(40))
    theta = jnp.asarray([0.3, -0.2, 0.5, 0.1])
    value, gradient = objective.value_and_gradient(theta)
    x, y = np.asarray(objective.x), np.asarray(objective.y)
    dual = 1 / (1 + np.exp(-x @ theta)) - y  # loss' at the scores
    p = dual + y
    conjugate = p * np.log(p) + (1 - p) * np.log1p(-p)  # of log(1 + e^s) - y s at loss'
    lower = -np.sum(conjugate) - np.sum((x.T @ dual) ** 2) / 1.4
    assert float(value) - lower == pytest.approx(float(gradient @ gradient) / 1.4, rel=1e-10)


@pytest.mark.parametrize("name", ["logistic", pytest.param("softmax", marks=SLOW)])
def test_a_newton_step_damped_by_the_scores_it_moves_goes_down(name):
    objective = problem(name, n=40, l2=1e-3)
    gauge = objective.at(objective.initial()).gauge()
    for seed in range(20):
        theta = 6 * jax.random.normal(jax.random.key(seed), (objective.p,))
        matrix = objective.hessian(theta) + (0.0 if gauge is None else gauge)
        down = jnp.linalg.solve(matrix, objective.gradient(theta))
        scores = objective.scores(down)
        far = jnp.max(jnp.abs(scores)) if name == "logistic" else jnp.max(jnp.ptp(scores, axis=1))
        step = theta - jnp.log1p(far) / far * down
        assert objective.value(step) < objective.value(theta)
