"""`leaveout discover`: a table and a question in, describable groups and a page out."""

import json

import numpy as np
import pytest

pd = pytest.importorskip("pandas")

from leaveout.studies.cli.main import main  # noqa: E402


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A table in which young men with a label of 1 drive a gap between two towns."""
    rng = np.random.default_rng(0)
    n = 400
    table = pd.DataFrame(
        {
            "score": rng.normal(size=n),
            "town": rng.choice(["east", "west"], n),
            "sex": rng.choice(["f", "m"], n),
        }
    )
    east = (table["town"] == "east").astype(float)
    table["east"] = east
    table["hired"] = np.where(table["score"] + 2 * east + rng.normal(size=n) > 1, "yes", "no")
    path = tmp_path_factory.mktemp("discover") / "hired.csv"
    table.to_csv(path, index=False)
    return path


def test_a_gap_in_a_table_of_ones_own_is_explained_by_groups(written, capsys, monkeypatch):
    monkeypatch.chdir(written.parent)
    asked = ["discover", "hired.csv", "--target", "hired", "--by", "sex,town", "--between", "town",
             "--features", "score,east", "--depth", "2", "--show", "2", "--null", "20",
             "--json", "--out", "found"]  # fmt: skip
    assert main(asked) == 0
    said = capsys.readouterr()
    rows = json.loads(said.out)
    assert len(rows) == 2
    assert all("label" in row["group"] or "town" in row["group"] for row in rows)
    assert all(0 < row["p"] <= 1 and row["status"] == "converged" for row in rows)
    page = (written.parent / "found" / "report.html").read_text()
    assert "best of as many" in page
    assert (written.parent / "found" / "discovered.parquet").is_file()


@pytest.mark.slow
def test_all_columns_but_the_target_describe_groups_where_none_is_named(
    written, capsys, monkeypatch, recwarn
):
    monkeypatch.chdir(written.parent)
    asked = ["discover", "hired.csv", "--target", "hired", "--measure", "gap", "--between", "town",
             "--depth", "2", "--show", "8", "--null", "0", "--json", "--out", "all"]  # fmt: skip
    assert main(asked) == 0
    said = " and ".join(row["group"] for row in json.loads(capsys.readouterr().out))
    described = {part.split()[0] for part in said.split(" and ")}
    assert {"score", "label"} <= described <= {"score", "town", "sex", "east", "label"}
    assert not [one for one in recwarn if "is a feature" in str(one.message)]


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--between", "shoe"], "shoe"),
        (["--by", "sex", "--between", "shoe"], "shoe"),
    ],
)
def test_what_describes_no_group_is_said_in_a_sentence(
    written, capsys, monkeypatch, more, sentence
):
    monkeypatch.chdir(written.parent)
    assert main(["discover", "hired.csv", "--target", "hired", *more]) == 2
    assert sentence in capsys.readouterr().err
