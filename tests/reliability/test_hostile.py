"""Nothing others wrote is ever run: no pickle is loaded, and code only where the user allowed it."""

import ast
import io
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from pipeline.cli import main
from pipeline.config import load_settings
from targets.errors import ConfigError
from tests.reliability.readers import READERS
from tests.reliability.tiny import write_build

ROOT = Path(__file__).parents[2]
SOURCES = [
    path for package in ("pipeline", "calibration", "targets") for path in (ROOT / package).rglob("*.py")
]
# Modules that run code out of data; pickle itself is imported once, for the name of an error.
RUNNING = {"cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
RUNNERS = {"eval", "exec", "compile", "__import__"}


def calls(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}


def imports(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").partition(".")[0]


def test_nothing_in_the_project_can_load_a_pickle_or_run_a_text():
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        imported = set(imports(tree))
        assert not RUNNING & imported, path
        assert "pickle" not in imported or path.name == "network.py", path
        for name, words in calls(tree):
            assert not name.startswith("pickle."), path
            assert name not in RUNNERS, (path, name)
            assert name != "torch.load" or words.get("weights_only") == "True", path
            assert words.get("allow_pickle", "False") == "False", path


class Payload:
    """Unpickled, it makes a folder."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (self.mark,)


def pickled(payload):
    yield "checkpoint", pickle.dumps({"w": payload})
    stream = io.BytesIO()
    np.savez(
        stream, images=np.array([payload], object), input=np.array([payload], object), labels=np.zeros(1, int)
    )
    for name in ("arrays", "inputs", "observations"):
        yield name, stream.getvalue()
    import torch

    stream = io.BytesIO()
    torch.save({"w": payload}, stream)
    yield "checkpoint", stream.getvalue()
    yield "safetensors", stream.getvalue()
    yield "onnx", pickle.dumps(payload)


def test_a_pickle_in_place_of_any_file_is_refused_and_does_nothing(tmp_path):
    mark = tmp_path / "ran"
    for name, data in pickled(Payload(str(mark))):
        assert READERS[name](data) is not None, name
    assert not mark.exists()
    pickle.loads(pickle.dumps(Payload(str(mark))))
    assert mark.exists()


@pytest.mark.parametrize(
    "factory",
    ["os:system", "subprocess:run", "pipeline.verbs.container:run", "pipeline.disk:beside", "tests:x"],
)
def test_a_build_file_runs_nothing_but_networks_of_the_zoo_unless_told(tmp_path, factory):
    path = write_build(tmp_path)
    text = path.read_text().replace('onnx = "model.onnx"', f'factory = "{factory}"\narguments = {{}}')
    path.write_text(text)
    with pytest.raises(ConfigError, match="not edgewright's own"):
        load_settings(path)
    path.write_text(text.replace('kind = "npz"', f'kind = "python"\nfactory = "{factory}"'))
    ended = CliRunner().invoke(main, ["build", str(path)])
    assert ended.exit_code == 2 and not (tmp_path / ".edgewright").exists()


def test_a_hostile_name_in_a_shared_store_reaches_no_file_outside(tmp_path):
    import json

    from pipeline.store import ENTRY_SCHEMA, Store

    key = "ab" + "0" * 62
    folder = tmp_path / "store" / "objects" / "ab" / key
    (folder / "out").mkdir(parents=True)
    (tmp_path / "secret").write_text("s")
    for name in ("../../../../../secret", str(tmp_path / "secret")):
        document = {"schema": ENTRY_SCHEMA, "stage": "s", "key": key, "parts": {}, "files": {name: [1, "0"]}}
        document |= {"seconds": 0.0, "peak_memory_bytes": 0, "finished_at": ""}
        (folder / "entry.json").write_text(json.dumps(document))
        assert Store(tmp_path / "store").find(key) is None
