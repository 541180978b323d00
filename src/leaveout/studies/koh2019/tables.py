"""The paper's tables, made again: what the finished studies found, its numbers beside them.

Source: Koh, Ang, Teo and Liang (2019), table 1; the correlations printed in the notebooks released
with it.
"""

import os
from pathlib import Path
from typing import Any

from leaveout.methods import BY_WORD
from leaveout.runtime.files import write_json, write_text
from leaveout.studies import removal
from leaveout.studies.koh2019 import published
from leaveout.studies.koh2019.figures import configurations, rows_of
from leaveout.studies.removal import Study

__all__ = ["tables"]


def tables(studies: str | os.PathLike = ".", *, out: str | os.PathLike = ".") -> list[Path]:
    """Table 1, all correlations and the cost of each study, beside the paper's, from what is there.

    Args:
        studies: folder in which the finished studies are; of several of a data set the largest is
            taken, and those that are missing are left out.
        out: folder for paper.json and paper.md.

    Returns:
        what was written.

    Raises:
        FileNotFoundError: if no study of the paper's is finished.
    """
    done: dict[str, Study] = {}
    known = sorted(removal.found(studies), key=lambda row: -row["configuration"].per_family)
    for name in published.DATA:
        for row in known:
            mine = row["configuration"]
            if row["state"] == "finished" and name not in done and mine.dataset == name:
                (theirs,) = configurations("1", [name], mine.per_family)
                if mine == theirs:
                    done[name] = removal.read(row["folder"])
    if not done:
        raise FileNotFoundError(
            f"no finished study of {', '.join(published.DATA)} in {studies}; "
            "run `leaveout figure 1` first"
        )
    first = [_table_1_row(name, each) for name, each in done.items()]
    ranks = [row for each in done.values() for row in rows_of(each)]
    costs = [_cost_row(name, each) for name, each in done.items()]
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    numbers, text_path = out / "paper.json", out / "paper.md"
    text = {"table_1": first, "spearman": ranks, "cost": costs}
    write_json(numbers, text, indent=1)
    parts = (_first_table(first), _rank_table(ranks), _cost_table(costs))
    write_text(text_path, "\n\n".join(parts) + "\n")
    return [numbers, text_path]


def _table_1_row(name: str, done: Study) -> dict[str, Any]:
    data, choice = done.summary["data"], done.summary["cross_validation"]
    penalty, accuracy = published.TABLE_1.get(name, (None, None))
    return {
        "data": name,
        "n": data["n"],
        "d": data["d"],
        "classes": len(data["classes"]),
        "groups": done.summary["groups"]["made"],
        "l2_over_n": done.summary["l2_over_n"],
        "chosen": choice is not None,
        "at_edge": None if choice is None else choice["at_edge"],
        "published_l2_over_n": penalty,
        "test_accuracy": done.summary["test_accuracy"],
        "published_test_accuracy": accuracy,
    }


def _cost_row(name: str, done: Study) -> dict[str, Any]:
    summary = done.summary
    return {
        "data": name,
        "groups": summary["groups"]["made"],
        "device": summary["device"],
        "peak_memory_gib": summary["peak_memory_gib"],
        "not_converged": summary["retrained_not_converged"],
        "evaluations": summary["retrain_evaluations"],
        "resumed_chunks": summary["resumed_chunks"],
    } | {f"seconds_{stage}": value for stage, value in summary["seconds"].items()}


def _first_table(rows) -> str:
    lines = ["| data | n | d | classes | groups | l2 / n | paper's | test accuracy | paper's |"]
    lines.append("|---|--:|--:|--:|--:|--:|--:|--:|--:|")
    for row in rows:
        edge = " (edge)" if row["at_edge"] else "" if row["chosen"] else " (given)"
        theirs, accuracy = row["published_l2_over_n"], row["published_test_accuracy"]
        lines.append(
            f"| {published.DATA[row['data']]} | {row['n']:,} | {row['d']:,} | {row['classes']} | "
            f"{row['groups']:,} | {row['l2_over_n']:.1e}{edge} | "
            f"{'' if theirs is None else f'{theirs:.1e}'} | {row['test_accuracy']:.1%} | "
            f"{'' if accuracy is None else f'{accuracy:.1%}'} |"
        )
    return "\n".join(lines)


def _rank_table(rows) -> str:
    """A line for each method and measure, a column for each data set; the paper's in brackets."""
    names = list(dict.fromkeys(row["data"] for row in rows))
    lines = ["| prediction of | by | " + " | ".join(published.DATA[name] for name in names) + " |"]
    lines.append("|---|---|" + "--:|" * len(names))
    for measure in published.MEASURES:
        for method in published.PREDICTIONS:
            cells = []
            for name in names:
                row = next(
                    r
                    for r in rows
                    if (r["data"], r["method"], r["measure"]) == (name, method, measure)
                )
                value, theirs = row["spearman"], row["published"]
                text = "undefined" if value is None else f"{value:.4f}"
                if theirs is not None and value is not None:
                    text = f"**{text}**" if abs(value - theirs) > 0.01 else text
                    text += f" ({theirs:.4f})"
                cells.append(text)
            named = published.WORDS.get(measure, measure)
            lines.append(f"| {named} | {BY_WORD[method].name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cost_table(rows) -> str:
    stages = ("l2", "fit", "groups", "influence", "changed", "newton", "actual", "total")
    lines = ["| data | groups | " + " | ".join(f"{s}, s" for s in stages)
             + " | evaluations, median (most) | peak, GiB |"]  # fmt: skip
    lines.append("|---|--:|" + "--:|" * (len(stages) + 2))
    for row in rows:
        seconds = " | ".join(f"{row[f'seconds_{s}']:.0f}" for s in stages)
        spent = row["evaluations"]
        lines.append(
            f"| {published.DATA[row['data']]} | {row['groups']:,} | {seconds} | "
            f"{spent['median']:.0f} ({spent['max']:.0f}) | {row['peak_memory_gib']:.1f} |"
        )
    return "\n".join(lines)
