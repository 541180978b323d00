"""Tables and columns of other libraries: read as they mean it, refused where they do not match."""

import datetime
import decimal
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from sklearn.linear_model import Ridge

import leaveout as lo
from leaveout.runtime.columns import column
from problems import linear

N = 40
RNG = np.random.default_rng(0)
AGE, PAID = RNG.normal(40, 9, N), RNG.normal(size=N)
JOB = RNG.choice(["x", "y", "z"], N)
TIMES = RNG.integers(0, 9, N)
PLAIN = np.column_stack([AGE, TIMES, JOB == "x", JOB == "z"]).astype(float)
FRAME = pd.DataFrame({"age": AGE, "times": TIMES, "job x": JOB == "x", "job z": JOB == "z"})
Y = (PAID > 0).astype(int)
SITE = np.arange(N) % 4

TABLES = {
    "booleans beside floats": FRAME,
    "nullable": FRAME.convert_dtypes(),
    "arrow in pandas": FRAME.convert_dtypes(dtype_backend="pyarrow"),
    "objects": FRAME.astype(object),
    "decimals": FRAME.assign(times=[decimal.Decimal(int(t)) for t in TIMES]),
    "names that repeat": FRAME.set_axis(["a", "a", "b", "b"], axis=1),
    "polars": pl.DataFrame(FRAME.to_dict("list")),
    "pyarrow": pa.table(FRAME.to_dict("list")),
    "array of objects": FRAME.to_numpy(object),
    "lists": FRAME.to_numpy(object).tolist(),
    "masked array, nothing masked": np.ma.masked_array(PLAIN, False),
}

TARGETS = {
    "series": pd.Series(Y),
    "frame of one column": pd.DataFrame({"y": Y}),
    "array of one column": Y[:, None],
    "booleans": pd.Series(Y.astype(bool), dtype="boolean"),
    "text": pd.Series(np.where(Y, "yes", "no"), dtype="string"),
    "categories": pd.Series(np.where(Y, "yes", "no")).astype("category"),
    "objects": np.where(Y, "yes", "no").astype(object),
    "polars": pl.Series(np.where(Y, "yes", "no").tolist()),
    "polars categories": pl.Series(np.where(Y, "yes", "no").tolist(), dtype=pl.Categorical),
    "pyarrow": pa.chunked_array([np.where(Y, "yes", "no").tolist()]),
    "pyarrow array": pa.array(Y.tolist()),
}


@pytest.mark.parametrize("form", TABLES)
def test_tables_of_any_library_are_the_numbers_that_they_hold(form):
    objective = lo.logistic(TABLES[form], Y)
    np.testing.assert_array_equal(objective.x, PLAIN)
    bound: Any = lo.measures.prediction(TABLES[form]).bind(objective)
    np.testing.assert_array_equal(bound.x, PLAIN)


@pytest.mark.parametrize("form", TARGETS)
def test_targets_of_any_library_are_coded_alike(form):
    objective = lo.logistic(PLAIN, TARGETS[form])
    np.testing.assert_array_equal(objective.y, Y)
    np.testing.assert_array_equal(objective.encode(TARGETS[form]), Y)


@pytest.mark.parametrize("form", ["nullable", "polars", "pyarrow"])
def test_numbers_and_weights_of_any_library_serve_regressions(form):
    table = {
        "nullable": pd.DataFrame({"y": PAID, "s": TIMES + 1}).convert_dtypes(),
        "polars": pl.DataFrame({"y": PAID, "s": TIMES + 1}),
        "pyarrow": pa.table({"y": PAID, "s": TIMES + 1}),
    }[form]
    objective = lo.squares(TABLES[form], table["y"], weights=table["s"])
    np.testing.assert_array_equal(objective.y, PAID)
    np.testing.assert_array_equal(objective.weights, TIMES + 1)
    general = lo.Objective(
        lambda theta, e: (theta * e["x"] - e["y"]) ** 2,
        {"x": table["s"], "y": table["y"]}, 1.0, weights=table["s"],
    )  # fmt: skip
    np.testing.assert_array_equal(general.data["y"], PAID)


@pytest.mark.parametrize("library", [pd.DataFrame, pl.DataFrame, pa.table])
def test_a_table_goes_through_the_whole_library_with_its_names(library):
    x, site = library({"age": AGE, "paid": PAID}), library({"site": SITE})["site"]
    fit = lo.fit(lo.squares(x, library({"t": TIMES.astype(float)})["t"], l2=1.0))
    plain = lo.fit(lo.squares(np.c_[AGE, PAID], TIMES.astype(float), l2=1.0))
    groups = lo.Groups.from_labels(site)
    measures = [
        lo.measures.parameter(["paid", "intercept"]),
        lo.measures.loss((x, TIMES.astype(float)), by=site),
    ]
    found = lo.effects(fit, groups, measures)
    assert found.columns[:2] == ("parameter[paid]", "parameter[intercept]")
    same = [lo.measures.parameter([1, 2]), lo.measures.loss((np.c_[AGE, PAID], TIMES), by=SITE)]
    expected = lo.effects(plain, lo.Groups.from_labels(SITE), same)
    np.testing.assert_array_equal(found.value, expected.value)
    assert linear(fit).names == ("age", "paid")


def test_a_coefficient_is_asked_for_by_name_of_every_score():
    fit = lo.fit(lo.softmax(FRAME, JOB, l2=1.0))
    measure = lo.measures.parameter(["times", "intercept"]).bind(fit.objective)
    theta = fit.theta
    expected = np.concatenate([theta.weight[:, 1], theta.bias])
    np.testing.assert_array_equal(measure.values(fit.objective, fit.flat, None), expected)
    assert measure.columns(fit.objective)[2] == "parameter[times, z]"
    with pytest.raises(ValueError, match="is called 'wage'; did you mean 'age'"):
        lo.measures.parameter("wage").bind(fit.objective)
    with pytest.raises(ValueError, match="x was no table with names"):
        lo.measures.parameter("wage").bind(lo.logistic(PLAIN, Y))


# ---- columns that do not match -------------------------------------------------------------------

OTHER = FRAME[["times", "age", "job x", "job z"]]


@pytest.mark.parametrize("library", [lambda frame: frame, pl.from_pandas, pa.Table.from_pandas])
@pytest.mark.parametrize(
    "use",
    [
        lambda fit, x: lo.effects(fit, GROUPS, lo.measures.prediction(x)),
        lambda fit, x: lo.effects(fit, GROUPS, lo.measures.loss((x, Y))),
        lambda fit, x: lo.effects(fit, GROUPS, lo.measures.margin((x, Y), reduce="mean")),
        lambda fit, x: lo.effects(fit, GROUPS, lo.measures.accuracy((x, Y))),
        lambda fit, x: lo.add(fit, (x, Y)),
        lambda fit, x: fit.objective.scores(fit.flat, x),
        lambda fit, x: fit.theta(x),
    ],
    ids=["prediction", "loss", "margin", "accuracy", "add", "scores", "theta"],
)
@pytest.mark.usefixtures("as_users_run_it")
def test_columns_in_another_order_are_refused(use, library):
    with pytest.raises(ValueError, match=r"are in another order than those .* 'times', 'age'"):
        use(FIT, library(OTHER))
    use(FIT, library(FRAME))


def test_columns_of_other_names_are_refused_with_those_that_lack():
    wrong = FRAME.rename(columns={"age": "wage"})
    with pytest.raises(ValueError, match="it lacks 'age', and 'wage' is unknown"):
        lo.measures.prediction(wrong).bind(FIT.objective)
    with pytest.raises(ValueError, match=r"it lacks 'job z'$"):
        lo.measures.prediction(FRAME.iloc[:, :3]).bind(FIT.objective)
    numbered = lo.logistic(pd.DataFrame(PLAIN), Y)
    with pytest.raises(ValueError, match="are in another order"):
        lo.measures.prediction(pd.DataFrame(PLAIN)[[1, 0, 2, 3]]).bind(numbered)


def test_columns_without_names_go_by_position():
    for objective, x in [
        (FIT.objective, PLAIN), (FIT.objective, pd.DataFrame(PLAIN)),
        (lo.logistic(PLAIN, Y), OTHER), (lo.logistic(pd.DataFrame(PLAIN), Y), FRAME),
    ]:  # fmt: skip
        assert lo.measures.prediction(x).bind(objective).columns(objective)[0] == "prediction[0]"


def test_theta_gives_the_scores_of_a_table_and_goes_with_theta_of_no_table():
    plain = lo.fit(lo.logistic(PLAIN, Y, l2=1.0)).theta
    np.testing.assert_allclose(FIT.theta(FRAME), plain(PLAIN), rtol=1e-9)
    np.testing.assert_array_equal(plain(FRAME), plain(PLAIN))  # knows no names
    both = jax.tree.map(jnp.add, FIT.theta, plain)  # of one structure
    np.testing.assert_allclose(both(PLAIN), 2 * plain(PLAIN), rtol=1e-9)


@pytest.mark.parametrize("order", [[1, 0, 2, 3], [3, 2, 1, 0]])
def test_numbers_that_are_the_names_are_names(order):
    """A pandas index that counts from 0 says positions only where the names are others."""
    given = {0: 100.0, 1: 0.5, 2: 0.0, 3: 7.0}
    objective = lo.logistic(pd.DataFrame(PLAIN[:, order], columns=order), Y, l2=pd.Series(given))
    by_dictionary = lo.logistic(pd.DataFrame(PLAIN[:, order], columns=order), Y, l2=given)
    right = [*(given[name] for name in order), 0.0]  # the intercept's
    np.testing.assert_array_equal(objective.l2 * np.asarray(objective.penalised), right)
    np.testing.assert_array_equal(by_dictionary.l2 * np.asarray(by_dictionary.penalised), right)
    groups = lo.Groups.from_indices([[0], [1], [2], [3]], n=N, names=order)
    found = lo.groups.by_group(pd.Series([10.0, 11.0, 12.0, 13.0]), groups, "l2")
    np.testing.assert_array_equal(found, 10.0 + np.array(order))
    named = lo.Groups.from_indices([[0], [1], [2], [3]], n=N, names=list("abcd"))
    found = lo.groups.by_group(pd.Series([10.0, 11.0, 12.0, 13.0]), named, "l2")
    np.testing.assert_array_equal(found, [10.0, 11.0, 12.0, 13.0])


@pytest.mark.parametrize(
    "make",
    [
        lambda one: one,
        pd.Series,
        lambda one: pd.DataFrame([one]),
        lambda one: pl.DataFrame([one]),
    ],
    ids=["dictionary", "series", "pandas", "polars"],
)
def test_linear_functionals_go_by_the_names_of_coefficients(make):
    asked = {"intercept": 1.0, "times": 2.0, "age": -3.0}  # others are 0
    measure = lo.measures.linear(make(asked)).bind(FIT.objective)
    names = [*FRAME.columns, "intercept"]
    right = sum(asked.get(name, 0.0) * value for name, value in zip(names, FIT.flat, strict=True))
    found = measure.values(FIT.objective, FIT.flat, None)
    np.testing.assert_allclose(found, [right], rtol=1e-12)
    with pytest.raises(ValueError, match="no column of x is called 'wage'"):
        lo.measures.linear(make({"wage": 1.0})).bind(FIT.objective)


def test_numbers_are_the_names_of_coefficients_where_columns_have_them():
    objective = lo.logistic(pd.DataFrame(PLAIN[:, [1, 0]], columns=[1, 0]), Y, intercept=False)
    theta = jnp.array([5.0, 7.0])  # of columns 1 and 0
    for asked in (pd.Series({0: 1.0, 1: 0.0}), pd.DataFrame([[1.0, 0.0]]), {0: 1.0}):
        measure = lo.measures.linear(asked).bind(objective)
        np.testing.assert_array_equal(measure.values(objective, theta, None), [7.0])
    named = lo.measures.linear(pd.Series([1.0, 0.0, 0.0, 0.0, 2.0])).bind(FIT.objective)
    np.testing.assert_allclose(
        named.values(FIT.objective, FIT.flat, None), [FIT.flat[0] + 2 * FIT.flat[4]]
    )


def test_a_name_has_one_number():
    with pytest.raises(ValueError, match="a number for each name; give several vectors as a table"):
        lo.measures.linear({"age": [1.0, 2.0]})
    twice = lo.measures.linear(pd.Series([1.0, 2.0], ["age", "age"]))
    with pytest.raises(ValueError, match="a coefficient is named twice"):
        twice.bind(FIT.objective)


def test_names_of_several_scores_are_no_vectors():
    three = lo.softmax(FRAME, np.arange(N) % 3, l2=1.0)
    with pytest.raises(ValueError, match="'age' names several entries of theta"):
        lo.measures.linear({"age": 1.0}).bind(three)


# ---- rows that do not match ----------------------------------------------------------------------

INDEX = pd.Index([f"patient {i}" for i in RNG.permutation(N)])
DATA = FRAME.set_index(INDEX)


def series(values) -> pd.Series:
    return pd.Series(values, INDEX)


FIT = lo.fit(lo.logistic(FRAME, Y, l2=1.0))
INDEXED = lo.fit(lo.logistic(DATA, series(Y), l2=1.0))
GROUPS = lo.Groups.from_labels(SITE)
OFFSET = lo.fit(lo.logistic(DATA, Y, offset=PAID))
GENERAL = lo.fit(lo.Objective(lambda theta, one: (theta - one) ** 2, series(PAID), 1.0))

ROWS: dict[str, Any] = {
    "targets": lambda s: lo.logistic(DATA, s(Y)),
    "weights": lambda s: lo.logistic(DATA, Y, weights=s(TIMES + 1)),
    "weights of an estimator": lambda s: lo.from_sklearn(
        Ridge(1.0).fit(DATA, PAID), DATA, PAID, weights=s(np.ones(N))
    ),
    "offset": lambda s: lo.logistic(DATA, Y, offset=s(AGE / 100)),
    "weights beside targets": lambda s: lo.logistic(PLAIN, series(Y), weights=s(TIMES + 1)),
    "several targets": lambda s: lo.glm(
        lambda score, y: (score - y["a"]) ** 2 + y["b"] * score, DATA, {"a": s(PAID), "b": PAID}
    ),
    "general data": lambda s: lo.Objective(
        lambda theta, e: (theta - e[1]) ** 2, (series(AGE), s(PAID)), 1.0
    ),
    "labels": lambda s: lo.influence(INDEXED, lo.Groups.from_labels(s(SITE))),
    "a table of labels": lambda s: lo.influence(
        INDEXED, lo.Groups.from_labels(s(SITE).to_frame("site"))
    ),
    "intervals": lambda s: lo.influence(INDEXED, lo.Groups.from_intervals(s(AGE), [0, 40, 99])),
    "masks in a list": lambda s: lo.influence(
        INDEXED, lo.Groups.from_masks([s(SITE == 0), s(SITE == 1)])
    ),
    "masks in a table": lambda s: lo.influence(
        INDEXED, lo.Groups.from_masks(pd.get_dummies(s(SITE)).T)
    ),
    "weights that leave": lambda s: lo.influence(
        INDEXED, lo.Groups.from_weights(pd.get_dummies(s(SITE)).T / 2)
    ),
    "labels of two tables": lambda s: (
        lo.Groups.from_labels(series(SITE)) + lo.Groups.from_labels(s(SITE))
    ),
    "queries": lambda s: lo.measures.loss((DATA, s(Y))),
    "parts of queries": lambda s: lo.measures.loss((DATA, Y), by=s(SITE)),
    "offsets of queries": lambda s: lo.measures.loss((DATA, Y, s(PAID))),
    "offsets of ranked queries": lambda s: lo.measures.accuracy((DATA, Y, s(PAID))),
    "offsets of predictions": lambda s: OFFSET.predict(DATA, offset=s(PAID)),
    "clusters of a summary": lambda s: INDEXED.summary(s(SITE)),
    "labels to balance": lambda s: lo.rebalance(lo.Groups.from_labels(series(SITE)), s(Y)),
    "weights to balance": lambda s: lo.rebalance(
        lo.Groups.from_labels(series(SITE)), Y, weights=s(TIMES + 1)
    ),
    "balanced groups": lambda s: lo.influence(
        INDEXED, lo.rebalance(lo.Groups.from_labels(SITE), s(Y))
    ),
    "other data of an objective": lambda s: lo.relabel(GENERAL, GROUPS, s(PAID + 1)),
    "masks of queries": lambda s: lo.measures.accuracy((DATA, Y), by={"old": s(AGE > 40)}),
    "new points": lambda s: lo.add(INDEXED, (DATA, s(Y))),
    "weights of new points": lambda s: lo.add(INDEXED, (DATA, Y), weights=s(TIMES + 1)),
    "groups of new points": lambda s: lo.add(INDEXED, (DATA, Y), s(SITE)),
    "other targets": lambda s: lo.relabel(INDEXED, GROUPS, s(1 - Y)),
    "strata": lambda s: lo.credit(
        INDEXED, GROUPS, lo.measures.parameter(0), null=lo.Null(3, within=s(Y))
    ),
    "strata of a search": lambda s: lo.discover(
        INDEXED,
        {"site": SITE},
        lo.measures.parameter(0),
        depth=1,
        support=(0.01, 0.9),
        show=1,
        null=lo.Null(3, within=s(Y)),
    ),
    "strata of lookalikes": lambda s: lo.groups.lookalikes(
        jax.random.key(0), INDEXED.objective, like=lo.Groups.from_labels(series(SITE)), within=s(Y)
    ),
    "folds": lambda s: lo.cross_validate(linear(INDEXED), [1.0], folds=s(SITE)),
}


@pytest.mark.parametrize("use", ROWS)
@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.filterwarnings("ignore:the curvature of this loss")
def test_rows_of_another_pandas_index_are_refused(use):
    def turned(values):  # as after .sort_index(): the same rows elsewhere
        return series(values).sort_index()

    with pytest.raises(ValueError, match="in another order, and rows would be paired by position"):
        ROWS[use](turned)
    with pytest.raises(
        ValueError, match=r"is not that of .*, and rows would be paired by position"
    ):
        ROWS[use](lambda values: pd.Series(values, INDEX + " again"))
    ROWS[use](series)


def test_an_index_is_known_by_what_it_reads_not_by_its_type():
    labels = lo.Groups.from_labels(pd.Series(SITE, pd.Index(list(range(N)), dtype=object)))
    assert lo.influence(FIT, labels).value.shape == (4, 5)
    again = lo.Groups.from_labels(pd.Series(SITE, INDEX.astype("category")))
    assert lo.influence(INDEXED, again).value.shape == (4, 5)


DAYS = pd.date_range("2020-01-01", periods=N)
LATER = pd.date_range("3020-01-01", periods=N, unit="ms")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (DAYS.as_unit("ns"), DAYS.as_unit("us")),
        (DAYS.as_unit("s"), DAYS.as_unit("ms")),
        (LATER.as_unit("s"), LATER.as_unit("ms")),
        (DAYS.as_unit("ns") - DAYS[0], DAYS.as_unit("us") - DAYS[0]),
        (pd.RangeIndex(5, 5 + N), pd.Index(np.arange(5.0, 5 + N))),
        (pd.RangeIndex(-3, N - 3), pd.Index(np.arange(-3, N - 3, dtype=np.int32))),
        (pd.MultiIndex.from_arrays([range(N), DAYS.as_unit("ns")]),
         pd.MultiIndex.from_arrays([np.arange(N, dtype=np.int32), DAYS.as_unit("us")])),
    ],
)  # fmt: skip
def test_labels_that_pandas_calls_equal_are_the_same_rows(one, other):
    lo.logistic(FRAME.set_axis(one), pd.Series(Y, other))
    with pytest.raises(ValueError, match="in another order"):
        lo.logistic(FRAME.set_axis(one), pd.Series(Y, other[::-1]))


def test_rows_without_an_index_go_by_position():
    expected = lo.influence(INDEXED, GROUPS).value
    for labels in (series(SITE).sort_index().to_numpy(), pl.Series(SITE), SITE.tolist()):
        assert lo.influence(INDEXED, lo.Groups.from_labels(labels)).value.shape == expected.shape
    shuffled = lo.Groups.from_labels(pd.Series(SITE, INDEX[::-1]))
    lo.influence(lo.fit(lo.logistic(PLAIN, Y)), shuffled)  # nothing is known of these rows


def test_labels_of_an_index_serve_as_positions_only_where_they_are():
    """df.groupby("site").groups holds labels of the index, which are positions in a fresh table."""
    fresh, cut = FRAME.assign(site=SITE), FRAME.assign(site=SITE).iloc[::-1]
    lists = fresh.groupby("site").groups.values()
    groups = lo.Groups.from_indices(lists, n=N)
    np.testing.assert_array_equal(groups.dense(), GROUPS.dense())
    lo.influence(FIT, groups)
    turned = lo.fit(lo.logistic(cut[FRAME.columns], cut["age"] > 40))
    with pytest.raises(ValueError, match="in another order"):
        lo.influence(turned, lo.Groups.from_indices(cut.groupby("site").groups.values(), n=N))


def test_what_rows_are_survives_programs_devices_and_files(tmp_path):
    groups = lo.Groups.from_labels(series(SITE))
    groups.save(tmp_path / "groups.npz")
    again = lo.Groups.load(tmp_path / "groups.npz")
    turned = lo.fit(lo.logistic(DATA.sort_index(), series(Y).sort_index(), l2=1.0))
    for each in (groups, again, groups[1:], groups | groups[0], ~groups, lo.reweight(groups, 2.0)):
        lo.influence(INDEXED, each)
        with pytest.raises(ValueError, match="in another order"):
            lo.influence(turned, each)
    for fit in (lo.fit(lo.shard(INDEXED.objective)), lo.fit(INDEXED.objective.with_l2(2.0))):
        with pytest.raises(ValueError, match="in another order"):
            lo.influence(fit, lo.Groups.from_labels(series(SITE).sort_index()))


def test_another_index_compiles_nothing_anew():
    @jax.jit
    def value(objective, theta):
        return objective.value(theta)

    for index in (INDEX, INDEX[::-1]):
        objective = lo.logistic(FRAME.set_index(index), Y)
        value(objective, jnp.zeros(5))
    jitted: Any = value
    assert jitted._cache_size() == 1


# ---- what is missing -----------------------------------------------------------------------------

NOTHING: Any = None  # a missing label, which no signature of `np.where` knows
SOME = np.where(SITE == 3, NOTHING, SITE.astype(object))
LABELS = {
    "floats": np.where(SITE == 3, np.nan, SITE),
    "objects": SOME,
    "text": [None if site is None else f"site {site}" for site in SOME],
    "list with NaN": [np.nan if site is None else site for site in SOME],
    "nullable": pd.Series(SOME, dtype="Int64"),
    "nullable text": pd.Series(SOME).astype("string"),
    "objects with NA": pd.Series(SOME, dtype=object).mask(SITE == 3, pd.NA),
    "array with NA": pd.array(SOME.tolist(), dtype="Int64"),
    "categories": pd.Series(pd.Categorical(SOME, categories=[0, 1, 2, 7])),
    "masked array": np.ma.masked_array(SITE, SITE == 3),
    "polars": pl.Series(SOME.tolist()),
    "pyarrow": pa.chunked_array([SOME.tolist()]),
    "dates": [None if site is None else datetime.date(2001, 1, 1 + site) for site in SOME],
    "times": pd.Series(pd.to_datetime([None if s is None else f"2001-0{s + 1}" for s in SOME])),
    "times with a zone": pd.Series(
        pd.to_datetime([None if s is None else f"2001-0{s + 1}" for s in SOME], utc=True)
    ),
}


@pytest.mark.parametrize("form", LABELS)
def test_missing_labels_of_any_library_are_in_no_group_and_counted(form):
    groups = lo.Groups.from_labels(LABELS[form])
    np.testing.assert_array_equal(groups.dense(), GROUPS.dense()[:3])
    assert groups.notes == ("label: 10 of 40 examples have no label and are in no group",)
    assert repr(groups).endswith("10 points in no group)")
    assert groups.uncovered == 10
    pairs = lo.Groups.from_pairs(np.arange(N), LABELS[form], n=N)
    np.testing.assert_array_equal(pairs.dense(), groups.dense())


@pytest.mark.parametrize("form", LABELS)
def test_missing_targets_and_strata_are_refused_with_their_number(form):
    for objective in (lo.softmax, lo.logistic):
        with pytest.raises(ValueError, match="no label in 10 of 40 rows, the first of them row 3"):
            objective(PLAIN, LABELS[form])
    with pytest.raises(ValueError, match="a fold for each of 40 rows, but 10 are missing"):
        lo.cross_validate(linear(FIT), [1.0], folds=LABELS[form])


@pytest.mark.parametrize("form", ["floats", "objects", "nullable", "masked array", "polars"])
def test_missing_numbers_are_refused_where_they_are(form):
    with pytest.raises(ValueError, match=r"y must be finite, but y\[3\] is nan \(10 such"):
        lo.squares(PLAIN, LABELS[form])
    with pytest.raises(ValueError, match=r"weights must be finite, but weights\[3\] is nan"):
        lo.logistic(PLAIN, Y, weights=LABELS[form])
    x = pd.DataFrame({"age": AGE, "site": column(LABELS[form]).values})
    x.loc[SITE == 3, "site"] = None
    with pytest.raises(ValueError, match=r"x\[3, 'site'\] is nan"):
        lo.logistic(x, Y)
    whole = lo.logistic(x.assign(site=SITE), Y)
    with pytest.raises(ValueError, match=r"the inputs of loss must be finite, but .*\[3, 'site'\]"):
        lo.measures.loss((x, Y)).bind(whole)


@pytest.mark.parametrize("text", ["nan", "<NA>", "NaT"])
@pytest.mark.parametrize("kind", [object, str])
def test_the_text_of_a_missing_value_is_no_class_and_no_group(text, kind):
    labels = np.where(SITE == 3, text, np.where(SITE > 1, "a", "b")).astype(kind)
    with pytest.raises(ValueError, match=f"the targets y hold the text '{text}'"):
        lo.softmax(PLAIN, labels)
    with pytest.raises(ValueError, match=f"the labels hold the text '{text}'"):
        lo.Groups.from_labels(labels)
    with pytest.raises(ValueError, match=f"the labels of `by` hold the text '{text}'"):
        lo.measures.loss((PLAIN, Y), by=labels)


def test_labels_that_only_read_alike_stay_apart():
    labels = [1, "1", 2, "b"] * 10
    groups = lo.Groups.from_labels(labels)
    assert groups.names.tolist() == ["1", "'1'", "2", "b"]
    np.testing.assert_array_equal(groups.dense() @ np.arange(N), np.arange(4) * 10 + 180)
    objective = lo.softmax(PLAIN, labels)
    assert objective.classes == (1, "1", 2, "b")
    np.testing.assert_array_equal(objective.encode(["1", 1, 1.0, "b"]), [1, 0, 0, 3])
    with pytest.raises(ValueError, match="among 1, '1', 2, 'b', got '2'"):
        objective.encode(["2"])


def test_subsets_of_queries_that_only_read_alike_stay_apart():
    labels = np.array([1, "1", 2, "b"] * 10, object)
    each = lo.measures.loss((PLAIN, Y)).bind(FIT.objective)
    losses = each.values(FIT.objective, FIT.flat, None)
    both = lo.measures.loss((PLAIN, Y), by=labels)
    one = np.array([label == 1 for label in labels])
    named = lo.measures.loss((PLAIN, Y), by={1: one, "1": labels == "1"})
    names = [f"sum of loss[{name}]" for name in ("1", "'1'", "2", "b")]
    assert both.columns(FIT.objective) == tuple(names)
    assert named.columns(FIT.objective) == tuple(names[:2])
    for measure in (both, named):
        values = measure.bind(FIT.objective).values(FIT.objective, FIT.flat, None)
        np.testing.assert_allclose(values[:2], [losses[0::4].sum(), losses[1::4].sum()])
    for between in [(1, "'1'"), (1, "1")]:
        gap = lo.measures.gap((PLAIN, Y), labels, of=lo.measures.loss, between=between)
        assert gap.columns(FIT.objective) == ("gap in loss, 1 - '1'",)


def test_crossed_labels_that_only_read_alike_stay_apart():
    frame = pd.DataFrame({"one": ["a, b", "a", "q", "q"] * 10, "two": ["c", "b, c", "r", "s"] * 10})
    groups = lo.Groups.from_labels(frame)
    assert groups.names.tolist() == ["'a', 'b, c'", "'a, b', 'c'", "q, r", "q, s"]
    factor = pd.Series([1.0, 2.0, 3.0, 4.0], pd.MultiIndex.from_frame(frame.iloc[:4]))
    w = lo.reweight(groups, by=factor).dense()  # what has names goes by the pair
    np.testing.assert_array_equal(w[:, :4].T, np.diag([0.0, -1.0, -2.0, -3.0])[:, [1, 0, 2, 3]])


def test_a_part_of_the_queries_without_a_label_is_no_part():
    found = lo.measures.loss((PLAIN, Y), by=LABELS["nullable"])
    assert found.columns(FIT.objective) == tuple(f"sum of loss[{k}]" for k in range(3))
    with pytest.raises(ValueError, match="expected `by` as one label for each of the 40 queries"):
        lo.measures.loss((PLAIN, Y), by=[None] * N)


@pytest.mark.parametrize(
    ("x", "kind"),
    [
        (FRAME.assign(job=JOB), "its column 'job' holds String"),
        (FRAME.assign(job=pd.Categorical(TIMES)), "its column 'job' holds Categorical"),
        (FRAME.assign(day=pd.Timestamp("2001-01-01")), "its column 'day' holds Datetime"),
        (pl.DataFrame({"a": AGE, "job": JOB}), "its column 'job' holds String"),
        (pa.table({"a": AGE, "job": JOB}), "its column 'job' holds String"),
    ],
)
def test_a_column_that_is_no_number_is_refused_by_name(x, kind):
    with pytest.raises(ValueError, match=kind):
        lo.logistic(x, Y)


# ---- standard errors need every point ------------------------------------------------------------


def test_the_jackknife_refuses_clusters_that_leave_points_out():
    rng = np.random.default_rng(3)
    x, label = rng.normal(size=(N, 1)), np.where(SITE == 3, NOTHING, np.arange(N) % 5)
    y = x[:, 0] + rng.normal(size=N)
    whole, labels = lo.fit(lo.squares(x, y, l2=0.0)), lo.Groups.from_labels(label)
    effects = lo.effects(whole, labels, lo.measures.parameter(0))
    with pytest.raises(ValueError, match=r"10 of 40 points are in no group .*fit without these"):
        lo.jackknife(effects)
    assert lo.jackknife(effects, partial=True) > 0
    kept = SITE != 3
    fit = lo.fit(lo.squares(x[kept], y[kept], l2=0.0))
    found = lo.jackknife(
        lo.effects(fit, lo.Groups.from_labels(label[kept]), lo.measures.parameter(0))
    )
    slopes = []
    for k in range(5):
        stay = kept & (label != k)
        slopes.append(np.linalg.lstsq(np.c_[x, np.ones(N)][stay], y[stay])[0][0])
    listwise = np.sqrt(4 / 5 * np.sum((np.array(slopes) - np.mean(slopes)) ** 2))
    np.testing.assert_allclose(found, listwise, rtol=1e-9)
    none = lo.fit(lo.squares(x, y, l2=0.0, weights=kept.astype(float)))  # not there at all
    again = lo.jackknife(lo.effects(none, labels, lo.measures.parameter(0)), partial=True)
    np.testing.assert_allclose(again, listwise, rtol=1e-9)


def test_the_jackknife_refuses_groups_that_do_not_leave():
    twice = lo.effects(FIT, lo.reweight(GROUPS, 2.0), lo.measures.parameter(0))
    with pytest.raises(ValueError, match="expected groups that leave whole"):
        lo.jackknife(twice)


# ---- the smallest and the widest models ----------------------------------------------------------

EVERY = [lo.Influence(), lo.SecondOrder(), lo.Newton(), lo.NewtonChebyshev(), lo.Retrain(1e-12)]


@pytest.mark.parametrize(
    "x",
    [
        np.empty((N, 0)),
        pytest.param(pd.DataFrame(index=range(N)), marks=pytest.mark.slow),
        pl.DataFrame(),
    ],
)
def test_an_intercept_alone_is_a_mean(x):
    if isinstance(x, pl.DataFrame):
        pytest.skip("a polars table without columns has no rows")
    fit = lo.fit(lo.squares(x, PAID, l2=1.0))
    assert float(fit.theta.bias) == pytest.approx(PAID.mean())
    means = np.array([PAID[k != SITE].mean() - PAID.mean() for k in range(4)])
    measures = [lo.measures.parameter(0), lo.measures.prediction(x[:1])]
    for method in EVERY[2:]:
        found = lo.effects(fit, GROUPS, measures, method)
        assert (found.status == 0).all()
        np.testing.assert_allclose(found.value, means[:, None] * [1, 1], atol=1e-12)
    first = lo.effects(fit, GROUPS, measures, lo.Influence()).value
    np.testing.assert_allclose(first, means[:, None] * [1, 1] * 0.75, atol=1e-12)  # a fourth leaves


@pytest.mark.parametrize("loss", ["logistic", "poisson"])
def test_an_intercept_alone_is_the_link_of_a_mean(loss):
    y = {"logistic": Y, "poisson": TIMES}[loss].astype(float)
    link = {"logistic": lambda p: np.log(p / (1 - p)), "poisson": np.log}[loss]
    fit = lo.fit(getattr(lo, loss)(np.empty((N, 0)), y, l2=1.0))
    effects = lo.effects(fit, GROUPS, lo.measures.parameter(0), lo.Retrain(1e-12))
    expected = [link(y[k != SITE].mean()) - link(y.mean()) for k in range(4)]
    np.testing.assert_allclose(effects.value[:, 0], expected, atol=1e-9)


def test_nothing_to_fit_is_refused():
    with pytest.raises(ValueError, match="no columns and there is no intercept"):
        lo.squares(np.empty((N, 0)), PAID, intercept=False)


@pytest.mark.slow
@pytest.mark.parametrize("form", [np.asarray, pd.DataFrame, lambda t: pl.from_numpy(t)])
def test_several_targets_are_as_many_regressions(form):
    x, y = np.c_[AGE / 10, TIMES], np.c_[PAID, AGE, PAID**2]
    fit = lo.fit(lo.squares(x, form(y), l2=0.5))
    single = [lo.fit(lo.squares(x, t, l2=0.5)) for t in y.T]
    np.testing.assert_allclose(fit.theta.weight, [f.theta.weight for f in single], atol=1e-9)
    if form is not np.asarray:
        return
    measures = [lo.measures.prediction(x[:2]), lo.measures.loss((x[:2], y[:2]))]
    for method in EVERY:
        found = lo.effects(fit, GROUPS, measures, method).value
        one = [lo.effects(f, GROUPS, lo.measures.prediction(x[:2]), method).value for f in single]
        np.testing.assert_allclose(found[:, :6], np.stack(one, 2).reshape(4, 6), atol=1e-8)
        loss = [
            lo.effects(f, GROUPS, lo.measures.loss((x[:2], t[:2])), method).value
            for f, t in zip(single, y.T, strict=True)
        ]
        np.testing.assert_allclose(found[:, 6:], np.sum(loss, axis=0), atol=1e-8)


def test_targets_of_queries_have_as_many_columns_as_in_training():
    objective = lo.squares(PLAIN, np.c_[PAID, AGE])
    with pytest.raises(ValueError, match=r"targets of shape \(40, 2\), as in training, got \(40,"):
        lo.measures.loss((PLAIN, PAID)).bind(objective)
    with pytest.raises(ValueError, match=r"expected y of shape \(40,\) to go with x"):
        lo.poisson(PLAIN, np.c_[TIMES, TIMES])
    table = pd.DataFrame({"paid": PAID, "age": AGE})
    named = lo.squares(PLAIN, table)
    with pytest.raises(ValueError, match="the columns of these targets are in another order"):
        lo.measures.loss((PLAIN, table[["age", "paid"]])).bind(named)


def test_what_is_no_table_is_told_by_its_name():
    with pytest.raises(ValueError, match=r"expected entries of one shape, got lists of several"):
        lo.logistic([[1.0, 2.0], [3.0]], [0, 1])
    with pytest.raises(ValueError, match="got dict, which is no array"):
        lo.logistic({"a": [1.0, 2.0]}, [0, 1])
