"""A plan of bits: what every output channel of every layer gets. Printable, free of any target.

docs/mixed-precision.md explains it, docs/schema/bits.schema.json is its schema.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.graph import FloatGraph, output_axis
from targets.errors import ConfigError

BITS_SCHEMA = "edgewright.bits/1"
BROKEN = (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)
# One character a channel, so that a plan can be read, compared and searched as text.
SYMBOLS = {2: "2", 3: "3", 4: "4", 5: "5", 6: "6", 8: "8", 16: "f"}
WIDTH_OF = {symbol: width for width, symbol in SYMBOLS.items()}


@dataclass(frozen=True)
class LayerBits:
    """The bits of a layer.

    Args:
        node: its name.
        weights: number of weights in one output channel.
        bits: of each output channel; 16 stands for 16-bit float.
    """

    node: str
    weights: int
    bits: tuple[int, ...]


@dataclass(frozen=True)
class BitsPlan:
    """Bits for a model.

    Args:
        model_sha256: of the float model's file.
        sensitivity: what the bits were chosen by, e.g. "fisher" or "uniform".
        layers: in graph order.
    """

    model_sha256: str
    sensitivity: str
    layers: tuple[LayerBits, ...]

    @classmethod
    def of(cls, graph: FloatGraph, sensitivity: str, bits: dict[str, NDArray[np.int64]]) -> BitsPlan:
        """Make a plan from {node name: [C]}."""
        nodes = {node.name: node for node in graph.nodes}
        layers = []
        for name, widths in bits.items():
            shape = tuple(graph.constants[nodes[name].input[1]].dims)
            weights = int(np.prod(shape)) // shape[output_axis(nodes[name])]
            layers.append(LayerBits(name, weights, tuple(widths.tolist())))
        return cls(graph.sha256, sensitivity, tuple(layers))

    @property
    def weight_bits(self) -> int:
        """Bits of all planned weights together."""
        return sum(layer.weights * sum(layer.bits) for layer in self.layers)

    @property
    def average_bits(self) -> float:
        """Bits a planned weight."""
        return self.weight_bits / sum(layer.weights * len(layer.bits) for layer in self.layers)

    def document(self) -> dict[str, Any]:
        """Return the plan as a JSON document of schema `BITS_SCHEMA`."""
        return {
            "schema": BITS_SCHEMA,
            "model_sha256": self.model_sha256,
            "sensitivity": self.sensitivity,
            "average_bits": round(self.average_bits, 4),
            "weight_bytes": -(-self.weight_bits // 8),
            "layers": [
                {
                    "node": layer.node,
                    "weights_per_channel": layer.weights,
                    "bits": "".join(SYMBOLS[width] for width in layer.bits),
                }
                for layer in self.layers
            ],
        }

    def save(self, path: Path) -> None:
        """Write the plan as JSON."""
        path.write_text(json.dumps(self.document(), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> BitsPlan:
        """Read a plan, perhaps edited by hand; sums are computed anew.

        Raises:
            ConfigError: unreadable, another schema, or a width that does not exist.
        """
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            if document["schema"] != BITS_SCHEMA:
                raise ValueError(f"its schema is {document['schema']!r}, not {BITS_SCHEMA!r}")
            layers = tuple(_layer(entry) for entry in document["layers"])
            return cls(str(document["model_sha256"]), str(document["sensitivity"]), layers)
        except BROKEN as error:
            raise ConfigError(
                f"not a plan of bits: {error}", where=str(path), mend="docs/mixed-precision.md explains it"
            ) from error

    def table(self) -> str:
        """Return the plan as text: a line a layer, how many channels have how many bits."""
        lines = [f"{self.average_bits:.2f} bits a weight on average, {-(-self.weight_bits // 8):,} bytes"]
        width = max(len(layer.node) for layer in self.layers)
        for layer in self.layers:
            counts = sorted(Counter(layer.bits).items())
            text = "  ".join(f"{count} × {SYMBOLS[bits]}" for bits, count in counts)
            lines.append(f"{layer.node:{width}}  {text}")
        return "\n".join(lines)


def _layer(entry: dict[str, Any]) -> LayerBits:
    unknown = sorted(set(entry["bits"]) - set(WIDTH_OF))
    if unknown:
        raise ValueError(
            f"layer {entry['node']!r} has widths {', '.join(unknown)}; there are {''.join(WIDTH_OF)}"
        )
    return LayerBits(
        str(entry["node"]),
        int(entry["weights_per_channel"]),
        tuple(WIDTH_OF[symbol] for symbol in entry["bits"]),
    )
