"""From the scores of a labelled network to the bits of its ONNX model."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from small_networks import SHAPE, batches, build
from torch import nn

from calibration.budgets import AverageBits
from calibration.graph import FloatGraph
from calibration.load import load
from calibration.mix import Base, quantize_mixed
from calibration.noise import measure_power
from calibration.qdq import quantize
from calibration.ranges import collect
from calibration.scores import rescaled, save_scores
from pipeline.compress.bit_scores import bit_scores, find_nodes, removal_costs, write_bit_scores
from pipeline.compress.discriminant import Removal
from pipeline.compress.evidence import Evidence
from pipeline.compress.groups import find_groups
from pipeline.compress.importance import rank
from pipeline.compress.readers import find_readers
from pipeline.compress.scores import GroupScores, Scores
from pipeline.export import export
from pipeline.simplify import simplify
from targets.capability import QuantizationConvention
from targets.errors import ModelError

CONVENTION = QuantizationConvention(
    activations="uint8-asymmetric", weight_bits=8, quantize_residual_inputs=False
)
DATA = [{"input": images.numpy()} for images, _ in batches(8, 8)]


class Plain(nn.Module):
    """Two convolutions, one of them with a BatchNorm behind it, and two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(1, 6, 3, padding=1)
        self.b = nn.Conv2d(6, 8, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.c = nn.Linear(8 * 4 * 4, 9)
        self.d = nn.Linear(9, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.b(torch.relu(self.a(x)))))
        out: torch.Tensor = self.d(torch.relu(self.c(x.flatten(1))))
        return out


def made(name: str) -> nn.Module:
    if name != "plain":
        return build(name)
    torch.manual_seed(0)
    return Plain().eval()


def scored(network: nn.Module, criterion: str = "fisher") -> Scores:
    groups = find_groups(network, SHAPE)
    evidence = Evidence(network, groups, find_readers(network, groups, SHAPE), batches(), 3)
    removal = rank(criterion, evidence)
    return Scores(criterion=criterion, groups=[GroupScores.of(one, removal[one.leader]) for one in groups])


def exported(network: nn.Module, path: Path, exporter: Literal["dynamo", "legacy"] = "legacy") -> Path:
    export(network, SHAPE, path, exporter=exporter, opset=18, dynamic_batch=True)
    return path


def layers(network: nn.Module) -> list[str]:
    return [name for name, part in network.named_modules() if isinstance(part, (nn.Conv2d, nn.Linear))]


def output(graph: FloatGraph, node: str) -> int:
    return int(graph.constants[next(item for item in graph.nodes if item.name == node).input[1]].dims[0])


@pytest.mark.parametrize("exporter", ["legacy", "dynamo"])
@pytest.mark.parametrize("name", ["chain", "depthwise", "residual"])
def test_every_layer_is_found_by_its_weights(
    name: str, exporter: Literal["dynamo", "legacy"], tmp_path: Path
) -> None:
    network = build(name)
    raw = exported(network, tmp_path / "raw.onnx", exporter)
    simplify(raw, tmp_path / "simple.onnx")
    graph = load(tmp_path / "simple.onnx")
    nodes = find_nodes(network, graph)
    assert list(nodes) == layers(network)
    assert len(set(nodes.values())) == len(nodes)
    order = {node.name: place for place, node in enumerate(graph.nodes)}
    if name == "chain":
        assert [order[nodes[layer]] for layer in "abcde"] == sorted(order[node] for node in nodes.values())
    for layer, node in nodes.items():
        assert output(graph, node) == len(network.get_parameter(f"{layer}.weight"))


def test_another_networks_model_is_refused(tmp_path: Path) -> None:
    model = exported(build("chain"), tmp_path / "model.onnx")
    with pytest.raises(ModelError, match="has the weights of"):
        bit_scores(scored(made("plain")), made("plain"), model, DATA)


def test_costs_are_those_of_the_turn_each_channel_went() -> None:
    costs = removal_costs(Removal((2, 0, 1), (0.5, 1.5, 4.0), 4.0))
    np.testing.assert_allclose(costs, [0.25, 0.625, 0.125])


@pytest.mark.parametrize("criterion", ["fisher", "di-greedy", "discriminant-reconstruction"])
@pytest.mark.parametrize("name", ["plain", "depthwise", "residual"])
def test_every_layer_gets_scores_that_calibration_reads(name: str, criterion: str, tmp_path: Path) -> None:
    network = made(name)
    model = exported(network, tmp_path / "model.onnx")
    write_bit_scores(scored(network, criterion), network, model, DATA, tmp_path / "scores.npz")
    quantize(model, collect(model, DATA), CONVENTION, tmp_path / "int8.onnx")
    base = Base(model, tmp_path / "int8.onnx")
    (tmp_path / "out").mkdir()
    mixed = quantize_mixed(
        model, DATA, CONVENTION, AverageBits(4.0), tmp_path / "out", base, tmp_path / "scores.npz"
    )
    assert mixed.plan.sensitivity == "scores.npz"
    assert {layer.node for layer in mixed.plan.layers} == set(find_nodes(network, load(model)).values())
    assert all(max(layer.bits) > 2 for layer in mixed.plan.layers)
    assert np.isfinite(mixed.distance)


def test_a_channel_nobody_reads_gets_the_fewest_bits(tmp_path: Path) -> None:
    network = made("plain")
    network.get_parameter("b.weight").data[:, 2] = 0.0
    model = exported(network, tmp_path / "model.onnx")
    found = bit_scores(scored(network), network, model, DATA)
    mine = found[find_nodes(network, load(model))["a"]]
    assert mine[2] == 0.0
    assert (np.delete(mine, 2) > 0.0).all()


def test_layers_without_scores_count_as_the_mean_layer(tmp_path: Path) -> None:
    network = made("plain")
    model = exported(network, tmp_path / "model.onnx")
    graph = load(model)
    found = bit_scores(scored(network), network, model, DATA)
    nodes = find_nodes(network, graph)
    power = measure_power(graph, [node.name for node in graph.nodes if node.name in found], DATA)
    costs = {layer: float(np.sum(found[node] * power[node])) for layer, node in nodes.items()}
    assert costs["d"] == pytest.approx(np.mean([costs[layer] for layer in "abc"]))
    assert costs["a"] == pytest.approx(1.0, rel=1e-5), "all shares of a group's whole"


def test_scores_follow_the_scale_of_their_channels() -> None:
    before, after = {"a": np.array([4.0, 1.0])}, {"a": np.array([1.0, 0.0])}
    np.testing.assert_allclose(rescaled({"a": np.array([2.0, 3.0])}, before, after)["a"], [8.0, 0.0])


def test_scores_mean_the_same_for_the_equalized_twin(tmp_path: Path) -> None:
    network = made("plain")
    twin = made("plain")
    with torch.no_grad():
        twin.get_parameter("a.weight").mul_(4.0)
        twin.get_parameter("a.bias").mul_(4.0)
        twin.get_parameter("b.weight").div_(4.0)
    model = exported(network, tmp_path / "model.onnx")
    scaled = exported(twin, tmp_path / "twin.onnx")
    found = bit_scores(scored(network), network, model, DATA)
    save_scores(found, tmp_path / "scores.npz")
    plans = []
    for path in model, scaled:
        quantize(path, collect(path, DATA), CONVENTION, tmp_path / "int8.onnx")
        out = tmp_path / path.stem
        out.mkdir()
        mixed = quantize_mixed(
            model,
            DATA,
            CONVENTION,
            AverageBits(4.0),
            out,
            Base(path, tmp_path / "int8.onnx"),
            tmp_path / "scores.npz",
        )
        plans.append(mixed.plan)
    first, second = ([layer.bits for layer in plan.layers] for plan in plans)
    assert first == second
