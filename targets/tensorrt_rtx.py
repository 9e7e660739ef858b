"""TensorRT-RTX: plans for RTX GPUs, built anywhere, run where such a GPU is.

One interface with TensorRT, so one adapter. Its builder times nothing, so it needs no GPU; the GPU
architectures a plan is for are said explicitly, never taken from the machine.
"""

from __future__ import annotations

import platform
from dataclasses import replace

from targets.nvidia.cuda import gpu
from targets.tensorrt import TensorRt
from targets.toolchain import EngineOptions, Probe

# What its plans are portable across by default (TensorRT-RTX support matrix).
ARCHITECTURES = "8.6,8.9,12.0"
CHOICE = "compute_capability"


class TensorRtRtx(TensorRt):
    """The toolchain "tensorrt_rtx": RTX GPUs, fp32, fp16 and int8 (explicit QDQ)."""

    name = "tensorrt_rtx"
    module = "tensorrt_rtx"
    packages = ("tensorrt_rtx", "tensorrt_rtx_cu13", "tensorrt_rtx_cu12")
    install = "pip install tensorrt_rtx_cu13"

    def program(self) -> None:
        """It comes as a Python package alone."""

    def probe(self) -> Probe:
        """Say whether it builds here, without raising."""
        found = super().probe()
        if found.version is None or not found.mend:
            return found
        if gpu() is None and "does not load" not in found.detail:
            detail = f"TensorRT-RTX {found.version}: builds here; engines run on RTX GPUs alone"
            return Probe(True, found.version, detail)
        return found

    def _made_on(self) -> dict[str, str]:
        """The GPU does not matter: a plan says itself which it is for."""
        return {"system": platform.system(), "machine": platform.machine()}

    def obstacle(self, options: EngineOptions) -> str | None:
        """Say why engines cannot run on this machine; None when they can."""
        found, wanted = gpu(), options.raw.get(CHOICE, ARCHITECTURES).split(",")
        if found is None:
            return "there is no NVIDIA GPU with a driver"
        if found.compute_capability not in wanted:
            return f"the engine is for {', '.join(wanted)}, this GPU is {found.compute_capability}"
        return None

    def _require_gpu_to_build(self) -> None:
        """Its builder needs none."""

    def _complete(self, options: EngineOptions) -> EngineOptions:
        return replace(options, raw={CHOICE: ARCHITECTURES, **options.raw})
