"""ONNX Runtime's execution providers: which a build of it has, what they are given, what they really ran.

A provider that cannot start is dropped by ONNX Runtime with a line in its log, and the CPU does the work;
nodes that a provider does not take go to the CPU without a word. So both are looked at.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Mapping, NamedTuple, Sequence

from targets.errors import ModelError, ToolchainMissing
from targets.typed import PROVIDERS

CHOICE = "provider"
OPTION = "provider."


class Provider(NamedTuple):
    """An execution provider.

    Args:
        runtime_name: as ONNX Runtime calls it.
        mend: what to install to have it.
    """

    runtime_name: str
    mend: str


KNOWN = {
    "cpu": Provider("CPUExecutionProvider", "pip install onnxruntime"),
    "cuda": Provider(
        "CUDAExecutionProvider", "pip install onnxruntime-gpu, with CUDA and cuDNN of its version"
    ),
    "tensorrt": Provider(
        "TensorrtExecutionProvider", "pip install onnxruntime-gpu, with TensorRT of its version"
    ),
    "openvino": Provider("OpenVINOExecutionProvider", "pip install onnxruntime-openvino"),
    "xnnpack": Provider(
        "XnnpackExecutionProvider", "build ONNX Runtime with --use_xnnpack: no package has it"
    ),
}
CPU = KNOWN["cpu"].runtime_name


def chosen(raw: Mapping[str, str]) -> str:
    """Return the name of the provider that raw options choose; "cpu" by default.

    Raises:
        ModelError: there is none of that name, or options are for no provider.
    """
    name = raw.get(CHOICE, "cpu")
    if name not in KNOWN:
        raise ModelError(
            f"there is no provider {name!r}",
            where=f"raw.{CHOICE}",
            mend=f"choose from: {', '.join(PROVIDERS)}",
        )
    if name == "cpu" and any(key.startswith(OPTION) for key in raw):
        raise ModelError(
            "the CPU provider has no options of its own", where=f"raw.{OPTION}…", mend="leave them out"
        )
    return name


def session_entries(raw: Mapping[str, str]) -> dict[str, str]:
    """Return the raw options that are the session's, not the provider's."""
    return {key: value for key, value in raw.items() if key != CHOICE and not key.startswith(OPTION)}


def session_providers(raw: Mapping[str, str]) -> list[tuple[str, dict[str, str]]]:
    """Return what a session is created with: the provider and its options, and the CPU behind it.

    Raises:
        ModelError: as `chosen`.
        ToolchainMissing: this build of ONNX Runtime lacks the provider.
    """
    import onnxruntime as ort

    name = chosen(raw)
    provider = KNOWN[name]
    if provider.runtime_name not in ort.get_available_providers():
        has = [known for known, each in KNOWN.items() if each.runtime_name in ort.get_available_providers()]
        raise ToolchainMissing(
            f"this ONNX Runtime has no provider {name}; it has: {', '.join(has)}",
            mend=f"{provider.mend}; or choose another provider",
        )
    options = {key[len(OPTION) :]: value for key, value in raw.items() if key.startswith(OPTION)}
    behind: list[tuple[str, dict[str, str]]] = [] if name == "cpu" else [(CPU, {})]
    return [(provider.runtime_name, options), *behind]


def require_started(session: Any, raw: Mapping[str, str]) -> None:
    """Go on only where the session has the provider that was chosen.

    Raises:
        ToolchainMissing: it could not start, and the CPU would do the work.
    """
    name = chosen(raw)
    if KNOWN[name].runtime_name not in session.get_providers():
        raise ToolchainMissing(
            f"the provider {name} does not start here; ONNX Runtime would run on the CPU without a word",
            mend="see that its device and libraries are there; ONNX Runtime said why on standard error",
        )


def what_ran(events: Sequence[Mapping[str, Any]], raw: Mapping[str, str]) -> str:
    """Say by a session's profile how many operators ran where.

    Args:
        events: of ONNX Runtime's profiler.
        raw: the session's options.
    """
    kernels: dict[str, tuple[str, str]] = {}
    for event in events:
        arguments = event.get("args", {})
        if event.get("cat") == "Node" and "provider" in arguments:
            kernels[event["name"]] = (arguments["provider"], arguments.get("op_name", ""))
    counts = Counter(provider for provider, _ in kernels.values())
    name = KNOWN[chosen(raw)].runtime_name
    left = sorted({operator for provider, operator in kernels.values() if provider != name})
    said = ", ".join(f"{count} by {provider}" for provider, count in counts.most_common())
    return f"ran: {said or 'nothing'}" + (f"; not by {name}: {', '.join(left)}" if left else "")
