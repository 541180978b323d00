"""What did not converge: marked in every table, left out and counted, or refused; never used."""

import dataclasses
import tracemalloc

import jax
import numpy as np
import pytest

import leaveout as lo
from problems import problem

N, RARE = 90, 7
UNSAID = np.zeros((0, 0), np.int8)


@pytest.fixture(scope="module")
def case():
    """A fit, groups of which 'only' holds a whole class, and effects by two methods."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(N, 2)), rng.choice(["a", "b"], N)
    site = 1 + np.arange(N) % 6
    y[:RARE], site[:RARE] = "rare", 0
    fit = lo.fit(lo.softmax(x, y, l2=1.0))
    groups = lo.Groups.from_labels(np.array(["only", "b", "c", "d", "e", "f", "g"])[site])
    measures = [lo.measures.self_loss(), lo.measures.prediction(x[:2])]
    found = [lo.effects(fit, groups, measures, method) for method in (lo.Newton(), lo.Retrain())]
    return fit, groups, measures, *found


def bad_of(groups):
    return groups.names == "only"


def red(ax):
    """What a panel says in red."""
    return [text.get_text() for text in ax.texts if text.get_color() == "red"]


def test_the_case_is_what_it_should_be(case):
    _, groups, *_, actual = case
    assert actual.status.tolist() == np.where(bad_of(groups), lo.Status.no_minimum, 0).tolist()


def test_effects_say_how_many_and_how(case):
    actual = case[-1]
    assert "1 of 7 groups did not converge (1 no_minimum)" in repr(actual)
    frame = actual.to_pandas()
    assert set(frame["status"][frame["group"] == "only"]) == {"no_minimum"}
    assert set(frame["status"][frame["group"] != "only"]) == {"converged"}


@pytest.mark.slow
def test_effects_keep_the_status_of_columns_in_files_parts_and_copies(case, tmp_path):
    actual = case[-1]
    codes = actual.column_status.copy()
    codes[-1] = [lo.Status.singular, *np.zeros(codes.shape[1] - 1)]
    some = dataclasses.replace(actual, column_status=codes)
    some.save(tmp_path / "effects.npz")
    back = lo.load(tmp_path / "effects.npz")
    for name in ("column_status", "weight", "theta_status"):
        np.testing.assert_array_equal(getattr(back, name), getattr(some, name))
    np.testing.assert_array_equal(some[::-2].column_status, codes[::-2])
    assert back.weight is not None
    assert back.weight.tolist() == case[1].size.tolist()
    told = dataclasses.replace(some, status=np.full(len(codes), lo.Status.stalled, np.int8))
    assert told.column_status.all(axis=1).sum() == len(codes) - 1  # rows that named no column


def test_a_comparison_leaves_out_what_is_flagged_on_either_side_and_counts_it(case):
    *_, newton, actual = case
    good = actual.status == 0
    assert 0 < good.sum() < len(good)
    for one, other in ((newton, actual), (actual, newton)):
        report, right = lo.compare(one, other), lo.compare(one[good], other[good])
        for statistic in ("spearman", "slope", "median_relative_error"):
            np.testing.assert_array_equal(report[statistic], right[statistic])
        assert report.notes == ("left out: 1 of 7 groups did not converge (1 no_minimum)",)
        assert report.notes[0] in str(report)
        assert {row["count"] for row in report.rows if row["by"] == "all"} == {6}
    broken = dataclasses.replace(actual, value=np.where(good[:, None], actual.value, np.nan))
    right = lo.compare(newton[good], actual[good])
    np.testing.assert_array_equal(lo.compare(newton, broken).slope, right.slope)


@pytest.mark.slow
def test_a_comparison_leaves_out_column_by_column(case):
    *_, newton, actual = case
    codes = np.zeros_like(actual.column_status)
    codes[:6, 0], codes[2, 1] = lo.Status.singular, lo.Status.stalled
    some = dataclasses.replace(actual, status=codes.max(axis=1), column_status=codes)
    report = lo.compare(newton, some)
    good = codes[:, 1] == 0
    right = lo.compare(newton.value[good, 1], actual.value[good, 1]).slope[0]
    assert np.isnan(report.slope[0])
    assert report.slope[1] == right
    np.testing.assert_array_equal(
        report.slope[2:], lo.compare(newton.value, actual.value).slope[2:]
    )
    assert report.notes[:2] == (
        "left out of 'self_loss': 6 of 7 groups did not converge (6 singular)",
        f"left out of {actual.columns[1]!r}: 1 of 7 groups did not converge (1 stalled)",
    )
    every = dataclasses.replace(actual, status=np.full(7, lo.Status.stalled, np.int8))
    with pytest.raises(ValueError, match="at least two groups to compare; 7 of 7 groups did not"):
        lo.compare(newton, dataclasses.replace(every, column_status=UNSAID))


def test_the_held_out_error_is_refused_or_without_those_dropped(case):
    fit, groups, *_ = case
    held = lo.cross_validate_groups(fit, groups, lo.Retrain())
    assert "no mean: 1 of 7 groups did not converge (1 no_minimum); drop=True" in repr(held)
    for name in ("mean", "standard_error", "training_mean"):
        with pytest.raises(lo.SolveError, match=r"1 of 7 groups .* group 'only': the loss of what"):
            getattr(held, name)
    dropped = lo.cross_validate_groups(fit, groups, lo.Retrain(), drop=True)
    right = lo.cross_validate_groups(fit, groups[~bad_of(groups)], lo.Retrain())
    for name in ("mean", "standard_error", "training_mean"):
        assert getattr(dropped, name) == pytest.approx(getattr(right, name), rel=1e-12)
    assert "without those dropped: 1 of 7 groups did not converge" in repr(dropped)
    alone = lo.cross_validate_groups(fit, groups[bad_of(groups)], lo.Retrain(), drop=True)
    assert "no mean: 1 of 1 groups" in repr(alone)
    with pytest.raises(ValueError, match="expected a group that has weight and converged"):
        _ = alone.mean


def test_a_standard_error_is_refused_or_without_those_dropped(case):
    *_, actual = case
    with pytest.raises(lo.SolveError, match="standard error of self_loss needs every group, but 1"):
        lo.jackknife(actual)
    rest = actual[actual.status == 0]
    for kind in (False, True):
        np.testing.assert_array_equal(
            lo.jackknife(actual, drop=True, infinitesimal=kind),
            lo.jackknife(rest, infinitesimal=kind, partial=True),
        )
    deviation = rest.value - rest.value.mean(axis=0)
    right = np.sqrt(5 / 6 * np.sum(deviation**2, axis=0))
    np.testing.assert_allclose(lo.jackknife(actual, drop=True), right, rtol=1e-12)


def test_a_standard_error_of_limits_is_told_of_and_drop_leaves_them_out(case):
    """Without class 'rare' its intercept has no end, but a slope has a limit, which is used."""
    fit, groups, *_ = case
    slope = lo.effects(fit, groups, lo.measures.parameter(0), lo.Retrain())
    assert not slope.status.any()
    assert slope.theta_status.tolist() == np.where(bad_of(groups), lo.Status.no_minimum, 0).tolist()
    assert "all converged, 1 of them without one theta of their own" in repr(slope)
    with pytest.warns(UserWarning, match="theta has no one minimum without 'only'"):
        every = lo.jackknife(slope)
    deviation = slope.value - slope.value.mean(axis=0)
    np.testing.assert_allclose(every, np.sqrt(6 / 7 * np.sum(deviation**2, axis=0)), rtol=1e-12)
    rest = slope[~bad_of(groups)]
    np.testing.assert_array_equal(lo.jackknife(slope, drop=True), lo.jackknife(rest, partial=True))


@pytest.mark.filterwarnings("ignore:7 clusters")
def test_estimates_without_a_cluster_say_which_are_flagged(case):
    fit, groups, *_ = case
    bias = lo.measures.parameter([-1])  # of the class that only 'only' holds
    found = lo.confidence(fit, groups, bias, drop=True, pairs=False)
    table = found.without_pandas()
    status = dict(zip(table["group"], table["status"], strict=True))
    assert status.pop("only") == "no_minimum"
    assert set(status.values()) == {"converged"}


def test_credit_marks_what_is_flagged_in_its_table_and_its_frame(case):
    fit, groups, measures, *_ = case
    found = lo.credit(fit, groups, measures, lo.Newton(), actual=True, null=0)
    frame = found.to_pandas().set_index("group")
    assert frame["status of actual on self_loss"].to_dict()["only"] == "no_minimum"
    assert set(frame["status of Newton on self_loss"]) == {"converged"}
    lines = found.table().splitlines()
    starred = [line for line in lines[2:-1] if "*" in line]
    assert [line.split()[0] for line in starred] == ["only"]
    assert starred[0].count("*") == 2  # the actual effect, and that for each example
    assert lines[-1] == "* actual: 1 of 7 groups did not converge (1 no_minimum)"


@pytest.mark.slow
def test_a_group_that_is_flagged_has_no_place_among_random_ones(case):
    fit, groups, measures, *_ = case
    null = lo.credit(fit, groups, measures[1], lo.Newton(), null=lo.Null(9, lo.Retrain())).null
    assert null is not None
    bad = bad_of(groups)
    assert (null.status != 0).all(axis=1).tolist() == bad.tolist()
    assert null.flagged[:, 0].tolist() == np.where(bad, 9, 0).tolist()  # of the same class balance
    for name in ("z", "percentile", "p", "q", "low", "high", "mean"):
        assert np.isnan(getattr(null, name)).all(axis=1).tolist() == bad.tolist()


@pytest.mark.slow
def test_a_random_group_that_is_flagged_counts_against_a_small_p(case):
    fit, _, measures, *_ = case
    within = np.arange(N) > RARE  # the seven rare points, and one more
    some = lo.Groups.from_indices([np.arange(1, RARE + 1), np.arange(20, 60)], n=N)
    ask = lo.Null(40, lo.Retrain(), within=within, key=jax.random.key(1))
    null = lo.credit(fit, some, measures[1], lo.Newton(), null=ask).null
    assert null is not None
    assert 0 < null.flagged[0, 0] < 40  # those that hold all seven
    assert null.flagged[1, 0] == 0
    assert null.status[0, 0] == 0
    assert np.isnan(null.z[0]).all()
    assert (null.p[0] >= 2 * (1 + null.flagged[0]) / 41 - 1e-12).all()
    assert np.isfinite(null.z[1]).all()


@pytest.mark.slow
def test_figures_leave_flagged_groups_out_and_count_them_in_red(case):
    fit, groups, measures, newton, actual = case
    good = actual.status == 0
    ax = lo.plot.scatter(newton, actual)
    drawn = np.vstack([part.get_offsets() for part in ax.collections])
    np.testing.assert_array_equal(np.sort(drawn[:, 0]), np.sort(actual.value[good, 0]))
    assert red(ax) == ["1 flagged"]
    shown = ax.texts[-1].get_text()
    assert f"slope {lo.compare(newton[good], actual[good]).slope[0]:.3f}" in shown
    assert red(lo.plot.grid([[(newton, actual, 0)]], zoom=True).axes[0]) == ["1 flagged"]
    heat = lo.plot.heat(actual.value, groups.names, actual.columns, status=actual.column_status)
    colours = heat.axes[0].images[0].get_array()
    assert isinstance(colours, np.ma.MaskedArray)
    assert colours.mask.sum() == len(actual.columns)
    assert red(heat.axes[0]) == [f"{len(actual.columns)} flagged"]
    _, axes = lo.plot.canvas(1, 1)
    lo.plot.against(
        groups.size, actual.value[:, 0], ax=axes[0, 0], xlabel="size", ylabel="effect",
        status=actual.column_status[:, 0],
    )  # fmt: skip
    assert len(axes[0, 0].collections[0].get_offsets()) == 6
    assert red(axes[0, 0]) == ["1 flagged"]
    null = lo.Null(5, lo.Retrain())
    bands = lo.plot.bands(lo.credit(fit, groups, measures[1], lo.Retrain(), null=null))
    assert len(bands.axes[0].get_yticks()) == 6
    assert red(bands.axes[0]) == ["1 flagged"]
    none = dataclasses.replace(actual, status=np.full(7, lo.Status.stalled), column_status=UNSAID)
    with pytest.raises(ValueError, match="at least two groups to compare"):
        lo.plot.scatter(newton, none)


# ---- groups that are not there -------------------------------------------------------------------


@pytest.mark.slow
def test_a_group_without_weight_is_not_there():
    rng = np.random.default_rng(3)
    x, site = rng.normal(size=(80, 3)), np.arange(80) % 5
    y = x[:, 0] + rng.normal(size=80)
    times = rng.integers(1, 4, 80) * (site != 4)
    rows = np.repeat(np.arange(80), times)
    weighted = lo.fit(lo.squares(x, y, l2=0.5, weights=times))
    repeated = lo.fit(lo.squares(x[rows], y[rows], l2=0.5))
    measure = lo.measures.parameter([0, 1])
    held, errors = [], []
    for fit, labels in ((weighted, site), (repeated, site[rows])):
        groups = lo.Groups.from_labels(labels)
        held.append(lo.cross_validate_groups(fit, groups, lo.Retrain(1e-12)))
        found = lo.effects(fit, groups, measure, lo.Retrain(1e-12))
        errors.append(lo.jackknife(found))
    assert held[0].mean == pytest.approx(held[1].mean, rel=1e-9)
    assert held[0].standard_error == pytest.approx(held[1].standard_error, rel=1e-9)
    np.testing.assert_allclose(*errors, rtol=1e-7)
    fit = weighted
    one = lo.cross_validate_groups(fit, lo.Groups.from_labels(site == 0)[[1]])
    assert np.isnan(one.standard_error)  # one group says nothing of how groups differ
    absent = lo.cross_validate_groups(
        fit, lo.Groups.from_indices([np.flatnonzero(site == 4)], n=80)
    )
    assert "no mean: no group has weight" in repr(absent)


def test_a_standard_error_counts_no_group_without_weight():
    rng = np.random.default_rng(3)
    x, site = rng.normal(size=(40, 1)), np.arange(40) % 5
    y, there = x[:, 0] + rng.normal(size=40), site != 4
    fit = lo.fit(lo.squares(x, y, l2=0.0, weights=there.astype(float)))
    found = lo.jackknife(lo.effects(fit, lo.Groups.from_labels(site), lo.measures.parameter(0)))
    design = np.c_[x, np.ones(40)]
    left = [there & (site != k) for k in range(4)]
    each = [np.linalg.lstsq(design[kept], y[kept], rcond=None)[0][0] for kept in left]
    assert found[0] == pytest.approx(np.sqrt(3 * np.var(each)), rel=1e-9)


# ---- random groups in little memory --------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("method", [None, lo.Newton()], ids=["influence", "newton"])
def test_random_groups_are_the_same_in_whatever_memory(method):
    fit = lo.fit(problem("logistic", n=60))
    groups = lo.Groups.from_labels(np.arange(60) % 12)
    measure = lo.measures.prediction(np.eye(4)[:2])
    ask = lo.Null(30, method)
    whole, parts = (
        lo.credit(fit, groups, measure, lo.Influence(), null=ask, memory=memory).null
        for memory in (None, 5_000)
    )
    for name in ("effect", "mean", "low", "high", "z", "percentile", "p", "q"):
        np.testing.assert_allclose(
            getattr(parts, name), getattr(whole, name), rtol=1e-9, atol=1e-12
        )


@pytest.mark.slow
def test_random_groups_take_the_memory_they_are_given():
    fit = lo.fit(problem("logistic", n=400))
    groups = lo.Groups.from_labels(np.arange(400))
    measure = lo.measures.prediction(np.eye(4))
    lo.credit(fit, groups, measure, lo.Influence(), null=4)  # what is imported counts as well
    tracemalloc.start()
    lo.credit(fit, groups, measure, lo.Influence(), null=600, memory=2_000_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4_000_000  # all draws at once: 600 x 400 x 4 x 8 bytes, 7.7 million


@pytest.mark.slow
def test_the_parts_of_an_error_say_which_effects_are_flagged(case):
    fit, groups, measures, *_, actual = case
    parts = lo.bounds.decompose(fit, groups, measures, lo.Retrain())
    np.testing.assert_array_equal(parts.status, actual.column_status)
