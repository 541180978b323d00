"""Studies of natural groups, on the paper's data where it is here."""

import json

import numpy as np
import pandas as pd
import pytest

import leaveout as lo
from leaveout.studies import natural
from leaveout.studies.cli import main as cli
from leaveout.studies.koh2019 import natural_figures


@pytest.fixture(scope="module")
def heart(real_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("heart") / "study"
    return natural.run(natural.Question("heart", l2_over_n=0.01, null=200), folder)


@pytest.mark.slow
def test_a_study_says_what_each_hospital_does_to_each_part(heart):
    assert heart.table["group"].tolist() == ["cleveland", "hungarian", "switzerland", "va"]
    values = heart.effects["actual"].value
    columns = heart.effects["actual"].columns
    parts = [columns.index(f"sum of loss[hospital {name}]") for name in heart.table["group"]]
    total = values[:, columns.index("sum of loss[all]")]
    np.testing.assert_allclose(values[:, parts].sum(axis=1), total)
    at_home = values[np.arange(4), parts]
    assert (at_home[:3] > 4).all()  # these are missed most at home
    assert abs(at_home[3]) < 0.1  # and this one is not
    newton = {r["column"]: r for r in heart.summary["comparison"] if r["method"] == "Newton"}
    assert newton["sum of loss[all]"]["spearman"] == 1.0
    in_part = [name for name in heart.table if name.startswith("in hospital")]
    np.testing.assert_array_equal(heart.table[in_part], np.diag(heart.table["size"]))
    for name in ("bands", "heat", "size", "actual"):
        assert (heart.folder / f"{name}.png").stat().st_size > 5_000


@pytest.mark.slow
def test_a_finished_study_is_read_and_another_question_refused(heart):
    sentences = []
    again = natural.run(natural.Question("heart", l2_over_n=0.01, null=200), heart.folder,
                        say=sentences.append)  # fmt: skip
    assert "nothing to compute" in sentences[-1]
    assert list(again.effects) == ["influence", "Newton", "actual"]
    pd.testing.assert_frame_equal(again.table, heart.table)
    assert again.summary == json.loads(json.dumps(heart.summary))
    with pytest.raises(ValueError, match="holds another study"):
        natural.run(natural.Question("heart", by="sex"), heart.folder)


@pytest.fixture
def small_crowd(monkeypatch):
    """The crowd in small, under its own name."""
    load = lo.datasets.load

    def small(name):
        return lo.datasets.crowd(1_500, 8, workers=12) if name == "crowd" else load(name)

    monkeypatch.setattr(lo.datasets, "load", small)


@pytest.mark.slow
def test_the_command_carries_workers_of_any_number(small_crowd, tmp_path, capsys):
    folder = str(tmp_path / "crowd")
    code = cli.main(
        ["credit", "crowd", "--null", "50", "--method", "influence,actual", "--out", folder]
    )
    said = capsys.readouterr().err
    assert code == 0
    assert "1,500 training examples" in said
    assert "12 groups in" in said
    report = natural.read(tmp_path / "crowd")
    rank = {r["column"]: r["spearman"] for r in report.summary["comparison"]}
    assert min(rank.values()) > 0.9
    genres = [name for name in report.table if name.startswith("in genre")]
    np.testing.assert_array_equal(report.table[genres].sum(axis=1), report.table["size"])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["credit", "wine"], "wine has no column that groups its examples"),
        (["credit", "crowd", "--by", "town"], "crowd has no column 'town'; it has worker, genre"),
        (["credit", "crowd", "--method", "guess"], "unknown method 'guess'"),
        (["figure", "4", "--data", "crowd"], "figure 4 shows 2 data sets, got 1"),
    ],
)
def test_the_command_refuses_columns_methods_and_data_it_does_not_know(
    small_crowd, arguments, sentence, capsys
):
    assert cli.main(arguments) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.slow
def test_labelling_functions_and_workers_are_ranked_as_retraining_ranks_them(real_data, tmp_path):
    """The paper's claims of section 5, as they come out on the rebuilt and stand-in data."""
    for number in natural_figures.FIGURES:
        for path in natural_figures.figure(number, studies=tmp_path, out=tmp_path / "figures"):
            assert path.stat().st_size > 5_000
    reports = {name: natural.read(tmp_path / natural.Question(name).folder())
               for name in ("cdr", "nli")}  # fmt: skip
    for name, least in (("cdr", 0.98), ("nli", 0.99)):
        rows = [r for r in reports[name].summary["comparison"] if r["method"] == "influence"]
        assert len(reports[name].table) == {"cdr": 24, "nli": 326}[name]
        for row in rows:
            if "class" in row["column"] or "part" in row["column"]:
                assert row["spearman"] > least
    claims = {(r["column"], r["trait"], r["groups of"]): r["spearman"]
              for r in reports["cdr"].summary["claims"]}  # fmt: skip
    for k in (0, 1):  # coverage says how much, within a sign; a function helps its own class
        assert claims[f"sum of loss[class {k}]", "coverage", f"class {k}"] > 0.6
        assert claims[f"sum of loss[class {k}]", "coverage", f"class {1 - k}"] < -0.6
