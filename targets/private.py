"""Where toolchains lie that are no package of this Python: one folder of edgewright's own for each."""

from __future__ import annotations

import os
import sys
from pathlib import Path

VARIABLE = "EDGEWRIGHT_TOOLCHAINS"


def private_folder(name: str) -> Path:
    """Return where a toolchain's files are put and looked for.

    `EDGEWRIGHT_TOOLCHAINS` names the folder of all of them; without it, it lies where the system keeps a
    user's data (XDG Base Directory Specification).
    """
    data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return Path(os.environ.get(VARIABLE) or data / "edgewright" / "toolchains") / name


def packages_folder(name: str) -> Path:
    """Return where a toolchain's Python packages lie, for this version of Python alone."""
    return private_folder(name) / f"packages-{sys.implementation.cache_tag}"


def use_packages(name: str) -> None:
    """Let this process import a toolchain's own packages; those of the environment come before them."""
    folder = str(packages_folder(name))
    if folder not in sys.path and packages_folder(name).is_dir():
        sys.path.append(folder)
