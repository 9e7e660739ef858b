"""From stored images to what a network takes: scaling, normalisation, layout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Preprocess:
    """How pixels become the network's input, the same on the build machine and on the device.

    `(x · scale − mean) / std`, channel by channel, then the layout.

    Args:
        scale: factor on stored values, 1/255 for uint8 images.
        mean: per channel, in scaled units; one value serves all channels.
        std: per channel, in scaled units.
        layout: "NCHW" or "NHWC", of the network's input.
        reverse_channels: the network takes BGR where images are stored as RGB.
    """

    scale: float = 1.0 / 255.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: str = "NCHW"
    reverse_channels: bool = False

    def __call__(self, images: NDArray[np.generic]) -> NDArray[np.float32]:
        """Prepare a batch.

        Args:
            images: [N, H, W, C], any numeric type.

        Returns:
            float32 [N, C, H, W] or [N, H, W, C], contiguous.
        """
        x = images.astype(np.float32)
        if self.reverse_channels:
            x = x[..., ::-1]
        x = (x * np.float32(self.scale) - np.asarray(self.mean, np.float32)) / np.asarray(
            self.std, np.float32
        )
        if self.layout == "NCHW":
            x = x.transpose(0, 3, 1, 2)
        return np.ascontiguousarray(x, dtype=np.float32)
