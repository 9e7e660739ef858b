"""Image files: in folders named after their classes, or without labels, wherever they lie."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.source import Description, Images
from pipeline.listing import FileList
from pipeline.packages import PACKAGES
from targets.errors import DataError, ToolchainMissing

if TYPE_CHECKING:
    from PIL import Image


FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "PPM")
# What Pillow raises on damaged files, by format.
BROKEN = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    MemoryError,
    struct.error,
)
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".pgm", ".ppm"})


@dataclass(frozen=True)
class FolderSource(Description):
    """Image files, decoded when they are read."""

    files: Sequence[Path]
    channels: int
    size: tuple[int, int]
    resize: bool

    def __len__(self) -> int:
        """Number of images."""
        return len(self.files)

    def read(self, indices: NDArray[np.int64]) -> Images:
        """Decoded images of the given indices: [n, H, W, C] uint8."""
        return np.stack([self._decode(self.files[index]) for index in indices])

    def _decode(self, path: Path) -> Images:
        image = _open_image(path, "L" if self.channels == 1 else "RGB")
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
    parts = _parts(folder)
    classes = tuple(sorted(path.name for path in parts[0].iterdir() if path.is_dir()))
    if not classes:
        raise DataError(
            "no class folders found",
            where=str(parts[0]),
            mend="put the images of each class into a folder named after it; "
            "for images without labels set data.labelled = false",
        )
    within = {
        (part / name).relative_to(folder).as_posix(): f"class {name!r}" for part in parts for name in classes
    }
    files, counts = _images_below(folder, within)
    labels = np.repeat(np.arange(len(within), dtype=np.int64) % len(classes), counts)
    own_test = sum(counts[len(classes) :])
    return _source(folder, files, classes, labels, own_test, resize, licence)


def unlabelled_folder(
    folder: Path, resize: tuple[int, int] | None, licence: str, outputs: Sequence[str]
) -> FolderSource:
    """All images below a folder, or below `folder/train` and `folder/test`, in any folders or none.

    Args:
        folder: where they lie.
        resize: as of `image_folder`.
        licence: named in the record.
        outputs: what the outputs of the network mean that will label them.

    Raises:
        DataError: no folder, no images, folders named after the classes, or an unreadable first image.
        ToolchainMissing: Pillow is not installed.
    """
    parts = _parts(folder)
    if all((parts[0] / name).is_dir() for name in outputs):
        raise DataError(
            "the data was said to have no labels, but there is a folder named after each class",
            where=str(parts[0]),
            mend="remove data.labelled and data.classes to use the labels, or rename the folders",
        )
    within = {part.relative_to(folder).as_posix(): f"the folder {part.name!r}" for part in parts}
    files, counts = _images_below(folder, within)
    return _source(folder, files, tuple(outputs), None, sum(counts[1:]), resize, licence)


def loose_images(folder: Path, size: tuple[int, int], channels: int) -> FolderSource:
    """All images below a folder, brought to one size, for a network that asks no questions about labels.

    Args:
        folder: where they lie, in any folders or none.
        size: height and width every image is brought to.
        channels: 1 for grey, 3 for RGB.

    Raises:
        DataError: no folder or no images.
    """
    if not folder.is_dir():
        raise DataError("there is no such folder of images", where=str(folder), mend="correct the path")
    return FolderSource(
        name=folder.name,
        origin=f"folder {folder.name}",
        licence="",
        classes=(),
        labels=None,
        own_test=0,
        files=_images_below(folder, {".": "the folder"})[0],
        channels=channels,
        size=size,
        resize=True,
    )


def _parts(folder: Path) -> list[Path]:
    """The folder itself, or its train and test where the test images are set apart already."""
    if not folder.is_dir():
        raise DataError("there is no such folder of images", where=str(folder), mend="correct data.path")
    parts = [folder / "train", folder / "test"]
    return parts if all(part.is_dir() for part in parts) else [folder]


def _source(
    folder: Path,
    files: Sequence[Path],
    classes: tuple[str, ...],
    labels: NDArray[np.int64] | None,
    own_test: int,
    resize: tuple[int, int] | None,
    licence: str,
) -> FolderSource:
    channels, size = _first_image(files[0])
    return FolderSource(
        name=folder.name,
        origin=f"folder {folder.name}",
        licence=licence,
        classes=classes,
        labels=labels,
        own_test=own_test,
        files=files,
        channels=channels,
        size=resize or size,
        resize=resize is not None,
    )


def _images_below(folder: Path, within: Mapping[str, str]) -> tuple[FileList, list[int]]:
    """The image files of some folders, and how many each has.

    Args:
        folder: that they lie in.
        within: their names there → what they are called in messages.

    Raises:
        DataError: one of them has none.
    """
    found, counts = FileList.below(folder, list(within), _is_image)
    for (name, what), count in zip(within.items(), counts, strict=True):
        if not count:
            raise DataError(
                f"{what} has no images",
                where=str(folder / name),
                mend=f"add images ({', '.join(sorted(IMAGE_SUFFIXES))}), or remove the folder",
            )
    return found, counts


def _is_image(name: str) -> bool:
    return Path(name).suffix.lower() in IMAGE_SUFFIXES


def _first_image(path: Path) -> tuple[int, tuple[int, int]]:
    image = _open_image(path)
    width, height = image.size
    return (1 if image.mode in ("1", "L", "I", "I;16", "F") else 3), (height, width)


def _open_image(path: Path, mode: str | None = None) -> Image.Image:
    """Decode an image, by what is in the file; in a mode of Pillow's, or its own."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ToolchainMissing("reading image files needs Pillow", mend=PACKAGES["pillow"].install) from error
    try:
        # Pillow would take others too, and hand PostScript to another program.
        image = Image.open(path, formats=FORMATS)
        image.load()
        return image.convert(mode) if mode else image
    except (Image.DecompressionBombError, *BROKEN) as error:
        raise DataError(
            f"cannot read an image: {error}", where=str(path), mend="repair or remove the file"
        ) from error
