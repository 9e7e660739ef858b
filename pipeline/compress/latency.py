"""How long a network runs on a target, told from what its layers take there.

A table holds, for every form of layer, milliseconds measured at a few widths; between them it is interpolated
linearly in both widths, as a layer's work is. What the sum leaves out (the call, sums, pooling, caches) is
set right by a line through whole networks measured on the same target.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.compress.layer_models import LayerForm, forms
from pipeline.compress.shapes import Count, Shapes, Widths
from targets.errors import ModelError, StoreError

Milliseconds = NDArray[np.float64]


class FormTimes(BaseModel):
    """What one form of layer takes at some widths."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    form: LayerForm
    inputs: list[int] = Field(
        description="input channels measured, rising; one 0 for a depthwise convolution"
    )
    outputs: list[int] = Field(description="output channels measured, rising")
    milliseconds: list[list[float]] = Field(description="[inputs][outputs] of one layer, undisturbed; rising")
    spread_ms: list[list[float]] = Field(description="[inputs][outputs] from there to the samples' median")

    def at(self, inputs: Count, outputs: Count) -> Milliseconds:
        """Milliseconds of a layer, bilinear between the widths measured, constant beyond them."""
        times = np.asarray(self.milliseconds)
        low, high, part = _between(self.inputs, np.asarray(inputs))
        left, right, share = _between(self.outputs, np.asarray(outputs))
        below = (1.0 - share) * times[low, left] + share * times[low, right]
        above = (1.0 - share) * times[high, left] + share * times[high, right]
        found: Milliseconds = (1.0 - part) * below + part * above
        return found


class Anchor(BaseModel):
    """A whole network that was measured."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    widths: dict[str, int] = Field(description="leader → channels")
    measured_ms: float = Field(gt=0)


class LatencyTable(BaseModel):
    """Milliseconds of every form of layer of a network on one target."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    schema_: Literal["edgewright.latency/1"] = Field(default="edgewright.latency/1", alias="schema")
    device: str
    toolchain: str
    precision: str
    threads: int
    fingerprint: dict[str, str] = Field(description="what the measurement depends on: runtime, CPU")
    layers: list[FormTimes]
    anchors: list[Anchor] = []
    scale: float = Field(default=1.0, gt=0, description="network = offset_ms + scale · sum over layers")
    offset_ms: float = Field(default=0.0, ge=0)

    def milliseconds(self, shapes: Shapes, widths: Widths) -> Milliseconds:
        """Latency of a network cut to these widths, as predicted.

        Raises:
            ModelError: the table was measured for another network.
        """
        return self.offset_ms + self.scale * self.sum_of_layers(shapes, widths)

    def sum_of_layers(self, shapes: Shapes, widths: Widths) -> Milliseconds:
        """What the layers of a network cut to these widths take, one by one.

        Raises:
            ModelError: the table was measured for another network.
        """
        times = {one.form: one for one in self.layers}
        total = np.zeros(())
        for layer in shapes.layers:
            inputs, outputs = layer.inputs.at(widths), layer.outputs.at(widths)
            for form in forms(layer):
                if form not in times:
                    raise ModelError(
                        f"the latency table has no {form.name}",
                        where=layer.name,
                        mend="measure the table again for this network",
                    )
                total = total + times[form].at(inputs, outputs)
        return total

    def corrected(self, shapes: Shapes, anchors: Sequence[Anchor]) -> LatencyTable:
        """The same table, brought into line with whole networks: least squares of the relative error.

        One anchor, or a line that would fall or start below zero, gives a scale alone.

        Args:
            shapes: of the network.
            anchors: at least one; best the full, a middle and the narrowest width.
        """
        measured = np.array([anchor.measured_ms for anchor in anchors])
        summed = np.array([float(self.sum_of_layers(shapes, anchor.widths)) for anchor in anchors])
        rows = np.stack([summed, np.ones_like(summed)], 1) / measured[:, None]
        scale, offset = _solve(rows)
        if len(anchors) == 1 or scale <= 0 or offset < 0:
            (scale,), offset = _solve(rows[:, :1]), 0.0
        found = {"anchors": list(anchors), "scale": float(scale), "offset_ms": float(offset)}
        return self.model_copy(update=found)

    def save(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(self.model_dump_json(indent=1, by_alias=True) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> LatencyTable:
        """Read what `save` wrote.

        Raises:
            StoreError: it is no such file.
        """
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, ValidationError) as error:
            raise StoreError(
                "not a latency table of schema edgewright.latency/1", where=str(path), mend="measure it again"
            ) from error


def monotone(times: Milliseconds) -> Milliseconds:
    """Never falling along both axes: the mean of the least such table above and the greatest one below.

    Where a wider layer seems to take less time that is noise, or a kernel that likes one width better than
    another; either would make channels look as if they cost less than nothing.
    """
    above = np.maximum.accumulate(np.maximum.accumulate(times, 0), 1)
    below = np.minimum.accumulate(np.minimum.accumulate(times[::-1, ::-1], 0), 1)[::-1, ::-1]
    found: Milliseconds = (above + below) / 2
    return found


def _solve(rows: Milliseconds) -> Milliseconds:
    """Factors with which the columns come nearest to 1 in every row."""
    return np.asarray(np.linalg.lstsq(rows, np.ones(len(rows)), rcond=None)[0], np.float64)


def _between(
    points: list[int], value: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], Milliseconds]:
    """Indices of the points on both sides, and how far the value is from the first to the second."""
    known = np.asarray(points, np.float64)
    high = np.clip(np.searchsorted(known, value), min(1, len(known) - 1), len(known) - 1)
    low = np.maximum(high - 1, 0)
    width = np.where(high > low, known[high] - known[low], 1.0)
    return low, high, np.clip((value - known[low]) / width, 0.0, 1.0)
