"""The one training loop, for teachers and students alike."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.stage import Progress
from targets.errors import StageError
from targets.preprocess import Preprocess

SAFE_CHANNELS = 8

# (images, logits, labels, share of the training that is done) → scalar
Loss = Callable[[Tensor, Tensor, Tensor, float], Tensor]


@dataclass(frozen=True)
class FitSettings:
    """How a network is trained: SGD with Nesterov momentum, one warm-up-and-cosine cycle, averaged weights.

    Args:
        epochs: passes over the images.
        batch_size: images a step.
        learning_rate: the peak of the cycle.
        weight_decay: L2 on all weights with more than one dimension.
        flip: mirror half of the images.
        shift: move images by up to so many pixels each way.
        average: decay per step of the exponential moving average of the weights.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    flip: bool
    shift: int
    average: float


@dataclass(frozen=True)
class EpochResult:
    """What one epoch reached.

    Args:
        loss: mean training loss.
        select_top1: accuracy of the averaged weights on the select split.
    """

    loss: float
    select_top1: float


@dataclass(frozen=True)
class Examples:
    """Labelled images as they are stored.

    Args:
        images: [N, H, W, C], possibly memory-mapped.
        labels: [N]; output indices of the network.
        preprocess: from stored images to the network's input.
    """

    images: NDArray[np.generic]
    labels: NDArray[np.int64]
    preprocess: Preprocess

    def tensors(self, indices: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Network input [n, …] and labels [n] of the given indices."""
        return self._prepare(self.images[indices]), torch.from_numpy(self.labels[indices])

    def batches(self, settings: FitSettings, rng: np.random.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """One shuffled, augmented epoch; a last incomplete batch is left out unless it is the only one."""
        order = rng.permutation(len(self.labels))
        steps = max(1, len(order) // settings.batch_size)
        for indices in np.array_split(order[: steps * settings.batch_size], steps):
            images = augment(self.images[indices], settings.flip, settings.shift, rng)
            yield self._prepare(images), torch.from_numpy(self.labels[indices])

    def _prepare(self, images: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(self.preprocess(images))


def augment(
    images: NDArray[np.generic], flip: bool, shift: int, rng: np.random.Generator
) -> NDArray[np.generic]:
    """Mirror and move images [n, H, W, C] at random; what moves in from outside is zero."""
    if flip:
        mirrored = rng.random(len(images)) < 0.5
        images = np.where(mirrored[:, None, None, None], images[:, :, ::-1], images)
    if shift:
        height, width = images.shape[1:3]
        padded = np.pad(images, ((0, 0), (shift, shift), (shift, shift), (0, 0)))
        rows = rng.integers(0, 2 * shift + 1, len(images))[:, None] + np.arange(height)
        columns = rng.integers(0, 2 * shift + 1, len(images))[:, None] + np.arange(width)
        images = padded[np.arange(len(images))[:, None, None], rows[:, :, None], columns[:, None, :]]
    return images


def fit(
    network: nn.Module,
    loss: Loss,
    train: Examples,
    select: Examples,
    settings: FitSettings,
    seed: int,
    progress: Progress,
) -> list[EpochResult]:
    """Train in place; afterwards the network holds the best averaged weights by the select split.

    Args:
        network: takes what `train.preprocess` gives, returns logits [N, K].
        loss: of one batch.
        train: images it learns from.
        select: images that choose between epochs.
        settings: the recipe.
        seed: of shuffling and augmentation.
        progress: told after every step.

    Raises:
        StageError: the loss became NaN or infinite.
    """
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True)
    rng = np.random.default_rng(seed)
    network.to(memory_format=memory_format(network))  # type: ignore[call-overload]
    steps = max(1, len(train.labels) // settings.batch_size) * settings.epochs
    optimizer = _optimizer(network, settings)
    average = copy.deepcopy(network).requires_grad_(False)
    results: list[EpochResult] = []
    best, best_weights = -1.0, average.state_dict()
    step = 0
    for epoch in range(settings.epochs):
        network.train()
        total = 0.0
        first = step
        for images, labels in train.batches(settings, rng):
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * one_cycle(step / steps)
            images = images.contiguous(memory_format=memory_format(network))
            value = loss(images, network(images), labels, step / steps)
            if not math.isfinite(value.item()):
                raise StageError(
                    f"training diverged in epoch {epoch + 1}: the loss is {value.item()}",
                    mend="lower training.learning_rate",
                )
            optimizer.zero_grad(set_to_none=True)
            value.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += value.item()
            step += 1
            _update(average, network, min(settings.average, step / (step + 10)))
            progress(f"epoch {epoch + 1} of {settings.epochs}", step, steps)
        results.append(EpochResult(total / (step - first), accuracy(average, select)))
        if results[-1].select_top1 >= best:
            best, best_weights = results[-1].select_top1, copy.deepcopy(average.state_dict())
    network.load_state_dict(best_weights)
    network.eval()
    return results


def memory_format(network: nn.Module) -> torch.memory_format:
    """The order of tensors in memory a network trains fastest in; values do not change.

    Channels last is 12 to 55 % faster on a CPU (docs/training.md). But in that order torch 2.13's backward
    pass of a strided 1×1 convolution with 4 or 6 input channels writes beyond its memory, so networks with
    such narrow ones keep the usual order.
    """
    narrow = any(
        isinstance(layer, nn.Conv2d)
        and layer.kernel_size == (1, 1)
        and layer.stride != (1, 1)
        and layer.in_channels < SAFE_CHANNELS
        for layer in network.modules()
    )
    return torch.contiguous_format if narrow else torch.channels_last


def one_cycle(done: float) -> float:
    """Learning rate as a share of its peak: up linearly for 15 % of the steps, then down as a cosine."""
    if done < 0.15:
        return 0.05 + 0.95 * done / 0.15
    return 0.5 * (1.0 + math.cos(math.pi * (done - 0.15) / 0.85))


def accuracy(network: nn.Module, examples: Examples, batch: int = 512) -> float:
    """Top-1 on labelled images, in evaluation mode."""
    network.eval()
    correct = 0
    with torch.inference_mode():
        for start in range(0, len(examples.labels), batch):
            images, labels = examples.tensors(np.arange(start, min(start + batch, len(examples.labels))))
            correct += int((network(images).argmax(1) == labels).sum())
    return correct / len(examples.labels)


def history(results: list[EpochResult]) -> list[dict[str, float]]:
    """Epoch results as JSON values."""
    return [asdict(result) for result in results]


def _optimizer(network: nn.Module, settings: FitSettings) -> torch.optim.Optimizer:
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=settings.learning_rate, momentum=0.9, nesterov=True)


@torch.no_grad()
def _update(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move the averaged parameters and statistics towards the network's."""
    for mine, theirs in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if mine.is_floating_point():
            mine.lerp_(theirs, 1.0 - decay)
        else:
            mine.copy_(theirs)
