"""What is remembered between calls is what would be computed, and goes with its arrays."""

import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import leaveout as lo
from leaveout.runtime.memory import zeros
from leaveout.runtime.remembered import forget, remembered


@pytest.fixture
def counted():
    """Doubling, remembered, and how often it was computed."""
    calls = []

    @remembered
    def double(tree, scale=2.0):
        calls.append(scale)
        return jax.tree.map(lambda leaf: scale * leaf, tree)

    return double, calls


def test_the_very_same_arrays_are_computed_once(counted):
    double, calls = counted
    x = jnp.arange(3.0)
    first, again = double({"a": x}), double({"a": x})
    assert again is first
    assert len(calls) == 1


def test_equal_arrays_are_others(counted):
    double, calls = counted
    np.testing.assert_array_equal(double(jnp.arange(3.0)), double(jnp.arange(3.0)))
    assert len(calls) == 2


@pytest.mark.parametrize("other", [{"b": 0}, [0], (0, 0)])
def test_another_structure_is_another_question(counted, other):
    double, calls = counted
    x = jnp.arange(3.0)
    double({"a": x})
    found = double(jax.tree.map(lambda _: x, other))
    assert jax.tree.structure(found) == jax.tree.structure(other)
    assert len(calls) == 2


def test_another_option_is_another_question(counted):
    double, calls = counted
    x = jnp.ones(2)
    assert float(double(x)[0]) == 2
    assert float(double(x, scale=3.0)[0]) == 3
    assert len(calls) == 2


@pytest.mark.parametrize("n", [2, 1000])
def test_an_array_that_was_written_to_is_another(counted, n):
    double, _ = counted
    x = np.ones(n)
    double(x)
    x[:] = 5
    assert double(x)[0] == 10


@pytest.mark.parametrize(
    ("other", "calls_made"),
    [
        (np.arange(4, dtype=np.uint32), 1),
        (np.arange(4, dtype=np.int32), 2),
        (np.arange(4, dtype=np.uint32)[None], 2),
        (np.ones(4, dtype=np.uint32), 2),
        (np.array([0, 1, 2, 3], dtype=object), 2),
    ],
)
def test_short_arrays_of_numpy_are_told_by_what_they_hold(counted, other, calls_made):
    double, calls = counted
    x = jnp.arange(3.0)
    first = double({"x": x, "rows": np.arange(4, dtype=np.uint32)})
    again = double({"x": x, "rows": other})
    assert len(calls) == calls_made
    assert (again is first) == (calls_made == 1)


def test_a_fit_of_a_frame_is_asked_twice_and_computes_once():
    """The rows of a frame are known by an array of NumPy's: it kept nothing from memory."""
    pandas = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    x = pandas.DataFrame(rng.normal(size=(20, 2)), columns=["a", "b"]).set_axis(range(5, 25))
    fit = lo.fit(lo.logistic(x, pandas.Series(np.arange(20) % 2, index=x.index), l2=1.0))
    assert fit.objective.fingerprint is not None
    calls = []

    @remembered
    def asked(fit):
        calls.append(fit)
        return fit.flat

    assert asked(fit) is asked(fit)
    assert len(calls) == 1


def test_it_goes_when_its_arrays_do(counted):
    double, _ = counted
    x = jnp.arange(3.0)
    answer = weakref.ref(double(x))
    gc.collect()
    assert answer() is not None
    del x
    gc.collect()
    assert answer() is None


def test_inside_a_program_nothing_is_remembered(counted):
    double, calls = counted
    x = jnp.ones(3)
    for _ in range(2):
        assert float(jax.grad(lambda x: jnp.sum(double(x)))(x)[0]) == 2
    assert len(calls) == 2
    assert float(double(x)[0]) == 2  # and no tracer is


def test_large_answers_are_not_kept(counted, monkeypatch):
    monkeypatch.setattr("leaveout.runtime.remembered.REMEMBERED", 15)
    double, calls = counted
    x = jnp.ones(2)
    double(x), double(x)
    assert len(calls) == 2


def test_it_is_asked_anew_in_another_precision_and_of_another_kind(counted):
    double, calls = counted
    x = jnp.ones(2)
    double(x, scale=2), double(x, scale=2.0), double(x, scale=True)
    with jax.default_matmul_precision("bfloat16"):
        double(x, scale=True)
    assert len(calls) == 4


def test_where_memory_runs_out_it_is_given_up(counted):
    double, calls = counted
    x = jnp.ones(2)
    double(x)
    forget()
    double(x)
    assert len(calls) == 2


def aligned(values):
    """A copy at an address of which JAX on a processor takes the memory as it is."""
    out = zeros(np.shape(values))
    out[...] = values
    return out


@pytest.mark.parametrize("what", ["x", "y", "weights", "offset", "data"])
def test_what_is_written_to_the_arrays_of_an_objective_changes_nothing(what):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(64, 3)), rng.poisson(1.0, 64).astype(float)
    given = {"x": x, "y": y, "weights": np.ones(64), "offset": np.zeros(64), "data": x}
    given = {name: aligned(value) for name, value in given.items()}
    if what == "data":
        loss = lambda theta, row: jnp.sum((theta - row) ** 2)  # noqa: E731
        fit = lo.fit(lo.Objective(loss, given["data"], np.zeros(3), l2=1.0))
    else:
        some = {name: given[name] for name in ("x", "y", "weights", "offset")}
        fit = lo.fit(lo.poisson(**some, l2=1.0, intercept=False))
    groups = lo.Groups.from_indices([[0, 1, 2]], n=64)
    before = np.asarray(lo.newton(fit, groups).value)
    given[what][:10] = 3.0
    np.testing.assert_array_equal(lo.newton(fit, groups).value, before)
    np.testing.assert_array_equal(lo.fit(fit.objective).flat, fit.flat)


def test_a_fit_that_is_edited_is_looked_at_anew(problem):
    """Effects after effects of another fit of the same shape are its own."""
    _, fit, groups, measure = problem
    other = lo.fit(fit.objective.with_l2(2 * float(fit.objective.l2)))
    fresh = [_effects(one, groups, measure) for one in (fit, other)]
    jax.clear_caches()
    again = [_effects(one, groups, measure) for one in (other, fit)][::-1]
    np.testing.assert_array_equal(fresh, again)
    assert np.abs(fresh[0] - fresh[1]).max() > 1e-3 * np.abs(fresh[0]).max()


def _effects(fit, groups, measure):
    methods = lo.Influence(), lo.Newton(), lo.Retrain()
    return np.stack([lo.effects(fit, groups, measure, method).value for method in methods])


@pytest.fixture
def problem():
    data = lo.datasets.breast_cancer()
    fit = lo.fit(lo.logistic(data.x, data.y, l2=1.0))
    groups = lo.groups.random(jax.random.key(0), data, sizes=[5, 20, 60])
    return data, fit, groups, lo.measures.loss((data.x[:3], data.y[:3]))
