"""Figures of natural groups: what they say, in which colours, and that nothing lies over data."""

import dataclasses

import numpy as np
import pytest

import leaveout as lo

NAMES = np.array(["bad", "a name that is far too long to stand beside a row", "$b$", "d", "e", "f"])
LOSS, SHARE = "sum of loss[all]", "accuracy"


def effects(value, method, groups, better=(-1, 1), **more):
    g, m = value.shape
    return lo.Effects(
        value=value, status=np.zeros(g, np.int8), residual=np.zeros(g), steps=np.zeros(g, int),
        columns=(LOSS, SHARE)[:m], measure=("loss", "accuracy")[:m], groups=groups, method=method,
        better=better, **more,
    )  # fmt: skip


@pytest.fixture
def credit(as_users_run_it):
    """Effects of six groups on a loss and an accuracy, written down; the first one hurts."""
    labels = NAMES[np.arange(60) % 6]
    groups = lo.Groups.from_labels(labels, kind="vendor")
    order = [np.flatnonzero(groups.names == name)[0] for name in NAMES]
    loss = np.empty(6)
    loss[order] = [-3.0, 2.0, 1.0, 0.5, -0.2, 0.1]
    actual = effects(np.c_[loss, -loss / 100], "actual", groups)
    guess = effects(actual.value * 0.8, "influence", groups)
    own = guess.value
    half = np.ones_like(own)
    null = lo.Standing(
        effect=own, mean=0 * own, low=-half, high=half, z=own, percentile=50 * half,
        p=np.where(np.abs(own) > 1, 0.01, 0.6), q=np.where(np.abs(own) > 1, 0.03, 0.8),
        draws=1000, method="influence", status=np.zeros(own.shape, np.int8),
        flagged=np.zeros(own.shape, int),
    )  # fmt: skip
    return lo.Credit(
        groups=groups, columns=(LOSS, SHARE), effects={"influence": guess, "actual": actual},
        classes=(), balance=np.zeros((6, 0)), loss=np.ones(6), self_influence=np.ones(6),
        leverage=np.ones(6), null=null, base=np.array([40.0, 0.8]), fit=None,
    )  # fmt: skip


def drawn(figure):
    """The figure with its places worked out."""
    figure.canvas.draw() if hasattr(figure.canvas, "renderer") else figure.draw_without_rendering()
    return figure


def rgb(colour):
    from matplotlib.colors import to_rgb

    return tuple(np.round(to_rgb(colour), 3))


def test_bands_show_actual_effects_and_colour_by_better_or_worse(credit):
    for column, sides in ((LOSS, "better without the group   |   worse"), (SHARE, "worse without")):
        figure = drawn(lo.plot.bands(credit, column, title="Vendors " * 20))
        ax = figure.axes[0]
        ticks, dots = ax.collections
        j = credit.at(column)
        found = dict(zip([t.get_text() for t in ax.get_yticklabels()], dots.get_offsets()[:, 0],
                         strict=True))  # fmt: skip
        assert found["bad (10)"] == credit.best.value[credit.groups.names == "bad", j][0]
        assert "\\$b\\$ (10)" in found
        assert all(len(name) < 40 for name in found)
        assert sorted(ticks.get_offsets()[:, 0]) == sorted(credit.effects["influence"].value[:, j])
        edge = dict(zip(found, dots.get_edgecolors(), strict=True))["bad (10)"]
        assert rgb(edge) == rgb(lo.plot.HURTS)  # of the loss and of the accuracy
        assert sides in ax.get_xlabel()
        legend = figure.legends[0]
        words = [text.get_text() for text in legend.get_texts()]
        assert "hollow: within chance (q > 0.05)" in words
        assert not legend.get_window_extent().overlaps(ax.get_window_extent())
        whole, title = figure.bbox, figure._suptitle.get_window_extent()
        assert whole.x0 <= title.x0
        assert title.x1 <= whole.x1


def test_a_map_has_one_meaning_of_colour_for_measures_of_opposite_sense(credit):
    best = credit.best
    figure = lo.plot.heat(best.value, NAMES, best.columns, better=best.better, apart=True)
    image = figure.axes[0].images[0]
    shown = np.asarray(image.get_array())
    np.testing.assert_allclose(shown[0], shown[1])  # helps the one as it helps the other
    assert image.get_cmap().name == "sides"
    assert "better without it" in figure.axes[1].get_xlabel()
    plain = lo.plot.heat(best.value, NAMES, best.columns)
    assert "rises without the group" in plain.axes[1].get_xlabel()


def test_a_group_that_dwarfs_the_others_leaves_them_apart(credit):
    value = credit.best.value.copy()
    value[0] *= 1_000
    actual = dataclasses.replace(credit.best, value=value)
    guess = dataclasses.replace(actual, value=value * 0.9, method="Newton")
    ax = drawn(lo.plot.panels({"Newton": guess}, actual, [0])).axes[0]
    assert ax.get_xscale() == "asinh"
    places = ax.transData.transform(np.c_[value[1:, 0], value[1:, 0]])
    apart = np.abs(np.diff(np.sort(places[:, 0])))
    assert apart.max() > 0.03 * ax.bbox.width  # in plain axes all would be within a thousandth
    assert ax.get_xlim()[1] > value[:, 0].max() or ax.get_xlim()[0] < value[:, 0].min()
    assert "logarithmic beyond the middle" in ax.get_xlabel()
    near = lo.plot.panels({"influence": credit.effects["influence"]}, credit.best, [0]).axes[0]
    assert near.get_xscale() == "linear"
    assert "better without it   |   worse without it" in near.get_xlabel()


def test_a_forest_of_effects_has_a_row_a_group_and_certified_intervals(credit):
    best = credit.best
    sure = dataclasses.replace(best, lower=best.value - 0.1, upper=best.value + 0.1,
                               certificate=np.zeros(6, np.int8))  # fmt: skip
    found = dataclasses.replace(credit, effects={"actual": sure})
    figure = lo.plot.forest(found, LOSS)
    ax = figure.axes[0]
    assert ax.get_yticklabels()[0].get_text() == "bad (10)"  # from least to largest
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words[0] == "actual effect, with its certified interval (numerical)"
    assert "95 % of random groups of its size" in words
    assert len(lo.plot.forest(found, LOSS, most=3).axes[0].get_yticklabels()) == 3
    lost = dataclasses.replace(sure, column_status=np.ones((6, 2), np.int8))
    with pytest.raises(ValueError, match="nothing to draw"):
        lo.plot.forest(dataclasses.replace(credit, effects={"actual": lost}))


def test_a_forest_of_estimates_marks_the_group_on_which_the_finding_hangs(credit):
    without = np.array([[1.2], [2.1], [2.0], [1.9], [2.0], [2.2]])
    wide = np.array([[3.0], [1.2], [1.2], [1.2], [1.2], [1.2]])  # the first takes in 1
    found = lo.Confidence(
        columns=(LOSS,), estimate=np.array([2.0]), error=np.array([0.2]), low=np.array([1.4]),
        high=np.array([2.9]), p=np.array([0.01]), degrees=np.array([5]), ratio=np.array([True]),
        variance=lo.CRV.CRV3, level=0.95, credits=(credit,), without=without,
        without_low=without / wide, without_high=without * wide, share=np.ones((6, 1)) / 6,
        notes=(),
    )  # fmt: skip
    figure = drawn(lo.plot.forest(found))
    ax = figure.axes[0]
    assert ax.get_xscale() == "log"
    rows = [text.get_text() for text in ax.get_yticklabels()]
    assert rows[-1] == "all 6 together"
    squares = ax.collections[-1]
    tint = [rgb(colour) for colour in squares.get_facecolors()]
    assert [x for x, c in zip(squares.get_offsets()[:, 0], tint, strict=True)
            if c == rgb(lo.plot.HURTS)] == [1.2]  # fmt: skip
    words = " ".join(text.get_text() for text in figure.legends[0].get_texts())
    assert "95 % confidence interval" in words
    assert "says otherwise of no effect" in words
    assert not figure.legends[0].get_window_extent().overlaps(ax.get_window_extent())
