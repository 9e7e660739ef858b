"""Calibration: one pass of real inputs through the float model, then a scale and zero-point a tensor."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from calibration.batches import BatchCheck, single_inputs
from calibration.clipping import (
    affine,
    entropy_range,
    least_cost_range,
    least_squares_range,
    min_max_range,
    percentile_range,
)
from calibration.external import open_session
from calibration.graph import FloatGraph
from calibration.histogram import Histogram
from calibration.importance import Importance, weigh
from calibration.load import load
from calibration.observations import Observations
from calibration.placement import place
from targets.errors import ConfigError, DataError, ModelError

if TYPE_CHECKING:
    from targets.capability import QuantizationConvention

Method = Literal["minmax", "percentile", "entropy", "mse", "importance"]
REFUSALS = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)
Batch = Mapping[str, NDArray[np.generic]]
# Values of a tensor counted for each input, about; extremes are taken from all of them.
COUNTED = 16384


class Affine(NamedTuple):
    """A quantizer: real = (stored − zero_point) · scale.

    Args:
        scale: a float32 value.
        zero_point: stored value of real 0.
    """

    scale: float
    zero_point: int


def collect(
    model: Path, batches: Iterable[Batch], progress: Callable[[int], None] | None = None
) -> Observations:
    """Run the calibration inputs through the float model once and observe every tensor that may be quantized.

    Memory: one histogram of fixed size a tensor, and the activations of one batch.

    Args:
        model: float ONNX file.
        batches: input name → array [N, …] of the model's element type, one mapping a batch; unlabelled.
        progress: called with the number of inputs seen so far.

    Raises:
        ModelError: the model cannot be read, is quantized already, has nothing to quantize, does not run in
            ONNX Runtime, or computes NaN or infinity from finite inputs.
        DataError: no inputs, inputs that do not fit the model or are not finite, or a tensor that never
            changes.
    """
    observed = collect_part(model, batches, progress)
    _refuse_constant(observed.histograms)
    return observed


def collect_part(
    model: Path, batches: Iterable[Batch], progress: Callable[[int], None] | None = None
) -> Observations:
    """Observe some of the calibration inputs, for `join`; arguments and errors as of `collect`.

    A tensor may be the same for all of them.
    """
    graph = load(model)
    tensors = place(graph).tensors
    if not tensors:
        raise ModelError(
            "nothing in this model can be quantized",
            where=str(model),
            mend="give a model with Conv, Gemm or MatMul",
        )
    check = BatchCheck(graph)
    histograms = {name: Histogram() for name in tensors}
    seen = 0
    for values in tensor_values(graph, model, tensors, batches, check):
        for name, histogram in histograms.items():
            _count(name, histogram, values[name])
        if progress is not None:
            seen += len(next(iter(values.values())))
            progress(seen)
    return Observations(histograms, check.samples, check.digest(), graph.sha256)


def join(model: Path, parts: Iterable[Observations], batches: Iterable[Batch]) -> Observations:
    """Put together what several saw of the calibration inputs: exactly what `collect` sees in one pass.

    Args:
        model: the file all of them observed.
        parts: of `collect_part`, in any number and order.
        batches: all inputs in order, for their digest.

    Raises:
        DataError: no inputs, or a tensor that never changes.
    """
    check = BatchCheck(load(model))
    for batch in batches:
        check.add(batch)
    whole: Observations | None = None
    for part in parts:
        whole = part if whole is None else whole.merged(part)
    if whole is None:
        raise DataError("there is no calibration data", mend=f"give batches of inputs; {check.wanted()}")
    _refuse_constant(whole.histograms)
    return replace(whole, inputs_sha256=check.digest())


def weigh_values(
    model: Path,
    observations: Observations,
    batches: Iterable[Batch],
    progress: Callable[[int], None] | None = None,
) -> Observations:
    """Return observations that also know how much an error in each value matters, for method "importance".

    Args:
        model: the file that was observed.
        observations: from `collect`.
        batches: some tens of inputs, unlabelled.
        progress: called with the number of inputs seen.

    Raises:
        ModelError: an operator between a quantized tensor and the output has no gradient rule.
    """
    return replace(observations, importance=weigh(load(model), observations, batches, progress))


def choose(
    observations: Observations,
    method: Method,
    convention: QuantizationConvention,
    percentile: float = 99.99,
) -> dict[str, Affine]:
    """Choose a scale and zero-point for every observed tensor, each for itself.

    Args:
        observations: from `collect`.
        method: "minmax", the whole range; "percentile", all but 100 − `percentile` percent of the values at
            either end; "entropy", the range that keeps the distribution best; "mse", the one with the
            smallest mean squared error; "importance", the one that disturbs the network's outputs least, for
            tensors that `weigh_values` has seen, and "mse" for others.
        convention: int8 with zero-point 0, or uint8.
        percentile: of method "percentile".

    Raises:
        ConfigError: no such method, or a percentile outside (50, 100].
    """
    return {
        name: choose_one(histogram, method, convention, percentile, observations.importance.get(name))
        for name, histogram in observations.histograms.items()
    }


def choose_one(
    histogram: Histogram,
    method: Method,
    convention: QuantizationConvention,
    percentile: float = 99.99,
    importance: Importance | None = None,
) -> Affine:
    """Choose a scale and zero-point for one histogram; arguments and errors as in `choose`."""
    symmetric = convention.activations == "int8-symmetric"
    if method == "minmax":
        low, high = min_max_range(histogram)
    elif method == "percentile":
        if not 50.0 < percentile <= 100.0:
            raise ConfigError(
                f"percentile is {percentile}", mend="give a value above 50 and up to 100, such as 99.99"
            )
        low, high = percentile_range(histogram, percentile, symmetric)
    elif method == "entropy":
        low, high = entropy_range(histogram, symmetric)
    elif method == "importance" and importance is not None:
        low, high = least_cost_range(histogram, importance, symmetric)
    elif method in ("mse", "importance"):
        low, high = least_squares_range(histogram, symmetric)
    else:
        raise ConfigError(
            f"there is no range method {method!r}",
            mend=f"use one of {', '.join(get_args(Method))}",
        )
    scale, zero = affine(np.array([low]), np.array([high]), symmetric)
    return Affine(float(scale[0]), int(zero[0]))


def _session(graph: FloatGraph, tensors: Iterable[str], where: Path) -> ort.InferenceSession:
    """Open the prepared model with every tensor to observe as an output, which no optimisation removes."""
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    fed = {value.name for value in graph.inputs}
    for name in tensors:
        if name not in graph.outputs and name not in fed:
            model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    options = ort.SessionOptions()
    options.log_severity_level = 3
    try:
        return open_session(model, options)
    except REFUSALS as error:
        raise ModelError(
            f"ONNX Runtime cannot run the model: {error}",
            where=str(where),
            mend="simplify or export it again",
        ) from error


def tensor_values(
    graph: FloatGraph,
    model: Path,
    tensors: Sequence[str],
    batches: Iterable[Batch],
    check: BatchCheck | None = None,
) -> Iterator[dict[str, NDArray[np.float32]]]:
    """Run inputs through a float model in ONNX Runtime, one by one if it takes that.

    Yields the values of some of its tensors; nobody has looked whether they are finite.

    Args:
        graph: prepared float model.
        model: the file it was read from, for messages.
        tensors: float32 tensors computed at run time, model inputs included.
        batches: as for `collect`.
        check: counts the inputs and takes their digest.

    Raises:
        ModelError, DataError: as `collect` does.
    """
    check = check or BatchCheck(graph)
    session = _session(graph, tensors, model)
    for batch in single_inputs(graph, map(check.add, batches)):
        computed = [name for name in tensors if name not in batch]
        # Asked for no tensor at all, ONNX Runtime computes every output.
        outputs = session.run(computed, dict(batch)) if computed else []
        values = {**batch, **dict(zip(computed, outputs, strict=True))}
        yield {name: values[name] for name in tensors}
    if not check.samples:
        raise DataError("there is no calibration data", mend=f"give batches of inputs; {check.wanted()}")


def _count(name: str, histogram: Histogram, values: NDArray[np.float32]) -> None:
    try:
        histogram.add(values, _every(values))
    except ValueError as error:
        raise not_finite(name, str(error)) from error


def not_finite(tensor: str, kind: str) -> ModelError:
    """Return the error of a tensor that becomes "NaN" or "infinity"."""
    return ModelError(
        f"tensor {tensor!r} becomes {kind} on the calibration data",
        where=tensor,
        mend="look for a division or overflow before it, or leave out the inputs that cause it",
    )


def _every(values: NDArray[np.float32]) -> int:
    """Return the step at which an input's values are counted, one that skips no row or channel regularly."""
    size = values[:1].size
    step = max(1, size // COUNTED)
    while math.gcd(step, size) > 1:
        step += 1
    return step


def _refuse_constant(histograms: Mapping[str, Histogram]) -> None:
    for name, histogram in histograms.items():
        if histogram.minimum == histogram.maximum:
            raise DataError(
                f"tensor {name!r} is {histogram.minimum:g} for every calibration input",
                where=name,
                mend="calibrate with real, varied inputs; if they are, the network is dead at this point",
            )
