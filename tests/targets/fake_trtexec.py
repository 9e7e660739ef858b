#!/usr/bin/env python3
"""A program that takes trtexec's flags and doubles its input; FAKE_BANNER says which version it is."""

import json
import os
import sys
from pathlib import Path

BANNER = os.environ["FAKE_BANNER"]
FLAGS = dict(argument.partition("=")[::2] for argument in sys.argv[1:])


def say(text, severity="I"):
    sys.stdout.write(f"[01/02/2026-03:04:05] [{severity}] {text}\n")


def version():
    number = int(BANNER.split("]")[0][1:])
    digits = 10_000 if number >= 100_000 else 1000
    step = 100 if number >= 100_000 else 10
    return number // digits, number // 100 % step, number % 100


def build():
    head = bytearray(64)
    head[8] = 205
    head[24:27] = bytes(version())
    if "FAKE_UNSTEADY" in os.environ:
        head[40:48] = os.urandom(8)
    Path(FLAGS["--saveEngine"]).write_bytes(bytes(head))
    cache = Path(FLAGS["--timingCacheFile"])
    cache.write_bytes((cache.read_bytes() if cache.exists() else b"") + b"tactics")
    layer = {"Name": "conv + relu", "LayerType": "CaskConvolution", "Weights": {"Type": "Half", "Count": 9}}
    layer["Metadata"] = "[ONNX Layer: /conv/Conv]\x1e[ONNX Layer: /relu/Relu]"
    Path(FLAGS["--exportLayerInfo"]).write_text(json.dumps({"Layers": [layer], "Bindings": ["x", "y"]}))
    if "--useDLACore" in FLAGS:
        left = "Layer 'shuffle' (SHUFFLE): Unsupported on DLA. Switching this layer's device type to GPU."
        say(f"[TRT] {left}", "W")


def run():
    import numpy as np

    file = FLAGS["--loadInputs"].split(":")[1]
    x = np.fromfile(file, np.float32)
    shape = FLAGS.get("--shapes", "x:1x3").split(":")[1]
    if "--exportOutput" in FLAGS:
        values = ", ".join(f"{2 * v:g}" for v in x)
        Path(FLAGS["--exportOutput"]).write_text(
            f'[\n  {{ "name" : "y"\n  , "dimensions" : "{shape}"\n  , "values" : [ {values} ]\n  }}\n]\n'
        )
    if "--dumpRawBindingsToFile" in FLAGS:
        dims = shape.replace("x", ".")
        (2 * x).tofile("y.raw")
        say(f"Writing file for output binding y (with datatype Float and dimensions {dims}) to y.raw")
    if "--exportTimes" in FLAGS:
        rows = [{"computeMs": 0.5, "latencyMs": 1.5 + index} for index in range(int(FLAGS["--iterations"]))]
        Path(FLAGS["--exportTimes"]).write_text(json.dumps(rows))
    if "--exportProfile" in FLAGS:
        rows = [{"count": 30}, {"name": "conv + relu", "timeMs": 3.0, "averageMs": 0.1, "percentage": 100}]
        Path(FLAGS["--exportProfile"]).write_text(json.dumps(rows))


command = f"TensorRT.trtexec [TensorRT {BANNER} # {' '.join(sys.argv)}"
sys.stdout.write(f"&&&& RUNNING {command}\n")
if "--help" in FLAGS:
    sys.stdout.write("=== Model Options ===\n")
    sys.exit(0)
failed = os.environ.get("FAKE_FAILS")
if failed:
    say(failed, "E")
elif "--onnx" in FLAGS:
    build()
else:
    run()
sys.stdout.write(f"&&&& {'FAILED' if failed else 'PASSED'} {command}\n")
sys.exit(1 if failed else 0)
