"""The precision a runtime would compute a float model in, were it not told otherwise."""

from __future__ import annotations

from typing import Collection

# toolchain → precision and the CPU flags any of which makes it the default, first match first. OpenVINO: "on
# CPUs with native bfloat16 or float16 support, inference precision is bf16 or f16 by default" (its CPU
# device documentation); Arm's asimdhp is float16 arithmetic.
DEFAULTS: dict[str, tuple[tuple[str, frozenset[str]], ...]] = {
    "openvino": (
        ("bf16", frozenset({"avx512_bf16", "amx_bf16"})),
        ("fp16", frozenset({"asimdhp"})),
    ),
}
# TensorRT builds half precision wherever the graph lets it; its float twin is fp16 on every device with it.
HALF = frozenset({"tensorrt", "tensorrt-rtx"})


def native_precision(toolchain: str, flags: Collection[str], offered: Collection[str] = ()) -> str:
    """Return "bf16", "fp16" or "fp32".

    Args:
        toolchain: its name.
        flags: of the CPU, as Linux names them.
        offered: precisions of the device with that toolchain.
    """
    if toolchain in HALF:
        return "fp16" if "fp16" in offered else "fp32"
    for precision, any_of in DEFAULTS.get(toolchain, ()):
        if any_of & set(flags):
            return precision
    return "fp32"
