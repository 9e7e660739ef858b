"""Write a model with some layers split, some in float, and all others in INT8."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from numpy.typing import NDArray

from calibration.evidence import observed
from calibration.load import load
from calibration.lower import lower_container
from calibration.observations import Observations
from calibration.plan import BitsPlan
from calibration.qdq import quantize
from calibration.ranges import Batch, Method, collect
from calibration.rows import has_rows
from calibration.split import split_layer
from calibration.summary import QuantizationSummary

if TYPE_CHECKING:
    from targets.capability import QuantizationConvention

# Which output channels of a layer stay float, [C].
Split = NDArray[np.bool_]


@dataclass(frozen=True)
class Variants:
    """Writes variants of one model.

    Args:
        model: float ONNX file.
        batches: calibration inputs.
        convention: of the target.
        method: how ranges are chosen.
        folder: where the variants go.
        ignore: layers that stay float anyway.
    """

    model: Path
    batches: Sequence[Batch]
    convention: QuantizationConvention
    method: Method
    folder: Path
    ignore: tuple[str, ...] = ()
    written: dict[str, Path] = field(default_factory=dict)

    @property
    def inputs(self) -> list[Batch]:
        """Inputs of one sample each, to time models with."""
        return [{name: value[:1] for name, value in batch.items()} for batch in self.batches[:8]]

    def write(self, splits: Mapping[str, Split], lifted: Sequence[str]) -> Path:
        """Write a variant to be timed: ranges are of few inputs, weights are just rounded.

        Args:
            splits: layer → its channels in float.
            lifted: layers that stay float as a whole.
        """
        key = " ".join([*(f"{node}:{mask.sum()}" for node, mask in splits.items()), "|", *lifted])
        if key not in self.written:
            out = self.folder / f"variant-{len(self.written)}.onnx"
            self._quantized(splits, lifted, lambda floats: collect(floats, self.batches[:1]), out)
            self.written[key] = out
        return self.written[key]

    def finish(
        self,
        splits: Mapping[str, Split],
        lifted: Sequence[str],
        progress: Callable[[int, int], None],
        out: Path,
    ) -> None:
        """Write a variant to be deployed: ranges from all inputs, every INT8 layer repaired.

        Args:
            splits: layer → its channels in float.
            lifted: layers that stay float as a whole.
            progress: called with layers done and layers in all.
            out: where it goes.
        """
        floats, summary = self._quantized(splits, lifted, self._observed, out)
        graph = load(floats)
        nodes = {node.name: node for node in graph.nodes}
        bits = {
            layer.node: np.full(layer.channels, 8) for layer in summary.layers if has_rows(nodes[layer.node])
        }
        quantized = onnx.load(out)
        plan = BitsPlan.of(graph, "uniform", bits)
        lower_container(graph, quantized, plan, self.batches, self.convention.weight_bits, progress)
        out.write_bytes(quantized.SerializeToString(deterministic=True))

    def _observed(self, floats: Path) -> Observations:
        return observed(floats, self.batches, lambda *_: None)

    def _quantized(
        self,
        splits: Mapping[str, Split],
        lifted: Sequence[str],
        observe: Callable[[Path], Observations],
        out: Path,
    ) -> tuple[Path, QuantizationSummary]:
        floats = self._split(splits, out.with_suffix(".float.onnx")) if splits else self.model
        ignore = [*self.ignore, *lifted]
        return floats, quantize(floats, observe(floats), self.convention, out, self.method, ignore)

    def _split(self, splits: Mapping[str, Split], out: Path) -> Path:
        graph = load(self.model)
        for node, mask in splits.items():
            graph, _ = split_layer(graph, node, mask)
        out.write_bytes(graph.model.SerializeToString(deterministic=True))
        return out
