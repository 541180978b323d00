"""Names: old ones go on for a release and say what to write, and the face shows its own only."""

import ast
import functools
import importlib
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import leaveout as lo
from problems import groups_of, problem, wrong

N = 40

#: names of the face before it had rooms
MODULES = [
    "certificates",
    "changes",
    "cli",
    "coordinates",
    "estimators",
    "files",
    "general",
    "held_out",
    "inputs",
    "lbfgs",
    "memory",
    "models",
    "natural",
    "objective",
    "paper",
    "path",
    "radius",
    "sharding",
    "solution",
    "study",
    "theory",
    "validation",
]
BOUNDS = ["trust", "Trust", "Light"]
PLOTS = ["cones", "curves", "ranks", "removal", "signs", "sweep"]


@pytest.fixture(scope="module")
def fit():
    """Without a free intercept, so that all of the propositions' bounds are finite."""
    return lo.fit(problem("logistic", n=N, intercept=False))


@pytest.fixture(scope="module")
def groups():
    return groups_of(N, 4)


def with_warning(call):
    """What a call gives, and the one sentence by which it warns of this file's line."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = call()
    assert len(caught) == 1, [str(each.message) for each in caught]
    (warning,) = caught
    assert warning.category is DeprecationWarning
    assert warning.filename == __file__
    assert str(warning.message).endswith("the old name goes with the next release")
    return found, str(warning.message)


def written(path: str):
    """What a user finds under a dotted name, as a warning spells it."""
    module, parts = "leaveout", path.split(".")
    if parts[0] != "lo":
        return functools.reduce(_step, parts[1:], importlib.import_module(module))
    return functools.reduce(getattr, parts[1:], lo)


def _step(found, name):
    """A module's submodule, or its attribute."""
    try:
        return importlib.import_module(f"{found.__name__}.{name}")
    except ImportError:
        return getattr(found, name)


def same(one: Any, other: Any):
    """Two answers, leaf by leaf."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    for a, b in pairs:
        np.testing.assert_array_equal(a, b)


# ---- the face ------------------------------------------------------------------------------------


def test_the_face_shows_what_it_offers_and_nothing_else():
    assert dir(lo) == sorted(lo.__all__)
    assert len(set(lo.__all__)) == len(lo.__all__)
    for name in lo.__all__:
        assert getattr(lo, name) is not None


def test_what_is_offered_is_found_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in lo.__all__:
            getattr(lo, name)
        for shelf in (lo.bounds, lo.groups, lo.measures, lo.plot, lo.solvers, lo.losses):
            for name in shelf.__all__:
                assert getattr(shelf, name) is not None


def test_what_is_loaded_late_is_what_type_checkers_are_told():
    assert lo.__file__ is not None
    body = ast.parse(Path(lo.__file__).read_text()).body
    (late,) = [each for each in body if isinstance(each, ast.If)]
    told = {
        alias.asname or alias.name: f"{each.module}:{alias.name}"
        for each in late.body
        if isinstance(each, ast.ImportFrom)
        for alias in each.names
    }
    places = {name: place.replace(":", ".") for name, place in lo._LATE.items()}
    assert places == {name: place.replace(":", ".") for name, place in told.items()}


def test_importing_it_loads_nothing_that_is_not_asked_for():
    heavy = "jax", "scipy", "equinox", "numpy", "matplotlib"
    told = f"import sys, leaveout; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", told], text=True).strip() == "[]"


@pytest.mark.parametrize("place", [lo, lo.bounds, lo.plot], ids=lambda place: place.__name__)
def test_a_name_that_never_was_is_no_attribute(place):
    with pytest.raises(AttributeError, match="has no attribute 'influense'"):
        place.influense  # noqa: B018
    assert not hasattr(place, "influense")


# ---- where things went ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODULES)
def test_an_old_module_is_the_new_one_that_its_warning_names(name):
    found, sentence = with_warning(lambda: getattr(lo, name))
    assert sentence.startswith(f"lo.{name} is now ")
    new = sentence.removeprefix(f"lo.{name} is now ").split(";")[0]
    assert found is importlib.import_module(new)


@pytest.mark.parametrize("name", BOUNDS)
def test_trust_is_no_bound_any_more(name):
    found, sentence = with_warning(lambda: getattr(lo.bounds, name))
    assert found is getattr(lo, name)
    assert f"lo.bounds.{name} is now lo.{name};" in sentence


@pytest.mark.parametrize("name", PLOTS)
def test_an_old_figure_is_the_one_that_its_warning_names(name):
    found, sentence = with_warning(lambda: getattr(lo.plot, name))
    new = sentence.removeprefix(f"lo.plot.{name} is now ").split(";")[0]
    assert found is written(new)
    assert callable(found)
    assert found.__name__ == name


def test_an_old_name_can_be_imported_from_the_face():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        from leaveout import study
    assert study is importlib.import_module("leaveout.studies.removal")
    assert {warning.filename for warning in caught} == {__file__}
    assert {warning.category for warning in caught} == {DeprecationWarning}


# ---- attributes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("old", "new"), [("factor", "metric"), ("spread", "sandwich")])
def test_an_old_attribute_of_a_fit_is_the_new_one(fit, old, new):
    found, sentence = with_warning(lambda: getattr(fit, old))
    assert found is getattr(fit, new)
    assert f"Fit.{old} is now Fit.{new};" in sentence


def test_an_old_attribute_of_groups_is_the_new_one(groups):
    part = lo.Groups.from_weights(0.5 * groups.dense())
    for each in (groups, part):
        found, sentence = with_warning(lambda each=each: each.weights)
        assert found is each.partial
        assert "Groups.weights is now Groups.partial" in sentence


def test_an_old_attribute_of_parts_is_the_new_one():
    parts = lo.bounds.Parts(*np.arange(7.0)[:, None, None])
    found, sentence = with_warning(lambda: parts.bend)
    assert found is parts.measure_curvature
    assert "Parts.bend is now Parts.measure_curvature;" in sentence


# ---- arguments -----------------------------------------------------------------------------------


def test_the_w_of_groups_may_be_called_weights_as_before():
    w = np.zeros((2, N))
    w[0, :3], w[1, 5] = 0.5, -1.0
    old: Any = lo.Groups.from_weights
    found, sentence = with_warning(lambda: old(weights=w, names=["a", "b"]))
    assert "from_weights(weights=) is now from_weights(w=);" in sentence
    np.testing.assert_array_equal(found.dense(), lo.Groups.from_weights(w=w).dense())
    assert found.names.tolist() == ["a", "b"]


def test_the_w_of_pairs_may_be_called_weights_as_before():
    pairs, w = ([0, 3, 3], ["a", "a", "b"]), [1.0, 0.5, -2.0]
    old: Any = lo.Groups.from_pairs
    found, sentence = with_warning(lambda: old(*pairs, n=N, weights=w))
    assert "from_pairs(weights=) is now from_pairs(w=);" in sentence
    np.testing.assert_array_equal(found.dense(), lo.Groups.from_pairs(*pairs, n=N, w=w).dense())


def test_the_factor_of_reweighting_may_be_called_so_as_before(groups):
    old: Any = lo.reweight
    found, sentence = with_warning(lambda: old(groups, factor=[0.0, 0.5, 2.0, 3.0]))
    assert "reweight(factor=) is now reweight(by=);" in sentence
    np.testing.assert_array_equal(found.dense(), lo.reweight(groups, [0.0, 0.5, 2.0, 3.0]).dense())


# ---- options -------------------------------------------------------------------------------------

MEASURE = lo.measures.parameter([0, 1])
OPTIONS = {
    "cone": (
        lambda fit, groups, of: lo.bounds.cone(fit, groups, of=of),
        [("everybody", lo.bounds.Mu.everybody), ("group", lo.bounds.Mu.group)],
    ),
    "newton_gap": (
        lambda fit, groups, sigma: lo.bounds.newton_gap(fit, groups, MEASURE, sigma=sigma),
        [("zero", lo.bounds.Sigma.zero), ("printed", lo.bounds.Sigma.printed)],
    ),
    "prediction_gap": (
        lambda fit, groups, of: lo.bounds.prediction_gap(fit, groups, MEASURE, of=of),
        [("group", lo.bounds.Mu.group), ("everybody", lo.bounds.Mu.everybody)],
    ),
    "cross_validate": (
        lambda fit, _, criterion: lo.cross_validate(
            fit.objective, [0.05, 50.0], folds=2, criterion=criterion
        ),
        [("loss", lo.Criterion.loss), ("accuracy", lo.Criterion.accuracy)],
    ),
}
ARGUMENTS = {"newton_gap": "sigma", "cross_validate": "criterion"}


def quietly(call, *args):
    """A call without the warning that the best penalty is at an edge."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="cross-validation chose")
        return call(*args)


@pytest.mark.parametrize("verb", OPTIONS)
def test_an_option_by_its_word_is_the_value_of_that_name(fit, groups, verb):
    call, pairs = OPTIONS[verb]
    argument, answers = ARGUMENTS.get(verb, "of"), []
    for word, value in pairs:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            warnings.filterwarnings("ignore", message="cross-validation chose")
            found = call(fit, groups, word)
        assert [(each.category, each.filename) for each in caught] == [
            (DeprecationWarning, __file__)
        ]
        said = f"{argument}={word!r} is now {argument}={type(value).__name__}.{word};"
        assert said in str(caught[0].message)
        expected = quietly(call, fit, groups, value)
        if verb == "cross_validate":
            found, expected = ((each.best, each.criterion, each.loss) for each in (found, expected))
        same(found, expected)
        answers.append(jax.tree.leaves(expected))
    assert any(
        (a != b) if isinstance(a, str) else np.any(a != b) for a, b in zip(*answers, strict=True)
    )


@pytest.mark.parametrize("verb", OPTIONS)
@pytest.mark.parametrize("given", ["grup", ""])
def test_an_unknown_option_is_refused_with_those_that_are_known(fit, groups, verb, given):
    call, pairs = OPTIONS[verb]
    with pytest.raises(ValueError, match="as one of") as refusal:
        call(fit, groups, given)
    for word, value in pairs:
        assert f"{type(value).__name__}.{word}" in str(refusal.value)
    assert repr(given) in str(refusal.value)


def test_an_option_that_a_bound_does_not_know_is_not_taken_for_another(fit, groups):
    """`prediction_gap` has no bound by quadrature: it must not answer with the global one."""
    with pytest.raises(ValueError, match="expected of as one of"):
        lo.bounds.prediction_gap(fit, groups, MEASURE, of=lo.bounds.Mu.lanczos)


# ---- credit --------------------------------------------------------------------------------------

STRATA = np.arange(N) % 3
CREDITS = {
    "key": ({"key": jax.random.key(3)}, lo.Null(20, key=jax.random.key(3))),
    "null_method": ({"null_method": lo.Influence()}, lo.Null(20, method=lo.Influence())),
    "size": ({"within": "none"}, lo.Null(20, within=lo.Within.size)),
    "classes": ({"within": None}, lo.Null(20)),
    "strata, a list": ({"within": STRATA.tolist()}, lo.Null(20, within=STRATA)),
    "strata, an array": ({"within": STRATA}, lo.Null(20, within=STRATA)),
    "all": (
        {"within": "none", "key": jax.random.key(3), "null_method": lo.Influence()},
        lo.Null(20, method=lo.Influence(), within=lo.Within.size, key=jax.random.key(3)),
    ),
}


def standing(fit, groups, **options: Any) -> lo.Standing:
    credit: Any = lo.credit
    null = credit(fit, groups, MEASURE, lo.Influence(), **options).null
    assert null is not None
    return null


def places(standing: lo.Standing):
    return standing.effect, standing.mean, standing.z, standing.p, standing.method


@pytest.mark.parametrize("case", CREDITS)
def test_the_parts_of_a_null_may_be_keywords_of_credit_as_before(fit, groups, case):
    old, null = CREDITS[case]
    found, sentence = with_warning(lambda: standing(fit, groups, null=20, **old))
    assert "credit(null_method=, within=, key=) is now credit(null=lo.Null(" in sentence
    for a, b in zip(places(found), places(standing(fit, groups, null=null)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_old_keyword_of_credit_leaves_the_rest_of_a_null_as_it_is(fit, groups):
    null = lo.Null(20, within=lo.Within.size)
    found, _ = with_warning(lambda: standing(fit, groups, null=null, key=jax.random.key(3)))
    both = lo.Null(20, within=lo.Within.size, key=jax.random.key(3))
    expected = standing(fit, groups, null=both)
    np.testing.assert_array_equal(found.mean, expected.mean)


def test_warnings_point_at_the_line_of_the_caller(fit, groups):
    """However deep they arise: through decorators, properties and lazy imports."""
    cases = [
        lambda: fit.spread,
        lambda: lo.bounds.cone(fit, groups[0], of=wrong("everybody")),
        lambda: lo.reweight(groups, **wrong({"factor": 2.0})),
        lambda: standing_of_one(fit, groups),
        lambda: lo.study,
    ]
    for call in cases:
        with_warning(call)


def standing_of_one(fit, groups):
    return lo.credit(fit, groups[0], MEASURE, lo.Influence(), **wrong({"within": "none"}), null=5)
