"""manifest.json as far as trust goes: which files a bundle has, and who signed that."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any, Iterable, NamedTuple

from targets.bundle import ed25519
from targets.bundle.keys import fingerprint
from targets.bundle.minisign import is_minisignature
from targets.errors import BundleError

MANIFEST = "manifest.json"
SIGNATURE = "manifest.json.sig"
MINISIGNATURE = "manifest.json.minisig"
MANIFEST_SCHEMA = "edgewright.manifest/1"
LARGEST_MANIFEST = 16 << 20
# Narrow on purpose: nothing here means something to a shell, to Windows or to a Unicode table.
PART = re.compile(r"[A-Za-z0-9_+@=,~][A-Za-z0-9._+@=,~-]*|\.[A-Za-z0-9_+@=,~-][A-Za-z0-9._+@=,~-]*")
SHA256 = re.compile(r"[0-9a-f]{64}")
LONGEST_PATH = 200


class FileEntry(NamedTuple):
    """What the manifest says of one file."""

    size_bytes: int
    sha256: str
    executable: bool


@dataclass(frozen=True)
class Listing:
    """A manifest whose list of files can be relied on as far as `signed` says.

    Args:
        name: of the bundle, and of its folder in archives.
        files: path → what it must be; the manifest and its signature are not among them.
        document: the whole manifest.
        signed: its signature was checked against a key the caller gave.
    """

    name: str
    files: dict[str, FileEntry]
    document: dict[str, Any]
    signed: bool

    @property
    def heads(self) -> tuple[str, ...]:
        """The files that are not among `files`, in the order archives have them."""
        key = self.document.get("key")
        second = isinstance(key, dict) and key.get("minisign") is not None
        return (MANIFEST, SIGNATURE, MINISIGNATURE) if second else (MANIFEST, SIGNATURE)


def check_minisignature(listing: Listing, content: bytes, text: bytes | None, key: bytes | None) -> None:
    """Check the second signature, where the manifest says that there is one.

    Args:
        listing: read from the manifest.
        content: of manifest.json.
        text: of manifest.json.minisig; None where there is none.
        key: public key of whoever is trusted; None checks nothing.

    Raises:
        BundleError: it is missing, or not of this manifest and key.
    """
    if key is None or MINISIGNATURE not in listing.heads:
        return
    if text is None or not is_minisignature(text, content, key, listing.name):
        what = f"{MINISIGNATURE} is missing" if text is None else f"{MINISIGNATURE} was changed"
        raise BundleError(what, where=MINISIGNATURE, mend="get the bundle again from who made it")


def read_listing(content: bytes, signature: bytes | None, key: bytes | None) -> Listing:
    """Read a manifest after checking its signature.

    Args:
        content: of manifest.json.
        signature: of manifest.json.sig; None where there is none.
        key: public key of whoever is trusted; None reads what nobody vouches for.

    Raises:
        BundleError: no signature, another key's, a manifest that changed, or is none.
    """
    if key is not None:
        _check_signature(content, signature, key)
    try:
        document = json.loads(content.decode("utf-8"))
        if document["schema"] != MANIFEST_SCHEMA:
            raise ValueError(f"its schema is {document['schema']!r}, not {MANIFEST_SCHEMA!r}")
        if not all(isinstance(entry["path"], str) for entry in document["files"]):
            raise ValueError("a path is no text")
        name = _checked_name(document["bundle"])
        files = {entry["path"]: _entry(entry) for entry in document["files"]}
        faults = _path_faults([entry["path"] for entry in document["files"]])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BundleError(f"not a manifest: {error}", where=MANIFEST, mend="get the bundle again") from error
    if faults:
        raise BundleError(f"the manifest names {faults[0]}", where=MANIFEST, mend="do not use this bundle")
    return Listing(name, files, document, key is not None)


def _check_signature(content: bytes, signature: bytes | None, key: bytes) -> None:
    if signature is None:
        raise BundleError("the bundle is not signed", where=SIGNATURE, mend="ask for a signed one")
    if ed25519.verify(key, content, signature):
        return
    signer = _claimed_signer(content)
    if signer and signer != fingerprint(key):
        what = f"it says it was signed by the key {signer[:16]}…, the key given is {fingerprint(key)[:16]}…"
        raise BundleError(f"wrong key: {what}", where=SIGNATURE, mend="give the key of who made the bundle")
    raise BundleError(
        "the manifest or its signature was changed since it was signed",
        where=MANIFEST,
        mend="get the bundle again from who made it",
    )


def _claimed_signer(content: bytes) -> str:
    try:
        return str(json.loads(content.decode("utf-8"))["key"]["fingerprint"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""


def _checked_name(name: Any) -> str:
    if not isinstance(name, str) or not PART.fullmatch(name) or len(name) > 100:
        raise ValueError(f"{name!r} is no name for a bundle")
    return name


def _entry(entry: dict[str, Any]) -> FileEntry:
    size, digest, executable = entry["size_bytes"], entry["sha256"], entry["executable"]
    if type(size) is not int or size < 0 or type(executable) is not bool or not SHA256.fullmatch(digest):
        raise ValueError(f"it says nothing sensible of {entry['path']!r}")
    return FileEntry(size, digest, executable)


def _path_faults(paths: list[str]) -> list[str]:
    """What is wrong with the paths: outside the folder, strange letters, twice, a file that is a folder."""
    faults = [f"the path {path!r}, which is not allowed" for path in paths if not is_safe(path)]
    # Some file systems do not tell capitals from small letters.
    counts = Counter(path.lower() for path in paths)
    faults += [f"{path!r} twice" for path, count in counts.items() if count > 1]
    faults += [f"{path!r} as a file and as a folder" for path in sorted(counts.keys() & parents(counts))]
    return faults + [
        f"{path!r}, which is no content"
        for path in sorted({MANIFEST, SIGNATURE, MINISIGNATURE} & counts.keys())
    ]


def is_safe(path: Any) -> bool:
    """Say whether a path stays below its folder and means the same everywhere."""
    if not isinstance(path, str) or not path or len(path) > LONGEST_PATH:
        return False
    return all(PART.fullmatch(part) for part in path.split("/"))


def parents(paths: Iterable[str]) -> set[str]:
    """All folders that files of these paths lie in."""
    found: set[str] = set()
    for path in paths:
        parts = path.split("/")[:-1]
        found.update("/".join(parts[: count + 1]) for count in range(len(parts)))
    return found
