"""What coalitions are called, and what they weigh where examples count for more than one."""

import numpy as np
import pytest

import leaveout as lo
from leaveout.analysis.coalitions import coalition_names


def test_coalitions_are_called_by_who_joins_or_by_who_does_not():
    players = lo.Groups.from_labels(np.array(list("abcdefghijk")))
    members = np.arange(11) < np.array([0, 1, 4, 5, 6, 7, 10, 11])[:, None]
    assert coalition_names(players, members).tolist() == [
        "nobody", "a", "a + b + c + d", "a + b + c + d + 1 more", "a + b + c + d + 2 more",
        "all but h + i + j + k", "all but k", "everybody",
    ]  # fmt: skip


@pytest.mark.slow
def test_coalitions_weigh_and_predict_by_the_weights_of_their_examples():
    """One player has but one class, nobody none: both predict base rates, smoothed by one each."""
    rng = np.random.default_rng(0)
    x, s, owner = rng.normal(size=(30, 2)), rng.uniform(0.5, 3, 30), np.arange(30) % 3
    y = np.where(owner == 0, 1, np.arange(30) % 2)
    fit = lo.fit(lo.logistic(x, y, l2=1.0, weights=s))
    players = lo.Groups.from_labels(owner)
    with pytest.warns(UserWarning, match="1 coalition lacks a class.*'0'"):
        found = lo.value(fit, players, lo.measures.parameter(2))
    leaves = found.coalitions
    assert leaves.weight is not None
    np.testing.assert_allclose(leaves.weight, leaves.groups.dense() @ s)
    names = leaves.groups.names.tolist()
    worth = found.trained.worth[:, 0] + float(fit.flat[2])
    assert worth[names.index("0")] == pytest.approx(np.log(s[owner == 0].sum() + 1), rel=1e-9)
    assert worth[names.index("nobody")] == pytest.approx(0, abs=1e-9)
    lines = found.table(most=1).splitlines()
    assert lines[2].split()[0] == str(found.value[:, 0].argmax())
    assert lines[3] == "... and 2 groups of smaller value"
