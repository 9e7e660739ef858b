"""Results of the verbs as text for people and as JSON values for scripts."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.run import Decision
    from pipeline.session import BuildResult
    from pipeline.toolchains.install import Plan
    from pipeline.verbs.standalone import Benched, Evaluation
    from targets.toolchain import Engine

ACTIONS = {"run": "run  ", "reuse": "reuse", "wait": "wait "}


def plan_text(plan: Plan) -> str:
    """What installing a toolchain will do."""
    toolchain = plan.toolchain
    lines = [f"{plan.name}: {toolchain.what}", f"licence: {toolchain.licence}", "", "Fetched with pip:"]
    for file in plan.files:
        lines += [f"  {file.file}  {file.size_bytes / 1e6:.1f} MB", f"    sha256 {file.sha256}"]
    lines += ["", f"Put into {plan.folder} ({plan.size_bytes / 1e6:.0f} MB packed), and nowhere else."]
    if not all(file.is_wheel for file in plan.files):
        lines.append("One of these files is no wheel: pip runs its setup.py, after checking its sha256.")
    if toolchain.program:
        lines.append(f"{toolchain.program.file} is compiled from edgewright's own source beside it.")
    if plan.next_step:
        lines.append(f"Left to you, {plan.next_step}")
    return "\n".join(lines)


def build_document(result: BuildResult) -> dict[str, Any]:
    """What a build did."""
    return {
        "stages": result.stages,
        "ran": result.ran,
        "report": str(result.output / "report.html"),
        "changed": result.changed,
    }


def build_text(result: BuildResult) -> str:
    """What a build did, the headlines first."""
    from pipeline.report import load

    report = os.path.relpath(result.output / "report.html")
    if not result.ran and not result.changed:
        return f"Nothing to do: all {result.stages} stages are up to date. The report: {report}"
    record = load(result.output / "report.json")
    headlines = [headline for target in record.targets for headline in target.headlines]
    headlines += [built.headline for built in record.built if built.role == "product"]
    reused = result.stages - len(result.ran)
    counts = f"{len(result.ran)} stages ran, {reused} were reused."
    return "\n".join(["", *headlines, "", counts, f"The report: {report}"])


def decisions_text(decisions: Sequence[Decision]) -> str:
    """One line a stage, its reasons below."""
    lines = []
    for decision in decisions:
        first, *rest = decision.reasons
        lines.append(f"{ACTIONS[decision.action]}  {decision.stage}: {first}")
        lines.extend(f"         {reason}" for reason in rest)
    return "\n".join(lines)


def doctor_text(document: Mapping[str, Any]) -> str:
    """The doctor's findings as a list."""
    lines = [f"this machine is: {document['this_machine']}", ""]
    for finding in document["findings"]:
        mark = "✓" if finding["works"] else "✗"
        lines.append(f"{mark} {finding['name']:<14} {finding['version'] or '-':<12} {finding['detail']}")
        if finding["mend"]:
            lines.append(f"{'':<30}→ {finding['mend']}")
    return "\n".join(lines)


def engine_document(engine: Engine) -> dict[str, Any]:
    """An engine's facts."""
    return asdict(engine) | {"folder": str(engine.folder), "size_bytes": engine.size_bytes}


def engine_text(engine: Engine) -> str:
    """An engine in a few lines."""
    lines = [
        f"{engine.folder}: {engine.options.precision}, {engine.toolchain} {engine.toolchain_version}, "
        f"{engine.size_bytes:,} bytes"
    ]
    lines.extend(f"  input  {spec.name}: {spec.dtype} {list(spec.shape)}" for spec in engine.inputs)
    lines.extend(f"  output {spec.name}: {spec.dtype} {list(spec.shape)}" for spec in engine.outputs)
    lines.extend(f"  note   {note}" for note in engine.notes)
    return "\n".join(lines)


def timings_document(benched: Benched) -> dict[str, Any]:
    """Timings and their verdicts as JSON values."""
    return {
        name: asdict(timing) | benched.judgements[name]._asdict() for name, timing in benched.timings.items()
    }


def timings_text(benched: Benched) -> str:
    """One line an engine, then why those that are not stable are not."""
    timings, judgements = benched.timings, benched.judgements
    width = max(len(name) for name in timings)
    lines = [f"{'engine':<{width}}  median ms [95 % interval]       p90      p99      samples  verdict"]
    for name, timing in timings.items():
        low, high = timing.median_interval_ms
        lines.append(
            f"{name:<{width}}  {timing.median_ms:<9.4f} [{low:.4f}, {high:.4f}]{'':<5} "
            f"{_or_dash(timing.p90_ms):<8} {_or_dash(timing.p99_ms):<8} {timing.samples:<8} "
            f"{judgements[name].verdict}"
        )
    lines.extend(f"{name}: {reason}" for name, found in judgements.items() for reason in found.reasons)
    return "\n".join(lines)


def evaluation_document(evaluation: Evaluation) -> dict[str, Any]:
    """A score as JSON values, first of all who says what is right."""
    return {"labels": evaluation.labels, **evaluation.accuracy.model_dump(mode="json")}


def evaluation_text(evaluation: Evaluation) -> str:
    """Accuracy, or agreement, with its interval, then recall by class."""
    from pipeline.report.wording import wording

    accuracy = evaluation.accuracy
    low, high = accuracy.top1_interval
    lines = [
        f"{wording(evaluation.labels).score} {accuracy.top1:.2%} [{low:.2%}, {high:.2%}], "
        f"{accuracy.correct} of {accuracy.images} images"
    ]
    width = max(len(each.label) for each in accuracy.classes)
    for each in accuracy.classes:
        recall = "-" if each.recall is None else f"{each.recall:.1%}"
        lines.append(f"  {each.label:<{width}}  recall {recall:>6} of {each.count}")
    return "\n".join(lines)


def _or_dash(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
