"""Where Q/DQ pairs go, rule by rule."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from float_models import PATTERNS, Net, pattern, small_network

from calibration.load import load
from calibration.placement import Placement, place
from targets.errors import ConfigError


def placed(
    net: Net, output: str, folder: Path, residual: bool = True, ignore: tuple[str, ...] = ()
) -> Placement:
    return place(load(net.save(folder / "net.onnx", output)), residual, ignore)


def reasons(placement: Placement) -> dict[str, str]:
    return {item.node: item.reason for item in placement.kept_float}


def test_quantizes_after_the_activation_and_not_before(tmp_path: Path) -> None:
    for activation in (Net.relu, Net.relu6):
        net = Net()
        hidden = net.conv("input", 4)
        active = activation(net, hidden)
        placement = placed(net, net.conv(active, 4), tmp_path)
        assert placement.tensors == ("input", active)
        assert placement.kept_float == ()


def test_outputs_stay_float(tmp_path: Path) -> None:
    for name in PATTERNS:
        graph = load(pattern(name, tmp_path))
        assert not graph.outputs & set(place(graph).tensors)


def test_both_inputs_of_a_residual_sum_or_all_but_the_one_a_runtime_fuses(tmp_path: Path) -> None:
    net = Net()
    x = net.relu(net.conv("input", 4))
    branch = net.conv(x, 4)
    total = net.op("Add", x, branch)
    output = net.conv(total, 4)
    assert set(placed(net, output, tmp_path).tensors) == {"input", x, branch, total}
    fused = placed(net, output, tmp_path, residual=False)
    assert set(fused.tensors) == {"input", x, total}
    assert {(total, 0)} == {read for read in fused.reads if read[0] == total}


def test_a_branch_with_another_reader_is_not_fused(tmp_path: Path) -> None:
    net = Net()
    x = net.conv("input", 4)
    y = net.relu(net.conv(x, 4))
    placement = placed(net, net.op("Add", y, x), tmp_path, residual=False)
    assert {x, y} <= set(placement.tensors)


def test_what_is_quantized_without_residual_inputs_or_with_ignores_is_always_observed(tmp_path: Path) -> None:
    graphs = [load(pattern(name, tmp_path)) for name in PATTERNS] + [load(small_network(tmp_path / "s.onnx"))]
    for graph in graphs:
        everything = set(place(graph).tensors)
        assert set(place(graph, residual_inputs=False).tensors) <= everything
        for kind in {node.op_type for node in graph.nodes}:
            assert set(place(graph, ignore=[kind]).tensors) <= everything


def test_movers_share_the_scale_of_their_input(tmp_path: Path) -> None:
    net = Net()
    x = net.relu(net.conv("input", 4))
    pooled = net.op("MaxPool", x, kernel_shape=[2, 2])
    turned = net.op("Transpose", pooled, perm=[0, 1, 3, 2])
    placement = placed(net, net.conv(turned, 4), tmp_path)
    assert placement.groups == {("input",): ("input",), (x, pooled, turned): (x,)}


def test_concat_shares_one_scale_decided_by_what_enters_it(tmp_path: Path) -> None:
    net = Net()
    a, b = net.relu(net.conv("input", 4)), net.relu(net.conv("input", 4))
    pooled = net.op("MaxPool", b, kernel_shape=[1, 1])
    joined = net.op("Concat", a, pooled, axis=1, channels=8)
    placement = placed(net, net.conv(joined, 4), tmp_path)
    assert placement.groups[a, b, pooled, joined] == (a, b)


def test_movers_that_nothing_in_int8_reads_stay_float(tmp_path: Path) -> None:
    net = Net()
    x = net.conv("input", 4)
    flat = net.op("Flatten", net.op("MaxPool", x, kernel_shape=[2, 2]))
    placement = placed(net, net.op("Softmax", flat), tmp_path)
    assert placement.tensors == ("input",)
    assert reasons(placement) == {
        "maxpool1": "nothing in INT8 reads its output",
        "flatten2": "nothing in INT8 reads its output",
        "softmax3": "Softmax has no INT8 form here",
    }


def test_no_pair_between_pad_and_conv(tmp_path: Path) -> None:
    net = Net()
    x = net.relu(net.conv("input", 4))
    amounts = net.constant(np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64))
    padded = net.op("Pad", x, amounts, mode="reflect")
    output = net.conv(padded, 4, pads=[0] * 4)
    placement = placed(net, output, tmp_path)
    assert placement.tensors == ("input", x)
    assert placement.reads == {(net.nodes[0].output[0], 0), (padded, 0)}
    assert placement.layers[1].source == x
    assert place(load(tmp_path / "net.onnx"), ignore=["Pad"]).tensors == placement.tensors


def test_global_average_pool_reads_int8(tmp_path: Path) -> None:
    net = Net()
    x = net.relu(net.conv("input", 4))
    assert x in placed(net, net.op("GlobalAveragePool", x), tmp_path).tensors


def test_constant_offsets_are_no_residual_sums(tmp_path: Path) -> None:
    placement = place(load(pattern("matmul", tmp_path)))
    assert [item.op_type for item in placement.kept_float] == ["Add"]
    assert len(placement.layers) == 2


def test_weights_computed_at_run_time_stay_float(tmp_path: Path) -> None:
    net = Net(shape=(1, 8))
    x = net.gemm("input", 8)
    placement = placed(net, net.op("MatMul", x, net.op("Transpose", x)), tmp_path)
    assert reasons(placement)["matmul2"] == "its weights are computed at run time"


@pytest.mark.parametrize("rule", ["conv0", "conv[01]", "conv0|nothing"])
def test_ignored_by_name_or_regular_expression(rule: str, tmp_path: Path) -> None:
    net = Net()
    x = net.relu(net.conv("input", 4))
    placement = placed(net, net.gemm(net.op("Flatten", x, channels=1024), 3), tmp_path, ignore=(rule,))
    assert [layer.node.op_type for layer in placement.layers] == ["Gemm"]
    assert reasons(placement) == {"conv0": f"ignored by {rule!r}"}


def test_ignored_by_operator_type(tmp_path: Path) -> None:
    placement = place(load(pattern("residual", tmp_path)), ignore=["Gemm", "Add"])
    assert {layer.node.op_type for layer in placement.layers} == {"Conv"}
    assert sorted(item.op_type for item in placement.kept_float) == ["Add", "Flatten", "Gemm"]


def test_a_name_is_no_regular_expression(tmp_path: Path) -> None:
    net = Net()
    output = net.conv(net.relu(net.conv("input", 4)), 4)
    net.nodes[0].name = "/stage(0/conv"
    placement = placed(net, output, tmp_path, ignore=("/stage(0/conv",))
    assert len(placement.layers) == 1


@pytest.mark.parametrize(("rule", "word"), [("conv9", "fits no node"), ("(", "no regular expression")])
def test_rules_that_cannot_be_meant_are_refused(rule: str, word: str, tmp_path: Path) -> None:
    graph = load(pattern("residual", tmp_path))
    with pytest.raises(ConfigError, match=word):
        place(graph, ignore=[rule])
