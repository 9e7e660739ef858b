"""Train a student against its teacher.

Our reading of Shi et al. 2016 (task-specified distillation to a pre-set cost; its loss details were not
recovered):

    CE(y) + (1 − t)·τ²·[λ·KL(teacher ‖ student) + μ·KL(teacher ‖ auxiliary)] + β·hints

t is the share of the training that is done. Soft targets follow Hinton et al. 2015; they are annealed to zero
because distillation speeds convergence but caps the accuracy a student reaches (Nowak & Corso 2018). λ weighs
the teacher seen through the task. Soft targets of few classes carry little, so μ weighs an auxiliary head:
all classes of the teacher, told from what the student's own head reads. The auxiliary head and the hints' 1×1
convolutions belong to the loss: they are trained with the student and are never part of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.compress.hints import Features, Hints, Tap, least_squares, stage_ends, watch
from pipeline.fit import Loss
from pipeline.network import find_head
from targets.errors import ModelError


@dataclass(frozen=True)
class DistillationSettings:
    """Weights of the loss.

    Args:
        temperature: τ of all soft targets.
        task: λ at the start, of the teacher seen through the task.
        all_classes: μ at the start, of all the teacher's classes through the auxiliary head.
        hints: β, of the stage hints.
    """

    temperature: float = 4.0
    task: float = 1.0
    all_classes: float = 0.0
    hints: float = 0.0


class Distillation(nn.Module):
    """The loss, for `fit`; `distilling` makes one that sees inside both networks.

    Args:
        teacher: classifier of all classes; evaluated, never trained.
        wanted: labels of the task, in output order.
        other: the task has an output for the rest.
        settings: its weights.
        inside: what hints and the auxiliary head work on; needed when they have a weight.
    """

    def __init__(
        self,
        teacher: nn.Module,
        wanted: tuple[int, ...],
        other: bool,
        settings: DistillationSettings,
        inside: Inside | None = None,
    ) -> None:
        super().__init__()
        self.teacher = teacher.eval().requires_grad_(False)
        self.wanted, self.other = wanted, other
        self.settings = settings
        self.inside = inside

    def forward(self, images: Tensor, logits: Tensor, labels: Tensor, done: float) -> Tensor:
        """Loss of one batch: images [N, …], the student's logits [N, K], labels [N], share of training."""
        chosen, left = self.settings, 1.0 - done
        value = functional.cross_entropy(logits, labels)
        soft = left * chosen.temperature**2
        if not (soft * (chosen.task + chosen.all_classes) or chosen.hints):
            return value
        with torch.no_grad():
            taught = self.teacher(images).float()
        if chosen.task:
            seen = task_logits(taught, self.wanted, self.other)
            value = value + soft * chosen.task * divergence(seen, logits, chosen.temperature)
        if self.inside is not None:
            value = value + self.inside(taught, soft * chosen.all_classes, chosen)
        return value


class Inside(nn.Module):
    """The terms that look inside the student.

    Args:
        mine: the student's tensors at the taps, filled by its forward pass.
        theirs: the teacher's.
        hints: or None without.
        head: reads what the student's head reads, tells all classes; or None without.
        read: where that is.
    """

    def __init__(
        self, mine: Features, theirs: Features, hints: Hints | None, head: nn.Linear | None, read: Tap
    ) -> None:
        super().__init__()
        self.mine, self.theirs = mine, theirs
        self.hints, self.head, self.read = hints, head, read

    def forward(self, taught: Tensor, soft: float, chosen: DistillationSettings) -> Tensor:
        """Both terms of the batch the two networks saw last; `taught` are the teacher's logits."""
        value = taught.new_zeros((), dtype=torch.float32)
        if self.head is not None:
            told = self.head(self.mine[self.read])
            value = value + soft * divergence(taught, told, chosen.temperature)
        if self.hints is not None:
            value = value + chosen.hints * self.hints(self.mine, self.theirs)
        return value


@contextmanager
def distilling(
    teacher: nn.Module,
    student: nn.Module,
    wanted: tuple[int, ...],
    other: bool,
    settings: DistillationSettings,
    images: Tensor,
) -> Iterator[Distillation]:
    """The loss of a student, which sees inside both networks as long as the context lasts.

    Each batch runs through both networks once: hooks note what hints and the auxiliary head need.

    Args:
        teacher: classifier of all classes; evaluated, never trained.
        student: what `fit` is to train.
        wanted: labels of the task, in output order.
        other: the task has an output for the rest.
        settings: the weights.
        images: [N, …], a batch of training images: stage ends are found on it, and the auxiliary parts start
            from least squares on it.

    Raises:
        ModelError: hints are wanted, but no stage of the two networks has one size.
    """
    read = Tap(find_head(student, len(wanted) + other, images[:1].shape)[0], given=True)
    pairs = _pairs(student, teacher, images) if settings.hints else []
    with (
        watch(student.eval(), [read, *(own for own, _ in pairs)]) as mine,
        watch(teacher.eval(), [their for _, their in pairs]) as theirs,
    ):
        with torch.no_grad():
            student(images)
            taught = teacher(images)
        hints = Hints(pairs, mine, theirs) if pairs else None
        auxiliary = _linear(mine[read], taught) if settings.all_classes else None
        inside = Inside(mine, theirs, hints, auxiliary, read)
        yield Distillation(teacher, wanted, other, settings, inside)


def distillation_loss(
    teacher: nn.Module, wanted: tuple[int, ...], other: bool, temperature: float, weight: float
) -> Loss:
    """The loss without hints and auxiliary head; `weight` is λ at the start."""
    return Distillation(teacher, wanted, other, DistillationSettings(temperature, weight))


def cross_entropy(images: Tensor, logits: Tensor, labels: Tensor, done: float) -> Tensor:
    """The loss of a network without a teacher."""
    del images, done
    return functional.cross_entropy(logits, labels)


def divergence(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """KL(teacher ‖ student) of logits [N, K] at a temperature, mean over the batch."""
    soft = functional.log_softmax(teacher / temperature, dim=1)
    own = functional.log_softmax(student.float() / temperature, dim=1)
    return functional.kl_div(own, soft, log_target=True, reduction="batchmean")


def task_logits(logits: Tensor, wanted: tuple[int, ...], other: bool) -> Tensor:
    """A classifier's logits seen through a task: those of the wanted classes, the rest as one.

    The rest is joined by log-sum-exp, so that softmax over the result equals softmax over all classes
    with the rest's probabilities added up.

    Args:
        logits: [N, K] over all classes.
        wanted: labels kept, in output order.
        other: the rest is an output of its own; otherwise it is left out.

    Returns:
        [N, len(wanted) + other]
    """
    parts = [logits[:, list(wanted)]]
    if other:
        rest = [label for label in range(logits.shape[1]) if label not in wanted]
        parts.append(torch.logsumexp(logits[:, rest], dim=1, keepdim=True))
    return torch.cat(parts, dim=1)


def _pairs(student: nn.Module, teacher: nn.Module, images: Tensor) -> list[tuple[Tap, Tap]]:
    mine, theirs = stage_ends(student.eval(), images), stage_ends(teacher.eval(), images)
    pairs = [(mine[size], theirs[size]) for size in mine if size in theirs]
    if not pairs:
        raise ModelError(
            f"no stage of the student ({_sizes(mine)}) has the size of one of the teacher ({_sizes(theirs)})",
            where="student.hints",
            mend="set student.hints = 0",
        )
    return pairs


def _sizes(ends: dict[tuple[int, int], Tap]) -> str:
    return ", ".join(f"{height}×{width}" for height, width in ends) or "no feature maps"


def _linear(read: Tensor, taught: Tensor) -> nn.Linear:
    """An auxiliary head that starts from least squares."""
    head = nn.Linear(read.shape[1], taught.shape[1])
    weight, bias = least_squares(read, taught)
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.copy_(bias)
    return head
