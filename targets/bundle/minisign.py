"""Signatures of minisign's kind: Ed25519 over BLAKE2b-512 of a file, and over that signature with a comment.

Format: https://jedisct1.github.io/minisign, "Signature format" and "Public key format". The key is the one
that OpenSSL knows; its number, which minisign draws, is made from it here.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Callable

from targets.bundle import ed25519

PREHASHED, KEY = b"ED", b"Ed"
NUMBER_BYTES = 8
LARGEST = 1024


def minisign_key(key: bytes) -> str:
    """Return a public key, 32 bytes, as `minisign -P` takes it."""
    return _base64(KEY + _number(key) + key)


def minisignature(content: bytes, key: bytes, comment: str, sign: Callable[[bytes], bytes]) -> str:
    """Sign a file.

    Args:
        content: of the file.
        key: public, 32 bytes.
        comment: one line, which is signed too.
        sign: message → Ed25519 signature of that key.

    Returns:
        text of the .minisig file; equal files, keys and comments give equal texts.
    """
    signature = sign(_digest(content))
    return _text(key, comment, signature, sign(signature + comment.encode()))


def is_minisignature(text: bytes, content: bytes, key: bytes, comment: str) -> bool:
    """Say whether a .minisig file is, to the byte, what `minisignature` made of these."""
    try:
        _, first, _, second, _ = text.split(b"\n")
        signature = base64.b64decode(first)[len(PREHASHED) + NUMBER_BYTES :]
        both = base64.b64decode(second)
    except ValueError:
        return False
    as_made = _text(key, comment, signature, both).encode() == text
    return (
        as_made
        and ed25519.verify(key, _digest(content), signature)
        and ed25519.verify(key, signature + comment.encode(), both)
    )


def _text(key: bytes, comment: str, signature: bytes, both: bytes) -> str:
    lines = (
        "untrusted comment: signature of minisign's kind",
        _base64(PREHASHED + _number(key) + signature),
        f"trusted comment: {comment}",
        _base64(both),
    )
    return "".join(f"{line}\n" for line in lines)


def _number(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()[:NUMBER_BYTES]


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content).digest()


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
