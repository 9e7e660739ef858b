"""`edgewright compare`: a build against a baseline, for people, for CI and for pull requests."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from pipeline.comparison import ASPECTS, Aspect, Comparison, Ratio, compare
from pipeline.config import load_settings
from pipeline.config.engines import CompareSection
from pipeline.disk import explained
from pipeline.quiet import machine_alone
from pipeline.record import Record
from pipeline.report import load
from pipeline.report.page import markdown
from pipeline.verbs.console import Waiting
from pipeline.verbs.standalone import engine_inputs
from targets.apart import Apart
from targets.measure import MeasureSettings, compare_turns
from targets.toolchain import Engine

RECORD = "report.json"
ROUNDS = 5
T_95 = 2.776  # two-sided 95 % quantile of Student's t with 4 degrees of freedom
SETTINGS = MeasureSettings(min_samples=100, min_s=0.5)


def compare_builds(
    baseline: Path,
    build: Path,
    *,
    build_file: Path | None = None,
    allow_code: bool = False,
    without: Sequence[Aspect] = (),
    recorded: bool = False,
    inputs: Path | None = None,
) -> Comparison:
    """Compare two builds, or a build and a committed record.

    Where both are output folders, the engines that ship are timed against each other anew, in turns, each in
    a process of its own.

    Args:
        baseline: output folder of a build, or a report.json.
        build: the newer one.
        build_file: whose [compare] says what is allowed; without it, that of the build's record.
        allow_code: the build file may name Python code.
        without: aspects left out.
        recorded: compare the records' samples even where engines are there.
        inputs: .npz to time with; random inputs without it.

    Raises:
        ConfigError, DataError: the two cannot be compared, as `pipeline.comparison.compare`.
        ModelError: an engine cannot be opened.
    """
    records = load(_record(baseline)), load(_record(build))
    limits = load_settings(build_file, allow_code).compare if build_file else _limits(records[1])

    def timer(target: str, variant: str) -> Ratio | None:
        if recorded or not (baseline.is_dir() and build.is_dir()):
            return None
        folders = [
            _engine(folder, record, target, variant) for folder, record in zip(pair, records, strict=True)
        ]
        return time_engines(folders, inputs)

    pair = (baseline, build)
    aspects = [aspect for aspect in ASPECTS if aspect not in without]
    return compare(*records, limits, aspects, timer)


def time_engines(folders: Sequence[Path], inputs: Path | None) -> Ratio:
    """Time a baseline's engine and a build's in turns, each in a process of its own, five times anew.

    The same engine in two processes differs by a per cent or so, by where its memory comes to lie. So the
    interval is that of the mean of five pairs of processes (Student's t, of the logarithms).

    Args:
        folders: of the baseline's and of the build's engine.
        inputs: .npz with one array an input; random ones without it.
    """
    logs = np.log([_once(folders, inputs) for _ in range(ROUNDS)])
    middle, reach = float(logs.mean()), T_95 * float(logs.std(ddof=1)) / math.sqrt(ROUNDS)
    return Ratio(math.exp(middle), (math.exp(middle - reach), math.exp(middle + reach)), paired=True)


def _once(folders: Sequence[Path], inputs: Path | None) -> float:
    """Time of the build / time of the baseline, in one pair of processes."""
    children: dict[str, Apart] = {}
    try:
        for name, folder in zip(("baseline", "build"), folders, strict=True):
            engine = Engine.load(folder)
            given: list[Mapping[str, NDArray[Any]]] = engine_inputs(engine, inputs)
            children[name] = Apart(folder, given)
        with machine_alone(f"edgewright compare (process {os.getpid()})", Waiting()):
            timings = compare_turns({name: child.turn for name, child in children.items()}, SETTINGS)
    finally:
        for child in children.values():
            child.close()
    return timings["build"].median_ms / timings["baseline"].median_ms


def comparison_text(found: Comparison) -> str:
    """The comparison for the terminal."""
    lines = [f"{found.build}", f"  against {found.baseline}", ""]
    for finding in found.findings:
        mark = "✓" if finding.passed else "✗"
        lines.append(f"{mark} {finding.target}, {finding.variant}: {finding.aspect} {finding.words}")
    return "\n".join([*lines, "", _verdict(found)])


def comparison_markdown(found: Comparison) -> str:
    """The comparison for a pull request."""
    lines = [
        f"### {markdown(_verdict(found))}",
        "",
        f"{markdown(found.build)} against {markdown(found.baseline)}",
        "",
        "| | Target | Variant | Compared | Result |",
        "|:--|:--|:--|:--|:--|",
    ]
    lines += [
        f"| {'✓' if finding.passed else '✗'} | {markdown(finding.target)} | {markdown(finding.variant)} "
        f"| {finding.aspect} | {markdown(finding.words)} |"
        for finding in found.findings
    ]
    return "\n".join(lines) + "\n"


def comparison_junit(found: Comparison) -> str:
    """The comparison as JUnit XML: a suite for each target, a test case for each aspect of each variant."""
    failures = sum(not finding.passed for finding in found.findings)
    root = ElementTree.Element("testsuites", tests=str(len(found.findings)), failures=str(failures))
    for target in dict.fromkeys(finding.target for finding in found.findings):
        own = [finding for finding in found.findings if finding.target == target]
        failed = str(sum(not finding.passed for finding in own))
        suite = ElementTree.SubElement(root, "testsuite", name=target, tests=str(len(own)), failures=failed)
        for finding in own:
            case = ElementTree.SubElement(suite, "testcase", name=finding.aspect, classname=finding.variant)
            if finding.passed:
                ElementTree.SubElement(case, "system-out").text = finding.words
            else:
                message = f"{finding.aspect} is past its limit: {finding.words}"
                ElementTree.SubElement(case, "failure", message=message)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def write_text(path: Path, text: str) -> None:
    """Write a result.

    Raises:
        StoreError: the folder cannot be written.
    """
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def _verdict(found: Comparison) -> str:
    past = [f"{each.target} {each.variant} {each.aspect}" for each in found.findings if not each.passed]
    if past:
        return f"Past their limits: {', '.join(past)}."
    return f"All {len(found.findings)} comparisons are within their limits."


def _record(path: Path) -> Path:
    return path / RECORD if path.is_dir() else path


def _limits(record: Record) -> CompareSection:
    """What the build's own build.toml says, defaults where it was made before there was such a table."""
    return CompareSection.model_validate(record.project.settings.get("compare", {}))


def _engine(folder: Path, record: Record, target: str, variant: str) -> Path:
    found = next(each for each in record.results if (each.target, each.variant) == (target, variant))
    return folder / found.engine.path
