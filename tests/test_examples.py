"""The scripts of `docs/examples` run, and find what they are about."""

from pathlib import Path

import numpy as np
import pytest

import leaveout as lo

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_a_method_of_your_own_is_compared_with_all_of_ours(tmp_path, capsys):
    from docs.examples import own_method

    found = own_method.main(["--groups", "3", "--out", str(tmp_path)])
    said = capsys.readouterr().out
    assert (tmp_path / "own_method.png").stat().st_size > 10_000
    assert all(f"{name} " in said for name in found if name != "actual")
    actual = found.pop("actual")
    errors = {name: np.abs(e.value - actual.value).mean() for name, e in found.items()}
    assert min(errors, key=errors.__getitem__) == "Newton-Chebyshev"
    assert errors["diagonal Newton"] > errors["Newton"]
    assert lo.lds(found["Newton"], actual).value > 0.9


@pytest.mark.slow
def test_every_figure_of_the_gallery_is_drawn(tmp_path):
    from docs.examples import gallery

    gallery.main(tmp_path)
    page = (ROOT / "docs" / "gallery" / "index.md").read_text(encoding="utf-8")
    for draw in gallery.FIGURES:
        assert (tmp_path / f"{draw.__name__}.png").stat().st_size > 5_000
        assert (ROOT / "docs" / "gallery" / f"{draw.__name__}.png").exists()
        assert f"({draw.__name__}.png)" in page
        assert f":pyobject: {draw.__name__}\n" in page


@pytest.mark.slow
def test_odds_ratios_hang_on_the_hospital_that_treats_the_sickest(tmp_path, capsys):
    from docs.examples import hospital

    odds = hospital.main(["--out", str(tmp_path)])
    change = np.abs(np.log(odds.without[:, 0]) - np.log(odds.estimate[0]))
    assert odds.groups.names[change.argmax()] == "H"
    assert odds.low[0] < odds.estimate[0] < odds.high[0]
    assert "without H" in capsys.readouterr().out


@pytest.mark.slow
def test_a_pipeline_ends_in_a_report(tmp_path):
    from docs.examples import pipeline

    text = pipeline.main(["--out", str(tmp_path)]).read_text(encoding="utf-8")
    assert "coast" in text
    assert "Which regions is the model made of?" in text
