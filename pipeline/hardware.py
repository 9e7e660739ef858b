"""What a network is trained on, and in what precision."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from torch import nn

from pipeline import parallel


@dataclass(frozen=True)
class Hardware:
    """A device and its arithmetic.

    Args:
        device: where network, loss and batches lie.
        half: 16-bit type that autocast chooses where it is safe; None keeps float32 throughout.
    """

    device: torch.device
    half: torch.dtype | None = None

    def autocast(self) -> torch.autocast:
        """Context of a forward pass."""
        return torch.autocast(self.device.type, dtype=self.half, enabled=self.half is not None)

    def scaler(self) -> torch.amp.GradScaler:
        """Keeps gradients above float16's least number (Micikevicius et al. 2018); else does nothing."""
        return torch.amp.GradScaler(self.device.type, enabled=self.half is torch.float16)

    def be_reproducible(self, seed: int) -> None:
        """Seed torch and ask for deterministic algorithms; a GPU, which lacks some of them, only warns."""
        torch.manual_seed(seed)
        torch.use_deterministic_algorithms(True, warn_only=self.device.type != "cpu")


def best_hardware() -> Hardware:
    """This process's GPU with bfloat16 where it has it, else float16; without CUDA the CPU with float32."""
    if not torch.cuda.is_available():
        return Hardware(torch.device("cpu"))
    # cuBLAS is deterministic only with a workspace of its own, named before its first use.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
    device = torch.device("cuda", parallel.rank())
    return Hardware(device, torch.bfloat16 if bfloat16 else torch.float16)


def device_of(network: nn.Module) -> torch.device:
    """Where a network's parameters lie."""
    return next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
