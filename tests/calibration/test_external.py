"""Models whose weights lie beside them: same results, and nothing beyond the limit is ever one message."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from calibration_cases import ASYMMETRIC, SYMMETRIC
from float_models import batches, images, pattern, small_network

from calibration import external
from calibration.best import quantize_best
from calibration.correct import repair
from calibration.load import load
from calibration.qdq import quantize
from calibration.ranges import collect, weigh_values
from calibration.simulate import simulate
from targets.errors import DataError

INPUTS = batches(images(32, (3, 32, 32)))


@pytest.fixture
def beside(tmp_path: Path) -> Path:
    """A network with its weights in a file beside it."""
    whole = onnx.load(small_network(tmp_path / "whole.onnx"))
    onnx.save(whole, tmp_path / "net.onnx", save_as_external_data=True, location="w.bin", size_threshold=64)
    return tmp_path / "net.onnx"


@pytest.fixture
def small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit that the network is beyond, and a protobuf that refuses as the real one does."""
    monkeypatch.setattr(external, "LIMIT", 4_000)
    monkeypatch.setattr(external, "SMALL", 64)
    serialize = onnx.ModelProto.SerializeToString

    def refuse(model: onnx.ModelProto, **options: bool) -> bytes:
        content = serialize(model, **options)
        if len(content) > 60_000:
            raise ValueError("exceeds maximum protobuf size of 2GB")
        return content

    monkeypatch.setattr(onnx.ModelProto, "SerializeToString", refuse, raising=False)


def quantized(model: Path, convention, out: Path):
    observations = weigh_values(model, collect(model, INPUTS), INPUTS)
    return quantize(model, observations, convention, out, "importance")


def test_weights_beside_the_model_give_the_same_quantized_model(beside: Path, tmp_path: Path) -> None:
    for name in ("whole", "net"):
        quantized(tmp_path / f"{name}.onnx", ASYMMETRIC, tmp_path / f"{name}.int8.onnx")
    assert (tmp_path / "whole.int8.onnx").read_bytes() == (tmp_path / "net.int8.onnx").read_bytes()


def test_other_weights_are_another_model(beside: Path, tmp_path: Path) -> None:
    observations = collect(beside, INPUTS)
    weights = np.frombuffer((tmp_path / "w.bin").read_bytes(), np.float32).copy()
    (tmp_path / "w.bin").write_bytes((weights * np.float32(1.001)).tobytes())
    with pytest.raises(DataError, match="another model"):
        quantize(beside, observations, ASYMMETRIC, tmp_path / "out.onnx")


@pytest.mark.parametrize("convention", [SYMMETRIC, ASYMMETRIC])
def test_beyond_the_limit_everything_works_and_comes_out_the_same(
    beside: Path, convention, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    expected = tmp_path / "expected.onnx"
    before = quantized(beside, convention, expected)
    request.getfixturevalue("small_limit")
    out = tmp_path / "out.onnx"
    after = quantized(beside, convention, out)
    assert after == before
    assert (tmp_path / "out.onnx.data").exists()
    onnx.checker.check_model(str(out))
    model, other = onnx.load(out), onnx.load(expected)
    repair(load(beside), model, after.layers, 8, INPUTS[:2])
    for path in (expected, out):
        ort.InferenceSession(str(path))
    first, second = (simulate(item, INPUTS[:1]) for item in (onnx.load(out), other))
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name])


def test_the_thorough_setting_beyond_the_limit(beside: Path, small_limit: None, tmp_path: Path) -> None:
    out, twin = tmp_path / "best.onnx", tmp_path / "best.float.onnx"
    found = quantize_best(beside, INPUTS, ASYMMETRIC, out, twin)
    assert found.best.distance < 0.1
    for path in (out, twin):
        assert path.with_name(f"{path.name}.data").exists()
        ort.InferenceSession(str(path))


def test_writing_leaves_the_model_in_memory_whole(beside: Path, small_limit: None, tmp_path: Path) -> None:
    graph = load(beside)
    before = {item.name: onnx.numpy_helper.to_array(item).copy() for item in graph.model.graph.initializer}
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        external.write(graph.model, tmp_path / name / "x.onnx")
    for tensor in graph.model.graph.initializer:
        np.testing.assert_array_equal(onnx.numpy_helper.to_array(tensor), before[tensor.name])
    for name in ("x.onnx", "x.onnx.data"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_below_the_limit_there_is_one_file(tmp_path: Path) -> None:
    path = pattern("residual", tmp_path)
    quantize(path, collect(path, batches(images(8))), SYMMETRIC, tmp_path / "out.onnx")
    assert [item.name for item in tmp_path.glob("*.data")] == []
