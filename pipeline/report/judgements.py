"""What measurements had to show and did not: at the top of the report, in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.measured import Requirement
from pipeline.record import Record


@dataclass(frozen=True)
class Line:
    """One line below the headlines.

    Args:
        kind: "pass", "fail" or "warn".
        words: the finding in a sentence or two.
        anchor: of the section that has more.
        more: what that section is called.
    """

    kind: str
    words: str
    anchor: str
    more: str

    @property
    def symbol(self) -> str:
        """A mark that needs no colour."""
        return {"pass": "✓", "fail": "✗", "warn": "!"}[self.kind]


def lines(record: Record) -> list[Line]:
    """Return what there is to say of stability and of what pays, worst first."""
    pays = [each for each in record.requirements if each.kind == "pays"]
    stable = [each for each in record.requirements if each.kind == "stable"]
    found = [*_pays(pays), *_stable(stable)]
    return sorted(found, key=lambda line: ["fail", "warn", "pass"].index(line.kind))


def _pays(requirements: Sequence[Requirement]) -> list[Line]:
    unmet = [each for each in requirements if not each.passed]
    found = [Line("fail", f"{each.target}: {each.words}", "results", "See the variants") for each in unmet]
    if requirements and not unmet:
        words = (
            "Every quantized engine beats its float twins."
            if len(requirements) > 1
            else requirements[0].words
        )
        found.append(Line("pass", words, "results", "See the variants"))
    return found


def _stable(requirements: Sequence[Requirement]) -> list[Line]:
    if not requirements:
        return []
    unmet = [each for each in requirements if not each.passed]
    if not unmet:
        return [Line("pass", f"All {len(requirements)} timings are stable.", "latency", "See the timings")]
    kind = "fail" if any(each.demanded for each in unmet) else "warn"
    words = (
        f"{len(unmet)} of {len(requirements)} timings are not stable; their figures are shown as they are."
    )
    return [Line(kind, words, "latency", "See why")]
