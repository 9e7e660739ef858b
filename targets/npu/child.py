"""The child process of the native way: python -m targets.npu.child MODEL BLOB PLATFORM."""

from __future__ import annotations

import sys
from pathlib import Path


def compile_blob(model: Path, blob: Path, platform: str) -> None:
    """Compile an ONNX file with the compiler beside the plugin, else with the driver's."""
    from targets.npu.compilers import beside_plugin
    from targets.openvino import open_core

    kind = "PLUGIN" if beside_plugin() else "DRIVER"
    properties = {"NPU_COMPILER_TYPE": kind, "NPU_PLATFORM": platform}
    compiled = open_core().compile_model(str(model), "NPU", properties)
    blob.write_bytes(compiled.export_model().getvalue())


if __name__ == "__main__":
    compile_blob(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
