"""What a cut network costs is told from shapes alone, and is what the network cut costs."""

import copy
import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import Chain, Depthwise, residual
from torch import nn

from pipeline.compress.cost import count_macs, count_parameters, macs, parameters, weight_bytes
from pipeline.compress.groups import find_groups
from pipeline.compress.shapes import Channels, find_shapes
from pipeline.compress.structure import cut

SHAPE = (1, 1, 8, 8)


class Joined(nn.Module):
    """Concatenation, its parts of unequal width, normalised behind, one read twice."""

    def __init__(self):
        super().__init__()
        self.left = nn.Conv2d(1, 6, 3, padding=1)
        self.right = nn.Conv2d(1, 9, 1)
        self.norm = nn.BatchNorm2d(21)
        self.act = nn.PReLU(21)
        self.mix = nn.Conv2d(21, 7, 3, bias=False)
        self.flat = nn.BatchNorm1d(7 * 36)
        self.head = nn.Linear(7 * 36, 3)

    def forward(self, x):
        left = self.left(x)
        x = self.act(self.norm(torch.cat([left, self.right(x), left], 1)))
        return self.head(self.flat(self.mix(x).flatten(1)))


class Grouped(nn.Module):
    """A grouped convolution ties its channels; those around it are free."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(1, 8, 3)
        self.b = nn.Conv2d(8, 12, 1)
        self.tied = nn.Conv2d(12, 16, 3, groups=4)
        self.c = nn.Conv2d(16, 10, 1)
        self.scale = nn.GroupNorm(1, 10)
        self.head = nn.Conv2d(10, 3, 1)

    def forward(self, x):
        return self.head(torch.relu(self.scale(self.c(self.tied(self.b(torch.relu(self.a(x))))))))


class Upsampling(nn.Module):
    """Transposed convolutions, one of them in a sum."""

    def __init__(self):
        super().__init__()
        self.down = nn.Conv2d(1, 8, 3, stride=2, padding=1)
        self.deep = nn.Conv2d(8, 12, 3, padding=1)
        self.up = nn.ConvTranspose2d(12, 6, 2, stride=2)
        self.skip = nn.Conv2d(1, 6, 1)
        self.head = nn.Conv2d(6, 2, 1)

    def forward(self, x):
        y = torch.relu(self.deep(torch.relu(self.down(x))))
        return self.head(self.up(y) + self.skip(x))


class Twice(nn.Module):
    """One layer runs twice, at two sizes."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.shared = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.shared(self.first(x)).relu()
        x = self.shared(nn.functional.max_pool2d(x, 2))
        return self.head(x.mean((2, 3)))


NETWORKS = {
    "chain": Chain, "depthwise": Depthwise, "residual": residual, "joined": Joined,
    "grouped": Grouped, "upsampling": Upsampling, "twice": Twice,
}  # fmt: skip


@functools.cache
def traced(name):
    torch.manual_seed(0)
    network = NETWORKS[name]().eval()
    groups = find_groups(network, SHAPE)
    return network, groups, find_shapes(network, groups, SHAPE)


@pytest.mark.parametrize("name", NETWORKS)
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_shapes_tell_what_the_network_cut_costs(name, data):
    network, _, shapes = traced(name)
    assert shapes.full
    widths = {leader: data.draw(st.integers(1, width), leader) for leader, width in shapes.full.items()}
    smaller = cut(
        copy.deepcopy(network), {leader: list(range(count)) for leader, count in widths.items()}, SHAPE
    )
    assert macs(shapes, widths) == count_macs(smaller, SHAPE)
    assert parameters(shapes, widths) == count_parameters(smaller)
    own = find_shapes(smaller, [], SHAPE)
    for bits in (4, 8, 32):
        assert weight_bytes(shapes, widths, bits) == weight_bytes(own, {}, bits)


@pytest.mark.parametrize("name", NETWORKS)
def test_many_networks_are_told_at_once(name):
    shapes = traced(name)[2]
    generator = np.random.default_rng(0)
    many = {leader: generator.integers(1, width + 1, 5) for leader, width in shapes.full.items()}
    for cost in (macs, parameters, functools.partial(weight_bytes, bits=8)):
        one_by_one = [cost(shapes, {leader: int(many[leader][row]) for leader in many}) for row in range(5)]
        assert cost(shapes, many).tolist() == one_by_one


def test_channels_behind_a_flatten_and_a_concatenation_are_linear_in_the_widths():
    layers = {layer.name: layer for layer in traced("joined")[2].layers}
    assert layers["mix"].inputs.at({"left": 2, "right": 5}) == 2 * 2 + 5
    assert layers["head"].inputs == Channels(0, (("mix", 36),))


def test_bytes_follow_the_rule():
    shapes = traced("chain")[2]
    weights = {"a": 6 * 9, "b": 8 * 6 * 9, "c": 5 * 8 * 9, "d": 9 * 80, "e": 3 * 9}
    biased = 6 + 8 + 9 + 3  # c has neither bias nor normalisation
    assert weight_bytes(shapes, shapes.full) == 4 * (sum(weights.values()) + biased)
    assert weight_bytes(shapes, shapes.full, 8) == sum(weights.values()) + 4 * (biased + 6 + 8 + 5 + 9 + 3)


def test_a_normalisation_that_cannot_be_folded_is_counted():
    shapes = traced("joined")[2]
    assert {name.split(".")[0] for name in shapes.folded} == set()
    assert weight_bytes(shapes, shapes.full) == 4 * (parameters(shapes, shapes.full))


def test_activations_behind_a_layer_are_seen_whether_module_or_function():
    class Activated(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
            self.norm, self.act = nn.BatchNorm2d(4), nn.SiLU(inplace=True)

        def forward(self, x):
            x = self.act(self.norm(self.a(x)))
            x = nn.functional.hardswish(self.b(x))
            x = nn.functional.max_pool2d(self.b(x), 2)
            return torch.relu(self.c(x))

    layers = {layer.name: layer.passes for layer in find_shapes(Activated(), [], SHAPE).layers}
    seen = {name: [(one.size, one.activation) for one in passes] for name, passes in layers.items()}
    assert seen["a"] == [((8, 8), "Silu")] and seen["b"] == [((8, 8), "HardSwish"), ((8, 8), "")]
    assert seen["c"] == [((4, 4), "")]  # runtimes compute ReLU within the layer


def test_a_group_of_which_a_layer_takes_a_part_stays_whole():
    class Halves(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Conv2d(1, 8, 3, padding=1)
            self.b = nn.Conv2d(4, 6, 1)
            self.c = nn.Conv2d(4, 6, 1)
            self.head = nn.Conv2d(6, 2, 1)

        def forward(self, x):
            one, other = self.a(x).chunk(2, 1)
            return self.head(self.b(one) + self.c(other))

    network = Halves()
    groups = find_groups(network, SHAPE)
    shapes = find_shapes(network, groups, SHAPE)
    assert "a" not in shapes.full and "b" in shapes.full
    assert macs(shapes, shapes.full) == count_macs(network, SHAPE)
