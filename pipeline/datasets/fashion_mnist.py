"""Fashion-MNIST: found on this machine, or fetched and checked."""

from __future__ import annotations

import gzip
import hashlib
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path
from zlib import error as ZlibError

import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.source import ArraySource
from targets.errors import DataError

FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
FASHION_URL = "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/"
FASHION_DEBIAN = Path("/usr/share/datasets/fashion-mnist")
# Name → (shape, sha256 of the unpacked file): Debian packs the same bytes anew.
FASHION_FILES = {
    "train-images-idx3-ubyte": (
        (60000, 28, 28),
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    ),
    "train-labels-idx1-ubyte": (
        (60000,),
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    ),
    "t10k-images-idx3-ubyte": (
        (10000, 28, 28),
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    ),
    "t10k-labels-idx1-ubyte": (
        (10000,),
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
}


def cache_folder() -> Path:
    """The user's cache: $EDGEWRIGHT_CACHE, else edgewright/ below $XDG_CACHE_HOME or ~/.cache."""
    if "EDGEWRIGHT_CACHE" in os.environ:
        return Path(os.environ["EDGEWRIGHT_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "edgewright"


def find_fashion_mnist(download: bool) -> Path:
    """Folder of the four packed files: the cache, else the Debian package, else a download.

    Args:
        download: the network may be used.

    Raises:
        DataError: it is nowhere and may not or cannot be fetched.
    """
    cache = cache_folder() / "fashion-mnist"
    for folder in (cache, FASHION_DEBIAN):
        if all((folder / f"{name}.gz").is_file() for name in FASHION_FILES):
            return folder
    if not download:
        raise DataError(
            "Fashion-MNIST is not on this machine",
            where=f"looked in {cache} and {FASHION_DEBIAN}",
            mend="apt-get install dataset-fashion-mnist, or set data.download = true in the build file",
        )
    fetch_fashion_mnist(cache)
    return cache


def fetch_fashion_mnist(folder: Path, base: str = FASHION_URL) -> None:
    """Download the four files, each checked against its pinned digest before it gets its name.

    Args:
        folder: where they go.
        base: address of the folder they come from.

    Raises:
        DataError: no answer, or not the bytes that were pinned.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in FASHION_FILES:
        address = f"{base}{name}.gz"
        try:
            with urllib.request.urlopen(address, timeout=60) as response:
                packed = response.read(64 << 20)
        except (urllib.error.URLError, OSError) as error:
            raise DataError(
                f"cannot download Fashion-MNIST: {error}",
                where=address,
                mend=f"apt-get install dataset-fashion-mnist, or put the .gz files into {folder}",
            ) from error
        beside = folder / f".{name}.{os.getpid()}"
        beside.write_bytes(packed)
        try:
            _read_idx(beside, name)
            beside.rename(folder / f"{name}.gz")
        finally:
            beside.unlink(missing_ok=True)


def _read_idx(path: Path, name: str) -> NDArray[np.uint8]:
    shape, digest = FASHION_FILES[name]
    header = 4 + 4 * len(shape)
    expected = header + int(np.prod(shape))
    try:
        with gzip.open(path) as stream:
            content = stream.read(expected + 1)
    except (OSError, EOFError, ZlibError) as error:
        raise DataError(f"cannot unpack: {error}", where=str(path), mend="remove the file") from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise DataError(
            "not the Fashion-MNIST file it should be: the digest differs",
            where=str(path),
            mend="remove the file; the next build looks elsewhere",
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def fashion_mnist(folder: Path) -> ArraySource:
    """Fashion-MNIST (Xiao, Rasul, Vollgraf 2017): 60,000 + 10,000 images of 28×28, ten classes."""
    part = {name: _read_idx(folder / f"{name}.gz", name) for name in FASHION_FILES}
    images = np.concatenate([part["train-images-idx3-ubyte"], part["t10k-images-idx3-ubyte"]])[..., None]
    labels = np.concatenate([part["train-labels-idx1-ubyte"], part["t10k-labels-idx1-ubyte"]])
    origin = "Debian package dataset-fashion-mnist" if folder == FASHION_DEBIAN else "zalandoresearch"
    return ArraySource(
        "Fashion-MNIST", origin, "MIT", FASHION_CLASSES, labels.astype(np.int64), 10000, images
    )


def main() -> None:
    """Find Fashion-MNIST, or fetch it with --download; what the Makefile calls."""
    try:
        folder = find_fashion_mnist(download="--download" in sys.argv[1:])
    except DataError as error:
        sys.exit(str(error))
    sys.stdout.write(f"Fashion-MNIST: {folder}\n")


if __name__ == "__main__":
    main()
