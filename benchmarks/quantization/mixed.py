"""Mixed bits against uniform bits and other allocations of the same size, all with the same repairs.

    python -m benchmarks.quantization.mixed IMAGES --out mixed.json [--networks …] [--averages …] [--kinds …]

Goes on where an interrupted run stopped: what is in the output file is not run again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks.quantization.images import Images, load_images
from benchmarks.quantization.measure import logits, quality
from benchmarks.quantization.networks import NETWORKS, float_model
from calibration.bits import Choices, allocate_bits
from calibration.fisher import responses
from calibration.grid import WIDTHS
from calibration.lower import lower_container
from calibration.mixed import Measured, measure
from calibration.plan import BitsPlan
from calibration.qdq import quantize
from calibration.ranges import Batch, collect
from targets.capability import QuantizationConvention

Array = NDArray[np.float64]
CONVENTION = QuantizationConvention(
    activations="uint8-asymmetric", weight_bits=8, quantize_residual_inputs=False
)
KINDS = ("uniform", "mixed", "noise-alone", "taylor", "weight-norm", "random")
CACHE = Path.home() / ".cache" / "edgewright" / "networks"
BATCH = 8


@dataclass(frozen=True)
class Subject:
    """A network, measured for planning, and its images."""

    model: Path
    int8: Path
    images: Images
    batches: list[Batch]
    measured: Measured
    reference: NDArray[np.float32]


def subject(name: str, folder: Path, cache: Path, calibration: int) -> Subject:
    """Prepare a network: float model, plain INT8 model, noise and sensitivities."""
    network = NETWORKS[name]
    model, images = float_model(network, cache), load_images(folder, network, cache)
    inputs = images.calibration[:calibration]
    batches = [{"input": np.asarray(inputs[i : i + BATCH])} for i in range(0, len(inputs), BATCH)]
    int8 = cache / f"{name}.int8-{calibration}.onnx"
    if not int8.exists():
        quantize(model, collect(model, batches), CONVENTION, int8)
    return Subject(
        model,
        int8,
        images,
        batches,
        measure(model, batches),
        logits(model, images.evaluation, optimised=True),
    )


def scores(subject: Subject, kind: str) -> dict[str, Array]:
    """Return a baseline's scores of output channels; bits grow with the logarithm of the score."""
    measured = subject.measured
    nodes = {node.name: node for node in measured.graph.nodes}
    weights = {name: np.asarray(measured.graph.constant(nodes[name].input[1])) for name in measured.noise}
    rng = np.random.default_rng(0)
    if kind == "random":
        # Spread like that of the mixed plan: one standard deviation is about a bit.
        return {name: np.exp(rng.normal(0, 1.4, len(layer.power))) for name, layer in measured.noise.items()}
    if kind == "weight-norm":
        return {name: np.sum(value.reshape(len(value), -1) ** 2, axis=1) for name, value in weights.items()}
    taylor = responses(measured.graph, weights, subject.batches)
    return {name: value / measured.noise[name].weights for name, value in taylor.items()}


def plan(subject: Subject, kind: str, average: float) -> BitsPlan:
    """Plan for an average number of bits in one of `KINDS`."""
    measured = subject.measured
    if kind == "mixed":
        return measured.plan(average)
    if kind == "uniform":
        bits = {name: np.full(len(layer.power), int(average)) for name, layer in measured.noise.items()}
        return BitsPlan.of(measured.graph, kind, bits)
    budget = average * measured.weights
    if kind == "noise-alone":
        ones = {name: np.ones(len(layer.power)) for name, layer in measured.noise.items()}
        return BitsPlan.of(
            measured.graph, kind, allocate_bits(_choices(measured, ones, True), WIDTHS, budget)
        )
    choices = _choices(measured, scores(subject, kind), False)
    return BitsPlan.of(measured.graph, kind, allocate_bits(choices, WIDTHS, budget))


def _choices(measured: Measured, sensitivity: Mapping[str, Array], real: bool) -> dict[str, Choices]:
    """Return choices with the measured noise, or with noise that falls by 4 a bit for every channel alike."""
    fall = 4.0 ** -np.array(WIDTHS, np.float64)
    return {
        name: Choices(
            layer.weights,
            layer.noise if real else np.tile(fall, (len(layer.power), 1)),
            sensitivity[name],
        )
        for name, layer in measured.noise.items()
    }


def run(subject: Subject, chosen: BitsPlan) -> dict[str, Any]:
    """Lower a plan and compare it with the float network on the evaluation images."""
    model = onnx.load(subject.int8)
    lower_container(subject.measured.graph, model, chosen, subject.batches)
    answers = logits(model, subject.images.evaluation)
    found = quality(subject.reference, answers, subject.images.labels)
    return {"average_bits": chosen.average_bits, **asdict(found)}


def main() -> None:
    """Run what the output file lacks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--averages", nargs="+", type=float, default=[5.0, 4.0])
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--calibration", type=int, default=128, help="images; results keep apart by it")
    arguments = parser.parse_args()
    results = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    for name in arguments.networks:
        wanted = [
            (f"{name} {average:g} {kind} {arguments.calibration}", kind, average)
            for average in arguments.averages
            for kind in arguments.kinds
        ]
        if all(key in results for key, _, _ in wanted):
            continue
        prepared = subject(name, arguments.images, arguments.cache, arguments.calibration)
        for key, kind, average in wanted:
            if key not in results:
                results[key] = run(prepared, plan(prepared, kind, average))
                arguments.out.write_text(json.dumps(results, indent=1) + "\n")
                print(key, results[key], flush=True)


if __name__ == "__main__":
    main()
