"""Mixed precision of a build's student: float, INT8, and three sizes, with and without labels.

    python -m benchmarks.quantization.demo BUILD_FILE [--averages 5 4 3] [--out …]

Takes the student of a build that labels its data (examples/footwear), reusing what is in its store. Bits are
chosen by the unlabelled Fisher estimate, and by the labelled scores of the student's own channels; all plans
start from the same repaired INT8 model. The test split is used for the reported figures alone.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from calibration.best import quantize_best
from calibration.load import load
from calibration.mixed import Measured, lower, measure
from calibration.noise import measure_power
from calibration.packing import pack_file
from calibration.plan import BitsPlan
from calibration.ranges import Batch
from calibration.scores import load_scores, rescaled
from calibration.simulate import output_distance, simulate
from pipeline.compress.bit_scores import write_bit_scores
from pipeline.compress.evidence import Evidence
from pipeline.compress.groups import find_groups
from pipeline.compress.importance import rank
from pipeline.compress.readers import find_readers
from pipeline.compress.scores import GroupScores, Scores
from pipeline.fit import Examples
from pipeline.session import Session
from pipeline.stages.data import read_preprocess, read_split
from pipeline.stages.loading import input_shape, load_network, some
from pipeline.task import Task
from pipeline.wiring.request import torch_inputs
from targets.capability import QuantizationConvention

CONVENTION = QuantizationConvention(
    activations="uint8-asymmetric", weight_bits=8, quantize_residual_inputs=False
)
STUDENT = "student"
CRITERIA = ("fisher", "di-greedy", "discriminant-reconstruction")
CALIBRATION, SCORED, BATCH = 512, 4096, 64


@dataclass(frozen=True)
class Product:
    """What a build left of its student.

    Args:
        model: simplified ONNX file.
        data: folder of the splits.
        task: its classes.
        session: the build.
    """

    model: Path
    data: Path
    task: Task
    session: Session


def open_build(build_file: Path) -> Product:
    """Run what a build lacks up to the student's ONNX file."""
    # Many images at a time: what is measured here are values, not times.
    session = Session(build_file, overrides={"export.dynamic_batch": True})
    entries = session.run_only(f"simplify {STUDENT}")
    return Product(
        entries[f"simplify {STUDENT}"].out / "model.onnx",
        entries["data"].out,
        Task.load(entries["task"].out / "task.json"),
        session,
    )


def inputs(product: Product, split: str, count: int) -> tuple[list[Batch], NDArray[np.int64]]:
    """Prepare evenly spread images of the task's classes, and their labels as the student numbers them."""
    images, labels = read_split(product.data / split)
    labels = product.task.translate(labels)
    mine = np.flatnonzero(labels >= 0)
    chosen = mine[np.linspace(0, len(mine) - 1, min(count, len(mine))).round().astype(int)]
    preprocess = read_preprocess(product.data / "preprocess.json")
    name = onnx.load(product.model).graph.input[0].name
    starts = range(0, len(chosen) - len(chosen) % BATCH, BATCH)
    batches: list[Batch] = [
        {name: preprocess(np.asarray(images[chosen[start : start + BATCH]]))} for start in starts
    ]
    return batches, labels[chosen[: len(starts) * BATCH]]


def labelled_scores(product: Product, criterion: str, batches: list[Batch], out: Path) -> None:
    """Score the trained student's channels by a criterion that sees labels, as sensitivities of its file."""
    entries = product.session.runner.entries
    paths = {name: entries[ref.stage].out / ref.artefact for name, ref in torch_inputs(STUDENT).items()}
    network = load_network(product.session.request.model(), paths, network=STUDENT)
    shape = input_shape(paths["facts"])
    groups = find_groups(network, shape)
    images, labels = read_split(product.data / "train")
    translated = product.task.translate(labels)
    mine = np.flatnonzero(translated >= 0)
    chosen = mine[np.linspace(0, len(mine) - 1, SCORED).round().astype(int)]
    examples = Examples(
        np.asarray(images[chosen]), translated[chosen], read_preprocess(product.data / "preprocess.json")
    )
    readers = find_readers(network, groups, shape)
    evidence = Evidence(network, groups, readers, some(examples, SCORED), len(product.task.outputs), 0)
    removal = rank(criterion, evidence)
    scores = Scores(criterion=criterion, groups=[GroupScores.of(one, removal[one.leader]) for one in groups])
    write_bit_scores(scores, network, product.model, batches, out)


@dataclass(frozen=True)
class Bench:
    """The student, ready for plans.

    Args:
        product: the student.
        batches: calibration inputs.
        measured: its float twin.
        int8: its repaired INT8 file.
        folder: for what is written.
    """

    product: Product
    batches: list[Batch]
    measured: Measured
    int8: Path
    folder: Path

    def plans(self, averages: list[float]) -> Iterator[tuple[str, float, BitsPlan]]:
        """Yield what the bits are chosen by, their average, and the plan."""
        known = {"fisher, no labels": self.measured}
        power = {name: layer.power for name, layer in self.measured.noise.items()}
        before = measure_power(load(self.product.model), list(power), self.batches)
        for criterion in CRITERIA:
            path = self.folder / f"{criterion}.npz"
            labelled_scores(self.product, criterion, self.batches, path)
            given = rescaled(load_scores(path, self.measured.noise), before, power)
            known[f"{criterion}, labels"] = replace(self.measured, sensitivity=criterion, scores=given)
        for average in averages:
            if average == int(average):
                bits = {name: np.full(len(value), int(average)) for name, value in power.items()}
                yield "uniform", average, BitsPlan.of(self.measured.graph, "uniform", bits)
            for name, measured in known.items():
                yield name, average, measured.plan(average)

    def lowered(self, plan: BitsPlan) -> Path:
        """Write a plan's model."""
        out = self.folder / "mixed.onnx"
        lower(self.measured, self.int8, plan, self.batches, out)
        return out


def prepare(product: Product, folder: Path) -> Bench:
    """Quantize the student to INT8 with every repair, and measure its float twin."""
    batches, _ = inputs(product, "calibrate", CALIBRATION)
    int8, twin = folder / "int8.onnx", folder / "float.onnx"
    quantize_best(product.model, batches, CONVENTION, int8, twin)
    return Bench(product, batches, measure(twin, batches), int8, folder)


def run(build_file: Path, averages: list[float]) -> list[dict[str, Any]]:
    """Return a row for float, INT8 and every plan."""
    product = open_build(build_file)
    tests, labels = inputs(product, "test", 1 << 30)
    reference = simulate(load(product.model).model, tests)
    scores = next(iter(reference.values()))

    def row(name: str, average: float, model: Path, size: int) -> dict[str, Any]:
        got = reference if model == product.model else simulate(onnx.load(model), tests)
        answers = next(iter(got.values())).argmax(1)
        found = {
            "bits_by": name,
            "average_bits": average,
            "bytes": size,
            "accuracy": 100.0 * float(np.mean(answers == labels)),
            "agreement": 100.0 * float(np.mean(answers == scores.argmax(1))),
            "kl": output_distance(reference, got),
            "test_images": len(labels),
        }
        print(found, flush=True)
        return found

    with TemporaryDirectory() as scratch:
        bench = prepare(product, Path(scratch))
        packed = bench.folder / "model.packed"
        rows = [
            row("float", 32.0, product.model, product.model.stat().st_size),
            row("INT8", 8.0, bench.int8, pack_file(bench.int8, packed).packed_bytes),
        ]
        for name, _, plan in bench.plans(averages):
            model = bench.lowered(plan)
            rows.append(row(name, plan.average_bits, model, pack_file(model, packed).packed_bytes))
    return rows


def markdown(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a table."""
    lines = ["| bits a weight | chosen by | packed bytes | accuracy % | as float % | KL |", "|---" * 6 + "|"]
    lines += [
        f"| {row['average_bits']:.2f} | {row['bits_by']} | {row['bytes']:,} | {row['accuracy']:.2f} "
        f"| {row['agreement']:.2f} | {row['kl']:.5f} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run all rows and write OUT.json and OUT.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("build_file", type=Path)
    parser.add_argument("--averages", nargs="+", type=float, default=[5.0, 4.0, 3.0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "demo", help="without suffix")
    arguments = parser.parse_args()
    rows = run(arguments.build_file, arguments.averages)
    text = json.dumps({"build": arguments.build_file.name, "rows": rows}, indent=1) + "\n"
    arguments.out.with_suffix(".json").write_text(text, encoding="utf-8")
    arguments.out.with_suffix(".md").write_text(markdown(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
