"""Everything that reads what others wrote, one function each: bytes in, nothing or an error of ours out."""

import atexit
import gzip
import io
import json
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from targets.errors import EdgewrightError
from tests.reliability.tiny import BUILD, network

ROOT = Path(__file__).parents[2]
RAM = Path("/dev/shm")


@dataclass(frozen=True)
class Reader:
    """One reader.

    Args:
        read: gives it bytes.
        seeds: bytes it takes; a fuzzer changes them.
        refuses: the errors by which it may refuse.
    """

    read: Callable[[bytes], object]
    seeds: Callable[[], list[bytes]]
    refuses: tuple[type[Exception], ...] = (EdgewrightError,)

    def __call__(self, data):
        try:
            self.read(data)
        except self.refuses as error:
            return error
        return None


@cache
def scratch():
    """A folder in memory where there is one: a fuzzer writes millions of files."""
    folder = Path(tempfile.mkdtemp(prefix="edgewright-fuzz-", dir=RAM if RAM.is_dir() else None))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def put(name, data):
    path = scratch() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


# TOML and JSON


def read_build(data):
    from pipeline.config import load_settings

    load_settings(put("build.toml", data))


def build_seeds():
    examples = [path.read_bytes() for path in sorted((ROOT / "examples").rglob("*.toml"))]
    return [BUILD.format(store="").encode(), *examples]


def read_sweep(data):
    from pipeline.sweep.file import load_sweep
    from pipeline.sweep.grid import grid_points

    file = load_sweep(put("sweep.toml", data))
    if file.search is None:
        grid_points(file.axes)


def sweep_seeds():
    search = (
        b'[sweep]\nname = "s"\n[search]\ntrials = 4\nobjectives = ["accuracy"]\n'
        b'[[axes]]\nname = "a"\nkey = "student.macs"\nlow = 0.1\nhigh = 0.9\nlog = true\n'
    )
    return [(ROOT / "examples/footwear/sweep.toml").read_bytes(), search]


def read_device(data):
    from targets.capability import load_device

    load_device(str(put("device.toml", data)))


def device_seeds():
    return [path.read_bytes() for path in sorted((ROOT / "targets/devices").glob("*.toml"))]


def read_record(data):
    from pipeline.report import load

    load(put("report.json", data))


def record_seeds():
    from tests.pipeline.example_record import MEDIAN_MS, document

    return [json.dumps(document(tuple(MEDIAN_MS)[:1], samples=20)).encode()]


def read_entry(data):
    from pipeline.store import Store

    key = "ab" + "0" * 62
    put(f"store/objects/ab/{key}/out/a.txt", b"a")
    put(f"store/objects/ab/{key}/entry.json", data)
    Store(scratch() / "store").find(key)


def entry_seeds():
    document = {
        "schema": "edgewright.entry/1",
        "stage": "s",
        "key": "ab" + "0" * 62,
        "parts": {},
        "files": {"a.txt": [1, "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"]},
        "seconds": 1.0,
        "peak_memory_bytes": 1,
        "finished_at": "2026-01-01T00:00:00+00:00",
    }
    return [json.dumps(document).encode()]


def read_engine(data):
    from targets.toolchain import Engine

    put("engine/model.onnx", b"x")
    Engine.load(put("engine/engine.json", data).parent)


def engine_seeds():
    spec = {"name": "input", "dtype": "float32", "shape": [1, 1, 8, 8]}
    document = {
        "schema": "edgewright.engine/1",
        "toolchain": "onnxruntime",
        "toolchain_version": "1.31",
        "device": "any-onnxruntime",
        "options": {"precision": "fp32", "threads": 1, "raw": {}},
        "inputs": [spec],
        "outputs": [spec],
        "files": {"model.onnx": "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"},
        "notes": [],
    }
    return [json.dumps(document).encode()]


def read_bits(data):
    from calibration.plan import BitsPlan

    BitsPlan.load(put("bits.json", data))


def bits_seeds():
    layers = [{"node": "conv", "weights_per_channel": 9, "bits": "8845f"}]
    document = {"schema": "edgewright.bits/1", "model_sha256": "0", "sensitivity": "fisher", "layers": layers}
    return [json.dumps(document).encode()]


# Bundles


def manifest_seeds():
    from hashlib import sha256

    document = {
        "schema": "edgewright.manifest/1",
        "bundle": "tiny-1.0.0",
        "key": {"fingerprint": "0" * 64},
        "files": [
            {"path": "a.bin", "size_bytes": 1, "sha256": sha256(b"a").hexdigest(), "executable": False},
            {"path": "bin/run", "size_bytes": 2, "sha256": sha256(b"#!").hexdigest(), "executable": True},
        ],
    }
    return [json.dumps(document).encode()]


def read_manifest(data):
    from targets.bundle.listing import read_listing

    read_listing(data, None, None)


def read_signed(data):
    """A manifest and signature as a stranger may send them: first 64 bytes are the signature's."""
    from targets.bundle.listing import read_listing

    read_listing(data[64:], data[:64], bytes(32))


def verify_unsigned(path):
    """Verify an archive as if its signature were good: what lies behind that check is fuzzed as well."""
    from targets.bundle import archive, listing

    out = scratch() / "unpacked"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    there, before = set(scratch().iterdir()), archive.read_listing
    archive.read_listing = lambda content, *_: listing.read_listing(content, None, None)
    try:
        archive.verify_archive(path, bytes(32), out)
    finally:
        archive.read_listing = before
        assert set(scratch().iterdir()) == there, "written outside the bundle's folder"


def read_tar(data):
    # A fuzzer finds no way through a checksum: it is given what lies inside of the compression.
    verify_unsigned(put("bundle.tar.gz", gzip.compress(data, 1, mtime=0)))


def read_archive(data):
    verify_unsigned(put("bundle.zip", data))


def members():
    return {
        "manifest.json": manifest_seeds()[0],
        "manifest.json.sig": bytes(64),
        "a.bin": b"a",
        "bin/run": b"#!",
    }


def tar_seeds():
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in members().items():
            info = tarfile.TarInfo(f"tiny-1.0.0/{name}")
            info.size, info.mode = len(content), 0o755 if name == "bin/run" else 0o644
            archive.addfile(info, io.BytesIO(content))
    return [stream.getvalue()]


def archive_seeds():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members().items():
            info = zipfile.ZipInfo(f"tiny-1.0.0/{name}")
            info.create_system, info.external_attr = 3, (0o100755 if name == "bin/run" else 0o100644) << 16
            archive.writestr(info, content)
    return [stream.getvalue(), gzip.compress(tar_seeds()[0], mtime=0)]


def read_key(data):
    from targets.bundle.keys import read_public_key

    path = put("key.pub", data)
    path.chmod(0o644)
    read_public_key(path)


def key_seeds():
    from targets.bundle.keys import public_pem

    return [public_pem(bytes(range(32))).encode()]


# Arrays and images


def npz(**arrays):
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    packed = io.BytesIO()
    np.savez_compressed(packed, **arrays)
    return [stream.getvalue(), packed.getvalue()]


def read_arrays(data):
    from pipeline.datasets.arrays import npz_file

    npz_file(put("images.npz", data), "")


def array_seeds():
    images = np.arange(32, dtype=np.uint8).reshape(2, 4, 4)
    return npz(images=images, labels=np.array([0, 1]), classes=np.array(["a", "b"]))


def read_header(data):
    """An .npy inside a whole .npz: the header is what the fuzzer changes."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("images.npy", data)
        archive.writestr("labels.npy", header_seeds()[1])
    read_arrays(stream.getvalue())


@cache
def header_seeds():
    seeds = []
    for array in (
        np.arange(32, dtype=np.uint8).reshape(2, 4, 4),
        np.array([0, 1]),
        np.ones((2, 3, 3, 1), "<f4"),
    ):
        stream = io.BytesIO()
        np.save(stream, array)
        seeds.append(stream.getvalue())
    return seeds


def read_inputs(data):
    from pipeline.datasets.model_inputs import ImageOptions, load_inputs
    from targets.toolchain import TensorSpec

    specs = [TensorSpec("input", "float32", (1, 2))]
    load_inputs(put("inputs.npz", data), specs, ImageOptions(), 8, scratch(), lambda *_: None)


def read_observations(data):
    from calibration.observations import Observations

    Observations.load(put("observations.npz", data))


def observation_seeds():
    from calibration.histogram import SIDE, Histogram
    from calibration.observations import Observations

    seen = Histogram(-1.0, 2.0, 0, 1, np.ones(2 * SIDE, np.int64))
    path = put("seed.npz", b"")
    Observations({"x": seen}, 4, "0" * 64, "1" * 64).save(path)
    return [path.read_bytes()]


def read_safetensors(data):
    from pipeline.network import load_weights

    load_weights(put("weights.safetensors", data))


def safetensors_seeds():
    from safetensors.numpy import save

    return [save({"w": np.ones((2, 3), np.float32), "n": np.array([1, 2])})]


def read_checkpoint(data):
    from pipeline.network import load_weights

    load_weights(put("weights.pt", data))


def checkpoint_seeds():
    import torch

    seeds = []
    for zipped in (True, False):
        stream = io.BytesIO()
        torch.save({"w": torch.ones(2, 3)}, stream, _use_new_zipfile_serialization=zipped)
        seeds.append(stream.getvalue())
    return seeds


def read_image(data):
    from pipeline.datasets.folders import image_folder

    put("images/class/a.png", data)
    image_folder(scratch() / "images", None, "").read(np.array([0]))


def image_seeds():
    from PIL import Image

    seeds = []
    for kind in ("PNG", "JPEG", "BMP", "WEBP", "PPM"):
        stream = io.BytesIO()
        Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(stream, kind)
        seeds.append(stream.getvalue())
    return seeds


# Models


def read_onnx(data):
    from pipeline.onnxmodel.file import describe, read_model
    from pipeline.onnxmodel.macs import count_macs

    model = read_model(put("model/model.onnx", data), max_bytes=1 << 24)
    describe(model)
    count_macs(model)


def onnx_seeds():
    from onnx import TensorProto

    whole = network()
    outside = network()
    tensor = outside.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../outside.bin")
    return [model.SerializeToString() for model in (whole, outside)]


def read_float(data):
    from calibration.load import load

    load(put("model/float.onnx", data))


def read_planned(data):
    """What planning a build and checking a model for a device read of it, before a stage of its own does."""
    from pipeline.onnxmodel.file import data_files
    from targets.capability import load_device
    from targets.checks import check_model

    path = put("model/planned.onnx", data)
    data_files(path)
    check_model(path, load_device("any-onnxruntime").capability("onnxruntime"), [])


def read_packed(data):
    from targets.packed import unpack

    unpack(data, largest=1 << 20)


def read_skeleton(data):
    """Behind the compression: header and skeleton are what the fuzzer changes; the first bytes are codes."""
    import struct
    import zlib

    from targets.packed import LENGTHS, MAGIC

    if len(data) < 8:
        return
    (length,) = struct.unpack("<I", data[:4])
    stream = zlib.compress(data[8:], 1)
    codes = data[4:8]
    read_packed(MAGIC + LENGTHS.pack(len(stream), length % (1 << 16)) + stream + codes)


def packed_seeds():
    import hashlib
    import struct
    import zlib

    from targets.packed import LENGTHS, MAGIC

    restored = b"ab" + bytes(range(4)) + b"cd"
    spans = [{"offset": 2, "outer": 1, "inner": 4, "bits": "8", "low": [0]}]
    header = {"schema": "edgewright.packed/1", "sha256": hashlib.sha256(restored).hexdigest(), "spans": spans}
    text = json.dumps(header).encode()
    stream = zlib.compress(text + b"abcd")
    whole = MAGIC + LENGTHS.pack(len(stream), len(text)) + stream + bytes(range(4))
    return [whole, struct.pack("<I", len(text)) + bytes(range(4)) + text + b"abcd"]


# What comes over a wire


def read_frames(data):
    from targets.device.frames import read_frame, unpack_arrays

    stream = io.BytesIO(data)
    while frame := read_frame(stream):
        unpack_arrays(frame.payload)


def frame_seeds():
    from targets.device.frames import pack_arrays, write_frame

    stream = io.BytesIO()
    write_frame(stream, {"verb": "infer"}, pack_arrays({"a": np.ones((2, 2), np.float32)}))
    return [stream.getvalue()]


READERS = {
    "build": Reader(read_build, build_seeds),
    "sweep": Reader(read_sweep, sweep_seeds),
    "device": Reader(read_device, device_seeds),
    "record": Reader(read_record, record_seeds),
    "entry": Reader(read_entry, entry_seeds),
    "engine": Reader(read_engine, engine_seeds),
    "bits": Reader(read_bits, bits_seeds),
    "manifest": Reader(read_manifest, manifest_seeds),
    "signed": Reader(read_signed, lambda: [bytes(64) + manifest_seeds()[0]]),
    "tar": Reader(read_tar, tar_seeds),
    "archive": Reader(read_archive, archive_seeds),
    "key": Reader(read_key, key_seeds),
    "arrays": Reader(read_arrays, array_seeds),
    "header": Reader(read_header, header_seeds),
    "inputs": Reader(read_inputs, lambda: npz(input=np.ones((10, 2), np.float32))),
    "observations": Reader(read_observations, observation_seeds),
    "safetensors": Reader(read_safetensors, safetensors_seeds),
    "checkpoint": Reader(read_checkpoint, checkpoint_seeds),
    "image": Reader(read_image, image_seeds),
    "onnx": Reader(read_onnx, onnx_seeds),
    "float": Reader(read_float, onnx_seeds),
    "planned": Reader(read_planned, onnx_seeds),
    "packed": Reader(read_packed, lambda: packed_seeds()[:1]),
    "skeleton": Reader(read_skeleton, lambda: packed_seeds()[1:]),
    "frames": Reader(read_frames, frame_seeds, (ValueError,)),
}
