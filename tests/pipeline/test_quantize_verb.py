"""`edgewright quantize` as a stranger meets it, with an ONNX file and inputs of their own."""

import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from PIL import Image

from pipeline.cli import main
from tests.pipeline.onnx_networks import images, make_model, residual_net, saved


def call(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.fixture
def model(tmp_path):
    return saved(residual_net(), tmp_path / "model.onnx")


@pytest.fixture
def data(tmp_path):
    np.savez(tmp_path / "inputs.npz", **images(80))
    return tmp_path / "inputs.npz"


@pytest.mark.parametrize("effort", ["--plain", "--thorough"])
def test_a_model_and_arrays_become_a_qdq_model_near_to_it(model, data, tmp_path, effort):
    out = tmp_path / "int8"
    result = call("quantize", model, "--data", data, "--device", "x86-vnni", effort, "--out", out, "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["quality"]["inputs"] == 16 and found["quality"]["agreement"] > 0.8
    assert found["counts"]["quantized_layers"] == 7
    assert (found["recipe"] is None) == (effort == "--plain")
    onnx.checker.check_model(str(out / "model.onnx"))
    assert json.loads((out / "summary.json").read_text())["quality"] == found["quality"]


def test_the_same_arguments_give_the_same_bytes(model, data, tmp_path):
    for name in ("one", "two"):
        assert call("quantize", model, "--data", data, "--out", tmp_path / name).exit_code == 0
    assert (tmp_path / "one/model.onnx").read_bytes() == (tmp_path / "two/model.onnx").read_bytes()


def test_images_are_brought_to_the_size_and_layout_the_model_takes(tmp_path):
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((4, 3, 3, 3)) * 0.2
    nodes = [onnx.helper.make_node("Conv", ["x", "w"], ["y"]), onnx.helper.make_node("Relu", ["y"], ["z"])]
    model = saved(
        make_model(nodes, {"w": weight}, {"x": [1, 3, 12, 10]}, {"z": [1, 4, 10, 8]}), tmp_path / "net.onnx"
    )
    (tmp_path / "photos/deep").mkdir(parents=True)
    for index in range(20):
        pixels = rng.integers(0, 255, (20 + index, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"photos/deep/{index}.png")
    result = call("quantize", model, "--data", tmp_path / "photos", "--plain", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    assert "on 4 inputs used for nothing else" in result.stdout


def test_several_inputs_come_as_one_array_each(tmp_path):
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((4, 2, 3, 3)) * 0.3}
    nodes = [
        onnx.helper.make_node("Conv", ["a", "w"], ["ca"], "ca"),
        onnx.helper.make_node("Conv", ["b", "w"], ["cb"], "cb"),
        onnx.helper.make_node("Add", ["ca", "cb"], ["sum"], "sum"),
    ]
    inputs = {"a": ["n", 2, 6, 6], "b": ["n", 2, 6, 6]}
    model = saved(make_model(nodes, weights, inputs, {"sum": ["n", 4, 4, 4]}), tmp_path / "two.onnx")
    arrays = {name: rng.standard_normal((40, 2, 6, 6)).astype(np.float32) for name in inputs}
    np.savez(tmp_path / "two.npz", **arrays)
    result = call("quantize", model, "--data", tmp_path / "two.npz", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    assert "relative error power" in result.stdout


def wrong_shape(path):
    np.savez(path, input=np.zeros((20, 9, 9, 2), np.float32))


def other_names(path):
    np.savez(path, image=np.zeros((20, 2, 9, 9), np.float32))


def too_few(path):
    np.savez(path, **images(3))


def no_archive(path):
    path.write_bytes(b"not a zip")


def constant(path):
    np.savez(path, input=np.zeros((20, 2, 9, 9), np.float32))


def not_finite(path):
    np.savez(path, input=np.full((20, 2, 9, 9), np.nan, np.float32))


def pickled(path):
    np.savez(path, input=np.array([{"a": 1}], dtype=object))


def nothing(path):
    del path


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (wrong_shape, "the model wants input float32 [-1, 2, 9, 9]"),
        (other_names, "the file has image, but not input"),
        (too_few, "give at least 5"),
        (no_archive, "not an .npz file"),
        (constant, "for every calibration input"),
        (not_finite, "NaN"),
        (pickled, "only plain numbers and texts are read"),
        (nothing, "there is no calibration data"),
    ],
)
def test_bad_data_is_named_and_nothing_is_left(model, tmp_path, spoil, words):
    spoil(tmp_path / "bad.npz")
    result = call("quantize", model, "--data", tmp_path / "bad.npz", "--out", tmp_path / "out")
    assert result.exit_code == 2 and words in result.stderr
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


def test_an_already_quantized_model_is_refused(model, data, tmp_path):
    assert call("quantize", model, "--data", data, "--plain", "--out", tmp_path / "int8").exit_code == 0
    again = call("quantize", tmp_path / "int8/model.onnx", "--data", data, "--out", tmp_path / "again")
    assert again.exit_code == 2 and "already quantized" in again.stderr


def test_something_already_there_is_never_overwritten(model, data, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("mine")
    result = call("quantize", model, "--data", data, "--out", tmp_path / "out")
    assert result.exit_code == 2 and "there is something already" in result.stderr
    assert (tmp_path / "out/mine.txt").read_text() == "mine"


def test_no_torch_is_needed(model, data, tmp_path):
    arguments = ["quantize", str(model), "--data", str(data), "--plain", "--out", str(tmp_path / "out")]
    code = (
        "import sys; sys.modules['torch'] = None; from pipeline.cli import main; "
        f"main({arguments!r}, standalone_mode=False)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize("budget", [("--bits", "4"), ("--size", "4.5kB"), ("--max-drop", "30")])
def test_a_budget_gives_a_plan_and_a_packed_file_that_restores_the_model(model, data, tmp_path, budget):
    out = tmp_path / "mixed"
    arguments = ("--data", data, "--device", "any-onnxruntime", "--plain", *budget, "--out", out)
    result = call("quantize", model, *arguments, "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)["mixed"]
    assert 2 <= found["average_bits"] <= 8 and found["quality"]["inputs"] == 16
    assert json.loads((out / "bits.json").read_text())["schema"] == "edgewright.bits/1"
    assert call("unpack", out / "model.packed", "--out", tmp_path / "again.onnx").exit_code == 0
    assert (tmp_path / "again.onnx").read_bytes() == (out / "model.onnx").read_bytes()


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        (("--bits", "1"), "ask for 2"),
        (("--size", "10B"), "cannot be met"),
        (("--size", "3 stone"), "units B, kB, MB"),
        (("--bits", "4", "--latency", "3ms"), "give one of"),
    ],
)
def test_a_budget_that_cannot_be_met_is_refused(model, data, tmp_path, budget, words):
    result = call("quantize", model, "--data", data, "--plain", *budget, "--out", tmp_path / "out")
    assert result.exit_code == 2 and words in result.stderr and not (tmp_path / "out").exists()


def test_a_damaged_packed_file_is_refused(tmp_path):
    (tmp_path / "bad.packed").write_bytes(b"EWPACK1\n" + bytes(40))
    result = call("unpack", tmp_path / "bad.packed", "--out", tmp_path / "out.onnx")
    assert result.exit_code == 2 and not (tmp_path / "out.onnx").exists()
