"""The command line on a user's own table."""

import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from leaveout.studies.cli import main as cli


@pytest.fixture(scope="module")
def sales(tmp_path_factory):
    """A table of 240 customers of four vendors, one of which turns its labels round."""
    rng = np.random.default_rng(0)
    n = 240
    table = pd.DataFrame({
        "vendor": np.array(["Ärz", "b, c", "bad", "d"])[np.arange(n) % 4],
        "age": rng.normal(40, 10, n).round(1),
        "plan": rng.choice(["basic", "pro"], n),
        "spend": rng.normal(size=n),
        "seen": rng.integers(1, 3, n),
    })  # fmt: skip
    score = 2 * table["spend"] + (table["plan"] == "pro") + rng.logistic(size=n)
    churn = (score > 0) != (table["vendor"] == "bad")
    path = tmp_path_factory.mktemp("sales") / "sales.csv"
    table.assign(churn=np.where(churn, "yes", "no")).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def finished(sales):
    """A study of them that is finished, and the command that asks for it."""
    command = ["credit", str(sales), "--target", "churn", "--by", "vendor", "--query", "0.25",
               "--positive", "yes", "--weights", "seen", "--l2", "0.01", "--null", "50",
               "--method", "influence,newton,actual", "--out"]  # fmt: skip
    folder = sales.parent / "study"
    assert cli.main([*command, str(folder)]) == 0
    return folder, [*command, str(folder)]


def test_a_table_becomes_a_folder_with_a_report(finished):
    folder, _ = finished
    for name in ("report.html", "credit.parquet", "summary.json", "bands.png", "heat.png",
                 "actual.png", "effects_actual.npz", "effects_influence.npz"):  # fmt: skip
        assert (folder / name).stat().st_size > 1_000, name
    text = (folder / "report.html").read_text("utf-8")
    for words in ("the model of churn be if one vendor", "hurts most", "Ärz", "sales.csv",
                  "--target churn --by vendor", "--weights seen"):  # fmt: skip
        assert words in text, words
    fields = json.loads((folder / "configuration.json").read_text())
    assert fields["dataset"]["name"] == "sales"
    assert len(fields["dataset"]["x"]) == 64


def test_results_go_to_one_place_and_notes_to_the_other(finished, capsys):
    folder, command = finished
    assert cli.main(command) == 0
    said = capsys.readouterr()
    assert said.out.startswith("effects on sum of loss[all]")
    assert "bad" in said.out
    assert "is finished" not in said.out
    assert "is finished; nothing to compute" in said.err
    assert f"{folder / 'report.html'}" in said.err
    assert cli.main([*command, "--quiet"]) == 0
    quiet = capsys.readouterr()
    assert quiet.out == said.out
    assert quiet.err == ""


def test_records_are_json_with_what_was_not_asked_for_null(finished, capsys):
    _, command = finished
    assert cli.main([*command, "--json", "--quiet"]) == 0
    records = json.loads(capsys.readouterr().out)
    keys = ["group", "size", "measure", "influence", "newton", "actual", "status", "p"]
    assert all(list(record) == keys for record in records)
    assert {record["group"] for record in records} == {"Ärz", "b, c", "bad", "d"}
    others = (record for record in records if record["measure"] == "sum of loss[vendor d]")
    worst = min(others, key=lambda record: record["actual"])
    assert worst["group"] == "bad"
    assert worst["status"] == "converged"
    assert 0 < worst["p"] <= 1
    accuracy = [record for record in records if record["measure"] == "accuracy"]
    assert all(record["p"] is None for record in accuracy)  # not compared with random groups


def test_a_table_that_has_changed_is_refused(sales, finished, tmp_path, capsys):
    folder, command = finished
    other = tmp_path / "sales.csv"
    other.write_text(sales.read_text().replace("basic", "small"))
    assert cli.main([str(other) if word == str(sales) else word for word in command]) == 2
    assert f"{folder} holds another study" in capsys.readouterr().err


@pytest.mark.slow
def test_a_study_of_a_table_of_numbers_has_a_report_too(tmp_path, capsys):
    rng = np.random.default_rng(1)
    table = pd.DataFrame(rng.normal(size=(120, 3)), columns=["a", "b", "c"])
    table.assign(y=table["a"] * 2 + rng.normal(size=120)).to_parquet(tmp_path / "my.data")
    command = ["study", str(tmp_path / "my.data"), "--format", "parquet", "--target", "y",
               "--groups", "3", "--l2", "0.01", "--out", str(tmp_path / "study")]  # fmt: skip
    assert cli.main(command) == 0
    assert "Newton against actual effects" in capsys.readouterr().out
    text = (tmp_path / "study" / "report.html").read_text("utf-8")
    assert "Can what removing data does be predicted" in text
    assert "--format parquet" in text
    assert cli.main([*command, "--json"]) == 0
    records = json.loads(capsys.readouterr().out)
    assert {"test prediction[0]", "self_loss"} <= {record["measure"] for record in records}
    assert all(record["p"] is None for record in records)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["credit", "slaes.csv"], "there is no file slaes.csv; did you mean 'sales.csv'?"),
        (["credit", "hart"], "unknown dataset 'hart'; known: .* did you mean 'heart'"),
        (["credit", "sales.csv"], "what does sales.csv predict"),
        (["credit", "sales.csv", "--target", "churn"], "which column of sales.csv groups its rows"),
        (["credit", "sales.csv", "--target", "chrun", "--by", "vendor"], "did you mean 'churn'"),
        (["credit", "sales.csv", "--target", "churn", "--by", "vendro"], "did you mean 'vendor'"),
        (["credit", "wine", "--target", "y"], "--target is for a table of your own; wine is a dat"),
        (["study", "sales.csv", "--target", "churn", "--loss", "hinge"], "unknown loss 'hinge'"),
    ],
)
def test_what_makes_no_sense_exits_with_two_and_what_may_be_meant(
    sales, words, sentence, monkeypatch, capsys
):
    import re

    monkeypatch.chdir(sales.parent)
    assert cli.main(words) == 2
    assert re.search(sentence, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["credti"], "did you mean credit?"),
        (["credit", "heart", "--qurey", "0.2"], "did you mean --query?"),
        (["credit", "heart", "--missing", "dorp"], "did you mean drop?"),
    ],
)
def test_words_that_are_misspelt_are_put_right(words, sentence, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == 2
    assert sentence in capsys.readouterr().err


def test_what_fails_exits_with_one(sales, tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("leaveout.studies.natural.run", full)
    command = ["credit", str(sales), "--target", "churn", "--by", "vendor"]
    assert cli.main([*command, "--out", str(tmp_path / "study")]) == 1
    assert "No space left on device" in capsys.readouterr().err


def test_the_version_is_printed(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("leaveout ")


def test_a_shell_completes_commands_options_data_sets_and_files(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--print-completion", "bash"])
    assert ended.value.code == 0
    script = tmp_path / "completion"
    script.write_text(capsys.readouterr().out)
    (tmp_path / "sales.csv").touch()
    lines = {
        "cre": "credit",
        "credit he": "heart",
        "credit sal": "sales.csv",
        "credit heart --mis": "--missing",
        "credit heart --missing dr": "drop",
        "study --quiet bre": "breast_cancer",
        "data heart wi": "wine",
    }
    tries = ["source completion"]
    for line in lines:
        tries += [f"COMP_WORDS=(leaveout {line}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))"]
        tries += ["_shtab_leaveout; echo ${COMPREPLY[@]}; COMPREPLY=()"]
    bash = ["bash", "--norc", "-c", "\n".join(tries)]
    done = subprocess.run(bash, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert dict(zip(lines, done.stdout.split("\n"), strict=False)) == lines, done.stderr


def test_completion_without_its_package_names_the_extra(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "shtab", None)
    with pytest.raises(SystemExit) as ended:
        cli.main(["--print-completion", "zsh"])
    assert ended.value.code == 1
    assert 'needs shtab, which is not installed; pip install "leaveout[completion]"' in (
        capsys.readouterr().err
    )


def test_a_reader_that_goes_away_is_no_error():
    command = [sys.executable, "-m", "leaveout", "data"]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, timeout=60)
    os.close(write)
    assert done.returncode == 141
    assert done.stderr == b""
