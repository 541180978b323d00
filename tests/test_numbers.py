"""Numbers that texts state are those of the files that they name, rounded."""

import json
import re
from pathlib import Path

import pytest

from leaveout.studies.networks.table import Score, markdown, overview

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "networks.md").read_text("utf-8")
NAMES = {
    "Diabetes": "diabetes", "CDR, rebuilt": "cdr", "fish-dog": "fishdog", "Enron": "enron",
    "MNIST": "mnist", "of MultiNLI's size, K=3": "crowd",
}  # fmt: skip


def recorded(name: str) -> list[dict]:
    """The rows of a benchmark."""
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())["rows"]


def tables(page: str) -> list[list[dict[str, str]]]:
    """The tables of a page, each a list of rows by the names of their columns."""
    found = []
    for block in re.findall(r"(?:^\|.*\|\n)+", (ROOT / page).read_text("utf-8"), flags=re.M):
        head, _, *rows = ([cell.strip() for cell in line.strip("|\n").split("|")]
                          for line in block.splitlines())  # fmt: skip
        found.append([dict(zip(head, row, strict=True)) for row in rows])
    return found


def states(cell: str, value: float) -> bool:
    """Whether a cell states a value, rounded to the digits that it shows."""
    number = cell.split(" ")[0].replace(",", "")
    whole, _, decimals = number.partition(".")
    zeros = 0 if decimals else len(whole) - len(whole.rstrip("0"))
    unit = 10.0 ** (zeros - len(decimals))
    return abs(float(number) - value) <= unit / 2 * (1 + 1e-9)


def least(rows: list[dict], *begins: str) -> float:
    """Milliseconds a group of the fastest rival that is accurate, in coordinates of its own."""
    return min(
        row["ms_a_group"]
        for row in rows
        if row["method"].startswith(begins) and row["accurate"] and "whitened" not in row["method"]
    )


def test_a_cell_states_what_it_rounds():
    assert states("1.3", 1.327)
    assert states("1,640", 1644.9)
    assert states("36 (newton-cholesky)", 36.23)
    assert not states("1.3", 1.36)
    assert not states("57", 57.6)


@pytest.mark.parametrize(
    ("page", "ours", "newton"),
    [("README.md", "`lo.Retrain`", "`lo.Newton`"),
     ("docs/explanation/speed.md", "retraining", "Newton")],
)  # fmt: skip
def test_the_table_of_speed_is_that_of_the_benchmark(page, ours, newton):
    stated = [row for table in tables(page) for row in table if "NumPy and LAPACK" in row]
    assert len(stated) == 4
    for row in stated:
        name = NAMES[row["data"]]
        rows = [each for each in recorded("speed_methods") if each["data"] == name]
        of = {each["method"]: each["ms_a_group"] for each in rows}
        retraining = of["retrain at 1e-8" if name == "enron" else "retrain at 1e-6"]
        assert states(row[ours], retraining), row
        assert states(row[newton], of["Newton"]), row
        assert states(row["NumPy and LAPACK"], of["NumPy and LAPACK, Newton, 2 processes"]), row
        assert states(row["scikit-learn's best"], least(rows, "scikit-learn")), row
        (other,) = (cell for head, cell in row.items() if head.endswith("best other library"))
        assert states(other, least(rows, "SciPy", "optimistix", "optax")), row


def test_the_table_of_a_gpu_is_that_of_the_benchmark():
    (stated,) = (table for table in tables("docs/explanation/speed.md") if "groups" in table[0])
    for row in stated:
        name = NAMES[row["data"]]
        rows = [each for each in recorded("gpu/speed_large") if each["data"] == name]
        seconds = {each["method"]: each["seconds"] for each in rows}
        for head, method in (("influence", "influence"), ("Newton", "Newton"),
                             ("retraining", "retrain")):  # fmt: skip
            assert states(row[head], seconds[method]), (row, head)
        counts = [each["groups"] for each in rows if "groups" in each]
        assert states(row["groups"], counts[0]), row


def test_the_counts_of_reliability_are_those_of_the_benchmark():
    *_, found, _ = recorded("reliability")
    million = f"{found['compared'] / 1e6:.1f} million comparisons"
    assert million in " ".join((ROOT / "README.md").read_text("utf-8").split())
    page = " ".join((ROOT / "docs/explanation/testing.md").read_text("utf-8").split())
    assert million in page
    assert f"{found['problems']:,} problems" in page
    assert f"{found['flagged']:,} answers flagged, {found['refused']} fits refused" in page
    assert f"**{found['wrong']} wrong in silence**" in page


def study(name: str) -> tuple[list[Score], dict]:
    """The scores of a study of a network, and what its methods cost."""
    found = json.loads((ROOT / "docs" / "networks" / f"{name}.json").read_text())
    return [Score.of_json(row) for row in found["scores"]], found["costs"]


@pytest.mark.parametrize("name", ["digits_tanh", "concrete", "mnist_small"])
def test_the_table_of_a_network_is_that_of_its_study(name):
    found, costs = study(name)
    assert markdown(found, costs, found[0].measure) in PAGE


@pytest.mark.parametrize(
    "names", [["digits_relu", "digits_adam"], ["parkinsons"], ["fashion_noisy"]]
)
def test_the_short_table_of_networks_is_that_of_their_studies(names):
    titles = {
        "digits_relu": "relu", "digits_adam": "Adam", "parkinsons": "Parkinson's",
        "fashion_noisy": "Fashion-MNIST, noisy",
    }  # fmt: skip
    assert overview([(titles[name], study(name)[0]) for name in names]) in PAGE


def test_the_table_of_dampings_is_that_of_the_benchmark():
    rows = recorded("accuracy_damping")
    stated = [row for table in tables("docs/networks.md") for row in table if "1e-2" in row
              and "x" in row["1e-2"] and row["method"] in ("influence", "Newton")]  # fmt: skip
    checked = 0
    for setup, row in zip(["tanh"] * 6 + ["adam"] * 6, stated[-12:], strict=True):
        for head, cell in row.items():
            if head in ("family", "method"):
                continue
            (found,) = (
                each for each in rows
                if (each["setup"], each["family"], each["method"])
                == (setup, row["family"], row["method"])
                and abs(each["damping"] / float(head) - 1) < 0.01
            )  # fmt: skip
            for number, what in zip(cell.split(" x "), ("spearman", "slope"), strict=True):
                assert abs(float(number) - found[what]) <= 0.005 * (1 + 1e-9), (row, head)
                checked += 1
    assert checked == 144


def test_the_intervals_of_the_page_of_certificates_are_those_of_the_benchmarks():
    first, second = tables("docs/certificates.md")[:2]
    for stated, row in zip(first, recorded("accuracy_adversarial"), strict=True):
        for head, key in (
            ("intervals", "checks"),
            ("finite", "finite"),
            ("violated", "violations"),
        ):
            assert states(stated[head], row[key]), (stated, key)
    *cases, whole = recorded("accuracy_proofs")
    page = " ".join((ROOT / "docs/certificates.md").read_text("utf-8").split())
    assert f"In all {whole['checks']:,} intervals of {whole['problems']:,} problems" in page
    assert f"{whole['finite']:,} of them finite; **{whole['violations']} violated**" in page
    assert f"{whole['without_truth']:,} have nothing to be compared with" in page
    assert sum(int(row["in 50 digits"].replace(",", "")) for row in second) == sum(
        case["checks"] for case in cases if case["case"].endswith("50 digits")
    )
    assert not any(case["which"] for case in cases)
