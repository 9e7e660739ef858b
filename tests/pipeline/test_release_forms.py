"""The .deb and the OCI layout of a release: read back with Debian's own tools, and by the specification."""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from release_builds import TARGETS, tiny_build

from pipeline.release.deb import package_version
from pipeline.release.keys import new_key
from pipeline.release.make import Order, release_build
from pipeline.release.manifest import Manifest
from targets.bundle.verify import verify
from targets.errors import ConfigError

REPOSITORY = Path(__file__).parents[2]
BUNDLE = f"tiny-1.2.3-{TARGETS[0]}"
PACKAGE = f"tiny-{TARGETS[0]}"


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    return tiny_build(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    return new_key(tmp_path_factory.mktemp("keys") / "release")


def make(build, keys, out):
    order = Order(Path("build.toml"), out, key=keys[0], forms=("deb", "oci", "folder"))
    release_build(build, [build.target(TARGETS[0])], [], order)
    return out


@pytest.fixture(scope="module")
def out(build, keys, tmp_path_factory):
    return make(build, keys, tmp_path_factory.mktemp("out"))


def test_packages_and_layouts_are_the_same_bytes_every_time(build, keys, out, tmp_path):
    def contents(folder):
        return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    assert contents(make(build, keys, tmp_path)) == contents(out)


needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not on this machine")


def dpkg_deb(*arguments) -> str:
    return subprocess.run(
        ["dpkg-deb", *map(str, arguments)], capture_output=True, text=True, check=True
    ).stdout


@needs_dpkg
def test_a_package_holds_the_bundle_as_it_was_signed(out, keys, tmp_path):
    package = out / f"{PACKAGE}_1.2.3_all.deb"
    assert dpkg_deb("-f", package, "Package", "Version", "Architecture", "Maintainer").splitlines() == [
        f"Package: {PACKAGE}",
        "Version: 1.2.3",
        "Architecture: all",
        "Maintainer: Ada <ada@example.com>",
    ]
    dpkg_deb("-x", package, tmp_path)
    assert verify(tmp_path / "usr/lib/edgewright" / PACKAGE, keys[1]).name == BUNDLE
    dpkg_deb("-e", package, tmp_path / "control")
    sums = ["md5sum", "--quiet", "-c", str(tmp_path / "control" / "md5sums")]
    assert subprocess.run(sums, cwd=tmp_path, check=False).returncode == 0
    for script in ("postinst", "postrm"):
        assert subprocess.run(["sh", "-n", tmp_path / "control" / script], check=False).returncode == 0


@pytest.mark.skipif(shutil.which("lintian") is None, reason="lintian is not on this machine")
def test_lintian_finds_nothing(out):
    command = ["lintian", "--allow-root", "--display-info", str(out / f"{PACKAGE}_1.2.3_all.deb")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_a_package_needs_a_maintainer(build, out):
    from pipeline.release.deb import write_deb

    manifest = Manifest.model_validate_json((out / BUNDLE / "manifest.json").read_text())
    anonymous = manifest.model_copy(update={"publisher": "Ada"})
    with pytest.raises(ConfigError, match="needs a maintainer"):
        write_deb(out / BUNDLE, out / "x.deb", anonymous, build.finished)
    assert not (out / "x.deb").exists()


@needs_dpkg
def test_what_comes_before_a_release_sorts_before_it(out):
    manifest = Manifest.model_validate_json((out / BUNDLE / "manifest.json").read_text())
    order = ["1.2.3-alpha.1", "1.2.3-rc.1", "1.2.3-rc.2", "1.2.3", "1.2.4-rc.1", "1.10.0"]
    debian = [package_version(manifest.model_copy(update={"version": version})) for version in order]
    for one, other in itertools.pairwise(debian):
        assert subprocess.run(["dpkg", "--compare-versions", one, "lt", other], check=False).returncode == 0


def test_a_layout_is_one_that_registry_clients_push(out):
    layout = out / f"{BUNDLE}.oci"
    assert json.loads((layout / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    described = json.loads((layout / "index.json").read_text())["manifests"][0]
    image = json.loads(blob(layout, described))
    assert image["artifactType"] == described["artifactType"] and image["config"]["size"] == 2
    layers = {layer["annotations"]["org.opencontainers.image.title"]: layer for layer in image["layers"]}
    assert list(layers) == [f"{BUNDLE}.tar.gz", "manifest.json", "manifest.json.sig", "manifest.json.minisig"]
    assert blob(layout, layers["manifest.json"]) == (out / BUNDLE / "manifest.json").read_bytes()
    named = {each["digest"] for each in [described, image["config"], *image["layers"]]}
    assert {f"sha256:{path.name}" for path in (layout / "blobs" / "sha256").iterdir()} == named


def test_the_archive_in_a_layout_verifies(out, keys, tmp_path):
    layout = out / f"{BUNDLE}.oci"
    image = json.loads(blob(layout, json.loads((layout / "index.json").read_text())["manifests"][0]))
    (tmp_path / "bundle.tar.gz").write_bytes(blob(layout, image["layers"][0]))
    assert verify(tmp_path / "bundle.tar.gz", keys[1]).name == BUNDLE


@pytest.mark.skipif(shutil.which("cmake") is None, reason="cmake is not on this machine")
def test_a_firmware_build_takes_a_bundle_of_the_right_key_only(out, keys, tmp_path):
    archive = tmp_path / "bundle.tar.gz"
    image = json.loads(blob(out / f"{BUNDLE}.oci", index(out / f"{BUNDLE}.oci")))
    archive.write_bytes(blob(out / f"{BUNDLE}.oci", image["layers"][0]))
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    _, stranger = new_key(tmp_path / "stranger")
    for key, words in ((keys[1], f"{BUNDLE}: engines/model-fp32"), (stranger, "the model is not signed by")):
        facts = {"MODEL_URL": archive.as_uri(), "MODEL_SHA256": digest, "MODEL_KEY": key}
        options = [f"-D{name}={value}" for name, value in facts.items()]
        command = ["cmake", "-S", REPOSITORY / "examples/firmware", "-B", tmp_path / key.stem, *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert words in done.stdout + done.stderr and (done.returncode == 0) == (key == keys[1])
        assert "Warning" not in done.stderr


def index(layout: Path):
    return json.loads((layout / "index.json").read_text())["manifests"][0]


def blob(layout: Path, descriptor) -> bytes:
    content = (layout / "blobs" / "sha256" / descriptor["digest"].removeprefix("sha256:")).read_bytes()
    assert len(content) == descriptor["size"]
    assert hashlib.sha256(content).hexdigest() == descriptor["digest"].removeprefix("sha256:")
    return content
