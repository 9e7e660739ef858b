"""What the cells of `criteria` say: intervals, differences within seeds, a plot and a table.

    python benchmarks/criteria_report.py [OUT]

Seeds differ in their teacher far more than criteria do within a seed. So beside every mean stand the
differences to the cell's best criterion taken seed by seed, whose intervals are much narrower. The best of a
dozen is partly the luckiest, which makes every other look a little worse than it is.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from targets import environment

DOCUMENT = Path("docs/discriminant.md")
BEGIN, END = "<!-- criteria.json: begin -->", "<!-- criteria.json: end -->"
# Two-sided 95 % quantile of Student's t, by number of seeds.
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
PHASES = {"repaired": "repaired, not trained", "trained": "after the short training"}
# Okabe & Ito's colours, told apart by colour-blind readers too; the other criteria are drawn in grey.
COLOURS = {
    "discriminant-reconstruction": "#d55e00",
    "reconstruction": "#0072b2",
    "taylor": "#009e73",
    "di-greedy": "#cc79a7",
    "l1": "#e69f00",
    "random": "#000000",
}

# (task, share, criterion) → seed → result
Cells = dict[tuple[int, float, str], dict[int, dict[str, Any]]]


def read(lines: Path) -> list[dict[str, Any]]:
    """Cells that are done."""
    if not lines.is_file():
        return []
    return [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]


def interval(values: Sequence[float]) -> dict[str, float]:
    """Mean and half of Student's 95 % interval; 0 for a single value."""
    seeds = len(values)
    spread = STUDENT[seeds] * statistics.stdev(values) / math.sqrt(seeds) if seeds > 1 else 0.0
    return {"mean": statistics.fmean(values), "half_width": spread}


def compare(cells: Cells, phase: str) -> list[dict[str, Any]]:
    """Every cell's interval, and how far it is behind the best of its task and share, seed by seed.

    `within`: its mean lies in the best one's interval. `tied`: the interval of its differences to the best
    one holds zero.
    """
    rows = []
    for task, share in sorted({key[:2] for key in cells}, reverse=True):
        here = {name: found for (t, s, name), found in cells.items() if (t, s) == (task, share)}
        seeds = max((sorted(found) for found in here.values()), key=len)
        accuracy = {
            name: [found[seed][phase]["accuracy"] for seed in seeds]
            for name, found in here.items()
            if len(found) == len(seeds)  # others are not done yet
        }
        best = max(accuracy, key=lambda name: statistics.fmean(accuracy[name]))
        top = interval(accuracy[best])
        for name, values in accuracy.items():
            own = interval(values)
            whole = [here[name][seed]["whole"]["accuracy"] for seed in seeds]
            behind = interval([b - a for a, b in zip(values, accuracy[best], strict=True)])
            rows.append(
                {
                    "phase": phase,
                    "task": task,
                    "share": share,
                    "criterion": name,
                    "seeds": seeds,
                    "each": values,
                    "accuracy": own,
                    "loss": interval([here[name][seed][phase]["loss"] for seed in seeds]),
                    "whole": statistics.fmean(whole),
                    "lost": interval([b - a for a, b in zip(values, whole, strict=True)]),
                    "best": name == best,
                    "behind": behind,
                    "within": own["mean"] >= top["mean"] - top["half_width"],
                    "tied": behind["mean"] <= behind["half_width"],
                }
            )
    return rows


def standings(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Over all cells of a phase, how every criterion does; the least behind first.

    `behind_first`: over the cells it shares with the first, the mean difference within each seed, and the
    interval of that over the seeds.
    """
    mine: dict[str, dict[tuple[int, float], Mapping[str, Any]]] = defaultdict(dict)
    for row in rows:
        mine[row["criterion"]][row["task"], row["share"]] = row
    found: list[dict[str, Any]] = [
        {
            "phase": rows[0]["phase"],
            "criterion": name,
            "cells": len(own),
            "best": sum(row["best"] for row in own.values()),
            "within": sum(row["within"] for row in own.values()),
            "tied": sum(row["tied"] for row in own.values()),
            "behind": statistics.fmean(row["behind"]["mean"] for row in own.values()),
            "worst": max(row["behind"]["mean"] for row in own.values()),
        }
        for name, own in mine.items()
    ]
    found.sort(key=lambda one: float(one["behind"]))
    first = mine[found[0]["criterion"]]
    for one in found:
        own = mine[one["criterion"]]
        pairs = [(row, own[cell]) for cell, row in first.items() if cell in own]
        one["behind_first"] = interval(_mean_differences(pairs))
    return found


def _mean_differences(pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> list[float]:
    """By seed, how much more accurate the first of each pair is, averaged over the pairs."""
    seeds = sorted(set.intersection(*({*row["seeds"]} for pair in pairs for row in pair)))
    return [
        statistics.fmean(
            a["each"][a["seeds"].index(seed)] - b["each"][b["seeds"].index(seed)] for a, b in pairs
        )
        for seed in seeds
    ]


def table(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    """Mean accuracies in Markdown: the best bold, those tied with it by differences within seeds starred."""
    lines = ["| classes | MACs | whole | " + " | ".join(names) + " |", "|" + "---|" * (len(names) + 3)]
    for task, share in sorted({(row["task"], row["share"]) for row in rows}, reverse=True):
        here = {row["criterion"]: row for row in rows if (row["task"], row["share"]) == (task, share)}
        marks = [_mark(here[name]) if name in here else "–" for name in names]
        whole = next(iter(here.values()))["whole"]
        lines.append(f"| {task} | {share:.4g} | {whole:.1%} | " + " | ".join(marks) + " |")
    return [line.replace("%", "") for line in lines]


def _mark(row: Mapping[str, Any]) -> str:
    text = f"{100 * row['accuracy']['mean']:.1f}"
    return f"**{text}**" if row["best"] else f"{text}\\*" if row["tied"] else text


def _standing_table(ranks: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [
        "| criterion | best | in the best one's interval | tied within seeds | points behind: mean | most "
        "| behind the first, seed by seed |",
        "|---|---|---|---|---|---|---|",
    ]
    return lines + [
        f"| `{one['criterion']}` | {one['best']} | {one['within']} | {one['tied']} of {one['cells']} "
        f"| {100 * one['behind']:.2f} | {100 * one['worst']:.1f} | {100 * one['behind_first']['mean']:.2f} "
        f"± {100 * one['behind_first']['half_width']:.2f} |"
        for one in ranks
    ]


def markdown(document: Mapping[str, Any]) -> str:
    """The part of the page on criteria that follows from the results."""
    parts = []
    for phase, title in PHASES.items():
        rows = [row for row in document["cells"] if row["phase"] == phase]
        ranks = [one for one in document["standings"] if one["phase"] == phase]
        names = [one["criterion"] for one in ranks]
        parts += [f"**{title.capitalize()}**", "", *_standing_table(ranks), "", *table(rows, names), ""]
    return "\n".join(parts)


def plot(rows: Sequence[Mapping[str, Any]], to: Path) -> None:
    """A panel a task and phase: accuracy against the whole network's, by share of the operations kept.

    Bars are 95 % intervals over the seeds; a panel is cut off where only they go on.
    """
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "criteria"
    from matplotlib import pyplot

    tasks = sorted({row["task"] for row in rows}, reverse=True)
    figure, axes = pyplot.subplots(
        len(PHASES), len(tasks), figsize=(3.4 * len(tasks), 6.4), sharex=True, squeeze=False
    )
    for line, (phase, title) in zip(axes, PHASES.items(), strict=True):
        for panel, task in zip(line, tasks, strict=True):
            _panel(panel, [row for row in rows if (row["phase"], row["task"]) == (phase, task)])
            panel.set_title(f"{task} classes, {title}", fontsize=9)
    for panel in axes[-1]:
        panel.set_xlabel("share of the MACs kept")
    for line in axes:
        line[0].set_ylabel("points against the network not cut")
    figure.legend(
        *axes[0][0].get_legend_handles_labels(), loc="lower center", ncols=7, frameon=False, fontsize=9
    )
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    figure.savefig(to, metadata={"Date": None})


def _panel(panel: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    shares = sorted({row["share"] for row in rows})
    names = sorted({row["criterion"] for row in rows}, key=lambda name: (name in COLOURS, name))
    for index, name in enumerate(names):
        mine = sorted((row for row in rows if row["criterion"] == name), key=lambda row: row["share"])
        known = name in COLOURS
        panel.errorbar(
            # Moved aside a little, so that the bars of one share can be told apart.
            [row["share"] * 1.02 ** (index - len(names) / 2) for row in mine],
            [-100 * row["lost"]["mean"] for row in mine],
            [100 * row["lost"]["half_width"] for row in mine] if known else None,
            color=COLOURS.get(name, "#bbbbbb"),
            linewidth=1.4 if known else 0.8,
            elinewidth=0.7,
            marker="o" if known else None,
            markersize=3,
            label=name if known else "others" if index == 0 else None,
        )
    means = [-100 * row["lost"]["mean"] for row in rows]
    panel.set_ylim(min(means) - 1.5, max(means) + 1.5)
    panel.set_xscale("log", base=2)
    panel.set_xticks(shares, [f"{100 * share:g} %" for share in shares])
    panel.minorticks_off()
    panel.grid(alpha=0.3)


def report(out: Path, settings: Mapping[str, Any]) -> None:
    """Write OUT.json and OUT.svg, and put the table into the page where it has a place for it."""
    cells: Cells = defaultdict(dict)
    for cell in read(out.with_suffix(".jsonl")):
        cells[cell["task"], cell["share"], cell["criterion"]][cell["seed"]] = cell
    by_phase = [compare(cells, phase) for phase in PHASES]
    rows = [row for found in by_phase for row in found]
    document = {
        "settings": settings,
        "seeds": sorted({seed for found in cells.values() for seed in found}),
        "machine": environment.facts(),
        "versions": {name: version(name) for name in ("torch", "torch-pruning", "numpy")},
        "standings": [one for found in by_phase for one in standings(found)],
        "cells": rows,
    }
    out.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    plot(rows, out.with_suffix(".svg"))
    text = DOCUMENT.read_text(encoding="utf-8")
    if out == Path("benchmarks/criteria") and BEGIN in text:
        before, rest = text.split(BEGIN)
        DOCUMENT.write_text(
            f"{before}{BEGIN}\n\n{markdown(document)}\n{END}{rest.split(END)[1]}", encoding="utf-8"
        )


def main() -> None:
    """Write the report of results there are, with the settings it had."""
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "benchmarks/criteria")
    report(out, json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))["settings"])


if __name__ == "__main__":
    main()
