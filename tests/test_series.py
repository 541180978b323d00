"""A slow-down is seen, and a slow machine is not taken for one."""

import json

import pytest
from benchmarks import series


def run_of(folder, ours, plain, cores: float = 2):
    """The file of a run in which each of our methods takes `ours` ms, scikit-learn `plain`."""
    rows = [{"data": "d", "method": name, "ms_a_group": ours} for name in series.OURS]
    rows += [{"data": "d", "method": "scikit-learn lbfgs at 1", "ms_a_group": plain}]
    loose = {"data": "d", "method": "scikit-learn sag at 1", "ms_a_group": 1e-9, "accurate": False}
    where = {"commit": "", "device": "cpu", "cores": cores, "versions": {"jax": "0"}}
    text = json.dumps({"environment": where, "rows": [*rows, loose]})
    (folder / "speed_methods.json").write_text(text)


@pytest.mark.parametrize(
    ("last", "code"),
    [((1.0, 10.0), 0), ((2.0, 20.0), 0), ((1.2, 10.0), 0), ((1.3, 10.0), 1), ((5.0, 10.0, 8), 0)],
)
def test_a_ratio_that_grew_by_more_than_a_quarter_is_said(tmp_path, last, code, capsys):
    path = tmp_path / "series.jsonl"
    for times in ((1.0, 10.0), (1.1, 10.0), (0.5, 5.0), last):
        run_of(tmp_path, *times)
        found = series.main([str(tmp_path), "--series", str(path)])
    assert found == code
    assert len(path.read_text().splitlines()) == 4
    assert ("slower: d, Newton, 0.130" in capsys.readouterr().out) == bool(code)
