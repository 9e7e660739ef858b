"""An engine of a bundle on the device: the one that came, or one built here where that does not fit."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any, Mapping

from targets.errors import ModelError
from targets.packed import unpack_file
from targets.toolchain import Engine, EngineOptions, load_toolchain

if TYPE_CHECKING:
    from pathlib import Path

    from targets.bundle.listing import Listing

TIMING_CACHE = "timing_cache"


def engine_here(
    bundle: Path, listing: Listing, product: Mapping[str, Any], cache: Path
) -> tuple[Engine, str]:
    """Return an engine that opens here, and where it came from.

    One that did not come with the bundle is built.

    Args:
        bundle: its folder.
        listing: what the bundle says.
        product: of the manifest; its engine and recipe.
        cache: folder for what has to be built; kept, and used again the next time.

    Raises:
        ModelError: the runtime does not take the model.
        ToolchainMissing: it is not installed here.
    """
    toolchain = load_toolchain(listing.document["target"]["toolchain"])
    reason = "the bundle has the model alone"
    if product["engine"]:
        shipped = Engine.load(bundle / product["engine"]["path"])
        try:
            toolchain.open(shipped).close()
            return shipped, "the engine in the bundle"
        except ModelError as error:
            reason = error.what
    digest = listing.files[product["model"]["path"]].sha256
    folder = cache / "bundles" / _slug(f"{listing.name}-{product['variant']}-{digest[:16]}")
    try:
        built = Engine.load(folder)
        toolchain.open(built).close()
    except ModelError:
        built = _build(bundle, listing, product, folder)
        toolchain.open(built).close()
    return built, f"built on this device at {folder}: {reason}"


def _build(bundle: Path, listing: Listing, product: Mapping[str, Any], folder: Path) -> Engine:
    recipe, model = product["recipe"], bundle / product["model"]["path"]
    beside = folder.with_name(f".{folder.name}")
    shutil.rmtree(str(folder), ignore_errors=True)
    shutil.rmtree(str(beside), ignore_errors=True)
    (beside / "engine").mkdir(parents=True)
    if product["model"]["packed"]:
        unpack_file(model, beside / "model.onnx")
        model = beside / "model.onnx"
    _compile(model, recipe, _pinned(bundle, listing, recipe), beside / "engine")
    (beside / "engine").rename(folder)
    shutil.rmtree(str(beside), ignore_errors=True)
    return Engine.load(folder)


def _compile(model: Path, recipe: Mapping[str, Any], pinned: Mapping[str, str], folder: Path) -> None:
    """Build with the tactics that came, or without them where they are another device's or version's."""
    options = EngineOptions(recipe["precision"], recipe["threads"], {**recipe["raw"], **pinned})
    try:
        load_toolchain(recipe["toolchain"]).compile(model, recipe["device"], options, folder)
    except ModelError as error:
        if not pinned or error.where != f"raw.{TIMING_CACHE}":
            raise
        _compile(model, recipe, {}, folder)


def _pinned(bundle: Path, listing: Listing, recipe: Mapping[str, Any]) -> dict[str, str]:
    """The options of TensorRT that name a timing cache, where the bundle has one."""
    path = recipe.get(TIMING_CACHE)
    if path not in listing.files:
        return {}
    return {TIMING_CACHE: str(bundle / path), f"{TIMING_CACHE}_sha256": listing.files[path].sha256}


def _slug(text: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in text)[:120]
