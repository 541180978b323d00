"""The folder of a study of either kind: it goes on, is one process's, and holds any method."""

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import platformdirs
import pytest

import leaveout as lo
from leaveout.runtime.files import cache
from leaveout.studies import datasets, natural, removal, valued
from leaveout.studies.cli import main as cli
from leaveout.studies.cli.progress import Bars, begun, took
from leaveout.studies.configured import Recorded
from leaveout.studies.folder import Clock, claim

STUDY = removal.Configuration("crowd", per_family=3, l2_over_n=1e-2)
QUESTION = natural.Question("crowd", by="worker", l2_over_n=1e-2, null=20)
MEMORY = 3e4  # one group a chunk
CREDIT = ["credit", "crowd", "--by", "worker", "--l2", "1e-2", "--null", "20", "--out"]


@dataclasses.dataclass(frozen=True)
class Step(lo.Method):
    """One gradient step on what stays, from theta: a method of one's own."""

    rate: float = 0.1

    @property
    def name(self) -> str:
        return "gradient step"

    def prepare(self, fit, measures):
        gradient = fit.expansion().gradient

        def change(groups):
            return self.rate * jax.vmap(gradient)(groups.dense())

        return lo.Prepared(change)


def small(name, load=datasets.load):
    return datasets.crowd(240, 3, workers=6) if name == "crowd" else load(name)


@pytest.fixture(scope="module", autouse=True)
def small_crowd():
    """The crowd in small, under its own name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "load", small)
        yield


@pytest.fixture(scope="module")
def whole(small_crowd, tmp_path_factory):
    """A study of natural groups that was never stopped."""
    return natural.run(QUESTION, tmp_path_factory.mktemp("whole") / "study", memory=MEMORY)


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A study by influence, a method of one's own and retraining."""
    given = dataclasses.replace(STUDY, methods=("influence", Step(1e-3)))
    return given, removal.run(given, tmp_path_factory.mktemp("own") / "study")


def unfinished(study, folder):
    """A copy of a finished study, without one chunk of its second method."""
    shutil.copytree(study.folder, folder)
    (folder / "summary.json").unlink()
    chunks(folder)[1].unlink()
    return folder


def assert_the_same(report, whole):
    assert list(report.effects) == list(whole.effects)
    for name, effects in whole.effects.items():
        for part in ("value", "status", "residual", "steps"):
            mine, theirs = getattr(report.effects[name], part), getattr(effects, part)
            np.testing.assert_array_equal(mine, theirs)
    pd.testing.assert_frame_equal(report.table, whole.table, rtol=0, atol=0)
    mine, theirs = ({**each.summary, "seconds": 0} for each in (report, whole))
    assert mine == theirs


def chunks(folder):
    return sorted((folder / "chunks").glob("*[0-9].npz"))


class After:
    """Progress that interrupts as Ctrl-C does, once so many chunks are saved."""

    def __init__(self, chunks):
        self.left = chunks

    def __call__(self, stage, done, count):
        self.left -= done > 0
        if self.left < 0:
            raise KeyboardInterrupt


# ---- going on ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_interrupted_credit_goes_on_bit_for_bit(whole, tmp_path):
    folder = tmp_path / "study"
    with pytest.raises(KeyboardInterrupt):
        natural.run(QUESTION, folder, memory=MEMORY, progress=After(7))
    assert len(chunks(whole.folder)) == 18
    assert len(chunks(folder)) == 8
    (row,) = natural.found(tmp_path)
    assert row["state"] == "8 of 18 chunks"
    assert row["configuration"] == QUESTION
    said = []
    report = natural.run(QUESTION, folder, say=said.append)  # in the memory that it began with
    assert report.resumed == 8
    assert any(sentence.startswith("resumed: 8 ") for sentence in said)
    assert_the_same(report, whole)
    assert_the_same(natural.read(folder), whole)


_STUCK = """
import sys, time
import jax
jax.config.update("jax_enable_x64", True)
from leaveout.studies import natural
import test_folder as t
t.datasets.load = t.small
def progress(stage, done, count):
    if stage == "newton" and done == 3:
        print("stuck", flush=True)
        time.sleep(600)
natural.run(t.QUESTION, sys.argv[1], progress=progress, memory=t.MEMORY)
"""


@pytest.mark.slow
def test_a_killed_credit_holds_its_folder_until_then_and_goes_on_bit_for_bit(whole, tmp_path):
    folder = tmp_path / "study"
    command = [sys.executable, "-c", _STUCK, str(folder)]
    here = Path(__file__).parent
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=here) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"stuck\n"
        with pytest.raises(ValueError, match="another process is at work in"):
            natural.run(QUESTION, folder, memory=MEMORY)
        process.send_signal(signal.SIGKILL)
    assert (folder / "lock").exists()  # and nobody holds it
    report = natural.run(QUESTION, folder, memory=MEMORY)
    assert report.resumed == 9
    assert_the_same(report, whole)


@pytest.mark.slow
def test_a_damaged_chunk_or_one_of_other_groups_is_made_anew(whole, tmp_path):
    folder = tmp_path / "study"
    shutil.copytree(whole.folder, folder)
    (folder / "summary.json").unlink()
    first, second, *_ = chunks(folder)
    first.write_bytes(first.read_bytes()[:200])
    effects = whole.effects["actual"]
    effects.save(second)
    said = []
    report = natural.run(QUESTION, folder, say=said.append)
    assert report.resumed == 16
    assert any(s.startswith(f"computing {first.name} again: ") for s in said)
    assert f"computing {second.name} again: it holds 6 groups, not 1" in said
    assert_the_same(report, whole)


@pytest.mark.slow
def test_the_command_says_that_it_goes_on_and_does(whole, tmp_path, monkeypatch, capsys):
    command = [*CREDIT, str(tmp_path / "study"), "--memory", str(MEMORY / 2**30)]
    monkeypatch.setattr(Bars, "update", lambda self, *given, after=After(4): after(*given))
    assert cli.main(command) == 130
    assert "goes on where it was with the same command" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.setattr(datasets, "load", small)
    assert cli.main(command) == 0
    said = capsys.readouterr().err
    assert "resumed: 5 finished chunks" in said
    assert "credit.parquet" in said
    assert "plan.json" not in said  # which is for the study, not for a reader
    assert_the_same(natural.read(tmp_path / "study"), whole)


# ---- whose it is ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_folder_of_the_other_kind_is_refused(whole, tmp_path):
    with pytest.raises(ValueError, match="holds another study"):
        removal.run(removal.Configuration("wine"), whole.folder)
    with pytest.raises(ValueError, match=r"holds another study .*'null': 20"):
        natural.run(dataclasses.replace(QUESTION, null=30), whole.folder)


@pytest.mark.slow
def test_both_commands_list_both_kinds(whole, own, tmp_path, monkeypatch, capsys):
    shutil.copytree(whole.folder, tmp_path / "natural")
    unfinished(own[1], tmp_path / "removal")
    monkeypatch.chdir(tmp_path)
    for command in ("study", "credit"):
        assert cli.main([command, "--list"]) == 0
        first, second = capsys.readouterr().out.splitlines()
        assert first.startswith("natural ")
        assert first.endswith("by worker, l2/n 0.01, 20 random groups a group: finished")
        assert second.endswith("3 groups a family, l2/n 0.01, seed 0: 2 of 3 chunks")
    assert len(removal.found()) == len(natural.found()) == 1
    assert cli.main(["credit"]) == 2
    assert "which data set?" in capsys.readouterr().err


def old(whole, folder):
    """The folder as it was left before studies of natural groups could go on."""
    folder.mkdir(parents=True)
    for path in whole.folder.iterdir():
        if path.match("effects_*.npz") or path.name in ("credit.parquet", "summary.json"):
            shutil.copy(path, folder)
    return folder


@pytest.mark.slow
def test_a_finished_folder_of_the_old_format_is_read_listed_and_left_alone(whole, tmp_path):
    folder = old(whole, tmp_path / "old")
    before = sorted(folder.iterdir())
    assert [path.name for path in before] == [
        "credit.parquet", "effects_Newton.npz", "effects_actual.npz", "effects_influence.npz",
        "summary.json",
    ]  # fmt: skip
    assert_the_same(natural.read(folder), whole)
    said = []
    assert_the_same(natural.run(QUESTION, folder, say=said.append), whole)
    assert said == [f"{folder} is finished; nothing to compute"]
    with pytest.raises(ValueError, match=r"holds another study .*'by': 'worker'"):
        natural.run(natural.Question("crowd"), folder)
    (row,) = natural.found(tmp_path)
    assert (row["configuration"], row["state"]) == (QUESTION, "finished")
    assert removal.found(tmp_path) == []
    assert sorted(folder.iterdir()) == before
    for path in folder.glob("effects_*.npz"):
        path.unlink()
    with pytest.raises(ValueError, match="has a summary, but no effects"):
        natural.read(folder)


# ---- methods of one's own ------------------------------------------------------------------------


@pytest.mark.slow
def test_ones_own_method_goes_through_a_study_and_is_read_without_its_code(own, tmp_path):
    given, done = own
    assert list(done.effects) == ["influence", "gradient step", "actual"]
    stored = json.loads((done.folder / "configuration.json").read_text())
    assert stored["methods"] == ["influence", "Step(rate=0.001)", "actual"]
    assert [path.name for path in chunks(done.folder)][1] == "gradient-step-00000.npz"
    again = removal.read(done.folder)
    mine = again.effects["gradient step"]
    np.testing.assert_array_equal(mine.value, done.effects["gradient step"].value)
    assert again.comparisons["gradient step"].spearman.shape == (13,)
    data = small("crowd")
    fit = lo.fit(lo.softmax(data.x, data.y, l2=done.summary["l2"]))
    direct = lo.effects(fit, mine.groups, lo.measures.self_loss(), Step(1e-3))
    np.testing.assert_allclose(mine.value[:, -1], direct.value[:, 0], rtol=1e-9)
    folder = unfinished(done, tmp_path / "study")
    (row,) = removal.found(tmp_path)
    assert row["configuration"] == given  # though nothing of Step was imported
    assert row["configuration"].methods[1] == Recorded("Step(rate=0.001)", "gradient step")
    with pytest.raises(ValueError, match=r"the code of Step\(rate=0\.001\) is not here"):
        removal.run(row["configuration"], folder)
    assert removal.run(given, folder).resumed == 2


@pytest.mark.slow
def test_ones_own_method_goes_through_credit_and_is_read_without_its_code(tmp_path):
    given = dataclasses.replace(QUESTION, methods=(Step(1e-3), "changed", "actual"))
    report = natural.run(given, tmp_path / "study", memory=MEMORY)
    names = ["gradient step", "influence at changed theta", "actual"]
    assert list(report.effects) == names
    assert {path.name for path in (tmp_path / "study").glob("effects_*")} == {
        "effects_gradient-step.npz",
        "effects_influence-at-changed-theta.npz",
        "effects_actual.npz",
    }
    assert {row["method"] for row in report.summary["comparison"]} == set(names[:2])
    assert_the_same(natural.read(tmp_path / "study"), report)
    (row,) = natural.found(tmp_path)
    assert row["configuration"] == given
    assert natural.run(row["configuration"], tmp_path / "study").summary == report.summary


def test_a_word_and_the_method_that_it_stands_for_are_one():
    words = removal.Configuration("wine", methods=("changed", "newton"))
    values = removal.Configuration("wine", methods=(lo.Influence(at_changed=True), lo.Newton()))
    assert values == words
    assert values.methods == ("changed", "newton", "actual")
    assert values.folder() == words.folder()
    other = removal.Configuration("wine", methods=("changed", lo.Retrain(1e-10)))
    assert other.methods == ("changed", lo.Retrain(1e-10))  # which is how it is retrained
    assert other.folder() != removal.Configuration("wine", methods=("changed",)).folder()


@dataclasses.dataclass(frozen=True)
class Namesake(Step):
    @property
    def name(self) -> str:
        return "newton"


class Nameless(Step):
    __repr__ = object.__repr__


@dataclasses.dataclass(frozen=True)
class Pretender(Step):
    @property
    def name(self) -> str:
        return "actual"


@pytest.mark.parametrize(
    ("methods", "sentence"),
    [
        (("shapley",), "unknown method 'shapley'; known: influence, changed, newton, actual"),
        (("newton", Namesake()), r"newton and Namesake\(rate=0\.1\) are both called 'newton'"),
        ((lo.Influence(), lo.Influence(lo.solvers.CG())), "are both called 'influence'"),
        ((Nameless(),), "make it a frozen dataclass"),
        ((Pretender(),), "is called 'actual', which is the name of retraining"),
    ],
)
@pytest.mark.parametrize("kind", [removal.Configuration, natural.Question])
def test_methods_that_would_be_mixed_up_are_refused(kind, methods, sentence):
    with pytest.raises(ValueError, match=sentence):
        kind("crowd", methods=methods)


# ---- the cache -----------------------------------------------------------------------------------


def test_the_cache_is_the_systems_unless_it_is_chosen(tmp_path, monkeypatch):
    monkeypatch.delenv("LEAVEOUT_CACHE", raising=False)
    assert cache() == Path(platformdirs.user_cache_dir("leaveout"))
    if sys.platform == "linux":
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert cache() == tmp_path / "leaveout"
    monkeypatch.setenv("LEAVEOUT_CACHE", str(tmp_path / "mine"))
    assert cache() == tmp_path / "mine"


def test_the_clock_counts_from_where_waiting_began(tmp_path):
    clock = Clock(tmp_path, time.perf_counter() - 5.0)
    clock.lap("fit")
    first = clock.total()
    assert 5.0 <= first["start"] < 6.0
    assert first["total"] == first["start"] + first["fit"]
    again = Clock(tmp_path, time.perf_counter() - 2.0)  # another process goes on
    assert 7.0 <= again.total()["start"] < 8.0
    assert "start" not in Clock(tmp_path / "none").total()
    assert begun() < time.perf_counter()


def test_what_groups_took_is_told_part_by_part():
    seconds = {"start": 1.26, "fit": 3.0, "total": 4.26}
    assert took(1_700, seconds) == "1,700 groups in 4 s (start 1.3, fit 3.0)"
    assert took(12, 7.3) == "12 groups in 7 s"  # as an older folder says


def test_studies_of_every_kind_are_listed_as_what_they_are(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for kind in (STUDY, QUESTION, valued.Worth("heart", by="hospital")):
        claim(Path(kind.folder()), kind)
    assert cli.main(["study", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert sum("by hospital, Shapley" in line and "begun" in line for line in lines) == 1
