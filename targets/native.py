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


def native_precision(toolchain: str, flags: Collection[str]) -> str:
    """Return "bf16", "fp16" or "fp32".

    TensorRT has no default of its own: it computes in the types of the graph.

    Args:
        toolchain: its name.
        flags: of the CPU, as Linux names them.
    """
    for precision, any_of in DEFAULTS.get(toolchain, ()):
        if any_of & set(flags):
            return precision
    return "fp32"
