"""The child process that calls OpenVINO 2021.4.2.

    python -m targets.myriad.child LIBRARIES MODEL BLOB [KEY=VALUE…]

Its C++ interface is called through ctypes by the names its compiler gave it (Itanium C++ ABI, the string of
libstdc++ before C++11, "Ss"). Settings go through the plugins' XML file, which the constructor of Core reads:
the map of settings stays empty. An exception ends the process; what it said is on stderr.
"""

from __future__ import annotations

import ctypes
import os
import sys
import tempfile
from pathlib import Path
from typing import Any, Sequence
from xml.sax.saxutils import quoteattr

STRING = "_ZNSsC1EPKcRKSaIcE"
CORE = "_ZN15InferenceEngine4CoreC1ERKSs"
LOAD = "_ZN15InferenceEngine4Core11LoadNetworkERKSsS2_RKSt3mapISsSsSt4lessISsESaISt4pairIS1_SsEEE"
EXPORT = "_ZN15InferenceEngine17ExecutableNetwork6ExportERKSs"
# Larger than any object of the interface: each holds one or two shared pointers.
OBJECT_BYTES = 256


class EmptyMap(ctypes.Structure):
    """std::map without entries: a comparison, the head of a red-black tree, a count."""

    _fields_ = (
        ("comparison", ctypes.c_size_t),
        ("color", ctypes.c_size_t),
        ("parent", ctypes.c_void_p),
        ("leftmost", ctypes.c_void_p),
        ("rightmost", ctypes.c_void_p),
        ("count", ctypes.c_size_t),
    )

    def __init__(self) -> None:
        head = ctypes.addressof(self) + type(self).color.offset
        super().__init__(leftmost=head, rightmost=head)


def compile_blob(libraries: Path, model: Path, blob: Path, settings: Sequence[str]) -> None:
    """Compile a model and write the blob.

    Args:
        libraries: folder of OpenVINO 2021.4.2's libraries.
        model: ONNX file, opset 13 at most.
        blob: the file to write.
        settings: "KEY=VALUE" for the plugin.
    """
    standard = ctypes.CDLL("libstdc++.so.6", mode=ctypes.RTLD_GLOBAL)
    engine = ctypes.CDLL(str(libraries / "libinference_engine.so"), mode=ctypes.RTLD_GLOBAL)
    with tempfile.NamedTemporaryFile("w", suffix=".xml", encoding="utf-8") as plugins:
        plugins.write(plugins_xml(libraries, settings))
        plugins.flush()
        core, network = ctypes.create_string_buffer(OBJECT_BYTES), ctypes.create_string_buffer(OBJECT_BYTES)
        getattr(engine, CORE)(ctypes.byref(core), _string(standard, plugins.name))
        getattr(engine, LOAD)(
            ctypes.byref(network),
            ctypes.byref(core),
            _string(standard, str(model.resolve())),
            _string(standard, "MYRIAD"),
            ctypes.byref(EmptyMap()),
        )
        getattr(engine, EXPORT)(ctypes.byref(network), _string(standard, str(blob.resolve())))


def plugins_xml(libraries: Path, settings: Sequence[str]) -> str:
    """Return the plugins' file: the Myriad plugin alone, with settings."""
    properties = "".join(
        f"<property key={quoteattr(key)} value={quoteattr(value)}/>"
        for key, _, value in (setting.partition("=") for setting in settings)
    )
    location = quoteattr(str(libraries / "libmyriadPlugin.so"))
    plugin = f'<plugin name="MYRIAD" location={location}><properties>{properties}</properties></plugin>'
    return f"<ie><plugins>{plugin}</plugins></ie>"


def _string(standard: Any, text: str) -> Any:
    made, allocator = ctypes.c_void_p(), ctypes.c_char()
    getattr(standard, STRING)(ctypes.byref(made), ctypes.c_char_p(text.encode()), ctypes.byref(allocator))
    return ctypes.byref(made)


if __name__ == "__main__":
    compile_blob(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
    # Its destructors would wait for a device.
    os._exit(0)
