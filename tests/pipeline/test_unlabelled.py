"""Images without labels: the network everything starts from says what they show, and nothing is trained."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from onnx import helper
from onnx_networks import make_model, residual_net, saved
from PIL import Image

from pipeline.cli import main
from pipeline.datasets.fashion_mnist import FASHION_CLASSES, fashion_mnist, find_fashion_mnist
from pipeline.report import load
from pipeline.session import Session
from pipeline.stage import Context
from pipeline.stages import labels
from pipeline.stages.data import read_split
from pipeline.stages.networks import take_teacher
from pipeline.task import SPLITS
from pipeline.verbs.summary import build_text
from targets.errors import ModelError
from targets.preprocess import Preprocess

TEACHER = Path(__file__).parents[2] / "examples" / "footwear" / "teacher.safetensors"
COUNT = 360
SHARED = f"""
[project]
name = "unlabelled"

[data]
labelled = false
classes = {json.dumps(FASHION_CLASSES)}
calibrate = 0.1
test = 0.3
mean = [0.2860]
std = [0.3530]
KIND

[task]
classes = ["Sandal", "Sneaker", "Ankle boot"]
other = true

[model]
MODEL

[quantize]
samples = 32

[gates]
samples = 16
[gates.limits.quantize]
top1_agreement = 0.8
[gates.limits.engine-int8]
top1_agreement = 0.8

[measure]
samples = 20
seconds = 0.1
warmup_s = 0.01

[[targets]]
device = "any-onnxruntime"
"""
STUDENT = """
[student]
macs = 0.5
scoring_images = 128
[student.training]
epochs = 0
[export]
exporter = "legacy"
opset = 17
"""
TORCH = f"""
factory = "pipeline.zoo:resnet"
arguments = {{ classes = 10, channels = 1, blocks = [1, 1, 1], widths = [32, 64, 128] }}
checkpoint = "{TEACHER}"
"""


def build_file(folder: Path, kind: str, model: str, more: str = "") -> Path:
    (folder / "build.toml").write_text(SHARED.replace("KIND", kind).replace("MODEL", model) + more)
    return folder / "build.toml"


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return fashion_mnist(find_fashion_mnist(download=False)).images[-COUNT:]


@pytest.fixture(scope="module")
def built(images, tmp_path_factory) -> Path:
    """Folder of a finished build from image files, some in folders and some not."""
    folder = tmp_path_factory.mktemp("unlabelled")
    for number, image in enumerate(images):
        place = folder / "images" / ("." if number % 2 else f"line/{number % 5}")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(place / f"{number}.png")
    Session(build_file(folder, 'kind = "images"\npath = "images"', TORCH, STUDENT)).build()
    return folder


def test_results_are_agreement_with_the_teacher_and_never_called_accuracy(built):
    record = load(built / "out" / "report.json")
    assert record.data.labels == "teacher" and sum(record.data.split_sizes.values()) == COUNT
    agreement = {result.variant: result.accuracy.top1 for result in record.results}
    assert agreement["teacher fp32"] > 0.95
    # A coin among four outputs would agree on a quarter; nothing here was trained.
    assert agreement["student int8"] > 0.7
    (headline,) = record.targets[0].headlines
    assert "agreement with the teacher" in headline and "whose agreement is" in headline
    for name in ("report.html", "report.md"):
        text = (built / "out" / name).read_text().replace("compare.accuracy_drop", "")
        assert "The images have no labels" in text and "accuracy" not in text.lower().replace(
            "not accuracy", ""
        )


def test_a_student_that_is_not_trained_says_so(built):
    record = load(built / "out" / "report.json")
    student = next(network for network in record.networks if network.name == "student")
    assert student.origin.endswith("slimmed from the teacher, repaired, not trained")


def test_a_second_build_does_nothing_and_the_console_speaks_of_agreement(built):
    result = Session(built / "build.toml").build()
    assert result.ran == []
    (built / "out" / "report.md").unlink()
    again = build_text(Session(built / "build.toml").build())
    assert "agreement with the teacher" in again and "accuracy" not in again


def test_splits_are_disjoint_and_their_images_are_stored_once(built):
    entries = Session(built / "build.toml").run_only("data", "task", "teacher", "labels")
    seen = set()
    for split in SPLITS:
        pictures, taken_for = read_split(entries["labels"].out / split)
        assert len(pictures) == len(taken_for) and set(taken_for) <= set(range(10))
        seen |= {picture.tobytes() for picture in pictures}
        original = entries["data"].out / split
        assert not (original / "labels.npy").exists()
        assert (original / "images.npy").samefile(entries["labels"].out / split / "images.npy")
    assert len(seen) == COUNT


def test_an_engine_is_evaluated_by_hand_as_agreement(built):
    command = ["evaluate", str(built / "out/engines/any-onnxruntime/student-int8"), "--build"]
    text = CliRunner().invoke(main, [*command, str(built / "build.toml")]).stdout
    assert text.startswith("agreement with the teacher ") and "accuracy" not in text
    document = json.loads(CliRunner().invoke(main, [*command, str(built / "build.toml"), "--json"]).stdout)
    assert document["labels"] == "teacher" and document["images"] > 0


def test_an_onnx_file_labels_an_archive_of_images(built, images, tmp_path):
    np.savez(tmp_path / "images.npz", images=images)
    model = f'onnx = "{built / "out" / "models" / "teacher.onnx"}"'
    path = build_file(tmp_path, 'kind = "npz"\npath = "images.npz"', model, 'precisions = ["fp32"]\n')
    result = Session(path).build()
    assert "labels" in result.ran
    record = load(tmp_path / "out" / "report.json")
    assert record.data.labels == "model"
    assert "agreement with the model" in record.targets[0].headlines[0]


@pytest.mark.parametrize(
    ("kind", "model", "more"), [("torch", TORCH, STUDENT), ("onnx", 'onnx = "model.onnx"', "")]
)
def test_every_label_comes_from_the_labels_stage(tmp_path, kind, model, more):
    np.savez(tmp_path / "images.npz", images=np.zeros((40, 28, 28), np.uint8))
    session = Session(build_file(tmp_path, 'kind = "npz"\npath = "images.npz"', model, more))
    names = []
    for stage in session.stages():
        names.append(stage.name)
        for ref in stage.inputs.values():
            assert ref.stage in names, "a stage runs before what it takes from"
            if ref.artefact in SPLITS:
                assert ref.stage == ("data" if stage.name == "labels" else "labels")
            if ref.artefact == "test":
                assert stage.name.split()[0] in ("labels", "evaluate")
    assert names[:4] == ["data", "task", "teacher" if kind == "torch" else "model", "labels"]


def context(folder: Path, classes: int, settings: dict | None = None, **files: Path) -> Context:
    """What a stage is given of 12 images of 9 × 9, two channels, without labels."""
    rng = np.random.default_rng(0)
    inputs = {"facts": folder / "facts.json", "preprocess": folder / "preprocess.json"}
    facts = {"classes": [f"class {number}" for number in range(classes)], "image_shape": [9, 9, 2]}
    inputs["facts"].write_text(json.dumps(facts))
    inputs["preprocess"].write_text(json.dumps(Preprocess(1.0, (0.0,), (1.0,), "NCHW", False).__dict__))
    for split in SPLITS:
        inputs[split] = folder / split
        inputs[split].mkdir()
        np.save(inputs[split] / "images.npy", rng.normal(size=(3, 9, 9, 2)).astype(np.float32))
    (folder / "out").mkdir()
    return Context(inputs | files, files, settings or {}, folder / "out", folder / "debris", lambda *_: None)


def test_a_label_is_the_class_with_the_highest_score(tmp_path):
    from pipeline.onnxmodel.session import OnnxSession

    model = saved(residual_net(), tmp_path / "model.onnx")
    given = context(tmp_path, 5, model=model)
    labels.by_onnx(given)
    pictures, found = read_split(given.out / "train")
    scores = OnnxSession(model)({"input": np.moveaxis(np.asarray(pictures), 3, 1)})["logits"]
    assert found.tolist() == scores.argmax(1).tolist()


def test_images_are_copied_where_the_file_system_has_no_hard_links(tmp_path, monkeypatch):
    def refuse(source: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("pipeline.stages.labels.os.link", refuse)
    given = context(tmp_path, 5, model=saved(residual_net(), tmp_path / "model.onnx"))
    labels.by_onnx(given)
    np.testing.assert_array_equal(
        read_split(given.out / "test")[0], np.load(given.inputs["test"] / "images.npy")
    )


def test_a_network_with_another_number_of_outputs_is_named(tmp_path):
    model = saved(residual_net(), tmp_path / "model.onnx")
    with pytest.raises(ModelError, match=r"data\.classes names 4 outputs") as caught:
        labels.by_onnx(context(tmp_path, 4, model=model))
    assert caught.value.where == "data.classes"


def test_a_torch_teacher_with_another_number_of_outputs_is_named(tmp_path):
    arguments = {"classes": 10, "channels": 1, "blocks": [1, 1, 1], "widths": [32, 64, 128]}
    settings = {"model": {"factory": "pipeline.zoo:resnet", "arguments": arguments}, "checkpoint": "t"}
    given = context(tmp_path, 4, settings, checkpoint=TEACHER)
    facts = json.loads(given.inputs["facts"].read_text())
    given.inputs["facts"].write_text(json.dumps(facts | {"image_shape": [28, 28, 1]}))
    with pytest.raises(ModelError, match="should give 4 logits, one a class; found 10 outputs") as caught:
        take_teacher(given)
    assert "data.classes" in caught.value.mend


def test_a_network_that_gives_nan_labels_nothing(tmp_path):
    nodes = [
        helper.make_node("GlobalAveragePool", ["input"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["product"]),
        helper.make_node("Log", ["product"], ["logits"]),
    ]
    weights = {"w": np.tile([-1.0, 1.0, 1.0, -1.0, 1.0], (2, 1))}
    broken = make_model(nodes, weights, {"input": [1, 2, 9, 9]}, {"logits": [1, 5]})
    with pytest.raises(ModelError, match="gives NaN"):
        labels.by_onnx(context(tmp_path, 5, model=saved(broken, tmp_path / "model.onnx")))
