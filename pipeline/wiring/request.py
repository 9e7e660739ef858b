"""What a build is asked for, and the pieces all its stages are wired with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.config import GateKind, Settings
from pipeline.parity.thresholds import DEFAULT_THRESHOLDS
from pipeline.places import REMOTE_MODULES, toolchain_at
from pipeline.products import BuildTarget, product_precision
from pipeline.stage import Ref, Stage
from targets.toolchain import TOOLCHAINS

ONNX_TOOLS = ("onnx", "onnxruntime", "numpy")
TORCH_TOOLS = ("torch", "numpy")
DATA_ARTEFACTS = {"facts": Ref("data", "facts.json"), "preprocess": Ref("data", "preprocess.json")}


@dataclass(frozen=True)
class Request:
    """A build file, where it lies, and the devices it names.

    Args:
        settings: build.toml.
        folder: where build.toml lies; relative paths start there.
        targets: of `resolve_targets`.
    """

    settings: Settings
    folder: Path
    targets: Sequence[BuildTarget]

    @cached_property
    def fingerprints(self) -> dict[str, dict[str, str]]:
        """Target name → what engines and measurements there depend on."""
        return {
            target.name: toolchain_at(target.toolchain, target.place).fingerprint() for target in self.targets
        }

    def path(self, path: str) -> Path:
        """A path of build.toml."""
        return (self.folder / Path(path).expanduser()).resolve()

    @property
    def splits(self) -> str:
        """The stage that makes the splits with their labels."""
        return "data" if self.settings.data.labelled else "labels"

    def data(self, *names: str) -> dict[str, Ref]:
        """What is known of the data, and its labelled splits, by name."""
        return {name: DATA_ARTEFACTS.get(name, Ref(self.splits, name)) for name in names}

    def model(self) -> dict[str, Any]:
        """Settings a torch network is built from."""
        section = self.settings.model
        return {"factory": section.factory, "arguments": section.arguments}

    def torch_stage(
        self, name: str, function: str, *, settings: dict[str, Any], tools: tuple[str, ...] = (), **rest: Any
    ) -> Stage:
        """A stage that rebuilds a network from its factory."""
        return Stage(
            name,
            function,
            settings={"model": self.model()} | settings,
            tools=(*TORCH_TOOLS, *tools),
            modules=modules(self.settings.model.factory),
            **rest,
        )

    def gate(
        self,
        kind: GateKind,
        name: str,
        *,
        inputs: dict[str, Ref],
        settings: dict[str, Any] | None = None,
        function: str | None = None,
        **rest: Any,
    ) -> Stage:
        """A comparison of the stage `name`'s result with what it was made from.

        Args:
            kind: whose limits it has.
            name: of the stage.
            inputs: both sides.
            settings: besides those of all gates.
            function: of pipeline.stages.gates; None for the kind's own.
            rest: of the stage.
        """
        own = f"check_{'engine' if kind.startswith('engine') else kind}"
        return Stage(
            f"gate {name}",
            f"pipeline.stages.gates:{function or own}",
            inputs=inputs | self.data("calibrate", "preprocess"),
            settings={"name": name, "limits": self.limits(kind), "samples": self.settings.gates.samples}
            | (settings or {}),
            **({"tools": ONNX_TOOLS} | rest),
        )

    def limits(self, kind: GateKind) -> dict[str, float | None]:
        """Limits of gates of a kind: metric → limit, None where it is not checked."""
        limits: dict[str, float | None] = DEFAULT_THRESHOLDS[kind].model_dump()
        chosen = self.settings.gates.limits.get(kind)
        return limits | (chosen.model_dump(exclude_none=True) if chosen else {})

    def runtime(self, target: BuildTarget) -> dict[str, Any]:
        """What every stage that uses a target's runtime depends on, wherever that is."""
        here = target.place is None
        return {
            "tools": (target.toolchain, "numpy") if here else ("numpy",),
            "modules": (*modules(TOOLCHAINS[target.toolchain]), *(() if here else REMOTE_MODULES)),
            "fingerprint": self.fingerprints[target.name],
        }

    def toolchain(self, target: BuildTarget) -> dict[str, Any]:
        """Settings a stage finds a target's toolchain by."""
        return {"toolchain": target.toolchain} | ({"host": target.place} if target.place else {})

    def timing(self, target: BuildTarget) -> dict[str, Any]:
        """Settings of what is timed on a target as it would ship there (`stages.costs.layer_target`)."""
        return self.toolchain(target) | {
            "device": target.device.name,
            "precision": product_precision(self.settings, target),
            "threads": target.section.threads,
            "raw": target.raw,
            "convention": target.capability.quantization and target.capability.quantization.model_dump(),
        }


def torch_inputs(network: str) -> dict[str, Ref]:
    """What a torch network is rebuilt from."""
    inputs = {"weights": Ref(network, "weights.safetensors"), "facts": Ref("data", "facts.json")}
    if network != "teacher":
        inputs |= {"plan": Ref(f"structure {network}", "plan.json"), "task": Ref("task", "task.json")}
    return inputs


def modules(factory: str | None) -> tuple[str, ...]:
    """The module a factory lives in."""
    return (factory.partition(":")[0],) if factory else ()
