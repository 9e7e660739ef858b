"""Packed models: exact, small, the same every time, and safe to read."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from calibration_cases import ASYMMETRIC
from float_models import pattern
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import numpy_helper

from calibration.observations import Observations
from calibration.packing import pack_file, to_bits
from calibration.qdq import quantize
from targets.errors import ModelError
from targets.packed import LENGTHS, MAGIC, from_bits, unpack, unpack_file

Observe = Callable[[Path], Observations]


def one_layer(values: np.ndarray, axis: int, path: Path) -> Path:
    """Write a model that holds INT8 values as weights."""
    scale = np.ones(values.shape[axis], np.float32)
    node = onnx.helper.make_node("DequantizeLinear", ["w", "s"], ["y"], axis=axis)
    graph = onnx.helper.make_graph(
        [node],
        "net",
        [],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, values.shape)],
        [numpy_helper.from_array(values, "w"), numpy_helper.from_array(scale, "s")],
    )
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)]), path)
    return path


def packed(path: Path) -> bytes:
    pack_file(path, path.with_suffix(".packed"))
    return path.with_suffix(".packed").read_bytes()


@settings(max_examples=40, deadline=None)
@given(
    arrays(np.int8, st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 4))),
    st.integers(0, 2),
)
def test_any_weights_are_restored_to_the_byte(
    tmp_path_factory: pytest.TempPathFactory, values: np.ndarray, axis: int
) -> None:
    path = one_layer(values, axis, tmp_path_factory.mktemp("packed") / "model.onnx")
    assert unpack(packed(path)) == path.read_bytes()


@settings(deadline=None)
@given(st.integers(1, 8), st.data())
def test_a_number_takes_exactly_its_bits(width: int, data: st.DataObject) -> None:
    values = data.draw(arrays(np.uint8, st.integers(0, 50), elements=st.integers(0, 2**width - 1)))
    codes = to_bits(values, width)
    assert len(codes) == -(-len(values) * width // 8)
    assert np.array_equal(from_bits(memoryview(codes), len(values), width), values)


@pytest.mark.parametrize("name", ["residual", "gemm", "grouped_transposed_conv", "grouped"])
def test_quantized_models_are_restored(name: str, tmp_path: Path, observe: Observe) -> None:
    model = pattern(name, tmp_path)
    quantize(model, observe(model), ASYMMETRIC, tmp_path / "int8.onnx")
    pack_file(tmp_path / "int8.onnx", tmp_path / "int8.packed")
    unpack_file(tmp_path / "int8.packed", tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "int8.onnx").read_bytes()


def test_channels_take_the_bits_their_values_need(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ranges = [(-1, 3), (-8, 8), (-128, 128), (5, 6), (-5, 11)]
    values = np.stack([np.append(rng.integers(low, high, 998), [low, high - 1]) for low, high in ranges])
    sizes = pack_file(
        one_layer(values.astype(np.int8), 0, tmp_path / "model.onnx"), tmp_path / "model.packed"
    )
    assert sizes.weight_bytes == 1000 * (2 + 4 + 8 + 0 + 4) // 8
    assert sizes.average_bits == pytest.approx((2 + 4 + 8 + 0 + 4) / 5)
    assert sizes.packed_bytes < sizes.weight_bytes + 500


def test_packing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(-9, 9, (8, 27)).astype(np.int8)
    path = one_layer(values, 0, tmp_path / "model.onnx")
    assert packed(path) == packed(path)


def test_a_float_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no INT8 weights"):
        pack_file(pattern("residual", tmp_path), tmp_path / "model.packed")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    values = np.random.default_rng(0).integers(-9, 9, (8, 27)).astype(np.int8)
    return packed(one_layer(values, 0, tmp_path_factory.mktemp("whole") / "model.onnx"))


def test_every_cut_is_refused(whole: bytes) -> None:
    for length in range(0, len(whole), 3):
        with pytest.raises(ModelError, match="not a whole packed model"):
            unpack(whole[:length])


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_every_changed_byte_is_refused_or_harmless(whole: bytes, data: st.DataObject) -> None:
    """Padding bits may change without effect; everything else shows in the digest."""
    place, value = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(0, 255))
    changed = whole[:place] + bytes([value]) + whole[place + 1 :]
    try:
        assert unpack(changed) == unpack(whole)
    except ModelError as error:
        assert "not a whole packed model" in str(error)


def forged(whole: bytes, **changes: object) -> bytes:
    """Return a packed file with another header or first span."""
    stream_bytes, header_bytes = LENGTHS.unpack_from(whole, len(MAGIC))
    start = len(MAGIC) + LENGTHS.size
    stream = zlib.decompress(whole[start : start + stream_bytes])
    header = json.loads(stream[:header_bytes])
    for key, value in changes.items():
        (header if key in header else header["spans"][0])[key] = value
    text = json.dumps(header).encode()
    again = zlib.compress(text + stream[header_bytes:])
    return MAGIC + LENGTHS.pack(len(again), len(text)) + again + whole[start + stream_bytes :]


@pytest.mark.parametrize(
    "changes",
    [
        {"offset": -1},
        {"offset": 10**12},
        {"offset": "0"},
        {"outer": 0},
        {"outer": 10**15},
        {"inner": 1.5},
        {"inner": True},
        {"bits": "9" * 8},
        {"bits": "44"},
        {"bits": ""},
        {"low": [-129] * 8},
        {"low": None},
        {"schema": "edgewright.packed/2"},
        {"sha256": "0" * 64},
        {"spans": [{}]},
        {"spans": 3},
    ],
)
def test_hostile_headers_are_refused(whole: bytes, changes: dict[str, object]) -> None:
    with pytest.raises(ModelError, match="not a whole packed model"):
        unpack(forged(whole, **changes))


def test_a_file_that_would_fill_the_memory_is_refused() -> None:
    stream = zlib.compress(bytes(10_000_000))
    with pytest.raises(ModelError, match="larger than 1000000 bytes"):
        unpack(MAGIC + LENGTHS.pack(len(stream), 0) + stream, largest=1_000_000)


def test_unpacking_needs_numpy_alone(whole: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.packed").write_bytes(whole)
    code = (
        "import sys; from pathlib import Path; from targets.packed import unpack_file;"
        "unpack_file(Path(sys.argv[1]), Path(sys.argv[2]));"
        "print(sorted({name.split('.')[0] for name in sys.modules} & {'onnx', 'pydantic', 'onnxruntime'}))"
    )
    arguments = [str(tmp_path / "model.packed"), str(tmp_path / "model.onnx")]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
    digest = hashlib.sha256((tmp_path / "model.onnx").read_bytes()).hexdigest()
    assert digest == hashlib.sha256(unpack(whole)).hexdigest()
