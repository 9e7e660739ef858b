from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from calibration_cases import ASYMMETRIC, reference
from float_models import Net, images

from calibration.load import load
from calibration.placement import place
from calibration.qdq import quantize


def relu6(net: Net, x: str) -> str:
    return net.op(
        "Clip", net.op("Add", x, net.constant(np.float32(3))), *(net.constant(np.float32(v)) for v in (0, 6))
    )


FORMS: dict[str, Callable[[Net, str], str]] = {
    "divided last": lambda net, x: net.op(
        "Div", net.op("Mul", x, relu6(net, x)), net.constant(np.float32(6))
    ),
    "divided first": lambda net, x: net.op(
        "Mul", net.op("Div", relu6(net, x), net.constant(np.float32(6))), x
    ),
    "a sixth": lambda net, x: net.op(
        "Mul", net.constant(np.float32(1 / 6)), net.op("Mul", relu6(net, x), x), channels=8
    ),
    "hard sigmoid": lambda net, x: net.op("Mul", net.op("HardSigmoid", x, alpha=1 / 6), x),
}
OTHERS: dict[str, Callable[[Net, str], str]] = {
    "another slope": lambda net, x: net.op("Mul", net.op("HardSigmoid", x), x),
    "another tensor": lambda net, x: net.op("Mul", net.op("HardSigmoid", net.relu(x), alpha=1 / 6), x),
    "no sixth": lambda net, x: net.op("Mul", relu6(net, x), x),
    "read elsewhere": lambda net, x: net.op(
        "Add", net.op("Mul", gate := net.op("HardSigmoid", x, alpha=1 / 6), x), gate
    ),
}


def network(form: Callable[[Net, str], str], folder: Path, opset: int = 17) -> Path:
    net = Net(opset=opset)
    return net.save(folder / "net.onnx", net.conv(form(net, net.conv("input", 8)), 4))


@pytest.mark.parametrize("form", FORMS)
def test_written_out_it_becomes_one_operator(form: str, tmp_path: Path) -> None:
    path = network(FORMS[form], tmp_path)
    graph = load(path)
    assert [node.op_type for node in graph.nodes] == ["Conv", "HardSwish", "Conv"]
    np.testing.assert_allclose(
        reference(graph.model, images(4))[0], reference(path, images(4))[0], rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("form", OTHERS)
def test_what_only_looks_like_it_stays(form: str, tmp_path: Path) -> None:
    kinds = [node.op_type for node in load(network(OTHERS[form], tmp_path)).nodes]
    assert "HardSwish" not in kinds
    assert len(kinds) > 3


def test_before_opset_14_there_is_no_such_operator(tmp_path: Path) -> None:
    graph = load(network(FORMS["divided last"], tmp_path, opset=13))
    assert [node.op_type for node in graph.nodes] == ["Conv", "Add", "Clip", "Mul", "Div", "Conv"]
    # Either way no pair stands within it.
    assert place(graph).tensors == ("input", graph.nodes[-1].input[0])


def test_the_pair_comes_after_it(tmp_path: Path, observe) -> None:
    path = network(FORMS["a sixth"], tmp_path)
    summary = quantize(path, observe(path), ASYMMETRIC, tmp_path / "out.onnx")
    swish = next(node for node in load(path).nodes if node.op_type == "HardSwish")
    assert set(summary.tensors) == {"input", swish.output[0]}
