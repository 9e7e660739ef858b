"""The Python packages of edgewright's extras: what each is for, and how it is brought in."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

from targets.errors import ToolchainMissing


@dataclass(frozen=True)
class Package:
    """One distribution.

    Args:
        module: it is imported as.
        purpose: what a build does with it.
        extra: of edgewright that brings it.
    """

    module: str
    purpose: str
    extra: str

    @property
    def present(self) -> bool:
        """It is installed; nothing is imported."""
        return importlib.util.find_spec(self.module) is not None

    @property
    def install(self) -> str:
        """The command that brings it in."""
        return f"pip install 'edgewright[{self.extra}]'"


PACKAGES = {
    "torch": Package("torch", "train, slim and export networks", "torch"),
    "torch-pruning": Package("torch_pruning", "slim networks", "torch"),
    "safetensors": Package("safetensors", "read and write weights", "torch"),
    "onnxscript": Package("onnxscript", "the dynamo exporter", "torch"),
    "onnx": Package("onnx", "read and write models", "onnx"),
    "onnxsim": Package("onnxsim", "simplify models", "onnx"),
    "onnxruntime": Package("onnxruntime", "run models and engines", "onnx"),
    "openvino": Package("openvino", "compile and run engines", "openvino"),
    "optuna": Package("optuna", "search among builds", "sweep"),
    "distributed": Package("distributed", "spread builds over machines, by Dask", "sweep"),
    "pillow": Package("PIL", "read image files", "images"),
}


def require(*names: str) -> None:
    """Make sure packages are installed.

    Args:
        names: keys of `PACKAGES`.

    Raises:
        ToolchainMissing: one is not; says which extra brings it.
    """
    for name in names:
        if not PACKAGES[name].present:
            raise ToolchainMissing(
                f"this build needs the Python package {name!r}, which is not installed",
                mend=PACKAGES[name].install,
            )
