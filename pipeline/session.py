"""A build file opened: its settings checked, its stages planned, its store ready."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.build import needed, plan
from pipeline.config import Settings, load_settings
from pipeline.disk import explained
from pipeline.packages import PACKAGES, require
from pipeline.places import toolchain_at
from pipeline.products import BuildTarget, published, resolve_targets, timed_target, variants_of
from pipeline.publish import publish
from pipeline.report import load
from pipeline.run import Decision, Listener, Run
from pipeline.stage import Stage
from pipeline.store import Entry, Store
from pipeline.wiring.report import report_stage
from pipeline.wiring.request import Request
from targets.checks import check_request, refused
from targets.errors import ConfigError, GateFailed, ToolchainMissing

# What else a target can be whose engines do not run here.
OTHER_WAYS = '; or hand over the model alone: engine = false; or build on the device: host = "ssh://…"'


@dataclass(frozen=True)
class BuildResult:
    """What a build did.

    Args:
        stages: how many there are.
        ran: names of those that ran; the others were reused.
        output: folder of the report, models and engines.
        changed: paths in it that changed.
    """

    stages: int
    ran: list[str]
    output: Path
    changed: list[str]


class Session:
    """One build file and what can be done with it.

    Args:
        path: the build file.
        allow_code: it may name Python code that is not edgewright's own.
        listener: told what happens.
        overrides: dotted key → value that takes the place of the build file's.

    Raises:
        ConfigError: the build file is not valid, or names a device or toolchain there is not.
    """

    def __init__(
        self,
        path: Path,
        allow_code: bool = False,
        listener: Listener | None = None,
        overrides: Mapping[str, Any] | None = None,
    ) -> None:
        self.settings: Settings = load_settings(path, allow_code, overrides)
        self.folder = path.resolve().parent
        self.output = self._below(self.settings.project.output)
        self.targets: list[BuildTarget] = resolve_targets(self.settings, self.folder)
        self.request = Request(self.settings, self.folder, self.targets)
        code_path = self.folder if allow_code else None
        if code_path:
            sys.path.insert(0, str(code_path))
        self.runner = Run(
            Store(self._below(self.settings.project.store)),
            self.folder / ".edgewright" / self.settings.project.name,
            self.output / "repro",
            code_path,
            listener or Listener(),
        )

    def build(self) -> BuildResult:
        """Run what has to run, then hand over the results.

        Raises:
            EdgewrightError: what a stage raised; finished stages are kept.
        """
        self.check()
        stages = self.stages()
        self._prepare()
        self.runner.run(stages)
        last = report_stage(self.request, self.runner.entries)
        self.runner.run([last])
        changed = publish(self.output, published(self.settings, self.targets), self.runner.entries)
        self._demand()
        return BuildResult(len(stages) + 1, self.runner.ran, self.output, changed)

    def need_torch_model(self, why: str) -> None:
        """Refuse a build that starts from an ONNX file.

        Raises:
            ConfigError: it does.
        """
        if self.settings.model.onnx:
            raise ConfigError(why, where="model.onnx", mend="give model.factory and model.checkpoint")

    def run_only(self, *names: str, beside: Iterable[Stage] = ()) -> dict[str, Entry]:
        """Run some stages and those they take from, and return their outputs.

        Args:
            names: of the stages.
            beside: stages that may be among them though the build itself has none of that name.
        """
        planned = {stage.name: stage for stage in (*self.stages(), *beside)}
        stages = needed(list(planned.values()), names)
        self._prepare()
        self.runner.run(stages)
        return self.runner.entries

    def explain(self) -> list[Decision]:
        """Say what a build would do now, and why; runs nothing."""
        decisions = self.runner.explain(self.stages())
        if all(decision.action == "reuse" for decision in decisions):
            last = report_stage(self.request, self.runner.entries)
            return decisions + self.runner.explain([last])
        return [*decisions, Decision("report", "wait", ("takes from the stages before it",))]

    def stages(self) -> Sequence[Stage]:
        """Every stage but the report."""
        return plan(self.request)

    def check(self) -> None:
        """Make sure everything is there before work starts.

        Raises:
            ToolchainMissing: a package the build needs is not installed.
            CapabilityError: a device cannot do what is asked of it.
        """
        require("onnx", "onnxruntime", "onnxsim")
        if self.settings.model.factory:
            require("torch", "safetensors", "torch-pruning")
        if self.settings.export.exporter == "dynamo" and self.settings.model.factory:
            require("onnxscript")
        if self.settings.data.kind == "images":
            require("pillow")
        for target in self.targets:
            version = _runtime_version(target, self.request.fingerprints[target.name])
            _check_device(self.settings, target, version)
        self._refuse_unkept_budget()

    def _refuse_unkept_budget(self) -> None:
        """Layers are timed where engines run; elsewhere times would be wrong without a word."""
        if self.settings.student is None or self.settings.student.budget[0] != "latency_ms":
            return
        target = timed_target(self.settings, self.targets)
        if target.obstacle is not None:
            raise ConfigError(
                f"a latency budget cannot be kept on {target.name}: engines are not run: {target.obstacle}",
                where="student.latency_ms",
                mend="name the device's host, or give the student a budget of macs, parameters or bytes",
            )

    def _demand(self) -> None:
        """Stop where the build file demands what measurements do not show; everything is handed over before.

        Raises:
            GateFailed: something demanded is not met.
        """
        path = self.output / "report.json"
        unmet = [each for each in load(path).requirements if each.demanded and not each.passed]
        if unmet:
            raise GateFailed(
                " ".join(f"{each.target}: {each.words}" for each in unmet),
                where=str(path.with_suffix(".html")),
                mend='ask for less in [pays], or set pays.otherwise = "float" to ship the float engine',
            )

    def _prepare(self) -> None:
        self.runner.store.prepare()
        with explained(self.runner.folder):
            self.runner.folder.mkdir(parents=True, exist_ok=True)

    def _below(self, path: str) -> Path:
        return self.folder / Path(path).expanduser()


def _runtime_version(target: BuildTarget, fingerprint: Mapping[str, str]) -> str | None:
    """Version of the runtime where the target is; None where it is not needed.

    Raises:
        ToolchainMissing: there is none.
    """
    if not target.section.engine:
        return None
    if target.place is None and target.toolchain in PACKAGES:
        require(target.toolchain)
    version = fingerprint.get(target.toolchain, "missing")
    if version == "missing":
        probe = toolchain_at(target.toolchain, target.place).probe()
        place = f", {target.place['url']}" if target.place else ""
        other = OTHER_WAYS if target.obstacle else ""
        raise ToolchainMissing(
            f"{target.toolchain} does not work: {probe.detail}",
            where=f"target {target.name!r}{place}",
            mend=f"{probe.mend}{other}",
        )
    return version


def _check_device(settings: Settings, target: BuildTarget, runtime_version: str | None) -> None:
    precisions = [variant.runs_as for variant in variants_of(settings, target)]
    violations = check_request(
        target.device,
        target.toolchain,
        # What this very CPU computes in by default needs no promise of the device file.
        precisions=[each for each in dict.fromkeys(precisions) if each == "fp32" or each != target.native],
        opset=None if settings.model.onnx else settings.export.opset,
        dynamic_batch=settings.export.dynamic_batch,
        formed=True,
        runtime_version=runtime_version,
    )
    if violations:
        what = f"{target.device.name} with {target.toolchain} cannot do what the build asks of it"
        raise refused(what, violations, f"target {target.name!r}")
