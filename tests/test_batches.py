"""Batches: runs of rows filled up, halved where memory runs out, within a limit."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from leaveout.runtime.batches import halving, in_runs, joined
from leaveout.runtime.memory import bucket, budget, limited

ROWS = np.arange(11)
VALUES = np.random.default_rng(0).normal(size=(11, 3))


def runs_of(lengths):
    """ROWS cut into runs of these lengths."""
    return np.split(ROWS, np.cumsum(lengths)[:-1])


def answers_of(rows):
    """A PyTree with an entry a row."""
    return {"vector": jnp.asarray(VALUES[rows]), "number": jnp.asarray(rows)}


class Greedy:
    """A call that runs out of memory for more than so many rows at once, and keeps a record."""

    def __init__(self, fits, error=MemoryError):
        self.fits, self.error = fits, error
        self.seen, self.budgets = [], []

    def __call__(self, rows, most):
        self.seen.append((len(rows), most))
        self.budgets.append(budget())
        if most > self.fits:
            raise self.error("RESOURCE_EXHAUSTED: out of memory")
        return rows.tolist()


def halved(runs, most, call):
    """What `halving` answers as one list, and the warnings it gives."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pairs = list(halving(runs, most, call))
    for run, answers in pairs:  # each run is answered by itself
        assert [row for part in answers for row in part] == run.tolist()
    return [row for _, answers in pairs for part in answers for row in part], caught


# ---- runs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("lengths", [[11], [4, 4, 3], [1] * 11, [2, 8, 1]])
def test_answers_are_joined_in_the_order_of_the_runs(lengths):
    found = in_runs(runs_of(lengths), answers_of)
    np.testing.assert_array_equal(found["vector"], VALUES)
    np.testing.assert_array_equal(found["number"], ROWS)
    order = np.random.default_rng(1).permutation(11)
    shuffled = in_runs(np.split(order, [5]), answers_of)
    np.testing.assert_array_equal(shuffled["vector"], VALUES[order])


@pytest.mark.parametrize("lanes", [lambda rows: bucket(len(rows)), lambda _: 8, lambda _: 30])
def test_filling_runs_up_changes_no_answer(lanes):
    lengths = []

    def call(rows):
        lengths.append(len(rows))
        return answers_of(rows)

    found = in_runs(runs_of([4, 4, 3]), call, lanes)
    np.testing.assert_array_equal(found["vector"], VALUES)
    assert lengths == [lanes(np.arange(k)) for k in (4, 4, 3)]


def test_what_fills_a_run_up_are_rows_of_its_own():
    def call(rows):
        assert set(rows) <= {5, 6, 7}  # so that no other row is looked at, or fails
        return jnp.asarray(rows)

    assert in_runs([np.array([5, 6, 7])], call, lambda _: 8).tolist() == [5, 6, 7]


def test_rows_may_lie_along_another_axis():
    def call(rows):
        return jnp.asarray(VALUES.T[:, rows])

    found = in_runs(runs_of([5, 6]), call, lambda _: 8, axis=1)
    np.testing.assert_array_equal(found, VALUES.T)


def test_one_whole_part_is_not_copied():
    part = {"a": jnp.ones((3, 2)), "b": jnp.zeros(3)}
    assert joined([part], [3]) is part
    assert joined([part], [2])["a"].shape == (2, 2)


def test_joining_keeps_the_structure():
    parts = [answers_of(ROWS[:4]), answers_of(ROWS[4:])]
    found = joined(parts, [4, len(ROWS) - 4])
    assert jax.tree.structure(found) == jax.tree.structure(parts[0])
    np.testing.assert_array_equal(found["vector"], VALUES)


@pytest.mark.parametrize("axis", [0, 1])
def test_joining_cuts_and_reorders_inside_jit_as_outside(axis):
    parts = [np.arange(12.0).reshape(4, 3), 100 + np.arange(12.0).reshape(4, 3)]
    back = np.array([3, 0, 2, 1])
    expected = np.concatenate([np.take(part, [0, 1], axis) for part in parts], axis)
    expected = np.take(expected, back, axis)
    np.testing.assert_array_equal(joined(parts, [2, 2], axis, back), expected)
    inside = jax.jit(lambda *parts: joined(list(parts), [2, 2], axis, back))
    np.testing.assert_array_equal(inside(*parts), expected)


# ---- memory that runs out ------------------------------------------------------------------------


@pytest.mark.parametrize("fits", [8, 7, 4, 3, 1])
@pytest.mark.parametrize("error", [MemoryError, jax.errors.JaxRuntimeError])
def test_all_rows_are_answered_in_order_in_runs_that_fit(fits, error):
    call = Greedy(fits, error)
    answers, caught = halved(runs_of([8, 3]), 8, call)
    assert answers == ROWS.tolist()
    sizes = {8: [8], 7: [8, 4], 4: [8, 4], 3: [8, 4, 2], 1: [8, 4, 2, 1]}[fits]
    assert list(dict.fromkeys(most for _, most in call.seen)) == sizes
    assert len(caught) == len(sizes) - 1  # one warning a halving
    for warning, before in zip(caught, sizes, strict=False):
        assert f"memory ran out with {before} groups at once" in str(warning.message)
        assert f"going on with {before // 2}" in str(warning.message)
    assert all(length <= most for length, most in call.seen)


def test_what_was_answered_is_not_asked_again():
    """A run whose second part fails goes on from there."""
    asked = []

    def call(rows, most):
        if most == 4 and 4 in rows:
            raise MemoryError
        asked.extend(rows.tolist())
        return rows.tolist()

    answers, caught = halved([ROWS[:8]], 4, call)
    assert answers == asked == list(range(8))
    assert len(caught) == 1


def test_half_as_many_rows_get_half_the_memory():
    call = Greedy(2)
    with limited(1000):
        halved([ROWS[:8], ROWS[8:]], 8, call)
        assert budget() == 1000  # only the calls were limited
    assert call.budgets[:3] == [1000, 500, 250]
    assert set(call.budgets[2:]) == {250}  # from then on, in later runs too


def test_where_one_row_does_not_fit_the_error_goes_through():
    call = Greedy(0)
    with pytest.raises(MemoryError):
        halved([ROWS], 4, call)
    assert [most for _, most in call.seen] == [4, 2, 1]


@pytest.mark.parametrize("error", [ValueError, jax.errors.JaxRuntimeError])
def test_other_errors_go_through_at_once(error):
    def call(rows, most):
        raise error("INTERNAL: something else")

    with pytest.raises(error, match="something else"):
        list(halving([ROWS], 8, call))


# ---- the limit -----------------------------------------------------------------------------------


def test_limits_nest_and_none_leaves_what_is_outside():
    with limited(None):
        free = budget()
    assert free > 0
    with limited(1000):
        assert budget() == 1000
        with limited(None):
            assert budget() == 1000
            with limited(5e2):
                assert budget() == 500
                assert budget(70) == 70  # said at the call, it goes before
        assert budget() == 1000


@pytest.mark.parametrize("inner", [10, None])
def test_a_limit_ends_with_its_block_however_it_ends(inner):
    with limited(1000):
        with pytest.raises(RuntimeError, match="broken"), limited(inner):
            raise RuntimeError("broken")
        assert budget() == 1000


@pytest.mark.parametrize("wrong", [0, -1, float("nan")])
def test_a_limit_that_is_no_positive_number_is_refused(wrong):
    with pytest.raises(ValueError, match="expected memory as a positive number"), limited(wrong):
        pass
