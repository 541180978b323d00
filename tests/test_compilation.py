"""Few shapes are compiled, whatever sizes the groups have; and what is compiled is kept."""

import collections
import os
import subprocess
import sys

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import pytest

import leaveout as lo
from problems import measures_of, problem

N = 397  # a number of examples that no other test has: nothing is compiled yet
METHODS = [lo.Influence(), lo.Newton(), lo.Retrain()]


@pytest.fixture
def compiled():
    """Counts programs compiled, by name, while the test runs."""
    count = collections.Counter()

    def listen(event: str, duration_secs: float, **about: str | int):
        if event.endswith("backend_compile_duration"):
            count[str(about.get("fun_name", "")).removeprefix("jit(").removesuffix(")")] += 1

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield count
    jax.monitoring.unregister_event_duration_listener(listen)


def ragged(seed):
    """312 groups of 39 sizes, from one point to a quarter of them."""
    rng = np.random.default_rng(seed)
    sizes = np.tile(np.unique(np.geomspace(1, N // 4, 60).astype(int)), 8)
    return lo.Groups.from_indices([rng.choice(N, k, replace=False) for k in sizes], n=N)


def test_a_study_compiles_each_program_a_handful_of_times_and_another_one_nothing(compiled):
    fitted = lo.fit(problem(n=N, d=6))
    measures = measures_of(fitted.objective)[:3]

    def study(groups):
        for method in METHODS:
            lo.effects(fitted, groups, measures, method, memory=4_000_000)  # several chunks

    groups = ragged(0)
    assert len(set(groups.size)) > 30
    compiled.clear()
    study(groups)
    # one operation of JAX alone, outside of any program of ours, is small: only their sum counts
    ours = {name: count for name, count in compiled.items() if not hasattr(jax.lax, name)}
    assert len(ours) > 10
    # some programs serve each of three measures; list lengths are rounded up to powers of two
    assert max(ours.values()) <= 4, ours
    assert compiled.total() <= 110, compiled
    compiled.clear()
    study(ragged(1))
    assert not compiled


def test_an_objective_is_made_without_a_program_and_fitted_with_a_handful(compiled):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, 7))
    compiled.clear()
    objective = lo.logistic(x, rng.random(N) < 0.5, l2=1.0)
    assert not compiled, compiled
    lo.fit(objective)
    # moments of the columns, a pass, the sandwich length, what counts as an optimum, losses
    assert compiled.total() <= 5, compiled


def test_another_number_of_groups_compiles_nothing(compiled):
    fitted = lo.fit(problem(n=N, d=6))
    measure = measures_of(fitted.objective)[0]
    groups = ragged(2)

    def ask(count):
        for method in (*METHODS, lo.NewtonChebyshev()):
            lo.effects(fitted, groups[-count:], measure, method)

    ask(16)
    compiled.clear()
    for count in (1, 23, 64):
        ask(count)
    assert not compiled, compiled


def calls_of(objective, theta):
    """What a user calls of an objective and its expansion, with numbers."""
    v, expansion = 0.5 * objective.weights, objective.at(theta)
    return {
        "value": lambda: objective.value(theta, v),
        "gradient": lambda: objective.gradient(theta, v),
        "hvp": lambda: objective.hvp(theta, theta, v),
        "hessian": lambda: objective.hessian(theta, v),
        "third_derivative": lambda: objective.third_derivative(theta, theta, v),
        "expansion.gradient": lambda: expansion.gradient(v),
        "expansion.hessian": lambda: expansion.hessian(v),
    }


def test_each_call_of_an_objective_is_one_program_and_the_same_inside_another(compiled):
    objective = problem("softmax", n=N)
    calls = calls_of(objective, jnp.linspace(-1.0, 1.0, objective.p))
    for name, call in calls.items():
        compiled.clear()
        call()
        assert compiled.total() == 1, (name, compiled)
        compiled.clear()
        call()  # its loop over pairs of classes too
        assert not compiled, name
    inside = jax.jit(calls["hessian"])()
    np.testing.assert_allclose(inside, calls["hessian"](), rtol=1e-12, atol=1e-12)


_START = """
import jax, sys, leaveout as lo
unwanted = "scipy.sparse scipy.stats lineax narwhals pandas sklearn matplotlib pyarrow rich pooch"
unwanted += " leaveout.analysis leaveout.plot leaveout.studies"  # each when something of it is used
assert not set(unwanted.split()) & set(sys.modules), set(unwanted.split()) & set(sys.modules)
jax.jit(lambda x: x + 7)(1.0)  # before: JAX has looked for a folder, and found none
assert lo.keep_compiled(*sys.argv[1:]) == lo.keep_compiled()
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event.split("/")[-1]))
jax.jit(lambda x: x * 3 + 1)(2.0)
print(hits.count("cache_hits"), hits.count("cache_misses"))
"""


def test_a_start_loads_no_more_than_it_needs_and_takes_what_an_earlier_one_compiled(tmp_path):
    environment = os.environ | {"LEAVEOUT_CACHE": str(tmp_path)}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)

    def start(*folder):
        ran = subprocess.run([sys.executable, "-c", _START, *folder], env=environment, check=True,
                             capture_output=True, text=True)  # fmt: skip
        return [int(number) for number in ran.stdout.split()], ran.stderr

    (hits, misses), _ = start()
    assert misses > 0
    kept = sorted((tmp_path / "compiled").iterdir())
    assert start(str(tmp_path / "compiled"))[0] == [hits + misses, 0]
    for path in kept:  # as if another process were writing them
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (hits, _), said = start()
    assert hits == 0
    assert "Error reading persistent compilation cache" in said


@pytest.mark.parametrize(("told", "least"), [(1.0, 0.0), (5.0, 5.0), (0.5, 0.5)])
def test_short_programs_are_kept_unless_jax_is_told_otherwise(tmp_path, told, least):
    folder, time = "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"
    before = {name: getattr(jax.config, name) for name in (folder, time)}
    try:
        jax.config.update(folder, str(tmp_path))  # as in the environment
        jax.config.update(time, told)
        assert lo.keep_compiled() == tmp_path
        assert getattr(jax.config, time) == least
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"file.* cannot be made .*; give another folder"):
        lo.keep_compiled(tmp_path / "file" / "below")
