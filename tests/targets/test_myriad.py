"""Myriad X beyond the shared contract: what must be refused because the old runtime would not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from small_graphs import CASES, conv_relu

from targets.errors import CapabilityError, ModelError, ToolchainMissing
from targets.myriad import BLOB_FILE, Myriad
from targets.myriad.child import EmptyMap, plugins_xml
from targets.private import VARIABLE, private_folder
from targets.toolchain import Engine, EngineOptions

FP16 = EngineOptions("fp16")
needs_myriad = pytest.mark.skipif(
    not Myriad().probe().available, reason=f"myriad: {Myriad().probe().detail}; {Myriad().probe().mend}"
)


@pytest.fixture
def fake_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Libraries that are there by name alone: what is refused before they are called."""
    libraries = tmp_path / "toolchains" / "myriad" / "openvino" / "libs"
    libraries.mkdir(parents=True)
    (libraries / "libmyriadPlugin.so").touch()
    (tmp_path / "toolchains" / "myriad" / "openvino-2021.4.2.dist-info").mkdir()
    monkeypatch.setenv(VARIABLE, str(tmp_path / "toolchains"))


def compiled(tmp_path: Path, model: onnx.ModelProto, options: EngineOptions = FP16) -> Engine:
    path, folder = tmp_path / "network.onnx", tmp_path / "engine"
    onnx.save(model, path)
    folder.mkdir()
    return Myriad().compile(path, "oak-rvc2", options, folder)


def test_the_private_folder_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "/opt/toolchains")
    assert private_folder("myriad") == Path("/opt/toolchains/myriad")
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert private_folder("myriad") == Path("/data/edgewright/toolchains/myriad")


def test_what_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    probe = Myriad().probe()
    assert not probe.available and "toolchain install myriad" in (probe.mend or "")
    with pytest.raises(ToolchainMissing):
        compiled(tmp_path, conv_relu(13))


@pytest.mark.usefixtures("fake_install")
def test_opset_18_is_refused_because_it_would_be_silently_wrong(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"opset 18: .* silently wrong") as caught:
        compiled(tmp_path, conv_relu(18))
    assert caught.value.mend == "export at opset 13, or let a build convert it"


@pytest.mark.usefixtures("fake_install")
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_only_fp16_is_compiled(tmp_path: Path, precision: str) -> None:
    with pytest.raises(CapabilityError, match="computes in fp16"):
        compiled(tmp_path, conv_relu(13), EngineOptions(precision))


@pytest.mark.usefixtures("fake_install")
@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ({"MYRIAD_NUMBER_OF_SHAVES": "4"}, "go together"),
        ({"MYRIAD_NUMBER_OF_SHAVES": "x", "MYRIAD_NUMBER_OF_CMX_SLICES": "4"}, "a number is needed"),
        ({"MYRIAD_NUMBER_OF_SHAVES": "12", "MYRIAD_NUMBER_OF_CMX_SLICES": "12"}, "one stream alone"),
    ],
)
def test_shaves_that_would_not_be_kept_to_are_refused(
    tmp_path: Path, raw: dict[str, str], reason: str
) -> None:
    with pytest.raises(ModelError, match=reason):
        compiled(tmp_path, conv_relu(13), EngineOptions("fp16", raw=raw))


def test_settings_are_quoted_in_the_plugins_file() -> None:
    text = plugins_xml(Path("/libs & more"), ['KEY=a"b<c'])
    assert "value='a\"b&lt;c'" in text and '"/libs &amp; more/libmyriadPlugin.so"' in text


def test_an_empty_map_points_at_its_own_head() -> None:
    map_ = EmptyMap()
    assert map_.leftmost == map_.rightmost and map_.count == 0 and map_.parent is None


@needs_myriad
def test_a_blob_is_read_back_and_repeats_to_the_byte(tmp_path: Path) -> None:
    engines = []
    for part in ("one", "other"):
        (tmp_path / part).mkdir()
        raw = {"MYRIAD_NUMBER_OF_SHAVES": "4", "MYRIAD_NUMBER_OF_CMX_SLICES": "4"}
        engines.append(compiled(tmp_path / part, conv_relu(13), EngineOptions("fp16", raw=raw)))
    assert engines[0].files == engines[1].files
    assert engines[0].notes[-1].endswith("on 4 shaves with 4 CMX slices")
    blob = engines[0].folder / BLOB_FILE
    blob.write_bytes(blob.read_bytes()[:-8])
    with pytest.raises(ModelError, match="not whole"):
        Myriad().open(engines[0])


@needs_myriad
def test_a_blob_does_not_run_here(tmp_path: Path) -> None:
    with pytest.raises(ToolchainMissing, match="cannot run on this machine"):
        Myriad().open(compiled(tmp_path, conv_relu(13)))


@needs_myriad
def test_a_dynamic_batch_is_refused_in_one_line(tmp_path: Path) -> None:
    model = CASES["dynamic batch"].model
    model = onnx.ModelProto.FromString(model.SerializeToString())
    model.opset_import[0].version = 13
    with pytest.raises(ModelError, match="dynamic node x") as caught:
        compiled(tmp_path, model)
    assert "\n" not in caught.value.what and ".cpp" not in caught.value.what


@needs_myriad
def test_names_of_inputs_and_outputs_are_the_models(tmp_path: Path) -> None:
    engine = compiled(tmp_path, conv_relu(13))
    assert [(spec.name, spec.shape) for spec in engine.inputs] == [("x", (1, 3, 12, 12))]
    assert [(spec.name, spec.shape) for spec in engine.outputs] == [("y", (1, 16, 12, 12))]
    assert {spec.dtype for spec in (*engine.inputs, *engine.outputs)} == {np.dtype(np.float32).name}
