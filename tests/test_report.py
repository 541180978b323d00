"""Comparison and figures of effects: against SciPy, NumPy and hand-made examples."""

import dataclasses

import jax
import numpy as np
import pytest

import leaveout as lo
from leaveout.analysis.agreement import STATISTICS
from leaveout.studies.koh2019 import plot_sweep
from problems import spearman


def pair(g=60, m=2, seed=0, noise=0.3):
    rng = np.random.default_rng(seed)
    actual = rng.normal(size=(g, m))
    return 0.5 * actual + noise * rng.normal(size=(g, m)), actual


def effects(value, kinds=("random", "positive tail"), method="Newton"):
    g, m = value.shape
    groups = lo.Groups.from_indices(
        [np.arange(1 + i % 30) for i in range(g)],
        n=100,
        kind=np.array(kinds)[np.arange(g) % len(kinds)],
    )
    zeros = np.zeros(g)
    return lo.Effects(
        value, zeros.astype(np.int8), zeros, zeros, tuple(f"loss[{j}]" for j in range(m)),
        ("loss",) * m, groups, method,
    )  # fmt: skip


def test_correlations_and_slope_are_those_of_scipy_and_numpy():
    predicted, actual = pair()
    report = lo.compare(predicted, actual)
    for j in range(2):
        p, a = predicted[:, j], actual[:, j]
        np.testing.assert_allclose(report.spearman[j], spearman(p, a), rtol=1e-12)
        np.testing.assert_allclose(report.pearson[j], np.corrcoef(p, a)[0, 1], rtol=1e-12)
        slope = np.linalg.lstsq(a[:, None], p)[0][0]
        np.testing.assert_allclose(report.slope[j], slope, rtol=1e-12)


def test_shares_and_errors_of_a_hand_made_example():
    actual = np.array([1.0, -2.0, 4.0, -8.0])
    report = lo.compare(np.array([0.5, 1.0, 5.0, -8.0]), actual)
    assert report.sign_agreement[0] == 0.75
    assert report.underestimated[0] == 0.5
    np.testing.assert_allclose(report["median_relative_error"][0], (0.25 + 0.5) / 2)
    np.testing.assert_allclose(report["max_relative_error"][0], 3 / 8)
    with pytest.raises(ValueError, match="unknown statistic 'r2'; known: spearman"):
        report["r2"]


def test_ties_share_their_ranks():
    a, p = np.array([1.0, 1.0, 2.0, 3.0]), np.array([2.0, 1.0, 1.0, 5.0])
    np.testing.assert_allclose(lo.compare(p, a).spearman[0], spearman(p, a))


def interval(report, statistic="spearman"):
    row = next(r for r in report.rows if r["by"] == "all" and r["statistic"] == statistic)
    return row["low"], row["value"], row["high"]


def test_intervals_hold_the_value_shrink_with_groups_and_follow_the_key():
    widths = []
    for g in (30, 480):
        low, value, high = interval(lo.compare(*pair(g, 1)))
        assert low < value < high
        widths.append(high - low)
    assert widths[1] < 0.5 * widths[0]
    one, same, other = (
        interval(lo.compare(*pair(), key=jax.random.key(seed))) for seed in (1, 1, 2)
    )
    assert one == same
    assert one != other


def test_intervals_are_those_of_groups_drawn_independently():
    """Of a slope: its standard error by formula, in which no draw is used twice."""
    predicted, actual = pair(g=400, m=1, noise=0.5)
    p, a = predicted[:, 0], actual[:, 0]
    slope = p @ a / (a @ a)
    error = np.sqrt(np.sum(((p - slope * a) * a) ** 2)) / (a @ a)  # of any variance, to first order
    low, value, high = interval(lo.compare(p, a, resamples=4000), "slope")
    assert value == pytest.approx(slope)
    np.testing.assert_allclose([value - low, high - value], 1.96 * error, rtol=0.15)


def test_rows_by_kind_and_size_are_those_of_the_subsets():
    predicted, actual = (effects(value) for value in pair())
    report = lo.compare(predicted, actual)
    for level, mask in (
        ("positive tail", predicted.groups.kind == "positive tail"),
        ("2.5 to 10 %", (predicted.groups.alpha > 0.025) & (predicted.groups.alpha <= 0.1)),
    ):
        alone = lo.compare(predicted[mask], actual[mask])
        rows = [r for r in report.rows if r["level"] == level and r["statistic"] == "pearson"]
        np.testing.assert_allclose([r["value"] for r in rows], alone.pearson, rtol=1e-12)
        assert rows[0]["count"] == mask.sum()
    assert len(report.to_pandas()) == len(report.rows)
    assert "loss[1]" in str(report)
    assert report.table(by="kind").count("positive tail") == 2


def test_slices_take_a_fifth_of_the_resamples():
    for resamples, known in ((4, False), (5, True)):
        rows = lo.compare(*(effects(each) for each in pair()), resamples=resamples).rows
        assert {row["low"] is not None for row in rows if row["by"] == "kind"} == {known}
        assert all(row["low"] is not None for row in rows if row["by"] == "all")


def test_statistics_have_no_unit_and_an_effect_of_nothing_has_no_relative_error():
    (predicted, actual), statistics = pair(m=1), lo.compare(*pair(m=1)).to_pandas()["value"]
    for scale in (1e-6, 1e6):
        found = lo.compare(scale * predicted, scale * actual).to_pandas()["value"]
        np.testing.assert_allclose(found, statistics, rtol=1e-9)
    actual[0] = 0.0
    error = np.abs(predicted - actual)[1:] / np.abs(actual)[1:]
    assert lo.compare(predicted, actual)["median_relative_error"] == pytest.approx(np.median(error))


def test_effects_that_do_not_vary_are_undefined_not_nan():
    report = lo.compare(np.ones(5), np.arange(5.0))
    assert np.isnan(report.spearman[0])
    assert "undefined: the effects do not vary" in report.notes[0]
    row = next(r for r in report.rows if r["statistic"] == "spearman")
    assert row["value"] is None
    assert "undefined" in report.table()


def test_rounding_is_no_variation_and_tiny_variation_is():
    assert np.isnan(lo.compare(np.full(7, 0.1), np.arange(7.0)).pearson[0])
    tiny = 1e-200 * np.arange(7.0)
    np.testing.assert_allclose(lo.compare(tiny, np.arange(7.0)).pearson[0], 1.0, rtol=1e-12)


def test_no_weights_and_weights_of_one_are_the_same_groups():
    predicted, actual = (effects(value) for value in pair())
    ones = np.ones(predicted.groups.indices.size)
    weighted = dataclasses.replace(
        predicted, groups=dataclasses.replace(predicted.groups, partial=ones)
    )
    np.testing.assert_array_equal(
        lo.compare(weighted, actual).spearman, lo.compare(predicted, actual).spearman
    )


def test_columns_in_which_the_same_groups_are_left_out_are_named_together_up_to_three():
    predicted, actual = (effects(value) for value in pair(g=6, m=7))
    codes = np.zeros((6, 7), np.int8)
    codes[2, :4], codes[[0, 2], 4] = lo.Status.stalled, lo.Status.singular
    actual = dataclasses.replace(actual, status=codes.max(axis=1), column_status=codes)
    report = lo.compare(predicted, actual, resamples=0)
    assert report.notes == (
        "left out of 'loss[0]', 'loss[1]', 'loss[2]', ...: 1 of 6 groups did not converge "
        "(1 stalled)",
        "left out of 'loss[4]': 2 of 6 groups did not converge (2 singular)",
    )
    counts = [row["count"] for row in report.rows if row["by"] == "all"][:: len(STATISTICS)]
    assert counts == [5, 5, 5, 5, 4, 6, 6]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda p, a: (np.where(p > 1, np.nan, p), a), "predicted effect of group .* is nan"),
        (lambda p, a: (p, a[:-1]), "got shapes"),
        (lambda p, a: (p[:1], a[:1]), "at least two groups"),
        (lambda p, a: (p[None], a[None]), r"shape \(g, m\) or \(g\)"),
        (lambda p, a: (effects(p), effects(a)[::-1]), "same groups in the same order"),
    ],
)
def test_comparisons_of_effects_not_finite_or_of_other_groups_are_refused(change, sentence):
    predicted, actual = pair()
    predicted[0] = 2.0
    with pytest.raises(ValueError, match=sentence):
        lo.compare(*change(predicted, actual))


# ---- figures ------------------------------------------------------------------------------------


def test_the_panel_marks_what_lies_outside():
    predicted, actual = (effects(value) for value in pair())
    ax = lo.plot.scatter(predicted, actual, column="loss[1]", limits=(-1.0, 1.0))
    x, y = actual.value[:, 1], predicted.value[:, 1]
    hidden = int(((np.abs(x) > 1) | (np.abs(y) > 1)).sum())
    assert hidden > 0
    assert f"{hidden} hidden" in [text.get_text() for text in ax.texts]
    for side, beyond in (("right", x > 1), ("left", x < -1), ("top", y > 1), ("bottom", y < -1)):
        is_red = ax.spines[side].get_edgecolor()[:3] == (1.0, 0.0, 0.0)
        assert is_red == beyond.any()


def test_the_panel_shares_limits_and_shows_every_point_once():
    predicted, actual = (effects(value) for value in pair())
    ax = lo.plot.scatter(predicted, actual)
    assert ax.get_xlim() == ax.get_ylim()
    drawn = np.vstack([part.get_offsets() for part in ax.collections])
    expected = np.c_[actual.value[:, 0], predicted.value[:, 0]]
    np.testing.assert_allclose(drawn[np.lexsort(drawn.T)], expected[np.lexsort(expected.T)])
    np.testing.assert_array_equal(*ax.lines[0].get_data())
    assert [part.get_label() for part in ax.collections] == ["positive tail", "random"]


def test_the_panel_refuses_other_groups():
    predicted, actual = (effects(value) for value in pair())
    with pytest.raises(ValueError, match="same groups in the same order"):
        lo.plot.scatter(predicted, actual[::-1])


def test_kinds_of_ones_own_are_told_apart():
    predicted, actual = (effects(value) for value in pair())
    kinds = np.resize(["ward A", "ward B", "ward C", "random"], len(predicted.groups))
    groups = dataclasses.replace(predicted.groups, kind=kinds)
    ax = lo.plot.scatter(*(dataclasses.replace(e, groups=groups) for e in (predicted, actual)))
    assert len({tuple(np.asarray(part.get_facecolor())[0]) for part in ax.collections}) == 4


def test_a_grid_of_panels_is_written(tmp_path):
    predicted, actual = (effects(value) for value in pair())
    path = tmp_path / "grid.png"
    figure = lo.plot.panels({"Newton": predicted, "again": predicted}, actual, [0, 1], path=path)
    assert len(figure.axes) == 4
    assert path.read_bytes()[:4] == b"\x89PNG"
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["random", "positive tail"]


def test_an_empty_cell_hosts_the_legend(tmp_path):
    predicted, actual = (effects(value) for value in pair())
    cells = [[(predicted, actual, 0), None], [(predicted, actual, 1), (predicted, actual, 1)]]
    paths = [tmp_path / "grid.png", tmp_path / "grid.pdf"]
    figure = lo.plot.grid(cells, titles=["a", "b"], rows=["one", "two"], path=paths)
    assert not figure.legends
    legend = figure.axes[1].get_legend()
    assert legend is not None
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == ["random", "positive tail"]
    assert [ax.get_ylabel() for ax in figure.axes] == ["one", "", "two", ""]
    assert all(path.stat().st_size > 1000 for path in paths)


def test_a_zoom_hides_few_points_and_counts_them():
    predicted, actual = pair(g=200)
    actual[0] = 1e3
    far = lo.plot.grid([[(effects(predicted), effects(actual), 0)]], zoom=True).axes[0]
    assert far.get_xlim()[1] < 50
    outside = (np.abs(np.c_[predicted, actual][:, ::2] - np.mean(far.get_xlim())) >
               np.ptp(far.get_xlim()) / 2).any(axis=1).sum()  # fmt: skip
    assert outside >= 1
    assert f"{outside} hidden" in [text.get_text() for text in far.texts]
    near = lo.plot.grid([[(effects(actual), effects(actual), 0)]]).axes[0]
    assert near.get_xlim()[1] > 1e3


def test_a_sweep_shows_every_level_in_its_colour():
    levels = (1e-3, 1e-1)
    series = [
        (effects(p / k), effects(a / k), "loss[0]") for k, (p, a) in ((1, pair()), (9, pair()))
    ]
    figure = plot_sweep.sweep([[series, None]], levels, titles=["a", "b"])
    drawn = figure.axes[0].collections
    assert len(drawn) == 2
    assert len({tuple(np.asarray(part.get_facecolor())[0]) for part in drawn}) == 2
    values = np.concatenate([part.get_offsets() for part in drawn])
    low, high = figure.axes[0].get_xlim()
    assert low <= values.min()
    assert values.max() <= high


def test_curves_draw_one_line_a_series():
    levels = (1e-3, 1e-2, 1e-1)
    rows = [{"a": np.array([0.5, 0.7, 0.9])}, {"a": np.ones(3), "b": np.zeros(3)}]
    figure = plot_sweep.curves(rows, levels, titles=["one", "two"])
    assert [len(ax.lines) for ax in figure.axes] == [1, 2]
    np.testing.assert_array_equal(figure.axes[0].lines[0].get_ydata(), rows[0]["a"])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]
