"""What a student may cost: a limit in one of four units, and the cost as a function of the groups' widths."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.compress.cost import macs
from pipeline.compress.shapes import Count, Shapes, Widths
from targets.errors import ConfigError

Cost = Callable[[Widths], Count | NDArray[np.float64]]
CostKind = Literal["macs", "parameters", "bytes", "latency_ms"]

UNITS: dict[CostKind, str] = {
    "macs": "multiply-accumulates",
    "parameters": "parameters",
    "bytes": "bytes",
    "latency_ms": "ms",
}


@dataclass(frozen=True)
class Budget:
    """A limit and what is held against it.

    Args:
        kind: what is limited.
        limit: in the kind's unit.
        cost: widths → cost in that unit; takes one number or an array for each group, never falls when a
            group grows.
        setting: key of build.toml the limit comes from, for messages.
        share_of: the cost that the setting is a share of; none when it is in the kind's unit.
    """

    kind: CostKind
    limit: float
    cost: Cost
    setting: str = "student.macs"
    share_of: float | None = None

    def amount(self, cost: float) -> str:
        """A cost with its unit."""
        return f"{cost:,.3f} ms" if self.kind == "latency_ms" else f"{cost:,.0f} {UNITS[self.kind]}"

    def check(self, smallest: float, before: float) -> None:
        """Refuse a limit below what the narrowest network costs.

        Args:
            smallest: cost of the narrowest network.
            before: cost of the network as it is.

        Raises:
            ConfigError: names the smallest reachable cost and the setting.
        """
        if smallest <= self.limit:
            return
        digits = 4 if self.share_of else 3 if self.kind == "latency_ms" else 0
        enough = math.ceil(smallest / (self.share_of or 1.0) * 10**digits) / 10**digits
        raise ConfigError(
            f"no network this small exists: the smallest reachable costs {self.amount(smallest)}, "
            f"{smallest / before:.1%} of the {self.amount(before)} before; "
            f"the budget is {self.amount(self.limit)}",
            where=self.setting,
            mend=f"set {self.setting} to at least {enough:.{digits}f}, or lower student.minimum_width",
        )


def macs_budget(shapes: Shapes, limit: float) -> Budget:
    """So many multiply-accumulates, as a share of the network these shapes are of."""
    return Budget("macs", limit, partial(macs, shapes), share_of=float(macs(shapes, shapes.full)))
