"""Small networks whose channels hang together in every way that published networks do it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

IMAGE = (1, 3, 8, 8)
CLASSES = 5


class Layered(nn.Module):
    """Layers given by name; a subclass says only how they are joined."""

    def __init__(self, **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)


def conv(into: int, out: int, kernel: int = 3, **options: int) -> nn.Sequential:
    """Convolution, normalisation, ReLU in place."""
    options.setdefault("padding", kernel // 2)
    return nn.Sequential(
        nn.Conv2d(into, out, kernel, bias=False, **options), nn.BatchNorm2d(out), nn.ReLU(inplace=True)
    )


class Dense(Layered):
    """Every layer reads all before it, as DenseNet does."""

    def __init__(self) -> None:
        super().__init__(
            stem=nn.Conv2d(3, 6, 3, padding=1),
            norm1=nn.BatchNorm2d(6),
            grow1=nn.Conv2d(6, 4, 3, padding=1),
            norm2=nn.BatchNorm2d(10),
            grow2=nn.Conv2d(10, 4, 3, padding=1),
            norm3=nn.BatchNorm2d(14),
            transition=nn.Conv2d(14, 8, 1),
            head=nn.Linear(8, CLASSES),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([x, self.grow1(functional.relu(self.norm1(x)))], 1)
        x = torch.cat([x, self.grow2(functional.relu(self.norm2(x)))], 1)
        x = functional.avg_pool2d(self.transition(functional.relu(self.norm3(x))), 2)
        return self.head(x.mean((2, 3)))


class SqueezeExcite(Layered):
    """Channels multiplied by gates computed from them."""

    def __init__(self) -> None:
        super().__init__(
            stem=conv(3, 12),
            squeeze=nn.Conv2d(12, 4, 1),
            excite=nn.Conv2d(4, 12, 1),
            last=conv(12, 8),
            head=nn.Linear(8, CLASSES),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        gate = self.excite(torch.relu(self.squeeze(functional.adaptive_avg_pool2d(x, 1))))
        return self.head(self.last(x * torch.sigmoid(gate)).mean((2, 3)))


class Inception(Layered):
    """Branches of different widths side by side."""

    def __init__(self) -> None:
        super().__init__(
            stem=conv(3, 8),
            narrow=conv(8, 4, 1),
            wide=nn.Sequential(conv(8, 3, 1), conv(3, 6)),
            pooled=conv(8, 5, 1),
            last=conv(15, 8),
            head=nn.Linear(8 * 64, CLASSES),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        pooled = self.pooled(functional.max_pool2d(x, 3, 1, 1))
        x = torch.cat([self.narrow(x), self.wide(x), pooled], 1)
        return self.head(torch.flatten(self.last(x), 1))


class ConcatPlusSum(Layered):
    """A wide convolution added to a concatenation of two narrow ones."""

    def __init__(self) -> None:
        super().__init__(
            one=nn.Conv2d(3, 5, 1),
            two=nn.Conv2d(3, 7, 3, padding=1),
            both=nn.Conv2d(3, 12, 1),
            last=conv(12, 6),
            head=nn.Linear(6, CLASSES),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.one(x), self.two(x)], 1) + self.both(x)
        return self.head(self.last(torch.relu(x)).mean((2, 3)))


class Grouped(Layered):
    """A block of ResNeXt."""

    def __init__(self) -> None:
        super().__init__(
            stem=conv(3, 8),
            reduce=conv(8, 12, 1),
            grouped=conv(12, 12, groups=4),
            expand=nn.Conv2d(12, 8, 1),
            head=nn.Linear(8, CLASSES),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.relu(x + self.expand(self.grouped(self.reduce(x))))
        return self.head(x.mean((2, 3)))


class Shuffle(Layered):
    """Half of the channels pass by, then all are shuffled, as in ShuffleNet V2."""

    def __init__(self) -> None:
        super().__init__(
            stem=conv(3, 12),
            inner=nn.Sequential(conv(6, 6, 1), conv(6, 6, groups=6), conv(6, 6, 1)),
            last=nn.Sequential(conv(12, 10, 1), conv(10, 8, 1)),
            head=nn.Linear(8, CLASSES),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        left, right = x.chunk(2, 1)
        x = torch.cat([left, self.inner(right)], 1)
        count, channels, height, width = x.shape
        x = x.view(count, 2, channels // 2, height, width).transpose(1, 2).reshape(x.shape)
        return self.head(self.last(x).mean((2, 3)))


class UNet(Layered):
    """Down, up by a transposed convolution, and a skip past both."""

    def __init__(self) -> None:
        super().__init__(
            enter=conv(3, 6),
            down=conv(6, 8, stride=2),
            bottom=conv(8, 8),
            up=nn.ConvTranspose2d(8, 6, 2, stride=2),
            leave=conv(12, 6),
            head=nn.Linear(6, CLASSES),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        y = self.up(self.bottom(self.down(x)))
        return self.head(self.leave(torch.cat([x, y], 1)).mean((2, 3)))


class ConvNeXt(Layered):
    """Depthwise 7×7, LayerNorm over channels, two linear layers, a scale, a sum."""

    def __init__(self) -> None:
        super().__init__(
            stem=nn.Conv2d(3, 8, 2, stride=2),
            depthwise=nn.Conv2d(8, 8, 7, padding=3, groups=8),
            norm=nn.LayerNorm(8),
            widen=nn.Linear(8, 24),
            narrow=nn.Linear(24, 8),
            head=nn.Linear(8, CLASSES),
        )
        self.scale = nn.Parameter(1e-6 * torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.scale * self.narrow(functional.gelu(self.widen(y)))
        return self.head((x + y.permute(0, 3, 1, 2)).mean((2, 3)))


class Scaled(Layered):
    """A convolution whose channels have learned scales of their own, as layer scale without LayerNorm."""

    def __init__(self) -> None:
        super().__init__(
            stem=conv(3, 8),
            inner=nn.Sequential(conv(8, 10, 1), nn.Conv2d(10, 8, 1)),
            head=nn.Linear(8, CLASSES),
        )
        self.gamma = nn.Parameter(torch.zeros(1, 8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head((x + self.gamma * self.inner(x)).mean((2, 3)))


class Transformer(Layered):
    """A vision transformer of one block, with torch's attention, a class token and positions."""

    def __init__(self) -> None:
        super().__init__(
            embed=nn.Conv2d(3, 12, 4, stride=4),
            norm1=nn.LayerNorm(12),
            attention=nn.MultiheadAttention(12, 3, batch_first=True),
            norm2=nn.LayerNorm(12),
            widen=nn.Linear(12, 20),
            narrow=nn.Linear(20, 12),
            norm3=nn.LayerNorm(12),
            head=nn.Linear(12, CLASSES),
        )
        self.token = nn.Parameter(torch.zeros(1, 1, 12))
        self.places = nn.Parameter(torch.zeros(1, 5, 12))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.places
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        x = x + self.narrow(functional.gelu(self.widen(self.norm2(x))))
        return self.head(self.norm3(x)[:, 0])


class OwnAttention(Layered):
    """Attention written out, with one layer for queries, keys and values."""

    def __init__(self) -> None:
        super().__init__(
            embed=nn.Conv2d(3, 12, 4, stride=4),
            triple=nn.Linear(12, 36),
            out=nn.Linear(12, 12),
            widen=nn.Linear(12, 20),
            narrow=nn.Linear(20, 12),
            head=nn.Linear(12, CLASSES),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        count, tokens, _ = x.shape
        q, k, v = self.triple(x).reshape(count, tokens, 3, 2, 6).permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(count, tokens, 12)
        x = x + self.out(y)
        x = x + self.narrow(functional.gelu(self.widen(x)))
        return self.head(x.mean(1))


class Normalised(Layered):
    """PReLU with a slope a channel, instance normalisation, group normalisation."""

    def __init__(self) -> None:
        super().__init__(
            first=nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.PReLU(8)),
            second=nn.Sequential(
                nn.Conv2d(8, 10, 3, padding=1), nn.InstanceNorm2d(10, affine=True), nn.PReLU()
            ),
            third=nn.Sequential(nn.Conv2d(10, 12, 3, padding=1), nn.GroupNorm(3, 12), nn.Mish()),
            fourth=nn.Sequential(nn.Conv2d(12, 8, 3, padding=1), nn.ELU(inplace=True)),
            head=nn.Linear(8, CLASSES),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.fourth(self.third(self.second(self.first(x))))
        return self.head(x.mean((2, 3)))


class Shared(Layered):
    """One convolution used twice, and two layers with the same weight."""

    def __init__(self) -> None:
        super().__init__(
            stem=conv(3, 8),
            again=nn.Conv2d(8, 8, 3, padding=1),
            free=nn.Sequential(nn.Conv2d(8, 10, 1), nn.ReLU()),
            tied=nn.Conv2d(10, 10, 1, bias=False),
            alike=nn.Conv2d(10, 10, 1, bias=False),
            last=nn.Sequential(nn.Conv2d(10, 9, 1), nn.ReLU(), nn.Conv2d(9, 8, 1)),
            head=nn.Linear(8, CLASSES),
        )
        self.alike.weight = self.tied.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.relu(self.again(torch.relu(self.again(x))))
        x = torch.relu(self.alike(torch.relu(self.tied(self.free(x)))))
        return self.head(self.last(x).mean((2, 3)))


class ZeroPadded(Layered):
    """Shortcuts that subsample and pad with zero channels (He et al. 2016, option A)."""

    def __init__(self) -> None:
        super().__init__(
            stem=conv(3, 4),
            inner=nn.Sequential(conv(4, 6, stride=2), nn.Conv2d(6, 8, 3, padding=1, bias=False)),
            head=nn.Linear(8, CLASSES),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        skip = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))
        return self.head(torch.relu(self.inner(x) + skip).mean((2, 3)))


class HeadFirst(Layered):
    """The layer that gives the outputs is not the last one by order."""

    def __init__(self) -> None:
        super().__init__(
            head=nn.Linear(9, CLASSES), body=nn.Sequential(conv(3, 8), conv(8, 9, dilation=2, padding=2))
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3)))


class Convolutional(Layered):
    """The last layer is a convolution, averaged; traps a trace without a batch."""

    def __init__(self) -> None:
        super().__init__(body=nn.Conv2d(3, 8, 3), last=nn.Conv2d(8, CLASSES, 1))

    def forward(self, x: Tensor) -> Tensor:
        return functional.adaptive_avg_pool2d(self.last(torch.relu(self.body(x))), 1).flatten(1)


class Perceptron(Layered):
    """No convolution at all."""

    def __init__(self) -> None:
        super().__init__(
            body=nn.Sequential(nn.Flatten(), nn.Linear(192, 12), nn.BatchNorm1d(12), nn.ReLU()),
            mixed=nn.Linear(12, 10),
            head=nn.Linear(10, CLASSES),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.mixed(self.body(x))))


class HardCoded(Layered):
    """Widths written into the forward pass."""

    def __init__(self) -> None:
        super().__init__(
            free=conv(3, 7), fixed=conv(7, 6), middle=nn.Linear(6 * 64, 9), head=nn.Linear(9, CLASSES)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.fixed(self.free(x)).view(-1, 6 * 64)
        return self.head(torch.relu(self.middle(x)))


class Positions(Layered):
    """A flatten of positions before channels."""

    def __init__(self) -> None:
        super().__init__(
            free=conv(3, 7), moved=conv(7, 6), middle=nn.Linear(6 * 64, 9), head=nn.Linear(9, CLASSES)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.moved(self.free(x)).permute(0, 2, 3, 1).flatten(1)
        return self.head(torch.relu(self.middle(x)))


class SumOverChannels(Layered):
    """Channels that are normalised by their own sum."""

    def __init__(self) -> None:
        super().__init__(
            free=conv(3, 7), tied=conv(7, 6), last=nn.Conv2d(6, 8, 1), head=nn.Linear(8, CLASSES)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = functional.normalize(self.tied(self.free(x)), dim=1)
        return self.head(torch.relu(self.last(x)).mean((2, 3)))


class InPlace(Layered):
    """Sums and activations that write over what convolutions gave."""

    def __init__(self) -> None:
        super().__init__(
            stem=nn.Conv2d(3, 8, 3, padding=1),
            inner=nn.Conv2d(8, 10, 1),
            outer=nn.Conv2d(10, 8, 1),
            head=nn.Linear(8, CLASSES),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = functional.relu(x, inplace=True)
        y = self.outer(functional.relu_(self.inner(x)))
        y += x
        return self.head(y.relu_().mean((2, 3)))


class Sliced(Layered):
    """Channels taken apart by indices."""

    def __init__(self) -> None:
        super().__init__(
            free=conv(3, 7),
            taken=conv(7, 8),
            low=nn.Conv2d(4, 6, 1),
            high=nn.Conv2d(4, 6, 1),
            head=nn.Linear(6, CLASSES),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.taken(self.free(x))
        return self.head(torch.relu(self.low(x[:, :4]) + self.high(x[:, 4:])).mean((2, 3)))


class PixelShuffled(Layered):
    """Channels that become positions."""

    def __init__(self) -> None:
        super().__init__(
            free=conv(3, 7), tied=conv(7, 8), last=nn.Conv2d(2, 8, 1), head=nn.Linear(8, CLASSES)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = functional.pixel_shuffle(self.tied(self.free(x)), 2)
        return self.head(torch.relu(self.last(x)).mean((2, 3)))


class Reparametrised(Layered):
    """A weight that is computed from others."""

    def __init__(self) -> None:
        super().__init__(
            free=conv(3, 7),
            tied=nn.utils.parametrizations.weight_norm(nn.Conv2d(7, 8, 1)),
            last=conv(8, 6),
            head=nn.Linear(6, CLASSES),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.last(self.tied(self.free(x))).mean((2, 3)))


class Forked(Layered):
    """Normalised and not: a normalisation that is not alone behind its convolution, and one behind a ReLU."""

    def __init__(self) -> None:
        super().__init__(
            stem=conv(3, 8),
            fork=nn.Conv2d(8, 9, 1, bias=False),
            norm=nn.BatchNorm2d(9),
            late=nn.Conv2d(9, 7, 1, bias=False),
            late_norm=nn.BatchNorm2d(7),
            head=nn.Linear(7, CLASSES),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.fork(self.stem(x))
        x = torch.relu(self.norm(x) - x)
        return self.head(self.late_norm(functional.relu_(self.late(x))).mean((2, 3)))


@dataclass(frozen=True)
class Structure:
    """A network, and what should be found of it.

    Args:
        make: its class.
        led: leaders of the groups that can be cut.
        whole: layers beside the head that stay whole, and words of the reason.
    """

    make: Callable[[], nn.Module]
    led: str
    whole: dict[str, str] = field(default_factory=dict)


UNFOLLOWED = "cannot be followed"
UNREAD = "no convolution or linear layer reads"
PARTLY = "has only some of its channels"

STRUCTURES = {
    one.make.__name__: one
    for one in (
        Structure(Dense, "stem grow1 grow2 transition"),
        Structure(SqueezeExcite, "stem.0 squeeze last.0"),
        Structure(Inception, "stem.0 narrow.0 wide.0.0 wide.1.0 pooled.0 last.0"),
        Structure(ConcatPlusSum, "last.0", dict.fromkeys(("one", "two", "both"), PARTLY)),
        Structure(Grouped, "stem.0", {"reduce.0": "4 groups", "grouped.0": "4 groups"}),
        Structure(Shuffle, "inner.0.0 last.0.0 last.1.0", {"stem.0": UNFOLLOWED, "inner.2.0": UNFOLLOWED}),
        Structure(UNet, "enter.0 down.0 leave.0", {"bottom.0": UNREAD, "up": "ConvTranspose2d"}),
        Structure(ConvNeXt, "widen", dict.fromkeys(("stem", "depthwise", "narrow"), "norm (LayerNorm)")),
        Structure(Scaled, "stem.0 inner.0.0"),
        Structure(
            Transformer,
            "widen",
            {"embed": "LayerNorm", "narrow": "LayerNorm", "attention.out_proj": "no module of its own"},
        ),
        Structure(OwnAttention, "embed widen", {"triple": f"out {PARTLY}"}),
        Structure(Normalised, "first.0 second.0 fourth.0", {"third.0": "third.1 (GroupNorm)"}),
        Structure(Shared, "stem.0 free.0 tied alike last.0 last.2"),
        Structure(ZeroPadded, "inner.0.0", {"stem.0": UNFOLLOWED, "inner.1": UNFOLLOWED}),
        Structure(HeadFirst, "body.0.0 body.1.0"),
        Structure(Convolutional, "body"),
        Structure(Perceptron, "body.1 mixed"),
        Structure(HardCoded, "free.0 middle", {"fixed.0": "does not run (RuntimeError"}),
        Structure(Positions, "free.0 middle", {"moved.0": UNFOLLOWED}),
        Structure(SumOverChannels, "free.0 last", {"tied.0": UNFOLLOWED}),
        Structure(InPlace, "stem inner"),
        Structure(Sliced, "free.0 low", {"taken.0": PARTLY}),
        Structure(PixelShuffled, "free.0 last", {"tied.0": UNFOLLOWED}),
        Structure(
            Reparametrised,
            "last.0",
            {"free.0": "the weight of tied is computed", "tied": "the weight of tied is computed"},
        ),
        Structure(Forked, "stem.0 fork late"),
    )
}


def make(name: str, seed: int = 0) -> nn.Module:
    """One of them, its normalisation having seen data, nothing at zero that training would move from it."""
    torch.manual_seed(seed)
    network = STRUCTURES[name].make()
    with torch.no_grad():
        for parameter in network.parameters(recurse=False):
            parameter.uniform_(0.5, 1.5)
    network.train()
    for _ in range(20):
        network(pictures(16))
    return network.eval()


def pictures(count: int) -> Tensor:
    return torch.randn(count, *IMAGE[1:])
