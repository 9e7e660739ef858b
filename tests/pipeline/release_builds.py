"""The output folder of a tiny build, made in a second: one float network, one target, a real engine."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from example_record import document

from pipeline.config import Settings
from pipeline.publish import LIST_FILE
from pipeline.record import Record
from pipeline.release.source import Build, open_build
from pipeline.stage import Context
from pipeline.stages.golden import choose
from targets.cpu import cpu_fingerprint
from targets.toolchain import EngineOptions, file_sha256, load_toolchain

TARGETS = ("any-onnxruntime", "second")
SHAPE = [1, 1, 4, 4]


def tiny_build(
    folder: Path,
    *,
    version: str = "1.2.3",
    seed: int = 0,
    device: str = "any-onnxruntime",
    toolchain: str = "onnxruntime",
) -> Build:
    """Write a finished build's output folder for two targets that differ in name."""
    out = folder / "out"
    model = out / "models" / "model.onnx"
    model.parent.mkdir(parents=True)
    onnx.save(network(seed), model)
    engines = {}
    for target in TARGETS:
        place = out / "engines" / target / "model-fp32"
        place.mkdir(parents=True)
        engines[target] = load_toolchain(toolchain).compile(model, device, EngineOptions(), place)
        golden(folder / f"work-{target}", model).rename(mkdir(out / "golden" / target) / "model-fp32")
    record = Record.model_validate(tiny_record(engines, version, device, toolchain))
    text = json.dumps(record.model_dump(mode="json", by_alias=True), sort_keys=True)
    (out / "report.json").write_text(text)
    (out / "report.html").write_text("<html>a report</html>\n")
    return publish_again(folder)


def publish_again(folder: Path) -> Build:
    """Say that what lies in the output folder now is what the build handed over."""
    out = folder / "out"
    files = [path for path in sorted(out.rglob("*")) if path.is_file() and path.name != LIST_FILE]
    digests = {path.relative_to(out).as_posix(): file_sha256(path) for path in files}
    (out / LIST_FILE).write_text(json.dumps(digests))
    return open_build(out, folder)


def change_record(folder: Path, change: Any) -> Build:
    """Let `change` edit the record as JSON values."""
    path = folder / "out" / "report.json"
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))
    return publish_again(folder)


def not_run(folder: Path, target: str, *, engine: bool = True) -> Build:
    """Let the build have run nothing for a target; without an engine it handed over the model alone."""

    def change(record: dict[str, Any]) -> None:
        made = next(each for each in record["targets"] if each["name"] == target)
        result = next(each for each in record["results"] if each["target"] == target)
        record["targets"].remove(made)
        record["results"].remove(result)
        del record["environments"][target]
        record["gates"] = [each for each in record["gates"] if target not in each["name"]]
        own = {name: result[name] for name in ("target", "variant", "network", "precision", "role")}
        own |= {
            "device": made["device"],
            "toolchain": made["toolchain"],
            "obstacle": "there is no such device",
        }
        own |= {"toolchain_version": made["toolchain_version"] if engine else None, "changes": []}
        own |= {"engine": result["engine"] if engine else None, "command": None if engine else "make it"}
        own |= {
            "onnx_path": result["engine"]["onnx_path"],
            "estimate": result["accuracy"],
            "headline": "made",
        }
        record["built"] = [own]
        for section in record["project"]["settings"]["targets"]:
            section["engine"] = engine or section["name"] != target

    if not engine:
        model = folder / "out" / "models"
        shutil.copyfile(model / "model.onnx", model / f"model-fp32-{target}.onnx")
    return change_record(folder, change)


def network(seed: int) -> onnx.ModelProto:
    """[1, 1, 4, 4] → scores [1, 4]."""
    helper, generator = onnx.helper, np.random.default_rng(seed)
    weights = onnx.numpy_helper.from_array(generator.normal(size=(16, 4)).astype(np.float32), "w")
    nodes = [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["y"])]
    ends = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("x", SHAPE), ("y", [1, 4]))
    ]
    graph = helper.make_graph(nodes, "tiny", ends[:1], ends[1:], [weights])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def golden(work: Path, model: Path) -> Path:
    """What the stage `golden` makes of random images."""
    images = np.random.default_rng(1).integers(0, 256, (40, 4, 4, 1), np.uint8)
    np.save(mkdir(work / "calibrate") / "images.npy", images)
    prepare = {"scale": 1 / 255, "mean": [0.5], "std": [0.25], "layout": "NCHW", "reverse_channels": False}
    (work / "preprocess.json").write_text(json.dumps(prepare))
    inputs = {
        "preprocess": work / "preprocess.json",
        "model": model,
        "calibrate": work / "calibrate",
    }
    settings = {"limits": {"relative_l2": 1e-3, "cosine": None}}
    choose(Context(inputs, {}, settings, mkdir(work / "out"), work / "debris", lambda *_: None))
    return work / "out" / "golden"


def tiny_record(engines: dict[str, Any], version: str, device: str, toolchain: str) -> dict[str, Any]:
    """The footwear sorter's record, cut down to one network."""
    whole = document(samples=64)
    settings = Settings.model_validate(
        {
            "project": {"name": "tiny", "version": version, "description": "A tiny network"},
            "data": {"kind": "npz", "path": "data.npz"},
            "model": {"onnx": "model.onnx"},
            "targets": [
                {"device": device, "toolchain": toolchain, "name": name, "precisions": ["fp32"]}
                for name in TARGETS
            ],
            "release": {"licence": "Apache-2.0", "publisher": "Ada <ada@example.com>"},
        }
    )
    kept = next(each for each in whole["results"] if each["variant"] == "student fp32")
    whole["project"] |= {"name": "tiny", "version": version, "settings": settings.model_dump(mode="json")}
    whole["data"] |= {"image_shape": [4, 4, 1]}
    network = {"name": "model", "input_shape": SHAPE, "opset": 18, "parameters": 64, "macs": 64}
    whole["networks"] = [whole["networks"][1] | network]
    whole["structure"] = None
    whole["targets"] = [
        whole["targets"][1]
        | {"name": name, "device": device, "toolchain": toolchain, "products": ["model fp32"]}
        | {"headlines": ["fast"], "fingerprint": cpu_fingerprint()}
        for name in TARGETS
    ]
    own = {"variant": "model fp32", "network": "model", "precision": "fp32", "role": "product"}
    whole["results"] = [kept | own | {"target": name, "speedups": []} for name in TARGETS]
    for result in whole["results"]:
        # Promises that any machine keeps, however busy.
        result["latency"] |= {"median_ms": 1000.0, "median_interval_ms": [990.0, 1010.0]}
        result["engine"] |= {"sha256": dict(engines[result["target"]].files)}
    gate = whole["gates"][0]
    whole["gates"] = [gate | {"name": "simplify model"}]
    whole["gates"] += [gate | {"name": f"compile {name} model fp32"} for name in TARGETS]
    machine = next(iter(whole["environments"].values()))
    whole["environments"] = dict.fromkeys(TARGETS, machine)
    return whole


def mkdir(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
