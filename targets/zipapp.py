"""edgewright-device.pyz: what of this package a device needs, as one file that Python runs."""

from __future__ import annotations

import ast
import io
import zipfile
from functools import lru_cache
from pathlib import Path
from typing import Iterator

from targets.toolchain import TOOLCHAINS

ROOT = Path(__file__).parents[1]
FILE_NAME = "edgewright-device.pyz"
PROGRAM = "targets.device.program"
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
            _add(archive, path.relative_to(ROOT).as_posix(), path.read_bytes())
    return content.getvalue()


def sources() -> list[Path]:
    """Return what travels, sorted: the program, the toolchains, and what they import of this package."""
    found: dict[str, Path] = {}
    waiting = [PROGRAM, *(name.partition(":")[0] for name in TOOLCHAINS.values())]
    while waiting:
        name = waiting.pop()
        path = None if name in found else _file(name)
        if path is not None:
            found[name] = path
            waiting += [name.rpartition(".")[0], *_imports(path)]
    return sorted(found.values())


def _file(module: str) -> Path | None:
    path = ROOT.joinpath(*module.split("."))
    candidates = (path.with_suffix(".py"), path / "__init__.py")
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def _imports(path: Path) -> Iterator[str]:
    """What a module imports of this package when it runs; what only type checkers read does not count."""
    waiting: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            waiting += node.orelse
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("targets"))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("targets"):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
            yield str(node.module)
        waiting += ast.iter_child_nodes(node)


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(name, EPOCH)
    entry.external_attr = 0o644 << 16
    entry.create_system = 3
    archive.writestr(entry, content)
