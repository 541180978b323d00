"""The paper's figures and tables, on a small data set in the place of one of the paper's."""

import json
import re
import runpy
from pathlib import Path

import numpy as np
import pytest

from leaveout.studies import removal as study
from leaveout.studies.cli import main as cli
from leaveout.studies.koh2019 import figures as paper
from leaveout.studies.koh2019 import published
from problems import spearman

GROUPS = 3
NAME = "breast_cancer"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Figure 1 of one data set with a few groups, and the folder of its study."""
    patch = pytest.MonkeyPatch()
    patch.setattr(published, "DATA", {NAME: "Tumours"})
    patch.setitem(published.PUBLISHED["influence", "self_loss"], NAME, 0.5)
    patch.setitem(published.TABLE_1, NAME, (1e-3, 0.674))
    folder = tmp_path_factory.mktemp("paper")
    written = paper.figure("1", [NAME], studies=folder, out=folder / "out", per_family=GROUPS)
    yield folder, written
    patch.undo()


@pytest.mark.slow
def test_a_figure_is_drawn_with_its_numbers(made):
    folder, written = made
    assert [path.name for path in written] == ["figure_1.png", "figure_1.pdf", "figure_1.json"]
    assert written[0].read_bytes()[:4] == b"\x89PNG"
    assert written[1].read_bytes()[:4] == b"%PDF"
    rows = json.loads(written[2].read_text())
    assert len(rows) == 9  # three methods on three measures
    (row,) = [r for r in rows if (r["method"], r["measure"]) == ("influence", "self_loss")]
    (known,) = study.found(folder)
    done = study.read(known["folder"])
    kept = done.effects["actual"].status == 0
    predicted, actual = (done.effects[name].value[kept, -1] for name in ("influence", "actual"))
    np.testing.assert_allclose(row["spearman"], spearman(predicted, actual), rtol=1e-12)
    assert row["published"] == 0.5
    assert row["groups"] == len(actual)


@pytest.mark.slow
def test_a_second_figure_takes_the_same_study(made):
    folder, _ = made
    said = []
    for number, point in (("2", 0), ("C.1", 3), ("C.4", 0)):
        *_, numbers = paper.figure(
            number, [f"{NAME}:{GROUPS}"], studies=folder, out=folder / "out", say=said.append
        )
        (known,) = study.found(folder)
        points = study.read(known["folder"]).summary["query_points"]
        assert json.loads(numbers.read_text())[0]["query_point"] == points[point]
    assert said
    assert all("is finished" in sentence for sentence in said)


@pytest.mark.slow
def test_the_sweep_is_a_study_for_each_penalty(made, monkeypatch, tmp_path):
    monkeypatch.setattr(published, "SWEEP", (1e-3, 1e-1))
    *pictures, numbers = paper.figure(
        "C.2", [NAME], studies=tmp_path, out=tmp_path / "out", per_family=GROUPS
    )
    assert [path.stem for path in pictures][2:] == ["figure_C2_curves"] * 2
    assert {row["l2_over_n"] for row in json.loads(numbers.read_text())} == {1e-3, 1e-1}
    assert len(study.found(tmp_path)) == 2


@pytest.mark.slow
def test_tables_stand_beside_the_papers(made, capsys):
    folder, _ = made
    page = folder / "page.md"
    page.write_text("before\n<!-- tables -->\nold\n<!-- end of tables -->\nafter\n")
    arguments = ["tables", "--studies", str(folder), "--out", str(folder / "out")]
    assert cli.main(arguments) == 0
    put = runpy.run_path(str(Path(__file__).parents[1] / "docs" / "put_tables.py"))["main"]
    assert put([str(page), *arguments[1:]]) == 0
    text = page.read_text()
    assert "old" not in text
    assert text.startswith("before\n<!-- tables -->\n| data |")
    assert text.endswith("|\n<!-- end of tables -->\nafter\n")
    printed = capsys.readouterr().out
    assert "| Tumours | 455 | 30 | 2 |" in printed
    assert re.search(r"\*\*0\.\d{4}\*\* \(0\.5000\)", printed)
    numbers = json.loads((folder / "out" / "paper.json").read_text())
    (row,) = numbers["table_1"]
    assert row["published_test_accuracy"] == 0.674
    assert numbers["cost"][0]["groups"] == row["groups"]


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["figure", "9"], 2, "unknown figure '9'; known: 1, 2, 3, C.1, C.2, C.4"),
        (["figure", "3", "--data", "wine"], 2, "figure 3 is of generated data; got wine"),
        (["figure", "1", "--data", "wine"], 2, "figure 1 is of .*; got 'wine'"),
        (["tables"], 1, "no finished study of .* run `leaveout figure 1` first"),
        (["study"], 2, "which data set"),
    ],
)
def test_the_commands_refuse_unknown_figures_and_missing_data_or_studies(
    arguments, code, sentence, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == code
    assert re.search(sentence, capsys.readouterr().err)


@pytest.mark.slow
def test_studies_are_listed(made, monkeypatch, capsys, tmp_path):
    folder, _ = made
    monkeypatch.chdir(folder)
    assert cli.main(["study", "--list"]) == 0
    assert "3 groups a family, chosen l2, seed 0: finished" in capsys.readouterr().out
    monkeypatch.chdir(tmp_path)
    assert cli.main(["study", "--list"]) == 0
    assert "no studies in this folder" in capsys.readouterr().out
