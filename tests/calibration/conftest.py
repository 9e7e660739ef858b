from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from float_models import batches, images

from calibration.observations import Observations
from calibration.ranges import collect


@pytest.fixture
def observe() -> Callable[[Path], Observations]:
    """Calibrate a model whose input is [N, 3, 16, 16]."""
    return lambda model: collect(model, batches(images(32)))
