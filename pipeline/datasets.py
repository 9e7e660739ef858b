"""Where images come from: Fashion-MNIST, folders of images, .npz files, a Python factory."""

from __future__ import annotations

import gzip
import hashlib
import importlib
import os
import sys
import urllib.error
import urllib.request
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from zlib import error as ZlibError

import numpy as np
from numpy.typing import NDArray

from targets.errors import DataError, ToolchainMissing

if TYPE_CHECKING:
    from PIL import Image

Images = NDArray[np.generic]

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
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".pgm", ".ppm"})
MOST_UNPACKED_BYTES = 32 << 30


class Source(Protocol):
    """Labelled images that can be read piece by piece."""

    @property
    def name(self) -> str:
        """Name of the data set."""
        ...

    @property
    def origin(self) -> str:
        """Where it came from."""
        ...

    @property
    def licence(self) -> str:
        """Of the data."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in label order."""
        ...

    @property
    def labels(self) -> NDArray[np.int64]:
        """Labels [N]."""
        ...

    @property
    def own_test(self) -> int:
        """Images at the end that the data set itself keeps for testing."""
        ...

    def read(self, indices: NDArray[np.int64]) -> Images:
        """Images of the given indices: [n, H, W, C], uint8 or float32."""
        ...


@dataclass(frozen=True)
class ArraySource:
    """Images held as one array [N, H, W, C]."""

    name: str
    origin: str
    licence: str
    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    own_test: int
    images: Images

    def read(self, indices: NDArray[np.int64]) -> Images:
        """Images of the given indices."""
        return self.images[indices]


@dataclass(frozen=True)
class FolderSource:
    """Image files, decoded when they are read."""

    name: str
    origin: str
    licence: str
    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    own_test: int
    files: Sequence[Path]
    channels: int
    size: tuple[int, int]
    resize: bool

    def read(self, indices: NDArray[np.int64]) -> Images:
        """Decoded images of the given indices: [n, H, W, C] uint8."""
        return np.stack([self._decode(self.files[index]) for index in indices])

    def _decode(self, path: Path) -> Images:
        image = _open_image(path).convert("L" if self.channels == 1 else "RGB")
        height, width = self.size
        if self.resize:
            image = image.resize((width, height))
        if image.size != (width, height):
            raise DataError(
                f"images of mixed sizes: {image.size[1]}×{image.size[0]} here, {height}×{width} before "
                "(height × width)",
                where=str(path),
                mend=f"set data.resize = [{height}, {width}], or remove the image",
            )
        pixels = np.asarray(image)
        return pixels.reshape(height, width, self.channels)


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


def image_folder(folder: Path, resize: tuple[int, int] | None, licence: str) -> FolderSource:
    """Images as `folder/<class>/*.png`, or `folder/train/<class>/…` and `folder/test/<class>/…`.

    Args:
        folder: where they lie.
        resize: height and width every image is brought to; without it all must have the same.
        licence: named in the record.

    Raises:
        DataError: no folder, no classes, a class without images, or an unreadable first image.
        ToolchainMissing: Pillow is not installed.
    """
    if not folder.is_dir():
        raise DataError("there is no such folder of images", where=str(folder), mend="correct data.path")
    own = (folder / "train").is_dir() and (folder / "test").is_dir()
    parts = [folder / "train", folder / "test"] if own else [folder]
    classes = tuple(sorted(path.name for path in parts[0].iterdir() if path.is_dir()))
    if not classes:
        raise DataError(
            "no class folders found",
            where=str(parts[0]),
            mend="put the images of each class into a folder named after it",
        )
    files: list[Path] = []
    labels: list[int] = []
    counts = []
    for part in parts:
        for label, name in enumerate(classes):
            found = _images_below(part / name)
            files.extend(found)
            labels.extend([label] * len(found))
        counts.append(len(files))
    channels, size = _first_image(files[0])
    return FolderSource(
        name=folder.name,
        origin=f"folder {folder.name}",
        licence=licence,
        classes=classes,
        labels=np.array(labels, np.int64),
        own_test=counts[-1] - counts[0],
        files=files,
        channels=channels,
        size=resize or size,
        resize=resize is not None,
    )


def _images_below(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not found:
        raise DataError(
            f"class {folder.name!r} has no images",
            where=str(folder),
            mend=f"add images ({', '.join(sorted(IMAGE_SUFFIXES))}), or remove the folder",
        )
    return found


def _first_image(path: Path) -> tuple[int, tuple[int, int]]:
    image = _open_image(path)
    width, height = image.size
    return (1 if image.mode in ("1", "L", "I", "I;16", "F") else 3), (height, width)


def _open_image(path: Path) -> Image.Image:
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise ToolchainMissing(
            "reading image files needs Pillow", mend="pip install 'edgewright[images]'"
        ) from error
    try:
        image = Image.open(path)
        image.load()
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, ValueError, SyntaxError) as error:
        raise DataError(
            f"cannot read an image: {error}", where=str(path), mend="repair or remove the file"
        ) from error
    return image


def npz_file(path: Path, licence: str) -> ArraySource:
    """Arrays `images`, `labels`, optionally `classes`, `test_images`, `test_labels`, from an .npz file.

    Raises:
        DataError: missing, not .npz, hostile (pickled or huge members), or arrays that do not fit.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > MOST_UNPACKED_BYTES:
            raise DataError(
                f"the file unpacks to {unpacked:,} bytes, more than {MOST_UNPACKED_BYTES:,}",
                where=str(path),
                mend="use a folder of images",
            )
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except FileNotFoundError as error:
        raise DataError("there is no such file", where=str(path), mend="correct data.path") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, ZlibError) as error:
        raise DataError(
            f"cannot read the .npz file: {error}",
            where=str(path),
            mend="write it with numpy.savez, plain arrays only",
        ) from error
    return from_arrays(arrays, path.stem, f"file {path.name}", licence)


def python_factory(factory: str, licence: str) -> ArraySource:
    """Arrays as in `npz_file`, returned as a dict by "module:function".

    Raises:
        DataError: no such function, or arrays that do not fit.
    """
    module, _, name = factory.partition(":")
    try:
        arrays = getattr(importlib.import_module(module), name)()
    except (ImportError, AttributeError) as error:
        raise DataError(
            f"cannot find the data factory: {error}", where=f"data.factory = {factory!r}"
        ) from error
    if not isinstance(arrays, Mapping):
        raise DataError(
            f"the data factory returned {type(arrays).__name__}, not a dict of arrays",
            where=f"data.factory = {factory!r}",
            mend="return {'images': …, 'labels': …, 'classes': …}",
        )
    return from_arrays(arrays, name, f"factory {factory}", licence)


def from_arrays(arrays: Mapping[str, Any], name: str, origin: str, licence: str) -> ArraySource:
    """Check named arrays and join the data set's own test images behind the others.

    Args:
        arrays: images [N, H, W] or [N, H, W, C] of uint8 or float32, labels [N] of integers, optionally
            classes (one name a label), test_images and test_labels.
        name: of the data set.
        origin: where it came from.
        licence: of the data.

    Raises:
        DataError: something is missing or does not fit; the message names the array.
    """
    images, labels = _pair(arrays, "images", "labels", origin)
    own_test = 0
    if "test_images" in arrays:
        test_images, test_labels = _pair(arrays, "test_images", "test_labels", origin)
        if test_images.shape[1:] != images.shape[1:] or test_images.dtype != images.dtype:
            raise DataError(
                f"test_images are {test_images.dtype}{list(test_images.shape[1:])}, "
                f"images {images.dtype}{list(images.shape[1:])}",
                where=origin,
            )
        own_test = len(test_images)
        images, labels = np.concatenate([images, test_images]), np.concatenate([labels, test_labels])
    highest = int(labels.max())
    classes = tuple(str(item) for item in arrays.get("classes", [str(i) for i in range(highest + 1)]))
    if highest >= len(classes) or labels.min() < 0:
        raise DataError(
            f"labels go from {labels.min()} to {highest}, but there are {len(classes)} classes", where=origin
        )
    if len(set(classes)) != len(classes):
        raise DataError("two classes have the same name", where=origin)
    return ArraySource(name, origin, licence, classes, labels, own_test, images)


def _pair(
    arrays: Mapping[str, Any], images_name: str, labels_name: str, origin: str
) -> tuple[Images, NDArray[np.int64]]:
    for name in (images_name, labels_name):
        if name not in arrays:
            raise DataError(
                f"there is no array {name!r}; found: {', '.join(sorted(arrays))}",
                where=origin,
                mend="name the arrays images and labels",
            )
    images, labels = np.asarray(arrays[images_name]), np.asarray(arrays[labels_name])
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.dtype not in (np.uint8, np.float32) or not images.size:
        raise DataError(
            f"{images_name} is {images.dtype}{list(images.shape)}",
            where=origin,
            mend="give [N, H, W] or [N, H, W, C] of uint8 or float32",
        )
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        raise DataError(
            f"{labels_name} is {labels.dtype}{list(labels.shape)} for {len(images)} images",
            where=origin,
            mend="give one whole number an image",
        )
    if images.dtype == np.float32 and not np.isfinite(images).all():
        raise DataError(f"{images_name} holds NaN or infinite values", where=origin)
    return images, labels.astype(np.int64)


def main() -> None:
    """Find Fashion-MNIST, or with --download fetch it: `python -m pipeline.datasets [--download]`."""
    try:
        folder = find_fashion_mnist(download="--download" in sys.argv[1:])
    except DataError as error:
        sys.exit(str(error))
    sys.stdout.write(f"Fashion-MNIST: {folder}\n")


if __name__ == "__main__":
    main()
