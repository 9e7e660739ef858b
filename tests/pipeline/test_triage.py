"""Triage: one layer in the place of a block."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_networks import SHAPE, batches, build
from torch import nn

from pipeline.compress.blocks import OneLayer, StandIn, find_blocks, put, replace_blocks
from pipeline.compress.depth import Depth, choose_depth
from pipeline.compress.groups import find_groups
from pipeline.compress.repair import repair
from pipeline.compress.standins import Site, start, train_locally
from pipeline.compress.structure import Plan, apply
from pipeline.compress.triage import Study, by_price, epochs_to, swap, triage
from pipeline.fit import EpochResult, Examples, FitSettings, accuracy
from pipeline.zoo import mobilenet_v2, resnet, vgg
from targets.errors import ConfigError
from targets.preprocess import Preprocess

TRAINING = FitSettings(1, 32, 0.02, 0.0, flip=False, shift=0, average=0.9)


def quiet(*_):
    """Tell nobody."""


def examples(seed):
    """The images of `batches`, as they are stored."""
    images, labels = (torch.cat(part) for part in zip(*batches(seed=seed), strict=True))
    return Examples(images.permute(0, 2, 3, 1).numpy(), labels.numpy(), Preprocess(scale=1.0))


class Linear(nn.Module):
    """A block of two convolutions and a normalisation that together are one 3×3 convolution."""

    def __init__(self, stride=1):
        super().__init__()
        self.first = nn.Conv2d(4, 6, 3, stride, 1)
        self.norm = nn.BatchNorm2d(6)
        self.second = nn.Conv2d(6, 5, 1)

    def forward(self, x):
        return self.second(self.norm(self.first(x)))


class Holding(nn.Module):
    """A network around a block."""

    def __init__(self, block):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.block = block
        self.more = nn.Conv2d(5, 4, 3, padding=1)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = self.block(torch.tanh(self.stem(x)))
        return self.head(torch.relu(self.more(x)).mean((2, 3)))


def holding(stride=1):
    torch.manual_seed(0)
    network = Holding(Linear(stride)).train()
    for images, _ in batches():
        network(images)
    return network.eval()


@pytest.mark.parametrize("stride", [1, 2])
def test_least_squares_is_exact_where_the_block_is_one_linear_layer(stride):
    network = holding(stride)
    layer = find_blocks(network, SHAPE, "3x3")["block"]
    assert (layer.inputs, layer.outputs, layer.stride, layer.clipped) == (4, 5, stride, False)
    built = layer.build()
    assert start(built, "least-squares", Site(network, "block"), batches())
    images, _ = batches(seed=9)[0]
    torch.testing.assert_close(swap(network, {"block": built})(images), network(images), rtol=1e-3, atol=1e-4)


@torch.no_grad()
def error(layer, site):
    """Squared, over images that no layer was fitted on."""
    return sum(float((layer(x) - y).square().sum()) for x, y in site.pairs(batches(seed=5)))


def test_least_squares_beats_the_other_starts():
    network = build("residual")
    name, layer = next(iter(find_blocks(network, SHAPE, "3x3").items()))
    site, errors = Site(network, name), {}
    for how in ("random", "mean", "least-squares"):
        torch.manual_seed(0)
        built = layer.build()
        assert start(built, how, site, batches())
        errors[how] = error(built, site)
    assert errors["least-squares"] < min(errors["random"], errors["mean"])


@pytest.mark.parametrize("form", ["3x3", "1x1", "separable"])
def test_training_alone_brings_a_layer_nearer(form):
    network = build("residual")
    name, layer = next(iter(find_blocks(network, SHAPE, form).items()))
    site, built = Site(network, name), layer.build()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    (losses,) = train_locally([built], site, batches() * 20)
    assert losses[-1] < losses[0]
    torch.testing.assert_close(network.state_dict(), before)


def test_layers_trained_in_one_pass_are_as_if_each_were_trained_by_itself():
    network = build("residual")
    name, layer = next(iter(find_blocks(network, SHAPE, "3x3").items()))
    site, alone = Site(network, name), [layer.build(), layer.build()]
    together = copy.deepcopy(alone)
    losses = train_locally(together, site, batches())
    assert losses == [train_locally([one], site, batches())[0] for one in alone]
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one.state_dict(), other.state_dict())


def test_a_separable_start_is_better_than_random():
    network = build("residual")
    layer = find_blocks(network, SHAPE, "separable")["stages.0.0"]
    site, errors = Site(network, "stages.0.0"), []
    for how in ("least-squares", "random"):
        built = layer.build()
        start(built, how, site, batches())
        errors.append(error(built, site))
    assert errors[0] < errors[1]


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (lambda: resnet(3, 1, (2, 1), (8, 16)), ["stages.0.0", "stages.0.1", "stages.1.0"]),
        (lambda: holding(), ["block"]),
    ],
)
def test_blocks_are_found_by_shape(network, expected):
    assert list(find_blocks(network(), SHAPE, "3x3")) == expected


@pytest.mark.parametrize(("make", "form"), [(mobilenet_v2, "separable"), (vgg, "3x3")])
def test_blocks_of_other_families_run_when_they_are_replaced(make, form):
    network = make(3, 1).eval()
    for name, layer in find_blocks(network, (1, 1, 32, 32), form).items():
        assert swap(network, {name: layer.build()})(torch.zeros(1, 1, 32, 32)).shape == (1, 3)


def test_nothing_at_all_suits_blocks_that_keep_their_shape():
    blocks = find_blocks(build("residual"), SHAPE, "none")
    assert list(blocks) == ["stages.0.0"]
    assert len(blocks["stages.0.0"].build()) == 0


def test_a_named_block_must_be_one():
    network = build("residual")
    assert list(find_blocks(network, SHAPE, "1x1", ["stages.0"])) == ["stages.0"]
    with pytest.raises(ConfigError, match=r"'head' is no block"):
        find_blocks(network, SHAPE, "3x3", ["head"])


def test_a_network_without_blocks_is_refused():
    with pytest.raises(ConfigError, match="no block was found"):
        find_blocks(build("chain"), SHAPE, "3x3")


def study(network, epochs=1):
    local = batches(seed=3) * 3
    return Study(
        network, SHAPE, batches(), local, examples(1), examples(2), replace(TRAINING, epochs=epochs), 0, quiet
    )


def test_triage_tries_every_block_and_trains_the_base_as_long():
    network = build("residual")
    before = {key: value.clone() for key, value in network.state_dict().items()}
    found = triage(study(network), find_blocks(network, SHAPE, "3x3"))
    assert [verdict.block for verdict in found.verdicts] == ["stages.0.0", "stages.1.0"]
    assert found.accuracy == accuracy(network, examples(2))
    assert found.tuned is not None
    for verdict in found.verdicts:
        assert [attempt.start for attempt in verdict.attempts] == ["random", "mean", "least-squares"]
        assert verdict.macs < 0
        assert verdict.parameters < 0
        assert verdict.tuned is not None
        assert verdict.tuned.epochs_to_99 == 1
    torch.testing.assert_close(network.state_dict(), before)


def test_pairs_are_measured_together():
    network = build("residual")
    given = study(network, epochs=0)
    found = triage(given, find_blocks(network, SHAPE, "3x3"), ["least-squares"])
    (pair,) = found.pairs
    layers = {verdict.block: verdict.best.layer for verdict in found.verdicts}
    assert pair.measured == accuracy(swap(network, layers), examples(2))
    lost = sum(found.accuracy - verdict.best.local for verdict in found.verdicts)
    assert pair.added == pytest.approx(min(max(found.accuracy - lost, 0.0), 1.0))
    assert found.tuned is None


def test_the_least_critical_lose_least_for_what_they_save():
    lost = {"a": 0.02, "b": 0.03, "c": 0.0, "d": -0.01}
    assert by_price(lost, {"a": 1.0, "b": 3.0, "c": 0.0, "d": 0.1}) == ["d", "b", "a", "c"]
    assert by_price(lost, {"a": 1.0, "b": 1.0, "c": 1.0, "d": 2.0}) == ["d", "c", "a", "b"]


def test_epochs_until_nearly_there():
    results = [EpochResult(0.0, top1) for top1 in (0.5, 0.985, 0.99)]
    assert epochs_to(results) == 2


def depth(tolerance):
    network = build("residual")
    blocks = find_blocks(network, SHAPE, "3x3")
    shallow, found = choose_depth(
        network, blocks, [*blocks], batches(), batches(seed=3), examples(2), tolerance=tolerance
    )
    return network, shallow, found


def test_all_blocks_go_where_anything_may_be_lost_and_none_where_nothing_may():
    network, shallow, found = depth(1.0)
    assert list(found.replaced) == ["stages.0.0", "stages.1.0"]
    assert found.tried[-1].accuracy == accuracy(shallow, examples(2))
    _, same, nothing = depth(-1.0)
    assert nothing.replaced == {}
    torch.testing.assert_close(same.state_dict(), network.state_dict())


def test_a_plan_says_which_blocks_are_replaced(tmp_path):
    _, shallow, found = depth(1.0)
    found.save(tmp_path / "depth.json")
    again = Depth.load(tmp_path / "depth.json")
    assert again == found
    groups = find_groups(shallow, SHAPE)
    keep = {group.leader: list(range(group.width // 2)) for group in groups}
    widths = {group.leader: group.width for group in groups}
    plan = Plan(keep=keep, widths=widths, macs_before=2, macs_after=1, replaced=again.replaced)
    fresh = apply(build("residual", seed=3), plan, SHAPE)
    cut = apply(swap(shallow, {}), plan, SHAPE)
    assert {key: value.shape for key, value in fresh.state_dict().items()} == {
        key: value.shape for key, value in cut.state_dict().items()
    }
    assert isinstance(fresh.get_submodule("stages.0.0"), StandIn)
    assert repair(cut, shallow, plan, batches(), SHAPE)


def test_replacing_twice_changes_nothing():
    network = build("residual")
    layer = OneLayer(form="3x3", inputs=8, outputs=8, stride=1, clipped=True)
    replace_blocks(network, {"stages.0.0": layer})
    there = network.get_submodule("stages.0.0")
    replace_blocks(network, {"stages.0.0": layer})
    assert network.get_submodule("stages.0.0") is there
    put(network, "stages.0.0", nn.Identity())
    assert isinstance(network.get_submodule("stages.0.0"), nn.Identity)
    assert np.isfinite(network(torch.zeros(SHAPE)).detach().numpy()).all()
