"""What a mixed-precision model may cost: bits, bytes, a drop of a measured figure, or milliseconds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from calibration.ranges import Batch
from calibration.simulate import Outputs, output_distance

# Quantized ONNX file → what it loses against the float model, in any unit; 0 is nothing.
Figure = Callable[[Path], float]
# Name → ONNX file, and inputs that all of them take → milliseconds of one inference, measured side by side.
Timer = Callable[[Mapping[str, Path], Sequence[Batch]], Mapping[str, float]]


@dataclass(frozen=True)
class AverageBits:
    """So many bits a weight on average, 2 to 8, over all layers that are planned."""

    bits: float

    def __str__(self) -> str:
        return f"{self.bits:g} bits a weight"


@dataclass(frozen=True)
class PackedSize:
    """A packed file of at most so many bytes."""

    size_bytes: int

    def __str__(self) -> str:
        return f"packed file of at most {self.size_bytes} bytes"


@dataclass(frozen=True)
class LargestDrop:
    """The fewest bits with which a figure drops by at most so much.

    Args:
        most: in the figure's unit.
        figure: "agreement": percent of the inputs kept apart that are answered differently than by the float
            model; "divergence": mean Kullback-Leibler divergence of the outputs there, see
            `output_distance`; or a figure of your own, e.g. points of labelled accuracy lost.
    """

    most: float
    figure: Literal["agreement", "divergence"] | Figure = "agreement"

    def __str__(self) -> str:
        name = "the given figure" if callable(self.figure) else self.figure
        return f"drop of {name} by at most {self.most:g}"


@dataclass(frozen=True)
class Latency:
    """At most so many milliseconds an inference, measured; weights have 8 bits or are float.

    Args:
        ms: of the whole model.
        timer: compiles and times models on the target.
        alignment: float channels of a layer that is split come in multiples of this.
        layers: so many of the most sensitive layers are looked at.
    """

    ms: float
    timer: Timer
    alignment: int = 16
    layers: int = 12

    def __str__(self) -> str:
        return f"latency of at most {self.ms:g} ms"


Budget = AverageBits | PackedSize | LargestDrop | Latency


def disagreement(reference: Outputs, got: Outputs) -> float:
    """Return the percentage of inputs whose largest output is another one, over all outputs [N, K > 1].

    A model without such an output has no answers; then it is the distance of the outputs, in percent.
    """
    answers = [name for name, value in reference.items() if value.ndim == 2 and value.shape[1] > 1]
    if not answers:
        return 100.0 * output_distance(reference, got)
    differ = [np.mean(reference[name].argmax(1) != got[name].argmax(1)) for name in answers]
    return 100.0 * float(np.mean(differ))
