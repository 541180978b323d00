"""Solvers, influence, Newton, retraining and effects: fast routes against slow ones."""

import re

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.optimize

import leaveout as lo
from leaveout.fitting import lbfgs
from leaveout.fitting.fitted import with_rows
from leaveout.fitting.leaving import worth_listing
from leaveout.methods import newton_batches
from leaveout.methods.coordinates import around
from leaveout.methods.first_order import self_influence
from leaveout.solvers.direct import together
from problems import LOSSES, groups_of, measures_of, mostly_slow, problem, wrong

SOLVERS = [
    getattr(lo.solvers, name)()
    for name in lo.solvers.__all__
    if hasattr(getattr(lo.solvers, name), "reduced") and name not in ("Solver", "Lineax")
]
FOREIGN = [
    lx.Cholesky(),
    pytest.param(lx.LU(), marks=pytest.mark.slow),
    pytest.param(lx.GMRES(rtol=1e-13, atol=1e-13, restart=40), marks=pytest.mark.slow),
]


of_processors = pytest.mark.skipif(jax.default_backend() != "cpu", reason="a way of processors")


@pytest.fixture(scope="module", params=mostly_slow(LOSSES, "logistic", "squares"))
def fitted(request):
    return lo.fit(problem(request.param))


@pytest.fixture(scope="module")
def groups():
    return groups_of(60)


def test_the_shelf_of_solvers_was_found():
    assert {type(s).__name__ for s in SOLVERS} == {"Auto", "CG", "Cholesky", "LowRank", "Refined"}


@pytest.mark.parametrize("solver", SOLVERS + FOREIGN, ids=lambda s: type(s).__name__)
def test_every_solver_gives_the_dense_newton_step(fitted, groups, solver):
    change = lo.newton(fitted, groups, solver)
    assert not change.status.any()
    objective, expansion, s = fitted.objective, fitted.expansion(), fitted.objective.weights
    gauge = expansion.gauge()
    gauge = 0.0 if gauge is None else gauge
    for row, w in zip(change.value, groups.dense(), strict=True):
        matrix = objective.hessian(fitted.flat, s * (1 - w)) + gauge
        expected = jnp.linalg.solve(matrix, expansion.gradient(s * w))
        np.testing.assert_allclose(row, expected, atol=1e-9)


@pytest.mark.parametrize(
    "solver",
    [s for s in SOLVERS if type(s).__name__ != "LowRank"] + FOREIGN,
    ids=lambda s: type(s).__name__,
)
def test_every_solver_gives_the_dense_influence(fitted, groups, solver):
    change = lo.influence(fitted, groups, solver)
    assert not change.status.any()
    assert float(change.residual.max()) < 1e-8
    expansion = fitted.expansion()
    gauge = expansion.gauge()
    matrix = fitted.objective.hessian(fitted.flat) + (0.0 if gauge is None else gauge)
    gradients = jax.vmap(expansion.gradient)(fitted.objective.weights[None] * groups.dense())
    np.testing.assert_allclose(change.value, jnp.linalg.solve(matrix, gradients.T).T, atol=1e-9)


def test_a_second_newton_step_is_the_dense_one(fitted, groups):
    objective = fitted.objective
    first, both = (lo.newton(fitted, groups, steps=k) for k in (1, 2))
    assert not both.status.any()
    for change, row, w in zip(first.value, both.value, groups.dense(), strict=True):
        theta, v = fitted.flat + change, objective.weights * (1 - w)
        gauge = objective.at(theta).gauge()
        matrix = objective.hessian(theta, v) + (0.0 if gauge is None else gauge)
        down = jnp.linalg.solve(matrix, objective.gradient(theta, v))
        np.testing.assert_allclose(row, change - down, atol=1e-9)


@pytest.mark.slow
def test_further_newton_steps_of_any_objective_are_those_of_the_linear_model(groups):
    linear = problem("logistic")

    def loss(theta, example):
        x, y = example
        score = theta.weight @ x + theta.bias
        return jax.nn.softplus(score) - y * score

    theta = linear.tree(linear.initial())
    data = np.asarray(linear.x), np.asarray(linear.y, float)
    own = lo.Objective(loss, data, theta, l2=0.5, weights=np.asarray(linear.weights),
                       penalised=np.asarray(linear.penalised))  # fmt: skip
    fits = [lo.fit(each) for each in (linear, own)]
    ours, theirs = (lo.newton(fit, groups, steps=3) for fit in fits)
    assert not theirs.status.any()
    np.testing.assert_allclose(theirs.value, ours.value, atol=1e-7)


@pytest.mark.slow
def test_further_newton_steps_are_damped():
    # the first example holds theta where the next twenty are wrong and as good as straight
    x, y = np.repeat([[1.0], [5.0], [3.0]], [1, 20, 5], axis=0), np.repeat([1, 0, 1], [1, 20, 5])
    weights = np.where(np.arange(26) == 0, 840.0, 1.0)
    objective = lo.logistic(x, y, l2=1e-4, intercept=False, weights=weights)
    fitted, groups = lo.fit(objective), lo.Groups.from_indices([[0]], n=26)
    changes = [lo.newton(fitted, groups, steps=k).value for k in (1, 2, 30)]
    v = objective.weights * (1 - groups.dense()[0])
    places = [fitted.flat + change[0] for change in changes]
    values = [float(objective.value(theta, v)) for theta in places]
    assert values == sorted(values, reverse=True)
    down = objective.gradient(places[0], v) / objective.hessian(places[0], v)[0]
    assert objective.value(places[0] - down, v) > 10 * values[0]  # where a full step ends
    np.testing.assert_allclose(changes[-1], lo.retrain(fitted, groups).value, rtol=1e-6)


def test_a_group_larger_than_half_is_built_from_what_stays(fitted):
    rng = np.random.default_rng(3)
    large = lo.Groups.from_indices([rng.choice(60, 50, replace=False)], n=60)
    dense = lo.newton(fitted, large, lo.solvers.Cholesky()).value
    other = lo.newton(fitted, large, lx.LU()).value
    np.testing.assert_allclose(dense, other, atol=1e-9)


@of_processors
@pytest.mark.parametrize(("lanes", "most"), [(1, 1), (5, 5), (7, 1), (8, 4), (12, 4), (13, 1)])
def test_batched_factorisations_leave_no_remainder(lanes, most):
    assert together(lanes, 2**20, room=5 * 2**20) == most
    fitted, solver = lo.fit(problem(d=60)), lo.solvers.Cholesky()
    block = lo.solvers.Block(jnp.full((lanes, 4), 0.5), jnp.zeros((lanes, 4), int))

    def solve(b):
        return solver.reduced(fitted.expansion(), fitted.metric, block)(b).value

    program = str(jax.make_jaxpr(solve)(jnp.zeros((lanes, 61))))
    batches = re.findall(r"f64\[(\d+),61,61\] = cholesky", program)
    assert len(set(batches)) == 1  # two of different sizes could wait for each other for ever
    assert lanes % int(batches[0]) == 0


@pytest.mark.slow
def test_the_gram_matrix_of_all_points_gives_the_dense_step():
    fitted = lo.fit(problem("logistic", n=40, d=70, weights=np.ones(40)))
    groups = groups_of(40, 40)
    whole = with_rows(fitted, 2**30, gram=True)
    assert whole.metric is not None
    assert whole.metric.gram is not None
    assert whole.metric.gram.shape == (40, 40)
    seen = lo.newton(whole, groups, lo.solvers.LowRank())
    dense = lo.newton(fitted, groups, lx.LU())
    assert not seen.status.any()
    np.testing.assert_allclose(seen.value, dense.value, atol=1e-10)


def test_a_loss_not_known_to_be_convex_is_searched_by_values_to_the_same_end(groups):
    known = problem("logistic")
    own = lo.glm(lambda s, y: jax.nn.softplus(s) - y * s, known.x, known.y.astype(float),
                 l2=0.5, weights=known.weights)  # fmt: skip
    ours, theirs = (lo.retrain(lo.fit(each), groups).value for each in (known, own))
    np.testing.assert_allclose(theirs, ours, atol=1e-8)


def test_low_rank_is_refused_where_it_means_nothing(groups):
    fitted = lo.fit(problem("logistic"))
    with pytest.raises(ValueError, match="serves newton only"):
        lo.influence(fitted, groups, lo.solvers.LowRank())
    with pytest.raises(ValueError, match="values, never strings"):
        lo.newton(fitted, groups, wrong("cholesky"))


def test_auto_chooses_each_route_where_it_is_cheapest():
    def choice(n, d, size):
        x = np.random.default_rng(0).normal(size=(n, d))
        objective = lo.logistic(x, np.arange(n) % 2)
        expansion = eqx.filter_eval_shape(objective.at, objective.initial())  # shapes suffice
        zeros = jnp.zeros((1, size))
        block = lo.solvers.Block(zeros, zeros.astype(int))
        factor = lo.solvers.Factor(jnp.eye(d + 1))
        return type(lo.solvers.Auto().choose(expansion, factor, block)).__name__

    assert choice(2000, 30, 300) == "Cholesky"
    assert choice(200, 400, 4) == "LowRank"
    assert choice(400, 900, 350) == "CG"


# ---- groups that leave a singular Hessian -------------------------------------------------------


@pytest.mark.parametrize(
    "solver",
    [
        lo.solvers.Cholesky(),
        pytest.param(lo.solvers.LowRank(), marks=pytest.mark.slow),
        lo.solvers.Auto(),
    ],
    ids=lambda s: type(s).__name__,
)
def test_an_emptied_feature_at_no_penalty_is_singular_never_nan(solver):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 3))
    x[6:, 2] = 0.0  # only the first six points have the third feature
    y = (x[:, 0] + rng.normal(size=80) > 0).astype(int)
    y[:6] = [0, 1, 0, 1, 1, 0]
    fitted = lo.fit(lo.logistic(x, y, l2=0.0))
    groups = lo.Groups.from_indices([np.arange(6), np.arange(10, 16)], n=80)
    change = lo.newton(fitted, groups, solver)
    assert [lo.Status(int(code)) for code in change.status] == [
        lo.Status.singular,
        lo.Status.converged,
    ]
    assert np.isfinite(change.value).all()
    with pytest.raises(lo.SolveError, match=r"group '0'.*singular.*raise l2"):
        lo.newton(fitted, groups, solver, throw=True)


@pytest.mark.slow
def test_a_retraining_that_leaves_many_minima_says_so():
    x = np.random.default_rng(0).normal(size=(20, 4))
    fitted = lo.fit(lo.squares(x, x[:, 0] ** 2, l2=0.0))
    groups = lo.Groups.from_indices([np.arange(17), np.arange(15)], n=20)  # 3 stay for 5 of theta
    change = lo.retrain(fitted, groups)
    assert change.status.tolist() == [lo.Status.singular, lo.Status.converged]
    assert np.isfinite(change.value).all()


def test_an_emptied_class_has_no_minimum_and_says_so():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(60, 2))
    y = np.r_[np.ones(6, int), np.zeros(54, int)]
    fitted = lo.fit(lo.logistic(x, y, l2=0.1))
    groups = lo.Groups.from_indices([np.arange(6), np.arange(5)], n=60)
    change = lo.retrain(fitted, groups)
    assert np.isfinite(change.value).all()
    assert lo.Status(int(change.status[0])) is lo.Status.no_minimum
    assert lo.Status(int(change.status[1])) is lo.Status.converged


@pytest.mark.slow
@pytest.mark.parametrize(
    "solver", [lo.solvers.Cholesky(), lo.solvers.CG()], ids=lambda s: type(s).__name__
)
def test_a_group_that_leaves_negative_curvature_is_reported(solver):
    def bowl(theta, example):
        curvature, centre = example
        return 0.5 * curvature * (theta - centre) ** 2

    data = (np.array([4.0, -2.0, 1.0]), np.array([1.0, 0.0, 2.0]))
    fitted = lo.fit(lo.Objective(bowl, data, 0.5, l2=0.0))
    groups = lo.Groups.from_indices([[0], [1]], n=3)
    change = lo.newton(fitted, groups, solver)
    bad = {lo.Status.not_positive_definite, lo.Status.singular}
    assert lo.Status(int(change.status[0])) in bad
    assert lo.Status(int(change.status[1])) is lo.Status.converged
    assert np.isfinite(change.value).all()
    np.testing.assert_allclose(fitted.flat + change.value[1], (4 + 2) / 5, atol=1e-12)
    actual = lo.retrain(fitted, groups)
    assert int(actual.status[0]) != lo.Status.converged  # its objective has no lower bound
    assert np.isfinite(actual.value).all()
    np.testing.assert_allclose(actual.value[1], change.value[1], atol=1e-9)


# ---- retraining ---------------------------------------------------------------------------------


def test_retraining_agrees_with_scipy(fitted, groups):
    objective = fitted.objective
    change = lo.retrain(fitted, groups)
    assert not change.status.any()
    for row, w in list(zip(change.value, groups.dense(), strict=True))[::4]:
        stays = objective.weights * (1 - w)
        reference = scipy.optimize.minimize(
            lambda t, v=stays: tuple(map(np.asarray, objective.value_and_gradient(t, v))),
            np.asarray(fitted.flat),
            jac=True,
            hess=lambda t, v=stays: np.asarray(objective.hessian(t, v)),
            method="trust-exact",
            options={"gtol": 1e-11},
        )
        # what the loss can see of softmax scores is their difference from their mean
        gap = objective.scores(fitted.flat + row) - objective.scores(jnp.asarray(reference.x))
        gap = gap - gap.mean(1, keepdims=True) if gap.shape[1] > 1 else gap
        np.testing.assert_allclose(gap, 0.0, atol=1e-7)


@pytest.mark.parametrize("fitted", mostly_slow(LOSSES, "logistic"), indirect=True)
def test_groups_with_their_own_penalty_and_start_reach_their_own_minimum(fitted, groups):
    penalties = jnp.geomspace(0.05, 20.0, len(groups))
    rng = np.random.default_rng(0)
    start = fitted.flat[None] + jnp.asarray(rng.normal(size=(len(groups), fitted.objective.p)))
    method = lo.Retrain(tolerance=1e-11)
    change = lo.retrain(fitted, groups, method, l2=penalties, start=start)
    assert not change.status.any()
    stays = fitted.objective.weights[None] * (1 - groups.dense())
    for row, v, l2 in zip(change.value, stays, penalties, strict=True):
        gradient = fitted.objective.with_l2(l2).gradient(fitted.flat + row, v)
        np.testing.assert_allclose(gradient, 0.0, atol=1e-7)


@pytest.mark.slow
def test_own_penalties_stay_well_conditioned():
    fitted = lo.fit(problem("logistic", n=200, d=12, l2=1.0))
    groups = groups_of(200, 8)
    change = lo.retrain(fitted, groups, l2=jnp.geomspace(1e-3, 1e3, 8))
    assert not change.status.any()
    assert int(change.steps.max()) < 60


@pytest.mark.slow
def test_more_groups_than_lanes_refill_the_pool():
    fitted = lo.fit(problem("logistic", n=80))
    groups = groups_of(80, 20)
    whole = lo.retrain(fitted, groups).value
    few = lo.retrain(fitted, groups, memory=60_000).value
    np.testing.assert_allclose(few, whole, atol=1e-7)


def test_running_out_of_steps_is_a_status():
    fitted = lo.fit(problem("logistic"))
    change = lo.retrain(fitted, groups_of(60), lo.Retrain(max_steps=2))
    assert lo.Status.max_steps in [lo.Status(int(code)) for code in change.status]
    assert np.isfinite(change.value).all()


def rosenbrock(points):
    def one(z):
        return jnp.sum(100 * (z[1:] - z[:-1] ** 2) ** 2 + (1 - z[:-1]) ** 2)

    return jax.vmap(jax.value_and_grad(one))(points)


def test_lbfgs_minimises_hard_functions_lane_by_lane():
    start = jnp.array([[-1.2, 1.0, -0.5], [1.0, 1.0, 1.0], [0.9, 0.8, 0.7], [3.0, -2.0, 1.0]])
    goal = jnp.full(4, 1e-9)
    answer = lbfgs.minimise(rosenbrock, start, goal, first_step=jnp.full(4, 1e-3))
    assert not answer.status.any()
    np.testing.assert_allclose(answer.value, 1.0, atol=1e-8)
    assert int(answer.steps[1]) == 1  # a lane that starts at its minimum spends one evaluation


def two_loops(state, lane, history):
    """Nocedal and Wright, algorithm 7.4, as printed."""
    newest_last = (np.arange(history) + int(state.slot)) % history
    moves, turns, curvature = (
        np.asarray(part)[lane][newest_last] for part in (state.moves, state.turns, state.curvature)
    )
    q, first = np.array(state.gradient[lane]), np.zeros(history)
    for i in reversed(range(history)):
        first[i] = curvature[i] * (moves[i] @ q)
        q -= first[i] * turns[i]
    r = float(state.scale[lane]) * q
    for i in range(history):
        r += moves[i] * (first[i] - curvature[i] * (turns[i] @ r))
    return r


@pytest.mark.slow
def test_lbfgs_directions_are_those_of_the_two_loop_recursion():
    # lanes that reject steps, a ring that goes round, and a lane begun anew over old pairs
    start = 2 * jax.random.normal(jax.random.key(0), (6, 7))
    begin = lbfgs.initialise(start, jnp.full(6, 1e-12), history=4, first_step=jnp.full(6, 1e-2))
    step = jax.jit(lambda state: lbfgs.advance(rosenbrock, state, 1))
    state, steps, gaps = begin, 0, 0
    for k in range(30):
        before, state = state, step(state)
        moved = jnp.any(state.point != before.point, axis=1)
        accepted = np.flatnonzero(moved | before.fresh)  # the others go on as they went
        if k == 15:
            state = lbfgs.restart(state, jnp.arange(6) == 2, begin, jnp.arange(6))
            continue
        for lane in accepted:
            expected = two_loops(state, lane, 4)
            scale = float(np.linalg.norm(expected))
            np.testing.assert_allclose(state.direction[lane], -expected, atol=1e-8 * scale)
        steps, gaps = steps + accepted.size, gaps + int(jnp.sum(state.curvature[accepted] == 0))
    assert steps > 100
    assert gaps > 100


def test_one_bad_lane_does_not_poison_the_others():
    def function(points):
        value = jnp.sum((points - 1) ** 2, axis=1)
        bad = jnp.array([False, True, False])
        return jnp.where(bad, jnp.nan, value), 2 * (points - 1)

    answer = lbfgs.minimise(function, jnp.zeros((3, 2)), jnp.full(3, 1e-10))
    assert [int(code) for code in answer.status] == [0, lo.Status.nonfinite, 0]
    np.testing.assert_allclose(answer.value[jnp.array([0, 2])], 1.0, atol=1e-9)


# ---- effects ------------------------------------------------------------------------------------


def test_adjoint_and_forward_influence_are_the_same_numbers(fitted, groups):
    measures = measures_of(fitted.objective)
    adjoint = lo.effects(fitted, groups, measures, lo.Influence())
    change = lo.influence(fitted, groups).value
    bound = [measure.bind(fitted.objective) for measure in lo.measures.as_measures(measures)]
    for row, (delta, w) in enumerate(zip(change, groups.dense(), strict=True)):
        forward = [
            jax.jvp(lambda t, b=b, w=jnp.asarray(w): b.values(fitted.objective, t, w),
                    (fitted.flat,), (delta,))[1]
            for b in bound
        ]  # fmt: skip
        np.testing.assert_allclose(adjoint.value[row], jnp.concatenate(forward), atol=1e-10)


def test_self_loss_to_first_order_is_a_quadratic_form(fitted, groups):
    effects = lo.effects(fitted, groups, lo.measures.self_loss(), lo.Influence())
    taken = fitted.objective.weights[None] * groups.dense()
    gradients = jax.vmap(fitted.expansion().gradient)(taken)
    expected = jnp.sum(gradients * fitted.metric.solve(gradients), axis=1)
    np.testing.assert_allclose(effects.value[:, 0], expected, rtol=1e-10)
    actual = lo.effects(fitted, groups, lo.measures.self_loss(), lo.Retrain())
    assert (actual.value > 0).all()


def test_effects_evaluate_at_the_changed_theta(fitted, groups):
    measures = measures_of(fitted.objective)
    for method in (lo.Newton(), lo.Retrain(), lo.Influence(at_changed=True)):
        effects = lo.effects(fitted, groups, measures, method)
        change = method.change(fitted, groups).value
        design = fitted.objective.design[:3]
        before = fitted.objective.scores(fitted.flat, design)
        predictions = jax.vmap(
            lambda c, d=design, b=before: fitted.objective.scores(fitted.flat + c, d) - b
        )
        flat = predictions(change).reshape(len(groups), -1)
        np.testing.assert_allclose(effects.value[:, : flat.shape[1]], flat, atol=1e-8)


def test_linearised_newton_equals_newton_on_linear_measures_only():
    fitted, groups = lo.fit(problem("logistic")), groups_of(60)
    measures = [lo.measures.parameter(0), lo.measures.self_loss()]
    full = lo.effects(fitted, groups, measures, lo.Newton())
    linear = lo.effects(fitted, groups, measures, lo.Newton(linearised=True))
    np.testing.assert_allclose(linear.value[:, 0], full.value[:, 0], atol=1e-12)
    assert np.abs(linear.value[:, 1] - full.value[:, 1]).max() > 1e-3


def test_per_point_influence_sums_to_groups(fitted, groups):
    measures = [m for m in lo.measures.as_measures(measures_of(fitted.objective)) if not m.needs_w]
    points = lo.per_point(fitted, measures)
    sums = groups.dense() @ np.asarray(points)
    effects = lo.effects(fitted, groups, measures, lo.Influence())
    np.testing.assert_allclose(effects.value, sums, atol=1e-10)
    with pytest.raises(ValueError, match="self_loss depends on who leaves together"):
        lo.per_point(fitted, lo.measures.self_loss())


def test_a_function_of_theta_and_w_is_a_measure():
    fitted, groups = lo.fit(problem("logistic")), groups_of(60)
    objective = fitted.objective

    def own_loss(theta, w):
        return jnp.sum(w * objective.weights * objective.losses(objective.flat(theta)))

    for method in (lo.Influence(), lo.Newton()):
        mine = lo.effects(fitted, groups, own_loss, method)
        ours = lo.effects(fitted, groups, lo.measures.self_loss(), method)
        np.testing.assert_allclose(mine.value, ours.value, atol=1e-12)
    assert mine.columns == ("own_loss",)


def test_reduced_measures_are_sums_and_means_of_columns(fitted, groups):
    x, y = np.asarray(fitted.objective.x[:4]), np.asarray(fitted.objective.y[:4])
    for method in (lo.Influence(), lo.Newton()):
        each = lo.effects(fitted, groups, lo.measures.loss((x, y)), method).value
        for reduce, total in (("sum", each.sum(1)), ("mean", each.mean(1))):
            one = lo.effects(fitted, groups, lo.measures.loss((x, y), reduce=reduce), method)
            np.testing.assert_allclose(one.value[:, 0], total, atol=1e-11)


def test_margins_are_log_odds_of_the_true_label():
    for name in ("logistic", "softmax"):
        objective = problem(name)
        fitted, x, y = lo.fit(objective), objective.x[:3], objective.y[:3].astype(int)
        margin = lo.measures.margin((np.asarray(x), np.asarray(y))).bind(fitted.objective)
        loss = lo.measures.loss((np.asarray(x), np.asarray(y))).bind(fitted.objective)
        values = margin.values(fitted.objective, fitted.flat, None)
        losses = loss.values(fitted.objective, fitted.flat, None)
        np.testing.assert_allclose(jax.nn.softplus(-values), losses, rtol=1e-12)


def test_effects_survive_saving(tmp_path, fitted, groups):
    effects = lo.effects(fitted, groups, measures_of(fitted.objective), lo.Newton())
    effects.save(tmp_path / "effects.npz")
    again = lo.load(tmp_path / "effects.npz")
    np.testing.assert_array_equal(again.value, effects.value)
    np.testing.assert_array_equal(again.groups.dense(), groups.dense())
    assert (again.columns, again.measure, again.method) == (
        effects.columns,
        effects.measure,
        "Newton",
    )
    table = effects.to_pandas()
    assert len(table) == effects.value.size
    np.testing.assert_array_equal(table["effect"].to_numpy().reshape(effects.value.shape)[:, 0],
                                  effects.value[:, 0])  # fmt: skip
    assert effects.to_xarray()["effect"].shape == effects.value.shape
    np.savez(tmp_path / "other.npz", a=np.ones(2))
    with pytest.raises(ValueError, match="does not hold effects saved by leaveout"):
        lo.load(tmp_path / "other.npz")


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda f, g: lo.newton(f, groups_of(50)), "made for n=50 examples.*has n=60"),
        (lambda f, g: lo.newton(f.objective, g), "expected a Fit"),
        (lambda f, g: lo.newton(f, g, steps=0), "at least one step, got steps=0"),
        (lambda f, g: lo.influence(f, wrong(np.ones((2, 60)))), r"expected lo\.Groups"),
        (lambda f, g: lo.retrain(f, g, l2=np.ones(3)), r"l2 of shape \(9,\)"),
        (lambda f, g: lo.retrain(f, g, l2=-np.ones(9)), "penalties >= 0, got -1"),
        (lambda f, g: lo.retrain(f, g, wrong(1e-8)), r"lo\.Retrain"),
        (lambda f, g: lo.effects(f, g, []), "at least one measure"),
        (lambda f, g: lo.effects(f, g, wrong(3)), "a measure or a function of theta, got int"),
        (lambda f, g: lo.effects(f, g, lambda: 1.0), "of 0 arguments"),
        (
            lambda f, g: lo.effects(f, g, lo.measures.self_loss(), wrong("newton")),
            "a method such as",
        ),
        (lambda f, g: lo.effects(f, g, lo.measures.prediction(np.ones((2, 9)))), r"\(m, 4\)"),
        (lambda f, g: lo.measures.prediction(np.ones(4)), r"write x\[None\]"),
        (lambda f, g: lo.measures.loss((np.ones((2, 4)), [1])), "one target for each of the 2"),
        (lambda f, g: lo.effects(f, g, lo.measures.self_loss(), memory=-1), "positive number"),
        (lambda f, g: lo.effects(f, g, lo.measures.parameter(99)), "theta has 5 entries"),
    ],
)
@pytest.mark.usefixtures("as_users_run_it")
def test_the_verbs_refuse_groups_of_other_data_wrong_types_and_wrong_shapes(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call(lo.fit(problem("logistic")), groups_of(60))


@of_processors
@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("logistic", None),
        pytest.param("softmax", "fractional", marks=pytest.mark.slow),
        pytest.param("logistic", "fractional", marks=pytest.mark.slow),
        pytest.param("softmax", None, marks=pytest.mark.slow),
    ],
)
def test_small_groups_of_many_points_are_looked_at_one_by_one(name, weights):
    """Where lists of rows serve instead of products with all the data, the answers are the same."""
    objective = problem(name, n=400, l2=0.5)
    fit, rng = lo.fit(objective), np.random.default_rng(0)
    lists = [rng.choice(400, k, replace=False) for k in (1, 1, 2, 3, 1)]
    groups = lo.Groups.from_indices(lists, n=400)
    if weights:
        groups = lo.Groups.from_weights(groups.dense() * rng.uniform(-1, 1, (5, 400)))
    assert worth_listing(fit, fit.expansion(), groups)
    assert fit.metric is not None
    h, expansion = np.asarray(fit.metric.lower @ fit.metric.lower.T), fit.expansion()
    first, step = lo.influence(fit, groups), lo.newton(fit, groups)
    own = self_influence(fit, groups).value
    for i, taken in enumerate(objective.weights[None] * groups.dense()):
        g, left = np.asarray(expansion.gradient(taken)), h - np.asarray(expansion.hessian(taken))
        np.testing.assert_allclose(first.value[i], np.linalg.solve(h, g), atol=1e-12)
        np.testing.assert_allclose(step.value[i], np.linalg.solve(left, g), atol=1e-12)
        np.testing.assert_allclose(own[i, 0], g @ np.linalg.solve(h, g), rtol=1e-10)
    assert not first.status.any()
    assert not step.status.any()


@pytest.mark.slow
def test_curvature_at_the_end_is_that_of_the_hessian():
    some = problem("softmax", n=600, l2=0.5)  # more than one block, the last one not full
    fit, rng = lo.fit(some), np.random.default_rng(0)
    stays, l2 = jnp.asarray(rng.uniform(size=(4, 600))), jnp.asarray([0.1, 0.5, 1.0, 5.0])
    coordinates = around(fit, own_l2=True)
    u = jnp.asarray(rng.normal(size=(4, some.p)))
    bend = coordinates.curvature(u, stays, l2)
    theta = coordinates.theta(u, l2)
    hessian = jax.jit(lambda theta, stays, l2: some.with_l2(l2).hessian(theta, stays))
    for i in range(4):
        own, change = np.asarray(hessian(theta[i], stays[i], l2[i])), theta[i] - fit.flat
        np.testing.assert_allclose(bend.along[i], change @ own @ change, rtol=1e-10)
        np.testing.assert_allclose(bend.left[i], np.diagonal(own)[-3:], rtol=1e-10)
    before = np.asarray(hessian(fit.flat, some.weights, 0.5))
    np.testing.assert_allclose(bend.whole, np.diagonal(before)[-3:], rtol=1e-10)


@pytest.mark.slow
def test_a_penalty_of_its_own_holds_what_a_group_leaves_bare():
    rng = np.random.default_rng(0)
    x = np.c_[rng.normal(size=80), np.arange(80) < 10]  # only the group has the second feature
    y = rng.integers(2, size=80)
    fit, groups = lo.fit(lo.logistic(x, y, l2=0.0)), lo.Groups.from_indices([np.arange(10)], n=80)
    assert lo.retrain(fit, groups).status[0] == lo.Status.no_minimum
    change = lo.retrain(fit, groups, l2=np.ones(1))
    assert change.status[0] == lo.Status.converged
    np.testing.assert_allclose(fit.flat[1] + change.value[0, 1], 0.0, atol=1e-6)


def test_few_groups_of_all_sizes_are_solved_by_one_program(monkeypatch):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1500, 100))
    fit = lo.fit(lo.logistic(x, x[:, 0] + rng.logistic(size=1500) > 0, l2=1.0))
    drawn = [rng.choice(1500, size, replace=False) for size in (1, 3, 20, 200, 600)]
    groups = lo.Groups.from_indices(drawn, n=1500)
    expansion, seen = fit.objective.at(fit.flat), with_rows(fit, 10**9)

    def solved():
        plan = newton_batches.plan_of(seen, expansion, groups, lo.solvers.Auto(), 1)
        return {type(batch.solver).__name__ for batch in plan}, lo.newton(fit, groups)

    one, together = solved()
    assert one == {"Cholesky"}
    monkeypatch.setattr(newton_batches, "_PROGRAM", 0.0)  # what compiling costs
    several, apart = solved()
    assert several == {"CG", "Cholesky"}
    np.testing.assert_allclose(together.value, apart.value, rtol=1e-6, atol=1e-9)
