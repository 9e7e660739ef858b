"""onnxsim, and what is refused of what it makes."""

from __future__ import annotations

import numpy as np
import onnx
import onnxsim
import pytest
from onnx import helper
from onnx_networks import images, make_model, residual_net, saved

from pipeline.onnxmodel.file import describe, read_model
from pipeline.onnxmodel.session import OnnxSession
from pipeline.simplify import simplify
from targets.errors import ModelError


def clumsy_net(batch="batch"):
    """The residual net behind identities and a constant that has to be folded."""
    model = residual_net(batch)
    scale = helper.make_node("Exp", ["log_scale"], ["scale"])
    scaled = helper.make_node("Mul", ["input", "scale"], ["scaled"])
    idle = helper.make_node("Identity", ["scaled"], ["idle"])
    nodes = [scale, scaled, idle, *model.graph.node]
    nodes[3].input[0] = "idle"
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    weights["log_scale"] = np.array(0.5)
    return make_model(nodes, weights, {"input": [batch, 2, 9, 9]}, {"logits": [batch, 5]})


@pytest.mark.parametrize("batch", ["batch", 1])
def test_simplified_model_computes_the_same_with_fewer_nodes(tmp_path, batch):
    source = saved(clumsy_net(batch), tmp_path / "source.onnx")
    counts = simplify(source, tmp_path / "out.onnx")
    assert counts["nodes_after"] < counts["nodes_before"] == len(clumsy_net().graph.node)
    assert counts["opset"] == 18
    before, after = (OnnxSession(path)(images()) for path in (source, tmp_path / "out.onnx"))
    np.testing.assert_allclose(after["logits"], before["logits"], rtol=1e-4, atol=1e-5)


def test_batch_stays_dynamic_and_tensors_keep_their_names(tmp_path):
    simplify(saved(clumsy_net(), tmp_path / "source.onnx"), tmp_path / "out.onnx")
    result = read_model(tmp_path / "out.onnx")
    assert describe(result).inputs == describe(clumsy_net()).inputs
    assert {"conv3", "sum3", "relu3", "logits"} <= {
        name for node in result.graph.node for name in node.output
    }


def test_equal_input_gives_equal_bytes(tmp_path):
    source = saved(clumsy_net(), tmp_path / "source.onnx")
    simplify(source, tmp_path / "a.onnx")
    simplify(source, tmp_path / "b.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def simplify_with(monkeypatch, tmp_path, fake):
    monkeypatch.setattr(onnxsim, "simplify", fake)
    simplify(saved(residual_net(), tmp_path / "source.onnx"), tmp_path / "out.onnx")


def test_a_failure_of_onnxsim_is_told_with_its_reason(monkeypatch, tmp_path):
    def fail(model):
        raise RuntimeError("no supported data type: 17")

    with pytest.raises(ModelError, match="no supported data type: 17"):
        simplify_with(monkeypatch, tmp_path, fail)
    assert not (tmp_path / "out.onnx").exists()


def test_an_invalid_result_is_refused(monkeypatch, tmp_path):
    def broken(model):
        model.graph.node[2].input[0] = "nowhere"
        return model, True

    with pytest.raises(ModelError, match="invalid model"):
        simplify_with(monkeypatch, tmp_path, broken)


def test_a_result_onnxsim_does_not_vouch_for_is_refused(monkeypatch, tmp_path):
    with pytest.raises(ModelError, match="not valid"):
        simplify_with(monkeypatch, tmp_path, lambda model: (model, False))


def test_changed_inputs_and_outputs_are_refused(monkeypatch, tmp_path):
    with pytest.raises(ModelError, match="changed the inputs"):
        simplify_with(monkeypatch, tmp_path, lambda _: (residual_net(batch=1), True))

    def renamed(model):
        copy = residual_net()
        copy.graph.node[-1].output[0] = copy.graph.output[0].name = "scores"
        return copy, True

    with pytest.raises(ModelError, match="changed the outputs"):
        simplify_with(monkeypatch, tmp_path, renamed)


def test_a_truncated_model_is_refused(tmp_path):
    path = tmp_path / "source.onnx"
    path.write_bytes(residual_net().SerializeToString()[:500])
    with pytest.raises(ModelError, match="truncated"):
        simplify(path, tmp_path / "out.onnx")
