"""What a plan leaves of every structure, and its repair."""

from __future__ import annotations

import copy

import pytest
import torch
from small_networks_structures import IMAGE, STRUCTURES, make, pictures
from torch import nn

from pipeline.compress.groups import find_groups
from pipeline.compress.repair import repair
from pipeline.compress.structure import Plan, apply
from pipeline.compress.survivors import survivors

every_structure = pytest.mark.parametrize("name", STRUCTURES)


def halved(network: nn.Module) -> tuple[Plan, nn.Module]:
    keep = {group.leader: list(range(1, group.width, 2)) for group in find_groups(network, IMAGE)}
    plan = Plan(keep=keep, widths={}, macs_before=0, macs_after=0)
    return plan, apply(copy.deepcopy(network), plan, IMAGE)


@every_structure
def test_survivors_are_the_weights_of_the_cut_network(name: str) -> None:
    network = make(name)
    plan, student = halved(network)
    for layer, left in survivors(network, plan, IMAGE).items():
        weight = network.get_parameter(f"{layer}.weight")
        assert torch.equal(student.get_parameter(f"{layer}.weight"), weight[left.outputs][:, left.inputs])


@every_structure
def test_repair_never_makes_a_layer_worse(name: str) -> None:
    network = make(name)
    plan, student = halved(network)
    refits = repair(student, network, plan, [(pictures(32), torch.zeros(32)) for _ in range(3)], IMAGE)
    assert refits
    assert all(refit.after <= refit.before + 1e-9 for refit in refits)
    assert all(torch.isfinite(value).all() for value in student.state_dict().values())
    assert student(pictures(2)).shape == network(pictures(2)).shape


def test_a_layer_that_runs_twice_keeps_its_weights() -> None:
    network = make("Shared")
    plan, student = halved(network)
    before = student.again.weight.clone()
    data = [(pictures(32), torch.zeros(32))]
    assert "again" not in {refit.layer for refit in repair(student, network, plan, data, IMAGE)}
    assert torch.equal(student.again.weight, before)
