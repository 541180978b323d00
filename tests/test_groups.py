"""Groups: the sparse container against dense masks, and the shelf of families."""

import dataclasses
import inspect
import time

import jax
import numpy as np
import pandas as pd
import pytest
import sklearn.cluster
from scipy.cluster.hierarchy import fcluster, fclusterdata, linkage

import leaveout as lo
from leaveout import groups as shelf
from leaveout.groups.linkage import single_linkage
from problems import mostly_slow

N, D = 120, 5


@dataclasses.dataclass
class Points:
    n: int
    x: np.ndarray


class Data:
    """Inputs with ties, three classes."""

    n = N
    x = np.round(np.random.default_rng(0).normal(size=(N, D)), 1)
    y = np.repeat([0, 1, 2], [20, 40, 60])


DATA = Data()


RESIDUALS = np.random.default_rng(1).normal(size=N)
SCORES = np.random.default_rng(2).normal(size=(N, 2))
SIZES = shelf.sizes(N, 12)
MADE = {
    "random": lambda key: shelf.random(key, DATA, sizes=SIZES),
    "same_class": lambda key: shelf.same_class(key, DATA, sizes=SIZES),
    "shared_feature": lambda key: shelf.shared_feature(key, DATA, sizes=SIZES),
    "feature_clusters": lambda key: shelf.feature_clusters(key, DATA, sizes=SIZES),
    "gradient_clusters": lambda key: shelf.gradient_clusters(key, DATA, RESIDUALS, sizes=SIZES),
    "tails": lambda key: shelf.tails(key, SCORES, num=12),
    "folds": lambda key: shelf.folds(key, DATA, 7),
    "lookalikes": lambda key: shelf.lookalikes(
        key, DATA, like=shelf.folds(None, DATA, 7), within=Data.y, draws=3
    ),
    "singles": lambda key: shelf.singles(DATA),
    "of_data": lambda key: shelf.of_data(key, DATA, num=12),
    "seven": lambda key: shelf.seven(key, DATA, RESIDUALS, SCORES, num=12),
    "conjunctions": lambda key: shelf.conjunctions(
        {"lot": jax.random.permutation(key, np.arange(N) % 8)}, depth=1
    ),
}


def masks(seed=0, count=8):
    return np.random.default_rng(seed).random((count, N)) < 0.3


# ---- container ----------------------------------------------------------------------------------


def test_masks_indices_and_weights_make_the_same_groups():
    mask = masks()
    for groups in (
        lo.Groups.from_masks(mask),
        lo.Groups.from_indices([np.flatnonzero(row)[::-1] for row in mask], n=N),
        lo.Groups.from_weights(mask.astype(float)),
    ):
        np.testing.assert_array_equal(groups.dense(), mask)
        np.testing.assert_array_equal(groups.size, mask.sum(1))
        np.testing.assert_allclose(groups.alpha, mask.mean(1))
        indices, weights = groups.padded([2, 5], 64)
        rebuilt = np.zeros((2, N))
        np.add.at(rebuilt, (np.repeat([0, 1], 64), indices.reshape(-1)), weights.reshape(-1))
        np.testing.assert_array_equal(rebuilt, mask[[2, 5]])


def test_indexing_and_concatenation_are_those_of_masks():
    mask = masks()
    groups = lo.Groups.from_masks(mask)
    for rows in (3, slice(1, 6, 2), [5, 5, 0], mask[:, 0]):
        np.testing.assert_array_equal(groups[rows].dense(), np.atleast_2d(mask[rows]))
    np.testing.assert_array_equal((groups + groups[:2]).dense(), np.vstack([mask, mask[:2]]))


def test_set_algebra_is_that_of_masks():
    one, other = masks(0), masks(1)
    a, b = lo.Groups.from_masks(one), lo.Groups.from_masks(other)
    np.testing.assert_array_equal((a | b).dense(), one | other)
    np.testing.assert_array_equal((a & b).dense(), one & other)
    np.testing.assert_array_equal((a - b).dense(), one & ~other)
    np.testing.assert_array_equal((~a).dense(), ~one)
    np.testing.assert_array_equal((a | b[0]).dense(), one | other[:1])


@pytest.mark.parametrize("as_column", [list, np.array, pd.Series, pd.Categorical])
def test_labels_make_one_group_each_and_missing_ones_none(as_column):
    labels = np.random.default_rng(0).choice(["b", "a", "c"], N).tolist()
    groups = lo.Groups.from_labels(as_column(labels))
    assert groups.names.tolist() == ["a", "b", "c"]
    expected = np.array(labels)[None] == np.array(["a", "b", "c"])[:, None]
    np.testing.assert_array_equal(groups.dense(), expected)


def test_missing_labels_belong_to_no_group():
    labels = pd.Series(["x", None, "y", np.nan, "x"])
    assert lo.Groups.from_labels(labels).dense().tolist() == [[1, 0, 0, 0, 1], [0, 0, 1, 0, 0]]
    assert lo.Groups.from_labels(np.array([1.0, np.nan, 2.0])).names.tolist() == ["1.0", "2.0"]


def test_fractional_weights_keep_their_size_and_share():
    weights = np.zeros((2, N))
    weights[0, :4], weights[1, 7] = 0.5, -1.0
    groups = lo.Groups.from_weights(weights)
    assert groups.size.tolist() == [4, 1]
    np.testing.assert_allclose(groups.alpha, [2 / N, -1 / N])
    np.testing.assert_array_equal(groups[[1, 0]].dense(), weights[[1, 0]])


def test_groups_survive_saving(tmp_path):
    groups = lo.Groups.from_weights(masks() * 0.25, names=list("abcdefgh"), kind="mine")
    groups.save(tmp_path / "groups.npz")
    again = lo.Groups.load(tmp_path / "groups.npz")
    np.testing.assert_array_equal(again.dense(), groups.dense())
    assert again.names.tolist() == list("abcdefgh")
    assert repr(again) == repr(groups)
    np.savez(tmp_path / "other.npz", n=3)
    with pytest.raises(ValueError, match="does not hold groups saved by leaveout"):
        lo.Groups.load(tmp_path / "other.npz")


@pytest.mark.slow
def test_a_hundred_thousand_overlapping_groups_stay_sparse():
    begin = time.perf_counter()
    rng = np.random.default_rng(0)
    lists = list(rng.integers(0, 400_000 // 50, (100_000, 50)) + 8_000 * np.arange(50))
    groups = lo.Groups.from_indices(lists, n=400_000)
    assert groups.indices.nbytes < 50e6
    np.testing.assert_array_equal(np.sort(lists[777]), groups[777].indices)
    assert time.perf_counter() - begin < 20  # a dense (g n) array would not even fit


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: lo.Groups.from_indices([[1], []], n=9), "group '1' is empty"),
        (lambda: lo.Groups.from_indices([np.arange(9)], n=9), "group '0' removes every example"),
        (lambda: lo.Groups.from_weights(np.ones((1, 9))), "removes every example"),
        (lambda: lo.Groups.from_indices([[2, 3, 2]], n=9), "holds point 2 more than once"),
        (lambda: lo.Groups.from_indices([[2, 9]], n=9), "holds point 9, but the examples are 0 to"),
        (lambda: lo.Groups.from_indices([[0.5]], n=9), "expected integer indices in group 0"),
        (lambda: lo.Groups.from_indices([], n=9), "at least one group, got none"),
        (lambda: lo.Groups.from_masks(np.ones((2, 9))), "expected boolean masks"),
        (lambda: lo.Groups.from_weights(np.full((1, 9), np.nan)), r"w\[0, 0\] is not"),
        (lambda: lo.Groups.from_weights(np.full((1, 9), 1.5)), "removes 1.5 of point 0"),
        (lambda: lo.Groups.from_labels([None, None]), "all are missing"),
        (lambda: lo.Groups.from_indices([[1]], n=9, names=["a", "b"]), "1 names and kinds"),
        (
            lambda: lo.Groups.from_indices([[1]], n=9) & lo.Groups.from_indices([[2]], n=9),
            "group '0 & 0' is empty",
        ),
        (
            lambda: lo.Groups.from_indices([[1]], n=9) | lo.Groups.from_indices([[2]], n=8),
            "made for n=9 and n=8",
        ),
        (lambda: ~lo.Groups.from_weights(0.5 * np.eye(9)), "points that leave whole"),
        (lambda: lo.Groups.from_masks(masks()).padded([0], 3), "does not fit in 3"),
    ],
)
def test_groups_that_are_empty_whole_repeated_or_outside_are_refused_by_name(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


def test_crossed_labels_are_the_combinations_that_occur():
    frame = pd.DataFrame({"site": ["b", "a", "a", None, "b"], "wave": [1, 1, 2, 2, 1]})
    groups = lo.Groups.from_labels(frame)
    assert groups.names.tolist() == ["a, 1", "a, 2", "b, 1"]
    expected = [[0, 1, 0, 0, 0], [0, 0, 1, 0, 0], [1, 0, 0, 0, 1]]
    np.testing.assert_array_equal(groups.dense(), expected)
    table = np.array([["b", "1"], ["a", "1"]])
    assert lo.Groups.from_labels(table).names.tolist() == ["a, 1", "b, 1"]


def test_a_long_table_makes_overlapping_groups():
    pairs = pd.DataFrame({"row": [0, 0, 1, 2, 2], "function": ["f", "g", "g", "f", None]})
    groups = lo.Groups.from_pairs(pairs["row"], pairs["function"], n=4)
    assert groups.names.tolist() == ["f", "g"]
    np.testing.assert_array_equal(groups.dense(), [[1, 0, 1, 0], [1, 1, 0, 0]])
    halves = lo.Groups.from_pairs([2, 1, 0], ["a", "b", "a"], n=4, w=[0.5, 1, 0.25])
    np.testing.assert_array_equal(halves.dense(), [[0.25, 0, 0.5, 0], [0, 1, 0, 0]])


def test_intervals_are_half_open_and_months_are_labels():
    groups = lo.Groups.from_intervals([0.0, 1.0, 2.5, np.nan, 9.0], [0, 1, 2, 3])
    assert groups.names.tolist() == ["[0, 1)", "[1, 2)", "[2, 3)"]
    np.testing.assert_array_equal(groups.dense() @ np.arange(5), [0, 1, 2])
    days = pd.Series(pd.to_datetime(["2001-03-02", "2001-04-01", None, "2001-03-31"]))
    months = lo.Groups.from_labels(days.to_numpy().astype("datetime64[M]"))
    assert months.names.tolist() == ["2001-03", "2001-04"]
    quarters = np.array(["2001-01-01", "2001-04-01", "2001-07-01"], "datetime64[D]")
    assert lo.Groups.from_intervals(days, quarters).size.tolist() == [2, 1]


def test_splitters_make_groups():
    from sklearn.model_selection import GroupKFold

    labels = np.arange(N) % 5
    splits = list(GroupKFold(3).split(Data.x, groups=labels))
    groups = lo.Groups.from_splits(splits, n=N)
    for row, (_, test) in zip(groups.dense(), splits, strict=True):
        np.testing.assert_array_equal(np.flatnonzero(row), np.sort(test))


def test_lookalikes_keep_sizes_strata_and_disjointness():
    like = lo.Groups.from_labels(np.arange(N) % 7)
    groups = shelf.lookalikes(jax.random.key(0), DATA, like=like, within=Data.y, draws=4)
    counts = groups.dense() @ np.eye(3)[Data.y]
    np.testing.assert_array_equal(counts, np.tile(like.dense() @ np.eye(3)[Data.y], (4, 1)))
    np.testing.assert_array_equal(groups.dense().reshape(4, 7, N).sum(axis=1), np.ones((4, N)))
    weights = lo.Groups.from_weights(0.5 * like.dense())
    again = shelf.lookalikes(jax.random.key(0), DATA, like=weights, within=Data.y, draws=4)
    np.testing.assert_array_equal(again.dense(), 0.5 * groups.dense())


# ---- families -----------------------------------------------------------------------------------


def test_every_family_is_tried():
    found = {
        name
        for name in shelf.__all__
        if inspect.isfunction(getattr(shelf, name))
        and inspect.signature(getattr(shelf, name)).return_annotation is lo.Groups
    }
    assert found == set(MADE)


RANDOM = [name for name in MADE if name != "singles"]


@pytest.mark.parametrize(
    "name", mostly_slow(RANDOM, *(n for n in RANDOM if n != "feature_clusters"))
)
def test_the_same_key_makes_the_same_groups_and_another_makes_others(name):
    one, again, other = (MADE[name](jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.indices, again.indices)
    np.testing.assert_array_equal(one.offsets, again.offsets)
    assert one.indices.size != other.indices.size or (one.indices != other.indices).any()
    assert one.n == N


@pytest.mark.parametrize("name", ["random", "shared_feature"])
def test_sizes_are_those_asked_for(name):
    np.testing.assert_array_equal(MADE[name](jax.random.key(0)).size, SIZES)


def test_same_class_is_pure_and_says_what_it_could_not_make():
    groups = shelf.same_class(jax.random.key(0), DATA, sizes=[10, 30, 50, 61, 70])
    assert groups.size.tolist() == [10, 30, 50]
    for i in range(3):
        assert np.unique(Data.y[groups[i].indices]).size == 1
    assert groups.notes == (
        "random within class: 3 of 5 groups; 2 sizes exceed the largest class (60 points)",
    )


def test_shared_feature_is_a_window_of_ranks():
    groups = MADE["shared_feature"](jax.random.key(3))
    for i in range(len(groups)):
        members = groups[i].indices
        windows = []
        for column in Data.x.T:
            rank = np.argsort(np.argsort(column, kind="stable"), kind="stable")[members]
            windows.append(rank.max() - rank.min() + 1 == members.size)
        assert any(windows)


@pytest.mark.parametrize("count", [2, 3, 1300])
def test_single_linkage_is_scipys(count):
    points = np.random.default_rng(count).normal(size=(count, 4))
    mine, theirs = single_linkage(points), linkage(points, "single")
    np.testing.assert_allclose(mine[:, 2:], theirs[:, 2:], rtol=1e-12)
    cut = [fcluster(z, 0.4, "distance") for z in (mine, theirs)]
    assert len(set(zip(*cut, strict=True))) == len(set(cut[0])) == len(set(cut[1]))


def test_single_linkage_joins_equal_points_first():
    points = np.repeat(np.random.default_rng(0).integers(0, 3, (40, 2)).astype(float), 20, axis=0)
    mine, theirs = single_linkage(points), linkage(points, "single")
    np.testing.assert_allclose(mine[:, 2], theirs[:, 2], atol=1e-12)


@pytest.fixture
def clustered(monkeypatch):
    """What k-means was asked for: (points, k, labels) of each call."""
    calls = []

    class Recorded(sklearn.cluster.KMeans):
        def fit_predict(self, X, y=None, sample_weight=None):
            labels = super().fit_predict(X, y, sample_weight)
            calls.append((X, self.n_clusters, labels))
            return labels

    monkeypatch.setattr(sklearn.cluster, "KMeans", Recorded)
    return calls


def test_clusters_are_single_linkage_and_k_means(clustered):
    points = np.random.default_rng(3).normal(size=(N, D))  # where distances tie, trees differ
    data = Points(N, points)
    groups = shelf.feature_clusters(jax.random.key(5), data, sizes=np.tile(SIZES, 4))
    assert [k for _, k, _ in clustered] == [4, 8, 16, 32, 64]  # and 128 are more than points
    labels = [fclusterdata(points, 1)]
    for seen, _, label in clustered:
        np.testing.assert_array_equal(seen, points)
        labels.append(label)
    whole = [[np.unique(label[groups[i].indices]).size == 1 for label in labels]
             for i in range(len(groups))]  # fmt: skip
    assert all(map(any, whole))
    assert any(row[0] and not any(row[1:]) for row in whole)  # some of single linkage alone


def test_single_linkage_is_cut_as_scipys_is():
    points = np.random.default_rng(3).normal(size=(N, D))
    cut = [fcluster(single_linkage(points), 1, "inconsistent", depth=2), fclusterdata(points, 1)]
    assert len(set(zip(*cut, strict=True))) == len(set(cut[0])) == len(set(cut[1]))


def test_sketched_gradients_keep_their_distances(monkeypatch):
    seen = []

    class One:
        """All points in one cluster, at once."""

        def __init__(self, *_, **settings):
            pass

        def fit_predict(self, points):
            seen.append(points)
            return np.zeros(len(points), int)

    monkeypatch.setattr(sklearn.cluster, "KMeans", One)
    rng, n = np.random.default_rng(0), 1_200
    data = Points(n, rng.normal(size=(n, 200)))
    residuals = rng.normal(size=(n, 70))  # gradients of 135 MB in all: more than are held
    made = shelf.gradient_clusters(jax.random.key(0), data, residuals, sizes=[1, 1])
    assert "sketched from 14,070 to 512 dimensions" in made.notes[0]
    products = (residuals @ residuals.T) * (data.x @ data.x.T + 1)
    square = np.diag(products)
    exact = np.sqrt(square[:40] + square[40:80] - 2 * np.diagonal(products[:40, 40:80]))
    sketch = np.linalg.norm(seen[0][:40] - seen[0][40:80], axis=1)
    # a Gaussian sketch of m dimensions has relative error about 1 / sqrt(2 m) = 0.03
    np.testing.assert_allclose(sketch / exact, 1.0, atol=0.15)


def test_tails_are_drawn_from_the_extremes():
    groups = shelf.tails(jax.random.key(0), SCORES, num=30)
    assert len(groups) == 2 * 2 * 30
    order = np.argsort(SCORES[:, 1])
    last = {"negative tail": order[: int(1.5 * 30)], "positive tail": order[-int(1.5 * 30) :]}
    for i in range(60, 120):
        assert np.isin(groups[i].indices, last[str(groups.kind[i])]).all()
    assert groups.size.max() == int(0.25 * N)


def test_folds_partition_the_data():
    for key in (None, jax.random.key(0)):
        folds = shelf.folds(key, DATA, 7)
        np.testing.assert_array_equal(folds.dense().sum(0), 1)
    assert shelf.folds(None, 10, 3).size.tolist() == [4, 4, 2]
    with pytest.raises(ValueError, match="2 to 10 folds, got 11"):
        shelf.folds(None, 10, 11)


def test_families_do_not_disturb_each_other():
    key = jax.random.key(9)
    whole = shelf.seven(key, DATA, RESIDUALS, SCORES, num=12)
    alone = shelf.random(jax.random.fold_in(key, 0), DATA, sizes=SIZES)
    np.testing.assert_array_equal(whole[whole.kind == "random"].indices, alone.indices)
    first = shelf.of_data(key, DATA, num=12)
    again = shelf.seven(key, DATA, RESIDUALS, SCORES, num=12, first=first)
    np.testing.assert_array_equal(whole.dense(), again.dense())
    assert whole.notes == again.notes
    assert len(set(whole.kind.tolist())) == 7
    assert len(whole.notes) == 6


def test_dense_weights_need_no_copy_on_a_processor():
    dense = lo.Groups.from_indices([[0, 2], [1]], n=3).dense()
    np.testing.assert_array_equal(dense, [[1, 0, 1], [0, 1, 0]])
    if jax.default_backend() == "cpu":
        assert jax.device_put(dense).unsafe_buffer_pointer() == dense.ctypes.data
