"""Ceilings, split slopes and the LDS, on effects whose noise is drawn by hand."""

import dataclasses

import numpy as np
import pytest

import leaveout as lo
from problems import spearman

G, M, SEEDS = 400, 3, 8
TRUTH = np.random.default_rng(0).normal(size=(G, M))
GROUPS = lo.Groups.from_indices([[i, i + 1] for i in range(G)], n=1000)


def effects(value, seeds=None, notes=(), groups=GROUPS) -> lo.Effects:
    zeros = np.zeros(len(groups))
    columns = tuple(f"loss[{j}]" for j in range(value.shape[1]))
    return lo.Effects(
        value, zeros.astype(np.int8), zeros, zeros.astype(int), columns, columns, groups, "mine",
        notes=notes, seeds=seeds,
    )  # fmt: skip


def noisy(noise: float) -> lo.Effects:
    seeds = TRUTH + noise * np.random.default_rng(1).normal(size=(SEEDS, G, M))
    return effects(seeds.mean(axis=0), seeds)


def test_the_ceiling_is_what_the_truth_itself_reaches():
    for noise in (0.3, 1.5):
        report = lo.compare(effects(TRUTH), noisy(noise), resamples=0)
        # of normal variables the correlation of truth and mean is 1 / (1 + noise^2 / s)^1/2
        expected = (1 + noise**2 / SEEDS) ** -0.5
        np.testing.assert_allclose(report["ceiling"], expected, atol=0.06)
        np.testing.assert_allclose(report["share_of_ceiling"], 1.0, atol=0.07)


def test_the_split_slope_is_free_of_noise():
    report = lo.compare(effects(0.5 * TRUTH), noisy(3.0), resamples=0)
    assert (report.slope < 0.3).all()
    np.testing.assert_allclose(report["split_slope"], 0.5, atol=0.08)


@pytest.mark.parametrize("count", [2, SEEDS])
def test_the_split_slope_is_free_of_noise_that_predictions_share(count):
    """Those of the very seeds: half of every effect, its noise among it."""
    seeds = noisy(2.0).seeds
    assert seeds is not None
    some = seeds[:count]
    predicted, actual = (effects(of.mean(axis=0), of) for of in (0.5 * some, some))
    found = lo.compare(predicted, actual, resamples=0)["split_slope"]
    np.testing.assert_allclose(found, 0.5, atol=1e-12)
    apart = effects(0.5 * some.mean(axis=0))  # the same numbers, whose seeds nobody knows
    assert (lo.compare(apart, actual, resamples=0)["split_slope"] > 0.6).all()


def test_an_odd_number_of_seeds_is_brought_to_all_of_them():
    """Halves of three seeds are single ones: the mean of three is thrice as long, not twice."""
    some = noisy(1.0).seeds
    assert some is not None
    three = effects(some[:3].mean(axis=0), some[:3])
    expected = (1 + 1 / 3) ** -0.5
    assert lo.lds(effects(TRUTH), three, resamples=0).ceiling == pytest.approx(expected, abs=0.025)
    found = lo.compare(effects(TRUTH), three, resamples=0)["ceiling"]
    np.testing.assert_allclose(found, expected, atol=0.05)


def test_columns_that_are_noise_bring_no_ceiling():
    """Half of their reliabilities are above 0 by chance: to count those alone says .4."""
    seeds = np.random.default_rng(4).normal(size=(4, 60, 60))
    groups = lo.Groups.from_indices(np.arange(60)[:, None], n=60)
    noise = effects(seeds.mean(axis=0), seeds, groups=groups)
    ceiling = lo.lds(noise, noise, resamples=0).ceiling
    alone = np.nanmean(lo.compare(noise, noise, resamples=0)["ceiling"])
    assert alone > 0.3  # column by column there is no more to say
    assert np.isnan(ceiling) or ceiling < 0.6 * alone


def test_the_table_shows_ceilings_and_bands_of_sizes():
    text = str(lo.compare(effects(TRUTH), noisy(1.0), resamples=0))
    assert "ceiling" in text
    assert "up to 2.5 %" in text
    assert "ceiling" not in str(lo.compare(effects(TRUTH), effects(TRUTH), resamples=0))


def test_one_seed_is_a_question_of_its_own():
    found = noisy(1.0)
    assert found.seeds is not None
    np.testing.assert_array_equal(found.of_seed(2).value, found.seeds[2])
    with pytest.raises(ValueError, match="a seed from 0 below 8, got 8"):
        found.of_seed(8)


def test_effects_of_two_meanings_of_removal_are_not_compared():
    fixed = effects(TRUTH, notes=(lo.Fixed().meaning,))
    left = effects(TRUTH, notes=(lo.Left().meaning,))
    with pytest.raises(ValueError, match="different things by removal"):
        lo.compare(fixed, left)
    with pytest.raises(ValueError, match="different things by removal"):
        lo.lds(fixed, left)
    lo.compare(fixed, effects(TRUTH), resamples=0)


def test_the_interval_of_a_high_lds_holds_it_and_the_truth():
    """Groups that a resample has twice tie: its correlations are smaller, all of them."""
    rng = np.random.default_rng(3)
    truth = rng.normal(size=(50, 20)) + rng.normal(size=(50, 1))
    near = truth + 0.2 * rng.normal(size=truth.shape)
    groups = lo.Groups.from_indices(np.arange(50)[:, None], n=50)
    found = lo.lds(effects(near, groups=groups), effects(truth, groups=groups))
    correlation = 1 / np.sqrt(1 + 0.2**2 / 2)  # of the numbers; of their ranks, by 50 of them:
    ranks = (np.arcsin(correlation) + 48 * np.arcsin(correlation / 2)) * 6 / np.pi / 51
    assert found.low < found.value < found.high
    assert found.low < ranks < found.high


def test_the_lds_is_the_mean_of_rank_correlations():
    actual = noisy(1.0)
    found = lo.lds(effects(TRUTH), actual, resamples=50)
    ranks = lo.compare(effects(TRUTH), actual, resamples=0).spearman
    assert found.value == pytest.approx(ranks.mean(), abs=1e-12)
    assert found.low < found.value < found.high
    assert found.ceiling == pytest.approx((1 + 1 / SEEDS) ** -0.5, abs=0.03)
    assert found.columns == M
    codes = np.zeros((G, M), np.int8)
    codes[3:, 1] = 5
    some = dataclasses.replace(actual, status=codes.max(axis=1), column_status=codes)
    few = lo.lds(effects(TRUTH), some, resamples=0)
    right = [spearman(TRUTH[:3, j], actual.value[:3, j]) for j in range(M)]
    assert few.value == pytest.approx(np.mean(right), abs=1e-12)
    assert np.isnan(few.low)
    flagged = dataclasses.replace(actual, status=np.full(G, 5, np.int8))
    flagged = dataclasses.replace(flagged, column_status=np.full((G, M), 5, np.int8))
    with pytest.raises(ValueError, match="at least three groups that converged, got 0"):
        lo.lds(effects(TRUTH), flagged)
