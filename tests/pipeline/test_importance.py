from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from small_networks import SHAPE, batches, build
from torch import Tensor, nn

from pipeline.compress.attribution import Objective, attributions, random_contrast, sampled_loss, task_loss
from pipeline.compress.evidence import Evidence
from pipeline.compress.groups import find_groups
from pipeline.compress.importance import CRITERIA, rank
from pipeline.compress.readers import find_readers
from pipeline.compress.reconstruction import reconstructions
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
BY_USE = ["taylor", "fisher", "reconstruction", "discriminant-reconstruction", "response", "joint"]


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


@pytest.mark.parametrize("name", ["di-greedy", "di-logits", "reconstruction", "discriminant-reconstruction"])
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


def test_contrasts_ignore_what_all_logits_share() -> None:
    logits = torch.randn(7, 4)
    one = random_contrast(torch.Generator().manual_seed(3))(logits, torch.zeros(7))
    other = random_contrast(torch.Generator().manual_seed(3))(logits + 100.0, torch.zeros(7))
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


def moments(objective: Objective, logits: Tensor, draws: int) -> Tensor:
    """Second moments of an objective's gradient by the logits of one image."""
    many = logits.repeat(draws, 1).requires_grad_()
    objective(many, torch.zeros(draws)).sum().backward()
    assert many.grad is not None
    return many.grad.T @ many.grad / draws


def test_contrasts_see_all_logits_alike() -> None:
    found = moments(random_contrast(torch.Generator().manual_seed(0)), torch.tensor([3.0, 0.0, -2.0]), 40000)
    torch.testing.assert_close(found, torch.eye(3) - 1.0 / 3.0, rtol=0.0, atol=0.02)


def test_drawn_labels_give_the_fisher_information() -> None:
    logits = torch.tensor([1.0, 0.0, -1.0])
    found = moments(sampled_loss(torch.Generator().manual_seed(0), 1.0), logits, 40000)
    p = logits.softmax(0)
    torch.testing.assert_close(found, p.diag() - p.outer(p), rtol=0.0, atol=0.01)


def test_decisions_that_depend_on_no_output_here_weigh_nothing() -> None:
    network = build("chain")
    given = evidence(network)
    every = [(images, labels) for images, labels in batches(2)]

    def objective(logits: Tensor, labels: Tensor) -> Tensor:
        del labels
        # Only the first 16 images matter.
        return logits[:, 0] * (torch.arange(len(logits)) < 16)

    first_ones = [(images[:16], labels[:16]) for images, labels in every]
    everything, first = (
        reconstructions(replace(given, batches=seen), objective)["a"][0] for seen in (every, first_ones)
    )
    torch.testing.assert_close(everything.xx, first.xx, rtol=1e-6, atol=1e-6)


def test_frozen_networks_can_be_ranked() -> None:
    network = build("chain").requires_grad_(False)
    with torch.no_grad():
        assert rank("taylor", evidence(network))["a"].order
