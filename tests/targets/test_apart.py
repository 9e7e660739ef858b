"""Engines in processes of their own: they are timed there, and say why they cannot be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from small_graphs import residual

from targets.apart import Apart
from targets.errors import ModelError
from targets.measure import MeasureSettings, compare_turns
from targets.toolchain import EngineOptions, load_toolchain


def engine(folder: Path) -> Path:
    onnx.save(residual(), folder / "model.onnx")
    (folder / "engine").mkdir()
    load_toolchain("onnxruntime").compile(folder / "model.onnx", "any", EngineOptions(), folder / "engine")
    return folder / "engine"


def given(folder: Path) -> list[dict[str, np.ndarray]]:
    from targets.tensors import sample_inputs
    from targets.toolchain import Engine

    return [sample_inputs(Engine.load(folder).inputs, seed) for seed in range(3)]


def test_two_processes_take_turns(tmp_path: Path) -> None:
    folder = engine(tmp_path)
    children = {name: Apart(folder, given(folder)) for name in "ab"}
    settings = MeasureSettings(warmup_min_s=0.01, warmup_max_s=0.05, min_samples=16, min_s=0.0, resamples=50)
    timings = compare_turns({name: child.turn for name, child in children.items()}, settings)
    for child in children.values():
        child.close()
        child.close()
    assert timings["a"].samples == timings["b"].samples >= 16 and timings["a"].min_ms > 0


def test_an_engine_that_does_not_open_is_reported_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not an engine folder"):
        Apart(tmp_path, [{"x": np.zeros(1)}])


def test_inputs_that_do_not_fit_are_reported(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="inputs are"):
        Apart(engine(tmp_path), [{"strange": np.zeros(1)}])
