"""What a build or a model asks of a device, against what the device can do: every violation, none raised."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Sequence

from packaging.specifiers import SpecifierSet

from targets.conventions import check_convention, is_quantized
from targets.errors import CapabilityError, ModelError
from targets.onnxfile import read_onnx
from targets.operators import check_operators, check_refused, load_table
from targets.violation import Violation

if TYPE_CHECKING:
    from pathlib import Path

    import onnx

    from targets.capability import Capability, Device

# QuantizeLinear has a scale per channel since this opset (ONNX operator changelog).
PER_CHANNEL_OPSET = 13
# Models are lowered to this opset and no further (docs/targets.md).
OLDEST_FORM = 13


def check_request(
    device: Device,
    toolchain: str | None,
    *,
    precisions: Sequence[str],
    opset: int | None,
    dynamic_batch: bool,
    runtime_version: str | None,
    formed: bool = False,
) -> list[Violation]:
    """Check what a build asks for, before any work is done.

    Args:
        device: as `load_device` returns it.
        toolchain: name, or None for the device's first.
        precisions: of the engines to build.
        opset: of the exported ONNX model; None when it is not known yet, as of a model still to be read.
        dynamic_batch: the model takes batches of any size.
        formed: the model is written in the device's form first, which lowers its opset and fixes its batch.
        runtime_version: version installed where the engine is compiled; None when it is not known yet.

    Raises:
        ConfigError: the device has no such toolchain.
    """
    capability = device.capability(toolchain)
    if formed and capability.opset_max >= OLDEST_FORM:
        dynamic_batch = False
        opset = opset and min(opset, capability.opset_max)
    violations = [_precision(capability, precision) for precision in precisions]
    violations += [_shapes(capability, "the batch" if dynamic_batch else "")]
    violations += [_runtime(capability, runtime_version)]
    if opset is not None:
        violations += [_opset(capability, opset), _per_channel(precisions, opset)]
    return [violation for violation in violations if violation]


def check_model(model_path: Path, capability: Capability, memory_mib: Sequence[int] = ()) -> list[Violation]:
    """Check an ONNX file: opset, operators and their limits, shapes, quantization, size.

    Args:
        model_path: the file; external weights are not read.
        capability: what the toolchain can do on the device.
        memory_mib: of the device's modules, smallest first; () when unknown.

    Raises:
        ModelError: the file is missing or no ONNX model.
    """
    model = read_onnx(model_path)
    violations = [_opset(capability, opset.version) for opset in model.opset_import if not opset.domain]
    violations += check_refused(model, capability.unsupported_operators)
    if capability.operators:
        violations += check_operators(model, load_table(capability.operators))
    violations += [_shapes(capability, name) for name in _dynamic_inputs(model.graph)]
    violations += _quantization(capability, model)
    violations += [_memory(model, memory_mib)]
    return [violation for violation in violations if violation]


def falls_back(model_path: Path, capability: Capability) -> list[Violation]:
    """List what the device's DLA does not take, so that it would run on the GPU; [] without a DLA.

    Raises:
        ModelError: the file is missing or no ONNX model.
    """
    if capability.dla is None:
        return []
    model = read_onnx(model_path)
    if is_quantized(model):
        rule = f"the DLA takes no explicit QDQ, only {', '.join(capability.dla.precisions)}"
        return [Violation(rule, "INT8 by QDQ", "use the float model on the DLA")]
    return check_operators(model, load_table(capability.dla.operators))


def require_runnable(model_path: Path, capability: Capability, target: str) -> None:
    """Refuse an ONNX file that a target cannot run.

    Raises:
        CapabilityError: it breaks rules of the target; the message lists all of them.
        ModelError: the file is missing or no ONNX model.
    """
    violations = check_model(model_path, capability)
    if violations:
        raise refused(f"the model cannot run on {target}", violations, str(model_path))


def refused(what: str, violations: Sequence[Violation], where: str) -> CapabilityError:
    """Return one error for all violations, one line each."""
    lines = [f"{what}:", *(f"    {violation}" for violation in violations)]
    return CapabilityError("\n".join(lines), where=where, mend="change the target, or what is asked of it")


def _precision(capability: Capability, precision: str) -> Violation | None:
    if precision in capability.precisions:
        return None
    able = ", ".join(capability.precisions)
    return Violation(f"computes in {able}", precision, f"ask for one of: {able}")


def _opset(capability: Capability, opset: int) -> Violation | None:
    if capability.opset_min <= opset <= capability.opset_max:
        return None
    allowed = f"{capability.opset_min} to {capability.opset_max}"
    return Violation(
        f"takes ONNX opset {allowed}", f"opset {opset}", f"export, or convert the model, to opset {allowed}"
    )


def _per_channel(precisions: Sequence[str], opset: int) -> Violation | None:
    if "int8" not in precisions or opset >= PER_CHANNEL_OPSET:
        return None
    return Violation(
        f"int8 needs ONNX opset {PER_CHANNEL_OPSET} or later (scales per channel)",
        f"opset {opset}",
        f"export at opset {PER_CHANNEL_OPSET} or later",
    )


def _shapes(capability: Capability, dynamic: str) -> Violation | None:
    if capability.shapes == "dynamic" or not dynamic:
        return None
    return Violation("takes static shapes only", f"{dynamic} is dynamic", "export with a fixed shape")


def _runtime(capability: Capability, version: str | None) -> Violation | None:
    if version is None or SpecifierSet(capability.runtime).contains(version, prereleases=True):
        return None
    return Violation(
        f"needs a runtime {capability.runtime}", version, f"install a version {capability.runtime}"
    )


def _quantization(capability: Capability, model: onnx.ModelProto) -> list[Violation]:
    if not is_quantized(model):
        return []
    if capability.quantization is None:
        able = ", ".join(capability.precisions)
        rule = f"computes in {able}, not in int8"
        return [Violation(rule, "explicit QDQ", "give the float model", "QuantizeLinear")]
    return check_convention(model, capability.quantization)


def _memory(model: onnx.ModelProto, memory_mib: Sequence[int]) -> Violation | None:
    """Weights alone must fit; what else an inference takes is not known before it is built."""
    weights = sum(math.prod(tensor.dims) * _element_bytes(tensor) for tensor in model.graph.initializer)
    if not memory_mib or weights < memory_mib[0] << 20:
        return None
    return Violation(
        f"has {memory_mib[0]} MiB of memory in its smallest form",
        f"{weights >> 20} MiB of weights",
        "take a smaller network, or a device file of your own for a larger module",
    )


def _element_bytes(tensor: onnx.TensorProto) -> int:
    from onnx import helper

    try:
        return helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    except (KeyError, ValueError, TypeError) as error:
        raise ModelError(
            f"tensor {tensor.name!r} is of the unknown type {tensor.data_type}", mend="export the model again"
        ) from error


def _dynamic_inputs(graph: onnx.GraphProto) -> list[str]:
    constants = {tensor.name for tensor in graph.initializer}
    return [
        f"input {value.name}"
        for value in graph.input
        if value.name not in constants
        and not all(length.dim_value > 0 for length in value.type.tensor_type.shape.dim)
    ]
