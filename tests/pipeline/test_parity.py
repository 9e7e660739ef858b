"""The gates: metrics, thresholds, where both sides part, the repro folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import helper
from onnx_networks import changed, images, make_model, one_wrong, quantized, residual_net, saved
from pydantic import ValidationError

import targets
from pipeline.onnxmodel.file import read_model
from pipeline.onnxmodel.session import OnnxSession
from pipeline.parity.divergence import FUSION, first_past
from pipeline.parity.gate import ParityFailed, compare_outputs, gate, worst_samples
from pipeline.parity.repro import write_npz
from pipeline.parity.sides import Side, engine_side, onnx_side, torch_side
from pipeline.parity.thresholds import DEFAULT_THRESHOLDS, Thresholds
from pipeline.record import Gate
from targets.errors import GateFailed, ModelError
from targets.metrics import UNBOUNDED, measure
from targets.toolchain import Engine, EngineOptions, load_toolchain

VALUES = st.floats(-100, 100, width=32)
BATCHES = st.tuples(st.integers(1, 6), st.integers(2, 4)).flatmap(
    lambda shape: st.tuples(
        arrays(np.float32, shape, elements=VALUES), arrays(np.float32, shape, elements=VALUES)
    )
)
STRICT = Thresholds(max_abs=1e-4, relative_l2=1e-4, cosine=0.9999, top1_agreement=1.0)


def figures(reference, candidate):
    return measure({"out": np.asarray(reference)}, {"out": np.asarray(candidate)})


# ------------------------------------------------------------------ metrics


@given(BATCHES)
def test_figures_are_what_their_definitions_say(pair):
    r, c = (array.astype(np.float64) for array in pair)
    found = figures(*pair)
    assert found["max_abs"] == pytest.approx(np.abs(c - r).max())
    if np.linalg.norm(r) > 1:
        assert found["relative_l2"] == pytest.approx(np.linalg.norm(c - r) / np.linalg.norm(r), rel=1e-9)
    lengths = np.linalg.norm(r, axis=1) * np.linalg.norm(c, axis=1)
    if lengths.min() > 1e-3:
        assert found["cosine"] == pytest.approx(((r * c).sum(axis=1) / lengths).min(), abs=1e-9)
    assert found["top1_agreement"] == pytest.approx(np.mean(r.argmax(1) == c.argmax(1)))


@given(BATCHES)
def test_equal_outputs_are_perfect_and_no_figure_leaves_its_range(pair):
    assert figures(pair[0], pair[0]) == {
        "max_abs": 0, "relative_l2": 0, "cosine": pytest.approx(1), "top1_agreement": 1
    }  # fmt: skip
    found = figures(*pair)
    assert 0 <= found["max_abs"] <= 200 and 0 <= found["relative_l2"] < UNBOUNDED
    assert -1 <= found["cosine"] <= 1 and 0 <= found["top1_agreement"] <= 1


@given(BATCHES, st.floats(0.5, 1000))
def test_relative_l2_and_cosine_do_not_depend_on_the_scale(pair, factor):
    assume(np.linalg.norm(pair[0], axis=1).min() > 1 and np.linalg.norm(pair[1], axis=1).min() > 1)
    one, other = figures(*pair), figures(*(array.astype(np.float64) * factor for array in pair))
    assert other["relative_l2"] == pytest.approx(one["relative_l2"], rel=1e-6)
    assert other["cosine"] == pytest.approx(one["cosine"], abs=1e-9)


def test_a_reference_of_zeros_passes_only_zeros():
    zeros = np.zeros((2, 3), np.float32)
    assert figures(zeros, zeros)["relative_l2"] == 0 and figures(zeros, zeros)["cosine"] == 1
    off = figures(zeros, np.full((2, 3), 1e-3, np.float32))
    assert off["relative_l2"] > 100 and off["cosine"] == 0


def test_the_worst_output_decides():
    good, bad = np.ones((2, 3)), np.array([[1.0, 1, 1], [1, 1, 2]])
    found = measure({"a": good, "b": good}, {"a": good, "b": bad})
    assert found["relative_l2"] == pytest.approx(1 / 6**0.5)
    assert found["top1_agreement"] == 1.0  # of the first output of rank 2


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("spoilt", [0, 1])
def test_nan_and_infinity_fail_whatever_the_limits(value, spoilt):
    sides = [np.eye(4, dtype=np.float32), np.eye(4, dtype=np.float32)]
    sides[spoilt][2, 3] = value
    loosest = Thresholds(max_abs=1e300, relative_l2=1e300, cosine=-0.999, top1_agreement=0.001)
    checks = compare_outputs({"out": sides[0]}, {"out": sides[1]}, loosest)
    assert len(checks) == 4 and not any(check.passed for check in checks)
    assert 2 in worst_samples(checks, {"out": sides[0]}, {"out": sides[1]})


@given(BATCHES, st.data())
def test_each_failing_check_fails_on_a_kept_sample_alone(pair, data):
    reference, candidate = ({"out": array} for array in pair)
    perfect = Thresholds(max_abs=0, relative_l2=0, cosine=1, top1_agreement=1)
    seen = {check.metric: check.value for check in compare_outputs(reference, candidate, perfect)}
    share = data.draw(st.floats(0, 0.99))
    limits = Thresholds(
        max_abs=seen["max_abs"] * share,
        relative_l2=seen["relative_l2"] * share,
        cosine=min(1, seen["cosine"] + 1e-6),
        top1_agreement=min(1, seen["top1_agreement"] + 1e-6),
    )
    checks = compare_outputs(reference, candidate, limits)
    rows = worst_samples(checks, reference, candidate)
    alone = [compare_outputs({"out": pair[0][[row]]}, {"out": pair[1][[row]]}, limits) for row in rows]
    for index, check in enumerate(checks):
        assert check.passed or any(not each[index].passed for each in alone)


# --------------------------------------------------------------- thresholds


def test_only_limits_that_are_set_are_checked():
    sides = {"out": np.eye(3)}, {"out": np.eye(3) * 2}
    checks = compare_outputs(*sides, Thresholds(cosine=0.5, top1_agreement=0.5))
    assert [(check.metric, check.passed) for check in checks] == [("cosine", True), ("top1_agreement", True)]


def test_top1_is_not_asked_of_feature_maps():
    maps = {"out": np.ones((2, 3, 4, 4))}
    assert [each.metric for each in compare_outputs(maps, maps, STRICT)] == [
        "max_abs",
        "relative_l2",
        "cosine",
    ]
    with pytest.raises(ModelError, match="no output is"):
        compare_outputs(maps, maps, Thresholds(top1_agreement=0.9))


@pytest.mark.parametrize("candidate", [{}, {"out": np.ones((3, 2))}])
def test_a_missing_or_reshaped_output_is_named(candidate):
    with pytest.raises(ModelError, match="'out' should have shape"):
        compare_outputs({"out": np.ones((2, 3))}, candidate, STRICT)


@pytest.mark.parametrize("limits", [{}, {"max_abs": -1}, {"cosine": 2}, {"relative": 1}])
def test_impossible_thresholds_are_refused(limits):
    with pytest.raises(ValidationError):
        Thresholds(**limits)


def test_every_kind_of_gate_has_default_limits():
    assert set(DEFAULT_THRESHOLDS) == {
        "export", "simplify", "quantize", "engine-fp32", "engine-half", "engine-int8"
    }  # fmt: skip


# --------------------------------------------------------------------- gate


def failed_gate(tmp_path, reference, candidate, inputs=None, thresholds=STRICT):
    with pytest.raises(ParityFailed) as error:
        gate("test net", reference, candidate, inputs or images(), thresholds, tmp_path / "repro")
    assert isinstance(error.value, GateFailed) and error.value.exit_code == 1
    return error.value


def two_models(tmp_path, candidate, batch="batch"):
    """Sides of the residual net and of a spoilt copy."""
    reference = onnx_side("right", saved(residual_net(batch), tmp_path / "right.onnx"))
    return reference, onnx_side("wrong", saved(candidate, tmp_path / "wrong.onnx"))


@pytest.mark.parametrize("batch", ["batch", 1, 5])
def test_equal_models_pass_and_leave_nothing(tmp_path, batch):
    sides = two_models(tmp_path, residual_net(batch), batch)
    outcome = gate("test net", *sides, images(7), STRICT, tmp_path / "repro")
    assert outcome.passed and outcome.inputs == 7 and len(outcome.checks) == 4
    assert (outcome.reference, outcome.candidate) == ("right", "wrong")
    assert not (tmp_path / "repro").exists()


@pytest.mark.parametrize("batch", ["batch", 1, 5])
@pytest.mark.parametrize("layer", [0, 3, 5])
def test_one_wrong_weight_is_found_where_it_is(tmp_path, batch, layer):
    wrong = changed(residual_net(batch), f"w{layer}", one_wrong)
    error = failed_gate(tmp_path, *two_models(tmp_path, wrong, batch))
    assert error.gate.first_diverging == f"conv{layer}"
    assert f"'conv{layer}'" in error.what and "limit" in error.what
    assert str(tmp_path / "repro") in str(error)
    assert not error.gate.passed and Gate.model_validate_json(error.gate.model_dump_json()) == error.gate


def test_the_piece_holds_just_the_wrong_operator(tmp_path):
    failed_gate(tmp_path, *two_models(tmp_path, changed(residual_net(), "w3", one_wrong)))
    piece = read_model(tmp_path / "repro" / "piece" / "model.onnx")
    assert [node.op_type for node in piece.graph.node] == ["Conv"]
    with np.load(tmp_path / "repro" / "piece" / "inputs.npz") as stored:
        assert list(stored) == ["relu2"]


def test_noise_that_only_adds_up_is_put_down_to_its_largest_jump():
    errors = {"a": 0.01, "b": 0.011, "c": 0.05, "d": 0.06}
    assert first_past(errors, 0.04)[0] == "c"
    assert first_past({**errors, "a": 0.0}, 0.5)[0] == "b"
    assert first_past({"a": 1e-9, "b": 2e-3, "c": 3e-3}, 0.5)[0] == "b"


GOOD_SCALES = {"input": 0.04, "relu1": 0.03, "relu2": 0.02, "relu3": 0.03, "relu4": 0.02}


@pytest.mark.parametrize("batch", ["batch", 1])
def test_good_quantization_passes(tmp_path, batch):
    sides = two_models(tmp_path, quantized(residual_net(batch), GOOD_SCALES), batch)
    limits = DEFAULT_THRESHOLDS["quantize"].model_copy(update={"top1_agreement": 0.8})
    assert gate("quantize net", *sides, images(40), limits, tmp_path / "repro").passed


@pytest.mark.parametrize("tensor", ["input", "relu2", "relu4"])
def test_a_range_cut_too_short_is_found_at_its_quantizer(tmp_path, tensor):
    wrong = quantized(residual_net(), {**GOOD_SCALES, tensor: 0.001})
    error = failed_gate(tmp_path, *two_models(tmp_path, wrong), thresholds=DEFAULT_THRESHOLDS["quantize"])
    assert error.gate.first_diverging == f"{tensor}_dq"
    piece = read_model(tmp_path / "repro" / "piece" / "model.onnx")
    assert [node.op_type for node in piece.graph.node] == ["QuantizeLinear", "DequantizeLinear"]
    assert run_script(tmp_path / "repro").returncode == 1


def test_a_nan_is_found_where_it_arises(tmp_path):
    model = residual_net()
    index = next(i for i, node in enumerate(model.graph.node) if node.output[0] == "relu4")
    nodes = list(model.graph.node)
    nodes[index : index + 1] = [
        helper.make_node("Log", ["conv4"], ["log4"]),
        helper.make_node("Relu", ["log4"], ["relu4"]),
    ]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    error = failed_gate(tmp_path, *two_models(tmp_path, model))
    assert error.gate.first_diverging == "relu4" and "not finite" in error.what
    assert Gate.model_validate_json(error.gate.model_dump_json()) == error.gate


def run_script(folder):
    return subprocess.run(
        [sys.executable, "-I", "-c", f"import sys, runpy; sys.path.insert(0, {str(folder)!r}); "
         f"runpy.run_path({str(folder / 'reproduce.py')!r}, run_name='__main__')"],
        capture_output=True, text=True, check=False, cwd=folder,
    )  # fmt: skip


@pytest.mark.parametrize("batch", ["batch", 1])
def test_the_repro_folder_reproduces(tmp_path, batch):
    sides = two_models(tmp_path, changed(residual_net(batch), "w3", one_wrong), batch)
    failed_gate(tmp_path, *sides, images(40))
    folder = tmp_path / "repro"
    assert {path.name for path in folder.iterdir()} == {
        "README.md", "reproduce.py", "metrics.py", "gate.json", "piece",
        "inputs.npz", "reference.npz", "candidate.npz", "reference.onnx", "candidate.onnx",
    }  # fmt: skip
    with np.load(folder / "inputs.npz") as stored:
        assert 1 <= len(stored["input"]) <= 8
    result = run_script(folder)
    assert result.returncode == 1, result.stderr
    assert "FAILED" in result.stdout and "conv3" in result.stdout and "piece alone" in result.stdout


def test_the_repro_script_sees_that_the_fault_is_mended(tmp_path):
    sides = two_models(tmp_path, changed(residual_net(), "w3", one_wrong))
    failed_gate(tmp_path, *sides)
    saved(residual_net(), tmp_path / "repro" / "candidate.onnx")
    assert run_script(tmp_path / "repro").returncode == 0


@pytest.mark.parametrize("name", ["/block/Conv_output_0", "file", "onnx::Conv_7", "..", "a b"])
def test_any_tensor_name_survives_in_an_npz(tmp_path, name):
    write_npz(tmp_path / "a.npz", {name: np.arange(6.0).reshape(2, 3)})
    with np.load(tmp_path / "a.npz") as stored:
        assert list(stored) == [name] and stored[name].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_a_second_failure_replaces_the_first_folder(tmp_path):
    failed_gate(tmp_path, *two_models(tmp_path, changed(residual_net(), "w3", one_wrong)))
    (tmp_path / "repro" / "stale").write_text("x")
    failed_gate(tmp_path, *two_models(tmp_path, changed(residual_net(), "w1", one_wrong)))
    assert not (tmp_path / "repro" / "stale").exists()
    assert "conv1" in (tmp_path / "repro" / "README.md").read_text()


def test_an_unwritable_repro_folder_does_not_hide_the_failure(tmp_path):
    (tmp_path / "repro").write_text("in the way")
    error = failed_gate(tmp_path, *two_models(tmp_path, changed(residual_net(), "w3", one_wrong)))
    assert error.gate.first_diverging == "conv3" and "could not be written" in str(error)


def test_sides_that_cannot_be_looked_into_still_fail(tmp_path):
    reference = Side("right", lambda inputs: {"out": inputs["input"][:, 0, 0]})
    candidate = Side("wrong", lambda inputs: {"out": inputs["input"][:, 0, 1]})
    error = failed_gate(tmp_path, reference, candidate)
    assert error.gate.first_diverging is None and "neither side can be looked into" in error.what
    assert json.loads((tmp_path / "repro" / "gate.json").read_text())["gate"]["passed"] is False


# ------------------------------------------------------------------- export


def torch_net():
    """Residual blocks with batch norms, which exporters fold, functional and in-place operations."""
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
            self.norm1 = nn.BatchNorm2d(width)
            self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
            self.norm2 = nn.BatchNorm2d(width)
            self.act = nn.ReLU(inplace=True)

        def forward(self, x):
            y = self.norm2(self.conv2(self.act(self.norm1(self.conv1(x)))))
            return self.act(y + x)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(2, 8, 3, padding=1)
            self.blocks = nn.Sequential(Block(8), Block(8), Block(8))
            self.head = nn.Linear(8, 5)

        def forward(self, x):
            x = nn.functional.hardswish(self.stem(x))
            return self.head(self.blocks(x).mean((2, 3)))

    torch.manual_seed(0)
    net = Net().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return net


@pytest.fixture(scope="module", params=["dynamo", "legacy"])
def exported(request, tmp_path_factory):
    import torch

    path = tmp_path_factory.mktemp(request.param) / "net.onnx"
    net, example = torch_net(), torch.from_numpy(images(2)["input"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net, (example,), path, dynamo=request.param == "dynamo", external_data=False, verbose=False,
            input_names=["input"], output_names=["logits"], opset_version=18,
        )  # fmt: skip
    return net, path


def test_an_export_that_is_right_passes(exported, tmp_path):
    net, path = exported
    sides = torch_side("torch", net, ["input"], ["logits"]), onnx_side("exported", path)
    assert gate("export net", *sides, images(), DEFAULT_THRESHOLDS["export"], tmp_path / "repro").passed


@pytest.mark.parametrize(
    ("operator", "index", "module"),
    [("Conv", 0, "stem"), ("Conv", 4, "blocks.1.conv2"), ("Conv", 6, "blocks.2.conv2"), ("Gemm", 0, "head")],
)
def test_a_wrong_weight_in_an_export_is_found(exported, tmp_path, operator, index, module):
    net, path = exported
    model = read_model(path)
    node = [each for each in model.graph.node if each.op_type == operator][index]
    weight = node.input[1]
    path = saved(changed(model, weight, one_wrong), tmp_path / "wrong.onnx")
    sides = torch_side("torch", net, ["input"], ["logits"]), onnx_side("exported", path)
    error = failed_gate(tmp_path, *sides, thresholds=DEFAULT_THRESHOLDS["export"])
    assert error.gate.first_diverging == f"{node.output[0]} (torch module {module})"
    result = run_script(tmp_path / "repro")
    assert result.returncode == 1 and module in result.stdout, result.stderr


# ------------------------------------------------------------------ engines


@pytest.fixture(params=["onnxruntime", "openvino"])
def toolchain(request):
    pytest.importorskip(request.param)
    return load_toolchain(request.param)


def engine_of(toolchain, tmp_path, model) -> Engine:
    folder = tmp_path / "engine"
    folder.mkdir()
    return toolchain.compile(model, "this-machine", EngineOptions(), folder)


@pytest.mark.parametrize("batch", ["batch", 1])
def test_an_engine_passes_against_its_own_model(toolchain, tmp_path, batch):
    model = saved(residual_net(batch), tmp_path / "net.onnx")
    side = engine_side("engine", toolchain, engine_of(toolchain, tmp_path, model), model)
    limits = DEFAULT_THRESHOLDS["engine-fp32"]
    assert gate("engine net", onnx_side("onnx", model), side, images(), limits, tmp_path / "repro").passed


class Spoiling:
    """A toolchain that compiles something else than it was given."""

    def __init__(self, toolchain, spoil):
        self.toolchain, self.spoil = toolchain, spoil

    def compile(self, model, device, options, folder):
        spoilt = saved(self.spoil(read_model(model)), folder.parent / "spoilt.onnx")
        return self.toolchain.compile(spoilt, device, options, folder)

    def open(self, engine):
        return self.toolchain.open(engine)


def test_a_toolchain_that_miscompiles_an_operator_is_caught_at_it(toolchain, tmp_path):
    model = saved(residual_net(1), tmp_path / "net.onnx")
    spoiling = Spoiling(toolchain, lambda proto: changed(proto, "w3", one_wrong))
    side = engine_side("engine", spoiling, engine_of(spoiling, tmp_path, model), model)
    error = failed_gate(tmp_path, onnx_side("onnx", model), side)
    assert error.gate.first_diverging == "conv3"
    assert json.loads((tmp_path / "repro" / "gate.json").read_text())["engine"]["options"]["threads"] == 1


def test_a_fault_that_only_fusion_shows_is_called_that(toolchain, tmp_path):
    def spoil(proto):
        return changed(proto, "w3", one_wrong) if len(proto.graph.output) == 1 else proto

    model = saved(residual_net(1), tmp_path / "net.onnx")
    spoiling = Spoiling(toolchain, spoil)
    side = engine_side("engine", spoiling, engine_of(spoiling, tmp_path, model), model)
    error = failed_gate(tmp_path, onnx_side("onnx", model), side)
    assert error.gate.first_diverging == FUSION and FUSION in error.what


def test_the_repro_of_an_engine_compiles_it_again(toolchain, tmp_path):
    model = saved(residual_net(1), tmp_path / "net.onnx")
    wrong = saved(changed(residual_net(1), "w3", one_wrong), tmp_path / "wrong.onnx")
    side = engine_side("engine", toolchain, engine_of(toolchain, tmp_path, wrong), wrong)
    failed_gate(tmp_path, onnx_side("onnx", model), side)
    result = subprocess.run(
        [sys.executable, str(tmp_path / "repro" / "reproduce.py")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(targets.__file__).parents[1])},
    )
    assert result.returncode == 1 and "FAILED" in result.stdout, result.stderr


# ------------------------------------------------------------------ session


def test_the_reference_keeps_float_weights_between_q_and_dq_in_float():
    # In int8 the small weights would be lost beside the large one, which meets only zeros.
    weight = np.array([[100.0], [0.3], [0.3]])
    nodes = [
        helper.make_node("QuantizeLinear", ["input", "s"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s"], ["d"]),
        helper.make_node("Gemm", ["d", "w"], ["g"]),
        helper.make_node("QuantizeLinear", ["g", "s"], ["gq"]),
        helper.make_node("DequantizeLinear", ["gq", "s"], ["output"]),
    ]
    weights = {"w": weight, "s": np.array(0.01)}
    model = make_model(nodes, weights, {"input": ["n", 3]}, {"output": ["n", 1]})
    found = OnnxSession(model)({"input": np.array([[0, 1, 1]], np.float32)})["output"]
    assert found.item() == pytest.approx(0.6, abs=0.011)


def test_a_session_says_what_does_not_fit():
    session = OnnxSession(residual_net())
    with pytest.raises(ModelError, match="ONNX Runtime"):
        session({"input": np.zeros((2, 3, 9, 9), np.float32)})


@settings(max_examples=15, deadline=None)
@given(count=st.integers(1, 70))
def test_batching_does_not_change_results(count):
    inputs = images(count)
    whole = OnnxSession(residual_net())(inputs)["logits"]
    assert whole.shape == (count, 5)
    for batch in (1, 4):
        np.testing.assert_allclose(
            OnnxSession(residual_net(batch))(inputs)["logits"], whole, rtol=1e-4, atol=1e-5
        )
