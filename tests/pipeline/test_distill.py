"""Distillation: what the loss says, what it sees inside networks, that nothing of it stays in the student."""

import copy
from dataclasses import replace

import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import SHAPE, Chain, Depthwise, residual
from torch import nn
from torch.nn import functional
from training_functions import CPU, SETTINGS, examples

from pipeline.compress.distill import (
    DistillationSettings,
    cross_entropy,
    distillation_loss,
    distilling,
    task_logits,
)
from pipeline.compress.groups import find_groups
from pipeline.compress.hints import Hints, Tap, least_squares, stage_ends, unexplained, watch
from pipeline.compress.structure import cut
from pipeline.export import export
from pipeline.fit import fit
from pipeline.hardware import Hardware
from pipeline.network import with_head
from targets.errors import ModelError

WANTED = (2, 0)
EVERYTHING = DistillationSettings(all_classes=1.0, hints=1.0)


@pytest.fixture
def teacher():
    torch.manual_seed(0)
    return residual().eval()


@pytest.fixture
def student(teacher):
    """The teacher cut to half of its channels, with the head of two of its three classes."""
    network = with_head(copy.deepcopy(teacher), WANTED, False, 3, SHAPE)
    keep = {group.leader: list(range(group.width // 2)) for group in find_groups(network, SHAPE)}
    return cut(network, keep, SHAPE)


def images(count=16):
    return torch.randn(count, *SHAPE[1:], generator=torch.Generator().manual_seed(0))


def train(network, loss):
    return fit(network, loss, examples(64), examples(64, 1), SETTINGS, 0, lambda *_: None, CPU)


@settings(deadline=None)
@given(seed=st.integers(0, 99), other=st.booleans())
def test_a_teacher_seen_through_a_task_keeps_its_probabilities(seed, other):
    logits = torch.randn(6, 7, generator=torch.Generator().manual_seed(seed)) * 5
    wanted = (4, 0, 2)
    seen = task_logits(logits, wanted, other).softmax(1)
    whole = logits.softmax(1)
    if other:
        torch.testing.assert_close(seen[:, :3], whole[:, list(wanted)])
        torch.testing.assert_close(seen[:, 3], whole[:, [1, 3, 5, 6]].sum(1))
    else:
        kept = whole[:, list(wanted)]
        torch.testing.assert_close(seen, kept / kept.sum(1, keepdim=True))


def test_distillation_is_annealed_to_plain_cross_entropy():
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
    loss = distillation_loss(teacher, (1, 3), True, temperature=4.0, weight=1.0)
    images, logits, labels = torch.randn(6, 1, 8, 8), torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    plain = cross_entropy(images, logits, labels, 0.0)
    assert loss(images, logits, labels, 1.0) == plain
    assert loss(images, logits, labels, 0.0) > loss(images, logits, labels, 0.5) > plain
    perfect = task_logits(teacher(images), (1, 3), True)
    torch.testing.assert_close(
        loss(images, perfect, labels, 0.0), cross_entropy(images, perfect, labels, 0.0)
    )
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_the_loss_is_the_sum_of_its_terms(teacher, student):
    batch, labels = images(), torch.arange(16) % 2
    weights = DistillationSettings(temperature=2.0, task=0.7, all_classes=0.3, hints=5.0)
    values = {}
    for name in ("task", "all_classes", "hints", None):
        others = {each: 0.0 for each in ("task", "all_classes", "hints") if name and each != name}
        with distilling(teacher, student, WANTED, False, replace(weights, **others), batch) as loss:
            values[name] = loss(batch, student(batch), labels, 0.25)
    plain = functional.cross_entropy(student(batch), labels)
    terms = [values[name] - plain for name in ("task", "all_classes", "hints")]
    assert all(term > 0 for term in terms)
    torch.testing.assert_close(values[None], plain + sum(terms))


@pytest.mark.parametrize("name", ["all_classes", "task"])
def test_soft_targets_are_annealed_and_hints_are_not(teacher, student, name):
    batch, labels = images(), torch.arange(16) % 2
    chosen = replace(DistillationSettings(task=0.0), **{name: 1.0})
    with distilling(teacher, student, WANTED, False, chosen, batch) as loss:
        logits = student(batch)
        assert loss(batch, logits, labels, 0.0) > loss(batch, logits, labels, 1.0)
        torch.testing.assert_close(loss(batch, logits, labels, 1.0), functional.cross_entropy(logits, labels))
    with distilling(teacher, student, WANTED, False, replace(chosen, hints=1.0), batch) as loss:
        logits = student(batch)
        assert loss(batch, logits, labels, 1.0) > functional.cross_entropy(logits, labels)


class Functional(nn.Module):
    """All that shrinks a map is a function, and one layer is used at two sizes."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.relu = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1), nn.ReLU()
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        x = functional.max_pool2d(self.relu(self.a(x)), 2)
        return self.head(self.relu(self.b(x)).mean((2, 3)))


@pytest.mark.parametrize(
    ("network", "channels"),
    [
        (residual, {(8, 8): 8, (4, 4): 16}),
        (Chain, {(8, 8): 6, (4, 4): 5}),
        (Depthwise, {(8, 8): 8}),
        (Functional, {(8, 8): 4, (4, 4): 6}),
    ],
)
def test_stage_ends_are_the_last_maps_of_every_size(network, channels):
    network, batch = network().eval(), images()
    ends = stage_ends(network, batch)
    with watch(network, ends.values()) as seen:
        network(batch)
    assert {size: seen[tap].shape[1] for size, tap in ends.items()} == channels
    assert all(tuple(seen[tap].shape[2:]) == size for size, tap in ends.items())


def test_the_end_of_a_residual_stage_lies_behind_its_sum(teacher):
    batch, blocks = images(), {}
    for name in ("stages.0.0", "stages.1.0"):
        teacher.get_submodule(name).register_forward_hook(
            lambda _layer, _given, result, name=name: blocks.update({name: result})
        )
    ends = stage_ends(teacher, batch)
    with watch(teacher, ends.values()) as seen:
        teacher(batch)
    assert [id(seen[tap]) for tap in ends.values()] == [id(block) for block in blocks.values()]


@settings(deadline=None)
@given(seed=st.integers(0, 99), scale=st.floats(0.01, 100.0))
def test_a_hint_is_a_share_of_variance_whatever_the_scale(seed, scale):
    generator = torch.Generator().manual_seed(seed)
    wanted, guess = torch.randn(2, 8, 3, 4, 4, generator=generator)
    means = wanted.mean((0, 2, 3), keepdim=True).expand_as(wanted)
    assert unexplained(wanted, wanted) == 0.0
    torch.testing.assert_close(unexplained(means, wanted), torch.tensor(1.0))
    torch.testing.assert_close(unexplained(scale * guess, scale * wanted), unexplained(guess, wanted))


def test_a_map_of_no_variance_gives_no_nan():
    flat = torch.ones(2, 3, 4, 4)
    assert torch.isfinite(unexplained(flat, flat))


@settings(deadline=None)
@given(seed=st.integers(0, 99))
def test_least_squares_finds_a_linear_map(seed):
    generator = torch.Generator().manual_seed(seed)
    x, weight, bias = (torch.randn(shape, generator=generator) for shape in ((200, 4), (3, 4), (3,)))
    found, constant = least_squares(x, x @ weight.T + bias)
    torch.testing.assert_close(found, weight, atol=0.02, rtol=0.02)
    torch.testing.assert_close(constant, bias, atol=0.02, rtol=0.02)


def test_hints_start_at_what_the_best_linear_map_leaves(teacher, student):
    batch = images()
    pairs = list(zip(stage_ends(student, batch).values(), stage_ends(teacher, batch).values(), strict=True))
    with watch(teacher, [pair[1] for pair in pairs]) as theirs, watch(student, [p[0] for p in pairs]) as mine:
        teacher(batch), student(batch)
        cut_down = Hints(pairs, mine, theirs)(mine, theirs)
        same = Hints([(own, own) for _, own in pairs], theirs, theirs)(theirs, theirs)
    assert same < 1e-3 < cut_down < 1.0


def test_training_against_everything_runs_each_network_once_a_batch(teacher, student):
    calls = {"teacher": 0, "student": 0}

    def count(name):
        def add(layer, given):
            calls[name] += layer.training or name == "teacher"

        return add

    teacher.register_forward_pre_hook(count("teacher"))
    student.register_forward_pre_hook(count("student"))
    with distilling(teacher, student, WANTED, False, EVERYTHING, images()) as loss:
        calls.update(teacher=0, student=0)
        before = copy.deepcopy(loss.inside.state_dict())
        train(student, loss)
    assert calls == {"teacher": 2, "student": 2}
    for name, tensor in loss.inside.state_dict().items():
        assert not torch.equal(tensor, before[name]), name


def test_distillation_works_in_16_bits(teacher, student):
    bfloat16 = Hardware(torch.device("cpu"), torch.bfloat16)
    with distilling(teacher, student, WANTED, False, EVERYTHING, images()) as loss:
        results = fit(student, loss, examples(64), examples(64, 1), SETTINGS, 0, lambda *_: None, bfloat16)
    assert results[-1].loss < results[0].loss


def test_the_loss_leaves_the_teacher_as_it_is(teacher, student):
    before = copy.deepcopy(teacher.state_dict())
    with distilling(teacher, student, WANTED, False, EVERYTHING, images()) as loss:
        train(student, loss)
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.state_dict().items())
    assert not teacher.training


def test_nothing_of_the_loss_stays_in_the_student(teacher, student, tmp_path):
    keys, plain = list(student.state_dict()), copy.deepcopy(student)
    with distilling(teacher, student, WANTED, False, EVERYTHING, images()) as loss:
        train(student, loss)
    train(plain, cross_entropy)
    assert list(student.state_dict()) == keys
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in student.modules())
    models = []
    for name, network in (("plain", plain), ("distilled", student)):
        path = tmp_path / f"{name}.onnx"
        export(network.eval(), SHAPE, path, exporter="dynamo", opset=18, dynamic_batch=False)
        models.append(onnx.load(path).graph)
    plainly, distilled = (
        (
            [node.op_type for node in model.node],
            {(one.name, *one.dims) for one in model.initializer},
            [one.name for one in model.output],
        )
        for model in models
    )
    assert distilled == plainly


def test_networks_without_a_common_size_are_told(teacher):
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    with (
        pytest.raises(ModelError, match="no feature maps") as caught,
        distilling(teacher, flat, WANTED, False, EVERYTHING, images()),
    ):
        pass
    assert caught.value.where == "student.hints"
    without = replace(EVERYTHING, hints=0.0)
    with distilling(teacher, flat, WANTED, False, without, images()) as loss:
        assert loss.inside.hints is None and loss.inside.read == Tap("1", given=True)
