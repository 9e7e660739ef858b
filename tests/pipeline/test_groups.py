"""What can be cut: every structure people build is either cut rightly or left whole and named."""

from __future__ import annotations

import copy
import random
from dataclasses import replace

import pytest
import torch
from small_networks_structures import CLASSES, IMAGE, STRUCTURES, Layered, conv, make, pictures
from torch import Tensor, nn

from pipeline.compress.allocation import make_plan
from pipeline.compress.budget import macs_budget
from pipeline.compress.cost import count_macs
from pipeline.compress.groups import Group, find_groups, find_uncut, survey
from pipeline.compress.importance import by_score
from pipeline.compress.readers import find_readers
from pipeline.compress.shapes import find_shapes
from pipeline.compress.structure import Plan, apply, cut
from pipeline.compress.survivors import survivors
from pipeline.compress.tracing import dependency_graph, losses, norms_behind
from pipeline.compress.trial import objection
from pipeline.zoo import mobilenet_v2, resnet
from targets.errors import ModelError

every_structure = pytest.mark.parametrize("name", STRUCTURES)


def some(groups: list[Group], seed: int) -> dict[str, list[int]]:
    """Random channels of every group, from one of them to all."""
    draw = random.Random(seed)
    return {g.leader: sorted(draw.sample(range(g.width), draw.randint(1, g.width))) for g in groups}


@every_structure
def test_what_is_cut_and_what_is_left_whole_and_why(name: str) -> None:
    structure, found = STRUCTURES[name], survey(make(name), IMAGE)
    assert " ".join(group.leader for group in found.groups) == structure.led
    why = {one.layer: one.reason for one in found.uncut}
    last = [layer for layer in why if layer not in structure.whole]
    assert [why[layer] for layer in last] == ["gives the network's outputs"]
    assert set(why) == {*structure.whole, *last}
    for layer, words in structure.whole.items():
        assert words in why[layer]


@every_structure
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_channels_nobody_reads_can_go_and_nothing_changes(name: str, seed: int) -> None:
    network = make(name)
    keep = some(find_groups(network, IMAGE), seed)
    left = survivors(network, Plan(keep=keep, widths={}, macs_before=0, macs_after=0), IMAGE)
    with torch.no_grad():
        for layer, own in left.items():
            weight = network.get_parameter(f"{layer}.weight")
            unread = torch.ones(weight.shape[1], dtype=torch.bool)
            unread[own.inputs] = False
            weight[:, unread] = 0.0
    images = pictures(3)
    expected = network(images)
    slim = cut(copy.deepcopy(network), keep, IMAGE)
    assert expected.shape == (3, CLASSES)
    torch.testing.assert_close(slim(images), expected, rtol=1e-4, atol=1e-4)
    for leader, channels in keep.items():
        assert slim.get_parameter(f"{leader}.weight").shape[0] == len(channels)


@every_structure
def test_what_can_be_cut_does_not_depend_on_the_weights(name: str) -> None:
    network = make(name)
    found = survey(network, IMAGE)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    frozen = network.requires_grad_(False)
    before = torch.random.get_rng_state()
    assert survey(frozen, IMAGE) == found
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not any(parameter.requires_grad or parameter.any() for parameter in network.parameters())


@every_structure
def test_every_group_has_readers_and_members_as_wide_as_it(name: str) -> None:
    network = make(name)
    groups = find_groups(network, IMAGE)
    readers = find_readers(network, groups, IMAGE)
    for group in groups:
        assert readers[group.leader]
        assert group.leader in group.members
        for member in group.members:
            assert len(network.get_parameter(f"{member}.weight")) == group.width


@pytest.mark.parametrize(
    "build",
    [
        lambda: resnet(blocks=(1, 1), widths=(8, 16)),
        lambda: mobilenet_v2(blocks=(1, 2), widths=(8, 16), strides=(1, 2), multiplier=0.5),
    ],
)
def test_a_wrong_trace_is_found_out(build) -> None:
    network, shape = build(), (1, 3, 16, 16)
    graph = dependency_graph(network, shape)
    for group in find_groups(network, shape):
        lost = losses(graph, network.get_submodule(group.leader))
        assert objection(network, shape, {group.leader: lost}) is None
        shifted = [replace(one, roots=(*one.roots[1:], one.roots[0])) if one.inputs else one for one in lost]
        assert objection(network, shape, {group.leader: shifted}) is not None


@every_structure
@pytest.mark.parametrize(("share", "alignment"), [(0.5, 1), (0.7, 4)])
def test_a_cut_network_costs_what_its_plan_says(name: str, share: float, alignment: int) -> None:
    network = make(name)
    groups = find_groups(network, IMAGE)
    narrowest = cut(copy.deepcopy(network), {g.leader: list(range(min(4, g.width))) for g in groups}, IMAGE)
    whole, least = count_macs(network, IMAGE), count_macs(narrowest, IMAGE)
    budget = int(least + share * (whole - least))
    order = {group.leader: by_score(torch.rand(group.width)) for group in groups}
    shapes = find_shapes(network, groups, IMAGE)
    plan = make_plan(shapes, order, macs_budget(shapes, budget), alignment=alignment, minimum=4)
    assert count_macs(apply(network, plan, IMAGE), IMAGE) == plan.macs_after <= budget
    assert plan.macs_before == whole


class Several(Layered):
    """Logits and features, in a dictionary or a list."""

    def __init__(self, kind: type) -> None:
        super().__init__(body=conv(3, 6), features=conv(6, 8), inner=conv(8, 7), head=nn.Linear(7, 5))
        self.kind = kind

    def forward(self, x: Tensor) -> object:
        features = self.features(self.body(x))
        logits = self.head(self.inner(features).mean((2, 3)))
        found = {"logits": logits, "features": features, "count": len(x)}
        return found if self.kind is dict else [found["logits"], (features,)]


@pytest.mark.parametrize("kind", [dict, list])
def test_all_outputs_keep_their_channels(kind: type) -> None:
    found = survey(Several(kind), IMAGE)
    assert [group.leader for group in found.groups] == ["body.0", "inner.0"]
    assert [one.layer for one in found.uncut] == ["features.0", "head"]


def test_layers_that_do_not_run_are_named() -> None:
    network = make("Convolutional")
    network.spare = nn.Conv2d(3, 4, 1)
    (reason,) = (one.reason for one in find_uncut(network, IMAGE) if one.layer == "spare")
    assert "does not run" in reason


class Detached(Layered):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.layer(x)


@pytest.mark.parametrize(
    "network",
    [nn.Conv2d(4, 2, 1), Detached(layer=nn.Conv2d(3, 4, 1)), nn.Flatten(), nn.Bilinear(3, 3, 2)],
    ids=["another shape", "no gradients", "no weights", "two inputs"],
)
def test_what_cannot_be_traced_is_refused_with_the_reason(network: nn.Module) -> None:
    network.requires_grad_(False)
    with pytest.raises(ModelError, match=r"cannot be traced on an input of \[1, 3, 8, 8\]: \w+: ") as caught:
        survey(network, IMAGE)
    assert "forward must take one tensor" in str(caught.value.mend)
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_a_network_that_cannot_be_copied_is_refused_with_the_reason() -> None:
    network = make("Perceptron")
    network.cache = network.head.weight * 2.0
    with pytest.raises(ModelError, match="cannot be copied"):
        survey(network, IMAGE)


def test_weights_that_overflow_cannot_be_tried() -> None:
    class Steep(Layered):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.body(x).mean((2, 3)).exp().exp().exp().exp())

    found = survey(Steep(body=conv(3, 6), head=nn.Linear(6, 2)), IMAGE)
    assert "not finite" in found.uncut[0].reason


def test_readers_that_see_another_state_of_a_tensor_read_another_tensor() -> None:
    class Overwritten(Layered):
        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            before = self.one(x)
            return self.head((before + self.two(x.relu_())).mean((2, 3)))

    network = Overwritten(
        stem=nn.Conv2d(3, 8, 1), one=nn.Conv2d(8, 4, 1), two=nn.Conv2d(8, 4, 1), head=nn.Linear(4, 2)
    )
    readers = find_readers(network, find_groups(network, IMAGE), IMAGE)
    assert [(reader.layer, reader.source) for reader in readers["stem"]] == [("one", 0), ("two", 1)]


def test_a_normalisation_takes_an_intercept_only_if_alone_and_right_behind() -> None:
    network = make("Forked")
    assert norms_behind(network, IMAGE) == {"stem.0": network.stem[1]}
