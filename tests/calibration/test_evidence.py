"""What repairs know of the calibration inputs."""

from __future__ import annotations

import numpy as np
import pytest

from calibration.evidence import REPAIRED, TRIED, repaired_on


@pytest.mark.parametrize(
    ("side", "expected"),
    [(32, REPAIRED), (224, REPAIRED), (300, 83), (640, TRIED)],
)
def test_repairs_hold_fewer_inputs_where_inputs_are_large(side: int, expected: int) -> None:
    one = np.zeros((1, 3, side, side), np.float32)
    chosen = repaired_on([{"x": one}] * 200)
    assert len(chosen) == expected


def test_inputs_are_counted_not_batches() -> None:
    batch = {"x": np.zeros((60, 3, 8, 8), np.float32), "y": np.zeros((60, 4), np.float32)}
    assert len(repaired_on([batch] * 9)) == 3
