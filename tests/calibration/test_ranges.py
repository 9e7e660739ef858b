"""Calibration from files and arrays: one streaming pass, clear refusals, a file that comes back."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from calibration_cases import ASYMMETRIC, SYMMETRIC, reference
from float_models import Net, batches, images, pattern, small_network
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from calibration.histogram import Histogram
from calibration.load import load
from calibration.observations import Observations
from calibration.placement import place
from calibration.ranges import choose, collect
from targets.errors import ConfigError, DataError, ModelError


def test_observes_what_the_float_model_computes(tmp_path: Path) -> None:
    path, data = pattern("downsampling_residual", tmp_path), images(20)
    observations = collect(path, batches(data, 6))
    graph = load(path)
    names = list(place(graph).tensors)
    assert list(observations.histograms) == names
    values = dict(zip(names[1:], reference(graph.model, data, names[1:]), strict=True))
    for name, histogram in observations.histograms.items():
        expected = data if name == "input" else values[name]
        assert histogram.minimum == pytest.approx(expected.min(), rel=1e-4, abs=1e-5)
        assert histogram.maximum == pytest.approx(expected.max(), rel=1e-4, abs=1e-5)
        assert histogram.counts.sum() == expected.size


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_how_inputs_are_cut_into_batches_does_not_matter(tmp_path: Path, sizes: list[int]) -> None:
    # Only the model's input is compared bin by bin: runtimes may sum in another order for other batch sizes.
    path = pattern("grouped", tmp_path)
    data = images(sum(sizes))
    ends = np.cumsum(sizes)
    cut = collect(path, [{"input": data[end - size : end]} for size, end in zip(sizes, ends, strict=True)])
    whole = collect(path, [{"input": data}])
    assert (cut.inputs_sha256, cut.samples) == (whole.inputs_sha256, whole.samples)
    assert np.array_equal(cut.histograms["input"].counts, whole.histograms["input"].counts)
    for name, histogram in whole.histograms.items():
        assert cut.histograms[name].maximum == pytest.approx(histogram.maximum, rel=1e-4)
        assert cut.histograms[name].counts.sum() == histogram.counts.sum()


def test_memory_does_not_grow_with_the_number_of_batches(tmp_path: Path) -> None:
    path = pattern("maxpool", tmp_path)

    def stream(count: int) -> Iterator[dict[str, np.ndarray]]:
        for seed in range(count):
            yield {"input": images(8, seed=seed)}

    def peak_and_size(count: int) -> tuple[int, int]:
        tracemalloc.start()
        observations = collect(path, stream(count))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak, sum(histogram.counts.nbytes for histogram in observations.histograms.values())

    peak_and_size(1)
    (few_peak, few_size), (many_peak, many_size) = peak_and_size(3), peak_and_size(40)
    assert many_size == few_size
    assert many_peak < 1.2 * few_peak


def test_progress_counts_inputs(tmp_path: Path) -> None:
    seen: list[int] = []
    collect(pattern("gemm", tmp_path), batches(images(20), 8), seen.append)
    assert seen == list(range(1, 21))


def test_file_comes_back_and_is_the_same_every_time(tmp_path: Path, observe) -> None:
    observations = observe(pattern("concat", tmp_path))
    for name in ("a.npz", "b.npz"):
        observations.save(tmp_path / name)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    loaded = Observations.load(tmp_path / "a.npz")
    assert (loaded.samples, loaded.inputs_sha256, loaded.model_sha256) == (
        observations.samples,
        observations.inputs_sha256,
        observations.model_sha256,
    )
    assert list(loaded.histograms) == list(observations.histograms)
    for convention in (SYMMETRIC, ASYMMETRIC):
        for method in ("minmax", "percentile", "entropy", "mse"):
            assert choose(loaded, method, convention) == choose(observations, method, convention)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not really", b"\x80\x04N."])
def test_other_files_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bad.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match="observations"):
        Observations.load(path)


def test_pickles_and_other_archives_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "pickle.npz", schema=np.array([{"a": 1}], object), names=np.array(["x"]))
    np.savez(tmp_path / "other.npz", schema=np.array("edgewright.observations/0"))
    for name in ("pickle.npz", "other.npz", "missing.npz"):
        with pytest.raises(DataError, match="observations"):
            Observations.load(tmp_path / name)


def test_different_inputs_have_different_digests(tmp_path: Path) -> None:
    path = pattern("gemm", tmp_path)
    digests = {
        collect(path, batches(data)).inputs_sha256 for data in (images(8), images(8, seed=2), images(9))
    }
    assert len(digests) == 3


@pytest.mark.parametrize(
    ("batch", "word"),
    [
        ({"input": images(4).astype(np.float64)}, "float64"),
        ({"input": images(4)[:, :2]}, r"\[4, 2, 16, 16\]"),
        ({"input": images(4)[0]}, r"\[3, 16, 16\]"),
        ({"input": images(4)[:0]}, "empty"),
        ({"image": images(4)}, "image"),
        ({"input": images(4), "more": images(4)}, "more"),
        ({"input": images(4) * np.float32(np.nan)}, "NaN"),
        ({"input": images(4) + np.float32(np.inf)}, "infinity"),
    ],
)
def test_batches_that_do_not_fit_are_refused_and_the_wanted_is_said(batch, word: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=word) as caught:
        collect(pattern("residual", tmp_path), [batch])
    assert "float32 [N, 3, 16, 16]" in str(caught.value) or word in ("NaN", "infinity")


def test_the_other_layout_is_recognised(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="transpose from NHWC to NCHW"):
        collect(pattern("residual", tmp_path), [{"input": images(4).transpose(0, 2, 3, 1)}])


def test_no_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no calibration data[^$]*float32 \[N, 3, 16, 16\]"):
        collect(pattern("residual", tmp_path), [])


def test_constant_activations_are_refused_by_name(tmp_path: Path) -> None:
    net = Net()
    dead = net.relu(net.op("Sub", "input", net.constant(np.float32(1000))))
    path = net.save(tmp_path / "dead.onnx", net.conv(dead, 4))
    with pytest.raises(DataError, match=r"'relu1_out' is 0 for every calibration input"):
        collect(path, batches(images(8)))


def test_activations_that_are_not_finite_are_refused_by_name(tmp_path: Path) -> None:
    net = Net()
    root = net.op("Sqrt", net.conv("input", 4))
    path = net.save(tmp_path / "sqrt.onnx", net.conv(root, 4))
    with pytest.raises(ModelError, match=r"'sqrt1_out' becomes NaN"):
        collect(path, batches(images(8)))


def test_a_model_without_layers_is_refused(tmp_path: Path) -> None:
    net = Net()
    with pytest.raises(ModelError, match="nothing in this model can be quantized"):
        collect(net.save(tmp_path / "relu.onnx", net.relu("input")), batches(images(4)))


def test_a_model_the_runtime_does_not_know_is_refused(tmp_path: Path) -> None:
    net = Net()
    model = net.build(net.conv("input", 4))
    model.graph.node.append(onnx.helper.make_node("Mystery", ["input"], ["?"], "m", domain="nobody.knows"))
    model.opset_import.append(onnx.helper.make_opsetid("nobody.knows", 1))
    onnx.save(model, tmp_path / "mystery.onnx")
    with pytest.raises(ModelError, match="Mystery"):
        collect(tmp_path / "mystery.onnx", batches(images(4)))


def test_several_inputs(tmp_path: Path) -> None:
    net = Net()
    net.inputs.append(onnx.helper.make_tensor_value_info("other", onnx.TensorProto.FLOAT, ("N", 3, 16, 16)))
    path = net.save(tmp_path / "two.onnx", net.conv(net.op("Add", "input", "other"), 4))
    observations = collect(path, [{"input": images(4), "other": images(4, seed=s)} for s in (2, 3)])
    assert {"input", "other"} < set(observations.histograms)


def test_a_fixed_batch_is_kept_whole_and_gives_the_same(tmp_path: Path) -> None:
    found = []
    for name, first in (("free", "N"), ("fixed", 8), ("one", 1)):
        net = Net(shape=(first, 3, 16, 16))
        path = net.save(tmp_path / f"{name}.onnx", net.conv(net.relu(net.conv("input", 4)), 4))
        found.append(collect(path, batches(images(16), 1 if first == 1 else 8)))
    for other in found[1:]:
        assert choose(other, "mse", ASYMMETRIC) == choose(found[0], "mse", ASYMMETRIC)
        assert other.inputs_sha256 == found[0].inputs_sha256


def test_a_batch_of_another_size_than_fixed_is_refused(tmp_path: Path) -> None:
    net = Net(shape=(8, 3, 16, 16))
    path = net.save(tmp_path / "net.onnx", net.conv("input", 4))
    with pytest.raises(DataError, match=r"the model wants 'input': float32 \[8, 3, 16, 16\]"):
        collect(path, batches(images(4), 4))


def test_symmetric_has_no_zero_points_and_relu_none_in_uint8(tmp_path: Path) -> None:
    observations = collect(small_network(tmp_path / "net.onnx"), batches(images(16, (3, 32, 32))))
    for method in ("minmax", "percentile", "entropy", "mse"):
        assert {chosen.zero_point for chosen in choose(observations, method, SYMMETRIC).values()} == {0}
        for name, chosen in choose(observations, method, ASYMMETRIC).items():
            assert 0 <= chosen.zero_point <= 255
            assert chosen.zero_point == 0 or not name.startswith(("relu", "clip"))


def test_unknown_methods_and_percentiles_are_refused() -> None:
    histogram = Histogram()
    histogram.add(np.arange(4, dtype=np.float32))
    observations = Observations({"x": histogram}, 4, "", "")
    with pytest.raises(ConfigError, match="use one of minmax, percentile, entropy"):
        choose(observations, "kl", SYMMETRIC)  # type: ignore[arg-type]
    for share in (0.0, 50.0, 100.1):
        with pytest.raises(ConfigError, match="percentile"):
            choose(observations, "percentile", SYMMETRIC, share)
