"""The raw options of NVIDIA's toolchains, read and checked."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Mapping

from targets.errors import ModelError

PROFILE = "profile."
# A dynamic length is 1 at least, 1 most of the time, and at most this, unless the build says otherwise.
LARGEST = 32

Shape = "tuple[int, ...]"


@dataclass(frozen=True)
class BuildOptions:
    """How a plan is built.

    Args:
        compute_capabilities: GPU architectures a plan is for, as in ("8.6", "8.9"); TensorRT-RTX alone.
        optimization_level: 0 to 5, as the builder takes it; None for its default.
        workspace_mib: most memory a layer may take while it runs; 0 for no limit.
        builds: how often to build until two plans agree.
        dla_core: which DLA takes the layers it can; None for the GPU alone. TensorRT alone.
        gpu_fallback: layers the DLA does not take run on the GPU, instead of failing the build.
        timing_cache: file with the tactics of an earlier build.
        timing_cache_sha256: what that file must be.
        profiles: input → smallest, usual and largest shape.
    """

    compute_capabilities: tuple[str, ...] = ()
    optimization_level: int | None = None
    workspace_mib: int = 0
    builds: int = 3
    dla_core: int | None = None
    gpu_fallback: bool = False
    timing_cache: str = ""
    timing_cache_sha256: str = ""
    profiles: Mapping[str, tuple[tuple[int, ...], ...]] = field(default_factory=dict)

    @classmethod
    def read(cls, raw: Mapping[str, str]) -> BuildOptions:
        """Read raw options.

        Raises:
            ModelError: an unknown option or an impossible value.
        """
        _refuse_unknown(raw)
        return cls(
            compute_capabilities=tuple(_matching(raw, "compute_capability", r"\d+\.\d(,\d+\.\d)*").split(","))
            if "compute_capability" in raw
            else (),
            optimization_level=_integer(raw, "optimization_level"),
            workspace_mib=_integer(raw, "workspace_mib") or 0,
            builds=max(1, _integer(raw, "builds") or 3),
            dla_core=_integer(raw, "dla_core"),
            gpu_fallback=_matching(raw, "gpu_fallback", "true|false") == "true",
            timing_cache=raw.get("timing_cache", ""),
            timing_cache_sha256=_matching(raw, "timing_cache_sha256", "[0-9a-f]{64}"),
            profiles={key[len(PROFILE) :]: _shapes(raw, key) for key in raw if key.startswith(PROFILE)},
        )

    def profile(self, name: str, shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        """Return smallest, usual and largest shape of a dynamic input.

        Raises:
            ModelError: the profile given does not fit the shape.
        """
        if name not in self.profiles:
            return tuple(
                tuple(length if known == -1 else known for known in shape) for length in (1, 1, LARGEST)
            )
        given = self.profiles[name]
        fits = all(
            len(each) == len(shape) and all(known in (-1, length) for known, length in zip(shape, each))
            for each in given
        )
        if not fits or not all(low <= usual <= high for low, usual, high in zip(*given)):
            raise ModelError(
                f"the profile {given} does not fit the input, whose shape is {list(shape)}",
                where=f"raw.{PROFILE}{name}",
                mend="give smallest, usual and largest shape, each no smaller than the one before",
            )
        return given

    def read_timing_cache(self) -> bytes:
        """Return the content of the timing cache; b"" without one.

        Raises:
            ModelError: it is not pinned, cannot be read, or is not the one that was pinned.
        """
        if not self.timing_cache:
            return b""
        try:
            content = Path(self.timing_cache).read_bytes()
        except OSError as error:
            raise ModelError(f"the timing cache cannot be read: {error}", where="raw.timing_cache") from error
        digest = hashlib.sha256(content).hexdigest()
        if digest != self.timing_cache_sha256:
            raise ModelError(
                f"the timing cache is not the one that was pinned: its sha256 is {digest}",
                where="raw.timing_cache_sha256",
                mend=f'set timing_cache_sha256 = "{digest}" if this is the cache you mean',
            )
        return content


OPTIONS = (
    "compute_capability",
    "optimization_level",
    "workspace_mib",
    "builds",
    "dla_core",
    "gpu_fallback",
    "timing_cache",
    "timing_cache_sha256",
)


def _refuse_unknown(raw: Mapping[str, str]) -> None:
    unknown = [key for key in raw if key not in OPTIONS and not key.startswith(PROFILE)]
    if unknown:
        raise ModelError(
            f"there is no option {', '.join(unknown)}",
            where="raw",
            mend=f"use: {', '.join(OPTIONS)}, {PROFILE}<input>",
        )


def _matching(raw: Mapping[str, str], key: str, pattern: str) -> str:
    """The option's text; "" when it is not given."""
    text = raw.get(key, "")
    if key in raw and not re.fullmatch(pattern, text):
        raise ModelError(f"found {text!r}, it must match {pattern}", where=f"raw.{key}")
    return text


def _integer(raw: Mapping[str, str], key: str) -> int | None:
    text = _matching(raw, key, r"\d{1,9}")
    return int(text) if text else None


def _shapes(raw: Mapping[str, str], key: str) -> tuple[tuple[int, ...], ...]:
    shape = r"\d+(x\d+)*"
    text = _matching(raw, key, f"{shape},{shape},{shape}")
    return tuple(tuple(int(length) for length in each.split("x")) for each in text.split(","))
