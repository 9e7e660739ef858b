"""Device files: what is accepted, what is refused and how, and what a build or a model violates."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import onnx
import pytest
from onnx import TensorProto, helper
from small_graphs import conv_relu

from targets.capability import (
    DEVICES,
    Capability,
    Device,
    check_model,
    check_request,
    device_json_schema,
    device_names,
    load_device,
    this_machine,
)
from targets.datafile import tomllib
from targets.errors import ConfigError, ModelError

MANUAL = Path(__file__).parents[2] / "docs" / "targets.md"
PUBLISHED = Path(__file__).parents[2] / "docs" / "schema" / "device.schema.json"

OWN = """
schema = "edgewright.device/1"
name = "camera-board"
description = "our camera"
architecture = "aarch64"

[toolchains.onnxruntime]
runtime = ">=1.23,<2"
precisions = ["int8", "fp32"]
channel_alignment = 4
shapes = "static"
opset_min = 11
opset_max = 20

[toolchains.onnxruntime.quantization]
activations = "int8-symmetric"
weight_bits = 8
quantize_residual_inputs = true

[toolchains.onnxruntime.unsupported_operators]
Resize = "it is slow there; use ConvTranspose"
"""


def own_device(tmp_path: Path, old: str = "", new: str = "") -> Device:
    assert old in OWN
    path = tmp_path / "camera.toml"
    path.write_text(OWN.replace(old, new), encoding="utf-8")
    return load_device(str(path))


def test_every_shipped_device_is_valid_and_named_as_its_file() -> None:
    assert set(device_names()) >= {"any-onnxruntime", "arm-neon", "x86-avx2", "x86-vnni"}
    for name in device_names():
        device = load_device(name)
        assert device.name == name
        for capability in device.toolchains.values():
            assert capability.source, f"{name} does not say where its facts are from"


def test_weights_have_seven_bits_where_products_can_saturate() -> None:
    for name in ("x86-avx2", "any-onnxruntime"):
        for capability in load_device(name).toolchains.values():
            assert capability.quantization is not None and capability.quantization.weight_bits == 7


def test_the_published_schema_is_current_and_takes_the_shipped_devices() -> None:
    assert json.loads(PUBLISHED.read_text(encoding="utf-8")) == device_json_schema()
    for name in device_names():
        jsonschema.validate(
            tomllib.loads((DEVICES / f"{name}.toml").read_text("utf-8")), device_json_schema()
        )


def test_the_manual_lists_every_device_and_its_example_is_valid(tmp_path: Path) -> None:
    manual = MANUAL.read_text(encoding="utf-8")
    assert [name for name in device_names() if f"| `{name}` |" not in manual] == []
    example = tmp_path / "example.toml"
    example.write_text(manual.split("```toml")[1].split("```")[0], encoding="utf-8")
    assert load_device(str(example)).capability("openvino").precisions == ["bf16", "int8", "fp32"]


def test_the_first_toolchain_is_the_default(tmp_path: Path) -> None:
    device = load_device("x86-avx2")
    assert device.capability() is device.capability("openvino")
    with pytest.raises(ConfigError, match="no toolchain 'tensorrt'") as caught:
        device.capability("tensorrt")
    assert "openvino, onnxruntime" in str(caught.value)


def test_a_capability_survives_json() -> None:
    capability = load_device("arm-neon").capability()
    assert Capability.model_validate(json.loads(capability.model_dump_json())) == capability


def test_a_device_of_ones_own(tmp_path: Path) -> None:
    assert own_device(tmp_path).capability().shapes == "static"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "shapes =",
            "shape =",
            "onnxruntime.shape: unknown key; allowed here: runtime, precisions",
        ),
        ('name = "camera-board"', "", "name: is missing"),
        (
            '"static"',
            '"fixed"',
            "onnxruntime.shapes: found 'fixed'; allowed: 'static' or 'dynamic'",
        ),
        ('"fp32"]', '"fp8"]', "toolchains.onnxruntime.precisions.1: found 'fp8'; allowed: 'fp32', 'fp16'"),
        ("alignment = 4", "alignment = 0", "channel_alignment: found 0; it should be greater"),
        ("alignment = 4", 'alignment = "4"', "channel_alignment: found '4'; it should be a valid integer"),
        ("weight_bits = 8", "weight_bits = 4", "quantization.weight_bits: found 4; allowed: 7 or 8"),
        ("weight_bits", "weight_bit", "quantization.weight_bit: unknown key; allowed here: activations"),
        (">=1.23,<2", "about 1", "toolchains.onnxruntime.runtime: not a version range"),
        ("opset_max = 20", "opset_max = 9", "opset_min 11 is above opset_max 9"),
        (
            "toolchains.onnxruntime",
            "toolchains.tensorfow",
            "no toolchain tensorfow; there are myriad, npu",
        ),
        ("edgewright.device/1", "edgewright.device/9", "schema: found 'edgewright.device/9'; allowed:"),
        ("aarch64", "arm", "architecture: found 'arm'; allowed: 'x86_64', 'aarch64' or 'any'"),
        ("camera-board", "Camera Board", "name: found 'Camera Board'; it should match"),
    ],
)
def test_a_fault_says_where_what_and_what_is_allowed(
    tmp_path: Path, old: str, new: str, expected: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        own_device(tmp_path, old, new)
    message = str(caught.value)
    assert expected in message and "camera.toml" in message
    assert "pydantic" not in message and "[type=" not in message


def test_int8_needs_a_convention(tmp_path: Path) -> None:
    text = OWN[: OWN.index("[toolchains.onnxruntime.quantization]")]
    with pytest.raises(ConfigError, match="a table quantization is needed"):
        own_device(tmp_path, OWN, text)


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    text = OWN.replace("static", "fixed").replace("fp32", "fp8")
    with pytest.raises(ConfigError) as caught:
        own_device(tmp_path, OWN, text)
    assert "'fixed'" in str(caught.value) and "'fp8'" in str(caught.value)


def test_an_unknown_source_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="source names speed"):
        own_device(tmp_path, OWN, OWN + '\n[toolchains.onnxruntime.source]\nspeed = "hearsay"\n')


@pytest.mark.parametrize("content", ["schema = ", "\xff".encode("latin-1").decode("latin-1") * 3])
def test_no_toml_at_all(tmp_path: Path, content: str) -> None:
    path = tmp_path / "camera.toml"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(ConfigError, match="cannot be read"):
        load_device(str(path))


def test_unknown_devices_are_told_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no device 'jetson-nanu'") as caught:
        load_device("jetson-nanu")
    assert "arm-neon" in str(caught.value) and "this-machine" in str(caught.value)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_device(str(tmp_path / "missing.toml"))


@pytest.mark.parametrize(
    ("architecture", "cpuinfo", "expected"),
    [
        ("x86_64", "flags : fpu avx2 avx512f avx512_vnni", "x86-vnni"),
        ("x86_64", "flags : fpu avx2 avx_vnni", "x86-vnni"),
        ("x86_64", "flags : fpu sse4_2 avx avx2 fma", "x86-avx2"),
        ("x86_64", "flags : fpu sse4_2 avx", "any-onnxruntime"),
        ("aarch64", "Features : fp asimd crc32", "arm-neon"),
        ("armv7l", "Features : neon vfpv4", "any-onnxruntime"),
        ("riscv64", "", "any-onnxruntime"),
    ],
)
def test_this_machine(tmp_path: Path, architecture: str, cpuinfo: str, expected: str) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "cpuinfo").write_text(cpuinfo)
    assert this_machine(architecture, tmp_path) == expected


def test_this_machine_is_a_device() -> None:
    assert load_device("this-machine").name in device_names()


def request(tmp_path: Path, **changes: object) -> list[str]:
    asked = {
        "precisions": ["fp32", "int8"],
        "opset": 17,
        "dynamic_batch": False,
        "runtime_version": "1.31.1",
        **changes,
    }
    return [str(violation) for violation in check_request(own_device(tmp_path), None, **asked)]


def test_a_request_that_fits(tmp_path: Path) -> None:
    assert request(tmp_path) == []
    assert request(tmp_path, runtime_version=None) == []
    assert request(tmp_path, runtime_version="1.31.1+cpu") == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"precisions": ["fp32", "bf16"]}, "computes in int8, fp32; found bf16"),
        ({"opset": 10, "precisions": ["fp32"]}, "takes ONNX opset 11 to 20; found opset 10"),
        ({"opset": 21}, "takes ONNX opset 11 to 20; found opset 21"),
        ({"opset": 12}, "int8 needs ONNX opset 13"),
        ({"dynamic_batch": True}, "takes static shapes only; found the batch is dynamic"),
        ({"runtime_version": "1.9.0"}, "needs a runtime >=1.23,<2; found 1.9.0"),
        ({"runtime_version": "2.0"}, "needs a runtime"),
    ],
)
def test_a_request_that_does_not_fit(tmp_path: Path, changes: dict[str, object], expected: str) -> None:
    violations = request(tmp_path, **changes)
    assert len(violations) == 1 and violations[0].startswith(expected)


def check(tmp_path: Path, model: onnx.ModelProto) -> list[str]:
    path = tmp_path / "network.onnx"
    onnx.save(model, path)
    return [str(violation) for violation in check_model(path, own_device(tmp_path).capability())]


def test_a_model_that_fits(tmp_path: Path) -> None:
    assert check(tmp_path, conv_relu()) == []


def test_a_dynamic_model_on_a_static_device(tmp_path: Path) -> None:
    (violation,) = check(tmp_path, conv_relu(batch="N"))
    assert violation.startswith("takes static shapes only; found input x is dynamic")


def test_an_opset_out_of_range(tmp_path: Path) -> None:
    (violation,) = check(tmp_path, conv_relu(opset=21))
    assert "found opset 21" in violation


def test_an_unsupported_operator_is_found_inside_a_branch(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    inner = helper.make_node("Resize", ["x", "", "s"], ["y"], name="upsample")
    branch = helper.make_graph([inner], "branch", [], [value])
    graph = helper.make_graph(
        [helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)],
        "graph",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 2, 2]),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            helper.make_tensor_value_info("s", TensorProto.FLOAT, [4]),
        ],
        [value],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (violation,) = check(tmp_path, model)
    assert violation == "does not run Resize; found node upsample; it is slow there; use ConvTranspose"


@pytest.mark.parametrize("content", [None, b"", b"no protobuf", conv_relu().SerializeToString()[:-200]])
def test_an_unreadable_model(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "network.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError):
        check_model(path, own_device(tmp_path).capability())
