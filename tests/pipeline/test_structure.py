"""Cutting: what is cut together, what a plan costs, what the cut network computes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pipeline.compress.allocation import make_plan
from pipeline.compress.budget import macs_budget
from pipeline.compress.cost import count_macs, count_parameters
from pipeline.compress.groups import find_groups
from pipeline.compress.importance import by_score, l1_importance
from pipeline.compress.shapes import find_shapes
from pipeline.compress.structure import Plan, apply
from pipeline.network import find_head, with_head
from pipeline.zoo import resnet
from targets.errors import ConfigError, ModelError

SHAPE = (1, 1, 16, 16)


def network():
    torch.manual_seed(0)
    return resnet(channels=1, blocks=(1, 1), widths=(16, 32))


def planned(macs, alignment=4, minimum=4):
    model = network()
    groups = find_groups(model, SHAPE)
    budget = int(macs * count_macs(model, SHAPE))
    return model, by_norms(model, groups, SHAPE, budget, alignment, minimum), budget


def by_norms(model, groups, shape, budget, alignment=4, minimum=4):
    shapes = find_shapes(model, groups, shape)
    removal = {leader: by_score(score) for leader, score in l1_importance(model, groups).items()}
    return make_plan(shapes, removal, macs_budget(shapes, budget), alignment=alignment, minimum=minimum)


def test_macs_equal_a_count_by_hand():
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, groups=2), nn.Flatten(), nn.Linear(16, 3)
    )
    by_hand = 4 * 16 * 2 * 9 + 4 * 4 * 2 * 9 + 16 * 3
    assert count_macs(model, (1, 2, 4, 4)) == by_hand


def test_layers_of_a_residual_sum_are_one_group():
    groups = {group.leader: group.members for group in find_groups(network(), SHAPE)}
    assert groups["stem.0"] == ("stem.0", "stages.0.0.conv2")
    assert "head" not in {name for members in groups.values() for name in members}


@settings(max_examples=12, deadline=None)
@given(macs=st.floats(0.2, 1.0), alignment=st.sampled_from([1, 4, 8]))
def test_the_cut_network_costs_what_the_plan_says_and_no_more_than_the_budget(macs, alignment):
    model, plan, budget = planned(macs, alignment)
    apply(model, plan, SHAPE)
    assert count_macs(model, SHAPE) == plan.macs_after <= budget
    assert all(len(kept) % alignment == 0 for kept in plan.keep.values())
    assert model(torch.zeros(2, *SHAPE[1:])).shape == (2, 10)


def test_a_plan_survives_saving_and_cuts_the_same(tmp_path):
    first, plan, _ = planned(0.3)
    plan.save(tmp_path / "plan.json")
    second = network()
    apply(first, plan, SHAPE)
    apply(second, Plan.load(tmp_path / "plan.json"), SHAPE)
    images = torch.randn(4, *SHAPE[1:])
    assert torch.equal(first(images), second(images))


def test_channels_that_compute_nothing_go_first_and_nothing_changes():
    model = network().eval()
    conv, norm = model.stages[0][0].conv1, model.stages[0][0].bn1
    dead = [1, 5, 9, 13]
    with torch.no_grad():
        conv.weight[dead] = 0.0
        norm.weight[dead], norm.bias[dead], norm.running_mean[dead] = 0.0, 0.0, 0.0
    groups = [group for group in find_groups(model, SHAPE) if group.leader == "stages.0.0.conv1"]
    before, images = count_macs(model, SHAPE), torch.randn(4, *SHAPE[1:])
    expected = model(images)
    budget = before - 4 * (16 * 9 * 256 * 2)
    plan = by_norms(model, groups, SHAPE, budget)
    assert sorted(set(range(16)) - set(plan.keep["stages.0.0.conv1"])) == dead
    apply(model, plan, SHAPE)
    torch.testing.assert_close(model(images), expected, atol=1e-5, rtol=1e-5)


def test_a_budget_below_the_narrowest_network_names_the_smallest_reachable():
    with pytest.raises(ConfigError, match="the smallest reachable costs") as caught:
        planned(0.001)
    assert "student.macs to at least" in caught.value.mend


def test_other_networks_are_cut_too():
    class Depthwise(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Conv2d(3, 16, 3)
            self.depthwise = nn.Conv2d(16, 16, 3, groups=16)
            self.side = nn.Conv2d(3, 16, 5)
            self.last = nn.Conv2d(32, 8, 1)
            self.flat = nn.Linear(8 * 4 * 4, 5)

        def forward(self, x):
            joined = torch.cat([self.depthwise(self.first(x)), self.side(x)], 1)
            return self.flat(torch.flatten(self.last(joined), 1))

    model, shape = Depthwise(), (1, 3, 8, 8)
    groups = find_groups(model, shape)
    budget = count_macs(model, shape) // 2
    plan = by_norms(model, groups, shape, budget)
    before = count_parameters(model)
    apply(model, plan, shape)
    assert count_macs(model, shape) == plan.macs_after <= budget and count_parameters(model) < before
    assert model.depthwise.groups == model.first.out_channels


def test_the_head_of_the_task_starts_from_the_teachers_rows():
    model = network()
    _, old = find_head(model, 10, SHAPE)
    rows = old.weight.detach().clone()
    _, new = find_head(with_head(model, (7, 5), True, 10, SHAPE), 3, SHAPE)
    torch.testing.assert_close(new.weight[:2], rows[[7, 5]])
    torch.testing.assert_close(new.weight[2], rows[[0, 1, 2, 3, 4, 6, 8, 9]].mean(0))
    with pytest.raises(ModelError, match="should give 9 logits"):
        find_head(network(), 9, SHAPE)
