"""Train a student against its teacher.

Our reading of Shi et al. 2016 (task-specified distillation to a pre-set cost): its loss details were not
recovered. The soft-target term follows Hinton et al. 2015; it is annealed to zero because distillation speeds
convergence but caps the accuracy a student reaches (Nowak & Corso 2018).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.fit import Loss


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


def distillation_loss(
    teacher: nn.Module, wanted: tuple[int, ...], other: bool, temperature: float, weight: float
) -> Loss:
    """Cross-entropy plus λ·τ²·KL(teacher ‖ student) at temperature τ, λ annealed to 0 linearly.

    Args:
        teacher: classifier of all classes; evaluated, never trained.
        wanted: labels of the task, in output order.
        other: the task has an output for the rest.
        temperature: τ.
        weight: λ at the start.
    """
    teacher.eval().requires_grad_(False)
    teacher.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def loss(images: Tensor, logits: Tensor, labels: Tensor, done: float) -> Tensor:
        value = functional.cross_entropy(logits, labels)
        share = weight * (1.0 - done)
        if share == 0.0:
            return value
        with torch.no_grad():
            soft = functional.log_softmax(task_logits(teacher(images), wanted, other) / temperature, dim=1)
        own = functional.log_softmax(logits / temperature, dim=1)
        divergence = functional.kl_div(own, soft, log_target=True, reduction="batchmean")
        return value + share * temperature**2 * divergence

    return loss


def cross_entropy(images: Tensor, logits: Tensor, labels: Tensor, done: float) -> Tensor:
    """The loss of a network without a teacher."""
    del images, done
    return functional.cross_entropy(logits, labels)
