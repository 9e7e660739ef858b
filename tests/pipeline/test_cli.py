"""The command as a user meets it: help, exit codes, messages, JSON."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner

from pipeline.cli import main
from pipeline.packages import PACKAGES, Package
from tests.conftest import SMALL_BUILD
from tests.pipeline.onnx_networks import residual_net, saved


def call(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.mark.parametrize("verb", sorted(main.commands))
def test_every_verb_has_help_with_an_example(verb):
    result = call(verb, "--help")
    assert result.exit_code == 0 and f"Example: edgewright {verb}" in result.output


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from pipeline.cli import main; from click.testing import CliRunner;"
        "assert CliRunner().invoke(main, ['--help']).exit_code == 0;"
        "print(sorted({'torch','numpy','pydantic','rich','onnx','matplotlib','openvino'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_init_writes_a_build_file_that_is_valid_and_never_overwrites(tmp_path):
    from pipeline.config import load_settings

    assert call("init", tmp_path / "new").exit_code == 0
    path = tmp_path / "new" / "build.toml"
    assert load_settings(path).targets[0].device == "this-machine"
    path.write_text("mine")
    result = call("init", tmp_path / "new")
    assert result.exit_code == 2 and "there is a build file already" in result.stderr
    assert path.read_text() == "mine"


def test_a_build_that_has_nothing_to_do_says_so(small_build):
    result = call("build", small_build / "build.toml")
    assert result.exit_code == 0 and result.stdout.startswith("Nothing to do: all ")
    document = json.loads(call("build", small_build / "build.toml", "--json").stdout)
    assert document["ran"] == [] and document["report"].endswith("report.html")


def test_explain_lists_every_stage(small_build):
    result = call("explain", small_build / "build.toml")
    assert result.exit_code == 0 and "reuse  student:" in result.stdout
    decisions = json.loads(call("explain", small_build / "build.toml", "--json").stdout)
    assert {decision["action"] for decision in decisions} == {"reuse"}
    assert decisions[-1]["stage"] == "report"


def test_an_error_is_a_message_with_what_where_and_how_to_mend(tmp_path):
    (tmp_path / "build.toml").write_text(SMALL_BUILD.replace('kind = "fashion-mnist"', 'kind = "cifar"'))
    result = call("build", tmp_path / "build.toml")
    assert result.exit_code == 2 and result.stdout == ""
    for words in ("error:", "data.kind: found 'cifar'", "where:", "mend:"):
        assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_a_failing_gate_exits_with_1(small_build, tmp_path):
    shutil.copytree(small_build, tmp_path / "copy")
    text = SMALL_BUILD.replace("[gates.limits.quantize]", "[gates.limits.quantize]\nmax_abs = 0.0")
    (tmp_path / "copy" / "build.toml").write_text(text)
    result = call("build", tmp_path / "copy" / "build.toml")
    assert result.exit_code == 1 and "gate 'quantize student any-onnxruntime' failed" in result.stderr


def test_a_missing_toolchain_exits_with_3(small_build, monkeypatch):
    monkeypatch.setitem(PACKAGES, "onnxsim", Package("no_such_module", "simplify models", "onnx"))
    result = call("build", small_build / "build.toml")
    assert result.exit_code == 3 and "pip install 'edgewright[onnx]'" in result.stderr


def test_wrong_usage_exits_with_2():
    assert call("build", "--no-such-option").exit_code == 2
    assert call("no-such-verb").exit_code == 2


def test_targets_lists_and_shows_devices():
    assert "any-onnxruntime" in call("targets").stdout
    assert {device["name"] for device in json.loads(call("targets", "--json").stdout)} >= {"x86-vnni"}
    shown = json.loads(call("targets", "show", "x86-avx2", "--json").stdout)
    assert shown["toolchains"]["openvino"]["quantization"]["weight_bits"] == 7
    assert "source of quantization: without VNNI" in call("targets", "show", "x86-avx2").stdout
    result = call("targets", "show", "x86-avx3")
    assert result.exit_code == 2 and "there is no device 'x86-avx3'" in result.stderr


def test_check_lists_every_violation_with_operator_rule_and_mend(tmp_path):
    def operator(kind, x, y):
        return onnx.helper.make_node(kind, [x], [y], name=f"the {kind}")

    tensors = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xz"]
    nodes = [operator("Det", "x", "y"), operator("Bernoulli", "y", "z")]
    graph = onnx.helper.make_graph(nodes, "graph", tensors[:1], tensors[1:])
    model = tmp_path / "model.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 6)]), model)
    result = call("check", model, "--device", "x86-avx2")
    assert result.exit_code == 1 and "3 violations:" in result.stdout
    assert "✗ Det: does not run Det" in result.stdout and "found  node the Det" in result.stdout
    found = json.loads(call("check", model, "--device", "x86-avx2", "--json").stdout)
    assert [each["operator"] for each in found["violations"]] == ["", "Det", "Bernoulli"]
    assert found["violations"][0]["rule"] == "takes ONNX opset 7 to 23"
    assert all(each["mend"] for each in found["violations"])
    fits = call("check", model, "--device", "any-onnxruntime")
    assert fits.exit_code == 1 and "1 violation:" in fits.stdout


def test_doctor_names_what_is_there():
    document = json.loads(call("doctor", "--json").stdout)
    found = {finding["name"]: finding for finding in document["findings"]}
    assert found["onnxruntime"]["works"] and found["torch"]["works"]
    assert "onnxruntime" in call("doctor").stdout


def test_a_model_can_be_compiled_timed_and_scored_by_hand(small_build, tmp_path):
    model = small_build / "out" / "models" / "student.onnx"
    engine = tmp_path / "engine"
    made = json.loads(call("compile", model, "--device", "any-onnxruntime", "--out", engine, "--json").stdout)
    assert made["options"]["precision"] == "fp32" and made["size_bytes"] > 0
    again = call("compile", model, "--device", "any-onnxruntime", "--out", engine)
    assert again.exit_code == 2 and "there is something already" in again.stderr
    other = small_build / "out" / "engines" / "any-onnxruntime" / "student-int8"
    timings = json.loads(call("bench", engine, other, "--samples", 8, "--seconds", 0.05, "--json").stdout)
    assert all(timing["samples"] >= 8 and timing["p99_ms"] is None for timing in timings.values())
    assert "median ms" in call("bench", engine, "--samples", 8, "--seconds", 0.05).stdout
    result = call("evaluate", engine, "--build", small_build / "build.toml", "--json")
    accuracy = json.loads(result.stdout)
    assert accuracy["images"] > 0 and len(accuracy["classes"]) == 4
    assert accuracy["labels"] == "data set"


@pytest.mark.parametrize(
    ("content", "words"), [(b"", "model"), (b"\x08\x07garbage", "model"), (None, "no such")]
)
def test_a_model_that_is_none_is_refused(tmp_path, content, words):
    model = tmp_path / "model.onnx"
    if content is not None:
        model.write_bytes(content)
    result = call("compile", model, "--device", "any-onnxruntime", "--out", tmp_path / "engine")
    assert result.exit_code == 2 and words in result.stderr
    assert not (tmp_path / "engine").exists() and "Traceback" not in result.stderr


def test_a_dynamic_model_is_refused_by_a_device_of_static_shapes(tmp_path):
    device = tmp_path / "static.toml"
    text = (Path("targets") / "devices" / "any-onnxruntime.toml").read_text()
    device.write_text(
        text.replace('shapes = "dynamic"', 'shapes = "static"').replace("any-onnx", "static-onnx")
    )
    model = saved(residual_net(batch="batch"), tmp_path / "model.onnx")
    result = call("compile", model, "--device", device, "--out", tmp_path / "engine")
    assert result.exit_code == 2 and "takes static shapes only" in result.stderr
    assert not (tmp_path / "engine").exists()


def test_a_report_is_rendered_again_from_its_record(small_build, tmp_path):
    result = call("report", small_build / "out" / "report.json", "--out", tmp_path)
    assert result.exit_code == 0 and (tmp_path / "report.html").is_file()
    assert json.loads(call("report", "--schema").stdout)["title"] == "Record"
    (tmp_path / "report.json").write_text('{"schema": "edgewright.record/99"}')
    wrong = call("report", tmp_path / "report.json")
    assert wrong.exit_code == 2 and "edgewright.record" in wrong.stderr
