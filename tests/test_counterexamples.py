"""The shelf of counterexamples: where influence goes wrong, and by how much."""

import json

import jax
import numpy as np
import pytest

import leaveout as lo
from leaveout.studies.cli import main as cli
from leaveout.studies.koh2019 import counterexamples
from leaveout.studies.koh2019 import figures as paper
from problems import groups_of, mostly_slow, problem, spearman

THIRD = 2  # of 100 queries, the one the paper shows
GUARD = 1e-4  # the released code's


def effects_of(example):
    """Influence and Newton effects (g m)."""
    methods = (lo.Influence(), lo.Newton(linearised=True))
    return tuple(example.effects(method).value for method in methods)


def ranks(one, other):
    """(m) Spearman correlation of each column."""
    return lo.compare(one, other, resamples=0).spearman


def factor_of_copies(example):
    """(g) d(w) of proposition 4, from its formula: every group is copies of one point."""
    objective, theta = example.fit.objective, np.asarray(example.fit.flat)
    x = np.asarray(objective.x)[[group[0] for group in lists_of(example.groups)]]
    inverse = np.linalg.inv(np.asarray(objective.hessian(theta)))
    p = 1 / (1 + np.exp(-(x @ theta)))
    leverage = np.einsum("gd,de,ge->g", x, inverse, x)
    return 1 / (1 - example.groups.size * p * (1 - p) * leverage)


def lists_of(groups):
    return np.split(groups.indices, groups.offsets[1:-1])


@pytest.fixture(scope="module")
def apart():
    """Pairs of gauss4 that point apart."""
    return counterexamples.gauss4()


@pytest.fixture(scope="module")
def literal():
    """Pairs of gauss4 by the released rule."""
    return counterexamples.gauss4(GUARD)


# ---- copies --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    mostly_slow([counterexamples.ortho2, counterexamples.reversal], counterexamples.reversal),
)
def test_copies_of_a_point_scale_influence_as_proposition_4_says(make):
    example = make()
    first, second = effects_of(example)
    x = np.asarray(example.fit.objective.x)
    for group in lists_of(example.groups):
        assert np.ptp(x[group], axis=0).max() == 0  # copies they are
    factor = factor_of_copies(example)
    np.testing.assert_allclose(second[:, 0] / first[:, 0], factor, rtol=1e-10)
    largest = np.linalg.eigvalsh(example.fit.objective.hessian(example.fit.flat))[-1]
    assert factor.min() > 1
    assert factor.max() <= largest / example.fit.objective.l2  # 1 + sigma_max / l2


@pytest.mark.slow
def test_ortho2_is_a_wide_cone_in_which_the_order_is_nearly_kept():
    example = counterexamples.ortho2()
    first, second = effects_of(example)
    assert len(example.groups) == 116
    factor = factor_of_copies(example)
    np.testing.assert_allclose([factor.min(), factor.max()], [1.0015, 8.035], atol=5e-4)
    np.testing.assert_allclose([first.min(), first.max()], [-4.935, 5.065], atol=5e-4)
    np.testing.assert_allclose([second.min(), second.max()], [-7.835, 7.318], atol=5e-4)
    np.testing.assert_allclose(ranks(first, second), 0.972, atol=5e-4)
    ends = np.cumsum([39, 19, 39, 19]) - 1  # influence differs, Newton's effect hardly does
    np.testing.assert_allclose(first[ends, 0], [5.06, -4.94, 0.91, -0.67], atol=5e-3)
    np.testing.assert_allclose(second[ends, 0], [6.25, -7.84, 7.32, -0.69], atol=5e-3)


def test_the_order_of_six_groups_is_reversed():
    example = counterexamples.reversal()
    first, second = effects_of(example)
    actual = example.effects(lo.Retrain()).value
    np.testing.assert_allclose(first[:, 0], [-1, -0.98, -0.96, -0.94, -0.92, -0.9], rtol=1e-12)
    factor = [1.02, 1.08, 1.28, 1.86, 2.87, 3.05]
    np.testing.assert_allclose(second / first, np.array(factor)[:, None], atol=5e-3)
    for truth in (second, actual):
        assert spearman(first, truth) == -1.0
        assert np.all(truth < first)  # every influence too small
        assert np.all(first < 0)  # and of the right sign


# ---- blindness -----------------------------------------------------------------------------------


def test_a_blind_query_has_influence_0_and_a_large_effect():
    example = counterexamples.blind_spot()
    first, second = effects_of(example)
    actual = example.effects(lo.Retrain()).value
    np.testing.assert_allclose(np.linalg.norm(example.x_query), 1.0, rtol=1e-12)
    np.testing.assert_allclose(first, 0.0, atol=1e-15)
    np.testing.assert_allclose(second, 0.7994, atol=5e-5)
    np.testing.assert_allclose(actual, 0.8102, atol=5e-5)


def test_a_tilted_query_has_influence_of_the_wrong_sign():
    example = counterexamples.blind_spot(tilt=0.05)
    first, second = effects_of(example)
    actual = example.effects(lo.Retrain()).value
    assert first.item() < 0 < second.item() < actual.item()
    length = np.linalg.norm(lo.influence(example.fit, example.groups).value)
    np.testing.assert_allclose(first, -0.05 * length, rtol=1e-12)


@pytest.mark.parametrize("name", ["logistic", "squares", "poisson"])
def test_a_blind_query_sees_the_most_of_newtons_step(name):
    fit = lo.fit(problem(name, intercept=False))
    groups = groups_of(fit.objective.n, count=5)[1:]  # of several points each
    first, second = (np.asarray(verb(fit, groups).value) for verb in (lo.influence, lo.newton))
    queries = counterexamples.blind_query(fit, groups)
    scale = np.linalg.norm(first, axis=1)
    np.testing.assert_allclose(np.sum(queries * first, axis=1) / scale, 0.0, atol=1e-15)
    seen = np.sum(queries * second, axis=1)
    rng = np.random.default_rng(0)
    for a, b, best in zip(first, second, seen, strict=True):
        others = rng.normal(size=(200, len(a)))
        others -= np.outer(others @ a, a) / (a @ a)
        others /= np.linalg.norm(others, axis=1, keepdims=True)
        assert 0.5 * best < np.max(others @ b) <= best


def test_no_query_is_blind_to_copies_alone():
    example = counterexamples.reversal()
    with pytest.raises(ValueError, match=r"group '1 of 41 on axis 1' is parallel to its influence"):
        counterexamples.blind_query(example.fit, example.groups)


@pytest.mark.parametrize(("name", "intercept"), [("logistic", True), ("softmax", False)])
def test_a_blind_query_needs_one_output_and_no_intercept(name, intercept):
    fit = lo.fit(problem(name, intercept=intercept))
    with pytest.raises(ValueError, match="linear model of one output without an intercept"):
        counterexamples.blind_query(fit, groups_of(fit.objective.n, count=2))


# ---- gauss4 --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_pairs_that_point_apart_lose_order_and_sign(apart):
    first, second = effects_of(apart)
    assert lists_of(apart.groups)[0].tolist() == [19, 25]
    one, other = (np.asarray(v(apart.fit, apart.groups).value) for v in (lo.influence, lo.newton))
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    cosine = np.sum(one * other, axis=1) / lengths
    np.testing.assert_allclose(cosine[[0, -1]], [0.710, 0.905], atol=5e-4)
    every = ranks(first, second)
    np.testing.assert_allclose(every[THIRD], 0.493, atol=5e-4)
    np.testing.assert_allclose(
        [every.min(), every.mean(), every.max()], [0.241, 0.457, 0.655], atol=5e-4
    )
    first, second = first[:, THIRD], second[:, THIRD]
    assert np.sum(np.sign(first) != np.sign(second)) == 40  # of 120
    np.testing.assert_allclose([first.min(), first.max()], [-0.454, 0.665], atol=5e-4)
    np.testing.assert_allclose([second.min(), second.max()], [-1.053, 2.344], atol=5e-4)
    np.testing.assert_allclose(np.linalg.norm(apart.x_query[THIRD]), 39.9, atol=0.05)


@pytest.mark.slow
def test_the_released_rule_picks_pairs_that_hardly_matter(apart, literal):
    one, other = (
        np.asarray(v(literal.fit, literal.groups).value) for v in (lo.influence, lo.newton)
    )
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    assert lengths.max() < 0.03 * GUARD  # the guard decides, not the angle
    assert np.min(np.sum(one * other, axis=1) / lengths) > 0.99
    points = np.unique(literal.groups.indices)
    assert len(points) == 17
    assert len(np.unique(apart.groups.indices)) == 66
    losses = np.asarray(literal.fit.objective.losses(literal.fit.flat))
    assert losses[points].max() < np.median(losses)


@pytest.mark.slow
def test_the_released_rule_gives_no_counterexample_in_float64(literal):
    first, second = effects_of(literal)
    every = ranks(first, second)
    np.testing.assert_allclose(every[THIRD], 0.99999, atol=1e-5)
    assert every.min() > 0.9998
    assert np.array_equal(np.sign(first[:, THIRD]), np.sign(second[:, THIRD]))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:theta is not at its optimum")
def test_float32_makes_a_counterexample_of_rounding(literal):
    with jax.enable_x64(False):
        rounded = counterexamples.gauss4(GUARD)
        first, second = (
            change.astype(float) @ rounded.x_query.T
            for change in counterexamples.changes(rounded.fit, rounded.groups)
        )
    assert np.linalg.norm(rounded.x_query[THIRD]) > 1e9
    assert set(map(tuple, lists_of(rounded.groups))) == set(map(tuple, lists_of(literal.groups)))
    assert ranks(first, second).max() < 0.95
    assert ranks(first, second).mean() < 0.6
    assert np.mean(np.sign(first) != np.sign(second)) > 0.2
    # the same groups and queries without rounding
    exact = counterexamples.Counterexample(literal.fit, rounded.groups, rounded.x_query)
    assert ranks(*effects_of(exact)).min() > 0.9998


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:theta is not at its optimum")
def test_without_the_guard_float32_finds_what_float64_finds(apart):
    with jax.enable_x64(False):
        rounded = counterexamples.gauss4()
        first = counterexamples.changes(rounded.fit, rounded.groups)[0].astype(float)
    exact, _ = effects_of(apart)
    error = np.abs(first @ rounded.x_query.T - exact).max()
    assert error < 1e-3 * np.abs(exact).max()


def test_a_negative_guard_is_refused():
    with pytest.raises(ValueError, match="expected a guard >= 0, got -1"):
        counterexamples.gauss4(-1.0)


# ---- the figure ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_figure_3_is_drawn_with_its_numbers(tmp_path):
    assert cli.main(["figure", "3", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "figure_3.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "figure_3.pdf").read_bytes()[:4] == b"%PDF"
    rows = {
        (row["panel"], row.get("tilt")): row
        for row in json.loads((tmp_path / "figure_3.json").read_text())
    }
    assert len(rows) == 8
    example = counterexamples.reversal()
    row = rows["reversal", None]
    np.testing.assert_allclose(row["factors"], factor_of_copies(example), rtol=1e-10)
    assert row["spearman"] == row["spearman_actual"] == -1.0
    np.testing.assert_allclose(rows["gauss4", None]["spearman"], 0.493, atol=5e-4)
    tilted = rows["blind spot", 0.05]
    assert tilted["influence"] < 0 < tilted["newton"] < tilted["actual"]


def test_figure_3_wants_float64(tmp_path):
    with jax.enable_x64(False), pytest.raises(ValueError, match="float32 with float64"):
        paper.figure("3", out=tmp_path)
