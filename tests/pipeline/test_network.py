"""Weights from files that cannot run code, networks from factories that may be wrong."""

import os
from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.network import build_network, fill, find_head, load_weights, save_weights, with_head
from pipeline.zoo import resnet
from targets.errors import ConfigError, ModelError


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/edgewright-was-here",)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_weights_survive_saving(tmp_path, suffix):
    network = resnet(channels=1, blocks=(1,), widths=(8,))
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pt":
        torch.save({"state_dict": network.state_dict()}, path)
    else:
        save_weights(network, path)
    other = resnet(channels=1, blocks=(1,), widths=(8,))
    fill(other, load_weights(path), path)
    image = torch.randn(1, 1, 8, 8)
    assert torch.equal(network.eval()(image), other.eval()(image))


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path):
    path = tmp_path / "evil.pt"
    torch.save({"weight": Evil()}, path)
    with pytest.raises(ModelError, match="wants to run code"):
        load_weights(path)
    assert not Path("/tmp/edgewright-was-here").exists()


def test_unreadable_checkpoints_are_named(tmp_path):
    with pytest.raises(ModelError, match="no such checkpoint"):
        load_weights(tmp_path / "nothing.safetensors")
    for name, words in (("a.safetensors", "not a whole safetensors file"), ("a.pt", "checkpoint")):
        (tmp_path / name).write_bytes(b"\x10\0\0\0\0\0\0\0{}")
        with pytest.raises(ModelError, match=words):
            load_weights(tmp_path / name)
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ModelError, match="not a dictionary of tensors"):
        load_weights(tmp_path / "list.pt")


class TwoHeads(nn.Module):
    """The head is built first; `embed` runs before it, `idle` only in training."""

    def __init__(self, both=False):
        super().__init__()
        self.head = nn.Linear(6, 5)
        self.embed = nn.Linear(4, 6)
        self.idle = nn.Linear(6, 5)
        self.both = both

    def forward(self, x):
        read = self.embed(x.mean((2, 3)))
        return (self.idle(read) if self.both or self.training else 0.0) + self.head(read)


def test_the_head_is_the_linear_layer_that_runs_last():
    network = TwoHeads().train()
    name, head = find_head(network, 5, (1, 4, 2, 2))
    assert (name, head) == ("head", network.head) and network.training
    with_head(network, (1, 3), False, 5, (1, 4, 2, 2))
    assert network.eval()(torch.zeros(3, 4, 2, 2)).shape == (3, 2)


def test_a_network_whose_logits_come_from_elsewhere_too_is_refused():
    with pytest.raises(ModelError, match=r"'head' alone") as caught:
        with_head(TwoHeads(both=True), (1, 3), False, 5, (1, 4, 2, 2))
    assert caught.value.where == "model.factory"


def test_nan_weights_are_named(tmp_path):
    network = nn.Linear(2, 2)
    with torch.no_grad():
        network.weight[0, 0] = float("nan")
    save_weights(network, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match="'weight' hold NaN"):
        load_weights(tmp_path / "w.safetensors")


def test_weights_of_another_network_are_refused_with_the_tensors_named(tmp_path):
    path = tmp_path / "w"
    with pytest.raises(ModelError, match="size mismatch for weight"):
        fill(nn.Linear(2, 2), nn.Linear(3, 2).state_dict(), path)
    with pytest.raises(ModelError, match="missing bias"):
        fill(nn.Linear(2, 2), {"weight": torch.zeros(2, 2)}, path)
    with pytest.raises(ModelError, match="unknown extra"):
        fill(nn.Linear(2, 2), nn.Linear(2, 2).state_dict() | {"extra": torch.zeros(1)}, path)


def test_factories_that_are_not_there_or_refuse_are_named():
    with pytest.raises(ConfigError, match="cannot find the factory"):
        build_network("pipeline.zoo:nothing", {})
    with pytest.raises(ConfigError, match="cannot find the factory"):
        build_network("nowhere.at_all:f", {})
    with pytest.raises(ConfigError, match="refused its arguments"):
        build_network("pipeline.zoo:resnet", {"wdiths": [1]})
    with pytest.raises(ConfigError, match="returned float, not a torch module"):
        build_network("time:time", {})
