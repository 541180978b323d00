"""Studies of networks: they go on bit for bit, and their table is what its words say."""

import dataclasses
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import leaveout as lo
from leaveout.studies import datasets
from leaveout.studies.cli import main as cli
from leaveout.studies.networks import families, setups, study
from leaveout.studies.networks.table import QUESTIONS, overview, scores, table
from problems import spearman
from test_seeds import G, M, effects, noisy

CROWD = setups.Setup((6,), 0.05, 1e-3, 32, 3, "tanh", methods=("metagradient",))
ASKED = study.Configuration
FAMILIES = {
    "random", "shared feature value", "feature clustering", "gradient clustering",
    "positive tail", "negative tail", "random within class", "half", "single", "worker",
}  # fmt: skip


def small(patch) -> None:
    """A small data set, and a recipe for it."""
    patch.setitem(setups._PUBLISHED, "crowd", CROWD)
    patch.setattr(datasets, "load", crowd)


def crowd(name, load=datasets.load):
    return datasets.crowd(240, 3, workers=6) if name == "crowd" else load(name)


@pytest.fixture(scope="module", autouse=True)
def published():
    with pytest.MonkeyPatch.context() as patch:
        small(patch)
        yield


@pytest.fixture(scope="module")
def whole(published, tmp_path_factory):
    """A study that was never stopped."""
    asked = study.Configuration("crowd", trainings=160, seeds=2)
    return asked, study.run(asked, tmp_path_factory.mktemp("whole") / "study")


def in_json(report):
    return [each.to_json() for each in report.scores]


@pytest.mark.slow
def test_a_study_scores_every_family_of_groups_for_every_question(whole, capsys):
    asked, report = whole
    groups = report.effects["actual"].groups
    assert set(groups.kind) == FAMILIES
    assert len(groups) <= asked.count == 80
    assert (groups.size[groups.kind == "half"] == 112).all()
    assert (groups.kind == "worker").sum() == 6
    assert (groups.size[groups.kind == "single"] == 1).all()
    of = {(s.measure, s.family, s.question) for s in report.scores}
    assert of == {
        (measure, family, question)
        for measure in ("margin", "loss", "query loss")
        for family in FAMILIES
        for question in QUESTIONS
    }
    assert report.costs["actual"] == pytest.approx(len(groups))
    assert {path.name for path in report.folder.iterdir()} >= {
        "effects.parquet", "summary.json", "run.npz", "figure.png", "slopes.png", "groups.npz",
    }  # fmt: skip
    text = table(report.scores, report.costs, "margin")
    assert len(text.splitlines()) == 1 + len(FAMILIES)


@pytest.mark.slow
def test_what_it_computes_are_the_effects_of_the_verb(whole):
    asked, report = whole
    data = setups.whole(crowd("crowd"), CROWD)
    run = lo.load(
        report.folder / "run.npz", objective=setups.objective(data, CROWD),
        recipe=setups.recipe(data, CROWD),
    )  # fmt: skip
    found = report.effects["actual"]
    rows = [0, 20, len(found.groups) - 1]
    again = lo.effects(run, found.groups[rows], study._measures(data, asked.seed), lo.Retrain())
    np.testing.assert_array_equal(again.seeds, found[rows].seeds)
    assert again.notes == found.notes


@pytest.mark.slow
def test_a_finished_study_is_read_and_listed_as_it_was(whole):
    asked, report = whole
    again = study.read(report.folder)
    assert in_json(again) == in_json(report)
    assert again.costs == report.costs
    for name, each in report.effects.items():
        np.testing.assert_array_equal(again.effects[name].seeds, each.seeds)
    (row,) = study.found(report.folder.parent)
    assert row["state"] == "finished"
    assert row["configuration"] == asked
    assert "crowd" in row["configuration"].in_words()


def test_what_cannot_be_a_study_is_refused(capsys, tmp_path):
    with pytest.raises(ValueError, match="at least 60 groups for all families, got 5"):
        study.Configuration("digits", trainings=20, seeds=4)
    with pytest.raises(ValueError, match="no network is published for 'sms'; known: digits"):
        study.Configuration("sms")
    with pytest.raises(ValueError, match="expected a rate > 0"):
        study.Configuration("crowd", rate=-1.0)
    with pytest.raises(ValueError, match="unknown method 'cg'"):
        study.Configuration("crowd", methods=("cg",))
    with pytest.raises(FileNotFoundError, match="run `leaveout networks` first"):
        study.read(tmp_path)
    (tmp_path / "mine.txt").write_text("mine")
    assert cli.main(["networks", "crowd", "--out", str(tmp_path)]) == 2
    assert "is not empty and holds no study" in capsys.readouterr().err


def test_setups_are_what_was_published():
    concrete = setups.named("concrete")
    assert concrete.in_words() == (
        "128-128-128 relu, SGD momentum 0.9, rate 0.03, decay 1e-05, batch 32, 20 epochs"
    )
    assert concrete.steps(896) == 560
    assert setups.named("digits", "adam").rate == 3e-3
    assert setups.named("digits", "relu", 0.5).rate == 0.5
    assert setups.Setup.of_json(dataclasses.asdict(concrete)) == concrete


def test_methods_of_a_study_have_names_of_their_own():
    methods = tuple(word for word in study.WORDS if word.endswith("_last"))
    last = study.Configuration("fashion", methods=methods)
    assert [each.name for each in study.Configuration("fashion").chosen] == [
        "influence", "Newton", "metagradient", "corrected metagradient", "actual",
    ]  # fmt: skip
    assert [each.name for each in last.chosen] == [
        "influence, last layer", "Newton, last layer", "corrected metagradient, last layer",
        "actual",
    ]  # fmt: skip


# ---- the table, on effects whose noise is drawn by hand ------------------------------------------


def of_seeds(value) -> lo.Effects:
    return effects(value.mean(axis=0), value)


def test_scores_tell_three_questions_apart():
    actual = noisy(1.0)
    assert actual.seeds is not None
    run, other, algorithm = scores({"itself": actual}, actual, 5)[:3]
    assert (run.spearman, run.slope, run.sign) == pytest.approx((1.0, 1.0, 1.0))
    # of normal variables: half of one seed is signal, and 8 of 9 parts of the mean of eight
    assert other.spearman == pytest.approx(0.5, abs=0.06)
    assert other.ceiling == pytest.approx(other.spearman)
    assert algorithm.ceiling == pytest.approx((8 / 9) ** 0.5, abs=0.02)
    assert other.slope == pytest.approx(1.0, abs=1e-9)


def test_two_seeds_have_intervals_for_all_questions():
    """Half of the samples of two seeds hold one of them twice, and no pair."""
    seeds = noisy(1.0).seeds
    assert seeds is not None
    actual = of_seeds(seeds[:2])
    for score in scores({"itself": actual}, actual, 20):
        assert np.isfinite([*score.spearman_interval, *score.slope_interval]).all()


def test_scores_are_means_over_columns_and_seeds():
    actual = noisy(1.0)
    assert actual.seeds is not None
    rng = np.random.default_rng(5)
    predicted = of_seeds(actual.seeds + rng.normal(size=actual.seeds.shape))
    assert predicted.seeds is not None
    found = scores({"mine": predicted}, actual, 20)[:3]
    pairs = [
        spearman(predicted.seeds[s][:, 0], actual.seeds[t][:, 0])
        for s in range(8) for t in range(8) if s != t
    ]  # fmt: skip
    assert found[1].spearman == pytest.approx(np.mean(pairs), abs=1e-9)
    assert found[2].spearman == pytest.approx(
        spearman(predicted.value[:, 0], actual.value[:, 0]), abs=1e-9
    )
    for score in found:
        low, high = score.spearman_interval
        assert low < score.spearman < high + 0.05


def test_a_slope_between_seeds_is_free_of_their_noise():
    actual = noisy(3.0)
    truth = of_seeds(np.repeat(0.5 * np.asarray(effects_of_truth())[None], 8, axis=0))
    run, other, _ = scores({"half": truth}, actual, 5)[:3]
    assert run.slope < 0.2
    assert other.slope == pytest.approx(0.5, abs=0.1)


def test_an_overview_has_a_line_a_study_and_a_column_a_method():
    actual = noisy(1.0)
    one, two = (scores({name: actual}, actual, 5) for name in ("influence", "Newton"))
    head, _, first, second = overview([("a, tanh", one), ("a, tanh", two)]).splitlines()
    assert head == "| study | family | groups | influence | Newton | another seed's ceiling |"
    cells = [each.strip() for each in first.strip("| ").split("|")]
    assert cells[3].startswith("1.00 [")
    assert cells[3].endswith("] x 1.00")
    assert cells[4:] == ["", f"{one[1].ceiling:.2f}"[1:]]
    assert second.split("|")[4].strip() == ""


def effects_of_truth():
    return np.random.default_rng(0).normal(size=(G, M))


# ---- going on ------------------------------------------------------------------------------------

_STUCK = """
import sys, time
import jax
jax.config.update("jax_enable_x64", True)
import pytest
import test_networks_study as t
t.small(pytest.MonkeyPatch())
def progress(stage, done, count):
    if stage == "actual" and done > 0:
        print("stuck", flush=True)
        time.sleep(600)
t.study.run(t.ASKED("crowd", trainings=160, seeds=2), sys.argv[1], progress=progress)
"""


@pytest.mark.slow
def test_a_killed_study_goes_on_bit_for_bit(whole, tmp_path):
    asked, report = whole
    folder = tmp_path / "study"
    command = [sys.executable, "-c", _STUCK, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parent) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"stuck\n"
        process.send_signal(signal.SIGKILL)
    (row,) = study.found(tmp_path)
    assert row["state"] == "4 of 12 chunks"
    again = study.run(asked, folder)
    assert again.resumed == 4
    for name, each in report.effects.items():
        np.testing.assert_array_equal(again.effects[name].seeds, each.seeds)
    assert in_json(again) == in_json(report)


@pytest.mark.slow
def test_the_command_prints_both_tables_and_goes_across(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["networks", "crowd", "--trainings", "132", "--seeds", "2", "--setup", "relu"]
    assert cli.main([*command, "--method", "metagradient,newton", "--out", "one"]) == 0
    printed = capsys.readouterr()
    for words in ("effects on margin", "effects on query loss", "smoothness", "Newton"):
        assert words in printed.out
    assert "slopes.png" in printed.err
    assert cli.main(["networks", "--across", "one", "--out", "all"]) == 0
    text = (tmp_path / "all" / "networks.md").read_text()
    assert "### crowd, relu" in text
    assert "| half |" in text
    assert (tmp_path / "all" / "smoothness.png").exists()
    assert cli.main(["networks", "--list"]) == 0
    assert "finished" in capsys.readouterr().out


def test_natural_groups_take_part_whole_where_they_are_few():
    data = dataclasses.replace(
        lo.datasets.wine(), labels={"grower": np.arange(142) % 5}, y=np.linspace(0, 1, 142)
    )
    own = families.natural(data)
    assert own is not None
    assert len(own) == 5
    assert families.share(data, 65) == 5
    with pytest.raises(ValueError, match="at least 60"):
        families.share(data, 64)
    assert families.natural(dataclasses.replace(data, labels={"row": np.arange(142)})) is None
