"""Figures of the theory: drawn from studies, and true where they claim to be."""

import numpy as np
import pytest

import leaveout as lo
from leaveout.studies.koh2019 import cones as theory
from leaveout.studies.koh2019 import figures as paper
from leaveout.studies.koh2019 import published
from leaveout.studies.removal import Configuration


@pytest.mark.slow
def test_figures_are_drawn_from_studies(tmp_path, monkeypatch):
    monkeypatch.setattr(published, "DATA", {"wine": "Wine"})
    levels = {"1": (1e-2,), "C.2": (1e-4, 1e-2)}

    def configurations(number, names):
        return [
            Configuration(name, 3, l2_over_n=level) for name in names for level in levels[number]
        ]

    monkeypatch.setattr(paper, "configurations", configurations)
    for name in theory.FIGURES:
        for path in theory.figure(name, ["wine"], studies=tmp_path, out=tmp_path / "out"):
            assert path.stat().st_size > 5_000


@pytest.mark.slow
def test_newton_lies_in_the_drawn_cone():
    data = lo.datasets.wine()
    fit = lo.fit(lo.softmax(data.x, data.y, l2=1.0))
    groups = lo.Groups.from_labels(np.arange(data.n) % 9)
    parts, cone = (
        lo.bounds.decompose(fit, groups, lo.measures.self_loss()),
        lo.bounds.cone(fit, groups),
    )
    ratio = (parts.newton - parts.rest)[:, 0] / parts.influence[:, 0]
    assert (ratio >= cone.lower - 1e-9).all()
    assert (ratio <= cone.upper + 1e-9).all()
