from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from small_networks import SHAPE, batches, build
from torch import nn

from pipeline.compress.attribution import attributions, task_loss
from pipeline.compress.discriminant import information, ridge
from pipeline.compress.evidence import Evidence
from pipeline.compress.groups import find_groups
from pipeline.compress.importance import CRITERIA, rank
from pipeline.compress.readers import find_readers
from pipeline.compress.reconstruction import decisive_reconstructions, fisher_information, reconstructions
from targets.errors import ConfigError


def evidence(network: nn.Module, **settings: int) -> Evidence:
    groups = find_groups(network, SHAPE)
    return Evidence(network, groups, find_readers(network, groups, SHAPE), batches(), 3, **settings)


@pytest.mark.parametrize("name", CRITERIA)
@pytest.mark.parametrize("network", ["chain", "depthwise", "residual"])
def test_every_criterion_orders_every_group(name: str, network: str) -> None:
    given = evidence(build(network))
    before = {key: value.clone() for key, value in given.network.state_dict().items()}
    orders = rank(name, given)
    assert list(orders) == [group.leader for group in given.groups]
    for group in given.groups:
        removal = orders[group.leader]
        assert sorted(removal.order) == list(range(group.width))
        assert all(b >= a for a, b in pairwise(removal.lost))
    torch.testing.assert_close(given.network.state_dict(), before)
    assert rank(name, given) == orders, "the same evidence gives the same order"


# Filters and pooled features of a channel say nothing of whether anybody reads it.
BY_USE = ["taylor", "fisher", "reconstruction", "discriminant-reconstruction"]


@pytest.mark.parametrize("name", BY_USE)
def test_a_channel_nobody_reads_goes_first(name: str) -> None:
    network = build("chain")
    network.get_parameter("b.weight").data[:, 2] = 0.0
    assert rank(name, evidence(network))["a"].order[0] == 2


@pytest.mark.parametrize("name", [name for name in CRITERIA if name not in ("random", "l1", "l2")])
def test_a_dead_channel_goes_first(name: str) -> None:
    network = build("chain")
    network.get_parameter("a.weight").data[2] = 0.0
    network.get_parameter("a.bias").data[2] = -1.0
    assert rank(name, evidence(network))["a"].order[0] == 2


@pytest.mark.parametrize("name", ["di-greedy", "reconstruction", "discriminant-reconstruction"])
def test_of_two_equal_channels_one_goes_early_and_one_stays(name: str) -> None:
    network = build("chain")
    with torch.no_grad():
        for own in network.get_submodule("a").state_dict().values():
            own[4] = own[1]
        # Both matter: what reads them reads them strongly.
        network.get_parameter("b.weight")[:, [1, 4]] *= 5.0
    order = rank(name, evidence(network))["a"].order
    assert min(order.index(1), order.index(4)) <= 1


def test_a_seed_gives_another_random_order() -> None:
    network = build("chain")
    assert rank("random", evidence(network, seed=1)) != rank("random", evidence(network, seed=2))


def test_an_unknown_criterion_names_those_there_are() -> None:
    with pytest.raises(ConfigError, match="taylor"):
        rank("tailor", evidence(build("chain")))


def test_attributions_are_what_removing_a_channel_does_to_first_order() -> None:
    network = build("residual")
    given = evidence(network)
    images, labels = batches(1)[0]
    (owed,) = attributions(network, given.readers, [(images, labels)], task_loss)
    step = 1e-3

    def damp(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        x = inputs[0].clone()
        x[:, 3] *= 1.0 - step
        return (x,)

    handles = [
        network.get_submodule(r.layer).register_forward_pre_hook(damp) for r in given.readers["stem.0"]
    ]
    network.double()
    damped = task_loss(network(images.double()), labels)
    for handle in handles:
        handle.remove()
    change = (task_loss(network(images.double()), labels) - damped) / step
    torch.testing.assert_close(owed["stem.0"][:, 3].double(), change.detach(), rtol=2e-2, atol=2e-4)


def test_information_about_logits_is_that_of_softmax() -> None:
    network = build("chain")
    given = evidence(network)
    images, labels = (torch.cat(parts)[:128] for parts in zip(*given.batches, strict=True))
    with torch.no_grad():
        gradient = network(images).softmax(1) - nn.functional.one_hot(labels, 3)
    expected = (gradient.T @ gradient / len(gradient)).double()
    torch.testing.assert_close(
        fisher_information(given, lambda *_: None)["e"], expected, rtol=1e-4, atol=1e-6
    )


def test_a_channel_that_feeds_outputs_nobody_reads_goes_first() -> None:
    network = build("chain")
    with torch.no_grad():
        # Channel 2 goes into output 3 alone, strongly; nothing reads that.
        network.get_parameter("b.weight")[:, 2] = 0.0
        network.get_parameter("b.weight")[3, 2] = 10.0
        network.get_parameter("c.weight")[:, 3] = 0.0
    given = evidence(network)
    assert rank("discriminant-reconstruction", given)["a"].order[0] == 2
    assert rank("reconstruction", given)["a"].order[0] != 2


@pytest.mark.parametrize("weighted", [True, False])
def test_what_can_be_lost_is_counted_an_image(weighted: bool) -> None:
    network = build("chain")
    given = evidence(network)
    (system,) = (decisive_reconstructions if weighted else reconstructions)(given)["d"]
    with torch.no_grad():
        logits = torch.cat([network(images) for images, _ in given.batches]).double()
    centred = logits - logits.mean(0)
    weight = torch.eye(3, dtype=torch.float64)
    if weighted:
        weight = fisher_information(given, lambda *_: None)["e"]
    total = float(torch.einsum("ni,ij,nj->", centred, weight, centred)) / len(centred)
    # Logits are linear in what is read here: the ridge alone keeps them from being explained whole.
    assert information(system.xx, system.xy, ridge(system.xx)) == pytest.approx(total, rel=0.05)


def test_every_image_goes_through_the_network_once() -> None:
    network, seen = build("chain"), []
    given = replace(evidence(network), batches=batches(8))
    network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    decisive_reconstructions(given)
    torch.testing.assert_close(torch.cat(seen), torch.cat([images for images, _ in given.batches]))


def test_statistics_do_not_depend_on_what_layers_change_in_place() -> None:
    plain, in_place = (
        nn.Sequential(
            nn.Conv2d(1, 6, 3), nn.ReLU(inplace), nn.Conv2d(6, 6, 3), nn.ReLU(inplace), nn.Flatten(),
            nn.Linear(6 * 4 * 4, 3),
        )
        for inplace in (False, True)
    )  # fmt: skip
    in_place.load_state_dict(plain.state_dict())
    found = [decisive_reconstructions(evidence(network)) for network in (plain, in_place)]
    for leader in found[0]:
        for one, other in zip(found[0][leader], found[1][leader], strict=True):
            torch.testing.assert_close(one.xx, other.xx)
            torch.testing.assert_close(one.xy, other.xy)


@pytest.mark.parametrize("name", ["di-greedy", "reconstruction", "discriminant-reconstruction"])
def test_single_precision_ranks_as_double_does(name: str) -> None:
    network = build("residual")
    single = rank(name, evidence(network))
    twice = [(images.double(), labels) for images, labels in batches()]
    double = rank(name, replace(evidence(network), network=network.double(), batches=twice))
    for leader, removal in single.items():
        assert removal.order == double[leader].order
        torch.testing.assert_close(removal.lost, double[leader].lost, rtol=1e-3, atol=1e-6)


def test_frozen_networks_can_be_ranked() -> None:
    network = build("chain").requires_grad_(False)
    with torch.no_grad():
        assert rank("taylor", evidence(network))["a"].order
