"""Releases: what is in a bundle, the same bytes every time, when it is refused, that it tries itself out."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from click.testing import CliRunner
from release_builds import TARGETS, change_record, publish_again, tiny_build

from pipeline.cli import main
from pipeline.release.index import write_index
from pipeline.release.keys import new_key
from pipeline.release.make import Order, Released, release_build
from pipeline.release.manifest import Manifest, json_schema
from pipeline.release.source import Build
from pipeline.release.verdict import json_schema as verdict_schema
from pipeline.run import Decision
from targets.bundle.selftest import Trial, selftest
from targets.bundle.verify import unpack, verify
from targets.errors import CapabilityError, ConfigError, ModelError, ReleaseRefused
from targets.measure import MeasureSettings
from targets.onnxruntime import OnnxRuntime
from targets.toolchain import EngineOptions

REPOSITORY = Path(__file__).parents[2]
NAME = f"tiny-1.2.3-{TARGETS[0]}"
BRIEF = MeasureSettings(warmup_min_s=0.01, warmup_max_s=0.02, min_samples=8, min_s=0.01, resamples=10)


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    return new_key(tmp_path_factory.mktemp("keys") / "release")


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    return tiny_build(folder).folder


@pytest.fixture
def build(original, tmp_path) -> Build:
    shutil.copytree(original, tmp_path / "build")
    return publish_again(tmp_path / "build")


def released(build: Build, out: Path, keys=None, decisions=(), **rest) -> list[Released]:
    order = Order(Path("build.toml"), out, key=keys and keys[0], **{"everything": True} | rest)
    chosen = build.targets if order.everything else [build.target(order.target)]
    return release_build(build, chosen, list(decisions), order)


@pytest.fixture(scope="module")
def bundle(original, keys, tmp_path_factory):
    out = tmp_path_factory.mktemp("releases")
    released(publish_again(original), out, keys, forms=("folder", "tar.gz", "zip"))
    return out / NAME


def test_two_releases_are_the_same_bytes_in_every_form(build, bundle, keys, tmp_path):
    released(build, tmp_path / "again", keys, forms=("folder", "tar.gz", "zip"))
    first, again = (contents(folder) for folder in (bundle.parent, tmp_path / "again"))
    assert first == again
    assert {f"{NAME}.zip", f"{NAME}.tar.gz", "SHA256SUMS", "releases.json"} <= set(first)


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        path.relative_to(folder).as_posix(): (path.read_bytes(), path.stat().st_mode)
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_bundle_says_what_the_other_team_has_to_know(bundle):
    manifest = Manifest.model_validate_json((bundle / "manifest.json").read_text())
    product = manifest.products[0]
    assert (manifest.version, manifest.labels) == ("1.2.3", ["Sandal", "Sneaker", "Ankle boot", "other"])
    assert manifest.target.runtime.startswith(">=") and manifest.target.device == "any-onnxruntime"
    assert manifest.pixels.layout == "NCHW" and manifest.pixels.colour_order == "grey"
    assert product.inputs[0].model_dump() == {"name": "x", "dtype": "float32", "shape": [1, 1, 4, 4]}
    assert product.model.operators == {"Flatten": 1, "MatMul": 1}
    assert product.latency.promised_ms == pytest.approx(1.25 * 1010)
    assert product.accuracy.top1_interval[0] < product.accuracy.top1 < product.accuracy.top1_interval[1]
    assert {gate.name for gate in manifest.gates} == {"simplify model", f"compile {TARGETS[0]} model fp32"}
    assert manifest.model_licence == "Apache-2.0" and manifest.accepted == []


def test_manifests_fit_the_published_schema_and_it_is_current(bundle):
    published = published_schema("manifest")
    assert published == json.loads(json.dumps(json_schema())), "write docs/schema/manifest.schema.json again"
    jsonschema.validate(json.loads((bundle / "manifest.json").read_text()), published)


def test_the_published_schema_of_verdicts_is_current():
    assert published_schema("selftest") == json.loads(json.dumps(verdict_schema())), "write it again"


@pytest.mark.parametrize("name", ["manifest-1", "selftest-1"])
def test_what_the_first_releases_wrote_still_fits(name):
    written = json.loads((REPOSITORY / f"tests/pipeline/records/{name}.json").read_text())
    jsonschema.validate(written, published_schema(name.removesuffix("-1")))
    if name == "manifest-1":
        Manifest.model_validate(written)


def published_schema(name: str):
    return json.loads((REPOSITORY / f"docs/schema/{name}.schema.json").read_text())


def test_golden_outputs_are_what_the_engine_gives(bundle):
    golden = bundle / "golden" / "model-fp32"
    said = json.loads((golden / "golden.json").read_text())
    stored = np.load(golden / said["images"])
    given = np.load(golden / said["inputs"][0]["file"])
    np.testing.assert_allclose(given[:, 0], (stored[..., 0] / 255 - 0.5) / 0.25, rtol=1e-5, atol=1e-6)
    assert 2 <= said["samples"] == len(stored) <= 16


def test_the_signature_is_good_for_openssl_alone(bundle, keys):
    block = (bundle / "README.md").read_text().split("```sh\n")[1].split("```")[0]
    assert block.startswith("openssl pkeyutl -verify")
    commands = f"set -e\n{block}".replace("release.pub", str(keys[1]))
    done = subprocess.run(["sh", "-c", commands], cwd=bundle, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "labels.txt: OK" in done.stdout, done.stdout + done.stderr


def test_every_form_verifies_and_unpacks_to_the_folder(bundle, keys, tmp_path):
    for form in (".tar.gz", ".zip"):
        archive = bundle.with_name(bundle.name + form)
        assert verify(archive, keys[1]).name == NAME
        unpack(archive, keys[1], tmp_path / form)
        assert contents(tmp_path / form) == contents(bundle)


def test_a_bundle_tries_itself_out_with_nothing_but_its_own_program(bundle, keys, tmp_path):
    copy = shutil.copytree(bundle, tmp_path / "moved")
    command = [sys.executable, "-I", "edgewright-device.pyz", "selftest", ".", "--key", keys[1], "--no-bench"]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    verdict = json.loads(done.stdout)
    assert done.returncode == 0 and verdict["passed"] and verdict["signature"] == "verified", done.stderr
    jsonschema.validate(verdict, published_schema("selftest"))
    assert contents(copy) == contents(bundle), "trying a bundle out must leave it as it is"


def test_a_promise_that_is_not_kept_fails(build, keys, tmp_path):
    def promise(record):
        for result in record["results"]:
            result["latency"] |= {"median_ms": 1e-9, "median_interval_ms": [1e-9, 1e-9]}

    released(change_record(build.folder, promise), tmp_path / "out", keys)
    trial = Trial(tmp_path / "out" / NAME, keys[1], True, tmp_path / "cache", BRIEF)
    verdict = selftest(trial)
    assert not verdict["passed"]
    jsonschema.validate(verdict, published_schema("selftest"))
    assert [step["step"] for step in verdict["steps"] if not step["passed"]] == ["latency model fp32"]


def test_a_promise_measured_on_another_processor_does_not_count(build, keys, tmp_path):
    def elsewhere(record):
        for target in record["targets"]:
            target["fingerprint"] = {"cpu_model": "another"}
        for result in record["results"]:
            result["latency"] |= {"median_ms": 1e-9, "median_interval_ms": [1e-9, 1e-9]}

    released(change_record(build.folder, elsewhere), tmp_path / "out", keys)
    verdict = selftest(Trial(tmp_path / "out" / NAME, keys[1], True, tmp_path / "cache", BRIEF))
    assert verdict["passed"] and "another processor" in verdict["steps"][-1]["detail"]


def test_an_engine_of_another_runtime_is_built_again_from_the_model(bundle, keys, tmp_path, monkeypatch):
    import targets.onnxruntime

    version = targets.onnxruntime.installed_version
    monkeypatch.setattr(targets.onnxruntime, "installed_version", lambda *names: version(*names) and "99.1.0")
    verdict = selftest(Trial(bundle, keys[1], False, tmp_path / "cache"))
    assert verdict["passed"] and "built on this device" in verdict["steps"][2]["detail"]
    again = selftest(Trial(bundle, keys[1], False, tmp_path / "cache"))
    assert again["passed"]


class Jetson(OnnxRuntime):
    """Builds on the device alone, with a timing cache that fits or is another device's."""

    def __init__(self, fits: bool) -> None:
        self.fits, self.asked = fits, []

    def open(self, engine):
        if "/bundles/" not in engine.folder.as_posix():
            raise ModelError("the plan was built for another GPU")
        return super().open(engine)

    def compile(self, model, device, options, folder):
        self.asked.append(dict(options.raw))
        if "timing_cache" in options.raw and not self.fits:
            raise ModelError("the timing cache is of another device", where="raw.timing_cache")
        return super().compile(model, device, EngineOptions(), folder)


@pytest.mark.parametrize("fits", [True, False])
def test_engines_are_built_on_the_device_with_the_timing_cache_that_came(
    build, keys, tmp_path, monkeypatch, fits
):
    engine = build.output / "engines" / TARGETS[0] / "model-fp32"
    (engine / "timing.cache").write_bytes(b"tactics")
    said = json.loads((engine / "engine.json").read_text())
    said["files"]["timing.cache"] = hashlib.sha256(b"tactics").hexdigest()
    said["options"]["raw"] = {"timing_cache": "/elsewhere/timing.cache", "timing_cache_sha256": "0" * 64}
    (engine / "engine.json").write_text(json.dumps(said))
    manifest = released(publish_again(build.folder), tmp_path / "out", keys)[0].manifest
    recipe = manifest.products[0].recipe
    assert (recipe.raw, recipe.timing_cache) == ({}, "engines/model-fp32/timing.cache")

    jetson = Jetson(fits)
    for module in ("engine", "selftest"):
        monkeypatch.setattr(f"targets.bundle.{module}.load_toolchain", {"onnxruntime": jetson}.get)
    bundle = tmp_path / "out" / NAME
    verdict = selftest(Trial(bundle, keys[1], False, tmp_path / "cache"))
    assert verdict["passed"] and "built on this device" in verdict["steps"][2]["detail"]
    pinned = {
        "timing_cache": str(bundle / recipe.timing_cache),
        "timing_cache_sha256": said["files"]["timing.cache"],
    }
    assert jetson.asked == ([pinned] if fits else [pinned, {}])


def test_a_processor_without_the_precision_fails(bundle, keys, tmp_path, monkeypatch):
    def refuse(self, engine):
        raise CapabilityError("this CPU does not compute in bf16")

    monkeypatch.setattr(OnnxRuntime, "open", refuse)
    verdict = selftest(Trial(bundle, keys[1], False, tmp_path / "cache"))
    assert not verdict["passed"] and "does not compute in bf16" in verdict["steps"][-1]["detail"]


def test_wrong_outputs_and_wrong_devices_fail(build, keys, tmp_path):
    golden = build.output / "golden" / TARGETS[0] / "model-fp32" / "output-0.npy"
    np.save(golden, np.load(golden) + 1)
    released(publish_again(build.folder), tmp_path / "out", keys)
    verdict = selftest(Trial(tmp_path / "out" / NAME, keys[1], False, tmp_path / "cache"))
    assert not verdict["passed"] and "relative_l2 is" in verdict["steps"][-1]["detail"]

    def far(manifest):
        manifest["target"] |= {"architecture": "aarch64", "cpu_flags_required": ["no_such_flag"]}

    folder = shutil.copytree(tmp_path / "out" / NAME, tmp_path / "far")
    document = json.loads((folder / "manifest.json").read_text())
    far(document)
    (folder / "manifest.json").write_text(json.dumps(document))
    verdict = selftest(Trial(folder, None, False, tmp_path / "cache"))
    assert not verdict["passed"] and verdict["steps"][-1]["step"] == "device"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda manifest: manifest.pop("target"), "lacks 'target'"),
        (lambda manifest: manifest["products"][0].pop("latency"), "lacks latency"),
        (lambda manifest: manifest["products"][0]["engine"].update(path="../x"), "instead of '../x'"),
        (lambda manifest: manifest.update(products=7), "lacks"),
    ],
)
def test_a_manifest_that_says_too_little_fails(bundle, tmp_path, change, words):
    folder = shutil.copytree(bundle, tmp_path / "copy")
    document = json.loads((folder / "manifest.json").read_text())
    change(document)
    (folder / "manifest.json").write_text(json.dumps(document))
    verdict = selftest(Trial(folder, None, False, tmp_path / "cache"))
    assert not verdict["passed"] and words in verdict["steps"][-1]["detail"]


RUN_AGAIN = Decision("student", "run", ("settings.epochs: 1 → 2",))


def noisy(record):
    record["results"][0]["latency"]["median_interval_ms"] = [500.0, 1500.0]


def throttled(record):
    record["environments"][TARGETS[0]]["after"]["throttle_events"] = "7"


def gate_failed(record):
    record["gates"][0]["passed"] = False


@pytest.mark.parametrize(
    ("kind", "change", "decisions", "words"),
    [
        ("dirty", None, [RUN_AGAIN], "student: settings.epochs"),
        ("unstable", noisy, [], "known to within 100%, not 10%"),
        ("unstable", throttled, [], "throttle_events rose by 7"),
        ("failed", gate_failed, [], "'simplify model' did not pass"),
    ],
)
def test_unfit_builds_are_refused_unless_told_and_the_bundle_says_so(
    build, keys, tmp_path, kind, change, decisions, words
):
    build = change_record(build.folder, change) if change else build
    with pytest.raises(ReleaseRefused, match=f"{kind}: .*{words}") as refused:
        released(build, tmp_path / "out", keys, decisions)
    assert refused.value.exit_code == 1 and f"--accept {kind}" in str(refused.value)
    assert not (tmp_path / "out").exists()
    first = released(build, tmp_path / "out", keys, decisions, accept=(kind,))[0]
    assert [concern.kind for concern in first.manifest.accepted] == [kind]
    assert f"although {kind}" in (tmp_path / "out" / NAME / "README.md").read_text()


def test_a_file_changed_after_the_build_is_never_released(build, keys, tmp_path):
    with (build.output / "models" / "model.onnx").open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(ReleaseRefused, match="changed after the build"):
        released(build, tmp_path / "out", keys, accept=("dirty", "failed", "unstable"))
    assert not list((tmp_path / "out").iterdir())


def test_changes_are_told_against_the_release_before(build, bundle, keys, tmp_path):
    def better(record):
        result = record["results"][0]
        result["latency"] |= {"median_ms": 500.0, "median_interval_ms": [495.0, 505.0]}
        record["task"]["outputs"][0] = "Slipper"
        for result in record["results"]:
            result["accuracy"]["classes"][0]["label"] = "Slipper"

    newer = change_record(build.folder, better)
    released(newer, tmp_path / "out", keys, previous=bundle.parent)
    told = (tmp_path / "out" / NAME / "CHANGES.md").read_text()
    assert "median latency 1000 ms → 500 ms (-50.0%)" in told
    assert "**labels**: Sandal, Sneaker, Ankle boot, other → Slipper" in told and "the same model" in told
    with pytest.raises(ConfigError, match="no earlier bundle"):
        released(newer, tmp_path / "other", keys, previous=tmp_path)


def test_the_bill_of_materials_is_valid_and_names_model_and_data(bundle):
    cyclonedx = pytest.importorskip("cyclonedx.schema._res")
    bom = json.loads((bundle / "sbom.cdx.json").read_text())
    assert bom["specVersion"] == "1.6" and bom["metadata"]["component"]["version"] == "1.2.3"
    kinds = {component["type"]: component for component in bom["components"]}
    assert kinds["machine-learning-model"]["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    assert kinds["data"]["hashes"][0]["alg"] == "SHA-256"
    validate_bom(Path(cyclonedx.__file__).parent, bom)


def validate_bom(schemas: Path, bom: object) -> None:
    from referencing import Registry, Resource
    from referencing.jsonschema import DRAFT7

    names = [f"{name}.SNAPSHOT.schema.json" for name in ("bom-1.6", "spdx", "jsf-0.82")]
    found = {name: json.loads((schemas / name).read_text()) for name in names}
    for schema in found.values():
        del schema["$id"]
    registry = Registry().with_resources((name, Resource(each, DRAFT7)) for name, each in found.items())
    jsonschema.Draft7Validator(found[names[0]], registry=registry).validate(bom)


def test_an_index_names_all_that_was_released(bundle):
    out = bundle.parent
    feed = json.loads((out / "releases.json").read_text())
    assert [entry["target"] for entry in feed["releases"]] == sorted(TARGETS)
    assert all(file["sha256"] for entry in feed["releases"] for file in entry["files"])
    done = subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=out, check=False)
    assert done.returncode == 0 and "  releases.json\n" in (out / "SHA256SUMS").read_text()


def test_the_signature_of_an_index_is_good_for_openssl_alone(bundle, keys, tmp_path):
    out = shutil.copytree(bundle.parent, tmp_path / "out")
    document = (REPOSITORY / "docs/release.md").read_text()
    command = next(line for line in document.splitlines() if "SHA256SUMS.sig &&" in line)
    command = command.replace("release.pub", str(keys[1]))
    done = subprocess.run(command, shell=True, cwd=out, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "releases.json: OK" in done.stdout, done.stdout + done.stderr
    (out / "SHA256SUMS").write_text("")
    assert subprocess.run(command, shell=True, cwd=out, capture_output=True, check=False).returncode != 0


def test_an_index_without_a_key_keeps_no_signature_of_another(bundle, tmp_path):
    out = shutil.copytree(bundle.parent, tmp_path / "out")
    write_index(out, {}, None)
    assert (out / "SHA256SUMS").is_file() and not list(out.glob("SHA256SUMS.*"))


def test_wrong_orders_are_refused(build, keys, tmp_path):
    with pytest.raises(ConfigError, match="the build has 2 targets"):
        released(build, tmp_path / "out", keys, everything=False)
    mine = tmp_path / "out" / NAME
    mine.mkdir(parents=True)
    (mine / "letter.txt").write_text("mine")
    with pytest.raises(ConfigError, match="something else"):
        released(build, tmp_path / "out", keys)
    assert (mine / "letter.txt").read_text() == "mine"
    call = CliRunner().invoke(main, ["release", "build.toml"])
    assert call.exit_code == 2 and "--unsigned" in call.output


def test_a_build_becomes_bundles_that_verify_and_pass(small_build, tmp_path):
    def call(*arguments):
        return CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)

    assert call("keys", "new", tmp_path / "k").exit_code == 0
    # Measurements of tests on a busy machine are what they are.
    arguments = ["--all", "--key", tmp_path / "k.key", "--accept", "unstable", "--form", "tar.gz"]
    done = call("release", small_build / "build.toml", *arguments, "--out", tmp_path / "out", "--json")
    assert done.exit_code == 0, done.output
    for found in json.loads(done.stdout):
        archive = found["paths"][0]
        assert call("verify", archive, "--key", tmp_path / "k.pub").exit_code == 0
        tried = call("selftest", archive, "--key", tmp_path / "k.pub", "--no-bench")
        assert tried.exit_code == 0 and "passed" in tried.output, tried.output
    assert {concern["kind"] for concern in found["accepted"]} <= {"unstable"}
