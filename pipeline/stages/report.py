"""report: the record put together from what the other stages left, and rendered."""

from __future__ import annotations

import importlib.metadata
import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.gains import gains
from pipeline.pays import judge
from pipeline.record import Record, Structure
from pipeline.report import render
from pipeline.report.headline import headlines
from pipeline.report.wording import wording
from pipeline.slimming import Achieved, achieved, planned_cost, structure
from pipeline.stage import Context
from pipeline.stages.built import built_variants
from pipeline.task import Task
from targets.toolchain import Engine
from targets.versions import installed_version

PACKAGES = ("numpy", "onnx", "onnxruntime", "onnxscript", "onnxsim", "openvino", "torch", "torch-pruning")


def write(context: Context) -> None:
    """Render the report. Artefacts: report.html, report.json, report.md."""
    render(assemble(context.settings, Artefacts(context.inputs)), context.out)


class Artefacts:
    """JSON artefacts of the build's stages.

    Args:
        paths: "stage/artefact" → file or folder.
    """

    def __init__(self, paths: Mapping[str, Path]) -> None:
        self.paths = paths

    def __call__(self, stage: str, artefact: str) -> Any:
        """The artefact's content, or None when the build has no such stage."""
        path = self.paths.get(f"{stage}/{artefact}")
        return None if path is None else json.loads(path.read_text(encoding="utf-8"))

    def engine(self, stage: str) -> Engine:
        """The engine a stage compiled."""
        return Engine.load(self.paths[f"{stage}/engine"])


def assemble(settings: Mapping[str, Any], artefacts: Artefacts) -> Record:
    """Put the record together.

    Args:
        settings: of the report stage: all of build.toml, the targets and what every stage cost.
        artefacts: what the other stages left.
    """
    build = settings["settings"]
    project = build["project"]
    networks = [
        stage["name"].removeprefix("simplify ")
        for stage in settings["stages"]
        if stage["name"].startswith("simplify ")
    ]
    results, requirements = _judged(settings, artefacts)
    data = artefacts("data", "facts.json")
    return Record.model_validate(
        {
            "project": {
                "name": project["name"],
                "version": project["version"],
                "description": project["description"],
                "edgewright_version": importlib.metadata.version("edgewright"),
                "command": "edgewright build",
                "finished_at": max(stage["finished_at"] for stage in settings["stages"]),
                "settings": build,
            },
            "data": {key: value for key, value in data.items() if key != "classes"}
            | {"labels": settings["labels"]},
            "task": _task(artefacts),
            "networks": [_network(name, build, artefacts) for name in networks],
            "structure": _structure(settings, results, artefacts),
            "paths": artefacts("paths", "paths.json"),
            "triage": artefacts("triage", "triage.json"),
            "targets": [
                _target(target, results[target["name"]], settings["labels"], artefacts)
                for target in settings["targets"]
            ],
            "results": [result for rows in results.values() for result in rows],
            "built": list(
                built_variants(settings["built"], artefacts, artefacts.engine, wording(settings["labels"]))
            ),
            "gates": [
                artefacts(stage["name"], "gate.json")
                for stage in settings["stages"]
                if stage["name"].startswith("gate ")
            ],
            "stages": settings["stages"],
            "environments": {
                target["name"]: artefacts(f"measure {target['name']}", "timings.json")["environment"]
                for target in settings["targets"]
            },
            "packages": _versions(),
            "seeds": {"project.seed": project["seed"], "bootstrap": 0},
            "requirements": requirements,
            "gains": [
                gain for name, rows in results.items() for gain in gains(name, rows, settings["stages"])
            ],
        }
    )


def _judged(
    settings: Mapping[str, Any], artefacts: Artefacts
) -> tuple[dict[str, list[dict[str, Any]]], list[dict[str, Any]]]:
    """Results by target, roles as they turned out, and what measurements had to show."""
    build = settings["settings"]
    results, requirements = {}, []
    for target in settings["targets"]:
        name = target["name"]
        results[name], pays = judge(name, _results(target, artefacts), **build["pays"])
        requirements += [_stable(name, result, build["measure"]["stable"]) for result in results[name]] + pays
    return results, requirements


def _stable(target: str, result: Mapping[str, Any], stable: str) -> dict[str, Any]:
    latency = result["latency"]
    why = f": {'; '.join(latency['reasons'])}" if latency["reasons"] else ""
    return {
        "kind": "stable",
        "target": target,
        "variant": result["variant"],
        "passed": latency["verdict"] == "stable",
        "demanded": stable == "demand",
        "words": f"{result['variant']} is {latency['verdict']}{why}.",
    }


def _task(artefacts: Artefacts) -> dict[str, Any]:
    task = Task.load(artefacts.paths["task/task.json"])
    return {
        "wanted": [task.known[label] for label in task.wanted],
        "outputs": task.outputs,
        "other": task.other,
    }


def _network(name: str, build: Mapping[str, Any], artefacts: Artefacts) -> dict[str, Any]:
    facts = artefacts(f"simplify {name}", "facts.json")
    torch_facts = artefacts(name, "facts.json")
    return {
        "name": name,
        "origin": torch_facts["origin"] if torch_facts else f"ONNX file {build['model']['onnx']}",
        "parameters": facts["parameters"],
        "macs": facts["macs"],
        "input_shape": facts["inputs"][0]["shape"],
        "outputs": facts["outputs"][0]["shape"][-1],
        "opset": facts["opset"],
        "onnx_size_bytes": facts["onnx_size_bytes"],
    }


def _structure(
    settings: Mapping[str, Any], results: Mapping[str, list[dict[str, Any]]], artefacts: Artefacts
) -> Structure | None:
    """What scoring found and every student keeps; None where nothing is slimmed."""
    scores = artefacts("scores", "scores.json")
    if scores is None:
        return None
    names = [stage["name"] for stage in settings["stages"] if stage["name"].startswith("structure ")]
    plans = {name.removeprefix("structure "): artefacts(name, "plan.json") for name in names}
    costs = {name: planned_cost(plan) for name, plan in plans.items()}
    return structure(
        scores,
        plans,
        {
            name: _achieved(name, cost["kind"], settings, results, artefacts)
            for name, cost in costs.items()
            if cost is not None
        },
    )


def _achieved(
    student: str,
    kind: str,
    settings: Mapping[str, Any],
    results: Mapping[str, list[dict[str, Any]]],
    artefacts: Artefacts,
) -> Achieved:
    products = [
        {"target": target["name"], "variant": variant["name"], "onnx_path": variant["onnx_path"]}
        | {"weight_bytes": artefacts(variant["onnx_stage"], "facts.json")["weight_bytes"]}
        | ({"latency": result["latency"]} if result else {})
        for target in (*settings["targets"], *settings["built"])
        for variant, result in itertools.zip_longest(target["variants"], results.get(target["name"], []))
        if variant["network"] == student and (result or variant)["role"] == "product"
    ]
    target = settings["settings"]["student"]["target"] or products[0]["target"]
    return achieved(kind, artefacts(f"simplify {student}", "facts.json"), products, target)


def _results(target: Mapping[str, Any], artefacts: Artefacts) -> list[dict[str, Any]]:
    timings = artefacts(f"measure {target['name']}", "timings.json")
    return [
        {
            **{key: value for key, value in timings["extras"][variant["name"]].items() if key != "flags"},
            **_planned_bits(variant, artefacts),
            "target": target["name"],
            "variant": variant["name"],
            "network": variant["network"],
            "precision": variant["precision"],
            "role": variant["role"],
            "engine": _engine(target, variant, artefacts)
            | {"flags": timings["extras"][variant["name"]]["flags"]},
            "latency": timings["variants"][variant["name"]],
            "speedups": timings["speedups"][variant["name"]],
            "accuracy": artefacts(f"evaluate {target['name']} {variant['name']}", "accuracy.json"),
        }
        for variant in target["variants"]
    ]


def _planned_bits(variant: Mapping[str, Any], artefacts: Artefacts) -> dict[str, Any]:
    """Bits channel by channel, where they were planned; otherwise those read from the file stand."""
    plan = artefacts(variant["onnx_stage"], "bits.json")
    if plan is None:
        return {}
    made = artefacts(variant["onnx_stage"], "mixed.json")
    forms = {each["node"]: {"form": each["form"], "reason": each["reason"]} for each in made["forms"]}
    return {
        "bits": [
            {("layer" if key == "node" else key): layer[key] for key in layer}
            | forms.get(layer["node"], {"form": "container"})
            for layer in plan["layers"]
        ]
    }


def _engine(target: Mapping[str, Any], variant: Mapping[str, Any], artefacts: Artefacts) -> dict[str, Any]:
    engine = artefacts.engine(f"compile {target['name']} {variant['name']}")
    return {
        "path": variant["engine_path"],
        "sha256": dict(engine.files),
        "size_bytes": engine.size_bytes,
        "onnx_path": variant["onnx_path"],
        "onnx_size_bytes": artefacts(variant["onnx_stage"], "facts.json")["onnx_size_bytes"],
        "notes": list(engine.notes),
    }


def _target(
    target: Mapping[str, Any], results: list[dict[str, Any]], labels: str, artefacts: Artefacts
) -> dict[str, Any]:
    products = [result["variant"] for result in results if result["role"] == "product"]
    engine = artefacts.engine(f"compile {target['name']} {products[0]}")
    return {
        "name": target["name"],
        "device": target["device"],
        "toolchain": target["toolchain"],
        "toolchain_version": engine.toolchain_version,
        "threads": target["threads"],
        "products": products,
        "fingerprint": target["fingerprint"],
        "headlines": headlines(target["name"], results, wording(labels)),
        "steps": artefacts(f"measure {target['name']}", "timings.json").get("steps", []),
    }


def _versions() -> dict[str, str]:
    found = {package: installed_version(package) for package in PACKAGES}
    return {package: version for package, version in found.items() if version is not None}
