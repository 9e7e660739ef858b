"""The main job end to end, on real images: what it makes, what it reuses, where it stops."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from pipeline.build import plan
from pipeline.release.source import bundle_paths, open_build
from pipeline.report import load
from pipeline.session import Session
from targets.errors import (
    CapabilityError,
    ConfigError,
    EdgewrightError,
    GateFailed,
    ModelError,
    StoreError,
    ToolchainMissing,
)
from targets.toolchain import Engine, load_toolchain


@pytest.fixture
def project(small_build, tmp_path):
    """A copy of the small build that a test may change."""
    shutil.copytree(small_build, tmp_path / "project")
    return tmp_path / "project"


def edit(project, *changes):
    text = (project / "build.toml").read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (project / "build.toml").write_text(text)
    return Session(project / "build.toml")


def test_a_build_hands_over_engines_models_and_a_report(small_build):
    record = load(small_build / "out" / "report.json")
    assert {target.toolchain for target in record.targets} == {"onnxruntime", "openvino"}
    assert [network.name for network in record.networks] == ["teacher", "student"]
    teacher, student = record.networks
    assert student.macs <= 0.5 * teacher.macs
    assert all(gate.passed for gate in record.gates) and len(record.gates) == 2 * 2 + 2 * 5 + 2
    for result in record.results:
        engine = Engine.load(small_build / "out" / result.engine.path)
        assert dict(engine.files) == result.engine.sha256
        assert (small_build / "out" / result.engine.onnx_path).is_file()
    for name in ("report.html", "report.md"):
        assert "small-sorter" in (small_build / "out" / name).read_text()


def test_the_record_counts_every_test_image_once_for_every_variant(small_build):
    record = load(small_build / "out" / "report.json")
    for result in record.results:
        assert result.accuracy.images == record.data.split_sizes["test"]
        assert sum(map(sum, result.accuracy.confusion)) == result.accuracy.images
        assert [each.label for each in result.accuracy.classes] == [
            "Sandal",
            "Sneaker",
            "Ankle boot",
            "other",
        ]
    roles = {(result.variant, result.role) for result in record.results}
    assert roles == {
        ("teacher fp32", "baseline"),
        ("teacher int8", "baseline"),
        ("student fp32", "float twin"),
        ("student int8", "product"),
        ("student mixed", "product"),
    }


def test_a_handed_over_engine_runs_and_agrees_with_its_model(small_build):
    from pipeline.onnxmodel.session import OnnxSession

    out = small_build / "out"
    image = np.random.default_rng(0).normal(size=(1, 1, 28, 28)).astype(np.float32)
    for folder in sorted((out / "engines").glob("*/student-fp32")):
        engine = Engine.load(folder)
        runner = load_toolchain(engine.toolchain).open(engine)
        got = runner.infer({"input": image})["logits"]
        runner.close()
        np.testing.assert_allclose(
            got, OnnxSession(out / "models" / "student.onnx")({"input": image})["logits"], atol=1e-4
        )


def test_the_quantized_models_follow_their_targets_conventions(small_build):
    kinds = set()
    for path in (small_build / "out" / "models").glob("student-int8-*.onnx"):
        model = onnx.load(path)
        assert any(node.op_type == "QuantizeLinear" for node in model.graph.node)
        weights = [
            numpy_helper.to_array(each)
            for each in model.graph.initializer
            if each.data_type == onnx.TensorProto.INT8 and len(each.dims) == 4
        ]
        kinds.add(len(weights))
    assert kinds == {len(weights)} and weights


def test_a_second_build_does_nothing(small_build):
    before = {path: path.stat().st_mtime_ns for path in (small_build / "out").rglob("*")}
    result = Session(small_build / "build.toml").build()
    assert result.ran == [] and result.changed == []
    assert before == {path: path.stat().st_mtime_ns for path in (small_build / "out").rglob("*")}


def test_only_evaluate_is_given_the_test_split(small_build):
    session = Session(small_build / "build.toml")
    for stage in plan(session.request):
        opens_test = any((ref.stage, ref.artefact) == ("data", "test") for ref in stage.inputs.values())
        assert opens_test == stage.name.startswith("evaluate ")


def test_every_model_and_engine_is_followed_by_a_gate(small_build):
    session = Session(small_build / "build.toml")
    names = [stage.name for stage in plan(session.request)]
    made = [name for name in names if name.split()[0] in ("export", "simplify", "quantize", "compile")]
    # The quantized teacher is there to be compared with: it may be as bad as it is, and stops nothing.
    made = [name for name in made if not name.startswith("quantize teacher")]
    assert made and all(names[names.index(name) + 1] == f"gate {name}" for name in made)


def test_removing_a_target_removes_its_engines_and_trains_nothing(project):
    target = '\n[[targets]]\ndevice = "this-machine"\ntoolchain = "openvino"\n'
    # The student's widths follow the alignment of all targets, which is the same for these two.
    result = edit(project, (target, "")).build()
    assert result.ran == ["report"]
    assert [folder.name for folder in (project / "out" / "engines").iterdir()] == ["any-onnxruntime"]
    assert len(load(project / "out" / "report.json").targets) == 1


def test_a_changed_quantizer_runs_what_depends_on_it_and_explain_says_so(project):
    session = edit(project, ("samples = 64\n\n#", 'samples = 64\nmethod = "minmax"\n\n#'))
    decisions = {decision.stage: decision for decision in session.explain()}
    changed = decisions["quantize student any-onnxruntime"]
    assert changed.action == "run" and changed.reasons == ('settings.method: "mse" → "minmax"',)
    assert decisions["student"].action == "reuse"
    assert decisions["compile any-onnxruntime student fp32"].action == "reuse"
    assert decisions["report"].action == "wait"


def test_thorough_quantization_tries_repairs_and_is_gated_by_the_original(project):
    session = edit(project, ("samples = 64\n\n#", 'samples = 64\neffort = "thorough"\n\n#'))
    assert not [stage.name for stage in plan(session.request) if stage.name.startswith("observe")]
    entries = session.run_only("gate quantize student any-onnxruntime")
    trials = json.loads((entries["quantize student any-onnxruntime"].out / "search.json").read_text())[
        "trials"
    ]
    assert len(trials) > 2 and set(trials[0]) == {"recipe", "distance", "kept"}
    gate = json.loads((entries["gate quantize student any-onnxruntime"].out / "gate.json").read_text())
    assert gate["passed"] and gate["reference"] == "float ONNX"


def test_mixed_bits_ship_beside_int8_and_smaller(small_build):
    record = load(small_build / "out" / "report.json")
    target = next(target for target in record.targets if target.name == "any-onnxruntime")
    assert target.products == ["student int8", "student mixed"]
    models = small_build / "out" / "models"
    packed = (models / "student-mixed-any-onnxruntime.packed").stat().st_size
    assert packed < (models / "student-int8-any-onnxruntime.onnx").stat().st_size
    assert json.loads((models / "student-mixed-any-onnxruntime.bits.json").read_text())["average_bits"] <= 5.0
    assert any(gate.name == "mix student any-onnxruntime" for gate in record.gates)


def test_a_failing_gate_stops_the_build_and_leaves_a_reproduction(project):
    session = edit(project, ("[gates.limits.quantize]\n", "[gates.limits.quantize]\nrelative_l2 = 1e-6\n"))
    before = (project / "out" / "report.html").read_bytes()
    with pytest.raises(GateFailed, match="relative_l2") as caught:
        session.build()
    assert caught.value.exit_code == 1
    assert "first diverging tensor" in str(caught.value)
    repro = project / "out" / "repro" / "gate-quantize-student-any-onnxruntime"
    assert (repro / "reproduce.py").is_file() and (repro / "inputs.npz").is_file()
    assert (project / "out" / "report.html").read_bytes() == before
    # What was built before the gate is kept, and a limit it meets lets the build go on from there.
    result = edit(project, ("relative_l2 = 1e-6", "relative_l2 = 0.9")).build()
    assert "quantize student any-onnxruntime" not in result.ran
    assert not repro.exists()


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        (('"Sneaker"', '"Snaeker"'), ConfigError, "did you mean 'Sneaker'"),
        (("widths = [16, 32]", "widths = [16]"), ConfigError, "refused its arguments"),
        (("classes = 10", "classes = 9"), ModelError, "should give 10 logits"),
        (("channels = 1", "channels = 3"), ModelError, "does not take images"),
        (("macs = 0.5", "macs = 0.001"), ConfigError, "the smallest reachable costs"),
        (('device = "any-onnxruntime"', 'device = "any-onxruntime"'), ConfigError, "no device"),
        (('toolchain = "openvino"', 'toolchain = "tensorrt"'), ConfigError, "no toolchain"),
        (
            ('["fp32", "int8", "mixed"]', '["fp16", "int8", "mixed"]'),
            CapabilityError,
            "fp16",
        ),
        (("limit = 600", "limit = 600\nselect = 0.9"), ConfigError, "must leave something for training"),
    ],
)
def test_bad_input_is_named_before_anything_is_trained(project, change, kind, words):
    with pytest.raises(kind, match=words):
        edit(project, change).build()


def test_two_targets_of_one_name_are_refused(project):
    with pytest.raises(ConfigError, match="two targets are named"):
        edit(project, ('device = "this-machine"\ntoolchain = "openvino"', 'device = "any-onnxruntime"'))


def test_a_checkpoint_takes_the_place_of_training(project):
    checkpoint = project / "teacher.safetensors"
    shutil.copy(project / "out" / "models" / "teacher.safetensors", checkpoint)
    change = ("[model.training]\nepochs = 2\nbatch_size = 64", 'checkpoint = "teacher.safetensors"')
    session = edit(project, ("\n\n[model.training]\nepochs = 2\nbatch_size = 64", f"\n{change[1]}"))
    result = session.build()
    # The same weights: only the stage that reads them, and the report that names them, run.
    assert result.ran == ["teacher", "report"]
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    with pytest.raises(ModelError, match="not a whole safetensors file"):
        Session(project / "build.toml").build()


def test_a_missing_toolchain_is_named_with_the_extra_that_brings_it(project, monkeypatch):
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(
        "pipeline.packages.importlib.util.find_spec", lambda name: None if name == "openvino" else real(name)
    )
    with pytest.raises(ToolchainMissing, match="'openvino', which is not installed") as caught:
        Session(project / "build.toml").build()
    assert caught.value.exit_code == 3 and "edgewright[openvino]" in caught.value.mend


def test_a_store_in_the_way_is_named(project):
    (project / "taken").write_text("a file")
    session = edit(project, ('version = "1.2.3"', 'version = "1.2.3"\nstore = "taken"'))
    with pytest.raises(StoreError, match="file is where a folder should be"):
        session.build()


def test_a_damaged_output_is_made_again(project):
    session = Session(project / "build.toml")
    session.build()
    entry = session.runner.entries["simplify student"]
    (entry.out / "model.onnx").write_bytes(b"short")
    result = Session(project / "build.toml").build()
    # The report runs too: it says what every stage cost, and when.
    assert result.ran == ["simplify student", "report"]
    assert session.runner.store.find(entry.key).files == entry.files


def test_a_removed_result_is_handed_over_again(project):
    (project / "out" / "report.html").unlink()
    (project / "out" / "models" / "student.onnx").write_bytes(b"changed by hand")
    result = Session(project / "build.toml").build()
    assert result.ran == [] and sorted(result.changed) == ["models/student.onnx", "report.html"]


def test_errors_of_a_build_are_the_projects_own(project):
    with pytest.raises(EdgewrightError):
        edit(project, ('kind = "fashion-mnist"', 'kind = "npz"\npath = "nothing.npz"')).build()


def test_a_build_can_start_from_somebodys_onnx_file(project, tmp_path):
    """An ONNX file made by hand with onnx.helper, external data beside it."""
    own = tmp_path / "own"
    own.mkdir()
    make_foreign_onnx(own / "foreign.onnx")
    (own / "build.toml").write_text(
        """
[project]
name = "foreign"
[data]
kind = "fashion-mnist"
limit = 300
[model]
onnx = "foreign.onnx"
[gates]
samples = 32
[gates.limits.quantize]
relative_l2 = 1.0
cosine = 0.5
top1_agreement = 0.5
[gates.limits.engine-int8]
top1_agreement = 0.8
[measure]
samples = 20
seconds = 0.1
warmup_s = 0.01
[[targets]]
device = "any-onnxruntime"
"""
    )
    result = Session(own / "build.toml").build()
    record = load(own / "out" / "report.json")
    assert [network.name for network in record.networks] == ["model"]
    assert [each.variant for each in record.results] == ["model fp32", "model int8"]
    assert not any(name.startswith(("teacher", "export")) for name in result.ran)
    assert Session(own / "build.toml").build().ran == []
    (own / "foreign.onnx.data").unlink()
    with pytest.raises(ModelError, match=r"foreign\.onnx\.data"):
        Session(own / "build.toml").build()


def test_a_models_data_belong_to_its_key_wherever_they_lie(tmp_path):
    (tmp_path / "build.toml").write_text(
        '[project]\nname = "own"\n[data]\nkind = "fashion-mnist"\n[model]\nonnx = "own.onnx"\n'
        '[[targets]]\ndevice = "any-onnxruntime"\n'
    )
    (tmp_path / "weights").mkdir()
    (tmp_path / "notes.txt").write_text("not the model's")
    make_foreign_onnx(tmp_path / "own.onnx", "weights/own.bin")
    (stage,) = (one for one in Session(tmp_path / "build.toml").stages() if one.name == "model")
    assert dict(stage.beside) == {"weights/own.bin": tmp_path / "weights" / "own.bin"}


def make_foreign_onnx(path, location="foreign.onnx.data"):
    rng = np.random.default_rng(0)
    tensors = {
        "w1": rng.normal(size=(8, 1, 3, 3)),
        "b1": rng.normal(size=8),
        "w2": rng.normal(size=(10, 8 * 7 * 7)) * 0.1,
        "b2": rng.normal(size=10),
    }
    node = onnx.helper.make_node
    graph = onnx.helper.make_graph(
        [
            node("Conv", ["image", "w1", "b1"], ["c"], strides=[2, 2], pads=[1, 1, 1, 1]),
            node("Relu", ["c"], ["r"]),
            node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
            node("Flatten", ["p"], ["f"]),
            node("Gemm", ["f", "w2", "b2"], ["scores"], transB=1),
        ],
        "foreign",
        [onnx.helper.make_tensor_value_info("image", 1, [1, 1, 28, 28])],
        [onnx.helper.make_tensor_value_info("scores", 1, [1, 10])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in tensors.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path, save_as_external_data=True, location=location, size_threshold=0)


def test_the_report_json_carries_the_settings_as_validated(small_build):
    document = json.loads((small_build / "out" / "report.json").read_text())
    assert document["project"]["settings"]["quantize"]["method"] == "mse"


OWN_CODE = """
import numpy as np
import torch
from torch import nn

def images():
    rng = np.random.default_rng(0)
    labels = np.arange(240) % 3
    pixels = rng.random((240, 16, 16, 3)).astype(np.float32) * 0.3
    for image, label in zip(pixels, labels):
        image[..., label] += 0.7
    return {"images": pixels, "labels": labels, "classes": ["red", "green", "blue"]}

class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1), nn.Hardswish(), nn.Conv2d(width, width, 3, groups=width),
            nn.BatchNorm2d(width), nn.ReLU6(), nn.MaxPool2d(2), nn.Conv2d(width, width, 1), nn.ReLU(),
        )
        self.head = nn.Linear(width * 7 * 7, 3)

    def forward(self, x):
        return self.head(torch.flatten(self.body(x), 1))

def net(width):
    return Net(width)
"""


def test_a_network_and_data_of_ones_own_with_open_batch_and_the_legacy_exporter(tmp_path):
    (tmp_path / "mine.py").write_text(OWN_CODE)
    (tmp_path / "build.toml").write_text(
        """
[project]
name = "mine"
[data]
kind = "python"
factory = "mine:images"
[model]
factory = "mine:net"
arguments = { width = 16 }
[model.training]
epochs = 4
batch_size = 16
learning_rate = 0.05
[student]
macs = 0.6
importance = "di-greedy"
[student.training]
epochs = 4
batch_size = 16
learning_rate = 0.02
[export]
exporter = "legacy"
opset = 17
dynamic_batch = true
[measure]
samples = 20
seconds = 0.1
warmup_s = 0.01
[[targets]]
device = "this-machine"
toolchain = "openvino"
"""
    )
    with pytest.raises(ConfigError, match="not edgewright's own"):
        Session(tmp_path / "build.toml")
    Session(tmp_path / "build.toml", allow_code=True).build()
    record = load(tmp_path / "out" / "report.json")
    assert record.networks[0].opset == 17 and record.networks[0].input_shape == [-1, 3, 16, 16]
    assert record.task.outputs == ["red", "green", "blue"]
    assert all(result.accuracy.top1 > 0.9 for result in record.results)
    # Code of one's own is part of the key: a change of it runs what depends on it.
    (tmp_path / "mine.py").write_text(OWN_CODE.replace("nn.ReLU6()", "nn.ReLU()"))
    from pipeline import stage

    for cached in (stage._facts, stage._imports):
        cached.cache_clear()
    decisions = {each.stage: each for each in Session(tmp_path / "build.toml", allow_code=True).explain()}
    assert decisions["data"].action == "run" and decisions["data"].reasons[0].startswith("code: ")


def pays(project, otherwise):
    return edit(project, ("[measure]", f'[pays]\nmargin = 100.0\notherwise = "{otherwise}"\n\n[measure]'))


def test_an_engine_that_does_not_pay_gives_way_to_its_float_twin(project):
    result = pays(project, "float").build()
    assert [stage for stage in result.ran if not stage.startswith("golden")] == ["report"]
    record = load(project / "out" / "report.json")
    assert {product for target in record.targets for product in target.products} == {"student fp32"}
    build = open_build(project / "out", project)
    assert [each.name for each in build.products(build.target("any-onnxruntime"))] == ["student fp32"]
    assert bundle_paths(build.target("any-onnxruntime"), build.products(build.target("any-onnxruntime"))[0])
    unmet = [each for each in record.requirements if each.kind == "pays"]
    assert len(unmet) == 3 and not any(each.passed for each in unmet)
    assert {each.role for each in record.results if each.variant == "student int8"} == {"set aside"}


def test_a_build_that_demands_what_does_not_hold_stops_after_handing_everything_over(project):
    session = pays(project, "stop")
    for _ in range(2):
        with pytest.raises(GateFailed, match="does not pay") as caught:
            session.build()
        assert caught.value.exit_code == 1
    record = load(project / "out" / "report.json")
    assert [each.demanded for each in record.requirements if each.kind == "pays"] == [True] * 3


def test_timings_that_are_not_stable_stop_a_build_that_demands_it(project):
    session = edit(project, ("\nseconds = 0.1", '\nseconds = 0.1\nmost_seconds = 0.01\nstable = "demand"'))
    with pytest.raises(GateFailed, match="too few samples") as caught:
        session.build()
    left = json.loads(Path(caught.value.where).read_text())
    assert left["variants"]["student int8"]["reasons"]


def test_every_step_of_a_build_is_accounted_for(small_build):
    record = load(small_build / "out" / "report.json")
    steps = [(gain.step, gain.before, gain.after) for gain in record.gains[: len(record.gains) // 2]]
    assert steps == [
        ("slim and train student", "teacher fp32", "student fp32"),
        ("quantize student", "student fp32", "student int8"),
    ]
    assert all(gain.seconds > 0 and gain.accuracy_interval for gain in record.gains)
