"""Public keys as OpenSSL writes them (PEM), and which permissions a key file may have."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import stat
from pathlib import Path

from targets.errors import BundleError

# What comes before the 32 bytes of an Ed25519 key in a SubjectPublicKeyInfo (RFC 8410, section 4).
PUBLIC_PREFIX = bytes.fromhex("302a300506032b6570032100")
BEGIN, END = "-----BEGIN PUBLIC KEY-----", "-----END PUBLIC KEY-----"
LARGEST = 4096
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
OTHERS_ANYTHING = stat.S_IRWXG | stat.S_IRWXO


def read_public_key(path: Path) -> bytes:
    """Read an Ed25519 public key, 32 bytes.

    Raises:
        BundleError: unreadable, another kind of key, or a file that others can change.
    """
    content = read_key_file(path, OTHERS_WRITE, "others than its owner can change it")
    lines = content.decode("ascii", "replace").split("\n")
    body = "".join(line.strip() for line in lines if line.strip() not in (BEGIN, END))
    try:
        der = base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        der = b""
    if BEGIN not in content.decode("ascii", "replace") or not der.startswith(PUBLIC_PREFIX) or len(der) != 44:
        raise BundleError(
            "not an Ed25519 public key in PEM", where=str(path), mend="give the .pub file of `keys new`"
        )
    return der[len(PUBLIC_PREFIX) :]


def public_pem(key: bytes) -> str:
    """Return the PEM text of 32 bytes."""
    return f"{BEGIN}\n{base64.b64encode(PUBLIC_PREFIX + key).decode()}\n{END}\n"


def fingerprint(key: bytes) -> str:
    """Return what a key is known by: sha256 of its 32 bytes."""
    return hashlib.sha256(key).hexdigest()


def read_key_file(path: Path, forbidden: int, why: str) -> bytes:
    """Read a key file whose permissions are in order.

    Args:
        path: the file.
        forbidden: permission bits it must not have.
        why: what they would allow.

    Raises:
        BundleError: they are not, or it cannot be read.
    """
    try:
        with path.open("rb") as stream:
            mode = stat.S_IMODE(os.fstat(stream.fileno()).st_mode)
            content = stream.read(LARGEST)
    except OSError as error:
        raise BundleError(f"the key cannot be read: {error.strerror}", where=str(path)) from error
    if mode & forbidden:
        allowed = f"{mode & ~forbidden & 0o777:o}"
        raise BundleError(
            f"the key file is open: {why} (mode {mode:o})", where=str(path), mend=f"chmod {allowed} {path}"
        )
    return content
