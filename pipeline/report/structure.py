"""Which channels every student keeps, what is lost with the others, and whether its budget holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from pipeline.record import Budget, ChannelGroup, KeptChannels, Slimmed, Structure, UncutLayer
from pipeline.report.canvas import Mark
from pipeline.report.numbers import measured, percent

KINDS = {"holds": "pass", "too close to call": "tie", "exceeded": "fail"}
UNITS = {"macs": "MACs", "parameters": "parameters", "bytes": "bytes", "latency_ms": "ms"}
# Where a curve lies in its panel, in pixels of the page.
LEFT, TOP, WIDTH, HEIGHT = 42.0, 8.0, 162.0, 96.0
# The page's marks as paths around (0, 0): circle, square, triangle, diamond, triangle upside down, plus.
SHAPES = (
    "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0z",
    "M-4 -4h8v8h-8z",
    "M0 -5l5 9h-10z",
    "M0 -5.5l5.5 5.5l-5.5 5.5l-5.5 -5.5z",
    "M0 5l5 -9h-10z",
    "M-1.7 -5h3.4v3.3h3.3v3.4h-3.3v3.3h-3.4v-3.3h-3.3v-3.4h3.3z",
)


@dataclass(frozen=True)
class Strip:
    """Which channels of a group stay: `path` covers one unit for each, `words` say the same."""

    width: int
    path: str
    words: str


@dataclass(frozen=True)
class GroupRow:
    """What a student keeps of one group; `length` is its share of the widest group, in percent."""

    group: ChannelGroup
    after: int
    length: float
    length_after: float
    strip: Strip
    lost: str

    @property
    def others(self) -> list[str]:
        """Layers that are cut together with the one the group is known by."""
        return [member for member in self.group.members if member != self.group.leader]


@dataclass(frozen=True)
class Verdict:
    """Whether budgets hold, in words.

    Args:
        kind: "pass", "fail" or "tie".
        words: the same in words.
    """

    kind: str
    words: str

    @property
    def symbol(self) -> str:
        """A mark that needs no colour."""
        return {"pass": "✓", "fail": "✗", "tie": "="}[self.kind]


@dataclass(frozen=True)
class BudgetLine:
    """A student's budget in words; no verdict before it is built."""

    words: str
    verdict: Verdict | None


@dataclass(frozen=True)
class StudentRows:
    """One student, group by group."""

    name: str
    mark: Mark
    kept: int
    channels: int
    budget: BudgetLine | None
    rows: list[GroupRow]


@dataclass(frozen=True)
class Cut:
    """Where a student cuts a group: a point on its curve."""

    mark: Mark
    shape: str
    x: float
    y: float


@dataclass(frozen=True)
class Curve:
    """What a group loses as its channels go, as a line of a small panel."""

    identifier: str
    group: ChannelGroup
    line: str
    cuts: list[Cut]
    description: str


@dataclass(frozen=True)
class StructureView:
    """All that a page shows of the students' structures."""

    criterion: str
    students: list[StudentRows]
    curves: list[Curve]
    uncut: list[UncutLayer]
    warnings: list[str]
    verdict: Verdict | None


def view(structure: Structure, networks: Sequence[str]) -> StructureView:
    """Return the students' structures as the page shows them.

    Args:
        structure: of the record.
        networks: names in the order that gives them their colours.
    """
    marks = {student.network: networks.index(student.network) for student in structure.students}
    students = [
        _student(structure, student, Mark.numbered(marks[student.network], marks[student.network]))
        for student in structure.students
    ]
    return StructureView(
        criterion=structure.criterion,
        students=students,
        curves=[_curve(structure, group, place, students) for place, group in enumerate(structure.groups)],
        uncut=structure.uncut,
        warnings=structure.warnings,
        verdict=_all_together(students),
    )


def budget_line(budget: Budget) -> BudgetLine:
    """Put a budget into words: the limit, what was predicted, and what was counted or measured."""
    limit, before, predicted = (
        _amount(budget, value) for value in (budget.limit, budget.before, budget.predicted)
    )
    words = f"at most {limit} {UNITS[budget.kind]} ({before} before), predicted {predicted}"
    if budget.achieved is not None:
        done, where = ("measured", "with") if budget.achieved_interval else ("counted", "in")
        words += f", {done} {_achieved(budget, budget.achieved)} {where} {budget.achieved_on}"
    return BudgetLine(words, Verdict(KINDS[budget.verdict], budget.verdict) if budget.verdict else None)


def spoken(channels: Sequence[int]) -> str:
    """Return rising numbers in words, runs as ranges: "0, 3–5"."""
    return ", ".join(
        f"{first}–{first + length - 1}" if length > 1 else str(first) for first, length in runs(channels)
    )


def strip(width: int, channels: Sequence[int], what: str) -> Strip:
    """Draw some of a layer's channels.

    Args:
        width: all its channels.
        channels: those to be drawn, rising.
        what: is said of them, behind "3 of 16".
    """
    path = "".join(f"M{first} 0h{length}v1h-{length}z" for first, length in runs(channels))
    words = f"{len(channels)} of {width} {what}, counted from 0: {spoken(channels)}"
    return Strip(width, path, words)


def _student(structure: Structure, student: Slimmed, mark: Mark) -> StudentRows:
    widest = max((group.width for group in structure.groups), default=1)
    kept = {each.leader: each for each in student.groups}
    rows = [_row(group, kept[group.leader], widest) for group in structure.groups]
    return StudentRows(
        name=student.network,
        mark=mark,
        kept=sum(row.after for row in rows),
        channels=sum(group.width for group in structure.groups),
        budget=budget_line(student.budget) if student.budget else None,
        rows=rows,
    )


def _row(group: ChannelGroup, kept: KeptChannels, widest: int) -> GroupRow:
    after = len(kept.channels)
    return GroupRow(
        group=group,
        after=after,
        length=round(100 * group.width / widest, 2),
        length_after=round(100 * after / group.width, 2),
        strip=strip(group.width, kept.channels, "channels stay"),
        lost=percent(kept.lost),
    )


def runs(channels: Sequence[int]) -> list[tuple[int, int]]:
    """Runs of neighbours among rising numbers: first and length of each."""
    grouped = groupby(enumerate(channels), key=lambda item: item[1] - item[0])
    runs = [[channel for _, channel in run] for _, run in grouped]
    return [(run[0], len(run)) for run in runs]


def _curve(structure: Structure, group: ChannelGroup, place: int, students: Sequence[StudentRows]) -> Curve:
    cuts = []
    said = []
    for student, slimmed in zip(students, structure.students, strict=True):
        kept = next(each for each in slimmed.groups if each.leader == group.leader)
        removed = group.width - len(kept.channels)
        x, y = _point(group, removed, kept.lost)
        cuts.append(Cut(student.mark, SHAPES[student.mark.shape], x, y))
        said.append(f"{student.name}: {removed} of {group.width} removed, {percent(kept.lost)} % lost")
    line = " ".join("{:g},{:g}".format(*_point(group, removed, lost)) for removed, lost in group.lost)
    return Curve(f"curve-{place}", group, line, cuts, "; ".join(said))


def _point(group: ChannelGroup, removed: int, lost: float) -> tuple[float, float]:
    return round(LEFT + WIDTH * removed / group.width, 1), round(TOP + HEIGHT * (1 - lost), 1)


def _amount(budget: Budget, value: float) -> str:
    if budget.kind != "latency_ms":
        return f"{round(value):,}"
    return f"{value:g}" if value == budget.limit else measured(value, value, value, budget.limit).value


def _achieved(budget: Budget, value: float) -> str:
    if budget.achieved_interval is None:
        return _amount(budget, value)
    apart = None if budget.verdict == "too close to call" else budget.limit
    return f"{measured(value, *budget.achieved_interval, apart_from=apart)} ms"


def _all_together(students: Sequence[StudentRows]) -> Verdict | None:
    """Say in one sentence which budgets do not hold; nothing where none was checked."""
    verdicts = {
        student.name: student.budget.verdict
        for student in students
        if student.budget and student.budget.verdict
    }
    named = {
        kind: [name for name, verdict in verdicts.items() if verdict.kind == kind] for kind in KINDS.values()
    }
    if named["fail"]:
        return Verdict("fail", f"Budgets exceeded by {', '.join(named['fail'])}.")
    if named["tie"]:
        return Verdict("tie", f"Budgets too close to call: {', '.join(named['tie'])}.")
    words = f"All {len(verdicts)} budgets hold." if len(verdicts) > 1 else "The budget holds."
    return Verdict("pass", words) if verdicts else None
