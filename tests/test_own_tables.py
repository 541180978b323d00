"""`lo.table`: any library, coded and named; what is missing; who is a query; what is refused."""

import datetime
import warnings
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse
from formulaic import model_matrix
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold

import leaveout as lo
from leaveout.studies import natural
from leaveout.studies.own.frames import read_file
from problems import wrong

N = 120
RNG = np.random.default_rng(0)
WORDS = ["good", "late", "dear", "kind", "slow"]
FRAME = pd.DataFrame(
    {
        "age": RNG.normal(50, 9, N).round(1),
        "visits": RNG.integers(0, 9, N),
        "smoker": RNG.random(N) < 0.3,
        "site": RNG.choice(["va", "cleveland", "zürich"], N),
        "vendor": RNG.choice(["v1", "v2", "v3", "v4"], N),
        "died": np.where(RNG.random(N) < 0.4, "yes", "no"),
    }
)
NOTES = [" ".join(RNG.choice(WORDS, 4)) + f" r{i}" for i in range(N)]
USUAL: dict[str, Any] = {"target": "died", "groups": "vendor"}
NAMES = ("age", "visits", "smoker", "site=va", "site=zürich")


def coded(frame=FRAME) -> np.ndarray:
    """The inputs as pandas makes them."""
    dummies = pd.get_dummies(frame.drop(columns=["died", "vendor"]), drop_first=True)
    dummies.columns = [name.replace("site_", "site=") for name in dummies]
    return dummies[[name for name in NAMES if name in dummies]].to_numpy(float)


def with_missing() -> pd.DataFrame:
    """Two ages, a site and an answer are missing."""
    frame = FRAME.copy()
    frame.loc[[3, 5], "age"] = np.nan
    frame.loc[7, "site"] = None
    return frame


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The table as files."""
    folder = tmp_path_factory.mktemp("tables")
    FRAME.to_csv(folder / "plain.csv", index=False)
    FRAME.to_csv(folder / "european.csv", index=False, sep=";")
    FRAME.to_csv(folder / "tabs.tsv", index=False, sep="\t", encoding="utf-8-sig")
    FRAME.to_csv(folder / "indexed.csv.gz")
    FRAME.to_parquet(folder / "plain.parquet")
    return folder


FORMS = {
    "pandas": FRAME,
    "nullable": FRAME.convert_dtypes(),
    "arrow in pandas": FRAME.convert_dtypes(dtype_backend="pyarrow"),
    "categories": FRAME.astype({"site": "category", "died": "category"}),
    "polars": pl.DataFrame(FRAME.to_dict("list")),
    "pyarrow": pa.table(FRAME.to_dict("list")),
    "dictionary": FRAME.to_dict("list"),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_table_of_any_library_is_the_same_data(form):
    data = lo.table(FORMS[form], **USUAL)
    np.testing.assert_array_equal(data.x, coded())
    assert data.feature_names == NAMES
    assert data.classes == ("no", "yes")
    assert data.y.tolist() == FRAME["died"].tolist()
    assert data.groups.names.tolist() == ["v1", "v2", "v3", "v4"]
    np.testing.assert_array_equal(
        data.groups["v3"].indices, np.flatnonzero(FRAME["vendor"] == "v3")
    )


@pytest.mark.parametrize(
    "file", ["plain.csv", "european.csv", "tabs.tsv", "indexed.csv.gz", "plain.parquet"]
)
def test_a_file_is_the_table_that_was_written(files, file):
    data = lo.table(files / file, **USUAL)
    np.testing.assert_array_equal(data.x, coded())
    assert data.name == file.partition(".")[0]
    assert data.fingerprint() == lo.table(FRAME, **USUAL).fingerprint()
    assert ("without a name" in repr(data)) == (file == "indexed.csv.gz")


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("european.csv", "csv"),
        ("tabs.tsv", "tsv"),
        ("tabs.tsv", "csv"),
        ("plain.parquet", "parquet"),
    ],
)
def test_a_file_whose_name_does_not_say_is_what_it_is_said_to_be(files, tmp_path, file, kind):
    path = tmp_path / "table.data"
    path.write_bytes((files / file).read_bytes())
    with pytest.raises(ValueError, match=r"expected a file ending in \.csv"):
        lo.table(path, **USUAL)
    np.testing.assert_array_equal(lo.table(read_file(path, kind), **USUAL).x, coded())
    if kind == "parquet":
        with pytest.raises(ValueError, match=r"is not UTF-8|is no sound CSV file"):
            read_file(path, "csv")


def test_a_fit_is_what_scikit_learn_finds_and_bears_names():
    data = lo.table(FRAME, **USUAL)
    fit = lo.fit(data.objective(l2=0.5))
    theirs = LogisticRegression(C=2, solver="newton-cholesky", tol=1e-12).fit(coded(), data.y)
    np.testing.assert_allclose(fit.flat, [*theirs.coef_[0], *theirs.intercept_], atol=1e-7)
    wanted = lo.measures.parameter(["age", "site", "intercept"]).bind(fit.objective)
    assert wanted.columns(fit.objective) == (
        "parameter[age]",
        "parameter[site=va]",
        "parameter[site=zürich]",
        "parameter[intercept]",
    )
    assert fit.predict(data.coded(FRAME.iloc[:9])).tolist() == theirs.predict(coded()[:9]).tolist()


def test_leaving_a_vendor_out_is_refitting_without_its_rows():
    data = lo.table(FRAME, **USUAL, query=0.25)
    fit = lo.fit(data.objective(l2=1.0))
    found = lo.effects(fit, data.groups, lo.measures.loss(data.query, reduce="mean"), lo.Retrain())

    def loss(kept) -> float:
        model = LogisticRegression(C=1, solver="newton-cholesky", tol=1e-12)
        model.fit(data.x[kept], data.y[kept])
        chance = model.predict_proba(data.x_query)
        return -np.log(chance[np.arange(len(chance)), (data.y_query == "yes").astype(int)]).mean()

    vendor = np.asarray(data.labels["vendor"])
    truth = [loss(vendor != name) - loss(vendor != "none") for name in data.groups.names]
    np.testing.assert_allclose(found.value[:, 0], truth, atol=1e-7)


# ---- what is missing -----------------------------------------------------------------------------


def test_missing_values_are_refused_with_their_number():
    sentence = r"3 of 120 rows of the table have .* \(age in 2, site in 1\).*drop.*indicator"
    with pytest.raises(ValueError, match=sentence):
        lo.table(with_missing(), **USUAL)


def test_missing_values_are_dropped_and_counted():
    data = lo.table(with_missing(), **USUAL, missing="drop")
    np.testing.assert_array_equal(data.x, coded(FRAME.drop([3, 5, 7])))
    assert data.notes == ("3 rows with something missing were dropped (age in 2, site in 1)",)


def test_missing_values_are_coded():
    data = lo.table(with_missing(), **USUAL, missing="indicator")
    assert data.feature_names == (
        "age", "age missing", "visits", "smoker", "site=va", "site=zürich", "site=missing",
    )  # fmt: skip
    x = dict(zip(data.feature_names, data.x.T, strict=True))
    middle = FRAME["age"].drop([3, 5]).median()
    assert x["age"][[3, 5]].tolist() == [middle, middle]
    assert np.flatnonzero(x["age missing"]).tolist() == [3, 5]
    assert np.flatnonzero(x["site=missing"]).tolist() == [7]


def test_a_missing_group_is_none_and_a_missing_target_no_example():
    frame = FRAME.copy()
    frame.loc[2, "vendor"] = None
    assert "1 of 120 examples have no label" in lo.table(frame, **USUAL).groups.notes[0]
    frame.loc[4, "died"] = None
    with pytest.raises(ValueError, match=r"died in 1\): missing=\"drop\" leaves them out$"):
        lo.table(frame, **USUAL, missing="indicator")
    assert lo.table(frame, **USUAL, missing="drop").n == N - 1


# ---- what columns become -------------------------------------------------------------------------


def test_numbers_are_standardised_by_the_training_rows():
    data = lo.table(FRAME, **USUAL, query=0.25, standardise=True)
    np.testing.assert_allclose(data.x[:, :2].mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(data.x[:, :2].std(axis=0), 1)
    assert set(data.x[:, 2]) == {0.0, 1.0}  # booleans stay
    raw = lo.table(FRAME, **USUAL, query=0.25)
    middle, scale = raw.x[:, 0].mean(), raw.x[:, 0].std()
    np.testing.assert_allclose(data.x_query[:, 0], (raw.x_query[:, 0] - middle) / scale)


def test_declared_categories_keep_their_order_and_the_first_is_the_reference():
    kind = pd.CategoricalDtype(["zürich", "va", "cleveland", "nowhere"])
    data = lo.table(FRAME.astype({"site": kind}), **USUAL, features=["site"])
    assert data.feature_names == ("site=va", "site=cleveland")
    assert data.coding is not None
    assert data.coding.record()[0]["levels"] == ["zürich", "va", "cleveland"]


@pytest.mark.parametrize(
    ("formula", "intercept"), [("died ~ age + C(site) * smoker", True), ("0 + age", False)]
)
def test_a_formula_is_formulaics(formula, intercept):
    data = lo.table(FRAME, **USUAL, formula=formula, query=0.25)
    right = formula.rpartition("~")[2]
    theirs = model_matrix(right, FRAME)
    kept = [name for name in theirs.columns if name != "Intercept"]
    assert data.feature_names == tuple(kept)
    assert data.intercept is intercept
    whole = lo.table(FRAME, **USUAL, formula=formula)
    np.testing.assert_allclose(whole.x, theirs[kept].to_numpy(float))
    np.testing.assert_allclose(whole.coded(FRAME.iloc[:7]), whole.x[:7])


def test_a_formula_that_learns_keeps_what_it_learnt():
    data = lo.table(FRAME, **USUAL, formula="scale(age)", query=0.25)
    age = lo.table(FRAME, **USUAL, features=["age"], query=0.25)
    middle, scale = age.x.mean(), age.x.std(ddof=1)
    np.testing.assert_allclose(data.x_query, (age.x_query - middle) / scale)


def test_sentences_become_words_and_stay_sparse():
    data = lo.table(FRAME.assign(note=NOTES), **USUAL, features=["age", "note"])
    theirs = TfidfVectorizer().fit(NOTES)
    assert scipy.sparse.issparse(data.x)  # a number in each note: more words than rows
    np.testing.assert_allclose(data.x.toarray()[:, 1:], theirs.transform(NOTES).toarray())
    assert data.feature_names[0] == "age"
    assert data.feature_names[1:] == tuple(
        f"note:{word}" for word in theirs.get_feature_names_out()
    )
    assert lo.fit(data.objective(l2=1.0)).objective.sparse


def test_a_vectorizer_of_ones_own_counts_and_is_left_as_it_was():
    own = CountVectorizer(vocabulary=WORDS)
    data = lo.table(FRAME.assign(note=NOTES), **USUAL, features={"note": own, "visits": "category"})
    assert not hasattr(own, "vocabulary_")
    assert data.feature_names[: len(WORDS)] == tuple(f"note:{word}" for word in WORDS)
    np.testing.assert_array_equal(
        np.asarray(data.x)[:, 0], [note.split().count("good") for note in NOTES]
    )
    assert data.feature_names[len(WORDS) :] == tuple(f"visits={k}" for k in range(1, 9))


def test_ten_thousand_categories_are_no_dense_block():
    n = 20_000
    code = np.arange(n) % 10_000
    frame = {"shop": np.char.add("shop ", code.astype(str)), "sold": RNG.random(n) < 0.5}
    data = lo.table(frame, target="sold", features={"shop": "category"})
    assert data.x.shape == (n, 9_999)
    assert scipy.sparse.issparse(data.x)
    assert data.x.nnz == n - 2  # the reference has no column
    assert len(data.fingerprint()["x"]) == 64
    few = lo.table({"shop": frame["shop"][code < 150], "sold": frame["sold"][code < 150]},
                   target="sold", features={"shop": "category"})  # fmt: skip
    assert isinstance(few.x, np.ndarray)  # 300 rows of 149 columns take less than their lists


# ---- what is predicted ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "options", "loss", "classes"),
    [
        ("died", {}, "logistic", ("no", "yes")),
        ("died", {"positive": "no"}, "logistic", ("yes", "no")),
        ("smoker", {}, "logistic", (False, True)),
        ("site", {}, "softmax", ("cleveland", "va", "zürich")),
        ("site", {"positive": "va"}, "logistic", ("not va", "va")),
        ("visits", {}, "squares", ()),
        ("visits", {"loss": lo.losses.poisson}, "poisson", ()),
        ("visits", {"loss": lo.losses.softmax}, "softmax", tuple(range(9))),
        ("visits", {"positive": "3"}, "logistic", ("not 3", 3)),
    ],
)
def test_the_loss_is_what_the_target_asks_for_and_repr_says_it(target, options, loss, classes):
    data = lo.table(FRAME, target=target, **options)
    assert data.classes == classes
    assert data.model_loss is getattr(lo.losses, loss)
    assert f"{loss} loss" in repr(data)
    assert data.objective(1.0).outputs == data.outputs
    if classes and "not va" not in classes:
        assert set(data.y.tolist()) <= set(classes)


def test_the_positive_label_is_the_one_whose_chance_rises_with_the_score():
    fits = [lo.fit(lo.table(FRAME, target="died", positive=p).objective()) for p in ("yes", "no")]
    np.testing.assert_allclose(fits[0].flat, -fits[1].flat, atol=1e-9)
    x = coded()[:5]
    theirs = fits[1].predict(np.c_[x, FRAME["vendor"].to_numpy()[:5, None] == ["v2", "v3", "v4"]],
                             chances=True)  # fmt: skip
    ours = fits[0].predict(np.c_[x, FRAME["vendor"].to_numpy()[:5, None] == ["v2", "v3", "v4"]],
                           chances=True)  # fmt: skip
    np.testing.assert_allclose(ours, theirs[:, ::-1], atol=1e-9)


def test_weights_and_offsets_go_to_the_model_and_to_the_queries():
    frame = FRAME.assign(weight=np.linspace(0.5, 2, N), log_time=np.linspace(-1, 1, N))
    data = lo.table(frame, target="visits", features=["age", "smoker"], weights="weight",
                    offset="log_time", loss=lo.losses.poisson, query=0.25)  # fmt: skip
    objective = data.objective(1.0)
    again = lo.poisson(data.x, data.y, 1.0, weights=data.weights, offset=data.offset)
    np.testing.assert_array_equal(objective.weights, again.weights)
    np.testing.assert_array_equal(objective.offset, again.offset)
    assert data.offset_query is not None
    assert len(data.query) == 3
    bound: Any = lo.measures.loss(data.query).bind(objective)
    np.testing.assert_array_equal(bound.offset[:, 0], data.offset_query)


# ---- who is a query ------------------------------------------------------------------------------


def test_a_share_is_of_every_class_and_always_the_same():
    one, two = (lo.table(FRAME, **USUAL, query=0.25) for _ in range(2))
    assert one.fingerprint() == two.fingerprint()
    assert one.n + len(one.y_query) == N
    for label in ("no", "yes"):
        assert (one.y_query == label).sum() == round(0.25 * (FRAME["died"] == label).sum())


QUARTER = np.arange(N) % 4 == 0


@pytest.mark.parametrize("said", [QUARTER, QUARTER * 1, np.where(QUARTER, "test", "Train")])
def test_a_column_says_who_is_a_query(said):
    data = lo.table(FRAME.assign(part=said), **USUAL, query="part")
    assert "part" not in data.feature_names
    np.testing.assert_array_equal(data.x_query, coded()[::4])
    same = lo.table(FRAME, **USUAL, query=QUARTER)
    assert same.fingerprint() == data.fingerprint()


def test_another_table_or_file_is_coded_like_the_first(files):
    whole = lo.table(FRAME, **USUAL)
    for query in (
        FRAME.iloc[:30][list(FRAME)[::-1]],
        files / "plain.csv",
        str(files / "plain.csv"),
    ):
        data = lo.table(FRAME, **USUAL, query=query)
        np.testing.assert_array_equal(data.x_query, whole.x[: len(data.y_query)])
    strange = pd.concat([FRAME.iloc[:3], FRAME.iloc[:1].assign(site="nowhere")])
    data = lo.table(FRAME, **USUAL, query=strange)
    assert len(data.y_query) == 3
    assert "1 query rows were left out" in data.notes[-1]
    with pytest.raises(ValueError, match="no training row has; the first is row 3"):
        data.coded(strange)


def test_folds_hold_every_row_once():
    data = lo.table(FRAME, **USUAL, query=4)
    assert len(data.folds) == 4
    assert "the first of 4 folds" in data.notes[-1]
    assert sum(len(fold.y_query) for fold in data.folds) == N
    ages = np.concatenate([fold.x_query[:, 0] for fold in data.folds])
    np.testing.assert_array_equal(np.sort(ages), np.sort(FRAME["age"]))
    pairs = list(KFold(4).split(FRAME))
    for folds in (lo.table(FRAME, **USUAL, query=q).folds for q in (KFold(4), pairs)):
        for fold, (_, held) in zip(folds, pairs, strict=True):
            np.testing.assert_array_equal(fold.x_query, coded()[held])


# ---- bad tables ----------------------------------------------------------------------------------

DAYS = pd.date_range("2024-01-01", periods=N)
BAD: dict[str, tuple[Any, dict[str, Any], str]] = {
    "no rows": (FRAME.iloc[:0], {}, "the table is empty: it has 6 columns and no rows"),
    "no columns": (pd.DataFrame(), {}, "the table is empty"),
    "no features": (FRAME[["died", "vendor"]], {}, "has no column to predict 'died' from"),
    "no table": ([1, 2], {}, "expected a table of pandas, polars or pyarrow"),
    "one class": (FRAME.assign(died="no"), {}, "only one value, 'no': there is nothing to learn"),
    "all missing": (FRAME.assign(age=np.nan), {"missing": "drop"}, "'age' has no entries"),
    "all missing, coded": (FRAME.assign(age=np.nan), {"missing": "indicator"}, "'age' has no entr"),
    "target missing": (FRAME.assign(died=None), {"missing": "drop"}, "'died' has no entries"),
    "same names": (FRAME.set_axis([*"aabcd", "died"], axis=1), {"groups": None},
                   "more than one column named 'a'"),
    "target a feature": (FRAME, {"features": ["age", "died"]}, "'died' is among the features"),
    "mixed": (FRAME.assign(age=[*FRAME["age"][1:], "old"]), {}, r"several types \(float, str\)"),
    "numbers but for a few": (FRAME.assign(age=[*FRAME["age"].astype(str)[1:], "?"]), {},
                              r"entries are numbers \(the others are '\?'\)"),
    "dates": (FRAME.assign(day=DAYS), {}, "'day' holds dates: give numbers, such as days since"),
    "dates as text": (FRAME.assign(day=DAYS.astype(str)), {}, "'day' holds dates"),
    "dates to predict": (FRAME.assign(died=DAYS), {}, "the target 'died' holds dates"),
    "names of rows": (FRAME.assign(id=[f"row {i}" for i in range(N)]), {},
                      "'id' has 120 different texts in 120 rows: it names rows"),
    "infinite": (FRAME.assign(age=[*FRAME["age"][1:], np.inf]), {}, "'age' is inf in row 119"),
    "nothing varies": (FRAME.assign(age=1), {"features": ["age"]}, "no column of the table varies"),
    "unknown column": (FRAME, {"features": ["agee"]}, "no column 'agee'; did you mean 'age'"),
    "unknown group": (FRAME, {"groups": "vendors"}, "did you mean 'vendor'"),
    "unknown target": (FRAME, {"target": "dead"}, "no column 'dead'; did you mean 'died'"),
    "unknown kind": (FRAME, {"features": {"age": "float"}}, "kind of column 'age' as one of"),
    "unknown policy": (FRAME, {"missing": "mean"}, "expected missing as one of 'refuse'"),
    "unknown positive": (FRAME, {"positive": "Yes"}, "positive= as a label of 'died'"),
    "text asked as number": (FRAME, {"features": {"site": "number"}}, "'site' holds text"),
    "text for squares": (FRAME, {"loss": lo.losses.squares}, "squares loss takes numbers"),
    "three for logistic": (FRAME, {"target": "site", "loss": lo.losses.logistic},
                           "3 labels, .* say which of them is positive="),
    "counts below 0": (FRAME.assign(died=-1.0 * np.arange(N)), {"loss": lo.losses.poisson},
                       "poisson loss takes counts"),
    "both": (FRAME, {"features": ["age"], "formula": "age"}, "features= or formula=, got both"),
    "no formula": (FRAME, {"formula": "age +* site"}, "cannot be read"),
    "formula of another": (FRAME, {"formula": "smoker ~ age"}, "left side of the formula is 'smo"),
    "formula of nothing": (FRAME, {"formula": "1"}, "names no column"),
    "formula, unknown": (FRAME, {"formula": "agee"}, "did you mean 'age'"),
    "formula of the target": (FRAME, {"formula": "age + died"}, "'died' is among the features"),
    "share": (FRAME, {"query": 1.0}, "a share between 0 and 1, got 1.0"),
    "tiny share": (FRAME, {"query": 1e-6}, "leaves none to train, or none to query"),
    "one fold": (FRAME, {"query": 1}, "expected 2 to 120 folds, got 1"),
    "no such query": (FRAME, {"query": "nowhere"}, "neither a column of the table nor a file"),
    "no query": (FRAME, {"query": True}, "expected query= as a share, a column"),
    "booleans of another length": (FRAME, {"query": [True] * 3}, "120 booleans"),
    "column of no query": (FRAME, {"query": "site"}, "say which rows are queries"),
    "weights of text": (FRAME, {"weights": "site"}, "'site' holds no numbers"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_table_is_told_in_a_sentence(case):
    frame, options, sentence = BAD[case]
    with pytest.raises(ValueError, match=sentence) as caught:
        lo.table(frame, **(USUAL | options))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b"", "is empty"),
        (b"a,b\n", "the table|bad.csv is empty"),
        (b"a,a\n1,2\n", "more than one column named 'a'"),
        (b"a,b\n1,2\n1,2,3\n", "no sound CSV"),
        (b"a,b\n\xff\xfe,2\n", "is not UTF-8"),
    ],
)
def test_a_bad_file_is_told_in_a_sentence(tmp_path, text, sentence):
    path = tmp_path / "bad.csv"
    path.write_bytes(text)
    with pytest.raises(ValueError, match=sentence):
        lo.table(path, target="a")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        lo.table(tmp_path / "none.csv", target="a")
    for name in ("x.xls", "x.parquet"):
        (tmp_path / name).write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"ending in .csv, .tsv or .parquet"):
        lo.table(tmp_path / "x.xls", target="a")
    with pytest.raises(ValueError, match="no sound Parquet"):
        lo.table(tmp_path / "x.parquet", target="a")


@pytest.mark.parametrize(
    ("frame", "options", "sentence"),
    [
        (FRAME, {"features": ["age", "vendor"]}, "'vendor' groups the rows and is a feature"),
        (FRAME.assign(years=FRAME["age"]), {}, "'years' and 'age' are the same in all training"),
        (FRAME.assign(gone=FRAME["died"]), {}, "'gone=yes' says the target 'died' itself"),
    ],
)
def test_a_doubtful_table_is_warned_of(frame, options, sentence):
    with pytest.warns(UserWarning, match=sentence):
        lo.table(frame, **USUAL, **options)


def test_constant_columns_are_left_out_with_a_note():
    data = lo.table(FRAME.assign(country="CH", year=2024), **USUAL)
    assert data.feature_names == NAMES
    assert data.notes == ("left out, the same in all training rows: country, year",)


def test_columns_of_other_scripts_and_odd_names_serve():
    frame = FRAME.rename(columns={"age": "年齢 (歳)", "site": "Größe=1"})
    data = lo.table(frame, **USUAL)
    assert data.feature_names[0] == "年齢 (歳)"
    fit = lo.fit(data.objective())
    assert fit.summary().names[0] == "年齢 (歳)"
    assert lo.table(frame, **USUAL, formula="`年齢 (歳)`").d == 1


def test_groups_of_dates_are_days():
    day = [datetime.date(2024, 1, 1 + i % 3) for i in range(N)]
    data = lo.table(FRAME.assign(day=day), target="died", groups=["day", "vendor"])
    assert data.groups.names.tolist() == ["2024-01-01", "2024-01-02", "2024-01-03"]
    assert len(data.grouped("day,vendor")) == 12
    with pytest.raises(ValueError, match="has no column 'week'"):
        data.grouped("week")


# ---- what else takes it --------------------------------------------------------------------------


def test_a_fingerprint_sees_whatever_changes_an_answer():
    options = {"query": 0.25, "weights": "visits"}
    one = lo.table(FRAME, **USUAL, **options).fingerprint()
    moved = FRAME.assign(vendor=FRAME["vendor"].to_numpy()[::-1])
    heavier = FRAME.assign(visits=FRAME["visits"] + 1)
    others = (
        lo.table(moved, **USUAL, **options),
        lo.table(heavier, **USUAL, **options),
        lo.table(FRAME, **USUAL, **options, positive="no"),
        lo.table(FRAME, **USUAL, **options, standardise=True),
    )
    assert all(other.fingerprint() != one for other in others)


@pytest.mark.slow
def test_a_study_of_ones_own_table_is_known_by_its_data(tmp_path):
    data = lo.table(FRAME, **USUAL, query=0.25)
    question = natural.Question(data, l2_over_n=1e-2, methods=("influence",), null=0)
    report = natural.run(question, tmp_path / "study")
    assert report.table["group"].tolist() == ["v1", "v2", "v3", "v4"]
    assert [c for c in report.effects["influence"].columns if "class" in c] == [
        "sum of loss[class no]",
        "sum of loss[class yes]",
    ]
    again = natural.run(question, tmp_path / "study")  # from the folder
    np.testing.assert_array_equal(
        again.effects["influence"].value, report.effects["influence"].value
    )
    (row,) = natural.found(tmp_path)
    assert row["configuration"] == question
    other = natural.Question(lo.table(FRAME, **USUAL, query=0.5), l2_over_n=1e-2,
                             methods=("influence",), null=0)  # fmt: skip
    assert other.folder() != question.folder()
    with pytest.raises(ValueError, match="holds another study"):
        natural.run(other, tmp_path / "study")
    elsewhere = row["configuration"]
    (tmp_path / "study" / "summary.json").unlink()
    with pytest.raises(ValueError, match="the rows of table are not here"):
        natural.run(elsewhere, tmp_path / "study")


def test_what_is_no_option_is_refused():
    with pytest.raises(TypeError):
        lo.table(FRAME, **USUAL, **wrong({"quer": 0.2}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lo.table(FRAME, **USUAL)
