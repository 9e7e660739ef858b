"""Our median against benchmark_app's, on the same engines with the same settings, in turns.

    python benchmarks/measure_crosscheck.py [--rounds 12] [--seconds 1] [--out FILE.json]

Each side runs in processes of its own, A B B A A B …: ours as `edgewright bench` times an engine, OpenVINO's
benchmark_app synchronously with one request. Both read the same IR, precision, streams and threads pinned
alike, and one input. benchmark_app sets it once and reads a request's own clock; ours hands it over with each
call and stands around that, so it has what an application pays besides. The ratio is the median of the
rounds' ratios, with its distribution-free 95 % interval (two of their order statistics): on a machine with
neighbours single rounds go astray. `quietest` compares the least median of either side. The aim is a ratio
within 3 %.

`in_process` compares both ways of asking sample by sample: ours against a request whose tensors are set and
which is read by its own clock, as benchmark_app does it, in turns in one process. Neighbours weigh on both.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from targets import environment
from targets.measure import MeasureSettings, compare, compare_turns, speedup, timed
from targets.tensors import sample_inputs
from targets.toolchain import Engine, EngineOptions, load_toolchain

AIM = 0.03
Z_95 = 1.96
SHAPES = {"mobilenet_v2 96 × 96": 96, "mobilenet_v2 128 × 128": 128}


def main() -> None:
    """Run the rounds for every engine and write what came of them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--ours", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.ours:
        sys.stdout.write(json.dumps(ours(chosen.ours, chosen.seconds)))
        return
    before = environment.state()
    with tempfile.TemporaryDirectory() as place:
        cells = [
            cell(name, build(Path(place, str(size)), size), chosen.rounds, chosen.seconds)
            for name, size in SHAPES.items()
        ]
    document = {
        "aim": AIM,
        "cells": cells,
        "settings": {"precision": "f32", "streams": 1, "threads": 1, "seconds": chosen.seconds},
        "openvino": version("openvino"),
        "machine": environment.facts(),
        "before": before,
        "after": environment.state(),
    }
    chosen.out.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for each in cells:
        print(
            f"{each['engine']}: {each['ratio']:.4f} {each['interval']}, quietest {each['quietest']:.4f}",
            each["in_process"],
        )


def build(folder: Path, size: int) -> Path:
    """Compile a network of random weights for images of `size` × `size` pixels."""
    import torch

    from pipeline.export import export
    from pipeline.zoo import mobilenet_v2

    torch.manual_seed(0)
    (folder / "engine").mkdir(parents=True)
    network = mobilenet_v2(classes=10, channels=3).eval()
    shape = (1, 3, size, size)
    export(network, shape, folder / "model.onnx", exporter="legacy", opset=17, dynamic_batch=False)
    toolchain = load_toolchain("openvino")
    toolchain.compile(folder / "model.onnx", "this-machine", EngineOptions("fp32", 1), folder / "engine")
    return folder / "engine"


def cell(name: str, engine: Path, rounds: int, seconds: float) -> dict[str, Any]:
    """Take turns, and compare."""
    medians: dict[str, list[float]] = {"ours": [], "benchmark_app": []}
    sides = {"ours": _ours_apart, "benchmark_app": benchmark_app}
    for number in range(rounds):
        for side in sides if number % 2 == 0 else reversed(sides):
            medians[side].append(sides[side](engine, seconds))
    ratios = np.sort(np.array(medians["ours"]) / np.array(medians["benchmark_app"]))
    lowest = max(0, math.floor((rounds - Z_95 * math.sqrt(rounds)) / 2) - 1)
    ratio = float(np.median(ratios))
    apart = np.median(medians["ours"]) - np.median(medians["benchmark_app"])
    return {
        "engine": name,
        "median_ms": medians,
        "ratio": ratio,
        "interval": [float(ratios[lowest]), float(ratios[rounds - 1 - lowest])],
        "quietest": min(medians["ours"]) / min(medians["benchmark_app"]),
        "difference_us": 1e3 * float(apart),
        "within_aim": abs(ratio - 1) <= AIM,
        "in_process": in_process(engine, seconds),
    }


def ours(engine: Path, seconds: float) -> float:
    """Return the median of an engine as `edgewright bench` measures it, in milliseconds."""
    loaded = Engine.load(engine)
    runner = load_toolchain("openvino").open(loaded)
    inputs = [sample_inputs(loaded.inputs)]
    settings = MeasureSettings(min_samples=100, min_s=seconds)
    median = compare({"engine": runner}, {"engine": inputs}, settings)["engine"].median_ms
    runner.close()
    return median


def in_process(engine: Path, seconds: float) -> dict[str, Any]:
    """Compare our way of asking with benchmark_app's, in turns: ratio and its paired interval."""
    loaded = Engine.load(engine)
    runner = load_toolchain("openvino").open(loaded)
    inputs = [sample_inputs(loaded.inputs)]
    request = _request(engine, next(iter(inputs[0].values())))

    def asked() -> float:
        request.infer()
        return float(request.latency)

    turns = {"ours": timed(runner.infer, inputs), "benchmark_app": asked}
    settings = MeasureSettings(min_samples=300, min_s=4 * seconds)
    timings = compare_turns(turns, settings)
    runner.close()
    found = speedup(timings["ours"].samples_ms, timings["benchmark_app"].samples_ms, settings)
    return {"ratio": found.ratio, "interval": list(found.interval), "samples": timings["ours"].samples}


def _request(engine: Path, array: Any) -> Any:
    """A request of the engine's IR, compiled as benchmark_app does, with its input set."""
    import openvino

    core = openvino.Core()
    pinned = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
    request = core.compile_model(core.read_model(engine / "model.xml"), "CPU", pinned).create_infer_request()
    request.get_input_tensor().data[:] = array
    return request


def _ours_apart(engine: Path, seconds: float) -> float:
    command = [sys.executable, __file__, "--ours", str(engine), "--seconds", str(seconds)]
    return float(json.loads(_run(command)))


def benchmark_app(engine: Path, seconds: float) -> float:
    """Return the median latency benchmark_app prints, in milliseconds."""
    command = [str(Path(sys.executable).with_name("benchmark_app")), "-m", str(engine / "model.xml")]
    command += ["-d", "CPU", "-api", "sync", "-hint", "none", "-nireq", "1", "-nstreams", "1"]
    command += ["-nthreads", "1", "-infer_precision", "f32", "-t", str(max(1, round(seconds)))]
    found = re.search(r"Median:\s+([\d.]+) ms", _run(command))
    if found is None:
        raise SystemExit("benchmark_app printed no median")
    return float(found[1])


def _run(command: list[str]) -> str:
    paths = os.pathsep.join(filter(None, (str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH"))))
    variables = {**os.environ, "PYTHONPATH": paths}
    run = subprocess.run(command, capture_output=True, text=True, env=variables, check=False)
    if run.returncode:
        raise SystemExit(f"{command[0]} failed: {run.stdout[-500:]} {run.stderr[-500:]}")
    return run.stdout


if __name__ == "__main__":
    main()
