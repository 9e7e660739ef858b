"""Which stage feeds which: from build.toml to an ordered list of stages.

    data → task → teacher → structure → student → export → simplify → quantize → compile → measure → report
                                                     ▪          ▪          ▪         ▪

A ▪ is a gate. Only `evaluate` is given the test split.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.config import GateKind, Settings, StudentSection
from pipeline.datasets.fashion_mnist import find_fashion_mnist
from pipeline.parity.thresholds import DEFAULT_THRESHOLDS
from pipeline.products import (
    BuildTarget,
    Variant,
    engine_path,
    networks_of,
    onnx_path,
    onnx_stage,
    variants_of,
)
from pipeline.stage import Ref, Stage
from pipeline.store import Entry
from targets.toolchain import TOOLCHAINS, load_toolchain

ONNX_TOOLS = ("onnx", "onnxruntime", "numpy")
TORCH_TOOLS = ("torch", "numpy")
# Training frees and maps the same large buffers again and again; keeping them makes it 1.1 to 1.5 times as
# fast on glibc (docs/training.md has the figures). Results do not change.
KEEP_BUFFERS = {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:"
    "glibc.malloc.trim_threshold=100000000000:glibc.malloc.top_pad=1000000000"
}
ENGINE_GATES: dict[str, GateKind] = {
    "fp32": "engine-fp32",
    "fp16": "engine-half",
    "bf16": "engine-half",
    "int8": "engine-int8",
}
DATA_ARTEFACTS = {"facts": "facts.json", "preprocess": "preprocess.json"}
# What the report is given of every stage that made it.
REPORTED = ("facts.json", "plan.json", "task.json", "gate.json", "timings.json", "accuracy.json", "engine")


def plan(settings: Settings, folder: Path, targets: Sequence[BuildTarget]) -> list[Stage]:
    """Every stage of a build, each after those it takes from.

    Args:
        settings: build.toml.
        folder: where build.toml lies; relative paths start there.
        targets: of `resolve_targets`.

    Raises:
        DataError: Fashion-MNIST is not on this machine and may not be fetched.
    """
    return list(_Planner(settings, folder, targets).stages())


class _Planner:
    def __init__(self, settings: Settings, folder: Path, targets: Sequence[BuildTarget]) -> None:
        self.settings = settings
        self.folder = folder
        self.targets = targets
        self.fingerprints = {
            target.name: load_toolchain(target.toolchain).fingerprint() for target in targets
        }

    def stages(self) -> Iterator[Stage]:
        """Everything but the report, in order."""
        yield from self._data()
        if self.settings.model.onnx:
            yield self._take_onnx(self.settings.model.onnx)
        else:
            yield from self._torch_networks()
        networks = networks_of(self.settings)
        for network in networks:
            yield from self._float_onnx(network)
        if any("int8" in target.section.precisions for target in self.targets):
            yield self._observe(networks[-1])
        for target in self.targets:
            yield from self._target(target, networks[-1])

    def _data(self) -> Iterator[Stage]:
        section = self.settings.data
        yield Stage(
            "data",
            "pipeline.stages.data:load",
            files={} if section.kind == "python" else {"source": self._data_path()},
            settings=section.model_dump(exclude={"path", "download"})
            | {"seed": self.settings.project.seed, "licence": self.settings.report.licence},
            tools=("numpy", "pillow") if section.kind == "images" else ("numpy",),
            modules=_modules(section.factory),
        )
        yield Stage(
            "task",
            "pipeline.stages.data:resolve_task",
            inputs=self._inputs("facts"),
            settings=self.settings.task.model_dump(),
        )

    def _data_path(self) -> Path:
        section = self.settings.data
        if section.kind == "fashion-mnist":
            return find_fashion_mnist(section.download)
        assert section.path is not None
        return self._path(section.path)

    def _torch_networks(self) -> Iterator[Stage]:
        section = self.settings.model
        if section.checkpoint:
            yield self._torch_stage(
                "teacher",
                "pipeline.stages.networks:take_teacher",
                inputs=self._inputs("select", "preprocess", "facts"),
                files={"checkpoint": self._path(section.checkpoint)},
                settings={"checkpoint": section.checkpoint},
                tools=("safetensors",),
            )
        else:
            yield self._torch_stage(
                "teacher",
                "pipeline.stages.networks:train_teacher",
                inputs=self._inputs("train", "select", "preprocess", "facts"),
                settings={"training": section.training.model_dump(), "seed": self.settings.project.seed},
                environment=KEEP_BUFFERS,
            )
        if self.settings.student:
            yield from self._student(self.settings.student)

    def _student(self, section: StudentSection) -> Iterator[Stage]:
        teacher = {"teacher": Ref("teacher", "weights.safetensors"), "task": Ref("task", "task.json")}
        alignment = math.lcm(*(target.capability.channel_alignment for target in self.targets))
        yield self._torch_stage(
            "structure",
            "pipeline.stages.networks:decide_structure",
            inputs=teacher | self._inputs("train", "preprocess", "facts"),
            settings={
                "macs": section.macs,
                "alignment": alignment,
                "minimum": section.minimum_width,
                "importance": section.importance,
                "scoring_images": section.scoring_images,
                "seed": self.settings.project.seed,
            },
            tools=("torch-pruning",),
        )
        yield self._torch_stage(
            "student",
            "pipeline.stages.networks:distill_student",
            inputs=teacher
            | {"plan": Ref("structure", "plan.json")}
            | self._inputs("train", "select", "preprocess", "facts"),
            settings={
                "training": section.training.model_dump(),
                "temperature": section.temperature,
                "distillation": section.distillation,
                "repair_images": section.scoring_images if section.repair else 0,
                "seed": self.settings.project.seed,
            },
            tools=("torch-pruning",),
            environment=KEEP_BUFFERS,
        )

    def _take_onnx(self, path: str) -> Stage:
        model = self._path(path)
        return Stage(
            "model",
            "pipeline.stages.onnx:take",
            inputs=self._inputs("facts", "preprocess"),
            files={"model": model},
            beside=_external_data(model),
            settings={
                "layout": self.settings.data.layout,
                "capabilities": {
                    target.name: target.capability.model_dump(mode="json") for target in self.targets
                },
            },
            tools=ONNX_TOOLS,
        )

    def _float_onnx(self, network: str) -> Iterator[Stage]:
        """ONNX of a network, exported (unless it came as ONNX) and simplified, each checked by a gate."""
        raw = Ref(network, "model.onnx")
        if network != "model":
            raw = Ref(f"export {network}", "model.onnx")
            yield self._export(network)
            yield self._gate(
                "export",
                f"export {network}",
                inputs=self._torch_inputs(network) | {"candidate": raw},
                settings={"model": self._model(), "network": network},
                tools=(*TORCH_TOOLS, *ONNX_TOOLS),
                modules=_modules(self.settings.model.factory),
            )
        simple = f"simplify {network}"
        yield Stage(
            simple,
            "pipeline.stages.onnx:simplify_onnx",
            inputs={"model": raw},
            tools=(*ONNX_TOOLS, "onnxsim"),
        )
        yield self._gate(
            "simplify", simple, inputs={"reference": raw, "candidate": Ref(simple, "model.onnx")}
        )

    def _export(self, network: str) -> Stage:
        return self._torch_stage(
            f"export {network}",
            "pipeline.stages.networks:export_network",
            inputs=self._torch_inputs(network),
            settings={"network": network} | self.settings.export.model_dump(),
            tools=("onnx", "onnxscript", "torch-pruning"),
        )

    def _torch_stage(
        self, name: str, function: str, *, settings: dict[str, Any], tools: tuple[str, ...] = (), **rest: Any
    ) -> Stage:
        """A stage that rebuilds a network from its factory."""
        return Stage(
            name,
            function,
            settings={"model": self._model()} | settings,
            tools=(*TORCH_TOOLS, *tools),
            modules=_modules(self.settings.model.factory),
            **rest,
        )

    def _observe(self, network: str) -> Stage:
        return Stage(
            "observe",
            "pipeline.stages.quantize:observe",
            inputs={"model": Ref(f"simplify {network}", "model.onnx")}
            | self._inputs("calibrate", "preprocess"),
            settings={"samples": self.settings.quantize.samples},
            tools=ONNX_TOOLS,
        )

    def _target(self, target: BuildTarget, product: str) -> Iterator[Stage]:
        variants = variants_of(self.settings, target)
        for variant in variants:
            if variant.precision == "int8":
                yield from self._quantize(target, product)
            yield from self._engine(target, variant, Ref(onnx_stage(target, variant), "model.onnx"))
        yield self._measure(target, variants)
        for variant in variants:
            yield self._evaluate(target, variant)

    def _quantize(self, target: BuildTarget, product: str) -> Iterator[Stage]:
        section = self.settings.quantize
        simple = Ref(f"simplify {product}", "model.onnx")
        name = f"quantize {target.name}"
        assert target.capability.quantization is not None
        yield Stage(
            name,
            "pipeline.stages.quantize:write_qdq",
            inputs={"model": simple, "observations": Ref("observe", "observations.npz")},
            settings=section.model_dump(exclude={"samples"})
            | {"convention": target.capability.quantization.model_dump()},
            tools=ONNX_TOOLS,
        )
        yield self._gate(
            "quantize",
            name,
            inputs={"reference": simple, "candidate": Ref(name, "model.onnx")},
        )

    def _engine(self, target: BuildTarget, variant: Variant, onnx: Ref) -> Iterator[Stage]:
        name = f"compile {target.name} {variant.name}"
        runtime = self._runtime(target)
        yield Stage(
            name,
            "pipeline.stages.engines:compile_engine",
            inputs={"model": onnx},
            settings={
                "toolchain": target.toolchain,
                "device": target.device.name,
                "capability": target.capability.model_dump(mode="json"),
                "precision": variant.precision,
                "threads": target.section.threads,
                "raw": target.section.raw,
            },
            **runtime,
        )
        yield self._gate(
            ENGINE_GATES[variant.precision],
            name,
            inputs={"reference": onnx, "candidate": Ref(name, "engine")},
            **runtime | {"tools": (*ONNX_TOOLS, target.toolchain)},
        )

    def _gate(
        self,
        kind: GateKind,
        name: str,
        *,
        inputs: dict[str, Ref],
        settings: dict[str, Any] | None = None,
        **rest: Any,
    ) -> Stage:
        limits = DEFAULT_THRESHOLDS[kind].model_dump()
        chosen = self.settings.gates.limits.get(kind)
        limits |= chosen.model_dump(exclude_none=True) if chosen else {}
        return Stage(
            f"gate {name}",
            f"pipeline.stages.gates:check_{'engine' if kind.startswith('engine') else kind}",
            inputs=inputs | self._inputs("calibrate", "preprocess"),
            settings={"name": name, "limits": limits, "samples": self.settings.gates.samples}
            | (settings or {}),
            **({"tools": ONNX_TOOLS} | rest),
        )

    def _measure(self, target: BuildTarget, variants: Sequence[Variant]) -> Stage:
        return Stage(
            f"measure {target.name}",
            "pipeline.stages.engines:measure",
            inputs=self._engines(target, variants) | self._inputs("calibrate", "preprocess"),
            settings={
                "toolchain": target.toolchain,
                "measure": {
                    "warmup_min_s": self.settings.measure.warmup_s,
                    "min_samples": self.settings.measure.samples,
                    "min_s": self.settings.measure.seconds,
                    "max_s": self.settings.measure.most_seconds,
                },
            },
            **self._runtime(target),
        )

    def _evaluate(self, target: BuildTarget, variant: Variant) -> Stage:
        return Stage(
            f"evaluate {target.name} {variant.name}",
            "pipeline.stages.engines:evaluate",
            inputs={
                "engine": Ref(f"compile {target.name} {variant.name}", "engine"),
                "task": Ref("task", "task.json"),
                "test": Ref("data", "test"),
            }
            | self._inputs("preprocess"),
            settings={"toolchain": target.toolchain},
            **self._runtime(target),
        )

    def _runtime(self, target: BuildTarget) -> dict[str, Any]:
        """What every stage that uses a target's runtime depends on."""
        return {
            "tools": (target.toolchain, "numpy"),
            "modules": _modules(TOOLCHAINS[target.toolchain]),
            "fingerprint": self.fingerprints[target.name],
        }

    def _model(self) -> dict[str, Any]:
        section = self.settings.model
        return {"factory": section.factory, "arguments": section.arguments}

    def _torch_inputs(self, network: str) -> dict[str, Ref]:
        """What a torch network is rebuilt from."""
        inputs = {"weights": Ref(network, "weights.safetensors"), "facts": Ref("data", "facts.json")}
        if network == "student":
            inputs |= {"plan": Ref("structure", "plan.json"), "task": Ref("task", "task.json")}
        return inputs

    def _inputs(self, *names: str) -> dict[str, Ref]:
        """Artefacts of the data stage by name."""
        return {name: Ref("data", DATA_ARTEFACTS.get(name, name)) for name in names}

    def _engines(self, target: BuildTarget, variants: Sequence[Variant]) -> dict[str, Ref]:
        return {
            f"engine {variant.name}": Ref(f"compile {target.name} {variant.name}", "engine")
            for variant in variants
        }

    def _path(self, path: str) -> Path:
        return (self.folder / Path(path).expanduser()).resolve()


def report_stage(settings: Settings, targets: Sequence[BuildTarget], entries: Mapping[str, Entry]) -> Stage:
    """The last stage: it is given every small artefact of the others, and what they cost.

    Args:
        settings: build.toml.
        targets: of `resolve_targets`.
        entries: stage name → its finished output.
    """
    inputs = {
        f"{name}/{artefact}": Ref(name, artefact)
        for name, entry in entries.items()
        for artefact in REPORTED
        if artefact in {path.partition("/")[0] for path in entry.files}
    }
    costs = [
        {
            "name": name,
            "key": entry.key,
            "digest": entry.digest(),
            "seconds": entry.seconds,
            "peak_memory_bytes": entry.peak_memory_bytes,
            "finished_at": entry.finished_at,
        }
        for name, entry in entries.items()
    ]
    described = [
        {
            "name": target.name,
            "device": target.device.name,
            "toolchain": target.toolchain,
            "threads": target.section.threads,
            "fingerprint": load_toolchain(target.toolchain).fingerprint(),
            "variants": [
                asdict(variant)
                | {
                    "name": variant.name,
                    "onnx_stage": onnx_stage(target, variant),
                    "onnx_path": onnx_path(target, variant),
                    "engine_path": engine_path(target, variant),
                }
                for variant in variants_of(settings, target)
            ],
        }
        for target in targets
    ]
    return Stage(
        "report",
        "pipeline.stages.report:write",
        inputs=inputs,
        settings={"settings": settings.model_dump(mode="json"), "targets": described, "stages": costs},
        tools=("edgewright", "matplotlib", "jinja2"),
    )


def _external_data(model: Path) -> tuple[Path, ...]:
    """Files that may hold a model's weights: whatever lies beside it and is no text of ours."""
    if not model.parent.is_dir():
        return ()
    return tuple(
        sorted(
            path
            for path in model.parent.iterdir()
            if path.is_file() and path != model and path.suffix not in (".toml", ".md")
        )
    )


def _modules(factory: str | None) -> tuple[str, ...]:
    return (factory.partition(":")[0],) if factory else ()
