"""The contract of targets/toolchain.py in executable form: every toolchain passes the same suite."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from small_graphs import CASES, all_positive, conv_relu, custom_operator

from targets.capability import Capability, Device, check_model, device_names, load_device
from targets.errors import CapabilityError, ModelError
from targets.toolchain import TOOLCHAINS, Engine, EngineOptions, Toolchain, load_toolchain

ROOT = Path(__file__).parents[2]

# One line a toolchain: everything else of it is found in TOOLCHAINS and in the device files.
IMPOSSIBLE_RAW_OPTIONS = {
    "myriad": {"MYRIAD_NUMBER_OF_SHAVES": "many"},
    "npu": {"NPU_PLATFORM": "newest"},
    "onnxruntime": {"session.intra_op_thread_affinities": "nonsense"},
    "openvino": {"INFERENCE_NUM_THREADS": "many"},
    "tensorrt": {"workspace_mib": "plenty"},
    "tensorrt_rtx": {"compute_capability": "newest"},
}

# How far fp16 may be from the float reference: a few of its steps over sums of a few hundred products.
HALF_ATOL = 2e-2


# Toolchains that take seconds for every model: `make test-slow`.
SLOW = ("myriad", "npu")


@pytest.fixture(
    params=[pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in sorted(TOOLCHAINS)]
)
def toolchain(request: pytest.FixtureRequest) -> Toolchain:
    """A toolchain that compiles here."""
    found = load_toolchain(request.param)
    probe = found.probe()
    if not probe.available:
        pytest.skip(f"{found.name}: {probe.detail}; {probe.mend}")
    return found


@pytest.fixture
def running(toolchain: Toolchain) -> Toolchain:
    """A toolchain whose engines run here."""
    obstacle = toolchain.obstacle(EngineOptions(raw=device_of(toolchain)[1].options))
    if obstacle:
        pytest.skip(f"{toolchain.name}: engines do not run here: {obstacle}")
    return toolchain


def device_of(toolchain: Toolchain) -> tuple[Device, Capability]:
    """A device that this toolchain builds for."""
    devices = [load_device(name) for name in device_names()]
    device = next(device for device in devices if toolchain.name in device.toolchains)
    return device, device.toolchains[toolchain.name]


def float_precision(capability: Capability) -> str:
    return "fp32" if "fp32" in capability.precisions else capability.default_precisions()[0]


def at_opset(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """The operators of these graphs mean the same at every opset that has them."""
    moved = onnx.ModelProto()
    moved.CopyFrom(model)
    moved.opset_import[0].version = min(opset, model.opset_import[0].version)
    return moved


def compile_model(toolchain: Toolchain, model: onnx.ModelProto, tmp_path: Path, **options: object) -> Engine:
    """Compile a model for a device of the toolchain, or skip the test with the rule it breaks there."""
    device, capability = device_of(toolchain)
    path, folder = tmp_path / "network.onnx", tmp_path / "engine"
    onnx.save(at_opset(model, capability.opset_max), path)
    violations = check_model(path, capability)
    if violations:
        pytest.skip(f"{device.name} with {toolchain.name}: {violations[0]}")
    folder.mkdir()
    asked = {"precision": float_precision(capability), **options}
    asked["raw"] = {**capability.options, **asked.get("raw", {})}
    return toolchain.compile(path, device.name, EngineOptions(**asked), folder)


def compile_case(toolchain: Toolchain, name: str, tmp_path: Path) -> Engine:
    case = CASES[name]
    precision = {} if case.precision == "fp32" else {"precision": case.precision}
    return compile_model(toolchain, case.model, tmp_path, **precision)


@pytest.fixture
def engine(toolchain: Toolchain, tmp_path: Path) -> Engine:
    return compile_model(toolchain, conv_relu(), tmp_path)


@pytest.mark.parametrize("name", CASES)
def test_outputs_are_the_reference_evaluators(running: Toolchain, tmp_path: Path, name: str) -> None:
    case = CASES[name]
    engine = compile_case(running, name, tmp_path)
    (tmp_path / "network.onnx").unlink()
    runner = running.open(Engine.load(engine.folder))
    inputs = case.inputs()
    expected = ReferenceEvaluator(case.model).run(None, inputs)
    found = runner.infer(inputs)
    atol = HALF_ATOL if engine.options.precision == "fp16" else case.atol
    assert list(found) == [output.name for output in case.model.graph.output]
    for array, reference in zip(found.values(), expected, strict=True):
        assert array.dtype == reference.dtype
        np.testing.assert_allclose(array, reference, atol=atol, rtol=1e-4)
    runner.close()


@pytest.mark.parametrize("name", CASES)
def test_the_same_inputs_give_the_very_same_outputs(running: Toolchain, tmp_path: Path, name: str) -> None:
    case = CASES[name]
    engine = compile_case(running, name, tmp_path)
    inputs = case.inputs(1)
    results = []
    for runner in (running.open(engine), running.open(engine)):
        first = runner.infer(inputs)
        runner.infer(case.inputs(2))
        results += [first, runner.infer(inputs)]
    for result in results[1:]:
        for output, array in result.items():
            np.testing.assert_array_equal(array, results[0][output])


def test_seven_bit_weights_never_saturate(running: Toolchain, tmp_path: Path) -> None:
    model = all_positive()
    engine = compile_model(running, model, tmp_path, precision="int8")
    inputs = {"x": np.random.default_rng(0).uniform(3, 6, (1, 16, 8, 8)).astype(np.float32)}
    expected = ReferenceEvaluator(model).run(None, inputs)[0]
    np.testing.assert_allclose(running.open(engine).infer(inputs)["y"], expected, atol=3.01)


def test_an_engine_describes_itself(toolchain: Toolchain, tmp_path: Path) -> None:
    model = CASES["two by two"].model
    engine = compile_model(toolchain, model, tmp_path, threads=2)
    assert Engine.load(engine.folder) == engine
    assert [spec.name for spec in engine.inputs] == ["right", "left"]
    assert [spec.name for spec in engine.outputs] == ["gate", "product"]
    assert engine.inputs[0].shape == (1, 4, 6, 6) and engine.inputs[0].dtype == "float32"
    assert engine.toolchain == toolchain.name and engine.toolchain_version == toolchain.probe().version
    assert engine.options.threads == 2
    assert {path.name for path in engine.folder.iterdir()} == {*engine.files, "engine.json"}


def test_a_runner_takes_what_its_engine_says(running: Toolchain, tmp_path: Path) -> None:
    engine = compile_model(running, CASES["two by two"].model, tmp_path)
    runner = running.open(engine)
    assert (runner.inputs, runner.outputs) == (engine.inputs, engine.outputs)


def test_a_dynamic_batch_is_marked(running: Toolchain, tmp_path: Path) -> None:
    engine = compile_case(running, "dynamic batch", tmp_path)
    assert engine.inputs[0].shape == (-1, 3, 12, 12)
    runner = running.open(engine)
    images = np.random.default_rng(0).standard_normal((3, 3, 12, 12)).astype(np.float32)
    singly = np.concatenate([runner.infer({"x": image[None]})["y"] for image in images])
    for batch in (1, 3, 2):
        found = runner.infer({"x": images[:batch]})["y"]
        np.testing.assert_allclose(found, singly[:batch], rtol=1e-4, atol=1e-5)


def test_a_runner_may_be_closed_twice(running: Toolchain, tmp_path: Path) -> None:
    runner = running.open(compile_case(running, "conv relu", tmp_path))
    runner.close()
    runner.close()


def test_what_an_inference_gave_stays_as_it_is(running: Toolchain, tmp_path: Path) -> None:
    case = CASES["conv relu"]
    runner = running.open(compile_model(running, case.model, tmp_path))
    inputs = case.inputs()
    given = runner.infer(inputs)
    kept = {name: array.copy() for name, array in given.items()}
    runner.infer({name: -3 * array for name, array in inputs.items()})
    for name, array in given.items():
        np.testing.assert_array_equal(array, kept[name])


@pytest.mark.parametrize("end", ["opset_min", "opset_max"])
def test_both_ends_of_the_opset_range_compile(toolchain: Toolchain, tmp_path: Path, end: str) -> None:
    model = conv_relu(getattr(device_of(toolchain)[1], end))
    engine = compile_model(toolchain, model, tmp_path)
    assert engine.inputs[0].shape == (1, 3, 12, 12)
    if toolchain.obstacle(engine.options) is None:
        inputs = CASES["conv relu"].inputs()
        expected = ReferenceEvaluator(model).run(None, inputs)[0]
        np.testing.assert_allclose(toolchain.open(engine).infer(inputs)["y"], expected, atol=HALF_ATOL)


def test_every_changed_file_is_found(engine: Engine) -> None:
    for name in engine.files:
        path = engine.folder / name
        content = path.read_bytes()
        path.write_bytes(content + b"\0")
        with pytest.raises(ModelError, match="changed") as caught:
            Engine.load(engine.folder)
        assert name in str(caught.value)
        path.write_bytes(content)
    assert Engine.load(engine.folder) == engine


@pytest.mark.parametrize(
    ("inputs", "complaint"),
    [
        ({}, "takes"),
        ({"z": np.zeros((1, 3, 12, 12), np.float32)}, "takes"),
        ({"x": np.zeros((1, 3, 12, 12), np.float64)}, "float64"),
        ({"x": np.zeros((1, 3, 12, 13), np.float32)}, "13"),
        ({"x": np.zeros((3, 12, 12), np.float32)}, "shape"),
        (
            {"x": np.zeros((1, 3, 12, 12), np.float32), "extra": np.zeros(1, np.float32)},
            "takes",
        ),
    ],
)
def test_wrong_inputs_are_refused(
    running: Toolchain, engine: Engine, inputs: dict[str, np.ndarray], complaint: str
) -> None:
    runner = running.open(engine)
    with pytest.raises(ModelError, match=complaint):
        runner.infer(inputs)


def test_inputs_need_not_be_contiguous(running: Toolchain, engine: Engine) -> None:
    runner = running.open(engine)
    image = np.random.default_rng(0).standard_normal((1, 12, 12, 3)).astype(np.float32).transpose(0, 3, 1, 2)
    strided = runner.infer({"x": image})["y"]
    np.testing.assert_array_equal(strided, runner.infer({"x": np.ascontiguousarray(image)})["y"])


def test_outputs_are_the_callers_own(running: Toolchain, engine: Engine) -> None:
    runner = running.open(engine)
    first = runner.infer({"x": np.ones((1, 3, 12, 12), np.float32)})["y"]
    kept = first.copy()
    runner.infer({"x": np.full((1, 3, 12, 12), -2, np.float32)})
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("part", [0.0, 0.3, 0.97])
def test_a_truncated_model_is_refused(toolchain: Toolchain, tmp_path: Path, part: float) -> None:
    content = conv_relu().SerializeToString()
    path = tmp_path / "cut.onnx"
    path.write_bytes(content[: int(len(content) * part)])
    assert_refused(toolchain, path, tmp_path)


@pytest.mark.parametrize("content", [b"not a model at all", b"<xml>", bytes(range(256)) * 8])
def test_another_kind_of_file_is_refused(toolchain: Toolchain, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.onnx"
    path.write_bytes(content)
    assert_refused(toolchain, path, tmp_path)


def test_a_missing_model_is_refused(toolchain: Toolchain, tmp_path: Path) -> None:
    assert_refused(toolchain, tmp_path / "nothing.onnx", tmp_path)


def test_an_unknown_operator_is_refused_by_name(toolchain: Toolchain, tmp_path: Path) -> None:
    path = tmp_path / "custom.onnx"
    onnx.save(at_opset(custom_operator(), device_of(toolchain)[1].opset_max), path)
    assert "Frobnicate" in assert_refused(toolchain, path, tmp_path)


def assert_refused(toolchain: Toolchain, path: Path, tmp_path: Path) -> str:
    """Refused with one readable line and the file's path, leaving no engine. Returns that line."""
    folder = tmp_path / "refused"
    folder.mkdir()
    with pytest.raises(ModelError) as caught:
        options = EngineOptions(float_precision(device_of(toolchain)[1]), raw=device_of(toolchain)[1].options)
        toolchain.compile(path, device_of(toolchain)[0].name, options, folder)
    what = caught.value.what
    assert "\n" not in what and ".cpp" not in what and len(what) < 500
    assert caught.value.where == str(path) and caught.value.mend
    with pytest.raises(ModelError):
        Engine.load(folder)
    return what


def test_an_impossible_precision_is_refused(toolchain: Toolchain, tmp_path: Path) -> None:
    with pytest.raises(CapabilityError, match="fp8"):
        compile_model(toolchain, conv_relu(), tmp_path, precision="fp8")


def test_another_toolchains_engine_is_refused(toolchain: Toolchain, engine: Engine) -> None:
    with pytest.raises(ModelError, match="engine of another"):
        toolchain.open(replace(engine, toolchain="another"))


def test_another_versions_engine_is_refused(toolchain: Toolchain, engine: Engine) -> None:
    with pytest.raises(ModelError, match=r"made by .* 1\.2\.3, .* is installed"):
        toolchain.open(replace(engine, toolchain_version="1.2.3"))


def test_another_patch_of_the_same_version_is_taken(running: Toolchain, engine: Engine) -> None:
    major, minor, *_ = engine.toolchain_version.split(".")
    running.open(replace(engine, toolchain_version=f"{major}.{minor}.99")).close()


def test_a_damaged_engine_is_refused(toolchain: Toolchain, engine: Engine) -> None:
    for name in engine.files:
        if not name.endswith(".json"):
            (engine.folder / name).write_bytes(b"damaged")
    with pytest.raises(ModelError):
        toolchain.open(engine)


def test_a_raw_option_the_runtime_cannot_take_is_refused(toolchain: Toolchain, tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        compile_model(toolchain, conv_relu(), tmp_path, raw=IMPOSSIBLE_RAW_OPTIONS[toolchain.name], threads=2)


def test_the_fingerprint_is_stable_and_imports_no_runtime(toolchain: Toolchain) -> None:
    program = (
        "import json, sys\n"
        "from targets.toolchain import load_toolchain\n"
        f"print(json.dumps(load_toolchain({toolchain.name!r}).fingerprint()))\n"
        "print(sorted(set(sys.modules) & {'onnxruntime', 'openvino', 'onnx', 'torch', 'pydantic'}))\n"
    )
    fingerprint, loaded = run_python(program).splitlines()
    assert json.loads(fingerprint) == toolchain.fingerprint() == toolchain.fingerprint()
    assert loaded == "[]"
    assert toolchain.fingerprint()[toolchain.name] == toolchain.probe().version


def test_importing_targets_needs_numpy_alone() -> None:
    program = (
        "import sys\n"
        "before = set(sys.modules)\n"
        "import targets, targets.errors, targets.toolchain, targets.preprocess, targets.environment\n"
        "import targets.measure, targets.toolchain\n"
        "from targets.toolchain import TOOLCHAINS, load_toolchain\n"
        "[load_toolchain(name) for name in TOOLCHAINS]\n"
        "roots = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(roots - set(sys.stdlib_module_names) - {'targets', 'numpy'}))\n"
    )
    assert run_python(program).strip() == "[]"


def test_no_telemetry_is_loaded_by_any_toolchain(running: Toolchain, engine: Engine) -> None:
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from targets.toolchain import Engine, load_toolchain\n"
        f"load_toolchain({running.name!r}).open(Engine.load(Path({str(engine.folder)!r})))\n"
        "print(sys.modules.get('openvino_telemetry'))\n"
    )
    assert run_python(program).strip() == "None"


def run_python(program: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True
    )
    return done.stdout
