"""Data sets: shelf-wide conformance, and fingerprints of what the paper used."""

import dataclasses

import numpy as np
import pytest

import leaveout as lo
from problems import mostly_slow

#: what each set of the paper's is, to the last bit of x: n, d, class counts, SHA-256 of x
FINGERPRINTS = {
    "diabetes": (
        20_000,
        127,
        [10_000, 10_000],
        "72f71f0f9acc091124810143eef9707b7b7326bda5fc4779f0fe1c369513095f",
    ),
    "enron": (
        4_137,
        6_291,
        [2_928, 1_209],
        "69bf89876d7279f5933e6ed3cc2749f8422aa67d3fdb8fcd1cdf60b6c3591240",
    ),
    "fishdog": (
        1_800,
        1_280,
        [900, 900],
        "65a059237dd11f0f40a958f9c5d8f0e078607428e48bc4d6a0818fcf2d8c1950",
    ),
    "mnist": (
        55_000,
        784,
        [5444, 6179, 5470, 5638, 5307, 4987, 5417, 5715, 5389, 5454],
        "3f2829fc70066400a3f4dbd615b2edc35b2f792a8af9720fd1a4a231705a2356",
    ),
    "mnist_small": (
        5_500,
        784,
        [536, 612, 588, 523, 533, 474, 576, 569, 570, 519],
        "22517a9be808e41be69d78a49153e37241cace16b8aeb865594931eff408d065",
    ),
    "cdr": (13_784, 306, [8_437, 5_347], None),  # depends on scikit-learn's liblinear
    "nli": (
        15_103,
        600,
        [4_507, 5_238, 5_358],
        "5ab00949d6679eee842336c718f24551ccca1b297a839eca983e75aca01b8b51",
    ),
}
FINGERPRINTS |= {
    "heart": (
        735,
        39,
        [337, 398],
        "06f433d2701bf7c337d896b9871d68accc022a921c7bfeb17d9aa18cd12d7603",
    ),
    "adult": (
        32_561,
        91,
        [24_720, 7_841],
        "0320f1fae9ce4878bbf04d204cf08b2dcf28b07f60e634e0e3aa1345369801a2",
    ),
    "compas": (4_320, 15, [2_367, 1_953], None),
    "morocco": (5_513, 91, None, None),
    "microcredit": (35_303, 14, None, None),
    "youtube": (2_592, 1_293, [1_337, 1_255], None),  # depends on scikit-learn's tokens
    "sms": (2_390, 3_704, [1_997, 393], None),
}
FINGERPRINTS |= {
    "concrete": (
        927,
        8,
        None,
        "3f3c873de6891d1c85ff556f0949b0d0306b54b983de5432f68e8b46de6630ef",
    ),
    "parkinsons": (
        5_287,
        19,
        None,
        "e1f59c1d81cd6bfaff97b3bd9257edec7619c3612fcec08deb8fc385cfc44707",
    ),
    "fashion": (
        6_144,
        784,
        [649, 583, 621, 611, 623, 621, 627, 579, 597, 633],
        "66547db7406aa3ad3a77971d20484287f3b8f846b7e881dfdba829f4774924a1",
    ),
    "fashion_noisy": (
        6_144,
        784,
        [625, 614, 598, 609, 609, 629, 632, 582, 622, 624],
        "66547db7406aa3ad3a77971d20484287f3b8f846b7e881dfdba829f4774924a1",
    ),
}
NEEDS_FILES = [name for name in lo.datasets.available() if lo.datasets.origin(name) is not None]
LARGE = {"cdr", "enron", "mnist", "nli"}  # seconds each to parse
LOCAL = [
    name
    for name in lo.datasets.available()
    if lo.datasets.origin(name) is None and name != "crowd"  # 1.9 GB: see its own test
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A cache of this module's own, so that what is parsed is parsed by this code."""
    patch = pytest.MonkeyPatch()
    patch.setenv("LEAVEOUT_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


@pytest.fixture(scope="module")
def diabetes(real_data, cache):
    return lo.datasets.diabetes()


def conforms(data):
    for x, y in ((data.x, data.y), (data.x_query, data.y_query)):
        assert x.dtype == np.float64
        assert np.isfinite(x).all()
        assert x.shape == (len(y), data.d)
    if data.labelled:
        labels = 2 if data.outputs == 1 else data.outputs
        assert np.unique(data.y).tolist() == list(range(labels))
    assert len(data.feature_names) == data.d
    assert data.weights is None or (data.weights > 0).all()
    assert all(len(column) == len(data.y_query) for column in data.query_labels.values())
    assert all(len(column) == data.n for column in data.labels.values())
    assert data.source
    assert data.licence


@pytest.mark.parametrize("name", LOCAL)
def test_every_data_set_is_finite_coded_and_always_the_same(name):
    data, again = lo.datasets.load(name), lo.datasets.load(name)
    assert data.name == name
    assert data.fingerprint() == again.fingerprint()
    conforms(data)


@pytest.mark.parametrize("name", mostly_slow(NEEDS_FILES, *set(NEEDS_FILES) - LARGE))
def test_the_papers_data_sets_are_what_they_were(name, real_data, cache):
    data = lo.datasets.load(name)
    conforms(data)
    n, d, classes, checksum = FINGERPRINTS[name]
    found = data.fingerprint()
    assert (found["n"], found["d"], found.get("classes")) == (n, d, classes)
    if checksum is not None:
        assert found["x"] == checksum
    assert lo.datasets.load(name).fingerprint() == found  # from the cache


@pytest.mark.parametrize(
    ("name", "total"), [("breast_cancer", 569), ("digits", 1797), ("wine", 178)]
)
def test_query_examples_are_held_out(name, total):
    data = lo.datasets.load(name)
    assert len(data.y) + len(data.y_query) == total
    rows = {row.tobytes() for row in data.x}
    shared = sum(row.tobytes() in rows for row in data.x_query)
    assert shared == 0


def test_diabetes_is_the_papers(diabetes):
    assert diabetes.x.shape == (20_000, 127)
    assert diabetes.x_query.shape == (81_766, 127)
    assert diabetes.y.sum() == 10_000
    assert diabetes.y_query.sum() == 1_357
    assert diabetes.x[:, 8:].min() == 0.0
    assert diabetes.x[:, 8:].max() == 1.0
    constant = diabetes.feature_names.index("examide=No")
    np.testing.assert_array_equal(diabetes.x[:, constant], 1.0)


@pytest.mark.slow
def test_diabetes_gives_the_papers_accuracy_and_hardest_point(diabetes):
    objective = lo.logistic(diabetes.x, diabetes.y, l2=20_000 * 10 ** (-4 + 1 / 3))
    fitted = lo.fit(objective)
    scores = np.asarray(objective.scores(fitted.flat, objective.widen(diabetes.x_query)))[:, 0]
    assert round(100 * np.mean((scores > 0) == diabetes.y_query), 1) == 68.2
    losses = np.logaddexp(0, scores) - diabetes.y_query * scores
    assert int(np.argmax(losses)) == 66_678
    np.testing.assert_allclose(losses.max(), 6.7512, atol=5e-5)


def test_an_unknown_name_gets_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown dataset 'iris'; known: breast_cancer, digits"):
        lo.datasets.load("iris")


def test_the_second_start_needs_no_raw_file(real_data, tmp_path, monkeypatch):
    monkeypatch.setenv("LEAVEOUT_CACHE", str(tmp_path))
    first = lo.datasets.fishdog()
    monkeypatch.setenv("LEAVEOUT_DATA", str(tmp_path / "nothing here"))
    np.testing.assert_array_equal(lo.datasets.fishdog().x, first.x)
    for stored in (tmp_path / "parsed").iterdir():  # a damaged cache is not trusted
        stored.write_bytes(stored.read_bytes()[:1000])
    with pytest.raises(FileNotFoundError, match="it cannot be downloaded"):
        lo.datasets.fishdog()


def test_gauss4_has_the_released_codes_stream():
    data = lo.datasets.gauss4()
    assert data.l2 is not None
    np.testing.assert_allclose(data.x[0, :3], [-0.89425597, 1.40192064, -0.48407718], atol=5e-9)
    np.testing.assert_allclose(data.x.sum(), 24.845938, atol=5e-7)
    assert data.y[:10].tolist() == [0, 1, 1, 1, 0, 0, 1, 0, 1, 0]
    fitted = lo.fit(lo.logistic(data.x, data.y, l2=data.l2, intercept=False))
    np.testing.assert_allclose(np.linalg.norm(fitted.flat), 7.0636, atol=5e-5)
    losses = fitted.objective.losses(fitted.flat)
    np.testing.assert_allclose(losses.sum(), 31.9672, atol=5e-5)
    spectrum = np.linalg.eigvalsh(fitted.objective.hessian(fitted.flat))
    np.testing.assert_allclose(spectrum[[0, -1]], [0.3039, 48.361], atol=5e-4)


@pytest.mark.slow
def test_ortho2_gives_the_papers_panel():
    data = lo.datasets.ortho2()
    assert data.l2 is not None
    objective = lo.logistic(data.x, data.y, l2=data.l2, intercept=False)
    fitted = lo.fit(objective)
    np.testing.assert_allclose(fitted.flat, [0.0, -3.21441], atol=5e-6)
    hessian = np.diag(objective.hessian(fitted.flat))
    np.testing.assert_allclose(hessian, [0.2887500, 1.6541287], atol=5e-8)
    begin = np.cumsum([0, 40, 20, 40])
    prefixes = [
        b + np.arange(m) for b, k in zip(begin, (40, 20, 40, 20), strict=True) for m in range(1, k)
    ]
    groups = lo.Groups.from_indices(prefixes, n=120)
    assert len(groups) == 116
    query = lo.measures.prediction(data.x_query)
    influence = lo.effects(fitted, groups, query, lo.Influence()).value[:, 0]
    newton = lo.effects(fitted, groups, query, lo.Newton()).value[:, 0]
    actual = lo.effects(fitted, groups, query, lo.Retrain()).value[:, 0]
    np.testing.assert_allclose([influence.min(), influence.max()], [-4.935, 5.065], atol=5e-4)
    np.testing.assert_allclose([newton.min(), newton.max()], [-7.835, 7.318], atol=5e-4)
    ratio = (newton / influence).reshape(-1)
    ends = np.cumsum([39, 19, 39, 19]) - 1
    np.testing.assert_allclose(ratio[ends], [1.234, 1.588, 8.035, 1.029], atol=5e-4)
    np.testing.assert_allclose(lo.compare(influence, newton).spearman, 0.972, atol=5e-4)
    np.testing.assert_allclose(lo.compare(influence, actual).spearman, 0.991, atol=5e-4)


def test_votes_weigh_one_a_text_and_functions_are_as_right_as_they_are(real_data):
    data = lo.datasets.youtube()
    text, function = data.labels["text"], data.labels["function"]
    np.testing.assert_allclose(np.bincount(text, data.weights)[np.unique(text)], 1.0)
    assert np.unique(function).size == 10
    for k in range(10):
        assert np.unique(data.y[function == k]).size == 1  # a function votes for one class
        assert np.unique(data.labels["precision"][function == k]).size == 1


def test_hospitals_are_whole_and_held_out_alike(real_data):
    data = lo.datasets.heart()
    names, count = np.unique(data.labels["hospital"], return_counts=True)
    assert dict(zip(names, count, strict=True)) == {
        "cleveland": 242, "hungarian": 235, "switzerland": 98, "va": 160,
    }  # fmt: skip
    _, count = np.unique(data.query_labels["hospital"], return_counts=True)
    assert count.tolist() == [61, 59, 25, 40]


def test_the_offer_of_credit_has_the_published_coefficient(real_data):
    data = lo.datasets.morocco()
    assert data.l2 is not None
    fit = lo.fit(lo.squares(data.x, data.y, l2=data.l2))
    assert float(fit.flat[0]) == pytest.approx(1121.8, abs=0.05)  # by ordinary least squares
    assert len(lo.Groups.from_labels(data.labels["village"])) == 162


def test_a_fifth_and_more_of_noisy_labels_are_wrong(real_data):
    clean, noisy = lo.datasets.fashion(), lo.datasets.fashion_noisy()
    drawn = noisy.labels["drawn"] == 1
    assert drawn.mean() == pytest.approx(0.3, abs=1e-3)
    np.testing.assert_array_equal(noisy.y[~drawn], clean.y[~drawn])
    assert (noisy.y != clean.y).mean() == pytest.approx(0.27, abs=0.01)


def test_every_patient_has_recordings_on_both_sides(real_data):
    data = lo.datasets.parkinsons()
    mine, asked = data.labels["patient"], data.query_labels["patient"]
    assert set(mine) == set(asked) == set(range(1, 43))
    np.testing.assert_allclose(np.bincount(mine, data.y)[1:].sum(), 0.0, atol=1e-9)


def test_a_crowd_is_as_large_as_asked_and_unequal():
    data = lo.datasets.crowd(4_000, 20, workers=30)
    conforms(data)
    count = np.bincount(data.labels["worker"])
    assert len(count) == 30
    assert count.max() > 20 * np.sort(count)[5] / 5
    assert data.fingerprint() == lo.datasets.crowd(4_000, 20, workers=30).fingerprint()


@pytest.mark.parametrize("rows", [slice(30), np.arange(0, 60, 7), np.arange(60) % 3 == 0])
def test_some_examples_keep_what_belongs_to_them(rows):
    counts = np.arange(60.0)
    data = dataclasses.replace(
        lo.datasets.crowd(60, 3, workers=5), weights=counts + 1, offset=-counts
    )
    some, kept = data.some(rows), np.arange(60)[rows]
    np.testing.assert_array_equal(some.x, data.x[kept])
    np.testing.assert_array_equal(some.weights, kept + 1)
    np.testing.assert_array_equal(some.offset, -kept)
    np.testing.assert_array_equal(some.labels["worker"], data.labels["worker"][kept])
    assert len(some.y_query) == len(data.y_query)
