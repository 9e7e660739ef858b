"""What edgewright-device.pyz does; every command returns JSON values."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, Callable, TypeVar

from targets.cpu import cpu_fingerprint
from targets.errors import ConfigError, DataError, ToolchainMissing
from targets.toolchain import TOOLCHAINS, Engine, EngineOptions, Toolchain, load_toolchain
from targets.versions import installed_version

T = TypeVar("T")

PROBE_SCHEMA = "edgewright.device-probe/1"
NUMPY = ToolchainMissing(
    "numpy is not installed on this device",
    mend="apt-get install python3-numpy, or: python3 -m pip install numpy",
)


def probe() -> dict[str, Any]:
    """Say what this machine is, and which toolchains work here."""
    from targets import environment

    folder = home()
    existing = next(each for each in (folder, *folder.parents) if each.is_dir())
    return {
        "schema": PROBE_SCHEMA,
        "python": platform.python_version(),
        "numpy": installed_version("numpy"),
        "cpu": cpu_fingerprint(),
        "facts": environment.facts(),
        "state": environment.state(),
        "disk_free_mib": shutil.disk_usage(str(existing)).free >> 20,
        "toolchains": {name: _probe(name) for name in sorted(TOOLCHAINS)},
    }


def _probe(name: str) -> dict[str, Any]:
    try:
        return asdict(toolchain_here(name).probe())
    except ToolchainMissing as error:
        return {"available": False, "version": None, "detail": error.what, "mend": error.mend}


def fingerprint(toolchain: str) -> dict[str, Any]:
    """Return what engines and measurements made here depend on."""
    return {"fingerprint": toolchain_here(toolchain).fingerprint()}


def build(
    model: Path, toolchain: str, device: str, precision: str, threads: int, raw: str, out: Path
) -> dict[str, Any]:
    """Compile a model; the engine is a folder that is there whole or not at all."""
    if out.exists():
        raise ConfigError(
            "there is something already", where=str(out), mend="remove it, or name another --out"
        )
    tool = toolchain_here(toolchain)
    beside = out.with_name(f".{out.name}.{os.getpid()}")
    beside.mkdir(parents=True)
    try:
        tool.compile(model, device, EngineOptions(precision, threads, _json(raw, "--raw")), beside)
        beside.rename(out)
    finally:
        shutil.rmtree(str(beside), ignore_errors=True)
    return {"engine": json.loads((out / "engine.json").read_text(encoding="utf-8"))}


def run(engine: Path, inputs: Path, out: Path) -> dict[str, Any]:
    """Run all samples of an .npz through an engine and write its outputs to another."""
    import numpy as np

    from targets.toolchain import file_sha256

    runner = opened(engine)
    outputs = in_batches(runner, _arrays(inputs))
    runner.close()
    with out.open("wb") as stream:
        np.savez(stream, **outputs)
    shapes = {name: list(array.shape) for name, array in outputs.items()}
    return {"outputs": shapes, "sha256": file_sha256(out)}


def bench(engines: list[str], inputs: Path, settings: str, extras: str) -> dict[str, Any]:
    """Time engines against each other."""
    from targets.bench import Extras
    from targets.bench import bench as measure
    from targets.measure import MeasureSettings

    named = dict(_named(engine) for engine in engines)
    chosen = _from_json(MeasureSettings, settings, "--settings")
    beside = _from_json(Extras, extras, "--extras")
    loaded = {name: Engine.load(folder) for name, folder in named.items()}
    return measure(loaded, _arrays(inputs), chosen, _tell, beside)


def steps(inputs: Path, preprocess: str) -> dict[str, Any]:
    """Time what an application does beside inference."""
    from targets.bench import steps as measure

    arrays = _arrays(inputs)
    return {"steps": measure(_preprocess(preprocess), arrays["images"], arrays["scores"])}


def evaluate(engine: Path, images: Path, labels: Path, preprocess: Path) -> dict[str, Any]:
    """Score a classifier on stored images."""
    import numpy as np

    runner = opened(engine)
    prepare = _preprocess(preprocess.read_text(encoding="utf-8"))
    stored = np.load(str(images), mmap_mode="r", allow_pickle=False)
    right = np.load(str(labels), allow_pickle=False)
    if len(stored) != len(right) or not len(right):
        raise DataError(f"{len(stored)} images and {len(right)} labels do not belong together")
    correct, name = 0, runner.inputs[0].name
    for start in range(0, len(right), 32):
        rows = slice(start, start + 32)
        outputs = in_batches(runner, {name: prepare(np.asarray(stored[rows]))})
        correct += int((next(iter(outputs.values())).argmax(axis=1) == right[rows]).sum())
        _tell("evaluating", start / len(right))
    runner.close()
    return {"images": len(right), "correct": correct, "top1": correct / len(right)}


def verify(bundle: Path, key: Path) -> dict[str, Any]:
    """Check a bundle against its signed manifest."""
    from targets.bundle.verify import verify as check

    listing = check(bundle, key)
    return {"bundle": listing.name, "files": len(listing.files), "signature": "verified"}


def selftest(bundle: Path, key: Path | None, bench: bool) -> dict[str, Any]:
    """Try a bundle's folder out on this device; "passed" says how it went."""
    require_numpy()
    from targets.bundle.selftest import Trial
    from targets.bundle.selftest import selftest as try_out

    return try_out(Trial(bundle, key, bench, home()))


def unpack(packed: Path, out: Path) -> dict[str, Any]:
    """Restore the ONNX file a packed one was made from."""
    from targets.packed import unpack_file
    from targets.toolchain import file_sha256

    if out.exists():
        raise ConfigError("there is something already", where=str(out), mend="name another --out")
    unpack_file(packed, out)
    return {"model": str(out), "sha256": file_sha256(out)}


def home() -> Path:
    """Return the folder that is kept on a device between sessions."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgewright"


def toolchain_here(name: str) -> Toolchain:
    """Return a toolchain.

    Raises:
        ToolchainMissing: there is none of that name, or no numpy to use it with.
    """
    require_numpy()
    return load_toolchain(name)


def require_numpy() -> None:
    """Go on only where numpy is there and loads.

    Raises:
        ToolchainMissing: it does not.
    """
    try:
        import numpy as _  # noqa: F401
    except ImportError as error:
        if installed_version("numpy") is None:
            raise NUMPY from None
        # numpy's own text is a page; what went wrong comes last.
        reason = str(error).strip().splitlines()[-1]
        raise ToolchainMissing(f"numpy does not load: {reason}", mend="install what it lacks") from error


def opened(folder: Path) -> Any:
    """Return a runner of the engine in a folder."""
    engine = Engine.load(folder)
    return toolchain_here(engine.toolchain).open(engine)


def in_batches(runner: Any, arrays: Any) -> dict[str, Any]:
    """Run any number of samples; inputs that are just what the engine takes are run as they are."""
    from targets.batches import CHUNK, batch_size, run_in_batches, sample_count
    from targets.tensors import fits

    specs = {spec.name: spec.shape for spec in runner.inputs}
    if specs.keys() == arrays.keys() and all(fits(arrays[name].shape, specs[name]) for name in specs):
        outputs: dict[str, Any] = runner.infer(arrays)
        return outputs
    return run_in_batches(runner.infer, arrays, batch_size(runner.inputs, min(CHUNK, sample_count(arrays))))


def _arrays(path: Path) -> dict[str, Any]:
    from targets.npz import read_npz

    return read_npz(path)


def _named(engine: str) -> tuple[str, Path]:
    name, separator, folder = engine.partition("=")
    return (name, Path(folder)) if separator else (engine, Path(engine))


def _json(text: str, what: str) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"not JSON: {error}", where=what) from error
    if not isinstance(document, dict):
        raise ConfigError("not a JSON object", where=what)
    return document


def _from_json(kind: Callable[..., T], text: str, what: str) -> T:
    try:
        return kind(**_json(text, what))
    except TypeError as error:
        raise ConfigError(str(error), where=what) from error


def _preprocess(text: str) -> Any:
    from targets.preprocess import Preprocess

    document = _json(text, "preprocess")
    for name in ("mean", "std"):
        document[name] = tuple(document[name])
    return Preprocess(**document)


def _tell(what: str, share: float) -> None:
    sys.stderr.write(f"progress {json.dumps([what, round(share, 3)])}\n")
    sys.stderr.flush()
