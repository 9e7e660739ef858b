"""What one pass over the calibration data saw: a histogram a tensor, and what it was made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from calibration.histogram import SIDE, Histogram, merged
from calibration.importance import Importance, joined
from targets.errors import DataError
from targets.npz import read_npz

OBSERVATIONS_SCHEMA = "edgewright.observations/1"


@dataclass(frozen=True)
class Observations:
    """Histograms of every activation tensor that may be quantized.

    Args:
        histograms: tensor name → histogram.
        samples: number of calibration inputs.
        inputs_sha256: digest of the calibration inputs, in order, however they were cut into batches.
        model_sha256: digest of the model file they ran through.
        importance: tensor name → what errors in it cost; `ranges.weigh_values` fills it, `save` drops it.
    """

    histograms: dict[str, Histogram]
    samples: int
    inputs_sha256: str
    model_sha256: str
    importance: dict[str, Importance] = field(default_factory=dict)

    def importance_of(self, tensors: Sequence[str]) -> Importance | None:
        """Return what errors in several tensors cost together, None when nobody has weighed them."""
        if not all(name in self.importance for name in tensors):
            return None
        return joined([self.importance[name] for name in tensors])

    def of(self, tensors: Sequence[str]) -> Histogram:
        """Return one histogram of the values of several tensors.

        Raises:
            DataError: a tensor was not observed.
        """
        for name in tensors:
            if name not in self.histograms:
                raise DataError(
                    f"tensor {name!r} was not observed",
                    mend="calibrate again with this model and this version",
                )
        return merged([self.histograms[name] for name in tensors])

    def merged(self, other: Observations) -> Observations:
        """Return what both saw, of one model; the digest of the inputs stays this one's."""
        histograms = {name: merged([one, other.histograms[name]]) for name, one in self.histograms.items()}
        return replace(self, histograms=histograms, samples=self.samples + other.samples)

    def save(self, path: Path) -> None:
        """Write an .npz file; docs/quantization.md lists its keys."""
        columns = list(self.histograms.values())
        with path.open("wb") as stream:
            np.savez_compressed(
                stream,
                schema=np.array(OBSERVATIONS_SCHEMA),
                samples=np.array(self.samples, np.int64),
                inputs_sha256=np.array(self.inputs_sha256),
                model_sha256=np.array(self.model_sha256),
                names=np.array(list(self.histograms), np.str_),
                minimum=np.array([item.minimum for item in columns], np.float64),
                maximum=np.array([item.maximum for item in columns], np.float64),
                exponent=np.array([item.exponent for item in columns], np.int64),
                zeros=np.array([item.zeros for item in columns], np.int64),
                counts=np.array([item.counts for item in columns], np.int64).reshape(-1, 2 * SIDE),
            )

    @classmethod
    def load(cls, path: Path) -> Observations:
        """Read what `save` wrote; pickled objects are never loaded.

        Raises:
            DataError: unreadable, not such a file, or of another schema.
        """
        try:
            return cls._from(read_npz(path))
        except (DataError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise DataError(
                f"not a file of observations of schema {OBSERVATIONS_SCHEMA}: {error}",
                where=str(path),
                mend="calibrate again",
            ) from error

    @classmethod
    def _from(cls, content: dict[str, np.ndarray]) -> Observations:
        if str(content["schema"]) != OBSERVATIONS_SCHEMA:
            raise ValueError(f"schema {content['schema']}")
        columns = zip(
            content["minimum"].tolist(),
            content["maximum"].tolist(),
            content["exponent"].tolist(),
            content["zeros"].tolist(),
            content["counts"].reshape(-1, 2 * SIDE),
            strict=True,
        )
        histograms = [Histogram(*column) for column in columns]
        return cls(
            histograms=dict(zip(content["names"].tolist(), histograms, strict=True)),
            samples=int(content["samples"]),
            inputs_sha256=str(content["inputs_sha256"]),
            model_sha256=str(content["model_sha256"]),
        )
