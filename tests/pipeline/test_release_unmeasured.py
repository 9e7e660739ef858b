"""Releases of engines that were made and run nowhere: refused, told, and tried out where they first run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from release_builds import TARGETS, not_run, tiny_build

from pipeline.release.feed import json_schema
from pipeline.release.keys import new_key
from pipeline.release.make import Order, everything, release_build
from pipeline.release.manifest import Manifest
from targets.bundle.selftest import Trial, selftest, text_of
from targets.bundle.verify import verify
from targets.errors import ReleaseRefused
from targets.measure import MeasureSettings

SCHEMAS = Path(__file__).parents[2] / "docs/schema"
RUN, AWAY = TARGETS
TOLD = ("unmeasured",)
FORMS = ("folder", "tar.gz", "zip", "deb", "oci")
BRIEF = MeasureSettings(warmup_min_s=0.01, warmup_max_s=0.02, min_samples=8, min_s=0.01, resamples=10)


@pytest.fixture(scope="module", params=[True, False], ids=["engine", "model alone"])
def build(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    tiny_build(folder)
    return not_run(folder, AWAY, engine=request.param)


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    return new_key(tmp_path_factory.mktemp("keys") / "release")


@pytest.fixture(scope="module")
def out(build, keys, tmp_path_factory):
    folder = tmp_path_factory.mktemp("out")
    order = Order(Path("build.toml"), folder, everything=True, key=keys[0], forms=FORMS, accept=TOLD)
    release_build(build, everything(build, TOLD, pytest.fail), [], order)
    return folder


@pytest.fixture
def bundle(out):
    return out / f"tiny-1.2.3-{AWAY}"


def manifest_of(bundle: Path) -> Manifest:
    return Manifest.model_validate_json((bundle / "manifest.json").read_text())


def test_it_is_refused_unless_told(build, tmp_path):
    order = Order(Path("build.toml"), tmp_path / "out", target=AWAY)
    with pytest.raises(ReleaseRefused, match=f"unmeasured: .*{AWAY} was run nowhere: there is no such") as no:
        release_build(build, [build.target(AWAY)], [], order)
    assert "--accept unmeasured" in str(no.value) and "ssh://" in str(no.value)


def test_everything_leaves_it_out_and_says_so_unless_told(build):
    lines = []
    assert [target.name for target in everything(build, (), lines.append)] == [RUN]
    assert lines == [f"{AWAY} is left out, it was run nowhere: there is no such device (--accept unmeasured)"]
    assert [target.name for target in everything(build, TOLD, pytest.fail)] == [RUN, AWAY]


def test_what_is_not_known_is_absent_and_what_is_known_is_there(bundle, build):
    manifest = manifest_of(bundle)
    jsonschema.validate(
        json.loads((bundle / "manifest.json").read_text()),
        json.loads((SCHEMAS / "manifest.schema.json").read_text()),
    )
    (product,) = manifest.products
    (made,) = build.not_run(AWAY)
    assert product.accuracy is None and product.latency is None and manifest.target.fingerprint == {}
    assert product.not_run is not None and product.not_run.obstacle == "there is no such device"
    assert product.not_run.onnx_accuracy.top1 == made.estimate.top1
    assert product.golden_source is not None and product.golden_source.startswith("ONNX Runtime 1.")
    assert (product.engine is None) == (made.engine is None) == (manifest.target.toolchain_version is None)
    assert (product.recipe.toolchain, product.inputs[0].shape) == ("onnxruntime", [1, 1, 4, 4])
    assert [concern.kind for concern in manifest.accepted] == ["unmeasured"]
    assert {gate.name for gate in manifest.gates} == {"simplify model"}
    told = (bundle / "README.md").read_text()
    assert "**Released although unmeasured**" in told and "**Run nowhere yet**" in told
    assert "promised |" not in told and "None" not in told


def test_the_feed_says_so_and_its_published_schema_is_current(out):
    feed = json.loads((out / "releases.json").read_text())
    published = json.loads((SCHEMAS / "releases.schema.json").read_text())
    assert published == json.loads(json.dumps(json_schema())), "write docs/schema/releases.schema.json again"
    jsonschema.validate(feed, published)
    told = {entry["target"]: entry for entry in feed["releases"]}
    assert told[AWAY]["accepted"] == ["unmeasured"] and told[RUN]["accepted"] == []
    (away,), (run,) = (told[name]["products"] for name in (AWAY, RUN))
    assert away["median_ms"] is away["top1"] is None and 0 < away["onnx_top1"] <= 1
    assert run["median_ms"] == 1000.0 and run["onnx_top1"] is None


def test_every_form_of_it_is_whole(out, bundle, keys):
    for form in ("", ".tar.gz", ".zip"):
        assert verify(bundle.with_name(bundle.name + form), keys[1]).name == bundle.name
    assert (out / f"{bundle.name}.oci" / "index.json").is_file()
    (package,) = out.glob(f"tiny-{AWAY}_*.deb")
    said = subprocess.run(["dpkg-deb", "-I", package, "control"], capture_output=True, text=True, check=True)
    assert "run nowhere before it was packaged" in said.stdout


def test_on_the_device_it_is_compared_with_golden_outputs_and_timed_against_nothing(bundle, keys, tmp_path):
    verdict = selftest(Trial(bundle, keys[1], True, tmp_path / "cache", BRIEF))
    jsonschema.validate(verdict, json.loads((SCHEMAS / "selftest.schema.json").read_text()))
    assert verdict["passed"], text_of(verdict)
    steps = {step["step"].split(" ")[0]: step for step in verdict["steps"]}
    assert "promised_ms" not in steps["latency"] and steps["latency"]["median_ms"] > 0
    assert "measured and not compared" in steps["latency"]["detail"]
    assert steps["golden"]["tolerance"] == {"relative_l2": 1e-3}
    alone = manifest_of(bundle).products[0].engine is None
    assert ("built on this device" in steps["open"]["detail"]) == alone


def test_its_own_program_tries_it_out(bundle, tmp_path):
    command = [sys.executable, "-I", bundle / "edgewright-device.pyz", "selftest", bundle, "--no-bench"]
    environment = {"XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0 and json.loads(done.stdout)["passed"], done.stderr


def test_changes_are_told_from_and_to_a_release_that_was_measured(bundle, out):
    from pipeline.release.changes import changes_text

    away, run = manifest_of(bundle), manifest_of(out / f"tiny-1.2.3-{RUN}")
    first = changes_text(run, away)
    assert "accuracy on the device not measured → " in first
    assert "median latency not measured → 1000 ms" in first
    assert "median latency 1000 ms → not measured" in changes_text(away, run)
    assert ("engine built on the device → " in first) == (away.products[0].engine is None)
    assert "not measured" not in changes_text(away, away)
