"""A toolchain on a device: models are compiled, run and timed there. See docs/remote.md."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Mapping

from targets.bench import LATENCY_ALONE, Extras
from targets.device.frames import pack_arrays, pieces, unpack_arrays
from targets.errors import DeviceError, ModelError, ToolchainMissing, revived
from targets.toolchain import ENGINE_FILE, Engine, EngineOptions, Probe, TensorSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from targets.preprocess import Preprocess
    from targets.remote.device import Device
    from targets.timing import MeasureSettings
    from targets.toolchain import Tensors

BUILD_LIMIT_S = 3600.0
OPEN_LIMIT_S = 600.0
PROBE_LIMIT_S = 120.0
ARRAYS = "arrays.npz"


class RemoteToolchain:
    """The toolchain of a device, in the same form as one of this machine.

    Args:
        name: in `targets.toolchain.TOOLCHAINS`.
        device: where it is.
    """

    def __init__(self, name: str, device: Device) -> None:
        self.name = name
        self.device = device
        self._folders = 0

    def probe(self) -> Probe:
        """Say whether the toolchain works there, without raising."""
        try:
            state = self.device.command("probe", limit_s=PROBE_LIMIT_S)["toolchains"][self.name]
        except (DeviceError, ToolchainMissing) as error:
            return Probe(False, None, error.what, error.mend)
        return Probe(**state)

    def fingerprint(self) -> dict[str, str]:
        """What an engine or a measurement made there depends on.

        Raises:
            DeviceError: the device cannot be reached.
            ToolchainMissing: it has no Python 3.8 or no numpy.
        """
        found: dict[str, str] = self.device.command("fingerprint", self.name, limit_s=PROBE_LIMIT_S)[
            "fingerprint"
        ]
        return found

    def obstacle(self, options: EngineOptions) -> str | None:  # noqa: ARG002
        """Engines run on the device that compiles them."""
        return None

    def compile(self, model: Path, device: str, options: EngineOptions, folder: Path) -> Engine:
        """Compile a model there and bring the engine here.

        Raises:
            EdgewrightError: what the toolchain there raises, or a DeviceError.
        """
        sent = {"model.onnx": self.device.push(model)}
        self.device.claim()
        place = self._placed(sent)
        arguments = ["--toolchain", self.name, "--device", device, "--precision", options.precision]
        arguments += ["--threads", str(options.threads), "--raw", json.dumps(dict(options.raw))]
        self.device.command(
            "build", f"{place}/model.onnx", *arguments, "--out", f"{place}/engine", limit_s=BUILD_LIMIT_S
        )
        kept: dict[str, Any] = self.device.ask("keep", path=f"{place}/engine")["files"]
        for name, file in kept.items():
            if Path(name).name != name:
                raise DeviceError("the device names a file outside of the engine", where=name)
            self.device.pull(file["sha256"], file["size"], folder / name)
        return Engine.load(folder)

    def open(self, engine: Engine) -> RemoteRunner:
        """Open an engine there; what it runs travels, so it is not for timing: `bench` is.

        Raises:
            EdgewrightError: what the toolchain there raises, or a DeviceError.
        """
        files = self._pushed(engine)
        self.device.claim()
        return RemoteRunner(self.device, engine, self._placed(files))

    def bench(
        self,
        engines: Mapping[str, Engine],
        samples: Mapping[str, NDArray[np.generic]],
        settings: MeasureSettings,
        extras: Extras = LATENCY_ALONE,
    ) -> dict[str, Any]:
        """Time engines there; arguments and result are those of `targets.bench.bench`."""
        # All is sent before anything is put in its place: a link that breaks costs the places.
        sent = self._pushed_arrays(samples)
        pushed = {name: self._pushed(engine) for name, engine in engines.items()}
        self.device.claim()
        places = [f"{name}={self._placed(files)}" for name, files in pushed.items()]
        asked = ["--settings", json.dumps(asdict(settings)), "--extras", json.dumps(asdict(extras))]
        arrays = f"{self._placed(sent)}/{ARRAYS}"
        limit_s = settings.max_s + len(engines) * (settings.warmup_max_s + OPEN_LIMIT_S)
        return self.device.command("bench", *places, "--inputs", arrays, *asked, limit_s=limit_s)

    def steps(
        self, preprocess: Preprocess, images: NDArray[np.generic], scores: NDArray[np.generic]
    ) -> list[dict[str, Any]]:
        """Time what goes on beside inference there, as `targets.bench.steps`."""
        sent = self._pushed_arrays({"images": images, "scores": scores})
        self.device.claim()
        arrays = f"{self._placed(sent)}/{ARRAYS}"
        asked = ["--inputs", arrays, "--preprocess", json.dumps(asdict(preprocess))]
        found: list[dict[str, Any]] = self.device.command("steps", *asked, limit_s=OPEN_LIMIT_S)["steps"]
        return found

    def _pushed_arrays(self, arrays: Mapping[str, NDArray[np.generic]]) -> dict[str, str]:
        import numpy as np

        named: dict[str, Any] = dict(arrays)
        with TemporaryDirectory() as folder:
            path = Path(folder, ARRAYS)
            np.savez(path, **named)
            return {ARRAYS: self.device.push(path)}

    def _pushed(self, engine: Engine) -> dict[str, str]:
        return {name: self.device.push(engine.folder / name) for name in (ENGINE_FILE, *engine.files)}

    def _placed(self, files: Mapping[str, str]) -> str:
        """Put files, name → sha256, into a folder of their own there."""
        place = self._folder()
        for name, sha256 in files.items():
            self.device.ask("place", sha256=sha256, path=f"{place}/{name}")
        return place

    def _folder(self) -> str:
        self._folders += 1
        return f"{self.name}-{self._folders}"


class RemoteRunner:
    """An engine open on a device. Any number of samples go there at once; it runs them in its own batches.

    Args:
        device: where it is.
        engine: whose names and shapes it takes, but for the number of samples.
        folder: of the engine there.
    """

    def __init__(self, device: Device, engine: Engine, folder: str) -> None:
        self._device = device
        self.inputs = tuple(_any_batch(spec) for spec in engine.inputs)
        self.outputs = tuple(_any_batch(spec) for spec in engine.outputs)
        self._number = device.ask("open", arguments=["stream", folder])["number"]

    def infer(self, inputs: Tensors) -> dict[str, NDArray[np.generic]]:
        """Run samples.

        Raises:
            ModelError: inputs that do not fit, or an operator that fails on them.
            DeviceError: the device or the link to it failed.
        """
        content, found = pack_arrays(inputs), bytearray()
        self._device.ask(
            "infer", number=self._number, content=lambda offset: pieces(content[offset:]), take=found.extend
        )
        said, _, arrays = bytes(found).partition(b"\n")
        document = json.loads(said.decode())
        if "error" in document:
            raise revived(document["error"])
        try:
            return unpack_arrays(arrays)
        except ValueError as error:
            raise ModelError(f"what came from the device are no arrays: {error}") from error

    def close(self) -> None:
        """End it there; when the device is gone, that has been done."""
        if self._device.connected:
            with contextlib.suppress(DeviceError):
                self._device.ask("shut", number=self._number)


def _any_batch(spec: TensorSpec) -> TensorSpec:
    return replace(spec, shape=(-1, *spec.shape[1:])) if spec.shape else spec
