"""Bundles on other systems: a clean Debian, an arm64 one by qemu, Python 3.8, and as an installed package."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import device_trees
import pytest
from release_builds import TARGETS, tiny_build

from pipeline.release.keys import new_key
from pipeline.release.make import Order, release_build

PACKAGE = f"tiny-{TARGETS[0]}"
TREES = os.environ.get("EDGEWRIGHT_TREES")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not TREES, reason="make test-devices runs these; they want root and a network"),
]


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    return new_key(tmp_path_factory.mktemp("keys") / "release")


@pytest.fixture(scope="module")
def clean(keys):
    tree = device_trees.tree_of(device_trees.CLEAN, Path(str(TREES)))
    folder = tree.folder / "etc/edgewright"
    folder.mkdir(exist_ok=True)
    shutil.copyfile(keys[1], folder / "release.pub")
    tree.run("dpkg", "--purge", PACKAGE)
    yield tree
    tree.run("dpkg", "--purge", PACKAGE)
    shutil.rmtree(folder)


def released(folder: Path, keys, version: str, **kind: str) -> Path:
    build = tiny_build(folder / version, version=version, **kind)
    order = Order(Path("build.toml"), folder / version / "bundles", key=keys[0], forms=("folder", "deb"))
    release_build(build, [build.target(TARGETS[0])], [], order)
    return order.out


def tried(tree: device_trees.Tree, bundle: Path, public: Path, runtime: str) -> dict:
    """The verdict of a bundle's self-test in a tree; no timing, which says nothing there."""
    place = tree.folder / "bundle"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(bundle, place)
    shutil.copyfile(public, tree.folder / "release.pub")
    command = ["/bundle/edgewright-device.pyz", "selftest", "/bundle", "--no-bench", "--key", "/release.pub"]
    done = tree.python(*command, runtime=runtime)
    assert done.returncode == 0, done.stdout + done.stderr
    verdict: dict = json.loads(done.stdout)
    assert verdict["passed"] and verdict["signature"] == "verified"
    return verdict


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_arm64_gives_the_outputs_of_x86(tmp_path, keys, runtime):
    kind = {"device": "arm-neon", "toolchain": runtime}
    bundle = released(tmp_path, keys, "1.0.0", **kind) / f"tiny-1.0.0-{TARGETS[0]}"
    verdict = tried(device_trees.tree_of(device_trees.ARM64, Path(str(TREES))), bundle, keys[1], runtime)
    assert verdict["device"]["architecture"] == "aarch64"
    assert [step["detail"] for step in verdict["steps"] if step["step"] == "open model fp32"] == [
        "the engine in the bundle"
    ]
    figures = next(step["figures"] for step in verdict["steps"] if step["step"].startswith("golden"))
    assert figures["relative_l2"] < 1e-5


@pytest.mark.parametrize(
    ("runtime", "device"), [("onnxruntime", "any-onnxruntime"), ("openvino", "this-machine")]
)
def test_a_clean_system_needs_python_numpy_and_the_runtime_alone(tmp_path, keys, clean, runtime, device):
    kind = {"device": device, "toolchain": runtime}
    bundle = released(tmp_path, keys, "1.0.0", **kind) / f"tiny-1.0.0-{TARGETS[0]}"
    assert tried(clean, bundle, keys[1], runtime)["device"]["architecture"] == "x86_64"


def test_python_3_8_and_its_last_runtime_build_the_engine_anew(tmp_path, keys):
    bundle = released(tmp_path, keys, "1.0.0") / f"tiny-1.0.0-{TARGETS[0]}"
    tree = device_trees.tree_of(device_trees.OLDEST, Path(str(TREES)))
    assert tree.python("--version").stdout.startswith("Python 3.8.")
    verdict = tried(tree, bundle, keys[1], "onnxruntime")
    opened = next(step["detail"] for step in verdict["steps"] if step["step"] == "open model fp32")
    assert "built on this device" in opened and "1.19.2" in opened


def dpkg(tree: device_trees.Tree, package: Path, **environment: str):
    shutil.copyfile(package, tree.folder / "package.deb")
    return tree.run("dpkg", "-i", "/package.deb", **environment)


def test_a_package_installs_upgrades_and_goes_without_a_trace(tmp_path, keys, clean):
    before = listing(clean.folder)
    for version in ("1.0.0-rc.1", "1.0.0", "1.1.0"):
        out = released(tmp_path, keys, version)
        done = dpkg(clean, next(out.glob("*.deb")))
        assert done.returncode == 0 and '"signature": "verified"' in done.stderr, done.stderr
        shown = clean.run("dpkg-query", "-W", "-f", "${Status} ${Version}", PACKAGE).stdout
        assert shown == f"install ok installed {version.replace('-', '~')}"
    assert clean.run("dpkg", "--verify", PACKAGE).stdout == ""
    assert clean.run("dpkg", "--purge", PACKAGE).returncode == 0
    (clean.folder / "package.deb").unlink()
    assert listing(clean.folder) == before


def test_a_package_says_what_is_wrong_when_it_is_installed(tmp_path, keys, clean):
    out = released(tmp_path, keys, "2.0.0")
    done = dpkg(clean, next(out.glob("*.deb")), PYTHONPATH="/nowhere")
    assert done.returncode == 0 and "nothing was tried out" in done.stderr, done.stderr
    stranger = new_key(tmp_path / "stranger")
    done = dpkg(clean, next(released(tmp_path, stranger, "2.0.1").glob("*.deb")))
    assert done.returncode != 0 and "wrong key" in done.stderr and "self-test failed" in done.stderr


def listing(folder: Path) -> set[str]:
    """Files and folders of what a package can leave behind; dpkg's own notes change."""
    places = ("usr/lib/edgewright", "usr/share", "lib/systemd", "var/cache", "etc", "var/lib/edgewright")
    return {str(path) for place in places for path in (folder / place).rglob("*")}
