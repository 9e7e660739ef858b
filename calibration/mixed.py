"""Mixed precision from end to end: measure a model once, then plan and lower it for any size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from calibration.bits import Choices, allocate_bits
from calibration.graph import FloatGraph
from calibration.grid import WIDTHS
from calibration.load import load
from calibration.lower import lower_container
from calibration.noise import LayerNoise, measure_noise, measure_power
from calibration.packing import PackedSizes
from calibration.placement import place
from calibration.plan import BitsPlan
from calibration.ranges import Batch
from calibration.scores import Scores, estimate, load_scores, rescaled
from calibration.split import can_split
from targets.errors import ConfigError

# What a channel's width and lowest level take in a packed file, at most, once they differ.
CHANNEL_BYTES = 2
# Averages among which `smallest` looks: quarters of a bit, fewest first.
AVERAGES = tuple(2.25 + 0.25 * step for step in range(24))


@dataclass(frozen=True)
class Measured:
    """What planning needs to know of a model.

    Args:
        graph: the float model, prepared.
        noise: of every layer that can be planned.
        sensitivity: "fisher", "relative-error" or the name of a file.
        scores: sensitivity of every output channel.
    """

    graph: FloatGraph
    noise: dict[str, LayerNoise]
    sensitivity: str
    scores: Scores

    def plan(self, average_bits: float, alignment: int = 1) -> BitsPlan:
        """Plan for an average number of bits a weight.

        Raises:
            ConfigError: fewer than 2 bits a weight.
        """
        if not average_bits >= WIDTHS[0]:
            raise ConfigError(
                f"{average_bits:g} bits a weight cannot be met: weights have at least {WIDTHS[0]}",
                mend=f"allow {WIDTHS[0]}",
            )
        layers = {
            name: Choices(layer.weights, layer.noise, self.scores[name]) for name, layer in self.noise.items()
        }
        bits = allocate_bits(layers, WIDTHS, average_bits * self.weights, alignment)
        return BitsPlan.of(self.graph, self.sensitivity, bits)

    def plan_for_size(self, size_bytes: int, packed: PackedSizes, alignment: int = 1) -> BitsPlan:
        """Plan for a packed file of at most so many bytes.

        Args:
            size_bytes: of the packed file.
            packed: of the plain INT8 model: what is not weights stays about as large.

        Raises:
            ConfigError: the size cannot be met; the message gives the nearest that can.
        """
        rest = packed.packed_bytes - packed.weight_bytes + self.channels * CHANNEL_BYTES
        least = rest + -(-self.weights * WIDTHS[0] // 8)
        if size_bytes < least:
            raise ConfigError(
                f"{size_bytes} bytes cannot be met: at {WIDTHS[0]} bits a weight the file has {least}",
                mend=f"allow {least} bytes, or prune the network first",
            )
        return self.plan(min(8.0, 8.0 * (size_bytes - rest) / self.weights), alignment)

    def can_split(self, node: str) -> bool:
        """Say whether a layer can be split by output channels."""
        return any(item.name == node and can_split(self.graph, item) for item in self.graph.nodes)

    @property
    def channels(self) -> int:
        """Number of output channels that are planned."""
        return sum(len(layer.power) for layer in self.noise.values())

    @property
    def weights(self) -> int:
        """Number of weights that are planned."""
        return sum(layer.weights * len(layer.power) for layer in self.noise.values())


def measure(
    model: Path,
    batches: Sequence[Batch],
    weight_bits: int = 8,
    scores: Path | None = None,
    ignore: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
    original: Path | None = None,
) -> Measured:
    """Measure what every width costs every channel of a model.

    Args:
        model: float ONNX file.
        batches: calibration inputs.
        weight_bits: of the convention: 8, or 7 on CPUs without VNNI.
        scores: file of sensitivities; without it they are estimated, unlabelled.
        ignore: layers that stay float, as for `qdq.quantize`.
        progress: called with layers done and layers in all.
        original: float ONNX file that the scores were made for, where `model` is its equalized twin.

    Raises:
        ModelError, ConfigError, DataError: as `load`, `place` and `load_scores`.
    """
    graph = load(model)
    layers = [layer.node.name for layer in place(graph, ignore=ignore).layers]
    noise = measure_noise(graph, layers, batches, 2 ** (weight_bits - 1) - 1, progress)
    if scores is not None:
        given = load_scores(scores, noise)
        if original is not None:
            power = {name: layer.power for name, layer in noise.items()}
            given = rescaled(given, measure_power(load(original), list(noise), batches), power)
        return Measured(graph, noise, scores.name, given)
    return Measured(graph, noise, *estimate(graph, noise, batches))


def lower(
    measured: Measured,
    quantized: Path,
    plan: BitsPlan,
    batches: Sequence[Batch],
    out: Path,
    weight_bits: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write the QDQ model whose weights lie on the grids of a plan; see `lower_container`.

    Args:
        measured: the model.
        quantized: plain INT8 file, made from it by `qdq.quantize`.
        plan: for it.
        batches: calibration inputs.
        out: where the model goes; same arguments, same bytes.
        weight_bits: of the convention.
        progress: called with layers done and layers in all.
    """
    model = onnx.load(quantized)
    lower_container(measured.graph, model, plan, batches, weight_bits, progress)
    onnx.checker.check_model(model)
    out.write_bytes(model.SerializeToString(deterministic=True))


def smallest(drop: Callable[[float], float], most: float, averages: Sequence[float] = AVERAGES) -> float:
    """Return the fewest average bits at which a drop stays within a limit, by bisection.

    Args:
        drop: average bits → measured drop; taken as falling with more bits.
        most: largest drop allowed.
        averages: candidates, increasing.

    Raises:
        ConfigError: the drop is larger even with the most bits.
    """
    low, high = 0, len(averages) - 1
    least = drop(averages[high])
    if least > most:
        raise ConfigError(
            f"a drop of {most:g} cannot be kept: with {averages[high]:g} bits it is {least:.3g}",
            mend=f"allow {least:.3g}, or keep sensitive layers in float",
        )
    while low < high:
        middle = (low + high) // 2
        if drop(averages[middle]) <= most:
            high = middle
        else:
            low = middle + 1
    return averages[high]
