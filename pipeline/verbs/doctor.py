"""Which toolchains work on this machine, and what to install for the rest."""

from __future__ import annotations

import importlib.metadata
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.packages import PACKAGES
from pipeline.toolchains.install import installed
from pipeline.toolchains.pins import pinned, pinned_names
from targets.capability import load_device
from targets.errors import EdgewrightError
from targets.toolchain import TOOLCHAINS, load_toolchain


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's answer.

    Args:
        name: toolchain or package.
        kind: "toolchain" or "package".
        works: it can be used.
        version: installed version, or None.
        detail: what was found, or what it is for.
        mend: the exact next step when it does not work.
    """

    name: str
    kind: str
    works: bool
    version: str | None
    detail: str
    mend: str | None


def examine() -> list[Finding]:
    """Try every toolchain and look for every package."""
    return [_toolchain(name) for name in sorted(TOOLCHAINS)] + [
        _package(name) for name in PACKAGES if name not in TOOLCHAINS
    ]


def this_machine() -> str:
    """Name of the device file that describes this machine."""
    try:
        return load_device("this-machine").name
    except EdgewrightError as error:
        return f"none ({error.what})"


def document() -> dict[str, Any]:
    """The findings as JSON values."""
    return {"this_machine": this_machine(), "findings": [asdict(finding) for finding in examine()]}


def _toolchain(name: str) -> Finding:
    probe = load_toolchain(name).probe()
    own = installed(name, pinned(name)) if name in pinned_names() else None
    detail = f"{probe.detail}; edgewright's own in {own}" if own else probe.detail
    mend = probe.mend
    if mend and not own and name in pinned_names() and "toolchain install" not in mend:
        mend = f"edgewright toolchain install {name}, or: {mend}"
    return Finding(name, "toolchain", probe.available, probe.version, detail, mend)


def _package(name: str) -> Finding:
    package = PACKAGES[name]
    if not package.present:
        return Finding(name, "package", False, None, package.purpose, package.install)
    return Finding(name, "package", True, importlib.metadata.version(name), package.purpose, None)
