"""Mistakes of a first day: each is one sentence that says what was expected, or is right.

What must not happen is an answer to another question: a mask read as positions, 1.5 as 1, no steps
as no effect.
"""

import copy
import pickle
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse

import leaveout as lo
from problems import mostly_slow, wrong

pytestmark = pytest.mark.usefixtures("as_users_run_it")

N = 30
X = np.random.default_rng(0).normal(size=(N, 3))
Y = (X[:, 0] + np.random.default_rng(1).normal(size=N) > 0).astype(int)
GROUPS = lo.Groups.from_indices([[0], [1, 2], [4, 5, 6]], n=N, names=["va", "vb", "va"])
OWN = lo.measures.self_loss()


@pytest.fixture(scope="module")
def fit():
    return lo.fit(lo.logistic(X, Y, l2=1.0))


@pytest.fixture(scope="module")
def effects(fit):
    return lo.effects(fit, GROUPS, OWN)


def refused(call: Callable, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as error:
        call()
    assert len(str(error.value)) < 300
    assert str(error.value).count("\n") == 0


# ---- groups ----------------------------------------------------------------------------------


def test_groups_and_effects_are_chosen_by_name(effects):
    assert GROUPS["vb"].indices.tolist() == [1, 2]
    assert GROUPS["va"].indices.tolist() == [0, 4, 5, 6]  # both that bear it
    assert GROUPS[["vb", "va"]].names.tolist() == ["vb", "va", "va"]
    assert GROUPS[np.array(["vb"])].names.tolist() == ["vb"]
    np.testing.assert_array_equal(effects["vb"].value, effects.value[1:2])
    assert [str(each.names[0]) for each in GROUPS] == ["va", "vb", "va"]
    assert GROUPS[-1].indices.tolist() == [4, 5, 6]
    assert len(GROUPS[[]]) == 0


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ("vz", "no group is called 'vz'; there are 'va', 'vb', 'va'"),
        (["va", "vz"], "no group is called 'vz'"),
        ([True, False], r"expected 3 booleans, one a group, got shape \(2,\)"),
        (True, "expected 3 booleans"),
        (1.0, "an integer, a slice, integers, one boolean a group, or names of groups, got 1.0"),
        (None, "got None"),
        ((0, 1), r"got \(0, 1\)"),
        ([[0, 1]], r"got \[\[0, 1\]\]"),
    ],
)
def test_what_chooses_no_groups_is_refused(effects, rows, sentence):
    refused(lambda: GROUPS[rows], sentence)
    refused(lambda: effects[rows], sentence)


def test_a_position_beyond_the_last_group_is_an_index_error():
    with pytest.raises(IndexError, match="there are 3 groups, 0 to 2, but 9 was asked"):
        GROUPS[[0, 9]]


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: lo.Groups.from_indices(wrong([0, 1]), n=N), r"write \[\[3, 5\]\] for one group"),
        (lambda: lo.Groups.from_indices(wrong(None), n=N), "list of index lists, got NoneType"),
        (lambda: lo.Groups.from_indices(wrong(GROUPS), n=N), "list of index lists, got Groups"),
        (lambda: lo.Groups.from_indices([[0.5]], n=N), "integer indices in group 0, got float64"),
        (lambda: lo.Groups.from_indices([[2**70]], n=N), "integer indices in group 0, got object"),
        (lambda: lo.Groups.from_indices([[-1]], n=N), "holds point -1, but the examples are 0"),
        (lambda: lo.Groups.from_indices([[0]], n=wrong("30")), "examples, as an integer.*'30'"),
        (lambda: lo.Groups.from_indices([[0]], n=wrong(30.5)), "examples, as an integer.*30.5"),
        (lambda: lo.Groups.from_indices([[0]], n=N, names=wrong(3)), "expected 1 names, .* got 3"),
        (lambda: lo.Groups.from_pairs([0.5], [1], n=N), "integer positions, got float64"),
        (lambda: GROUPS.with_w(np.ones(2)), "for each of 6 listed points, got float64 of shape"),
        (lambda: GROUPS.with_w(wrong(np.full(6, 1j))), "a number for each of 6.*got complex128"),
    ],
)
def test_groups_of_wrong_things_are_refused(call, sentence):
    refused(call, sentence)


KEY = jax.random.key(0)
ONES = np.ones((N, 1))


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda fit: lo.groups.random(KEY, fit, sizes=[3]), "got Fit; of a fit give fit.objective"),
        (lambda fit: lo.groups.same_class(KEY, fit, sizes=[3]), "of a fit give fit.objective"),
        (lambda fit: lo.groups.shared_feature(KEY, fit, sizes=[3]), "of a fit give fit.objective"),
        (lambda fit: lo.groups.singles(fit), "of a fit give fit.objective"),
        (lambda fit: lo.groups.folds(KEY, fit, 3), "of a fit give fit.objective"),
        (lambda fit: lo.groups.folds(KEY, N, wrong(2.5)), "folds, as an integer.*got 2.5"),
        (
            lambda fit: lo.groups.random(wrong(0), fit.objective, sizes=[3]),
            "key such as jax.random.key",
        ),
        (lambda fit: lo.groups.random(KEY, fit.objective, sizes=[N]), "1 to 29 of 30 .* got 30"),
        (lambda fit: lo.groups.shared_feature(KEY, fit.objective, sizes=[-3]), "got -3"),
        (lambda fit: lo.groups.random(KEY, fit.objective, sizes=[2.5]), "a list of integers"),
        (lambda fit: lo.groups.random(KEY, fit.objective, sizes=wrong(3)), "integers, got 3"),
        (lambda fit: lo.groups.random(KEY, fit.objective, sizes="ab"), "a list of integers"),
        (lambda fit: lo.groups.gradient_clusters(KEY, fit, ONES, sizes=[3]), "give fit.objective"),
        (
            lambda fit: lo.groups.gradient_clusters(KEY, fit.objective, ONES[:9], sizes=[3]),
            r"a residual of each of 30 points, got shape \(9, 1\)",
        ),
        (lambda fit: lo.groups.seven(KEY, fit, ONES, ONES), "of a fit give fit.objective"),
        (
            lambda fit: lo.groups.tails(KEY, fit),
            r"a column of numbers each query, got object of sh",
        ),
        (lambda fit: lo.groups.tails(KEY, ONES[:, 0]), r"each query, got float64 of shape \(30,\)"),
        (
            lambda fit: lo.groups.lookalikes(KEY, fit.objective, like=wrong(None)),
            "like= as lo.Groups, got NoneType",
        ),
        (
            lambda fit: lo.groups.lookalikes(KEY, lo.squares(X[:9], Y[:9]), like=GROUPS),
            "groups of these 9 points, got groups of 30",
        ),
    ],
)
def test_families_of_wrong_things_are_refused(fit, call, sentence):
    refused(lambda: call(fit), sentence)


def test_sets_of_points_are_groups():
    assert lo.Groups.from_indices([{3, 5}], n=N).indices.tolist() == [3, 5]


# ---- measures --------------------------------------------------------------------------------


@pytest.mark.parametrize("measure", ["loss", "margin", "accuracy", "auroc", "calibration_error"])
@pytest.mark.parametrize("examples", [X, X[:2], (X,), (X, None), None, (X, Y, Y, Y)])
def test_queries_without_targets_are_refused(measure, examples):
    """Two rows are no pair, and None is no class 0."""
    make = getattr(lo.measures, measure)
    refused(lambda: make(examples), r"as a pair \(x, y\), inputs \(m, d\) and as many targets, got")


@pytest.mark.parametrize(
    ("index", "sentence"),
    [
        ([True, False, True, False], r"write np.flatnonzero\(mask\) for booleans"),
        (True, "for booleans"),
        (1.5, "as integers, or names of columns, got 1.5"),
        (None, "names of columns, got None"),
        ([], r"names of columns, got \[\]"),
        ([[0, 1]], "as integers"),
        (2**70, "as integers"),
    ],
)
def test_entries_of_theta_are_integers(index, sentence):
    refused(lambda: lo.measures.parameter(index), sentence)


@pytest.mark.parametrize(
    ("vectors", "sentence"),
    [
        (np.full((1, 4), np.nan), "vectors must be finite"),
        (np.ones(4) * 1j, "vectors of numbers, got complex128"),
        (["a", "b"], "vectors of numbers, got <U1"),
        ([[1, 2], [1]], "all of the same length"),
        (scipy.sparse.eye(4), "sparse matrix"),
        (np.ones((1, 2, 4)), r"shape \(m, p\) or \(p,\), got \(1, 2, 4\)"),
        ([], "expected vectors of"),
    ],
)
def test_linear_functionals_are_of_finite_real_vectors(vectors, sentence):
    refused(lambda: lo.measures.linear(vectors), sentence)


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        (lambda theta: np.linalg.norm(theta.weight), "'<lambda>' calls NumPy, .* with jax.numpy"),
        (lambda theta: float(theta.bias), "calls NumPy, float"),
        (lambda theta: theta.bias if theta.bias > 0 else 0.0, "jnp.where in the place of `if`"),
        (lambda theta: None, "return a number or a vector of them, got NoneType"),
        (lambda theta: {"a": theta.bias}, "a vector of them, got dict"),
        (lambda theta: theta.bias * 1j, "a vector of them, got complex128"),
        (lambda theta: jnp.ones((2, 2)), r"a vector of them, got float64 of shape \(2, 2\)"),
        (lambda theta: jnp.zeros(0), r"of shape \(0,\)"),
        (max, "of 0 arguments; see lo.measures"),
        (lo.measures.self_loss, r"got lo.measures.self_loss, .* call it, lo.measures.self_loss\("),
        (lo.measures.loss, r"got lo.measures.loss, which makes one: call it, lo.measures.loss\("),
    ],
)
def test_functions_that_are_no_measures_are_refused(fit, function, sentence):
    refused(lambda: lo.effects(fit, GROUPS, function), sentence)


def test_losses_that_call_numpy_are_refused():
    sentence = "the loss calls NumPy"
    refused(lambda: lo.glm(lambda s, y: np.log1p(np.exp(s)), X, Y), sentence)
    refused(lambda: lo.Objective(lambda t, e: np.dot(e[0], t), (X, Y), np.zeros(3)), sentence)
    refused(lambda: lo.glm(wrong("logistic"), X, Y), "a loss as a function .* lo.losses has some")


# ---- numbers that are settings ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: lo.Krylov(steps=0), "steps as an integer of at least 1, got 0"),  # no effect
        (lambda: lo.Newton(steps=0), "steps as an integer of at least 1, got 0"),
        (lambda: lo.Newton(steps=wrong(1.5)), "got 1.5"),
        (lambda: lo.Newton(steps=wrong("2")), "got '2'"),
        (lambda: lo.Retrain(-1.0), "tolerance as a positive number, got -1.0"),
        (lambda: lo.Retrain(np.nan), "tolerance as a positive number, got nan"),
        (lambda: lo.Retrain(wrong("a")), "got 'a'"),
        (lambda: lo.Retrain(max_steps=-1), "max_steps as an integer of at least 0"),
        (lambda: lo.Retrain(history=0), "history as an integer of at least 1"),
        (lambda: lo.measures.calibration_error((X, Y), bins=0), "bins as an integer of at least 1"),
        (
            lambda: lo.logistic(X, Y, penalised="none"),
            "expected penalised as one value, or one for each",
        ),
        (lambda: lo.logistic(X, Y, penalised=np.full(4, -0.5)), "finite numbers >= 0 in penalised"),
    ],
)
def test_settings_that_are_no_such_numbers_are_refused(call, sentence):
    refused(call, sentence)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"memory": "8GB"}, "a positive number of bytes, got '8GB'"),
        ({"memory": np.inf}, "a positive number of bytes, got inf"),
        ({"tolerance": "tight"}, "a tolerance > 0, got 'tight'"),
        ({"tolerance": np.nan}, "a tolerance > 0, got nan"),
    ],
)
def test_options_of_effects_that_are_no_numbers_are_refused(fit, options, sentence):
    refused(lambda: lo.effects(fit, GROUPS, OWN, **options), sentence)


def test_draws_of_a_null_band_are_counted(fit):
    for null in (-1, True, 2.5, "many"):
        refused(lambda null=null: lo.credit(fit, GROUPS, OWN, null=null), "null .draws")


# ---- jit, pickle -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        lambda fit: jax.jit(lo.effects)(fit, GROUPS, OWN),
        lambda fit: jax.jit(lambda: lo.effects(fit, GROUPS, OWN).value)(),
        lambda fit: jax.jit(lambda f: lo.effects(f, GROUPS, OWN).value)(fit),
        lambda fit: jax.jit(lambda: lo.credit(fit, GROUPS, OWN).best.value)(),
        lambda fit: jax.jit(lambda: lo.cross_validate_groups(fit, GROUPS).loss)(),
        lambda fit: jax.jit(lo.trust)(fit, GROUPS),
        lambda fit: jax.jit(lambda: lo.trust(fit, GROUPS).mu)(),
    ],
)
def test_verbs_of_the_host_inside_jit_say_what_serves_there(fit, call):
    refused(lambda: call(fit), "works outside jax.jit; inside, call lo.influence, lo.newton")


def test_groups_are_an_argument_of_jit(fit):
    """Of two groups with one name each has its own program."""
    inside = jax.jit(lo.newton)
    for groups in (GROUPS, lo.Groups.from_indices([[7], [8, 9], [4]], n=N)):
        found = inside(fit, groups).value
        np.testing.assert_allclose(found, lo.newton(fit, groups).value, atol=1e-12)


def squared(theta, example):
    x, y = example
    return (jnp.dot(x, theta["w"]) - y) ** 2


def absolute(score, y):
    return jnp.sqrt(1 + (score - y) ** 2)


FITS = {
    "logistic": lambda: lo.logistic(X, Y),
    "softmax": lambda: lo.softmax(X, np.arange(N) % 3),
    "poisson": lambda: lo.poisson(X, Y),
    "glm": lambda: lo.glm(absolute, X, Y),
    "objective": lambda: lo.Objective(squared, (X, Y.astype(float)), {"w": jnp.zeros(3)}),
}


@pytest.mark.parametrize("name", mostly_slow(FITS, "softmax", "objective"))
def test_a_pickled_fit_gives_the_same_effects(name):
    fit = lo.fit(FITS[name]())
    again = pickle.loads(pickle.dumps(fit))
    expected = lo.effects(fit, GROUPS, OWN).value
    np.testing.assert_array_equal(lo.effects(again, GROUPS, OWN).value, expected)


def test_losses_of_the_shelf_are_themselves_when_pickled():
    for name in lo.losses.__all__:
        loss = getattr(lo.losses, name)
        if isinstance(loss, lo.losses.Loss):
            assert pickle.loads(pickle.dumps(loss)) is loss
            assert copy.deepcopy(loss) is loss


@pytest.mark.parametrize(
    "make",
    [
        lambda: lo.glm(lambda s, y: absolute(s, y), X, Y),
        lambda: lo.Objective(lambda t, e: squared(t, e), (X, Y), {"w": jnp.zeros(3)}),
    ],
)
def test_a_fit_of_a_lambda_says_why_it_is_not_pickled(make):
    fit = lo.fit(make())
    with pytest.raises(pickle.PicklingError, match="write it with def at the top of one, or use"):
        pickle.dumps(fit)
    np.testing.assert_array_equal(copy.deepcopy(fit).flat, fit.flat)


# ---- calls ------------------------------------------------------------------------------------


def test_whole_verbs_inside_jit_are_told_where_they_work(fit):
    for method in (lo.Newton(), lo.Influence(), lo.Retrain(), lo.SecondOrder(), lo.Krylov()):
        call = jax.jit(lo.effects)
        refused(lambda call=call, method=method: call(fit, GROUPS, OWN, method), "outside jax.jit")
    refused(lambda: jax.jit(lambda a: a * lo.fit(lo.logistic(X, Y)).flat)(2.0), "outside jax.jit")


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda fit: lo.effects(fit, GROUPS, OWN, progress=wrong(3)),
            "progress as a function.*, got 3",
        ),
        (
            lambda fit: lo.cross_validate(wrong(fit.objective), [1.0], key=wrong(3)),
            "a random key .*, got 3",
        ),
        (
            lambda fit: lo.groups.feature_clusters(wrong(3), wrong(fit.objective), sizes=[3]),
            "key .*, got 3",
        ),
        (lambda fit: lo.Groups.from_pairs([0, 0, 1], [1, 2, 3], n=N, w=[1, 1]), "3 examples, got"),
        (lambda fit: lo.reweight(wrong(Y), by=2), "lo.Groups, whose points .*, got ndarray"),
        (lambda fit: lo.rebalance(wrong(Y), Y), "lo.Groups that leave, got ndarray"),
        (lambda fit: lo.confidence(fit, wrong(None), OWN), "clusters as lo.Groups, .* NoneType"),
        (lambda fit: lo.damping_sweep(fit, GROUPS, OWN, wrong(0.1)), "dampings, one .* got float"),
        (lambda fit: lo.credit(fit, GROUPS, OWN, wrong(None)), "methods, such as .* NoneType"),
        (lambda fit: lo.credit(fit, GROUPS, OWN, values=wrong(OWN)), "values from lo.value, got"),
        (lambda fit: lo.Null(wrong("a")), "draws for each group. as an integer .* got 'a'"),
        (lambda fit: lo.Null(wrong(2.5)), "draws for each group. as an integer .* got 2.5"),
        (lambda fit: lo.Null(-1), "as an integer of at least 0, got -1"),
        (lambda fit: lo.Null(9, wrong("Newton")), "a method such as lo.Newton.., .* got str"),
        (
            lambda fit: lo.flips(fit, lo.measures.parameter(0), threshold=wrong("0")),
            "a finite threshold, got '0'",
        ),
        (lambda fit: fit.summary(level=wrong("95")), "level between 0 and 1, .* got '95'"),
        (lambda fit: lo.Objective(wrong("mse"), X, np.zeros(3)), "a function of one, got str"),
        (lambda fit: lo.logistic(X, Y, intercept=wrong("no")), "intercept as True or False, got"),
        (lambda fit: lo.bounds.leverages(wrong(3)), "a Fit from lo.fit.objective., got int"),
        (lambda fit: lo.bounds.decompose(fit, GROUPS, OWN, wrong(3)), "lo.Retrain.*, got int"),
        (
            lambda fit: lo.bounds.prediction_gap(fit, GROUPS, lo.measures.self_loss()),
            "measures that do not depend on who left; self_loss does",
        ),
    ],
)
def test_arguments_of_another_kind_are_refused(fit, call, sentence):
    refused(lambda: call(fit), sentence)


@pytest.mark.parametrize(
    "call", [lambda: GROUPS + wrong(3), lambda: GROUPS | wrong(None), lambda: GROUPS - wrong([0])]
)
def test_groups_go_with_groups_only(call):
    with pytest.raises(TypeError, match=r"^expected groups on both sides of [+|-], got"):
        call()


# ---- what is made of effects -----------------------------------------------------------------


def test_scatter_takes_arrays_and_names(effects):
    value = effects.value
    for predicted, actual in ((value, effects), (effects, value[:, 0]), (value, value.tolist())):
        assert len(lo.plot.scatter(predicted, actual).collections) == 1
    lo.plot.scatter(value, effects, column="self_loss")


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda e: lo.plot.scatter(e.value, e, column="loss"), "got 'loss'; there are 'self_loss'"),
        (lambda e: lo.plot.scatter(e.value, e.value, column="a"), "there are 'column 0'"),
        (lambda e: lo.plot.scatter(e.value, e, column=9), "name or position, got 9"),
        (lambda e: lo.plot.scatter(GROUPS, e), "an array of numbers .g, m. or .g., got Groups"),
        (lambda e: lo.compare(e.to_pandas(), e), "an array of numbers.*, got DataFrame"),
        (lambda e: lo.compare(e.value * 1j, e), "an array of numbers.*, got ndarray"),
        (lambda e: lo.compare([e, e], e), "an array of numbers.*, got list"),
        (lambda e: lo.compare([[1], [1, 2]], e), "an array of numbers.*, got list"),
        (lambda e: lo.compare(e, e, key=wrong(3)), "a random key such as jax.random.key.0., got 3"),
        (lambda e: lo.compare(e, e, key=wrong(np.zeros((2, 2)))), "got float64 of shape .2, 2."),
        (lambda e: lo.compare(e, e, resamples=wrong(1.5)), "resamples as an integer .* got 1.5"),
        (lambda e: lo.compare(None, e), "an array of numbers.*, got NoneType"),
        (lambda e: lo.jackknife(e.value), "expected `Effects`, got ndarray"),
        (lambda e: lo.add(e.groups, (X, Y)), "expected a Fit"),
        (lambda e: lo.load(e), "expected the path of a file, got Effects"),
        (lambda e: e.groups.save(None), "expected the path of a file, got NoneType"),
        (lambda e: lo.Credit.save(wrong(e), "a.csv"), "ending in .parquet, got a.csv"),
        (lambda e: lo.concat(wrong(None)), "`Effects`, one or more, got NoneType"),
        (lambda e: lo.plot.forest(wrong(e)), "what lo.confidence or lo.credit gave, got Effects"),
        (lambda e: lo.plot.bands(wrong(e)), "what lo.credit gave, got Effects"),
        (lambda e: lo.plot.values(wrong(e)), "what lo.value gave, got Effects"),
        (lambda e: lo.plot.extreme(wrong(e)), "what lo.extreme gave, got Effects"),
        (lambda e: lo.plot.flips(wrong(e)), "what lo.flips gave, got Effects"),
        (lambda e: lo.plot.panels(wrong([e]), e, [0]), "effects by name, .* got list"),
        (lambda e: lo.plot.grid(wrong((e, e, 0))), "a row a list of them, got Effects"),
        (lambda e: lo.plot.grid(wrong([[e, e]])), "cells as .predicted, .*, got Effects"),
    ],
)
def test_what_is_no_effects_column_or_path_is_refused(effects, call, sentence):
    refused(lambda: call(effects), sentence)


def test_panels_of_one_column_need_no_list(effects):
    assert len(lo.plot.panels({"a": effects}, effects, 0).axes) == 1
    assert len(lo.plot.panels({"a": effects}, effects, "self_loss").axes) == 1


def test_the_score_of_linear_datamodels_takes_arrays(effects):
    predicted, actual = np.random.default_rng(0).normal(size=(2, 12, 3))
    found = lo.lds(predicted, actual, resamples=5)
    each = [lo.compare(predicted[:, j], actual[:, j]).spearman[0] for j in range(3)]
    assert found.value == pytest.approx(np.mean(each), rel=1e-12)
