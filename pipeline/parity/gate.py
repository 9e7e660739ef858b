"""The gates: a model or engine must do what the one before it did, on the same real inputs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.parity.sides import Failure, Side
from pipeline.parity.thresholds import Thresholds
from pipeline.record import Gate, GateCheck
from targets.batches import Tensors, sample_count
from targets.errors import EdgewrightError, GateFailed, ModelError
from targets.metrics import UNBOUNDED, badness, measure

WORST_PER_METRIC = 2  # samples a repro folder keeps for each failing metric


class ParityFailed(GateFailed):
    """A gate failed; `gate` is what the record shows of it."""

    gate: Gate


def compare_outputs(reference: Tensors, candidate: Tensors, thresholds: Thresholds) -> list[GateCheck]:
    """Measure a batch of outputs against every limit that is set.

    Args:
        reference: output name → [N, ...].
        candidate: the same outputs; further ones are ignored.
        thresholds: limits; `max_abs` and `relative_l2` are upper, the others lower ones.

    Returns:
        One check for each limit; top-1 agreement only where an output is [N, classes].

    Raises:
        ModelError: the candidate lacks an output or has it in another shape, or no limit can be checked.
    """
    for name, array in reference.items():
        found = list(candidate[name].shape) if name in candidate else "missing"
        if found != list(array.shape):
            raise ModelError(
                f"output {name!r} should have shape {list(array.shape)}, but is {found}",
                where=name,
                mend="keep names and shapes of the outputs through every stage",
            )
    figures = measure(reference, candidate)
    limits = thresholds.model_dump(exclude_none=True)
    checks = [_check(metric, figures[metric], limit) for metric, limit in limits.items() if metric in figures]
    if not checks:
        raise ModelError(
            "only top-1 agreement has a limit, but no output is [samples, classes]",
            mend="set a limit for relative_l2, cosine or max_abs",
        )
    return checks


def gate(
    name: str, reference: Side, candidate: Side, inputs: Tensors, thresholds: Thresholds, repro_folder: Path
) -> Gate:
    """Run both sides on the same inputs and let the candidate pass, or stop the build.

    Args:
        name: as the record names it, "simplify student".
        reference: what is right.
        candidate: what has to agree with it.
        inputs: name → [N, ...], real inputs.
        thresholds: limits.
        repro_folder: where a failure leaves a minimal reproduction; not made otherwise.

    Raises:
        ParityFailed: a figure is past its limit; carries the gate, says where both sides part.
        ModelError: a side does not run or has other outputs.
    """
    expected, found = reference.infer(inputs), candidate.infer(inputs)
    checks = compare_outputs(expected, found, thresholds)
    outcome = Gate(
        name=name,
        reference=reference.label,
        candidate=candidate.label,
        inputs=sample_count(inputs),
        checks=checks,
        passed=all(check.passed for check in checks),
    )
    if outcome.passed:
        return outcome
    rows = worst_samples(checks, expected, found)
    kept = (_take(arrays, rows) for arrays in (inputs, expected, found))
    raise _failure(Failure(outcome, reference, candidate, *kept), repro_folder)


def worst_samples(checks: list[GateCheck], reference: Tensors, candidate: Tensors) -> list[int]:
    """Return the few samples that show every failing check, worst first.

    Every check that fails on all samples fails on at least one of these alone.
    """
    rows: dict[int, None] = {}
    for check in checks:
        if not check.passed:
            order = np.argsort(-badness(check.metric, reference, candidate), kind="stable")
            rows.update(dict.fromkeys(int(row) for row in order[:WORST_PER_METRIC]))
    return list(rows)


def _check(metric: str, value: float, limit: float) -> GateCheck:
    lower = metric in ("cosine", "top1_agreement")
    passed = value >= limit if lower else value <= limit
    return GateCheck.model_validate({"metric": metric, "value": value, "limit": limit, "passed": passed})


def _take(arrays: Tensors, rows: list[int]) -> Tensors:
    return {name: array[rows] for name, array in arrays.items()}


def _failure(failure: Failure, folder: Path) -> ParityFailed:
    """Look for where both sides part, write the repro folder, and return the error to raise."""
    from pipeline.parity.divergence import locate
    from pipeline.parity.repro import write_repro

    divergence = locate(failure)
    failure = replace(failure, gate=failure.gate.model_copy(update={"first_diverging": divergence.tensor}))
    what = f"gate {failure.gate.name!r} failed: {_figures(failure.gate)}; {divergence.reason}"
    try:
        write_repro(failure, divergence, folder)
        script = folder / "reproduce.py"
        mend = f"see it with `python {script}`; if it is acceptable, set a wider limit under gates.limits"
    except (OSError, EdgewrightError) as problem:
        mend = f"make room and run again: the reproduction could not be written ({problem})"
    error = ParityFailed(what, where=str(folder), mend=mend)
    error.gate = failure.gate
    return error


def _figures(outcome: Gate) -> str:
    """Return every failing check in words."""
    return ", ".join(
        f"{check.metric} is {'not finite' if check.value == UNBOUNDED else f'{check.value:.4g}'}"
        f" (limit {check.limit:g})"
        for check in outcome.checks
        if not check.passed
    )
