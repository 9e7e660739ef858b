"""Targets whose engines cannot be run: what is made for them, what is not, and what the record says."""

from __future__ import annotations

import json

import pytest
from example_record import document

from pipeline.products import engine_path, onnx_path, published, resolve_targets, variants_of
from pipeline.record import Record
from pipeline.release.source import bundle_paths
from pipeline.report import render
from pipeline.report.wording import wording
from pipeline.session import Session
from pipeline.stages.built import built_variants
from targets.errors import CapabilityError, ConfigError, ToolchainMissing
from targets.private import VARIABLE
from targets.toolchain import Engine, EngineOptions, TensorSpec

BUILD = """
[project]
name = "sorter"
[data]
kind = "fashion-mnist"
[model]
factory = "pipeline.zoo:resnet"
[student]
macs = 0.5
"""


def session(tmp_path, *targets, head=""):
    tables = "".join(f"[[targets]]\n{target}\n" for target in targets)
    (tmp_path / "build.toml").write_text(head + BUILD + tables)
    return Session(tmp_path / "build.toml")


def names(tmp_path, *targets):
    return [stage.name for stage in session(tmp_path, *targets).stages()]


def of_target(stages, target):
    return [name for name in stages if name.endswith(target) or f" {target} " in name]


def test_a_cpu_is_compiled_gated_timed_and_evaluated_as_before(tmp_path):
    stages = of_target(names(tmp_path, 'device = "x86-avx2"'), "x86-avx2-openvino")
    assert not [name for name in stages if name.startswith(("form", "estimate"))]
    assert {"measure x86-avx2-openvino", "gate compile x86-avx2-openvino student int8"} <= set(stages)


def test_myriad_gets_the_float_student_at_its_opset_and_no_timing(tmp_path):
    stages = of_target(names(tmp_path, 'device = "oak-rvc2"'), "oak-rvc2-myriad")
    assert stages == [
        "form student fp16 oak-rvc2-myriad",
        "gate form student fp16 oak-rvc2-myriad",
        "compile oak-rvc2-myriad student fp16",
        "golden oak-rvc2-myriad student fp16",
        "estimate oak-rvc2-myriad student fp16",
    ]


def test_the_npu_gets_int8_in_its_convention(tmp_path):
    stages = of_target(names(tmp_path, 'device = "intel-npu-4000"'), "intel-npu-4000-npu")
    assert "quantize student intel-npu-4000-npu" in stages
    assert "compile intel-npu-4000-npu student int8" in stages
    assert not [name for name in stages if name.startswith(("form", "measure"))]


def test_a_jetson_that_is_not_here_gets_its_model_alone(tmp_path):
    found = session(tmp_path, 'device = "jetson-orin-nx"\nengine = false')
    stages = of_target([stage.name for stage in found.stages()], "jetson-orin-nx-tensorrt")
    assert not [name for name in stages if name.startswith(("compile", "measure", "evaluate"))]
    assert {"form student fp16 jetson-orin-nx-tensorrt", "form student int8 jetson-orin-nx-tensorrt"} <= set(
        stages
    )
    handed_over = published(found.settings, found.targets)
    assert handed_over["models/student-int8-jetson-orin-nx-tensorrt.onnx"].stage.startswith(
        "form student int8"
    )
    assert not [path for path in handed_over if path.startswith("engines/")]
    assert [path for path in handed_over if path.startswith("golden/")] == [
        "golden/jetson-orin-nx-tensorrt/student-int8"
    ]


def test_mixed_precision_is_packed_where_that_gives_the_very_model_back(tmp_path):
    mixed = "[quantize.mixed]\nbits = 5.0\n"
    precisions = 'precisions = ["fp16", "mixed"]'
    found = session(
        tmp_path,
        f'device = "jetson-orin-nx"\n{precisions}\nengine = false',
        f'device = "any-onnxruntime"\n{precisions.replace("fp16", "fp32")}',
        head=mixed,
    )
    jetson, cpu = (
        {*bundle_paths(target, variants_of(found.settings, target)[-1]).values()} for target in found.targets
    )
    # The file is of the model before it got the Jetson's form, with other types and scales.
    assert jetson == {"models/student-mixed.onnx", "golden/student-mixed"}
    assert cpu == {"models/student-mixed.packed", "engines/student-mixed", "golden/student-mixed"}


def test_a_jetson_without_a_host_is_refused_with_both_ways_out(tmp_path):
    with pytest.raises(ToolchainMissing, match="tensorrt does not work") as caught:
        session(tmp_path, 'device = "jetson-orin-nano"').check()
    assert "engine = false" in str(caught.value) and "ssh://" in str(caught.value)


def test_a_toolchain_that_is_not_installed_is_told_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    with pytest.raises(ToolchainMissing, match="toolchain install myriad"):
        session(tmp_path, 'device = "oak-rvc2"').check()


def test_a_precision_the_device_lacks_is_refused(tmp_path):
    with pytest.raises(CapabilityError, match="computes in fp16"):
        session(tmp_path, 'device = "oak-rvc2"\nengine = false\nprecisions = ["fp16", "int8"]').check()


def test_no_student_is_fitted_to_times_nobody_takes(tmp_path):
    text = BUILD.replace("macs = 0.5", "latency_ms = 1.0")
    (tmp_path / "build.toml").write_text(f'{text}[[targets]]\ndevice = "jetson-nano"\nengine = false\n')
    with pytest.raises(ConfigError, match="a latency budget cannot be kept"):
        Session(tmp_path / "build.toml").check()


def test_options_of_the_device_reach_the_runtime_and_the_build_wins(tmp_path):
    shaves = 'raw = { MYRIAD_NUMBER_OF_SHAVES = "4", MYRIAD_NUMBER_OF_CMX_SLICES = "4" }'
    found = session(tmp_path, 'device = "oak-rvc2"', f'device = "oak-rvc2"\nname = "few"\n{shaves}')
    six, four = resolve_targets(found.settings, tmp_path)
    assert six.raw["MYRIAD_NUMBER_OF_SHAVES"] == "6" and four.raw["MYRIAD_NUMBER_OF_SHAVES"] == "4"
    (stage,) = [stage for stage in found.stages() if stage.name == "compile few student fp16"]
    assert stage.settings["raw"] == four.raw


def described(tmp_path, compiled):
    found = session(
        tmp_path, 'device = "rtx-ada"\nprecisions = ["fp16"]' + ("" if compiled else "\nengine = false")
    )
    (target,) = found.targets
    (variant,) = variants_of(found.settings, target)
    settings = {
        "name": target.name,
        "device": target.device.name,
        "toolchain": target.toolchain,
        "obstacle": "there is no GPU",
        "compiled": compiled,
        "threads": 1,
        "raw": target.raw,
        "wants_preflight": target.wants_preflight,
        "variants": [
            {
                "network": variant.network,
                "precision": variant.precision,
                "role": variant.role,
                "name": variant.name,
                "runs_as": variant.runs_as,
                "onnx_stage": "form",
                "onnx_path": onnx_path(target, variant),
                "engine_path": engine_path(target, variant),
            }
        ],
    }
    accuracy = document()["results"][0]["accuracy"]
    facts = {"onnx_size_bytes": 10, "weight_bytes": 5, "changes": ["opset 18 became 13"]}
    (tmp_path / "plan").write_bytes(bytes(2048))
    spec = (TensorSpec("x", "float32", (1, 4)),)
    engine = Engine(
        tmp_path,
        "tensorrt_rtx",
        "1.7",
        "rtx-ada",
        EngineOptions(),
        spec,
        spec,
        {"plan": "0" * 64},
        ("a note",),
    )
    artefacts = {"facts.json": facts, "accuracy.json": accuracy}
    (built,) = built_variants(
        [settings], lambda _, name: artefacts.get(name), lambda _: engine, wording("data set")
    )
    return built


def test_what_was_compiled_is_described_without_a_time(tmp_path):
    built = described(tmp_path, compiled=True)
    assert built["engine"]["size_bytes"] == 2048 and built["command"] is None
    assert built["headline"].startswith(
        "rtx-ada-tensorrt_rtx: student fp16 compiled to 2 KiB, not run; its ONNX"
    )


def test_what_was_not_compiled_comes_with_its_command(tmp_path):
    built = described(tmp_path, compiled=False)
    assert built["engine"] is None and built["toolchain_version"] is None
    assert "--toolchain tensorrt_rtx --device rtx-ada --precision fp16" in built["command"]
    assert '\'{"compute_capability": "8.9"}\'' in built["command"]


@pytest.mark.parametrize("compiled", [True, False])
def test_the_report_shows_what_was_not_run_and_why(tmp_path, compiled):
    whole = document()
    built = described(tmp_path, compiled) | {"network": whole["networks"][0]["name"]}
    render(Record.model_validate(whole | {"built": [built]}), tmp_path / "out")
    page, text = ((tmp_path / "out" / f"report.{kind}").read_text() for kind in ("html", "md"))
    assert "Made, not run" in page and "there is no GPU" in page and "Opset 18 became 13." in page
    assert ("edgewright-device.pyz" in page) == (not compiled)
    assert "not run; its ONNX here" in text
    assert (
        json.loads((tmp_path / "out" / "report.json").read_text())["built"][0]["obstacle"]
        == "there is no GPU"
    )


def test_a_report_without_such_targets_has_no_such_section(tmp_path):
    render(Record.model_validate(document()), tmp_path / "out")
    assert "Made, not run" not in (tmp_path / "out" / "report.html").read_text()
