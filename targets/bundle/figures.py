"""Figures as people read them."""

from __future__ import annotations


def milliseconds(value: float) -> str:
    """Say a time to three digits, and without a power of ten."""
    return f"{value:.0f} ms" if value >= 100 else f"{value:.3g} ms"
