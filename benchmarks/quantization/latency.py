"""Latency on OpenVINO's CPU plugin, one thread: our INT8 against NNCF's and the float twin, interleaved.

    python -m benchmarks.quantization.latency [--cache FOLDER] [--peer-python PYTHON] [--networks A B]

The float twin is pinned to f32: on CPUs that have bf16, OpenVINO would take that without being asked. INT8 is
made for this CPU: 7-bit weights and asymmetric activations where it lacks VNNI.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.quantization.__main__ import CACHE
from benchmarks.quantization.child import run_method
from benchmarks.quantization.images import calibration_batches
from benchmarks.quantization.networks import NETWORKS, Network, float_model
from targets.cpu import ROOT, cpu_flags
from targets.measure import MeasureSettings, compare_turns, speedup, timed

SETTINGS = MeasureSettings(min_samples=200, min_s=10.0, max_s=120.0)
IMAGES = 16


def main() -> None:
    """Make what is missing, time it, and write OUT.json and OUT.md."""
    arguments = _arguments()
    rows = [time_network(NETWORKS[name], arguments) for name in arguments.networks]
    document = {
        "rows": rows,
        "settings": asdict(SETTINGS),
        "machine": {"processor": platform.processor() or platform.machine(), "vnni": has_vnni()},
        "versions": {name: version(name) for name in ("edgewright", "openvino")},
    }
    arguments.out.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    arguments.out.with_suffix(".md").write_text(markdown(rows), encoding="utf-8")


def time_network(network: Network, arguments: argparse.Namespace) -> dict[str, Any]:
    """Time one network in every form.

    Returns:
        median milliseconds with intervals, and what ours is faster by than the others, paired block by block.
    """
    made = {
        "float f32": float_model(network, arguments.cache),
        "edgewright int8": _made(network, "edgewright plain", Path(sys.executable), arguments.cache),
        "nncf int8": _made(network, "nncf fast", arguments.peer_python, arguments.cache),
    }
    batches = calibration_batches(network, arguments.cache, 1)
    inputs = [batches[index]["input"] for index in range(IMAGES)]
    timings = compare_turns({name: timed(open_model(path), inputs) for name, path in made.items()}, SETTINGS)
    for name, timing in timings.items():
        print(f"{network.name} {name}: {timing.median_ms:.2f} ms {timing.median_interval_ms}", flush=True)
    ours = timings["edgewright int8"]
    return {
        "network": network.name,
        "median_ms": {name: timing.median_ms for name, timing in timings.items()},
        "median_interval_ms": {name: timing.median_interval_ms for name, timing in timings.items()},
        "samples": {name: timing.samples for name, timing in timings.items()},
        "ours_faster_than": {
            name: speedup(timing.samples_ms, ours.samples_ms, SETTINGS)._asdict()
            for name, timing in timings.items()
            if timing is not ours
        },
    }


def open_model(path: Path) -> Callable[[NDArray[np.float32]], object]:
    """Open a model on one thread, float parts in f32, batch 1."""
    import openvino

    core = openvino.Core()
    model = core.read_model(str(path))
    model.reshape([1, *model.input().get_partial_shape()[1:]])
    properties = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
    request = core.compile_model(model, "CPU", properties).create_infer_request()
    return lambda image: request.infer(image)


def has_vnni() -> bool:
    """Say whether this CPU adds products of bytes in 32 bits."""
    return bool({"avx512_vnni", "avx_vnni"} & cpu_flags(ROOT))


def markdown(rows: list[dict[str, Any]]) -> str:
    """Return the table: milliseconds, and our speed relative to NNCF's."""
    lines = ["| | float f32 | NNCF int8 | edgewright int8 | NNCF's time / ours |", "|---|---|---|---|---|"]
    for row in rows:
        median, against = row["median_ms"], row["ours_faster_than"]["nncf int8"]
        low, high = against["interval"]
        lines.append(
            f"| {row['network']} | {median['float f32']:.2f} ms | {median['nncf int8']:.2f} ms | "
            f"{median['edgewright int8']:.2f} ms | {against['ratio']:.2f} ({low:.2f} to {high:.2f}) |"
        )
    return "\n".join(lines) + "\n"


def _made(network: Network, method: str, python: Path, cache: Path) -> Path:
    bits = 8 if has_vnni() else 7
    out = cache / f"{network.name}.{method.replace(' ', '-')}.u8.{bits}"
    ready = [path for suffix in (".onnx", ".xml") if (path := out.with_name(out.name + suffix)).exists()]
    return (
        ready[0] if ready else Path(run_method(python, cache, network.name, method, "u8", bits, out)["path"])
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cache", type=Path, default=CACHE, help="where the models lie")
    parser.add_argument("--peer-python", type=Path, default=Path(sys.executable), help="has NNCF")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "latency", help="without suffix")
    return parser.parse_args()


if __name__ == "__main__":
    main()
