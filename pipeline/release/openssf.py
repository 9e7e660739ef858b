"""A second signature beside a bundle, in OpenSSF's format for models, for those whose tools check that one.

It lies beside the bundle and not in it: made with ECDSA, it has other bytes every time. It covers every file
of the bundle's folder, the manifest and its Ed25519 signature among them.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from targets.bundle.keys import OTHERS_ANYTHING, read_key_file
from targets.errors import BundleError, ToolchainMissing

CURVES = ("secp256r1", "secp384r1", "secp521r1")
HOW = "make one: openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out NAME.key"


def signature_name(bundle: str) -> str:
    """File name of the signature."""
    return f"{bundle}.model.sig"


def require_key(path: Path) -> None:
    """Go on only with a key that model-signing takes, and where it is installed.

    Raises:
        BundleError: unreadable, a file that others may read, no elliptic-curve key, or an encrypted one.
        ToolchainMissing: model-signing is not installed.
    """
    try:
        import model_signing as _  # noqa: F401
    except ImportError as error:
        raise ToolchainMissing(
            f"signatures of OpenSSF need the package model-signing: {error}",
            mend="pip install 'edgewright[model-signing]'",
        ) from error
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    content = read_key_file(path, OTHERS_ANYTHING, "others than its owner can read or change it")
    try:
        key = load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise BundleError(f"not a secret key in PEM: {error}", where=str(path), mend=HOW) from error
    if not isinstance(key, EllipticCurvePrivateKey) or key.curve.name not in CURVES:
        raise BundleError(
            f"model-signing takes keys on P-256, P-384 and P-521; this is a {type(key).__name__}",
            where=str(path),
            mend=HOW,
        )


def sign_folder(folder: Path, key: Path, out: Path) -> None:
    """Sign a bundle's folder.

    Args:
        folder: the bundle, all of it.
        key: file that `require_key` took.
        out: the signature, a Sigstore bundle in JSON.
    """
    signing: Any = importlib.import_module("model_signing.signing")
    signing.Config().use_elliptic_key_signer(private_key=key).sign(folder, out)
