"""Effects joined, and written for other programs."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest

import leaveout as lo
from problems import wrong

N = 60
RNG = np.random.default_rng(1)
X, Y = RNG.normal(size=(N, 3)), RNG.integers(0, 2, N)
SITES, DAYS = (lo.Groups.from_labels(np.arange(N) % k, kind=name) for k, name in
               ((4, "site"), (3, "day")))  # fmt: skip
LOSS, FIRST = lo.measures.loss((X[:2], Y[:2])), lo.measures.parameter(0)


@pytest.fixture(scope="module")
def fit():
    return lo.fit(lo.logistic(X, Y))


def same(one: lo.Effects, two: lo.Effects):
    for field in dataclasses.fields(lo.Effects):
        first, second = getattr(one, field.name), getattr(two, field.name)
        if field.name == "groups":
            assert first.names.tolist() == second.names.tolist()
            np.testing.assert_array_equal(first.indices, second.indices)
        elif isinstance(first, np.ndarray):
            np.testing.assert_allclose(first, second, atol=1e-14, err_msg=field.name)
        else:
            assert first == second, field.name


def test_effects_on_two_measures_are_those_asked_for_together(fit):
    apart = [lo.effects(fit, SITES, measure, lo.Newton()) for measure in (LOSS, FIRST)]
    same(lo.concat(apart), lo.effects(fit, SITES, [LOSS, FIRST], lo.Newton()))
    assert lo.concat(apart[:1]) is apart[0]


def test_effects_of_two_families_are_those_of_both(fit):
    apart = [lo.effects(fit, groups, LOSS, lo.Newton()) for groups in (SITES, DAYS)]
    same(lo.concat(apart), lo.effects(fit, SITES + DAYS, LOSS, lo.Newton()))


@pytest.mark.slow
def test_intervals_that_some_have_are_kept_and_the_others_infinite(fit):
    one = lo.effects(fit, SITES, LOSS, lo.Newton(), certify=True)
    two = lo.effects(fit, SITES, FIRST, lo.Newton())
    found = lo.concat([one, two])
    assert found.lower is not None
    assert found.certificate is not None
    np.testing.assert_array_equal(found.lower[:, :2], one.lower)
    assert (found.lower[:, 2] == -np.inf).all()
    assert (found.certificate == lo.Certificate.uncertified).all()
    below = lo.concat([one, lo.effects(fit, DAYS, LOSS, lo.Newton())])
    assert below.upper is not None
    assert np.isinf(below.upper[4:]).all()
    flagged = dataclasses.replace(
        two, status=np.full(4, 3, np.int8), column_status=np.full((4, 1), 3, np.int8)
    )
    assert lo.concat([one, flagged]).status.tolist() == [3] * 4


@pytest.mark.usefixtures("as_users_run_it")
def test_what_does_not_go_together_is_refused(fit):
    newton, influence = (lo.effects(fit, SITES, LOSS, m) for m in (lo.Newton(), lo.Influence()))
    with pytest.raises(ValueError, match=r"by Newton and influence: methods are compared"):
        lo.concat([newton, influence])
    with pytest.raises(ValueError, match="both the same groups and columns"):
        lo.concat([newton, newton])
    with pytest.raises(ValueError, match="other groups and other columns"):
        lo.concat([newton, lo.effects(fit, DAYS, FIRST, lo.Newton())])
    with pytest.raises(ValueError, match=r"column 'loss\[0\]' is there more than once"):
        lo.concat([newton, lo.effects(fit, SITES, [LOSS, FIRST], lo.Newton())])
    for nothing in ([], [1]):
        with pytest.raises(ValueError, match="expected `Effects`"):
            lo.concat(wrong(nothing))


def test_long_and_wide_tables_and_files_hold_the_effects(fit, tmp_path):
    found = lo.effects(fit, SITES, [LOSS, FIRST], lo.Newton())
    wide = found.to_pandas(wide=True)
    assert wide.columns.tolist() == [
        "group", "kind", "size", "alpha", "loss[0]", "loss[1]", "parameter[0]", "status",
    ]  # fmt: skip
    np.testing.assert_array_equal(wide[list(found.columns)], found.value)
    assert found.to_arrow(wide=True).num_rows == 4
    for ending in ("csv", "json", "parquet"):
        found.save(tmp_path / f"effects.{ending}")
    long = found.to_pandas()
    pd.testing.assert_frame_equal(
        pd.read_csv(tmp_path / "effects.csv", dtype={"group": str}), long, check_dtype=False
    )
    records = json.loads((tmp_path / "effects.json").read_text())
    assert records == found.records()
    assert [record["effect"] for record in records] == long["effect"].tolist()
    hidden = dataclasses.replace(found, value=found.value * np.nan)
    assert hidden.records()[0]["effect"] is None
    with pytest.raises(ValueError, match=r"ending in .npz, .parquet, .csv or .json"):
        found.save(tmp_path / "effects.xlsx")
