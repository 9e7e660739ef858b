"""store verify, store gc: what the terminal says about a store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.housekeeping import Finding, Progress, damaged, unneeded
from pipeline.session import Session
from pipeline.store import Entry
from targets.errors import ConfigError


@dataclass(frozen=True)
class Findings:
    """What was found in a store.

    Args:
        root: of the store.
        found: in the order of their names.
        removed: whether they were deleted.
    """

    root: Path
    found: list[Finding]
    removed: bool

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "store": str(self.root),
            "removed": self.removed,
            "found": [
                {"folder": str(each.folder), "what": each.what, "size_bytes": each.size_bytes}
                for each in self.found
            ],
        }

    def text(self, nothing: str) -> str:
        """As lines; `nothing` where there are none."""
        if not self.found:
            return f"{self.root}: {nothing}"
        size = sum(each.size_bytes for each in self.found) / 1e6
        verb = "removed" if self.removed else "found"
        lines = [f"{each.folder.relative_to(self.root)}: {each.what}" for each in self.found]
        return "\n".join([*lines, f"{verb} {len(lines)}, {size:.1f} MB, in {self.root}"])


def verify_store(build_file: Path, remove: bool, allow_code: bool, progress: Progress) -> Findings:
    """Check every output in the store a build uses; with `remove`, delete what is damaged."""
    store = Session(build_file, allow_code).runner.store
    return _dealt_with(store.root, damaged(store, progress), remove)


def collect_garbage(build_files: Sequence[Path], remove: bool, allow_code: bool) -> Findings:
    """Find, or remove, what none of the builds use that share a store.

    Raises:
        ConfigError: the builds use different stores.
    """
    kept: list[Entry] = []
    roots = {}
    for path in build_files:
        session = Session(path, allow_code)
        session.explain()
        kept.extend(session.runner.entries.values())
        roots[session.runner.store.root.resolve()] = session.runner.store
    if len(roots) > 1:
        raise ConfigError(
            f"these builds use {len(roots)} stores: {', '.join(map(str, roots))}",
            mend="name the builds of one store, all of them",
        )
    (store,) = roots.values()
    return _dealt_with(store.root, unneeded(store, kept), remove)


def _dealt_with(root: Path, found: list[Finding], remove: bool) -> Findings:
    if remove:
        for finding in found:
            finding.remove()
    return Findings(root, found, remove)
