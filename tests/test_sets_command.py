"""`leaveout extreme` and `leaveout flips`: a data set and a question in, sets and a figure out."""

import json

import numpy as np
import pytest

pd = pytest.importorskip("pandas")

import leaveout as lo  # noqa: E402
from leaveout.studies.cli.main import main  # noqa: E402

QUESTION = ["extreme", "breast_cancer", "--points", "57", "--size", "5,2%", "--l2", "0.002"]


@pytest.fixture
def said(tmp_path, monkeypatch, capsys):
    """Run a command in a folder of its own; returns what it printed and its summary."""
    monkeypatch.chdir(tmp_path)

    def run(*asked: str) -> tuple[str, dict]:
        assert main([*asked, "--quiet", "--out", "found"]) == 0
        return capsys.readouterr().out, json.loads((tmp_path / "found/summary.json").read_text())

    return run


@pytest.fixture
def trial(tmp_path):
    """A trial whose effect three rows of one village make."""
    rng = np.random.default_rng(0)
    n = 120
    treated, age = np.arange(n) % 2, rng.normal(50, 9, n)
    income = 0.02 * age + rng.normal(size=n) - 0.4 * treated
    income[[1, 3, 5]] += 40.0
    village = np.array([f"v{k}" for k in np.arange(n) // 6])
    frame = pd.DataFrame({"treated": treated, "age": age, "village": village, "income": income})
    path = tmp_path / "trial.csv"
    frame.to_csv(path, index=False)
    return path


def test_the_sets_are_those_of_the_function(said, tmp_path):
    out, summary = said(*QUESTION, "--direction", "down")
    data = lo.datasets.breast_cancer()
    fit = lo.fit(lo.logistic(data.x, data.y, l2=0.002 * data.n))
    sign, score = 2 * int(data.y_query[57]) - 1, lo.measures.prediction(data.x_query[[57]])
    found, sets = lo.extreme(fit, score, [5, 0.02], direction=-sign), summary["sets"]
    assert [one["size"] for one in sets] == [5, 9]
    np.testing.assert_allclose([one["effect"] for one in sets], sign * found.value, rtol=1e-6)
    np.testing.assert_allclose([one["one_pass"] for one in sets], sign * found.one_pass, rtol=1e-6)
    rows = np.split(found.groups.indices, found.groups.offsets[1:-1])
    assert [set(one["rows"]) for one in sets] == [set(each) for each in rows]
    assert "mean of margin[57] down, 9" in out
    assert (tmp_path / "found/extreme.png").stat().st_size > 10_000
    groups = lo.Groups.load(tmp_path / "found/groups.npz")
    assert groups.size.tolist() == [5, 9]


def test_three_rows_of_a_table_turn_its_effect_and_are_named(said, trial, tmp_path):
    out, summary = said(
        "flips", str(trial), "--target", "income", "--features", "treated,age", "--coefficient",
        "treat*", "--bound",
    )  # fmt: skip
    (column,) = summary["columns"]
    assert column["column"] == "coefficient[treated]"
    assert column["size"] == 3  # of all rows, and without a penalty: none is kept for queries
    assert column["rows"] == [1, 3, 5]
    assert 1 <= column["at_least"] <= 3
    assert "at least" in out
    rest = pd.read_csv(trial).drop(index=[1, 3, 5])
    design = np.c_[rest[["treated", "age"]], np.ones(len(rest))]
    theta = np.linalg.lstsq(design, rest["income"], rcond=None)[0]
    np.testing.assert_allclose(column["without"], theta[0], rtol=1e-8)
    assert column["now"] > 0 > column["without"]
    assert (tmp_path / "found/flips.png").is_file()


def test_whole_villages_leave_if_asked(said, trial):
    _, summary = said(
        "flips", str(trial), "--target", "income", "--features", "treated,age", "--coefficient",
        "treated", "--among", "village",
    )  # fmt: skip
    (column,) = summary["columns"]
    assert column["size"] == 1
    assert column["rows"] == list(range(6))
    assert column["groups"] == ["v0"]


def test_what_is_not_turned_is_said_and_not_drawn(said, trial, tmp_path):
    ask = ("flips", str(trial), "--target", "income", "--features", "treated,age", "--coefficient",
           "treated")  # fmt: skip
    said(*ask)
    assert (tmp_path / "found/groups.npz").exists()
    out, summary = said(*ask, "--threshold", "-1000", "--most", "5")
    (column,) = summary["columns"]
    assert column["size"] == column["influence_says"] == -1
    assert column["without"] is column["rows"] is None
    assert "none found" in out
    assert [path.name for path in (tmp_path / "found").iterdir()] == ["summary.json"]


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (["flips", "breast_cancer", "--coefficient", "nope*"], "no feature of breast_cancer"),
        (["flips", "breast_cancer", "--coefficient", "mean radus"], "mean radius"),
        (["extreme", "breast_cancer", "--points", "9999"], "114 query examples"),
        (["extreme", "breast_cancer", "--points", "0-99999999999"], "114 query examples"),
        (["extreme", "breast_cancer", "--points", "3-x"], "30,57 or 0-99"),
        (["extreme", "breast_cancer", "--points", "5-3"], "30,57 or 0-99"),
        (["extreme", "breast_cancer", "--points", ","], "--points names nothing"),
        (["flips", "breast_cancer"], "what is to be turned?"),
        (["flips", "breast_cancer", "--points", "1", "--threshold", "nan"], "finite threshold"),
        (["extreme", "breast_cancer", "--out", __file__], "is a file"),
        (["extreme", "breast_cancer", "--size", "5x"], "such as 5%"),
        (["extreme", "breast_cancer", "--size", "4550"], "1 to 454"),
        (["extreme", "breast_cancer", "--points", "1", "--coefficient", "a"], "ask twice"),
        (["extreme", "breast_cancer", "--among", "ward"], "no column"),
    ],
)
def test_what_makes_no_sense_is_said_in_a_sentence(said, asked, sentence, capsys):
    assert main(asked) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.slow
def test_points_are_ranges_and_each_is_asked_once(said):
    _, summary = said("extreme", "breast_cancer", "--points", "0-1,1", "--size", "3")
    assert [one["set"] for one in summary["sets"]] == [
        f"mean of margin[{k}] {way}, 3" for k in (0, 1) for way in ("up", "down")
    ]


@pytest.mark.slow
def test_of_numbers_what_is_predicted_is_looked_at(said, trial):
    _, summary = said(
        "extreme", str(trial), "--target", "income", "--features", "treated,age", "--points", "0",
        "--size", "2", "--direction", "up",
    )  # fmt: skip
    assert [one["set"] for one in summary["sets"]] == ["mean of prediction[0] up, 2"]
    assert summary["sets"][0]["effect"] > 0


def test_rows_are_those_of_the_file_whatever_was_held_out_or_dropped(said, trial):
    frame = pd.read_csv(trial)
    frame.loc[0, "age"] = np.nan
    frame["held"] = np.arange(len(frame)) % 10 == 2
    frame.to_csv(trial, index=False)
    _, summary = said(
        "flips", str(trial), "--target", "income", "--features", "treated,age", "--coefficient",
        "treated", "--missing", "drop", "--query", "held",
    )  # fmt: skip
    (column,) = summary["columns"]
    assert {1, 3, 5} <= set(column["rows"])
    kept = frame.drop(index=[0, *column["rows"]])
    kept = kept[~kept["held"]]
    theta = np.linalg.lstsq(np.c_[kept[["treated", "age"]], np.ones(len(kept))], kept["income"])[0]
    np.testing.assert_allclose(column["without"], theta[0], rtol=1e-8)


@pytest.mark.slow
def test_a_village_may_leave_with_the_indicator_of_its_own(said, trial):
    with pytest.warns(UserWarning, match="groups the rows and is a feature"):
        out, summary = said(
            "flips", str(trial), "--target", "income", "--features", "treated,age,village",
            "--coefficient", "treated", "--among", "village",
        )  # fmt: skip
    (column,) = summary["columns"]
    assert column["groups"] == ["v0"]  # without it nothing says what v0 is worth: of v0 alone
    assert column["status"] == "converged"
    rest = pd.read_csv(trial).iloc[6:]
    design = np.c_[rest[["treated", "age"]], pd.get_dummies(rest["village"], dtype=float)]
    theta = np.linalg.lstsq(design, rest["income"], rcond=None)[0]
    np.testing.assert_allclose(column["without"], theta[0], rtol=1e-6)
    assert "*" not in out


def test_sets_that_do_nothing_are_written_and_not_drawn(said, trial, tmp_path):
    frame = pd.read_csv(trial)
    frame["income"] = 2.0 * frame["treated"] + frame["age"]
    frame.to_csv(trial, index=False)
    _, summary = said(
        "extreme", str(trial), "--target", "income", "--features", "treated,age", "--coefficient",
        "treated", "--size", "2",
    )  # fmt: skip
    assert [abs(one["effect"]) < 1e-9 for one in summary["sets"]] == [True, True]
    assert (tmp_path / "found/groups.npz").exists()


@pytest.mark.slow
def test_what_has_no_minimum_is_no_plain_number(said, trial):
    _, summary = said(
        "extreme", str(trial), "--target", "income", "--features", "treated", "--coefficient",
        "treated", "--size", "119", "--direction", "up",
    )  # fmt: skip
    (one,) = summary["sets"]
    assert one["status"] != "converged"


def test_a_name_with_brackets_is_a_name_before_it_is_a_pattern(said, trial):
    frame = pd.read_csv(trial).rename(columns={"treated": "treated [0/1]"})
    frame.to_csv(trial, index=False)
    _, summary = said(
        "flips", str(trial), "--target", "income", "--features", "treated [0/1],age",
        "--coefficient", "treated [0/1],treated*",
    )  # fmt: skip
    assert [one["column"] for one in summary["columns"]] == ["coefficient[treated [0/1]]"]
