"""The second signature, in OpenSSF's format: made by our verb, checked by their package."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from release_builds import TARGETS, tiny_build

from pipeline.release.keys import new_key
from pipeline.release.make import Order, release_build
from pipeline.release.openssf import require_key
from targets.errors import BundleError, ToolchainMissing

verifying = pytest.importorskip("model_signing.verifying", reason="model-signing is not installed")
NAME = f"tiny-1.2.3-{TARGETS[0]}"


def new_elliptic_key(folder: Path, curve: str = "P-256") -> tuple[Path, Path]:
    """As docs/release.md says."""
    secret, public = folder / "openssf.key", folder / "openssf.pub"
    make = ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", f"ec_paramgen_curve:{curve}"]
    subprocess.run([*make, "-out", secret], check=True)
    subprocess.run(["openssl", "pkey", "-in", secret, "-pubout", "-out", public], check=True)
    return secret, public


def test_their_package_checks_the_bundle_and_finds_a_change(tmp_path):
    build = tiny_build(tmp_path)
    keys = new_key(tmp_path / "release")
    secret, public = new_elliptic_key(tmp_path)
    out = tmp_path / "out"
    order = Order(Path("build.toml"), out, everything=True, key=keys[0], openssf_key=secret)
    release_build(build, build.targets, [], order)
    signature, bundle = out / f"{NAME}.model.sig", out / NAME
    assert signature.name in (out / "SHA256SUMS").read_text()
    feed = json.loads((out / "releases.json").read_text())["releases"][0]["files"]
    assert [file["path"] for file in feed] == [NAME, signature.name]
    verifier = verifying.Config().use_elliptic_key_verifier(public_key=public)
    verifier.verify(bundle, signature)
    (bundle / "labels.txt").write_text("another\n")
    with pytest.raises(ValueError, match=r"labels\.txt"):
        verifier.verify(bundle, signature)


def test_keys_it_cannot_use_are_refused_before_anything_is_made(tmp_path):
    with pytest.raises(BundleError, match="P-256, P-384 and P-521; this is a") as refused:
        require_key(new_key(tmp_path / "release")[0])
    assert "openssl genpkey" in str(refused.value)
    secret, _ = new_elliptic_key(tmp_path, "secp256k1")
    with pytest.raises(BundleError, match="P-256"):
        require_key(secret)
    secret.chmod(0o644)
    with pytest.raises(BundleError, match="open: others"):
        require_key(secret)


def test_without_the_package_it_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "model_signing", None)
    with pytest.raises(ToolchainMissing, match="model-signing") as missing:
        require_key(tmp_path / "any.key")
    assert "edgewright[model-signing]" in str(missing.value)
