"""build.toml: what is wrong is named by its key, with what was found and what is allowed."""

import json
from pathlib import Path

import jsonschema
import pytest

from pipeline.config import Settings, json_schema, load_settings
from targets.errors import ConfigError

ROOT = Path(__file__).parents[2]
GOOD = """
[project]
name = "sorter"
[data]
kind = "fashion-mnist"
[model]
factory = "pipeline.zoo:resnet"
[[targets]]
device = "any-onnxruntime"
"""
UNLABELLED = 'kind = "images"\npath = "images"\nlabelled = false'


def load(tmp_path, text, **rest):
    path = tmp_path / "build.toml"
    path.write_text(text)
    return load_settings(path, **rest)


def test_defaults_fill_what_is_left_out(tmp_path):
    settings = load(tmp_path, GOOD)
    assert settings.export.opset == 18 and settings.targets[0].precisions is None
    assert settings.student is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("name =", "nmae ="), ["project.nmae: unknown key", "did you mean 'name'", "project.name: missing"]),
        (('device = "any', 'devise = "any'), ["targets.0.devise: unknown key (did you mean 'device'?)"]),
        (('kind = "fashion-mnist"', 'kind = "cifar"'), ["data.kind", "'cifar'", "fashion-mnist"]),
        (("[model]", "[task]\nclasses = ['a', 'a']\n[model]"), ["task", "classes named twice: a"]),
        (("[model]", "[task]\nclasses = ['a']\n[model]"), ["one output cannot tell anything apart"]),
        (("[model]", "[student]\nmacs = 1.5\n[model]"), ["student.macs", "1.5", "less than or equal to 1"]),
        (("[model]", "[student]\nmacs = 'half'\n[model]"), ["student.macs", "'half'", "number"]),
        (("[model]", "[model]\nonnx = 'x.onnx'"), ["name either factory or onnx"]),
        (('kind = "fashion-mnist"', 'kind = "npz"'), ['kind "npz" needs path']),
        (("[model]", "[gates.limits.simplfy]\ncosine = 1\n[model]"), ["gates.limits.simplfy", "'simplify'"]),
        (("[data]", "[data]\nlabelled = false"), ["data:", 'kind "fashion-mnist" has labels']),
        (("[data]", "[data]\nclasses = ['a', 'b']"), ["data:", "remove data.classes", "task.classes"]),
        (
            ('kind = "fashion-mnist"', UNLABELLED),
            ["data:", "labelled = false needs classes", "in their order"],
        ),
        (
            ('kind = "fashion-mnist"', f"{UNLABELLED}\nclasses = ['a', 'b', 'a']"),
            ["data:", "classes named twice: a"],
        ),
        (
            ('kind = "fashion-mnist"', f"{UNLABELLED}\nclasses = ['a', 'b']"),
            ["cannot train the network they are labelled by", "model.checkpoint or model.onnx"],
        ),
        (
            ("[model]", "[student]\nrepair = false\n[student.training]\nepochs = 0\n[model]"),
            ["student:", "epochs = 0 without repair", "set repair = true, or train it"],
        ),
        (("[[targets]]", "[model.training]\nepochs = 0\n[[targets]]"), ["model.training.epochs", "found 0"]),
        (("[[targets]]", "[targets]"), ["targets", "list"]),
        (("[project]", "[project"), ["not valid TOML"]),
    ],
)
def test_what_is_wrong_is_named(tmp_path, change, words):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, GOOD.replace(*change))
    for word in words:
        assert word in str(caught.value)
    assert caught.value.exit_code == 2 and "build.toml" in caught.value.where


def test_a_student_need_not_be_trained(tmp_path):
    settings = load(tmp_path, GOOD + "[student.training]\nepochs = 0\n")
    assert settings.student.training.epochs == 0
    # Naming another key of the table leaves a student's own default.
    settings = load(tmp_path, GOOD + "[student.training]\nflip = true\n")
    assert settings.student.training.epochs == 5


def test_a_missing_build_file_says_how_to_get_one(tmp_path):
    with pytest.raises(ConfigError, match="no such build file") as caught:
        load_settings(tmp_path / "build.toml")
    assert "edgewright init" in caught.value.mend


def test_code_of_ones_own_has_to_be_allowed(tmp_path):
    text = GOOD.replace("pipeline.zoo:resnet", "evil:run")
    with pytest.raises(ConfigError, match="not edgewright's own"):
        load(tmp_path, text)
    assert load(tmp_path, text, allow_code=True).model.factory == "evil:run"
    with pytest.raises(ConfigError, match="module:function"):
        load(tmp_path, GOOD.replace("pipeline.zoo:resnet", "pipeline.zoo.resnet"))


def test_the_published_schema_is_current_and_takes_the_examples():
    published = json.loads((ROOT / "docs/schema/build.schema.json").read_text())
    assert published == json_schema(), "regenerate: python -m pipeline.config > docs/schema/build.schema.json"
    jsonschema.Draft202012Validator.check_schema(published)
    sweeps = set((ROOT / "examples").rglob("sweep.toml"))
    for example in sorted(set((ROOT / "examples").rglob("*.toml")) - sweeps):
        settings = load_settings(example, allow_code=True)
        jsonschema.validate(json.loads(settings.model_dump_json(exclude_unset=True)), published)


def test_the_documentation_names_every_key():
    text = (ROOT / "docs/build-file.md").read_text()
    for name, field in Settings.model_fields.items():
        assert f"[{name}" in text, f"docs/build-file.md has no section [{name}]"
        for kind in getattr(field.annotation, "__args__", (field.annotation,)):
            for key in getattr(kind, "model_fields", {}):
                assert f"`{key}`" in text, f"docs/build-file.md does not explain {name}.{key}"


def test_every_criterion_can_be_chosen():
    from typing import get_args

    from pipeline.compress.importance import CRITERIA
    from pipeline.config import Criterion

    assert list(get_args(Criterion)) == list(CRITERIA)
