"""One thing asked of a device that it cannot do."""

from __future__ import annotations

from typing import NamedTuple


class Violation(NamedTuple):
    """One thing asked of a device that it cannot do.

    Args:
        rule: what the device demands.
        found: what was asked for, or lies in the model.
        mend: what to change.
        operator: the ONNX operator it is about; "" when it is about the whole model.
    """

    rule: str
    found: str
    mend: str
    operator: str = ""

    def __str__(self) -> str:
        """Return all of it on one line."""
        return f"{self.rule}; found {self.found}; {self.mend}"
