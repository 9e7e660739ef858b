"""Intel's NPU beyond the shared contract: where its compiler is found, and what is refused."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from small_graphs import CASES, conv_relu

from targets.errors import CapabilityError, ModelError, ToolchainMissing
from targets.npu import BLOB_FILE, Npu, check_blob, compilers
from targets.npu.compilers import Compiler, find_compiler
from targets.private import VARIABLE
from targets.toolchain import Engine, EngineOptions

METEOR_LAKE = {"NPU_PLATFORM": "3720"}
needs_compiler = pytest.mark.skipif(
    not Npu().probe().available, reason=f"npu: {Npu().probe().detail}; {Npu().probe().mend}"
)


@pytest.fixture
def fake_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiler that writes what the model's name asks for."""

    def compile_(self: Compiler, model: Path, blob: Path, platform: str) -> None:
        blob.write_bytes(b"\x7fELF" + bytes(64) + f"compiler=8.4;npu={platform};t=4\0OVNPU".encode())

    monkeypatch.setattr(Compiler, "compile", compile_)
    found = Compiler("wine", "2026.4.1", "as a test has it")
    monkeypatch.setattr("targets.npu.find_compiler", lambda: found)


def compiled(tmp_path: Path, model: onnx.ModelProto, precision: str = "fp16", **raw: str) -> Engine:
    path, folder = tmp_path / "network.onnx", tmp_path / "engine"
    onnx.save(model, path)
    folder.mkdir()
    options = EngineOptions(precision, raw={**METEOR_LAKE, **raw})
    return Npu().compile(path, "intel-npu-3720", options, folder)


def test_what_is_missing_is_said_with_the_next_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    monkeypatch.setattr(compilers, "beside_plugin", lambda: False)
    monkeypatch.setattr(compilers, "DEVICE_NODE", tmp_path / "accel0")
    assert find_compiler() is None
    probe = Npu().probe()
    assert not probe.available and "toolchain install npu" in (probe.mend or "")
    assert Npu().fingerprint() == {"npu": "missing"}
    with pytest.raises(ToolchainMissing):
        compiled(tmp_path, conv_relu())


def test_the_compiler_beside_the_plugin_goes_before_wine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    libraries = tmp_path / "npu" / "openvino" / "libs"
    libraries.mkdir(parents=True)
    for name in (compilers.WINDOWS_LIBRARY, compilers.PROGRAM):
        (libraries / name).touch()
    (tmp_path / "npu" / "openvino-2026.4.1.dist-info").mkdir()
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    monkeypatch.setattr(compilers.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(compilers, "DEVICE_NODE", tmp_path / "accel0")
    for beside, way in ((True, "native"), (False, "wine")):
        monkeypatch.setattr(compilers, "beside_plugin", lambda beside=beside: beside)
        found = find_compiler()
        assert found is not None and found.way == way
    assert found.version == "2026.4.1" and found.folder == libraries


@pytest.mark.usefixtures("fake_compiler")
def test_a_dynamic_shape_is_refused_before_it_is_compiled(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"its shape is \[-1, 3, 12, 12\]") as caught:
        compiled(tmp_path, CASES["dynamic batch"].model)
    assert "input x" in str(caught.value) and "fixed batch" in str(caught.value)


@pytest.mark.usefixtures("fake_compiler")
def test_fp32_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CapabilityError, match="fp16 and int8"):
        compiled(tmp_path, conv_relu(), "fp32")


@pytest.mark.usefixtures("fake_compiler")
@pytest.mark.parametrize(
    ("raw", "reason"),
    [({"NPU_PLATFORM": "newest"}, "NPU_PLATFORM is 'newest'"), ({"NPU_TURBO": "YES"}, "no option NPU_TURBO")],
)
def test_other_options_are_refused(tmp_path: Path, raw: dict[str, str], reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        compiled(tmp_path, conv_relu(), **raw)


@pytest.mark.usefixtures("fake_compiler")
def test_a_blob_is_checked_when_it_is_opened(tmp_path: Path) -> None:
    engine = compiled(tmp_path, conv_relu())
    assert engine.notes[0] == "compiler 8.4 for NPU 3720, called as a test has it"
    blob = engine.folder / BLOB_FILE
    with pytest.raises(ModelError, match="for NPU 3720, not for 4000"):
        check_blob(blob, "4000")
    with pytest.raises(ToolchainMissing, match="there is no NPU"):
        Npu().open(engine)
    blob.write_bytes(blob.read_bytes()[:-8])
    with pytest.raises(ModelError, match="no whole blob"):
        Npu().open(engine)


@needs_compiler
@pytest.mark.parametrize("platform", ["3720", "4000", "5010"])
def test_int8_compiles_for_every_npu(tmp_path: Path, platform: str) -> None:
    engine = compiled(tmp_path, CASES["int8 unsigned"].model, "int8", NPU_PLATFORM=platform)
    assert f"for NPU {platform}" in engine.notes[0]


@needs_compiler
def test_the_compilers_reason_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="Unknown value for platform: 9999") as caught:
        compiled(tmp_path, conv_relu(), NPU_PLATFORM="9999")
    assert "\n" not in caught.value.what and ".cpp" not in caught.value.what
