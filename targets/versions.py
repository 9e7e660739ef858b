"""Which runtime is installed, and what fits it: package metadata alone, nothing heavy is imported."""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING

from targets.errors import ModelError, ToolchainMissing

if TYPE_CHECKING:
    from targets.toolchain import Engine


def installed_version(*packages: str) -> str | None:
    """Return the version of the first of these packages that is installed, None when none is."""
    for package in packages:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return None


def require_version(toolchain: str, package: str, version: str | None) -> str:
    """Return the version, when there is one.

    Raises:
        ToolchainMissing: the runtime is not installed.
    """
    if version is None:
        raise ToolchainMissing(
            f"the toolchain {toolchain} is not installed", mend=f"install it: pip install {package}"
        )
    return version


def release(version: str) -> tuple[str, ...]:
    """Return major and minor number, within which a runtime's engines stay valid: "1.31.1" → ("1", "31")."""
    return tuple(version.split(".")[:2])


def require_own_engine(engine: Engine, toolchain: str, version: str) -> None:
    """Check that an engine was made by this toolchain, in the same major.minor version.

    Raises:
        ModelError: it was not.
    """
    if engine.toolchain != toolchain:
        raise ModelError(
            f"this is an engine of {engine.toolchain}, not of {toolchain}",
            where=str(engine.folder),
            mend=f"open it with {engine.toolchain}",
        )
    if release(engine.toolchain_version) != release(version):
        raise ModelError(
            f"this engine was made by {toolchain} {engine.toolchain_version}, {version} is installed",
            where=str(engine.folder),
            mend=f"compile the model again, or install {toolchain} {engine.toolchain_version}",
        )
