"""edgewright-device.pyz: what of this package a device needs, as one file that Python runs."""

from __future__ import annotations

import io
import zipfile
from functools import lru_cache
from pathlib import Path

PACKAGE = Path(__file__).parent
FILE_NAME = "edgewright-device.pyz"
# For the build machine alone: they need more than numpy, or speak to devices.
LEFT_OUT = frozenset({"capability.py", "checks.py", "zipapp.py", "remote"})
# The first moment a zip file can name; with nothing compressed, equal sources give equal bytes everywhere.
EPOCH = (1980, 1, 1, 0, 0, 0)
SHEBANG = b"#!/usr/bin/env python3\n"
MAIN = """\
import sys

if sys.version_info < (3, 8):
    sys.stderr.write("edgewright-device.pyz needs Python 3.8 or newer, not %s\\n" % sys.version.split()[0])
    sys.exit(3)

from targets.device.program import main

sys.exit(main())
"""


@lru_cache(maxsize=1)
def device_zipapp() -> bytes:
    """Return the file's content; it is the same for the same sources, on any machine."""
    content = io.BytesIO(SHEBANG)
    content.seek(0, io.SEEK_END)
    with zipfile.ZipFile(content, "a", zipfile.ZIP_STORED) as archive:
        _add(archive, "__main__.py", MAIN.encode())
        for path in sources():
            _add(archive, f"targets/{path.relative_to(PACKAGE).as_posix()}", path.read_bytes())
    return content.getvalue()


def sources() -> list[Path]:
    """Return the files of this package that travel, sorted."""
    return sorted(
        path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0] not in LEFT_OUT
    )


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(name, EPOCH)
    entry.external_attr = 0o644 << 16
    entry.create_system = 3
    archive.writestr(entry, content)
