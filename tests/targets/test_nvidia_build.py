"""How TensorRT's builder is set where there is none: a library that notes what it is told."""

from __future__ import annotations

import enum
import hashlib
import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from targets.errors import CapabilityError, ModelError
from targets.nvidia.build import Built, build
from targets.toolchain import EngineOptions

Flag = enum.Enum("Flag", "TF32 FP16 INT8 GPU_FALLBACK")


class Config:
    """A builder's configuration."""

    def __init__(self, library: Library) -> None:
        self.library, self.flags, self.caches = library, {Flag.TF32}, []

    def set_flag(self, flag: Flag) -> None:
        self.flags.add(flag)

    def clear_flag(self, flag: Flag) -> None:
        self.flags.discard(flag)

    def create_timing_cache(self, content: bytes) -> bytes:
        return content

    def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        self.caches.append(cache)
        return cache != b"foreign"

    def get_timing_cache(self) -> Any:
        return SimpleNamespace(serialize=lambda: self.caches[-1] + b"tactics")

    def can_run_on_DLA(self, layer: Any) -> bool:
        return layer.name != "shuffle"


class Library(SimpleNamespace):
    """The module tensorrt, as far as building goes; `plans` are what builds give, one after the other."""

    def __init__(self, version: str, plans: list[bytes]) -> None:
        given = itertools.chain(plans, itertools.repeat(plans[-1]))
        self.config = Config(self)
        dims = [1, 3]
        tensor = SimpleNamespace(name="x", dtype=SimpleNamespace(name="FLOAT"), shape=dims)
        layers = [
            SimpleNamespace(name=name, type=SimpleNamespace(name="CONVOLUTION"), get_output=lambda _: tensor)
            for name in ("conv", "shuffle")
        ]
        network = SimpleNamespace(
            num_inputs=1,
            num_outputs=1,
            num_layers=2,
            get_input=lambda _: tensor,
            get_output=lambda _: tensor,
            get_layer=layers.__getitem__,
        )
        builder = SimpleNamespace(
            num_DLA_cores=1,
            logger=None,
            create_network=lambda _: network,
            create_builder_config=lambda: self.config,
            build_serialized_network=lambda *_: next(given),
        )
        super().__init__(
            __name__="tensorrt",
            __version__=version,
            ILogger=object,
            Builder=lambda _: builder,
            OnnxParser=lambda *_: SimpleNamespace(parse_from_file=lambda _: True, num_errors=0),
            NetworkDefinitionCreationFlag=SimpleNamespace(STRONGLY_TYPED=1, EXPLICIT_BATCH=0),
            BuilderFlag=Flag,
            ProfilingVerbosity=SimpleNamespace(DETAILED="detailed"),
            DeviceType=SimpleNamespace(DLA="DLA"),
            nptype=lambda _: np.float32,
        )


def built(library: Library, precision: str = "fp16", **raw: str) -> Built:
    return build(library, Path("model.onnx"), EngineOptions(precision, raw=raw))


def test_builds_start_afresh_until_two_agree() -> None:
    library = Library("10.3.0", [b"one", b"two", b"one"])
    made = built(library)
    assert made.plan == b"one" and made.notes[-1] == "built 3 times: two plans agree to the byte"
    assert library.config.caches == [b"", b"", b""] and made.timing_cache == b"tactics"
    restless = built(Library("10.3.0", [b"1", b"2", b"3", b"4"]))
    assert restless.plan == b"3" and "NOT DETERMINISTIC: 3 builds gave 3" in restless.notes[-1]
    assert "pinned" in restless.notes[-1]


def test_a_pinned_cache_goes_into_every_build(tmp_path: Path) -> None:
    cache = tmp_path / "timing.cache"

    def pinned(content: bytes) -> dict[str, str]:
        cache.write_bytes(content)
        return {"timing_cache": str(cache), "timing_cache_sha256": hashlib.sha256(content).hexdigest()}

    library = Library("10.3.0", [b"plan"])
    made = built(library, **pinned(b"kept"))
    assert library.config.caches == [b"kept", b"kept"] and any("timing cache" in note for note in made.notes)
    with pytest.raises(ModelError, match="of another device or version"):
        built(Library("10.3.0", [b"plan"]), **pinned(b"foreign"))


def test_a_dla_says_what_it_leaves_to_the_gpu() -> None:
    library = Library("8.5.2", [b"plan"])
    made = built(library, dla_core="0", gpu_fallback="true")
    assert "DLA core 0 leaves 1 layers to the GPU: shuffle" in made.notes
    assert library.config.flags == {Flag.FP16, Flag.GPU_FALLBACK}
    assert (library.config.default_device_type, library.config.DLA_core) == ("DLA", 0)
    with pytest.raises(CapabilityError, match="no DLA core 1: this device has 1"):
        built(Library("8.5.2", [b"plan"]), dla_core="1")
    with pytest.raises(CapabilityError, match="takes fp16, not int8"):
        built(Library("8.5.2", [b"plan"]), "int8", dla_core="0")


@pytest.mark.parametrize(
    ("version", "precision", "flags"),
    [("8.2.1", "fp16", {Flag.FP16}), ("8.5.2", "int8", {Flag.FP16, Flag.INT8}), ("10.3.0", "fp16", set())],
)
def test_flags_decide_types_in_eight_alone(version: str, precision: str, flags: set[Flag]) -> None:
    library = Library(version, [b"plan"])
    built(library, precision)
    assert library.config.flags == flags
