"""Sets that matter: never worse than one pass, near the best there is, proven where said."""

import itertools
from fractions import Fraction

import jax
import numpy as np
import pytest

import leaveout as lo
from leaveout.analysis.exact import Leaving, Rows, upper_limits
from leaveout.analysis.scores import toggled
from problems import mostly_slow


def drawn(seed=0, n=40, d=3, kind=lo.logistic, l2=0.5, heavy=False):
    """A model of drawn data: its fit, and the data."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d)) * (rng.lognormal(size=(n, 1)) if heavy else 1.0)
    score = x @ rng.standard_normal(d)
    noise = rng.standard_t(3, size=n) if kind is lo.squares else rng.logistic(size=n)
    y = score + noise if kind is lo.squares else (score + noise > 0).astype(int)
    return lo.fit(kind(x, y, l2=l2)), x, y


@pytest.fixture(scope="module")
def logistic():
    fit, x, y = drawn()
    return fit, lo.measures.loss((x[:2], y[:2])), x, y


@pytest.fixture(scope="module")
def found(logistic):
    fit, measure, *_ = logistic
    return lo.extreme(fit, measure, [4, 0.2], direction=(1, -1))


@pytest.fixture(scope="module")
def squares():
    return drawn(1, 60, 3, lo.squares, 0.0)


def best_of_all(fit, measure, size, direction):
    """The largest effect of any set of a size that leaves a minimum, all of them retrained."""
    n = fit.objective.n
    groups = lo.Groups.from_indices(list(itertools.combinations(range(n), size)), n=n)
    actual = lo.effects(fit, groups, measure, lo.Retrain())
    return (direction * actual.value[actual.status == 0, 0]).max()


# ---- the most influential sets -------------------------------------------------------------------


def test_what_is_reported_is_what_effects_says(logistic, found):
    fit, measure, *_ = logistic
    again = lo.effects(fit, found.groups, measure, lo.Retrain())
    np.testing.assert_array_equal(found.effects.value, again.value)
    assert found.groups.size.tolist() == found.size.tolist() == [4, 4, 8, 8] * 2
    assert found.groups.names[0] == "loss[0] up, 4"
    assert found.groups.names[-1] == "loss[1] down, 8"


def test_it_is_never_worse_than_one_pass(found):
    assert (found.direction * found.value >= found.direction * found.one_pass - 1e-9).all()
    assert (found.direction * found.value > 1.01 * found.direction * found.one_pass).any()


def test_what_influence_says_is_the_sum_of_the_largest(logistic, found):
    fit, measure, *_ = logistic
    psi = np.asarray(lo.per_point(fit, measure))
    for j, k, d, said in zip(
        found.column, found.size, found.direction, found.predicted, strict=True
    ):
        largest = np.sort(d * psi[:, j])[-k:]
        np.testing.assert_allclose(said, d * largest.sum(), rtol=1e-9)


def test_direction_minus_one_of_f_is_plus_one_of_minus_f(logistic):
    fit, _, x, _ = logistic
    row = np.append(x[0], 1.0)
    down = lo.extreme(fit, lo.measures.linear(row), 4, direction=-1)
    up = lo.extreme(fit, lo.measures.linear(-row), 4)
    np.testing.assert_array_equal(down.groups.indices, up.groups.indices)
    np.testing.assert_allclose(down.value, -up.value)


def test_permuting_rows_permutes_the_answer(logistic):
    fit, _, x, y = logistic
    order = np.random.default_rng(3).permutation(len(y))
    moved = lo.fit(lo.logistic(x[order], y[order], l2=0.5))
    one, other = (lo.extreme(each, lo.measures.prediction(x[:1]), 5) for each in (fit, moved))
    assert sorted(order[other.groups.indices]) == one.groups.indices.tolist()
    np.testing.assert_allclose(one.value, other.value, rtol=1e-6)


def test_accuracy_is_that_of_the_model_without(logistic, found):
    _, _, x, y = logistic
    left = ~found.groups.dense()[3].astype(bool)
    without = lo.fit(lo.logistic(x[left], y[left], l2=0.5))
    weight, bias = np.split(np.asarray(without.flat), [3])
    scores = x @ weight + bias
    assert found.accuracy[3] == pytest.approx(np.mean((scores > 0) == y))


def test_of_numbers_it_is_r_squared():
    fit, x, y = drawn(2, kind=lo.squares)
    found = lo.extreme(fit, lo.measures.parameter(0), 3)
    left = ~found.groups.dense()[0].astype(bool)
    for model, told in (
        (fit, found.accuracy_now),
        (lo.fit(lo.squares(x[left], y[left], l2=0.5)), found.accuracy[0]),
    ):
        weight, bias = np.split(np.asarray(model.flat), [3])
        lost = np.sum((x @ weight + bias - y) ** 2) / (len(y) * np.var(y))
        assert told == pytest.approx(1 - lost, rel=1e-6)
    assert "R squared now" in repr(found)
    assert "R squared\n" in repr(found)
    assert "accuracy" not in repr(found)


@pytest.mark.parametrize("kind", mostly_slow([lo.logistic, lo.squares], lo.logistic))
@pytest.mark.parametrize("direction", mostly_slow([1, -1], 1))
def test_small_problems_have_the_best_set_there_is(kind, direction):
    fit, x, _ = drawn(5, 12, 2, kind)
    measure = lo.measures.prediction(x[:1])
    for size in (1, 2, 3):
        found = lo.extreme(fit, measure, size, direction=direction, bound=True)
        best = best_of_all(fit, measure, size, direction)
        assert direction * found.value[0] >= 0.99 * best
        if kind is lo.squares:
            assert found.upper is not None
            assert direction * found.upper[0] >= best


@pytest.mark.parametrize(("seed", "kind"), [(29, lo.logistic), (20, lo.squares)])
def test_a_small_set_that_scores_do_not_promise_is_looked_at_too(seed, kind):
    fit, x, _ = drawn(seed, 12, 2, kind)
    measure, direction = lo.measures.prediction(x[:1]), 1 if seed % 2 else -1
    found = lo.extreme(fit, measure, 3, direction=direction)
    assert direction * found.value[0] >= 0.99 * best_of_all(fit, measure, 3, direction)


@pytest.mark.parametrize("d", mostly_slow([20, 70], 20))
@pytest.mark.parametrize("kind", mostly_slow([lo.logistic, lo.poisson], lo.logistic))
def test_scores_are_near_what_changing_sides_does(kind, d):
    """Of few parameters and of many, from a model that some have left; each side is retrained."""
    rng = np.random.default_rng(d)
    x = rng.standard_normal((600, d)) / d**0.5
    score = x @ rng.standard_normal(d)
    drawn_y = {
        lo.logistic: score + rng.logistic(size=600) > 0,
        lo.poisson: rng.poisson(np.exp(score)),
    }
    fit, measure = lo.fit(kind(x, drawn_y[kind], l2=0.1)), lo.measures.prediction(x[:2])
    effect = np.asarray(lo.per_point(fit, measure))
    left = np.argsort(effect, axis=0)[:12].T  # of each column those that lower it the most
    off = np.zeros((2, 600), bool)
    np.put_along_axis(off, left, True, axis=1)
    states = np.asarray(lo.retrain(fit, lo.Groups.from_masks(off)).value)
    bound = (measure.bind(fit.objective),)
    found = toggled(fit, bound, np.asarray(fit.flat) + states, off, np.ones(600), np.arange(2))

    for column in range(2):
        sides = np.r_[left[column][:6], np.argsort(np.where(off[column], 0, effect[:, column]))[:6]]
        masks = np.tile(off[column], (13, 1))
        masks[np.arange(12), sides] ^= True
        actual = lo.effects(fit, lo.Groups.from_masks(masks), measure, lo.Retrain()).value[
            :, column
        ]
        changed = actual[:12] - actual[12]
        np.testing.assert_allclose(
            found[column][sides], changed, rtol=0, atol=0.1 * np.abs(changed).max()
        )
        assert np.corrcoef(found[column][sides], changed)[0, 1] > 0.99


@pytest.mark.slow
def test_scores_do_not_hear_an_example_that_has_no_weight():
    """Nor what float32 makes of it: exp of its score is beyond that."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((400, 70)) / 8
    y, weights, offset = rng.poisson(np.exp(x[:, 0])), np.ones(400), np.zeros(400)
    plain = lo.fit(lo.poisson(x, y, l2=0.1))
    x, y, weights = np.vstack([x, x[:1]]), np.append(y, 1), np.append(weights, 0.0)
    fit = lo.fit(lo.poisson(x, y, l2=0.1, weights=weights, offset=np.append(offset, 100.0)))
    found = [
        lo.extreme(one, lo.measures.prediction(x[:1]), 10, exchanges=8) for one in (plain, fit)
    ]
    assert set(found[0].groups.indices) == set(found[1].groups.indices)
    np.testing.assert_allclose(found[1].value, found[0].value, rtol=1e-6)


@pytest.mark.slow
def test_a_fit_in_float32_is_searched_in_float32():
    with jax.enable_x64(False):
        fit, x, _ = drawn()
    found = lo.extreme(fit, lo.measures.prediction(x[:1].astype(np.float32)), 3)
    assert fit.flat.dtype == np.float32
    assert found.value[0] >= found.one_pass[0] > 0


@pytest.mark.slow
def test_a_model_that_breaks_is_no_answer():
    x = np.array([[-1.0], [-0.9], [1.0], [1.1], [0.2], [-0.3]])
    y = np.array([0, 0, 1, 1, 0, 1])  # separable without the last two
    fit = lo.fit(lo.logistic(x, y, l2=0.0))
    found = lo.extreme(fit, lo.measures.prediction(np.ones((1, 1))), 2, stages=2)
    assert found.effects.status.tolist() == [0]
    assert set(found.groups.indices) != {4, 5}


# ---- groups, and what is added -------------------------------------------------------------------


def test_whole_groups_leave_and_size_counts_them(logistic):
    fit, measure, *_ = logistic
    units = lo.Groups.from_labels(np.arange(40) // 5, kind="village")
    found = lo.extreme(fit, measure, 2, among=units)
    for i in range(len(found.groups)):
        villages = np.unique(found.groups[i].indices // 5)
        assert found.groups[i].size == 10
        assert villages.size == 2
    assert found.size.tolist() == [2, 2]
    every = list(itertools.combinations(range(8), 2))
    pairs = lo.Groups.from_indices(
        [np.r_[5 * a : 5 * a + 5, 5 * b : 5 * b + 5] for a, b in every], n=40
    )
    best = lo.effects(fit, pairs, measure, lo.Retrain()).value.max(axis=0)
    assert (found.value >= 0.99 * best).all()


@pytest.mark.slow
def test_candidates_are_added(logistic):
    fit, measure, x, y = logistic
    wider, pool = lo.add(fit, (x, 1 - y))
    found = lo.extreme(wider, measure, 5, among=pool)
    for i in range(2):
        added = found.groups[i].indices - 40
        both = lo.fit(lo.logistic(np.r_[x, x[added]], np.r_[y, 1 - y[added]], l2=0.5))
        moved = measure.bind(both.objective).values(both.objective, both.flat, None)
        before = measure.bind(fit.objective).values(fit.objective, fit.flat, None)
        np.testing.assert_allclose(found.value[i], float(moved[i] - before[i]), rtol=1e-6)
    assert (found.value > 0).all()


# ---- least squares -------------------------------------------------------------------------------


def test_rank_one_formulas_are_refits(squares):
    fit, x, y = squares
    design = np.c_[x, np.ones(60)]
    lower = np.linalg.cholesky(design.T @ design)
    a, e = np.array([1.0, 0.0, 0.0, 0.0]), design @ np.linalg.lstsq(design, y, rcond=None)[0] - y
    rows = Rows(np.linalg.solve(lower, design.T).T, np.ones(60), e, np.linalg.solve(lower, a))
    leaving = Leaving(rows)
    for i in (3, 17, 40, 3, 8):  # 3 leaves and comes back
        said = leaving.effect + leaving.gains()[i]
        leaving.toggle(i)
        kept = ~leaving.on
        again = np.linalg.lstsq(design[kept], y[kept], rcond=None)[0]
        effect = again[0] - float(fit.flat[0])
        np.testing.assert_allclose([leaving.effect, said], effect, rtol=1e-9)


@pytest.mark.slow
def test_no_set_passes_the_upper_limit(squares):
    fit, *_ = squares
    measure = lo.measures.parameter(0)
    sizes = [1, 2, 3]
    found = lo.extreme(fit, measure, sizes, direction=(1, -1), bound=True)
    assert found.unproven == ""
    assert found.upper is not None
    for size, direction, upper in zip(found.size, found.direction, found.upper, strict=True):
        some = lo.groups.random(jax.random.key(size), fit.objective, sizes=[size] * 200)
        value = lo.effects(fit, some, measure).value[:, 0]  # a Newton step is exact
        assert (direction * value <= direction * upper).all()
    assert (found.direction * found.value <= found.direction * found.upper).all()


@pytest.mark.slow
def test_another_trial_of_the_table_changes_no_limit():
    rng = np.random.default_rng(3)
    sizes, theirs = [1, 2, 3, 14], 400
    arms = rng.integers(0, 2, 12).astype(float)
    alone = np.c_[np.ones(12), arms]
    y = arms + rng.standard_normal(12)
    both = np.zeros((12 + theirs, 4))
    both[:12, [0, 2]] = alone
    both[12:, [1, 3]] = np.c_[np.ones(theirs), rng.integers(0, 2, theirs)]
    far = np.concatenate([y, 100 * rng.standard_normal(theirs)])
    offer = {"mine": lo.measures.parameter(1), "both": lo.measures.parameter(2)}
    mine, pooled = (
        lo.fit(lo.squares(x, targets, l2=0.0, intercept=False))
        for x, targets in ((alone, y), (both, far))
    )
    few = lo.extreme(mine, offer["mine"], sizes[:3], bound=True)
    many = lo.extreme(pooled, offer["both"], sizes, bound=True)
    assert few.upper is not None
    assert many.upper is not None
    np.testing.assert_allclose(many.upper[:3], few.upper, rtol=1e-9)
    assert many.upper[3] == np.inf  # all of the trial may leave
    for size, limit in zip(sizes, many.upper[:3], strict=False):
        assert best_of_all(mine, offer["mine"], size, 1) <= limit


@pytest.mark.parametrize("l2", [1e-6, 1e-8, 1e-10, 1e-12])
def test_rounding_passes_no_limit_where_one_row_holds_almost_all(l2):
    """Of two columns the second is of the first row alone: without it theta there is 0."""
    rng, checked = np.random.default_rng(0), 0
    for _ in range(200):
        x = np.ones((4, 2))
        x[:, 1] = [rng.normal() * 3, 0.0, 0.0, 0.0]
        x, y = np.round(x * 64) / 64, np.round(rng.normal(size=4) * 64) / 64
        gram = [[sum(Fraction(a) * Fraction(b) for a, b in zip(p, q, strict=True)) for q in x.T]
                for p in x.T]  # fmt: skip
        (a, b), (_, d) = gram
        a, d = a + Fraction(l2), d + Fraction(l2)
        u, v = (sum(Fraction(p) * Fraction(q) for p, q in zip(c, y, strict=True)) for c in x.T)
        effect = -float((a * v - b * u) / (a * d - b * b))  # exact, of the first row's leaving
        hessian = x.T @ x + l2 * np.eye(2)
        lower = np.linalg.cholesky(hessian)
        e = x @ np.linalg.solve(hessian, x.T @ y) - y
        rows = Rows(np.linalg.solve(lower, x.T).T, np.ones(4), e,
                    np.linalg.solve(lower, [0.0, 1.0]))  # fmt: skip
        limit = upper_limits(rows, np.array([1]), 1 if effect > 0 else -1)[0]
        assert abs(effect) <= limit
        checked += bool(np.isfinite(limit) and effect)
    assert checked > 100


def test_what_no_point_touches_no_set_moves():
    rng = np.random.default_rng(3)
    x = np.c_[rng.standard_normal((20, 2)), np.zeros(20)]
    fit = lo.fit(lo.squares(x, x[:, 0] + rng.standard_normal(20), l2=1.0, intercept=False))
    found = lo.extreme(fit, lo.measures.parameter(2), 2, bound=True)
    assert found.upper is not None
    assert found.value.tolist() == found.upper.tolist() == [0.0]


def test_where_no_limit_is_known_it_says_why(logistic, squares):
    fit, measure, *_ = logistic
    assert lo.extreme(fit, measure, 2, stages=1, exchanges=0).unproven.startswith("ask for it")
    with_bound = lo.extreme(fit, measure, 2, stages=1, exchanges=0, bound=True)
    assert with_bound.upper is None
    assert "least squares" in with_bound.unproven
    fit, x, y = squares
    loss = lo.extreme(fit, lo.measures.loss((x[:1], y[:1])), 2, stages=1, exchanges=0, bound=True)
    assert "linear in theta" in loss.unproven


# ---- the fewest ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", mostly_slow([lo.logistic, lo.squares], lo.squares))
def test_the_fewest_that_flip_are_found_and_are_enough(kind):
    rng = np.random.default_rng(7)
    x = rng.standard_normal((14, 1))
    score = 0.5 * x[:, 0] + rng.standard_normal(14)
    y = score if kind is lo.squares else (score > 0).astype(int)
    fit = lo.fit(kind(x, y, l2=0.1))
    measure = lo.measures.parameter(0)
    past = float(fit.flat[0]) - 1.0 if kind is lo.logistic else 0.0
    found = lo.flips(fit, measure, threshold=past, most=6, bound=True)
    assert found.groups is not None
    assert found.effects is not None
    direction, needed = np.sign(past - found.now[0]), abs(past - found.now[0])
    assert direction * found.effects.value[0, 0] > needed
    fewest = next(
        size for size in range(1, 7) if best_of_all(fit, measure, size, direction) > needed
    )
    assert found.size[0] == fewest
    if kind is lo.squares:
        assert found.at_least is not None
        assert found.at_least[0] <= fewest


def test_what_is_not_found_is_minus_one(squares):
    fit, *_ = squares
    found = lo.flips(fit, lo.measures.parameter([0, 1]), threshold=1e3, most=3)
    assert found.size.tolist() == [-1, -1]
    assert found.groups is None
    assert "none found" in repr(found)


def fewest_of_means(treated, control):
    """The fewest that turn the sign of a difference of means, of all sets there are.

    With so many leaving either arm, it moves the most where they are the ends of that arm.
    """
    sign = np.sign(treated.mean() - control.mean())
    high, low = np.sort(-sign * treated), np.sort(sign * control)  # first who leaves first

    def least(size):
        """What the difference becomes, at the least."""
        return min(-high[k:].mean() - low[size - k :].mean() for k in range(size + 1))

    return next(size for size in itertools.count(1) if least(size) < 0)


@pytest.mark.slow
def test_no_fewer_households_turn_the_sign_in_any_of_seven_trials(real_data):
    data = lo.datasets.microcredit()
    fit = lo.fit(lo.squares(data.x, data.y, l2=0.0, intercept=False))
    offers = lo.measures.parameter(list(range(7, 14)))
    found = lo.flips(fit, offers, most=100, bound=True)
    trial, treated = data.labels["trial"], data.labels["arm"] == "treated"
    fewest = [
        fewest_of_means(data.y[(trial == name) & treated], data.y[(trial == name) & ~treated])
        for name in data.feature_names[:7]
    ]
    assert found.size.tolist() == fewest == [1, 15, 13, 6, 11, 9, 1]
    assert found.at_least is not None
    assert (found.at_least <= fewest).all()
    assert np.count_nonzero(found.at_least == fewest) >= 5


def test_influence_says_is_the_length_of_the_sum_that_passes(squares):
    fit, *_ = squares
    measure = lo.measures.parameter(0)
    now = float(fit.flat[0])
    found = lo.flips(fit, measure, threshold=now - 0.1 * np.sign(now))
    psi = np.asarray(lo.per_point(fit, measure))[:, 0]
    ordered = np.cumsum(np.sort(-np.sign(now) * psi)[::-1])
    assert found.influence_says[0] == np.argmax(ordered > 0.1) + 1
    assert found.size[0] <= found.influence_says[0]


# ---- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"measure": lo.measures.self_loss()}, "depends on who leaves together"),
        ({"size": 40}, "as a count of 1 to 39"),
        ({"size": 1.5}, "as a share between 0 and 1"),
        ({"direction": 0}, "direction as"),
        ({"among": lo.Groups.from_indices([[0, 1], [1, 2]], n=40)}, "do not overlap"),
        ({"stages": 0}, "stages as an integer"),
    ],
)
def test_what_cannot_be_asked_is_refused(logistic, change, message):
    fit, measure, *_ = logistic
    given = {"measure": measure, "size": 2} | change
    with pytest.raises(ValueError, match=message):
        lo.extreme(fit, given.pop("measure"), given.pop("size"), **given)


def test_accuracy_is_refused_as_a_measure(logistic):
    fit, _, x, y = logistic
    with pytest.raises(ValueError, match="no useful derivative"):
        lo.flips(fit, lo.measures.accuracy((x, y)))
