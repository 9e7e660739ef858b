"""Round weights so that the layer's output changes least, not the weights themselves.

The error a rounded weight makes is made good by the weights not yet rounded, as far as their inputs are
correlated (optimal brain surgeon: Hassibi & Stork 1993; for rounding: Frantar et al., "GPTQ", 2022, in the
order of decreasing input power). Coordinate descent then improves the result one weight at a time, and the
scale of each channel is refitted by least squares.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from calibration.grid import Grid

Array = NDArray[np.float64]

# Rounds of coordinate descent, each followed by a refit of the scales; more change nothing to speak of.
SWEEPS = 3
# Feedback is greedy: with so few inputs a channel the nearest levels are at times the better start.
FEW = 64
# Columns whose effect on later columns is applied at once, as one product of matrices.
BLOCK = 64
# Tenfold steps by which damping grows at most.
ATTEMPTS = 4


def compensated(rows: Array, moments: Array, grid: Grid, sweeps: int = SWEEPS) -> tuple[Array, Array]:
    """Round rows to a grid for the least output error (w − q)ᵀ M (w − q) a channel.

    Args:
        rows: weights [G, R, D].
        moments: of the inputs of each group, [G, D, D], positive definite.
        grid: of the G · R channels.
        sweeps: of coordinate descent.

    Returns:
        levels, integers in float64 [G, R, D], and scales [G, R]; the weights are their product.
    """
    shape = rows.shape[:2]
    low, high = (np.reshape(side, shape).astype(np.float64) for side in (grid.low, grid.high))
    scale = grid.scale.reshape(shape)
    nearest = np.clip(np.rint(rows / scale[..., None]), low[..., None], high[..., None])
    best = _Best(rows, moments, nearest, scale)
    starts = [_feedback(rows, moments, scale, low, high)]
    if rows.shape[2] <= FEW:
        starts.append(nearest)
    for levels in starts:
        now = scale
        best.offer(levels, now)
        for _ in range(sweeps):
            levels = _descend(rows, levels, moments, now, low, high)
            now = _refit(rows, levels, moments, now)
            best.offer(levels, now)
    return best.levels, best.scale


class _Best:
    """The best levels and scale of every channel so far."""

    def __init__(self, rows: Array, moments: Array, levels: Array, scale: Array) -> None:
        self._rows, self._moments = rows, moments
        self.levels, self.scale = levels, scale
        self._least = self._error(levels, scale)

    def offer(self, levels: Array, scale: Array) -> None:
        """Take over the channels that have become better."""
        error = self._error(levels, scale)
        better = error < self._least
        self._least = np.where(better, error, self._least)
        self.levels = np.where(better[..., None], levels, self.levels)
        self.scale = np.where(better, scale, self.scale)

    def _error(self, levels: Array, scale: Array) -> Array:
        return output_error(self._rows - levels * scale[..., None], self._moments)


def output_error(off: Array, moments: Array) -> Array:
    """Return δᵀ M δ of every channel, [G, R], for weight errors [G, R, D]."""
    return np.asarray(np.maximum(np.einsum("grd,grd->gr", off @ moments, off), 0.0))


def damped(moments: Array, share: float) -> Array:
    """Return moments with a share of their mean diagonal added to the diagonal: they can be inverted.

    Where inputs hardly differ, what rounding left of their covariance may be far from positive definite; the
    share then grows, at last until all inputs count alike.
    """
    size = moments.shape[-1]
    mean = np.abs(np.einsum("gdd->gd", moments)).mean(1)
    for step in 10.0 ** np.arange(ATTEMPTS):
        ridge = np.maximum(mean * share * step, 1e-20)[:, None, None] * np.eye(size)
        if _is_definite(moments + ridge):
            return np.asarray(moments + ridge)
    return np.asarray(np.maximum(mean, 1e-20)[:, None, None] * np.eye(size))


def _is_definite(moments: Array) -> bool:
    try:
        np.linalg.cholesky(moments)
    except np.linalg.LinAlgError:
        return False
    return True


def _feedback(rows: Array, moments: Array, scale: Array, low: Array, high: Array) -> Array:
    """Round column by column; each column's error moves on to the columns behind it."""
    order = np.argsort(-np.einsum("gdd->d", moments), kind="stable")
    sorted_moments = moments[:, order][:, :, order]
    factor = _inverse_factor(sorted_moments)
    work = rows[:, :, order].copy()
    levels = np.empty_like(work)
    for start in range(0, work.shape[2], BLOCK):
        stop = min(start + BLOCK, work.shape[2])
        errors = np.empty((*work.shape[:2], stop - start))
        for j in range(start, stop):
            column = work[:, :, j]
            levels[:, :, j] = np.minimum(np.maximum(np.rint(column / scale), low), high)
            error = (column - levels[:, :, j] * scale) / factor[:, j, None, j]
            work[:, :, j:stop] -= error[:, :, None] * factor[:, j, None, j:stop]
            errors[:, :, j - start] = error
        work[:, :, stop:] -= errors @ factor[:, start:stop, stop:]
    result = np.empty_like(levels)
    result[:, :, order] = levels
    return np.asarray(result)


def _inverse_factor(moments: Array) -> Array:
    """Return the upper triangular U with M⁻¹ = Uᵀ U, without the rounding errors of an inverse of M."""
    lower = np.linalg.cholesky(moments[:, ::-1, ::-1])
    return np.asarray(np.linalg.inv(lower[:, ::-1, ::-1]))


def _descend(rows: Array, levels: Array, moments: Array, scale: Array, low: Array, high: Array) -> Array:
    """Move every level to its best value given all others, once through the columns."""
    levels = levels.copy()
    slope = (rows - levels * scale[..., None]) @ moments
    for start in range(0, levels.shape[2], BLOCK):
        stop = min(start + BLOCK, levels.shape[2])
        moves = np.zeros((*levels.shape[:2], stop - start))
        for j in range(start, stop):
            power = moments[:, j, None, j]
            wanted = levels[:, :, j] + slope[:, :, j] / (power * scale)
            # np.clip takes longer than the two it is made of.
            move = np.minimum(np.maximum(np.rint(wanted), low), high) - levels[:, :, j]
            levels[:, :, j] += move
            moves[:, :, j - start] = move * scale
            after = slice(j + 1, stop)
            slope[:, :, after] -= moves[:, :, j - start, None] * moments[:, j, None, after]
        slope[:, :, stop:] -= moves @ moments[:, start:stop, stop:]
    return levels


def _refit(rows: Array, levels: Array, moments: Array, scale: Array) -> Array:
    """Return the scales of least output error for given levels; one that would not be positive stays."""
    pulled = levels @ moments
    power = np.einsum("grd,grd->gr", pulled, levels)
    overlap = np.einsum("grd,grd->gr", pulled, rows)
    fitted = np.divide(overlap, power, out=scale.copy(), where=power > 0.0)
    refit = np.where(fitted > 0.5 * scale, fitted, scale)
    return np.asarray(refit.astype(np.float32).astype(np.float64))
