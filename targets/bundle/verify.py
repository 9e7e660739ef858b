"""Verify a bundle in whatever form it comes; unpack one that is good."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from targets.bundle.archive import is_archive, verify_archive
from targets.bundle.folder import verify_folder
from targets.bundle.keys import read_public_key
from targets.bundle.listing import Listing
from targets.errors import BundleError


def verify(bundle: Path, key: Path | None) -> Listing:
    """Check a bundle against its signed manifest.

    Args:
        bundle: folder, .tar.gz or .zip.
        key: file of the public key; None checks digests alone, and folders alone.

    Raises:
        BundleError: the bundle or the key is not in order; says which file and why.
    """
    public = None if key is None else read_public_key(key)
    if bundle.is_dir():
        return verify_folder(bundle, public)
    return verify_archive(_archive(bundle), _needed(public))


def unpack(bundle: Path, key: Path, out: Path) -> Listing:
    """Unpack an archive that verifies; the folder is there whole or not at all.

    Args:
        bundle: .tar.gz or .zip.
        key: file of the public key.
        out: folder to make.

    Raises:
        BundleError: as `verify`; or there is something at `out` already.
    """
    if out.exists():
        raise BundleError("there is something already", where=str(out), mend="name another folder")
    beside = out.with_name(f".{out.name}.{os.getpid()}")
    beside.mkdir(parents=True)
    try:
        listing = verify_archive(_archive(bundle), read_public_key(key), beside)
        beside.rename(out)
    finally:
        shutil.rmtree(str(beside), ignore_errors=True)
    return listing


def _archive(bundle: Path) -> Path:
    try:
        known = bundle.is_file() and is_archive(bundle)
    except OSError as error:
        raise BundleError(f"it cannot be read: {error.strerror}", where=str(bundle)) from error
    if not known:
        what = "is no folder, .tar.gz or .zip" if bundle.exists() else "does not exist"
        raise BundleError(f"the bundle {what}", where=str(bundle), mend="give a bundle of `release`")
    return bundle


def _needed(public: bytes | None) -> bytes:
    if public is None:
        raise BundleError(
            "archives are opened with a key only", mend="give --key, the .pub file of its maker"
        )
    return public
