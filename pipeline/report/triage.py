"""Which blocks one layer could stand for, as a page shows it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

from pipeline.measured import Triage, TriageBlock
from pipeline.report.numbers import NOTHING, percent


@dataclass(frozen=True)
class Attempt:
    """One start of the layer in a block's place; accuracies in percent."""

    start: str
    swapped: str
    local: str
    by_labels: str
    by_teacher: str
    epochs: str


@dataclass(frozen=True)
class BlockRow:
    """One block."""

    block: str
    replaced_by: str
    milliseconds: str
    parameters: str
    macs: str
    attempts: list[Attempt]


@dataclass(frozen=True)
class PairRow:
    """Two blocks replaced at once; accuracies in percent."""

    words: str
    measured: str
    added: str


@dataclass(frozen=True)
class TriageView:
    """All that a page shows of triage."""

    accuracy: str
    split: str
    target: str | None
    blocks: list[BlockRow]
    pairs: list[PairRow]
    notes: list[str]


def view(triage: Triage) -> TriageView:
    """Return triage as a page shows it."""
    grouped = groupby(triage.blocks, key=lambda row: row.block)
    return TriageView(
        accuracy=percent(triage.accuracy),
        split=triage.split,
        target=triage.target,
        blocks=[_block(list(rows)) for _, rows in grouped],
        pairs=[
            PairRow(" and ".join(pair.blocks), percent(pair.measured), percent(pair.added))
            for pair in triage.pairs
        ],
        notes=triage.notes,
    )


def _block(rows: list[TriageBlock]) -> BlockRow:
    first = rows[0]
    change = first.latency_change_ms
    return BlockRow(
        block=first.block,
        replaced_by=first.replaced_by,
        milliseconds=NOTHING if change is None else f"{change:+.3f}",
        parameters=f"{first.parameters_change:+,}",
        macs=f"{first.macs_change:+,}",
        attempts=[_attempt(row) for row in rows],
    )


def _attempt(row: TriageBlock) -> Attempt:
    return Attempt(
        start=row.initialisation,
        swapped=percent(row.swapped),
        local=percent(row.local),
        by_labels=percent(row.by_labels),
        by_teacher=percent(row.by_teacher),
        epochs=NOTHING if row.epochs_to_99 is None else f"{row.epochs_to_99:g}",
    )
