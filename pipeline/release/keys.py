"""Ed25519 keys of those who release: made, read with care, used."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.release.manifest import SigningKey
from targets.bundle.keys import OTHERS_ANYTHING, fingerprint, public_pem, read_key_file
from targets.bundle.minisign import minisign_key, minisignature
from targets.errors import BundleError, ConfigError, ToolchainMissing

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SECRET, PUBLIC = ".key", ".pub"


def new_key(name: Path) -> tuple[Path, Path]:
    """Make a key: NAME.key, which its owner alone can read, and NAME.pub, for everybody.

    NAME may be that of either file.

    Raises:
        ConfigError: one of them is there already; keys are never overwritten.
        ToolchainMissing: `cryptography` is not installed.
    """
    from cryptography.hazmat.primitives import serialization

    key = _ed25519().generate()
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    if name.suffix in (SECRET, PUBLIC):
        name = name.with_suffix("")
    files = name.with_name(name.name + SECRET), name.with_name(name.name + PUBLIC)
    for path in files:
        if path.exists():
            raise ConfigError("there is a key already", where=str(path), mend="choose another name")
    name.parent.mkdir(parents=True, exist_ok=True)
    _create(files[0], secret, 0o600)
    _create(files[1], public_pem(public_bytes(key)).encode(), 0o644)
    return files


def read_secret_key(path: Path) -> Ed25519PrivateKey:
    """Read a key to sign with.

    Raises:
        BundleError: unreadable, no Ed25519 key, or a file that others may read.
        ToolchainMissing: `cryptography` is not installed.
    """
    kind = _ed25519()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    content = read_key_file(path, OTHERS_ANYTHING, "others than its owner can read or change it")
    try:
        key = load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise BundleError(
            f"not a secret key in PEM: {error}", where=str(path), mend="give the .key file of `keys new`"
        ) from error
    if not isinstance(key, kind):
        raise BundleError(
            f"a key of another kind: {type(key).__name__}",
            where=str(path),
            mend="make one: edgewright keys new",
        )
    return key


def public_bytes(key: Ed25519PrivateKey) -> bytes:
    """Return the 32 bytes of the public half."""
    return key.public_key().public_bytes_raw()


def signing_key(key: Ed25519PrivateKey) -> SigningKey:
    """Return what manifests say of the public half."""
    return known_by(public_bytes(key))


def known_by(public: bytes) -> SigningKey:
    """Return what a public key, 32 bytes, is known by."""
    return SigningKey(fingerprint=fingerprint(public), minisign=minisign_key(public))


def sign_file(path: Path, key: Ed25519PrivateKey, comment: str) -> list[Path]:
    """Write FILE.sig, good for OpenSSL, and FILE.minisig, which also vouches for a comment, beside a file."""
    content = path.read_bytes()
    plain, mini = signature_files(path)
    plain.write_bytes(key.sign(content))
    text = minisignature(content, public_bytes(key), comment, key.sign)
    mini.write_text(text, encoding="ascii", newline="\n")
    return [plain, mini]


def signature_files(path: Path) -> tuple[Path, Path]:
    """Where a file's signatures lie: OpenSSL's and minisign's."""
    return path.with_name(f"{path.name}.sig"), path.with_name(f"{path.name}.minisig")


def _ed25519() -> type[Ed25519PrivateKey]:
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    except ImportError as error:
        raise ToolchainMissing(
            "keys and signatures need the package cryptography", mend="pip install 'edgewright[release]'"
        ) from error
    return Ed25519PrivateKey


def _create(path: Path, content: bytes, mode: int) -> None:
    """Write a file that never was more open than it is to be."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as stream:
        os.fchmod(stream.fileno(), mode)
        stream.write(content)
