"""What every runner asks of its inputs, and how a runtime's complaint becomes one readable line."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Sequence

import numpy as np

from targets.errors import ModelError

if TYPE_CHECKING:
    from types import ModuleType

    from numpy.typing import NDArray

    from targets.toolchain import Tensors, TensorSpec

MEND = "give the inputs that the engine's engine.json lists"


def ordered_inputs(specs: Sequence[TensorSpec], inputs: Tensors) -> list[NDArray[np.generic]]:
    """Return the arrays in the order of the specifications, after checking them.

    Args:
        specs: what the engine takes; -1 in a shape fits any length.
        inputs: name → array.

    Returns:
        one C-contiguous array per specification; no copy when it already is.

    Raises:
        ModelError: a missing or unknown input, wrong shape or wrong element type.
    """
    if len(inputs) != len(specs) or not all(spec.name in inputs for spec in specs):
        names = sorted(spec.name for spec in specs)
        raise ModelError(f"inputs are {sorted(inputs)}, the engine takes {names}", mend=MEND)
    for spec in specs:
        _check(spec, inputs[spec.name])
    return [np.ascontiguousarray(inputs[spec.name]) for spec in specs]


# numpy writes the name in Python anew each time: part of every inference's time, and with caches gone cold
# behind the engine a tenth of a small network's.
@lru_cache(maxsize=None)
def _named(dtype: np.dtype[Any]) -> str:
    return str(dtype.name)


def _check(spec: TensorSpec, array: NDArray[np.generic]) -> None:
    if _named(array.dtype) != spec.dtype:
        raise ModelError(f"element type is {array.dtype.name}, not {spec.dtype}", where=spec.name, mend=MEND)
    if array.shape != spec.shape and not fits(array.shape, spec.shape):
        raise ModelError(
            f"shape is {list(array.shape)}, not {list(spec.shape)}", where=f"input {spec.name}", mend=MEND
        )


def fits(shape: tuple[int, ...], pattern: tuple[int, ...]) -> bool:
    """Say whether a shape has the pattern's rank and lengths; -1 in the pattern fits any length."""
    return len(shape) == len(pattern) and all(want in (-1, have) for have, want in zip(shape, pattern))


def sample_inputs(specs: Sequence[TensorSpec], seed: int = 0) -> dict[str, NDArray[np.generic]]:
    """Make inputs that fit: standard normal floats, zeros of every other type; dynamic lengths are 1."""
    generator = np.random.default_rng(seed)
    samples: dict[str, NDArray[np.generic]] = {}
    for spec in specs:
        shape = tuple(1 if length == -1 else length for length in spec.shape)
        dtype = np.dtype(spec.dtype)
        floating = np.issubdtype(dtype, np.floating)
        values = generator.standard_normal(shape) if floating else np.zeros(shape)
        samples[spec.name] = values.astype(dtype)
    return samples


def exceptions_in(module: ModuleType) -> tuple[type[Exception], ...]:
    """Return the exception classes a runtime's module names: they share no base class of their own."""
    values = vars(module).values()
    return tuple(value for value in values if isinstance(value, type) and issubclass(value, Exception))


def one_line(error: Exception, *, drop: Sequence[str] = (), length: int = 400) -> str:
    """Return a runtime's message as one line, without the lines that only name its source files.

    Args:
        error: what the runtime raised.
        drop: beginnings of lines to leave out.
        length: most characters returned.
    """
    lines = [" ".join(line.split()) for line in str(error).splitlines()]
    kept = [line for line in lines if line and not line.startswith(tuple(drop))]
    text = "; ".join(kept) or type(error).__name__
    return text if len(text) <= length else text[: length - 1] + "…"
