"""Mixed bits against uniform bits and other allocations of the same size, all with the same repairs.

    python -m benchmarks.quantization.mixed --images FOLDER [--cache FOLDER] [--networks A B] [--averages 5 4]

Every finished cell is a line of OUT.jsonl; a second call goes on where the first one stopped. OUT.json,
OUT.md and OUT.svg are written from all lines.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks.quantization.images import HELP, Images, load_images
from benchmarks.quantization.measure import logits, quality
from benchmarks.quantization.mixed_report import write_report
from benchmarks.quantization.networks import NETWORKS, float_model
from calibration.bits import Choices, allocate_bits
from calibration.equalize import equalize
from calibration.fisher import responses
from calibration.grid import WIDTHS
from calibration.load import load
from calibration.lower import lower_container
from calibration.mixed import Measured, measure
from calibration.noise import LayerNoise
from calibration.packing import pack_file
from calibration.plan import BitsPlan
from calibration.qdq import quantize
from calibration.ranges import Batch, Method, collect
from calibration.simulate import output_distance, simulate
from targets.capability import QuantizationConvention

Array = NDArray[np.float64]
CONVENTION = QuantizationConvention(
    activations="uint8-asymmetric", weight_bits=8, quantize_residual_inputs=False
)
KINDS = ("mixed", "uniform", "noise-alone", "taylor", "weight-norm", "random")
CACHE = Path.home() / ".cache" / "edgewright" / "networks"
BATCH = 8
# Of the 200 calibration images, those that plans are made with, and of them those for repairs.
FITTED, REPAIRED = 128, 96
# How ranges of activations may be chosen; the rest of the calibration images says which is best.
METHODS: tuple[Method, ...] = ("minmax", "percentile", "mse")


@dataclass(frozen=True)
class Subject:
    """A network, measured for planning, and its images.

    Args:
        name: of `NETWORKS`.
        int8: the plain INT8 model that all plans start from.
        images: the split.
        batches: calibration inputs.
        measured: the equalized float model.
        cache: folder of what was measured.
        reference: logits of the float model on the evaluation images.
    """

    name: str
    int8: Path
    images: Images
    batches: list[Batch]
    measured: Measured
    cache: Path
    reference: NDArray[np.float32]


def subject(name: str, folder: Path, cache: Path) -> Subject:
    """Prepare a network; what takes minutes is kept in the cache."""
    network = NETWORKS[name]
    model, images = float_model(network, cache), load_images(folder, network, cache)
    inputs = images.calibration[:FITTED]
    batches: list[Batch] = [
        {"input": np.asarray(inputs[start : start + BATCH])} for start in range(0, len(inputs), BATCH)
    ]
    twin, int8 = cache / f"{name}.mixed-float.onnx", cache / f"{name}.mixed-int8.onnx"
    if not int8.exists():
        equalize(model, batches, twin)
        _quantize(model, twin, batches, images.calibration[FITTED:], int8)
    kept = cache / f"{name}.mixed-scores.npz"
    if not kept.exists():
        _keep(measure(twin, batches), kept)
    answers = cache / f"{name}.mixed-reference.npy"
    if not answers.exists():
        np.save(answers, logits(model, images.evaluation, optimised=True))
    return Subject(name, int8, images, batches, _kept(twin, kept), cache, np.load(answers))


def _quantize(model: Path, twin: Path, batches: list[Batch], judging: NDArray[np.float32], out: Path) -> None:
    """Write the plain INT8 model with the ranges that bring its outputs closest to the float model's."""
    observations = collect(twin, batches)
    apart: list[Batch] = [{"input": judging}]
    reference = simulate(onnx.load(model), apart)
    least = np.inf
    for method in METHODS:
        trial = out.with_suffix(f".{method}.onnx")
        quantize(twin, observations, CONVENTION, trial, method)
        distance = output_distance(reference, simulate(onnx.load(trial), apart))
        print(f"{out.stem}: {method} ranges, KL {distance:.4f}", flush=True)
        if distance < least:
            least = distance
            trial.replace(out)
        else:
            trial.unlink()


def _keep(measured: Measured, path: Path) -> None:
    arrays: dict[str, Any] = {}
    for name, layer in measured.noise.items():
        arrays[f"noise:{name}"], arrays[f"power:{name}"] = layer.noise, layer.power
        arrays[f"weights:{name}"] = np.array(layer.weights)
        arrays[f"fisher:{name}"] = measured.scores[name]
    np.savez(path, **arrays)


def _kept(twin: Path, path: Path) -> Measured:
    with np.load(path) as file:
        names = [key.removeprefix("noise:") for key in file.files if key.startswith("noise:")]
        noise = {
            name: LayerNoise(
                int(file[f"weights:{name}"]),
                file[f"noise:{name}"],
                file[f"power:{name}"],
                np.zeros(0, np.float32),
            )
            for name in names
        }
        return Measured(load(twin), noise, "fisher", {name: file[f"fisher:{name}"] for name in names})


def scores(subject: Subject, kind: str) -> dict[str, Array]:
    """Return a baseline's scores of output channels; bits grow with the logarithm of the score."""
    noise = subject.measured.noise
    if kind == "random":
        # Spread like that of the mixed plan: one standard deviation is about a bit.
        rng = np.random.default_rng(0)
        return {name: np.exp(rng.normal(0, 1.4, len(layer.power))) for name, layer in noise.items()}
    graph = subject.measured.graph
    nodes = {node.name: node for node in graph.nodes}
    weights = {name: np.asarray(graph.constant(nodes[name].input[1])) for name in noise}
    if kind == "weight-norm":
        return {name: np.sum(value.reshape(len(value), -1) ** 2, axis=1) for name, value in weights.items()}
    kept = subject.cache / f"{subject.name}.mixed-taylor.npz"
    if not kept.exists():
        taylor = responses(graph, weights, subject.batches)
        arrays: dict[str, Any] = {name: value / noise[name].weights for name, value in taylor.items()}
        np.savez(kept, **arrays)
    with np.load(kept) as file:
        return {name: file[name] for name in file.files}


def plan(subject: Subject, kind: str, average: float) -> BitsPlan:
    """Plan for an average number of bits in one of `KINDS`."""
    measured = subject.measured
    if kind == "mixed":
        return measured.plan(average)
    if kind == "uniform":
        bits = {name: np.full(len(layer.power), int(average)) for name, layer in measured.noise.items()}
        return BitsPlan.of(measured.graph, kind, bits)
    if kind == "noise-alone":
        ones = {name: np.ones(len(layer.power)) for name, layer in measured.noise.items()}
        choices = _choices(measured, ones, real=True)
    else:
        choices = _choices(measured, scores(subject, kind), real=False)
    return BitsPlan.of(measured.graph, kind, allocate_bits(choices, WIDTHS, average * measured.weights))


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


def run_cell(subject: Subject, kind: str, average: float, cache: Path) -> dict[str, Any]:
    """Lower a plan and compare it with the float network on images used for nothing else."""
    started = time.process_time()
    chosen = plan(subject, kind, average)
    model = onnx.load(subject.int8)
    lower_container(subject.measured.graph, model, chosen, subject.batches[: REPAIRED // BATCH])
    seconds = time.process_time() - started
    out = cache / f"{subject.name}.mixed-cell.onnx"
    out.write_bytes(model.SerializeToString(deterministic=True))
    sizes = pack_file(out, out.with_suffix(".packed"))
    answers = _answers(model, subject.images.evaluation)
    labels = subject.images.labels
    return {
        "network": subject.name,
        "kind": kind,
        "average": average,
        "average_bits": chosen.average_bits,
        **asdict(quality(subject.reference, answers, labels)),
        "float_top1": quality(subject.reference, subject.reference, labels).top1,
        "packed_bytes": sizes.packed_bytes,
        "weight_bytes": sizes.weight_bytes,
        "int8_bytes": subject.int8.stat().st_size,
        "lowering_cpu_seconds": seconds,
        "calibration_images": FITTED,
        "repair_images": REPAIRED,
        "evaluation_images": len(labels),
    }


def _answers(model: onnx.ModelProto, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the logits of a quantized model, computed as written."""
    batches = [{"input": images[start : start + BATCH]} for start in range(0, len(images), BATCH)]
    return np.asarray(next(iter(simulate(model, batches).values())), np.float32)


def main() -> None:
    """Run the cells that are missing and write the report."""
    arguments = _arguments()
    lines = arguments.out.with_suffix(".jsonl")
    done = [json.loads(line) for line in lines.read_text().splitlines()] if lines.exists() else []
    keys = {(cell["network"], cell["average"], cell["kind"]) for cell in done}
    for name in arguments.networks:
        wanted = [
            (average, kind)
            for average in arguments.averages
            for kind in arguments.kinds
            if (name, average, kind) not in keys
        ]
        if not wanted:
            continue
        prepared = subject(name, arguments.images, arguments.cache)
        for average, kind in wanted:
            cell = run_cell(prepared, kind, average, arguments.cache)
            done.append(cell)
            with lines.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(cell) + "\n")
            print(
                f"{name} {average:g} {kind}: KL {cell['kl']:.4f}, top-1 {cell['top1']:.1f} %, "
                f"float {cell['float_top1']:.1f} %, {cell['lowering_cpu_seconds']:.0f} s",
                flush=True,
            )
    write_report(done, arguments.out)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help=HELP)
    parser.add_argument(
        "--cache", type=Path, default=CACHE, help="where the packages' files lie and models go"
    )
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--averages", nargs="+", type=float, default=[5.0, 4.0])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "mixed", help="without suffix")
    return parser.parse_args()


if __name__ == "__main__":
    main()
