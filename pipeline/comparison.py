"""Two builds compared: accuracy image by image, latency by intervals, size; each against a limit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from pipeline.config.engines import CompareSection
from pipeline.evaluate import right_images
from pipeline.measured import Interval
from pipeline.paired import Difference, difference
from pipeline.record import Record, Result, Target
from targets.bootstrap import interval, resampled_medians
from targets.errors import ConfigError, DataError

Aspect = Literal["accuracy", "latency", "size"]
ASPECTS: tuple[Aspect, ...] = ("accuracy", "latency", "size")
# What two measurements have to share to be of one device; versions of runtimes may differ.
DEVICE = ("architecture", "cpu_model", "cpu_flags", "cores", "cpu_limit", "gpu")


@dataclass(frozen=True)
class Ratio:
    """Latency of a build / that of its baseline: above 1 is slower.

    Args:
        value: of the medians.
        interval: 95 %.
        paired: both were timed in turns in one run, not each in a run of its own.
    """

    value: float
    interval: Interval
    paired: bool


@dataclass(frozen=True)
class Finding:
    """One aspect of one variant.

    Args:
        target: its name.
        variant: network and precision.
        aspect: what was compared.
        before: the baseline's figure.
        after: the build's figure.
        words: the comparison in one sentence.
        passed: it is within its limit.
    """

    target: str
    variant: str
    aspect: Aspect
    before: float
    after: float
    words: str
    passed: bool


@dataclass(frozen=True)
class Comparison:
    """Everything two builds were compared by.

    Args:
        baseline: name, version and time of the baseline.
        build: the same of the build.
        limits: what was allowed.
        findings: one for each aspect of each variant that ships.
    """

    baseline: str
    build: str
    limits: CompareSection
    findings: list[Finding]

    @property
    def passed(self) -> bool:
        """Whether nothing is past its limit."""
        return all(finding.passed for finding in self.findings)

    def document(self) -> dict[str, Any]:
        """The comparison as JSON values."""
        return {
            "schema": "edgewright.comparison/1",
            "baseline": self.baseline,
            "build": self.build,
            "passed": self.passed,
            "limits": self.limits.model_dump(),
            "findings": [asdict(finding) for finding in self.findings],
        }


Timer = Callable[[str, str], Ratio | None]


def compare(
    baseline: Record,
    build: Record,
    limits: CompareSection,
    aspects: Sequence[Aspect] = ASPECTS,
    timer: Timer = lambda _target, _variant: None,
) -> Comparison:
    """Compare every variant that ships in a build with the same variant of a baseline.

    Args:
        baseline: what to hold it against.
        build: the newer one.
        limits: how much worse it may be.
        aspects: what to compare.
        timer: times a variant of a target of both, paired; None where it cannot, then the records' samples
            are compared, which were taken in different runs.

    Raises:
        ConfigError: the baseline is of another model, task or device, or lacks what is compared.
        DataError: it was tested on other images.
    """
    _require_same_model(baseline, build)
    findings = [
        finding
        for target in build.targets
        for variant in target.products
        for finding in _findings(baseline, build, target, variant, limits, aspects, timer)
    ]
    return Comparison(_named(baseline), _named(build), limits, findings)


def _findings(
    baseline: Record,
    build: Record,
    target: Target,
    variant: str,
    limits: CompareSection,
    aspects: Sequence[Aspect],
    timer: Timer,
) -> Iterator[Finding]:
    before, after = _result(baseline, target.name, variant), _result(build, target.name, variant)
    if "accuracy" in aspects:
        _require_same_images(baseline, build)
        yield _accuracy(before, after, limits)
    if "latency" in aspects:
        _require_same_device(baseline, target)
        ratio = timer(target.name, variant) or _apart(before, after)
        yield _latency(before, after, ratio, limits)
    if "size" in aspects:
        yield _size(before, after, limits)


def _accuracy(before: Result, after: Result, limits: CompareSection) -> Finding:
    was, now = right_images(before.accuracy), right_images(after.accuracy)
    if was is None or now is None:
        raise ConfigError(
            f"the {'baseline' if was is None else 'build'} does not say which images were right",
            where=f"{before.target}, {before.variant}: accuracy.right",
            mend="build it again with this version of edgewright, or leave it out: --without accuracy",
        )
    found = difference(was, now)
    worse = found.change < -limits.accuracy_drop and found.p < limits.significance
    return Finding(
        before.target,
        before.variant,
        "accuracy",
        before.accuracy.top1,
        after.accuracy.top1,
        _said(found, len(was)),
        not worse,
    )


def _said(found: Difference, images: int) -> str:
    low, high = (100 * end for end in found.interval)
    return (
        f"{100 * found.change:+.2f} points ({low:+.2f} to {high:+.2f}); {found.won} of {images} images won, "
        f"{found.lost} lost, p = {found.p:.2g}"
    )


def _latency(before: Result, after: Result, ratio: Ratio, limits: CompareSection) -> Finding:
    low, high = ratio.interval
    how = (
        "timed in turns in one run"
        if ratio.paired
        else "timed in two runs, so neither clock nor load are shared"
    )
    shaky = [
        f"; the {name}'s timing was {each.latency.verdict}"
        for name, each in (("baseline", before), ("build", after))
        if not ratio.paired and each.latency.verdict not in (None, "stable")
    ]
    return Finding(
        before.target,
        before.variant,
        "latency",
        before.latency.median_ms,
        after.latency.median_ms,
        f"{ratio.value:.3f}× the baseline's time ({low:.3f}–{high:.3f}); {how}{''.join(shaky)}",
        low <= 1 + limits.slower,
    )


def _size(before: Result, after: Result, limits: CompareSection) -> Finding:
    was, now = before.engine.size_bytes, after.engine.size_bytes
    return Finding(
        before.target,
        before.variant,
        "size",
        was,
        now,
        f"{was:,} → {now:,} bytes ({(now - was) / max(was, 1):+.1%})",
        now <= was * (1 + limits.larger),
    )


def _apart(before: Result, after: Result) -> Ratio:
    """Compare samples of two runs: each is resampled by itself, so what slowed one of them down counts."""
    if not before.latency.samples_ms or not after.latency.samples_ms:
        raise ConfigError(
            "a record without samples cannot be compared by latency",
            where=f"{before.target}, {before.variant}: latency.samples_ms",
            mend="keep report.json as the build wrote it, or leave it out: --without latency",
        )
    was, now = (
        resampled_medians(np.array([each.latency.samples_ms]), seed=seed)[0]
        for seed, each in enumerate((before, after))
    )
    return Ratio(after.latency.median_ms / before.latency.median_ms, interval(now / was), paired=False)


def _require_same_model(baseline: Record, build: Record) -> None:
    facts: Mapping[str, tuple[object, object]] = {
        "project.name": (baseline.project.name, build.project.name),
        "task.outputs": (baseline.task.outputs, build.task.outputs),
        "data.image_shape": (baseline.data.image_shape, build.data.image_shape),
    }
    for name, (was, now) in facts.items():
        if was != now:
            raise ConfigError(
                f"the baseline is of another model: {name} is {was!r} there and {now!r} here",
                mend="compare builds of one project, with one task",
            )


def _require_same_images(baseline: Record, build: Record) -> None:
    one, other = (
        (each.data.sha256, each.data.split_seed, each.data.split_sizes["test"], each.data.labels)
        for each in (baseline, build)
    )
    if one != other:
        raise DataError(
            "the baseline was tested on other images: data, split or labels differ",
            mend="make the baseline again from the same data, or leave it out: --without accuracy",
        )


def _require_same_device(baseline: Record, target: Target) -> None:
    other = next(each for each in baseline.targets if each.name == target.name)
    parts = {"device": (other.device, target.device), "toolchain": (other.toolchain, target.toolchain)}
    parts |= {"threads": (str(other.threads), str(target.threads))}
    parts |= {name: (other.fingerprint.get(name, ""), target.fingerprint.get(name, "")) for name in DEVICE}
    for name, (was, now) in parts.items():
        if was != now:
            raise ConfigError(
                f"the baseline was timed on another device: {name} is {was!r} there and {now!r} here",
                where=f"target {target.name!r}",
                mend="make the baseline again on this device, or leave it out: --without latency",
            )


def _result(record: Record, target: str, variant: str) -> Result:
    for result in record.results:
        if (result.target, result.variant) == (target, variant):
            return result
    known = sorted({f"{result.target} {result.variant}" for result in record.results})
    raise ConfigError(
        f"the baseline has no {variant!r} on {target!r}",
        where=f"{record.project.name} {record.project.version}",
        mend=f"compare builds that ship the same; it has: {', '.join(known)}",
    )


def _named(record: Record) -> str:
    return f"{record.project.name} {record.project.version} of {record.project.finished_at}"
