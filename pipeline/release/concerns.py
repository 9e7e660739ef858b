"""What speaks against a release: a dirty or failed build, measurements that are not stable, or none."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from pipeline.release.manifest import Accepted
from pipeline.release.source import Build
from pipeline.run import Decision
from targets.errors import ReleaseRefused

MENDS = {
    "dirty": "build again",
    "failed": "build again",
    "unstable": "build again",
    "unmeasured": 'build with host = "ssh://…", which gates and times engines on the device',
}
# Counters that only rise while the processor is held back.
THROTTLES = ("throttle_events", "cgroup_throttled_periods")


def require_accepted(concerns: Iterable[Accepted], told: Collection[str]) -> None:
    """Go on only where all concerns are accepted.

    Args:
        concerns: what was found.
        told: kinds to release all the same.

    Raises:
        ReleaseRefused: there is one of another kind; says all of them.
    """
    refused = [concern for concern in dict.fromkeys(concerns) if concern.kind not in told]
    if refused:
        kinds = " ".join(f"--accept {kind}" for kind in dict.fromkeys(each.kind for each in refused))
        lines = "".join(f"\n    {concern.kind}: {concern.what}" for concern in refused)
        mends = ", ".join(dict.fromkeys(MENDS[concern.kind] for concern in refused))
        raise ReleaseRefused(
            f"this build is not fit for release:{lines}",
            mend=f"{mends}; or release it all the same, which the bundle will say: {kinds}",
        )


def concerns_of(build: Build, target: str, decisions: Sequence[Decision]) -> list[Accepted]:
    """Find what speaks against a release.

    Args:
        build: what was handed over.
        target: name of the target to release.
        decisions: what building again would do now.
    """
    found = [*_dirty(decisions), *_failed(build), *_unstable(build, target), *_unmeasured(build, target)]
    return [Accepted.model_validate({"kind": kind, "what": what}) for kind, what in found]


def _dirty(decisions: Sequence[Decision]) -> Iterator[tuple[str, str]]:
    again = [decision for decision in decisions if decision.action == "run"]
    if again:
        why = f"{again[0].stage}: {again[0].reasons[0]}"
        yield "dirty", f"a build would run stages again, the first of them {why}"


def _failed(build: Build) -> Iterator[tuple[str, str]]:
    for gate in build.record.gates:
        if not gate.passed:
            yield "failed", f"the gate {gate.name!r} did not pass"
    for repro in _repros(build.output / "repro"):
        yield "failed", f"the last build stopped, and left {repro.name} in {repro.parent}"


def _repros(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _unstable(build: Build, target: str) -> Iterator[tuple[str, str]]:
    limit = build.settings.release.widest_interval
    for result in build.record.results:
        if result.role == "product" and result.target == target:
            low, high = result.latency.median_interval_ms
            width = (high - low) / result.latency.median_ms
            if width > limit:
                where = f"{result.variant} on {result.target}"
                yield "unstable", f"the median of {where} is known to within {width:.0%}, not {limit:.0%}"
    machine = build.record.environments.get(target)
    if machine is None:
        return
    for counter in THROTTLES:
        before, after = (float(state.get(counter, 0)) for state in (machine.before, machine.after))
        if after > before:
            yield "unstable", f"{target}: {counter} rose by {after - before:g} while measuring"


def _unmeasured(build: Build, target: str) -> Iterator[tuple[str, str]]:
    for obstacle in dict.fromkeys(each.obstacle for each in build.not_run(target)):
        yield "unmeasured", f"what was made for {target} was run nowhere: {obstacle}"
