from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import SHAPE, batches, build
from torch import Tensor, nn

from pipeline.compress.allocation import make_plan
from pipeline.compress.budget import macs_budget
from pipeline.compress.cost import count_macs
from pipeline.compress.groups import find_groups
from pipeline.compress.importance import by_score, l1_importance
from pipeline.compress.patches import Places, moments, outputs, patch_columns, patches
from pipeline.compress.repair import reestimate_batchnorm, repair
from pipeline.compress.shapes import find_shapes
from pipeline.compress.structure import Plan, apply
from pipeline.compress.survivors import survivors

ALL = 64


def plan_for(network: nn.Module, keep: dict[str, list[int]]) -> Plan:
    widths = {group.leader: group.width for group in find_groups(network, SHAPE)}
    return Plan(keep=keep, widths=widths, macs_before=0, macs_after=0)


def cut(network: nn.Module, plan: Plan) -> nn.Module:
    return apply(copy.deepcopy(network), plan, SHAPE)


def half(network: nn.Module) -> Plan:
    groups = find_groups(network, SHAPE)
    scores = l1_importance(network, groups)
    return plan_for(network, {g.leader: by_score(scores[g.leader]).keep(g.width // 2) for g in groups})


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 2),
    st.sampled_from([0, 1, (2, 1), "same", "valid"]),
    st.sampled_from(["zeros", "reflect", "circular"]),
    st.booleans(),
)
def test_patches_times_filters_are_the_convolution(
    stride: int, kernel: int, dilation: int, padding: int | str, mode: str, bias: bool
) -> None:
    stride = 1 if padding == "same" else stride
    layer = nn.Conv2d(3, 4, (kernel, 2), stride, padding, dilation, bias=bias, padding_mode=mode)
    x = torch.randn(2, 3, 9, 8)
    y = layer(x)
    places = Places.draw(layer, y, 9, torch.Generator().manual_seed(0))
    product = patches(layer, x, places) @ layer.weight.flatten(1).T + (layer.bias if bias else 0.0)
    torch.testing.assert_close(product, outputs(layer, y, places), rtol=1e-4, atol=1e-5)


def test_patches_of_a_linear_layer_on_tokens() -> None:
    layer = nn.Linear(4, 6)
    x = torch.randn(2, 5, 4)
    places = Places.draw(layer, layer(x), 6, torch.Generator())
    product = patches(layer, x, places) @ layer.weight.T + layer.bias
    torch.testing.assert_close(product, outputs(layer, layer(x), places))


@given(st.integers(1, 6), st.integers(1, 5), st.integers(1, 40))
def test_places_are_spread_evenly_and_none_is_drawn_twice(images: int, side: int, rows: int) -> None:
    y = torch.zeros(images, 2, side, side)
    drawn = Places.draw(nn.Conv2d(1, 2, 1), y, rows, torch.Generator().manual_seed(0))
    pairs = list(zip(drawn.image.tolist(), drawn.position.tolist(), strict=True))
    assert len(set(pairs)) == len(pairs) == min(rows, images * side * side)
    assert all(place < side * side for _, place in pairs)
    of_each = [drawn.image.tolist().count(image) for image in range(images)]
    assert max(of_each) - min(of_each) <= 1


def test_places_of_all_outputs_are_all_of_them() -> None:
    layer, y = nn.Conv2d(1, 2, 1), torch.arange(2 * 2 * 3 * 3).view(2, 2, 3, 3)
    every = outputs(layer, y, Places.draw(layer, y, 100, torch.Generator()))
    assert sorted(every.tolist()) == sorted(y.movedim(1, -1).reshape(-1, 2).tolist())


@pytest.mark.parametrize("layer", [nn.Conv2d(3, 4, 3), nn.Linear(3, 4)])
def test_moments_are_those_of_all_outputs(layer: nn.Conv2d | nn.Linear) -> None:
    y = torch.randn(2, 4, 5, 6) if isinstance(layer, nn.Conv2d) else torch.randn(2, 5, 4)
    rows = outputs(layer, y, Places.draw(layer, y, 1000, torch.Generator()))
    torch.testing.assert_close(moments(layer, y), rows.T @ rows / len(rows))


def test_patch_columns_are_the_channels_own() -> None:
    layer = nn.Conv2d(3, 1, 2, bias=False)
    layer.weight.data[:, 0] = layer.weight.data[:, 2] = 0.0
    mine = patch_columns(layer, torch.tensor([[1]]))
    assert mine.tolist() == [[4, 5, 6, 7]]
    assert layer.weight.flatten(1).nonzero()[:, 1].tolist() == mine[0].tolist()


@pytest.mark.parametrize("name", ["chain", "depthwise", "residual"])
def test_survivors_say_which_weights_are_left(name: str) -> None:
    network = build(name)
    plan = half(network)
    student = cut(network, plan)
    for layer, left in survivors(network, plan, SHAPE).items():
        weight = network.get_parameter(f"{layer}.weight")
        torch.testing.assert_close(
            student.get_parameter(f"{layer}.weight"), weight[left.outputs][:, left.inputs]
        )


@pytest.mark.parametrize("leader", ["a", "b", "c", "d"])
def test_repair_is_exact_when_what_went_was_a_multiple_of_what_stayed(leader: str) -> None:
    network = build("chain")
    factor = 1.0 if leader == "b" else 2.5
    with torch.no_grad():
        network.get_parameter("d.bias")[1] = 2.0  # not dead
        for part in [leader, "norm"] if leader == "b" else [leader]:
            for own in network.get_submodule(part).state_dict().values():
                if own.ndim:
                    own[3] = factor * own[1]
    plan = plan_for(network, {leader: _without(network, leader)})
    student = cut(network, plan)
    data = batches()
    x = data[0][0]
    assert not torch.allclose(student(x), network(x), atol=1e-2)
    (refit,) = repair(student, network, plan, data, SHAPE, strength=1e-12, most_positions=ALL)
    assert refit.after < 1e-9 < refit.before
    torch.testing.assert_close(student(x), network(x), rtol=1e-3, atol=1e-3)


def _without(network: nn.Module, leader: str) -> list[int]:
    width = network.get_parameter(f"{leader}.weight").shape[0]
    return [channel for channel in range(width) if channel != 3]


@pytest.mark.parametrize("name", ["chain", "depthwise", "residual"])
def test_repair_brings_a_cut_network_nearer_to_the_whole(name: str) -> None:
    network = build(name)
    plan = half(network)
    student = cut(network, plan)
    data = batches(8)
    fresh = batches(2, seed=9)[0][0]
    before = _distance(student, network, fresh)
    refits = repair(student, network, plan, data, SHAPE)
    after = _distance(student, network, fresh)
    assert after < before
    assert all(refit.after <= refit.before + 1e-9 and refit.after <= 1.0 for refit in refits)


@torch.no_grad()
def _distance(one: nn.Module, other: nn.Module, images: Tensor) -> float:
    return float((one(images) - other(images)).square().mean())


def test_repair_leaves_whole_layers_alone() -> None:
    network = build("chain")
    plan = plan_for(network, {"c": [0, 2, 4]})
    student = cut(network, plan)
    assert [refit.layer for refit in repair(student, network, plan, batches(), SHAPE)] == ["d"]
    for layer in ("a", "b", "e"):
        torch.testing.assert_close(
            student.get_parameter(f"{layer}.weight"), network.get_parameter(f"{layer}.weight")
        )


def test_repair_needs_no_labels() -> None:
    network = build("residual")
    plan = half(network)
    one, other = cut(network, plan), cut(network, plan)
    repair(one, network, plan, batches(), SHAPE)
    repair(other, network, plan, [(x, torch.zeros_like(y)) for x, y in batches()], SHAPE)
    torch.testing.assert_close(one.state_dict(), other.state_dict())


@pytest.mark.parametrize("name", ["chain", "depthwise", "residual"])
def test_the_slimmed_network_costs_what_the_plan_says(name: str) -> None:
    network = build(name)
    groups = find_groups(network, SHAPE)
    budget = count_macs(network, SHAPE) // 2
    shapes = find_shapes(network, groups, SHAPE)
    order = {leader: by_score(score) for leader, score in l1_importance(network, groups).items()}
    plan = make_plan(shapes, order, macs_budget(shapes, budget), alignment=2, minimum=2)
    assert count_macs(cut(network, plan), SHAPE) == plan.macs_after <= budget


def test_a_frozen_network_has_the_same_groups() -> None:
    network = build("residual")
    groups = find_groups(network, SHAPE)
    network.requires_grad_(False)
    with torch.no_grad():
        assert find_groups(network, SHAPE) == groups
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_batchnorm_gets_the_statistics_of_the_data() -> None:
    network = build("chain")
    data = batches(1)
    assert isinstance(network.norm, nn.BatchNorm2d)
    reestimate_batchnorm(network, data)
    seen = network.b(torch.relu(network.a(data[0][0])))  # type: ignore[operator]
    torch.testing.assert_close(network.norm.running_mean, seen.mean((0, 2, 3)))
    torch.testing.assert_close(network.norm.running_var, seen.var((0, 2, 3)))
    assert not network.norm.training and network.norm.momentum == 0.1


def test_what_meets_a_grouped_convolution_stays_whole() -> None:
    network = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.Conv2d(6, 6, 1, groups=2), nn.Conv2d(6, 4, 1), nn.Flatten(), nn.Linear(144, 3)
    )
    assert [group.leader for group in find_groups(network, SHAPE)] == ["2"]
