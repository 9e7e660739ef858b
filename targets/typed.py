"""Options that some toolchains have and others lack, under one name each: hint, streams, provider."""

from __future__ import annotations

from typing import Mapping

from targets.errors import ConfigError

# Toolchain → option → the runtime's own name of it, as raw options have it.
RAW_NAMES: dict[str, dict[str, str]] = {
    "openvino": {"hint": "PERFORMANCE_HINT", "streams": "NUM_STREAMS"},
    "onnxruntime": {"provider": "provider"},
}
HINTS = ("latency", "throughput")
# ONNX Runtime's execution providers; targets/providers.py says what they need.
PROVIDERS = ("cpu", "cuda", "tensorrt", "openvino", "xnnpack")


def as_raw(toolchain: str, given: Mapping[str, str | int | None]) -> dict[str, str]:
    """Return options as raw ones of a toolchain; None stands for one that is not given.

    Raises:
        ConfigError: the toolchain has no such option.
    """
    names = RAW_NAMES.get(toolchain, {})
    chosen = {option: value for option, value in given.items() if value is not None}
    for option in chosen:
        if option not in names:
            owners = [name for name, options in RAW_NAMES.items() if option in options]
            raise ConfigError(
                f"{toolchain} has no {option}",
                where=option,
                mend=f"leave it out, or choose the toolchain {' or '.join(owners)}",
            )
    return {names[option]: _written(option, value) for option, value in chosen.items()}


def _written(option: str, value: str | int) -> str:
    return str(value).upper() if option == "hint" else str(value)
