"""The most frequent confusions, with images that show them."""

from __future__ import annotations

import base64

import numpy as np
from numpy.typing import NDArray

from pipeline.measured import Mistake
from pipeline.png import thumbnail
from pipeline.record import Accuracy

KINDS = 4


def mistakes(
    accuracy: Accuracy,
    images: NDArray[np.generic],
    labels: NDArray[np.int64],
    predictions: NDArray[np.int64],
    rows: NDArray[np.int64],
    examples: int,
) -> list[Mistake]:
    """Return the four most frequent confusions, most frequent first.

    Args:
        accuracy: of the predictions.
        images: [N, H, W, C] as stored, possibly memory-mapped.
        labels: [M] what is right, of those that were scored.
        predictions: [M] what was said.
        rows: [M] which images those are.
        examples: images of each, spread evenly over all of its kind; 0 gives no confusions at all.
    """
    if not examples:
        return []
    counts = np.array(accuracy.confusion)
    np.fill_diagonal(counts, 0)
    found = []
    for flat in np.argsort(-counts, axis=None, kind="stable")[:KINDS]:
        true, said = np.unravel_index(flat, counts.shape)
        if counts[true, said]:
            which = rows[(labels == true) & (predictions == said)]
            chosen = which[np.linspace(0, len(which) - 1, min(examples, len(which))).round().astype(int)]
            found.append(
                Mistake(
                    label=accuracy.classes[true].label,
                    said=accuracy.classes[said].label,
                    count=int(counts[true, said]),
                    images=[base64.b64encode(thumbnail(images[row])).decode("ascii") for row in chosen],
                )
            )
    return found
