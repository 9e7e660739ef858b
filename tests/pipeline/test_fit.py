"""Training and distillation."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pipeline.compress.distill import cross_entropy, distillation_loss, task_logits
from pipeline.fit import Examples, FitSettings, accuracy, augment, fit, one_cycle
from targets.errors import StageError
from targets.preprocess import Preprocess

SETTINGS = FitSettings(
    epochs=3, batch_size=32, learning_rate=0.1, weight_decay=0.0, flip=False, shift=0, average=0.9
)


def examples(count=256, seed=0):
    """Images whose left or right half is bright: easy to tell apart."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    images = rng.integers(0, 60, (count, 8, 8, 1))
    for image, label in zip(images, labels, strict=True):
        image[:, 4 * label : 4 * label + 4] += 150
    return Examples(images.astype(np.uint8), labels.astype(np.int64), Preprocess())


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))


def run(model, **changes):
    chosen = FitSettings(**{**SETTINGS.__dict__, **changes})
    return fit(model, cross_entropy, examples(), examples(seed=1), chosen, 0, lambda *_: None)


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


@given(done=st.floats(0.0, 1.0))
def test_the_learning_rate_stays_between_nothing_and_its_peak(done):
    assert 0.0 <= one_cycle(done) <= 1.0


@settings(max_examples=20)
@given(shift=st.integers(0, 3), flip=st.booleans(), seed=st.integers(0, 99))
def test_augmentation_moves_pixels_and_makes_none_up(shift, flip, seed):
    images = examples(8).images
    moved = augment(images, flip, shift, np.random.default_rng(seed))
    assert moved.shape == images.shape and moved.dtype == images.dtype
    if not shift:
        for before, after in zip(images, moved, strict=True):
            assert (after == before).all() or (flip and (after == before[:, ::-1]).all())
    for before, after in zip(images, moved, strict=True):
        assert set(np.unique(after)) <= set(np.unique(before)) | {0}


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
