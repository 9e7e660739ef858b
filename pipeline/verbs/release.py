"""What `release` and `selftest` say and do around the library calls."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from targets.bundle.selftest import Trial, selftest
from targets.bundle.verify import unpack, verify
from targets.device.commands import home

if TYPE_CHECKING:
    from pipeline.release.make import Released


def released_document(released: Sequence[Released]) -> list[dict[str, Any]]:
    """Bundles, their forms, and in spite of what they were released."""
    return [
        {
            "bundle": each.manifest.bundle,
            "paths": [str(path) for path in each.forms],
            "accepted": [concern.model_dump() for concern in each.manifest.accepted],
            "key": each.manifest.key.fingerprint if each.manifest.key else None,
        }
        for each in released
    ]


def released_text(released: Sequence[Released]) -> str:
    """The same for people."""
    lines = []
    for each in released:
        signed = f"signed by {each.manifest.key.fingerprint[:16]}…" if each.manifest.key else "not signed"
        lines.append(f"{each.manifest.bundle}: {len(each.manifest.files)} files, {signed}")
        lines += [f"  {path}" for path in each.forms]
        lines += [f"  released although {one.kind}: {one.what}" for one in each.manifest.accepted]
    return "\n".join(lines)


def try_bundle(bundle: Path, key: Path | None, bench: bool) -> dict[str, Any]:
    """Try out a folder, or an archive that verifies, unpacked for as long as it takes.

    Raises:
        BundleError: an archive that does not verify, or came without a key.
        ToolchainMissing: the runtime is not installed here.
    """
    if bundle.is_dir() or key is None:
        if not bundle.is_dir():
            verify(bundle, key)
        return selftest(Trial(bundle, key, bench, home()))
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work) / "bundle"
        unpack(bundle, key, folder)
        return selftest(Trial(folder, key, bench, home()))
