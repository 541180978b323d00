"""Weights in absolute terms: what an example gets, whether it had a base weight or not."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import leaveout as lo
from problems import groups_of, linear, measures_of, mostly_slow, problem

N = 40
L2 = 0.5
EXACT = lo.Retrain(1e-12)
CELL = lo.measures.parameter([0])
SILENT = [3, 8, 21]  # examples that are known and have no weight
METHODS = [
    lo.Influence(),
    lo.Influence(at_changed=True),
    lo.SecondOrder(),
    lo.Krylov(),
    lo.Newton(),
    lo.NewtonChebyshev(),
    EXACT,
]


def unequal(n=N):
    """Base weights, some of them 0."""
    s = np.linspace(0.5, 1.5, n)
    s[SILENT] = 0.0
    return s


def raw(fit):
    """Inputs and targets as they were given."""
    objective = linear(fit)
    return np.asarray(objective.x), np.asarray(objective.y)


def rebuilt(x, y, v, name="logistic"):
    """Theta of a model without intercept whose examples have weights v: Newton by hand."""
    theta, gradient = np.zeros(x.shape[1]), np.ones(1)
    for _ in range(30):
        score = x @ theta
        mean = score if name == "squares" else 1 / (1 + np.exp(-score))
        bend = np.ones(len(x)) if name == "squares" else mean * (1 - mean)
        gradient = x.T @ (v * (mean - y)) + L2 * theta
        theta = theta - np.linalg.solve((x.T * (v * bend)) @ x + L2 * np.eye(len(theta)), gradient)
    assert np.abs(gradient).max() < 1e-10
    return theta


@pytest.fixture(scope="module")
def silent():
    """A logistic fit in which some examples have no base weight."""
    return lo.fit(problem("logistic", n=N, l2=L2, weights=unequal(), intercept=False))


@pytest.fixture(scope="module")
def squared():
    """The same by least squares, where a Newton step is exact."""
    return lo.fit(problem("squares", n=N, l2=L2, weights=unequal(), intercept=False))


# ---- what an example gets ------------------------------------------------------------------------


def test_an_example_gets_s_less_what_leaves_and_minus_w_where_there_was_nothing(silent):
    objective, s = silent.objective, unequal()
    w = np.random.default_rng(0).uniform(-2, 1, (3, N))
    for row, gets, loses in zip(w, objective.stays(w), objective.taken(w), strict=True):
        for i in range(N):
            expected = s[i] - s[i] * row[i] if s[i] else max(-row[i], 0)
            assert gets[i] == pytest.approx(expected, abs=1e-15)
            assert loses[i] == pytest.approx(s[i] - expected, abs=1e-15)
    np.testing.assert_array_equal(objective.stays(w[0]), objective.stays(w)[0])


@pytest.mark.parametrize("name", ["logistic", "squares"])
def test_an_example_without_weight_whose_w_is_minus_two_is_there_with_weight_two(
    name, silent, squared
):
    fit = silent if name == "logistic" else squared
    w = np.zeros((2, N))
    w[0, SILENT[0]] = -2.0
    w[1, SILENT] = -0.5, -1.0, 0.7  # nothing of the last can leave
    w[1, 10], w[1, 11] = 1.0, 0.25  # while others do
    groups = lo.Groups.from_weights(w)
    change = lo.retrain(fit, groups, EXACT)
    assert not change.status.any()
    s = unequal()
    v = np.stack([s, s])
    v[0, SILENT[0]] = 2.0
    v[1, SILENT[0]], v[1, SILENT[1]], v[1, 10] = 0.5, 1.0, 0.0
    v[1, 11] *= 0.75
    there = np.stack([rebuilt(*raw(fit), row, name) for row in v])
    np.testing.assert_allclose(change.value + fit.flat[None], there, atol=1e-8)
    if name == "squares":  # one step is exact
        step = lo.newton(fit, groups).value
        np.testing.assert_allclose(step + fit.flat[None], there, atol=1e-10)


@pytest.mark.parametrize(
    "method", mostly_slow(METHODS, lo.Influence(), lo.Newton(), lo.Retrain()), ids=lambda m: m.name
)
def test_nobody_and_examples_of_no_weight_move_nothing(silent, method):
    groups = lo.Groups.from_indices([[], SILENT[:1], [1, 2], SILENT], n=N, coalitions=True)
    found = lo.effects(silent, groups, measures_of(silent.objective, 1), method)
    assert not found.status.any()
    np.testing.assert_allclose(found.value[[0, 1, 3]], 0, atol=1e-12)
    assert np.abs(found.value[2]).min() > 1e-5
    change = np.asarray(method.change(silent, groups).value)
    np.testing.assert_allclose(change[[0, 1, 3]], 0, atol=1e-12)


def test_an_example_of_no_weight_makes_no_difference_to_a_group_that_lists_it(silent):
    with_it = lo.Groups.from_indices([[1, 2, SILENT[0]], [5, *SILENT]], n=N)
    without = lo.Groups.from_indices([[1, 2], [5]], n=N)
    for verb in (lo.influence, lo.newton):
        one, other = verb(silent, with_it).value, verb(silent, without).value
        np.testing.assert_allclose(one, other, atol=1e-13)
    one, other = (lo.credit(silent, each, CELL, null=0) for each in (with_it, without))
    np.testing.assert_allclose(one.loss, other.loss, rtol=1e-14)
    np.testing.assert_allclose(one.leverage, other.leverage, rtol=1e-14)
    np.testing.assert_allclose(one.self_influence, other.self_influence, rtol=1e-12)
    np.testing.assert_allclose(one.best.value, other.best.value, atol=1e-13)


def test_an_example_of_no_weight_is_not_heard_however_wrong_it_is():
    """Its loss overflows: 0 * inf would be no number."""
    rng = np.random.default_rng(0)
    x, s = rng.normal(size=(N, 2)), np.ones(N)
    y, s[0] = rng.poisson(np.exp(x[:, 0])), 0.0
    x[0] = 1e5, 0
    fit = lo.fit(lo.poisson(x, y, l2=1.0, weights=s, intercept=False))
    assert np.isinf(fit.objective.losses(fit.flat)[0])
    x[0], groups = 0.0, lo.Groups.from_indices([[0, 1, 2]], n=N)
    tame = lo.fit(lo.poisson(x, y, l2=1.0, weights=s, intercept=False))
    np.testing.assert_allclose(fit.flat, tame.flat, atol=1e-10)
    one, other = (lo.newton(each, groups).value for each in (fit, tame))
    np.testing.assert_allclose(one, other, atol=1e-10)


# ---- adding --------------------------------------------------------------------------------------

NEW = 4
SEEN = N - NEW
EXTRA = np.array([0.3, 2.0, 1.0, 0.8])  # base weights of the points that are added


@pytest.fixture(scope="module", params=mostly_slow(["logistic", "squares"], "logistic"))
def extended(request):
    """A fit to some examples, to which the last four are added: two by two, and in part."""
    name = request.param
    whole = problem(name, n=N)
    x, y, s = np.asarray(whole.x), np.asarray(whole.y), np.linspace(0.5, 1.5, SEEN)
    model = getattr(lo, name)(x[:SEEN], y[:SEEN], L2, weights=s, intercept=False)
    parts = np.array([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.5]])
    groups = lo.Groups.from_weights(parts, names=["a", "b"])
    fit, added = lo.add(lo.fit(model), (x[SEEN:], y[SEEN:]), groups, weights=EXTRA)
    v = np.concatenate([np.broadcast_to(s, (2, SEEN)), parts * EXTRA], axis=1)

    def there(share):
        """Theta (g p) with this share of every added point, each model fitted by itself."""
        each = np.concatenate([v[:, :SEEN], share * v[:, SEEN:]], axis=1)
        return np.stack([rebuilt(x, y, row, name) for row in each])

    return name, fit, added, parts * EXTRA, there


def test_what_adds_is_minus_the_weight_that_it_gets(extended):
    _, fit, added, gets, _ = extended
    dense = added.dense()
    np.testing.assert_array_equal(dense[:, :SEEN], 0)
    np.testing.assert_array_equal(dense[:, SEEN:], -gets)
    np.testing.assert_array_equal(fit.objective.weights[SEEN:], 0)
    np.testing.assert_allclose(fit.objective.stays(dense)[:, SEEN:], gets)


def test_retraining_with_added_points_is_the_model_rebuilt(extended):
    name, fit, added, _, there = extended
    actual = there(1.0) - np.asarray(fit.flat)
    np.testing.assert_allclose(lo.retrain(fit, added, EXACT).value, actual, atol=1e-8)
    step = np.asarray(lo.newton(fit, added).value)
    error = np.abs(step - actual).max() / np.abs(actual).max()
    assert error < (1e-10 if name == "squares" else 0.2)


def test_influence_of_adding_is_the_derivative_of_the_model_rebuilt(extended):
    """And additions by a solve a column are those by theta, to first order."""
    _, fit, added, _, there = extended
    h, flat = 1e-3, np.asarray(fit.flat)
    # one-sided, of second order: no point can be there with less than nothing
    derivative = (4 * there(h) - there(2 * h) - 3 * flat) / (2 * h)
    influence = np.asarray(lo.influence(fit, added).value)
    scale = np.abs(influence).max()
    np.testing.assert_allclose(influence, derivative, atol=2e-5 * max(scale, 1))
    x, _ = raw(fit)
    predict = lo.measures.prediction(x[:3])
    adjoint = lo.effects(fit, added, predict, lo.Influence()).value
    bound = predict.bind(fit.objective)
    slopes = jax.jacfwd(lambda theta: bound.values(fit.objective, theta, None))(fit.flat)
    np.testing.assert_allclose(adjoint, influence @ np.asarray(slopes).T, atol=1e-12)


def test_a_function_of_what_left_gets_minus_the_weights_that_are_added(extended):
    _, fit, added, gets, _ = extended

    def f(theta, w):
        return w * (1 + jnp.sum(theta.weight))

    for method in (lo.Newton(), lo.Influence()):
        found = lo.effects(fit, added, f, method).value
        moved = np.asarray(jax.vmap(linear(fit).tree)(method.change(fit, added).value).weight)
        moved = moved.reshape(2, -1).sum(axis=1)
        np.testing.assert_allclose(found[:, SEEN:], -gets * moved[:, None], atol=1e-12)
        np.testing.assert_array_equal(found[:, :SEEN], 0)


def test_the_own_loss_of_added_points_is_minus_their_weight_times_their_loss(extended):
    name, fit, added, gets, _ = extended
    x, y = raw(fit)

    def loss(flat):
        """By hand."""
        score = x @ np.asarray(flat)
        if name == "squares":
            return (score - y) ** 2 / 2
        return np.logaddexp(0, score) - y * score

    now = loss(fit.flat)
    before = -(gets * now[SEEN:]).sum(axis=1)
    change = lo.newton(fit, added).value
    after = [-(g * loss(fit.flat + c)[SEEN:]).sum() for g, c in zip(gets, change, strict=True)]
    found = lo.effects(fit, added, lo.measures.self_loss(), lo.Newton())
    np.testing.assert_allclose(found.value[:, 0], after - before, atol=1e-11)
    np.testing.assert_allclose(lo.credit(fit, added, lo.measures.self_loss(), null=0).loss, before)
    with pytest.raises(ValueError, match="what is added, or counts for more, is not held out"):
        lo.cross_validate_groups(fit, added)


# ---- coalitions ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["logistic", "squares"])
def test_what_stays_alone_is_the_model_fitted_to_it_alone(name, silent, squared):
    """A few, everybody, or nobody: then nothing but the penalty is left."""
    fit = silent if name == "logistic" else squared
    stays = np.zeros((4, N))
    stays[0, 4] = stays[1, [0, 5, 6, 7, 30]] = stays[2] = 1.0
    groups = lo.Groups.from_masks(stays == 0, names=["one", "few", "all", "none"], coalitions=True)
    x, y = raw(fit)
    alone = np.stack([rebuilt(x, y, unequal() * row, name) for row in stays])
    np.testing.assert_allclose(alone[2:], [fit.flat, np.zeros(4)], atol=1e-10)
    change = lo.retrain(fit, groups, EXACT)
    assert not change.status.any()
    np.testing.assert_allclose(change.value + fit.flat[None], alone, atol=1e-7)
    step = np.asarray(lo.newton(fit, groups).value + fit.flat[None])
    exact = slice(None) if name == "squares" else slice(2, None)
    np.testing.assert_allclose(step[exact], alone[exact], atol=1e-9)


@pytest.mark.slow
def test_of_the_empty_coalition_of_several_outputs_only_the_penalty_is_left():
    fit = lo.fit(problem("softmax", n=N, intercept=False))
    groups = lo.Groups.from_masks(np.ones((1, N), bool), coalitions=True)
    for change in (lo.retrain(fit, groups, EXACT), lo.newton(fit, groups)):
        assert not change.status.any()
        np.testing.assert_allclose(change.value[0], -fit.flat, atol=1e-7)


@pytest.mark.slow
def test_the_effects_of_coalitions_are_certified(squared):
    """At the model of nobody, theta = 0, as at others."""
    groups = lo.Groups.from_indices([range(N), [], [1, 2]], n=N, coalitions=True)
    found = lo.effects(squared, groups, CELL, lo.Newton(), certify=True)
    assert found.lower is not None
    assert found.upper is not None
    x, y = raw(squared)
    v = unequal() * (1 - groups.dense())
    there = [rebuilt(x, y, row, "squares")[0] for row in v]
    actual = np.array(there) - squared.flat[0]
    assert (found.lower[:, 0] <= actual + 1e-9).all()
    assert (actual <= found.upper[:, 0] + 1e-9).all()
    assert np.isfinite(found.width).all()


def test_reports_on_an_empty_group_say_nothing_of_it(silent):
    """Without a warning: neither a division by its size nor an index beyond the end."""
    groups = lo.Groups.from_indices([[1, 2], []], n=N, coalitions=True)
    measure = lo.measures.parameter([0, 1])
    trust = lo.trust(silent, groups)
    assert trust.light[1] == lo.Light.green
    assert trust.error[1] == trust.leverage[1] == 0
    assert lo.bounds.shares(silent, groups)[1] == 0
    credit = lo.credit(silent, groups, measure, lo.Influence(), null=5)
    assert credit.loss[1] == credit.self_influence[1] == credit.leverage[1] == 0


@pytest.mark.parametrize(
    "report",
    [
        lambda fit, groups: lo.credit(fit, groups, CELL, lo.Influence(), null=0).to_pandas(),
        lambda fit, groups: lo.credit(fit, groups, CELL, lo.Influence(), null=0).table(),
        lambda fit, groups: repr(lo.cross_validate_groups(fit, groups, lo.Influence())),
        lambda fit, groups: lo.bounds.copies(fit, groups),
    ],
    ids=["pandas", "table", "held out", "copies"],
)
def test_a_report_does_not_break_on_an_empty_group(silent, report):
    groups = lo.Groups.from_indices([[1, 2], []], n=N, coalitions=True)
    assert len(report(silent, groups))


# ---- constructors --------------------------------------------------------------------------------

NOBODY, EVERYBODY = np.zeros((1, N), bool), np.ones((1, N), bool)
CONSTRUCTORS = {
    "indices": lambda mask, **o: lo.Groups.from_indices([np.flatnonzero(mask)], n=N, **o),
    "masks": lambda mask, **o: lo.Groups.from_masks(mask, **o),
    "weights": lambda mask, **o: lo.Groups.from_weights(mask.astype(float), **o),
}


@pytest.mark.parametrize("make", CONSTRUCTORS.values(), ids=CONSTRUCTORS)
@pytest.mark.parametrize(
    ("mask", "sentence"),
    [(NOBODY, "group 'mine' is empty"), (EVERYBODY, "group 'mine' removes every example")],
    ids=["nobody", "everybody"],
)
def test_nobody_and_everybody_are_groups_of_coalitions_only(make, mask, sentence):
    with pytest.raises(ValueError, match=sentence):
        make(mask, names=["mine"])
    groups = make(mask, names=["mine"], coalitions=True)
    assert groups.coalitions
    np.testing.assert_array_equal(groups.dense(), mask)


def test_coalitions_survive_files_indexing_and_algebra(tmp_path, squared):
    groups = lo.Groups.from_indices([[], range(N), [1, 2]], n=N, coalitions=True)
    groups.save(tmp_path / "groups.npz")
    loaded = lo.Groups.load(tmp_path / "groups.npz")
    lo.effects(squared, groups, CELL, lo.Newton()).save(tmp_path / "effects.npz")
    stored = lo.load(tmp_path / "effects.npz").groups
    for each in (loaded, stored, groups[:], groups[[0, 1, 2]], ~~groups, groups | groups):
        assert each.coalitions
        np.testing.assert_array_equal(each.dense(), groups.dense())
    strict = lo.Groups.from_indices([[4, 5]], n=N)
    assert not strict.coalitions
    for each in (groups + strict, strict + groups):
        assert each.coalitions
        assert sorted(each.size) == [0, 2, 2, N]
    np.testing.assert_array_equal((~groups).size, [N, 0, N - 2])
    assert (~groups).coalitions
    assert (groups & strict).size.tolist() == [0, 2, 0]
    assert (groups - groups).size.tolist() == [0, 0, 0]


def test_groups_that_are_no_coalitions_still_cannot_become_empty(squared):
    strict = lo.Groups.from_indices([[4, 5]], n=N)
    for make in (lambda: strict - strict, lambda: strict & lo.Groups.from_indices([[1]], n=N)):
        with pytest.raises(ValueError, match="is empty"):
            make()
    with pytest.raises(ValueError, match="removes every example"):
        strict | ~strict


# ---- reweighting ---------------------------------------------------------------------------------


def test_reweighting_by_two_is_the_model_with_twice_the_weights(silent):
    """Of an example without weight twice nothing is nothing."""
    groups = lo.Groups.from_indices([[1, 2, *SILENT], [SILENT[0], 30]], n=N, names=["a", "b"])
    doubled = lo.reweight(groups, 2.0)
    change = lo.retrain(silent, doubled, EXACT)
    v = unequal() * np.where(groups.dense() > 0, 2.0, 1.0)
    there = np.stack([rebuilt(*raw(silent), row) for row in v])
    np.testing.assert_allclose(change.value + silent.flat[None], there, atol=1e-8)
    first = lo.influence(silent, doubled).value
    np.testing.assert_allclose(first, -lo.influence(silent, groups).value, atol=1e-13)

    def left(theta, w):
        return w * theta.weight.sum()

    moved = lo.effects(silent, doubled, left, lo.Influence()).value
    assert not moved[:, SILENT].any()  # what f(theta, w) is told
    assert moved[0, 1] != 0


def test_doubled_groups_survive_their_files(tmp_path, silent):
    doubled = lo.reweight(lo.Groups.from_indices([[1, *SILENT]], n=N), 2.0)
    doubled.save(tmp_path / "groups.npz")
    again = lo.Groups.load(tmp_path / "groups.npz")
    one, other = (lo.influence(silent, each).value for each in (doubled, again))
    np.testing.assert_array_equal(one, other)


def test_no_more_of_a_point_can_leave_than_there_is():
    adding = lo.Groups.from_weights(-3.0 * np.eye(N)[:2], names=["a", "mine"])
    with pytest.raises(ValueError, match="group 'mine'"):
        lo.reweight(adding, [1.0, 2.0])
    with pytest.raises(ValueError, match="group 'mine' removes 2 of point 1"):
        adding.with_w(np.array([1.0, 2.0]))
    some = lo.Groups.from_indices([[0], [1]], n=N, names=["a", "mine"])
    for w in (np.nan, np.inf, -np.inf):
        with pytest.raises(ValueError, match="group 'mine' removes"):
            some.with_w(np.array([1.0, w]))


@pytest.mark.parametrize("factor", [0.0, 0.25])
def test_groups_that_add_can_be_reweighted_to_add_less(extended, factor):
    """A factor of 0 is no change to what a group does, one of 1/4 leaves three quarters of it."""
    _, fit, added, gets, _ = extended
    less = lo.reweight(added, factor)
    np.testing.assert_allclose(less.dense()[:, SEEN:], -(1 - factor) * gets)
    found = lo.influence(fit, less).value
    np.testing.assert_allclose(found, (1 - factor) * lo.influence(fit, added).value, atol=1e-13)


def test_a_reweighted_group_is_relabelled_in_part(squared):
    """Half of each of its points leaves, and half comes back under the other label."""
    groups = lo.Groups.from_indices([[0, 1, 2], [5, 30]], n=N)
    x, y = raw(squared)
    changed, both = lo.relabel(squared, lo.reweight(groups, 0.5), -y)
    change = lo.newton(changed, both).value
    s = unequal()
    for row, w in zip(change, groups.dense(), strict=True):
        v = np.r_[s * (1 - w / 2), s * w / 2]
        there = rebuilt(np.vstack([x, x]), np.r_[y, -y], v, "squares")
        np.testing.assert_allclose(row + squared.flat, there, atol=1e-10)


def test_reweighted_groups_and_the_empty_coalition_go_together():
    empty = lo.Groups.from_indices([[]], n=N, coalitions=True)
    doubled = lo.reweight(groups_of(N, 3), 2.0)
    for both in (doubled + empty, empty + doubled):
        assert len(both) == 4
        assert both.scaled
        assert both.coalitions


def test_groups_that_double_and_groups_that_add_do_not_go_together():
    adding = lo.Groups.from_weights(-np.eye(N)[:1])
    with pytest.raises(ValueError, match="do not go with groups that add points"):
        lo.reweight(groups_of(N, 3), 2.0) + adding


# ---- the source ----------------------------------------------------------------------------------


def test_no_tiny_weight_stands_for_none():
    """Points that wait have weight 0, not 2 to the minus 60."""
    tiny = re.compile(r"UNSEEN|2(\.0*)?\s*\*\*\s*\(?-\s*60|0x1p-60|8\.67\d*e-19", re.IGNORECASE)
    files = sorted(Path(lo.__file__).parent.rglob("*.py"))
    assert len(files) > 50
    found = [str(path) for path in files if tiny.search(path.read_text())]
    assert found == []


# ---- where something is 0 ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ridge():
    """Least squares of eight examples, one of which has no weight: inputs, targets, weights."""
    rng = np.random.default_rng(0)
    x, y, s = rng.normal(size=(8, 2)), rng.normal(size=8), np.linspace(0.5, 2.0, 8)
    s[3] = 0.0
    return x, y, s, lo.fit(lo.squares(x, y, l2=1.0, weights=s, intercept=False))


def test_of_a_point_without_weight_nothing_can_leave(ridge):
    x, y, s, fit = ridge
    each = np.asarray(lo.per_point(fit, lo.measures.parameter([0, 1])))
    matrix = (x.T * s) @ x + np.eye(2)
    off = s * (x @ np.linalg.solve(matrix, x.T @ (s * y)) - y)
    np.testing.assert_allclose(each, np.linalg.solve(matrix, (off[:, None] * x).T).T, atol=1e-9)
    np.testing.assert_array_equal(each[3], 0.0)


def test_a_refit_may_be_without_any_penalty(ridge):
    x, y, s, fit = ridge
    lists = [[0], [1, 5]]
    groups = lo.Groups.from_indices(lists, n=8)
    found = lo.newton(fit, groups, l2=np.zeros(2))
    assert not found.status.any()
    for gone, change in zip(lists, found.value, strict=True):
        root = np.sqrt(np.delete(s, gone))
        rows, targets = np.delete(x, gone, 0) * root[:, None], np.delete(y, gone) * root
        expected = np.linalg.lstsq(rows, targets, rcond=None)[0]
        np.testing.assert_allclose(fit.flat + change, expected, atol=1e-9)
    with pytest.raises(ValueError, match=r"finite penalties >= 0, got -0\.5"):
        lo.newton(fit, groups, l2=np.array([0.0, -0.5]))
