"""What the text of a module says: a digest of its code, and the names it imports.

Parsing all of edgewright takes more than a second, so what was found is kept in the user's cache, by the
sha256 of the text: it can be lost, but never be out of date.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

# ast.dump differs between versions of Python.
NAME = f"sources-{sys.version_info.major}.{sys.version_info.minor}.json"
# Versions of modules that are kept; beyond them all are looked at again.
MOST = 4096


class Facts(NamedTuple):
    """What a module's text says.

    Args:
        digest: of its code; comments, docstrings and formatting do not count.
        names: of what it imports absolutely, modules and what is taken from them alike.
    """

    digest: str
    names: list[str]


class Sources:
    """Facts by the sha256 of the text, kept in a file from one process to the next.

    Args:
        path: of that file; one that is unreadable, or cannot be written, only costs time.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._new = False
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            self._known = {str(key): Facts(str(digest), list(names)) for key, (digest, names) in kept.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            self._known = {}

    def facts(self, text: bytes) -> Facts:
        """What a text says."""
        key = hashlib.sha256(text).hexdigest()
        if key not in self._known:
            self._known[key] = examine(text)
            self._new = True
        return self._known[key]

    def save(self) -> None:
        """Write what is new."""
        if not self._new:
            return
        self._new = False
        kept = self._known if len(self._known) <= MOST else {}
        beside = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            beside.write_text(json.dumps(kept), encoding="utf-8")
            beside.replace(self._path)


@cache
def sources() -> Sources:
    """Those of this user (XDG Base Directory Specification)."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Sources(folder / "edgewright" / NAME)


def examine(text: bytes) -> Facts:
    """Parse a module's text."""
    tree = ast.parse(text)
    names: set[str] = set()
    for node in ast.walk(tree):
        names.update(_named_by(node))
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and _is_docstring(body[0]):
            body[0] = ast.Pass()
    return Facts(hashlib.sha256(ast.dump(tree).encode()).hexdigest(), sorted(names))


def _is_docstring(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _named_by(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
        yield node.module
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
