"""Training: one loop for CPU and GPU, one process and several."""

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from training_functions import CPU, Scaled, examples, network, train
from training_functions import SETTINGS as MANY

from pipeline import hardware
from pipeline.compress.distill import cross_entropy
from pipeline.examples import Moves
from pipeline.fit import accuracy, fit, one_cycle
from pipeline.hardware import Hardware, best_hardware
from pipeline.network import load_weights
from pipeline.run import Listener, Run
from pipeline.stage import Stage
from pipeline.store import Store
from targets.errors import StageError

HERE = Path(__file__).parent
SETTINGS = replace(MANY, epochs=3, batch_size=32, weight_decay=0.0, flip=False, shift=0)


def quiet(*_):
    """Tell nobody."""


def run(model, loss=cross_entropy, hardware=CPU, **changes):
    return fit(model, loss, examples(), examples(seed=1), replace(SETTINGS, **changes), 0, quiet, hardware)


def test_training_learns_and_ends_with_the_best_epoch():
    model = network()
    results = run(model)
    assert results[-1].loss < results[0].loss
    assert accuracy(model, examples(seed=1)) == max(each.select_top1 for each in results) > 0.95


def test_the_same_seed_gives_the_same_weights():
    first, second = network(), network()
    run(first, flip=True, shift=1)
    run(second, flip=True, shift=1)
    for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_on_a_cpu_training_is_bit_for_bit_the_plain_loop():
    """What devices, precisions and processes need leaves no trace where there is one CPU process."""
    model, plain = network(), network().to(memory_format=torch.channels_last)
    run(model, weight_decay=0.01, average=0.0, epochs=1)
    groups = [
        {"params": [p for p in plain.parameters() if (p.ndim > 1) == decayed], "weight_decay": decay}
        for decayed, decay in ((True, 0.01), (False, 0.0))
    ]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True)
    plain.train()
    order = np.random.default_rng(0).permutation(256)
    for step in range(8):
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * one_cycle(step / 8)
        images, labels = examples().tensors(order[32 * step : 32 * (step + 1)])
        images = images.contiguous(memory_format=torch.channels_last)
        optimizer.zero_grad()
        nn.functional.cross_entropy(plain(images), labels).backward()
        optimizer.step()
    for mine, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_a_narrow_network_trains_in_the_usual_order_on_images_of_one_channel():
    """They count as contiguous in every order; channels-last, torch would write beyond its memory."""
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 2, 1, stride=2), nn.Flatten(), nn.Linear(18, 2))
    seen = []
    model[0].register_forward_hook(lambda _layer, _given, result: seen.append(result.is_contiguous()))
    run(model, epochs=1)
    assert all(seen[:8])


@pytest.mark.parametrize("half", [None, torch.float16])
def test_no_step_is_longer_than_the_clipped_gradient_allows(half):
    model, first = network(), network()
    run(model, hardware=Hardware(torch.device("cpu"), half), clip=1e-3, average=0.0, epochs=1)
    moved = [
        (a - b).square().sum().item() for a, b in zip(model.parameters(), first.parameters(), strict=True)
    ]
    assert 0.0 < math.sqrt(sum(moved)) < 8 * 0.1 * 1e-3 / (1 - 0.9)


def test_a_loss_with_parameters_is_trained_with_the_network():
    loss = Scaled()
    run(network(), loss)
    assert loss.scale.item() != 1.0


def test_divergence_is_an_error_that_names_the_learning_rate():
    with pytest.raises(StageError, match="training diverged") as caught:
        run(network(), learning_rate=1e20)
    assert "learning_rate" in caught.value.mend


def test_progress_counts_every_step():
    seen = []

    def note(_what, done, total):
        seen.append((done, total))

    fit(network(), cross_entropy, examples(), examples(), SETTINGS, 0, note)
    assert seen == [(step, 24) for step in range(1, 25)]


@pytest.mark.parametrize(
    ("cuda", "bfloat16", "expected"),
    [
        (False, False, Hardware(torch.device("cpu"))),
        (True, True, Hardware(torch.device("cuda", 0), torch.bfloat16)),
        (True, False, Hardware(torch.device("cuda", 0), torch.float16)),
    ],
)
def test_the_best_hardware_is_a_gpu_in_16_bits_or_a_cpu_in_32(monkeypatch, cuda, bfloat16, expected):
    monkeypatch.setattr(hardware.torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(hardware.torch.cuda, "is_bf16_supported", lambda **_: bfloat16)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    assert best_hardware() == expected


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_16_bit_arithmetic_learns_and_leaves_32_bit_weights(half):
    seen = set()
    model = network()
    model[0].register_forward_hook(lambda _layer, _given, result: seen.add(result.dtype))
    results = run(model, hardware=Hardware(torch.device("cpu"), half))
    assert seen == {half, torch.float32}  # trained in 16 bits, evaluated in 32
    assert results[-1].select_top1 > 0.95
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_float16_scales_its_loss_and_nothing_else_does():
    assert Hardware(torch.device("cpu"), torch.float16).scaler().is_enabled()
    assert not Hardware(torch.device("cpu"), torch.bfloat16).scaler().is_enabled()
    assert not Hardware(torch.device("cpu")).scaler().is_enabled()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Weights by kind of network: of one process, and of each of two."""
    alone, both, build = (tmp_path_factory.mktemp(name) for name in ("alone", "both", "build"))
    train(SimpleNamespace(files={"out": alone}, out=alone))
    store = Store(build / "store")
    store.prepare()
    stage = Stage("s", "training_functions:train", files={"out": both}, processes=2)
    Run(store, build, build / "debris", HERE, Listener()).run([stage])
    return {
        kind: [load_weights(alone / f"{kind}-0.safetensors")]
        + [load_weights(both / f"{kind}-{rank}.safetensors") for rank in (0, 1)]
        for kind in ("plain", "normalised")
    }


def test_two_processes_train_as_one_does(trained):
    alone, first, _ = trained["plain"]
    for name, tensor in alone.items():
        torch.testing.assert_close(first[name], tensor, atol=1e-5, rtol=1e-5)


def test_with_batch_norm_two_processes_learn_as_much(trained):
    alone, first, _ = trained["normalised"]
    assert first["results"][-1, 1] > 0.95 < alone["results"][-1, 1]
    # Means of parts average to the whole's; variances lack what parts' means differ by.
    torch.testing.assert_close(first["1.running_mean"], alone["1.running_mean"], atol=0.05, rtol=0.05)


@pytest.mark.parametrize("kind", ["plain", "normalised"])
def test_all_processes_end_alike_and_only_the_first_speaks(trained, kind):
    _, first, second = trained[kind]
    assert first["spoke"] > 0 == second["spoke"]
    for name in first.keys() - {"spoke"}:
        assert torch.equal(first[name], second[name]), name


def test_a_batch_smaller_than_the_processes_is_refused(monkeypatch):
    monkeypatch.setattr("pipeline.parallel.size", lambda: 64)
    with pytest.raises(StageError, match="a batch of 32 images cannot be shared by 64"):
        run(network())


@settings(deadline=None)
@given(count=st.integers(4, 40), batch=st.integers(4, 16), processes=st.integers(1, 4))
def test_the_parts_of_every_batch_are_the_batch(count, batch, processes):
    chosen = replace(MANY, batch_size=batch)
    data = examples(count)
    parts = []
    with pytest.MonkeyPatch.context() as patch:
        for size, rank in [(1, 0), *((processes, rank) for rank in range(processes))]:
            patch.setattr("pipeline.parallel.size", lambda size=size: size)
            patch.setattr("pipeline.parallel.rank", lambda rank=rank: rank)
            parts.append(list(data.batches(chosen, np.random.default_rng(0))))
    whole, *parts = parts
    for index, (images, labels, weight) in enumerate(whole):
        assert weight == 1.0
        shares = [part[index] for part in parts]
        assert math.isclose(sum(share[2] for share in shares), processes)
        for rank, (some, theirs, _) in enumerate(shares):
            assert torch.equal(some, images[rank::processes]) and torch.equal(theirs, labels[rank::processes])


@settings(deadline=None)
@given(done=st.floats(0.0, 1.0))
def test_the_learning_rate_stays_between_nothing_and_its_peak(done):
    assert 0.0 <= one_cycle(done) <= 1.0


@settings(max_examples=20, deadline=None)
@given(shift=st.integers(0, 3), flip=st.booleans(), seed=st.integers(0, 99))
def test_augmentation_moves_pixels_and_makes_none_up(shift, flip, seed):
    images = examples(8).images
    chosen = replace(SETTINGS, flip=flip, shift=shift)
    moved = Moves.draw(8, chosen, np.random.default_rng(seed)).apply(images)
    assert moved.shape == images.shape and moved.dtype == images.dtype
    if not shift:
        for before, after in zip(images, moved, strict=True):
            assert (after == before).all() or (flip and (after == before[:, ::-1]).all())
    for before, after in zip(images, moved, strict=True):
        assert set(np.unique(after)) <= set(np.unique(before)) | {0}
