"""Where in its outputs a layer's errors matter: a weight for every output position of every input.

A repair that treats all positions alike spends itself on what nothing listens to: where a range was chosen to
clip values that do not matter (`importance`), it would bend weights and biases until those come out right.
The squared gradient of a random probe of the network's outputs, summed over a position's channels, says what
an error there costs (Fisher information, as in `fisher`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from calibration.batches import single_inputs
from calibration.graph import FloatGraph
from calibration.importance import Probe
from calibration.ranges import Batch

# Layer → weights of its output positions for each batch, [N, positions], 1 on average.
PositionWeights = dict[str, list[NDArray[np.float32]]]

# Smallest weight, relative to the mean: what did not matter in one draw of the probe may in another.
LEAST = 0.01


def weigh_positions(
    graph: FloatGraph,
    batches: Sequence[Batch],
    layers: Sequence[str],
    progress: Callable[[int], None] | None = None,
    seed: int = 0,
) -> PositionWeights:
    """Run inputs forward and backward and weigh the output positions of layers.

    Memory: all gradients of one input, and one value for each output position of each layer and input.

    Args:
        graph: prepared float model.
        batches: the inputs.
        layers: names of nodes.
        progress: called with the number of inputs seen.
        seed: of the signs drawn.

    Returns:
        the weights; layers that the outputs do not depend on have none.

    Raises:
        ModelError: an operator has no gradient rule.
    """
    outputs = {node.name: node.output[0] for node in graph.nodes if node.name in set(layers)}
    probe = Probe(graph, list(outputs.values()), np.random.default_rng(seed))
    found: PositionWeights = {}
    seen = 0
    for batch in batches:
        parts: dict[str, list[NDArray[np.float32]]] = {}
        for single in single_inputs(graph, [batch]):
            gradients = probe.run(single)
            for layer, output in outputs.items():
                if output in gradients:
                    parts.setdefault(layer, []).append(_by_position(gradients[output][1]))
            seen += len(next(iter(single.values())))
            if progress is not None:
                progress(seen)
        for layer, part in parts.items():
            found.setdefault(layer, []).append(np.concatenate(part))
    return {layer: _relative(weights) for layer, weights in found.items()}


def _by_position(gradient: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sum squared gradients over channels: [N, C, …] → [N, positions]; [N, C] has one position."""
    squares = np.square(gradient).sum(1)
    return np.asarray(squares.reshape(len(squares), -1), np.float32)


def _relative(weights: list[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
    mean = max(float(np.mean([part.mean() for part in weights])), np.finfo(np.float32).tiny)
    kept = [np.maximum(part / mean, LEAST) for part in weights]
    total = float(np.mean([part.mean() for part in kept]))
    return [np.asarray(part / total, np.float32) for part in kept]
