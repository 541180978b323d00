"""Agreement of effects in many samples at once, against one sample after the other by SciPy."""

import jax
import numpy as np
import pytest
import scipy.stats

import leaveout as lo
from leaveout.analysis.agreement import STATISTICS, with_intervals
from problems import spearman

RNG = np.random.default_rng(0)
HEAVY = np.exp(3 * RNG.normal(size=300)) * RNG.normal(size=300)
LONE = np.where(np.arange(300) == 7, 1e12, HEAVY)  # moments cancel in every sample without it
PAIRS = {
    "heavy tails": (0.8 * HEAVY + 0.1 * RNG.normal(size=300), HEAVY),
    "one huge": (0.7 * LONE + RNG.normal(size=300), LONE),
    "ties": (RNG.integers(0, 5, 200) * 1.0, RNG.integers(0, 5, 200) * 1.0),
    "rounding only": (1e6 + 1e-10 * RNG.normal(size=60), RNG.normal(size=60)),
    "few that act": (RNG.normal(size=30), np.where(np.arange(30) < 4, 1.0, 0.0)),
    "none that acts": (RNG.normal(size=30), np.zeros(30)),
    "far from 1": (1e150 * RNG.normal(size=40), 1e-150 * RNG.normal(size=40)),
    "two": (np.array([1.0, 2.0]), np.array([1.0, 3.0])),
}


def obvious(p, a):
    """The statistics of one sample, from their definitions; NaN where there is none."""
    vary = all(np.ptp(one) > 0 for one in (p, a))
    really = all(np.ptp(one) > 1e-13 * np.abs(one).max() for one in (p, a))
    units = (one / max(np.abs(one).max(), 1e-300) for one in (p, a))
    ratios = [abs(x - y) / abs(y) for x, y in zip(p, a, strict=True) if y != 0]
    with np.errstate(all="ignore"):
        return [
            spearman(p, a) if vary else np.nan,
            scipy.stats.pearsonr(*units)[0] if really else np.nan,
            np.sum(p * a) / np.sum(a * a),
            np.mean(np.sign(p) == np.sign(a)),
            np.mean(np.abs(p) < np.abs(a)),
            np.median(ratios) if ratios else np.nan,
            np.abs(p - a).max() / np.abs(a).max(),
        ]


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.filterwarnings("ignore:An input array is nearly constant")
def test_many_samples_at_once_are_one_after_the_other(name):
    p, a = PAIRS[name]
    found = with_intervals([(p, a), (a, p)], [3, 4], 150)
    draws = np.random.default_rng([3, 4]).integers(0, len(p), (150, len(p)))
    for one, other, (value, low, high) in ((p, a, found[0]), (a, p, found[1])):
        many = np.array([obvious(one[rows], other[rows]) for rows in draws])
        many[~np.isfinite(many)] = np.nan
        wide = np.isnan(many).mean(axis=0) >= 0.1  # a tenth has no such statistic
        many[:, wide] = 0.0
        points = np.where(wide, np.nan, np.nanquantile(many, [0.025, 0.975], axis=0))
        np.testing.assert_allclose(value, obvious(one, other), rtol=1e-10)
        np.testing.assert_allclose([low, high], points, rtol=1e-8, err_msg=str(STATISTICS))


def test_columns_and_methods_share_their_resamples():
    p, a = PAIRS["heavy tails"]
    once, twice = lo.compare(p, a), lo.compare(np.stack([p, p], 1), np.stack([a, a], 1))
    intervals = [(row["low"], row["high"]) for row in twice.rows]
    assert intervals == 2 * [(row["low"], row["high"]) for row in once.rows]


def test_draws_are_those_of_one_key_unless_another_is_given():
    rng = np.random.default_rng(0)
    p, a = rng.normal(size=(2, 30))
    usual, same, other = (
        repr(lo.compare(p, a, resamples=50, **given))
        for given in ({}, {"key": jax.random.key(0)}, {"key": jax.random.key(1)})
    )
    assert usual == same != other


def test_a_size_at_the_end_of_a_band_is_in_it():
    n = 1000
    sizes = [5, 25, 25, 26, 100, 100, 100]  # .5, 2.5, 2.6 and 10 %
    groups = lo.Groups.from_indices([range(size) for size in sizes], n=n)
    objective = lo.squares(np.random.default_rng(0).normal(size=(n, 1)), np.arange(n) / n, l2=1.0)
    effects = lo.effects(lo.fit(objective), groups, lo.measures.parameter([0]))
    rows = lo.compare(effects, effects, resamples=2).rows
    count = {row["level"]: row["count"] for row in rows if row["by"] == "size"}
    assert count == {"up to 2.5 %": 3, "2.5 to 10 %": 4}
