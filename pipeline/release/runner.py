"""runner/ of a bundle: C++ that runs an engine and compares its outputs, with facts for CMake."""

from __future__ import annotations

from pathlib import Path

from pipeline.release.manifest import Manifest

SOURCES = Path(__file__).parent / "runner_source"


def runner_files(manifest: Manifest) -> dict[str, str]:
    """Return path in the bundle → text: the source as it is, and bundle.cmake with this bundle's facts."""
    found = {
        f"runner/{path.name}": path.read_text(encoding="utf-8")
        for path in sorted(SOURCES.iterdir())
        if path.suffix in (".txt", ".cpp", ".hpp")
    }
    return found | {"runner/bundle.cmake": bundle_cmake(manifest)}


def bundle_cmake(manifest: Manifest) -> str:
    """Return variables for CMake: folders of the first product, relative to the bundle's."""
    product = manifest.products[0]
    lines = {
        "EDGEWRIGHT_BUNDLE": manifest.bundle,
        "EDGEWRIGHT_VERSION": manifest.version,
        "EDGEWRIGHT_TOOLCHAIN": manifest.target.toolchain,
        "EDGEWRIGHT_THREADS": str(manifest.target.threads),
        "EDGEWRIGHT_PRECISION": product.recipe.precision,
        "EDGEWRIGHT_ENGINE": product.engine.path if product.engine else "",
        "EDGEWRIGHT_MODEL": product.model.path,
        "EDGEWRIGHT_GOLDEN": product.golden,
    }
    return "".join(f'set({name} "{value}")\n' for name, value in lines.items())
