"""Make good in a layer's weights what the quantized layers before it have got wrong.

The float layer computes W x from float inputs x; the quantized one reads y instead. The least-squares weights
on y, shrunk towards W by a ridge, are

    W' = W + W (E[x yᵀ] − E[y yᵀ]) (E[y yᵀ] + ρ I)⁻¹     (centred moments; the bias takes the means)

Where layers are little disturbed the estimate is noise, so ρ is chosen for each layer on inputs that did not
enter it, and ρ = ∞, that is W itself, is a candidate.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from calibration.compensate import damped
from calibration.moments import Moments

Array = NDArray[np.float64]

# Ridges, relative to the mean input power.
RIDGES = (0.01, 0.1, 1.0)


def absorb(rows: Array, first: Moments, second: Moments) -> Array:
    """Return the weights to be rounded instead of a layer's own.

    Args:
        rows: float weights [G, R, D].
        first, second: moments of two halves of the inputs.
    """
    gains = [
        _gain(rows, fit, ridge, judge)
        for ridge in RIDGES
        for fit, judge in ((first, second), (second, first))
    ]
    total = np.add(gains[::2], gains[1::2])
    best = int(np.argmax(total))
    if total[best] <= 0.0:
        return rows
    return rows + _shift(rows, first + second, RIDGES[best])


def _shift(rows: Array, moments: Moments, ridge: float) -> Array:
    pull = rows @ (moments.cross - moments.covariance)
    solved = np.linalg.solve(damped(moments.covariance, ridge), pull.transpose(0, 2, 1))
    return np.asarray(solved.transpose(0, 2, 1))


def _gain(rows: Array, fit: Moments, ridge: float, judge: Moments) -> float:
    """Return how much output error the shift fitted on one half saves on the other."""
    shift = _shift(rows, fit, ridge)
    covariance = judge.covariance
    left = rows @ (judge.cross - covariance)
    return float(2.0 * np.sum(left * shift) - np.sum((shift @ covariance) * shift))
