"""runner/ of a bundle: C++ that runs an engine and compares its outputs, with facts for CMake."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.release.manifest import Manifest

# Where a build's gates have no limit for it.
DEFAULT_RELATIVE_L2 = 0.1
SOURCES = Path(__file__).parent / "runner_source"


def runner_files(manifest: Manifest, folder: Path) -> dict[str, str]:
    """Return path in the bundle → text: the source as it is, and bundle.cmake with this bundle's facts.

    Args:
        manifest: of the bundle.
        folder: the bundle, with its golden outputs.
    """
    found = {
        f"runner/{path.name}": path.read_text(encoding="utf-8")
        for path in sorted(SOURCES.iterdir())
        if path.suffix in (".txt", ".cpp", ".hpp")
    }
    return found | {"runner/bundle.cmake": bundle_cmake(manifest, folder)}


def bundle_cmake(manifest: Manifest, folder: Path) -> str:
    """Return variables for CMake: folders of the first product, relative to the bundle's."""
    product = manifest.products[0]
    golden = json.loads((folder / product.golden / "golden.json").read_text(encoding="utf-8"))
    lines = {
        "EDGEWRIGHT_BUNDLE": manifest.bundle,
        "EDGEWRIGHT_VERSION": manifest.version,
        "EDGEWRIGHT_TOOLCHAIN": manifest.target.toolchain,
        "EDGEWRIGHT_THREADS": str(manifest.target.threads),
        "EDGEWRIGHT_PRECISION": product.recipe.precision,
        "EDGEWRIGHT_ENGINE": product.engine.path if product.engine else "",
        "EDGEWRIGHT_MODEL": product.model.path,
        "EDGEWRIGHT_GOLDEN": product.golden,
        "EDGEWRIGHT_RELATIVE_L2": str(golden["tolerance"].get("relative_l2", DEFAULT_RELATIVE_L2)),
    }
    return "".join(f'set({name} "{value}")\n' for name, value in lines.items())
