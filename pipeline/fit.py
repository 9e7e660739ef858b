"""The one training loop, for teachers and students alike."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor, nn

from pipeline import parallel
from pipeline.examples import Examples as Examples
from pipeline.examples import FitSettings as FitSettings
from pipeline.hardware import Hardware, best_hardware, device_of
from pipeline.stage import Progress
from targets.errors import StageError

SAFE_CHANNELS = 8

# (images, logits, labels, share of the training that is done) → scalar
Loss = Callable[[Tensor, Tensor, Tensor, float], Tensor]


@dataclass(frozen=True)
class EpochResult:
    """What one epoch reached.

    Args:
        loss: mean training loss.
        select_top1: accuracy of the averaged weights on the select split.
    """

    loss: float
    select_top1: float


def fit(
    network: nn.Module,
    loss: Loss,
    train: Examples,
    select: Examples,
    settings: FitSettings,
    seed: int,
    progress: Progress,
    hardware: Hardware | None = None,
) -> list[EpochResult]:
    """Train in place; afterwards the network holds the best averaged weights by the select split.

    In an initialised process group every process must call it alike. Each takes its part of every batch, so
    settings mean the same for any number of them; all end with the same weights and results.

    Args:
        network: takes what `train.preprocess` gives, returns logits [N, K]; on the CPU afterwards.
        loss: of one batch; a module's own parameters are trained with the network's.
        train: images it learns from.
        select: images that choose between epochs.
        settings: the recipe.
        seed: of shuffling and augmentation.
        progress: told after every step, by rank 0 alone.
        hardware: by default the best there is.

    Raises:
        StageError: the loss became NaN or infinite, or there are fewer images a batch than processes.
    """
    hardware = hardware or best_hardware()
    hardware.be_reproducible(seed + parallel.rank())
    _check_parts(train, settings)
    rng = np.random.default_rng(seed)
    trainer = Trainer(network, loss, settings, train.steps(settings) * settings.epochs, hardware)
    results: list[EpochResult] = []
    best, best_weights = -1.0, trainer.average.state_dict()
    for epoch in range(settings.epochs):
        value = trainer.epoch(train, rng, epoch, progress)
        results.append(EpochResult(value, trainer.select_top1(select)))
        if results[-1].select_top1 >= best:
            best, best_weights = results[-1].select_top1, copy.deepcopy(trainer.average.state_dict())
    network.load_state_dict(best_weights)
    trainer.whole.to("cpu")
    network.eval()
    return results


class _Whole(nn.Module):
    """Network and loss as one module, so that whatever averages gradients sees the parameters of both."""

    def __init__(self, network: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.network = network
        self.loss = loss

    def forward(self, images: Tensor, labels: Tensor, done: float) -> Tensor:
        return self.loss(images, self.network(images), labels, done)


class Trainer:
    """A network in training, its averaged twin and what moves them."""

    def __init__(
        self, network: nn.Module, loss: Loss, settings: FitSettings, steps: int, hardware: Hardware
    ) -> None:
        self.settings, self.steps, self.hardware = settings, steps, hardware
        self.format = memory_format(network)
        self.whole = _Whole(network, loss).to(hardware.device)
        # All in one order, teacher too: gradients come in the order of what a loss compares.
        self.whole.to(memory_format=self.format)  # type: ignore[call-overload]
        self.shared = parallel.together(self.whole)
        self.optimizer = _optimizer(self.whole, settings)
        self.scaler = hardware.scaler()
        self.average = copy.deepcopy(network).requires_grad_(False)
        self.done = 0

    def epoch(self, train: Examples, rng: np.random.Generator, epoch: int, progress: Progress) -> float:
        """Train for one pass over the images; return the mean loss."""
        return self.mean(list(self.learning(train, rng, epoch, progress)))

    def learning(
        self, train: Examples, rng: np.random.Generator, epoch: int, progress: Progress
    ) -> Iterator[float]:
        """Train for one pass over the images, a step each time the next loss is asked for."""
        self.whole.network.train()
        for images, labels, weight in train.batches(self.settings, rng):
            value = self.step(images, labels, weight)
            if not math.isfinite(value):
                raise StageError(
                    f"training diverged in epoch {epoch + 1}: the loss is {value}",
                    mend="lower training.learning_rate",
                )
            if parallel.rank() == 0:
                progress(f"epoch {epoch + 1} of {self.settings.epochs}", self.done, self.steps)
            yield value

    def mean(self, losses: Sequence[float]) -> float:
        """Mean loss of an epoch's steps, over all processes."""
        return parallel.mean(sum(losses) / len(losses), self.hardware.device)

    def step(self, images: Tensor, labels: Tensor, weight: float) -> float:
        """Learn from one batch; return its loss."""
        done = self.done / self.steps
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * one_cycle(done)
        # Cloned: images of one channel count as contiguous in every order, and the network follows theirs.
        images = images.to(self.hardware.device).clone(memory_format=self.format)
        with self.hardware.autocast():
            value: Tensor = self.shared(images, labels.to(self.hardware.device), done) * weight
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(value).backward()  # type: ignore[no-untyped-call]
        if self.settings.clip < math.inf:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.whole.parameters(), self.settings.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.done += 1
        _update(self.average, self.whole.network, min(self.settings.average, self.done / (self.done + 10)))
        return value.item()

    def select_top1(self, select: Examples) -> float:
        """Accuracy of the averaged weights, told by rank 0."""
        parallel.average_buffers(self.average)
        mine = accuracy(self.average, select) if parallel.rank() == 0 else 0.0
        return parallel.from_first(mine, self.hardware.device)


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
    device = device_of(network)
    correct = 0
    with torch.inference_mode():
        for start in range(0, len(examples.labels), batch):
            images, labels = examples.tensors(np.arange(start, min(start + batch, len(examples.labels))))
            correct += int((network(images.to(device)).argmax(1).cpu() == labels).sum())
    return correct / len(examples.labels)


def history(results: list[EpochResult]) -> list[dict[str, float]]:
    """Epoch results as JSON values."""
    return [asdict(result) for result in results]


def _check_parts(train: Examples, settings: FitSettings) -> None:
    batch = min(settings.batch_size, len(train.labels))
    if batch < parallel.size():
        raise StageError(
            f"a batch of {batch} images cannot be shared by {parallel.size()} processes",
            where="training.batch_size",
            mend="use fewer processes or larger batches",
        )


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
