"""A bundle tried out on the device it is for: verified, opened, compared with golden outputs, timed."""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Mapping

import numpy as np

from targets.bench import bench
from targets.bundle.engine import engine_here
from targets.bundle.figures import milliseconds
from targets.bundle.folder import verify_folder
from targets.bundle.keys import read_public_key
from targets.bundle.listing import is_safe
from targets.cpu import cpu_fingerprint, cpu_flags
from targets.errors import BundleError, CapabilityError, ModelError
from targets.measure import MeasureSettings
from targets.metrics import measure
from targets.toolchain import load_toolchain

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from targets.bundle.listing import Listing
    from targets.toolchain import Engine

SELFTEST_SCHEMA = "edgewright.selftest/1"
TARGET_KEYS = ("device", "architecture", "cpu_flags_required", "toolchain", "fingerprint")
PRODUCT_KEYS = ("variant", "recipe", "latency")
# Figures that must not be below their limit; the others must not be above.
AT_LEAST = ("cosine", "top1_agreement")
UNPROMISED = "nobody had timed it before; this verdict is what its maker wants to see"
BENCH = MeasureSettings(warmup_min_s=0.2, warmup_max_s=2.0, min_samples=100, min_s=0.5, max_s=10.0)


@dataclass(frozen=True)
class Trial:
    """How a bundle is tried out.

    Args:
        folder: the bundle.
        key: file of the public key it must be signed with; None checks digests alone.
        time: measure latency too.
        cache: folder for engines that have to be built on this device.
        settings: of the measurement.
    """

    folder: Path
    key: Path | None
    time: bool
    cache: Path
    settings: MeasureSettings = BENCH


class Verdict:
    """What was tried, in order, and how it went."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Any]] = []

    def say(self, step: str, passed: bool, detail: str, **facts: Any) -> bool:
        """Note one step."""
        self.steps.append({"step": step, "passed": passed, "detail": detail, **facts})
        return passed

    @property
    def passed(self) -> bool:
        """Whether no step failed."""
        return all(step["passed"] for step in self.steps)


def selftest(trial: Trial) -> dict[str, Any]:
    """Try a bundle out: verify → open → golden outputs → latency; the first thing that fails ends it.

    Returns:
        JSON values: "passed", "signature", every step with its figures, and what this device is.

    Raises:
        ToolchainMissing: the runtime, or numpy, is not installed here: nothing can be said of the bundle.
    """
    verdict = Verdict()
    listing = _verified(trial, verdict)
    if listing and _complete(listing, verdict) and _fits(listing.document["target"], verdict):
        for product in listing.document["products"]:
            _try_product(trial, listing, product, verdict)
    return {
        "schema": SELFTEST_SCHEMA,
        "bundle": listing.name if listing else trial.folder.name,
        "passed": verdict.passed,
        "signature": "verified" if listing and listing.signed else "not verified",
        "steps": verdict.steps,
        "device": cpu_fingerprint(),
    }


def _verified(trial: Trial, verdict: Verdict) -> Listing | None:
    try:
        key = None if trial.key is None else read_public_key(trial.key)
        listing = verify_folder(trial.folder, key)
    except BundleError as error:
        verdict.say("verify", False, f"{error.what} ({error.where})")
        return None
    signed = "signed by the key given" if listing.signed else "digests only, no key was given"
    verdict.say("verify", True, f"{len(listing.files)} files, {signed}")
    return listing


def _complete(listing: Listing, verdict: Verdict) -> bool:
    """Whether the manifest says what a self-test reads of it, and of files inside the bundle."""
    try:
        target, products = listing.document["target"], listing.document["products"]
        lacking = [name for name in TARGET_KEYS if name not in target]
        for product in products:
            lacking += [name for name in PRODUCT_KEYS if name not in product]
            paths = [product["model"]["path"], product["golden"]]
            paths += [product["engine"]["path"]] if product["engine"] else []
            lacking += [
                f"a path inside the bundle instead of {path!r}" for path in paths if not is_safe(path)
            ]
    except (KeyError, TypeError) as error:
        lacking = [str(error)]
    return not lacking or verdict.say("manifest", False, f"it lacks {', '.join(lacking)}")


def _fits(target: Mapping[str, Any], verdict: Verdict) -> bool:
    """Whether this machine is such a device as far as its processor goes."""
    here, flags = platform.machine(), cpu_flags()
    lacking = [flag for flag in target["cpu_flags_required"] if not flags.intersection(flag.split("|"))]
    if target["architecture"] not in (here, "any"):
        return verdict.say("device", False, f"this is {here}, the bundle is for {target['architecture']}")
    if lacking:
        return verdict.say("device", False, f"this processor lacks {', '.join(lacking)}")
    return verdict.say("device", True, f"{here} fits {target['device']}")


def _try_product(trial: Trial, listing: Listing, product: Mapping[str, Any], verdict: Verdict) -> None:
    name = product["variant"]
    target = listing.document["target"]
    try:
        engine, origin = engine_here(trial.folder, listing, product, trial.cache)
        verdict.say(f"open {name}", True, origin)
        if not _golden(trial.folder / product["golden"], engine, name, verdict):
            return
    except (CapabilityError, ModelError) as error:
        verdict.say(f"open {name}", False, str(error))
        return
    if trial.time:
        inputs = _arrays(trial.folder / product["golden"], "inputs")
        timed = bench({name: engine}, inputs, trial.settings)["variants"][name]
        _latency(product["latency"], timed, _measured_here(target["fingerprint"]), name, verdict)


def _golden(folder: Path, engine: Engine, name: str, verdict: Verdict) -> bool:
    from targets.device.commands import in_batches

    tolerance = json.loads((folder / "golden.json").read_text(encoding="utf-8"))["tolerance"]
    runner = load_toolchain(engine.toolchain).open(engine)
    try:
        found = in_batches(runner, _arrays(folder, "inputs"))
    finally:
        runner.close()
    expected = _arrays(folder, "outputs")
    for output, array in expected.items():
        if output not in found or found[output].shape != array.shape:
            return verdict.say(f"golden {name}", False, f"output {output!r} is missing or of another shape")
    figures = measure(expected, found)
    past = [
        f"{metric} is {figures[metric]:.4g}, the limit {limit:g}"
        for metric, limit in tolerance.items()
        if metric in figures and not _within(metric, figures[metric], limit)
    ]
    count = len(next(iter(expected.values())))
    detail = "; ".join(past) or f"outputs of {count} inputs are as expected"
    return verdict.say(f"golden {name}", not past, detail, figures=figures, tolerance=tolerance)


def _within(metric: str, value: float, limit: float) -> bool:
    return value >= limit if metric in AT_LEAST else value <= limit


def _arrays(folder: Path, side: str) -> dict[str, NDArray[np.generic]]:
    document = json.loads((folder / "golden.json").read_text(encoding="utf-8"))
    return {spec["name"]: np.load(str(folder / spec["file"]), allow_pickle=False) for spec in document[side]}


def _measured_here(fingerprint: Mapping[str, str]) -> bool:
    """Whether the build's measurement was taken on a processor such as this one."""
    return all(fingerprint.get(name) == value for name, value in cpu_fingerprint().items())


def _latency(
    promise: Mapping[str, Any] | None, timed: Mapping[str, Any], same: bool, name: str, verdict: Verdict
) -> None:
    """Compare with the promise, where there is one; broken only when the whole interval lies above it."""
    low, high = timed["median_interval_ms"]
    facts = {"median_ms": timed["median_ms"], "median_interval_ms": [low, high]}
    said = f"median {milliseconds(timed['median_ms'])}"
    if promise is None:
        said += f" ({milliseconds(low)} to {milliseconds(high)}), measured and not compared: {UNPROMISED}"
        verdict.say(f"latency {name}", True, said, **facts)
        return
    kept = low <= promise["promised_ms"]
    said += f", promised {milliseconds(promise['promised_ms'])}"
    if not (same or promise["budget"]):
        said += "; the promise was measured on another processor and does not count here"
    facts["promised_ms"] = promise["promised_ms"]
    verdict.say(f"latency {name}", kept or not (same or promise["budget"]), said, **facts)


def text_of(document: Mapping[str, Any]) -> str:
    """Say a verdict in lines a person reads."""
    lines = [
        f"{'✓' if step['passed'] else '✗'} {step['step']}: {step['detail']}" for step in document["steps"]
    ]
    return "\n".join([*lines, f"{document['bundle']}: {'passed' if document['passed'] else 'FAILED'}"])
