"""Several devices give the numbers of one, and say little to each other."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import leaveout as lo
from problems import groups_of, linear, problem, wrong
from test_training import made


def eight_devices(*arguments):
    """What `on_devices.py` found, in a process with eight simulated devices."""
    script = Path(__file__).with_name("on_devices.py")
    ran = subprocess.run(
        [sys.executable, script, *arguments], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


@pytest.fixture(scope="module", params=["quick", "slow"])
def found(request):
    return eight_devices(request.param)


def check_numbers(rows):
    for name, shape, method, gap, status in rows:
        assert status == 0, (name, shape, method)
        # sums over examples are taken in another order: rounding, however tight the retraining
        assert gap < 1e-10, (name, shape, method, gap)


@pytest.mark.slow
def test_several_devices_give_the_numbers_of_one(found):
    check_numbers(found["numbers"])
    assert {row[2] for row in found["numbers"]} >= {"influence", "Newton", "actual"}


@pytest.mark.slow
def test_a_gradient_of_retraining_costs_one_all_reduce(found):
    for name, (p, sent, _) in found["communication"].items():
        assert [kind for kind, _ in sent] == ["all-reduce"], name
        sizes = [np.prod([int(n) for n in shape.split(",")]) for shape in sent[0][1] if shape]
        # 16 lanes over two columns of the mesh: (8 p) numbers, beside (8) values where they count
        assert max(sizes) == 8 * p, name
        assert sum(sizes) <= 8 * p + 8, name


@pytest.mark.slow
def test_no_device_is_sent_all_data_for_a_newton_step(found):
    for name, (p, _, sent) in found["communication"].items():
        assert sent, name
        width = p if name == "logistic" else p // 3
        for kind, shapes in sent:
            size = sum(int(np.prod([int(n) for n in s.split(",") if n])) for s in shapes)
            assert size < 4000 * width, (name, kind, shapes)


@pytest.mark.slow
def test_the_verbs_run_inside_jit_where_the_mesh_is_current(found):
    if "inside_jit" not in found:
        pytest.skip("looked at in the slow run")
    assert found["inside_jit"] < 1e-9


@pytest.mark.slow
def test_a_network_is_retrained_on_several_devices_as_on_one():
    found = eight_devices("networks")
    for name, gap in found["gaps"].items():
        assert gap < 1e-5, name  # float32
    assert found["lanes"][0] == [1]  # eight lanes, a device each


def test_a_network_whose_examples_do_not_divide_is_refused(monkeypatch):
    objective = made()

    class Four:
        shape = {"groups": 2, "data": 3}  # noqa: RUF012

    monkeypatch.setattr("leaveout.objectives.sharded._checked", lambda mesh: Four())
    with pytest.raises(
        ValueError, match=r"n = 40 examples, which 3 devices do not divide: leave 1"
    ):
        lo.shard(objective)


def test_examples_that_fill_up_have_no_weight_and_groups_stay_as_they_are():
    objective = problem("softmax", n=61)
    mesh = jax.make_mesh((1, 1), ("groups", "data"))
    fitted = lo.fit(lo.shard(objective, mesh))
    np.testing.assert_array_equal(linear(fitted).design, objective.design)
    groups = groups_of(61)
    np.testing.assert_allclose(
        lo.newton(fitted, groups).value, lo.newton(lo.fit(objective), groups).value, atol=1e-12
    )


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: lo.shard(wrong(3)), "expected an objective.*got int"),
        (lambda: lo.shard(problem(), jax.make_mesh((1,), ("rows",))), 'axes named "groups" and'),
        (lambda: lo.shard(problem(), wrong("data")), "expected a mesh.*got 'data'"),
    ],
)
def test_sharding_what_is_no_objective_or_over_other_axes_is_refused(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
