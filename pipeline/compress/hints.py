"""Stage hints: how much of a teacher's feature maps a student's explain, at the end of every stage.

Hints follow Romero et al. 2015 (FitNets); that they sit at the ends of all stages is our reading of Shi et
al. 2016.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

# Rows a least-squares start looks at; more change nothing but the time it takes.
START_ROWS = 16384
RIDGE = 1e-3


@dataclass(frozen=True)
class Tap:
    """A tensor inside a network, named by a layer that takes or gives it.

    Args:
        layer: name of the layer, "" for the network itself.
        given: what the layer takes; otherwise what it returns.
    """

    layer: str
    given: bool


Features = Mapping[Tap, Tensor]
Size = tuple[int, int]


def stage_ends(network: nn.Module, images: Tensor) -> dict[Size, Tap]:
    """The last feature map at every height and width, in the order the network runs.

    Found by shape alone, so for any network that runs. Maps of one position and the images themselves are no
    stages; tensors that only layers called several times touch are left out.

    Args:
        network: takes the images.
        images: [N, C, H, W].
    """
    events: list[tuple[Tap, Size | None]] = []

    def note(tap: Tap, value: object) -> None:
        if isinstance(value, Tensor) and value.ndim == 4 and value is not images:
            events.append((tap, (value.shape[2], value.shape[3])))
        else:
            events.append((tap, None))

    taps = [Tap(name, given) for name, _ in network.named_modules() for given in (True, False)]
    with torch.no_grad(), _noting(network, taps, note):
        network(images)
    calls = Counter(tap for tap, _ in events)
    return {size: tap for tap, size in events if size and size != (1, 1) and calls[tap] == 1}


@contextmanager
def watch(network: nn.Module, taps: Iterable[Tap]) -> Iterator[dict[Tap, Tensor]]:
    """Fill a dictionary with the tensors at the taps at every forward pass."""
    seen: dict[Tap, Tensor] = {}
    with _noting(network, taps, seen.__setitem__):
        yield seen


class Hints(nn.Module):
    """Mean over stages of ‖A·student − teacher‖² / ‖teacher − its mean‖², A a 1×1 convolution for each.

    A term is the share of the teacher's variance that the student's map does not explain: 0 when it says
    everything, 1 when it says no more than the channels' means. So a weight means the same for every network.

    Args:
        pairs: student's and teacher's end of each stage.
        mine: the student's features on some images; A starts as the least-squares map from these …
        theirs: … to these.
    """

    def __init__(self, pairs: Sequence[tuple[Tap, Tap]], mine: Features, theirs: Features) -> None:
        super().__init__()
        self.pairs = list(pairs)
        self.adapters = nn.ModuleList(_adapter(mine[own], theirs[other]) for own, other in pairs)

    def forward(self, mine: Features, theirs: Features) -> Tensor:
        """One number for one batch."""
        shares = [
            unexplained(adapter(mine[own]), theirs[other])
            for adapter, (own, other) in zip(self.adapters, self.pairs, strict=True)
        ]
        return torch.stack(shares).mean()


def unexplained(guess: Tensor, wanted: Tensor) -> Tensor:
    """Share of the variance of feature maps [N, C, H, W], about each channel's mean, that a guess leaves."""
    wanted = wanted.float()
    spread = (wanted - wanted.mean((0, 2, 3), keepdim=True)).square().sum()
    return (guess.float() - wanted).square().sum() / spread.clamp_min(torch.finfo(torch.float32).tiny)


def least_squares(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Weight [q, p] and bias [q] of the linear map from rows x [n, p] to y [n, q], slightly ridged."""
    stride = max(1, len(x) // START_ROWS)
    x, y = x[::stride].double(), y[::stride].double()
    x_mean, y_mean = x.mean(0), y.mean(0)
    scatter = (x - x_mean).T @ (x - x_mean)
    ridge = RIDGE * scatter.diagonal().mean().clamp_min(1e-12)
    ridged = scatter + ridge * torch.eye(len(scatter), dtype=x.dtype, device=x.device)
    weight = torch.linalg.solve(ridged, (x - x_mean).T @ (y - y_mean)).T
    return weight.float(), (y_mean - weight @ x_mean).float()


def _adapter(mine: Tensor, theirs: Tensor) -> nn.Conv2d:
    adapter = nn.Conv2d(mine.shape[1], theirs.shape[1], 1)
    weight, bias = least_squares(_rows(mine), _rows(theirs))
    with torch.no_grad():
        adapter.weight.copy_(weight[:, :, None, None])
        adapter.bias.copy_(bias)  # type: ignore[union-attr]
    return adapter


def _rows(maps: Tensor) -> Tensor:
    return maps.detach().movedim(1, -1).flatten(0, -2)


@contextmanager
def _noting(network: nn.Module, taps: Iterable[Tap], note: Callable[[Tap, Tensor], None]) -> Iterator[None]:
    def hook(tap: Tap) -> torch.utils.hooks.RemovableHandle:
        def before(_layer: nn.Module, given: tuple[Tensor, ...]) -> None:
            if given:
                note(tap, given[0])

        def after(_layer: nn.Module, _given: tuple[Tensor, ...], result: Tensor) -> None:
            note(tap, result)

        layer = network.get_submodule(tap.layer)
        return layer.register_forward_pre_hook(before) if tap.given else layer.register_forward_hook(after)

    handles = [hook(tap) for tap in taps]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
