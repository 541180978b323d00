"""The study and its command: complete, resumable, refusing what is not its own."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

import leaveout as lo
from leaveout.studies import removal as study
from leaveout.studies.cli import main as cli


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study") / "wine"
    configuration = study.Configuration("wine", per_family=4, l2_over_n=1e-2)
    return configuration, folder, study.run(configuration, folder)


@pytest.mark.slow
def test_a_study_leaves_everything_needed_to_repeat_it(finished):
    _, folder, result = finished
    groups = lo.Groups.load(folder / "groups.npz")
    table = pd.read_parquet(folder / "effects.parquet")
    summary = json.loads((folder / "summary.json").read_text())
    assert (folder / "figure.png").stat().st_size > 10_000
    columns = 6 + 6 + 1
    assert len(table) == len(groups) * columns * 4
    names = {"influence", "influence at changed theta", "Newton", "actual"}
    assert set(table["method"]) == names
    assert summary["groups"]["made"] == len(groups)
    assert summary["retrained_not_converged"] == int((result.effects["actual"].status != 0).sum())
    data = lo.datasets.wine()
    fitted = lo.fit(lo.softmax(data.x, data.y, l2=summary["l2"]))
    again = lo.effects(fitted, groups, lo.measures.self_loss(), lo.Newton()).value[:, 0]
    mine = table[(table["method"] == "Newton") & (table["column"] == "self_loss")]["effect"]
    np.testing.assert_allclose(mine, again, rtol=1e-9)


@pytest.mark.slow
def test_an_interrupted_study_goes_on_bit_for_bit(finished):
    configuration, folder, result = finished
    chunks = sorted((folder / "chunks").iterdir())
    os.remove(chunks[0])
    os.remove(folder / "summary.json")
    said = []
    resumed = study.run(configuration, folder, say=said.append)
    assert resumed.resumed == len(chunks) - 1
    assert any(sentence.startswith("resumed: ") for sentence in said)
    for name, effects in result.effects.items():
        np.testing.assert_array_equal(resumed.effects[name].value, effects.value)


@pytest.mark.slow
def test_a_damaged_chunk_is_computed_again_and_the_same(finished, tmp_path):
    configuration, folder, whole = finished
    shutil.copytree(folder, tmp_path / "study")
    chunk = next((tmp_path / "study" / "chunks").glob("actual-*.npz"))
    chunk.write_bytes(chunk.read_bytes()[:200])
    (tmp_path / "study" / "summary.json").unlink()
    said = []
    again = study.run(configuration, tmp_path / "study", say=said.append)
    assert any(s.startswith(f"computing {chunk.name} again: ") for s in said)
    for name, effects in whole.effects.items():
        np.testing.assert_array_equal(again.effects[name].value, effects.value)
    (tmp_path / "study" / "summary.json").write_text("{")
    with pytest.raises(ValueError, match=r"summary.json is damaged: .*delete it"):
        study.run(configuration, tmp_path / "study")


@pytest.mark.slow
def test_a_killed_study_loses_at_most_the_chunk_in_flight(tmp_path):
    configuration = study.Configuration("wine", per_family=8, l2_over_n=1e-2)
    memory = 8e6  # small: many chunks
    whole = study.run(configuration, tmp_path / "whole", memory=memory)
    folder = tmp_path / "killed"
    command = [sys.executable, "-m", "leaveout", "study", "wine", "--groups", "8"]
    command += ["--l2", "1e-2", "--out", str(folder), "--memory", str(memory / 2**30)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while len(list(folder.glob("chunks/*[0-9].npz"))) < 4:  # in the middle of a method
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    (row,) = [row for row in study.found(tmp_path) if row["folder"] == folder]
    assert row["state"].endswith("chunks")
    kept = len(list(folder.glob("chunks/*[0-9].npz")))
    result = study.run(configuration, folder, memory=memory)
    assert result.resumed == kept >= 4
    assert study.run(configuration, folder, memory=memory).summary == result.summary
    for name, effects in whole.effects.items():
        np.testing.assert_array_equal(result.effects[name].value, effects.value)


@pytest.mark.slow
def test_another_configuration_is_refused_in_the_same_folder(finished):
    _, folder, _ = finished
    other = study.Configuration("wine", per_family=5, l2_over_n=1e-2)
    with pytest.raises(ValueError, match=r"holds another study.*'per_family': 4"):
        study.run(other, folder)
    assert other.folder() != study.Configuration("wine", per_family=4, l2_over_n=1e-2).folder()


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(ValueError, match="is not empty and holds no study"):
        study.run(study.Configuration("wine"), tmp_path)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["study", "iris"], "unknown dataset 'iris'; known: breast_cancer"),
        (["study", "wine", "--groups", "1"], "at least 3 groups a family, got 1"),
        (["study", "wine", "--l2", "-1"], "l2 / n as a number >= 0, got -1.0"),
        (["study", "wine", "--method", "shapley"], "unknown method 'shapley'; known: influence"),
    ],
)
def test_the_study_command_refuses_unknown_data_methods_and_settings(arguments, sentence, capsys):
    assert cli.main(arguments) == 2
    assert sentence in capsys.readouterr().err


def test_the_command_lists_the_data(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LEAVEOUT_DATA", str(tmp_path))
    monkeypatch.setenv("LEAVEOUT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "enron").mkdir()
    (tmp_path / "enron" / "enron1.tar.gz").write_bytes(bytes(2_000_000))
    assert cli.main(["data"]) == 0
    printed = capsys.readouterr().out
    assert f"enron          2.0 MB in {tmp_path / 'enron'}" in printed
    assert "mnist          not here: `leaveout data mnist` downloads it" in printed
    assert "fishdog        not here, and published nowhere: a stand-in for Dogfish" in printed
    assert cli.main(["data", "wine"]) == 0
    assert "classes         [" in capsys.readouterr().out
    assert cli.main(["data", "iris"]) == 2
    assert cli.main(["data", "enron"]) == 2
    assert "is not the file expected" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_prints_a_table_and_names_its_files(finished, capsys):
    _, folder, _ = finished
    arguments = ["study", "wine", "--groups", "4", "--l2", "1e-2", "--out", str(folder)]
    assert cli.main(arguments) == 0
    said = capsys.readouterr()
    for words in ("Newton against actual effects", "test loss[0]"):
        assert words in said.out
    for words in ("figure.png", "report.html", "is finished"):
        assert words in said.err
