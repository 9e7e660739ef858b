"""Everything that reads what others wrote refuses what is broken with an error of ours, whatever is in it."""

import io
import json
import random
import struct
import zipfile

import numpy as np
import pytest

from tests.reliability.fuzz_all import RUNS
from tests.reliability.readers import READERS, npz, tar_seeds

MUTATIONS = 25


def mutated(seed, chance):
    """A seed with a few bytes changed, cut out, repeated or put elsewhere."""
    data = bytearray(seed)
    for _ in range(chance.randint(1, 4)):
        start = chance.randrange(len(data) + 1)
        end = min(len(data), start + chance.choice((1, 2, 4, 16, len(data))))
        kind = chance.randrange(5)
        if kind == 0:
            data[start:end] = bytes(chance.choices((0, 0xFF, 0x7F, chance.randrange(256)), k=end - start))
        elif kind == 1:
            del data[start:end]
        elif kind == 2:
            data[start:start] = data[start:end]
        elif kind == 3:
            data[start:end] = str(chance.choice((-1, 0, 2**31, 2**63, 10**30))).encode()
        else:
            data[start:end] = chance.choice((b"[]", b"{}", b"null", b'"', b"../", b"\0", b"[" * 3000))
        data = data or bytearray(b"\0")
    return bytes(data)


@pytest.mark.parametrize("name", READERS)
def test_a_reader_takes_what_is_right_and_refuses_what_is_broken_in_our_words(name):
    reader, chance = READERS[name], random.Random(name)
    seeds = reader.seeds()
    assert name == "signed" or reader(seeds[0]) is None
    for _ in range(MUTATIONS):
        seed = chance.choice(seeds)
        reader(mutated(seed, chance))
        reader(seed[: chance.randrange(len(seed))])


def test_every_reader_is_fuzzed_and_all_together_a_million_times():
    assert set(RUNS) == set(READERS) and sum(RUNS.values()) > 1_000_000


def document(name, **changes):
    return json.dumps(json.loads(READERS[name].seeds()[0]) | changes).encode()


def frame(names, payload):
    content = json.dumps(names).encode() + b"\n" + payload
    return struct.pack(">II", 2, len(content)) + b"{}" + content


def npy(header):
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def sweep(*axes, trials=0):
    text = "[sweep]\nname = 's'\n" + (f"[search]\ntrials = {trials}\n" if trials else "")
    return (text + "".join(f"[[axes]]\nname = 'a{n}'\n{axis}\n" for n, axis in enumerate(axes))).encode()


def renamed(name):
    return READERS["onnx"].seeds()[0].replace(name, b"\xff" * len(name))


def zipped(**members):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return stream.getvalue()


def checkpoint(make):
    import torch

    stream = io.BytesIO()
    torch.save(make(torch), stream)
    return stream.getvalue()


def functions(bodies, calls=()):
    """A model with functions of its own, name → operators, that its graph calls."""
    from onnx import helper

    from tests.reliability.tiny import network

    model = network()
    model.opset_import.append(helper.make_opsetid("own", 1))
    for name, operators in bodies.items():
        nodes = [
            helper.make_node(each, ["x"], ["y"], domain="" if each == "Relu" else "own") for each in operators
        ]
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
        model.functions.append(helper.make_function("own", name, ["x"], ["y"], nodes, opsets))
    model.graph.node.extend(helper.make_node(name, ["logits"], ["more"], domain="own") for name in calls)
    return model.SerializeToString()


def laughs(depth):
    """Each function calls the next twice: a few kilobytes that stand for 2^depth operators."""
    bodies = {f"f{level}": [f"f{level + 1}"] * 2 for level in range(depth)}
    return functions(bodies | {f"f{depth}": ["Relu"]}, ["f0"])


def outside(location):
    from onnx import TensorProto

    from tests.reliability.tiny import network

    model = network()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return model.SerializeToString()


def misshapen():
    from tests.reliability.tiny import network

    model = network()
    model.graph.initializer[2].dims[:] = [1, 4]
    return model.SerializeToString()


def shaped(dims):
    from tests.reliability.tiny import network

    model = network()
    for dim, size in zip(model.graph.input[0].type.tensor_type.shape.dim, dims, strict=True):
        dim.dim_value = size
    return model.SerializeToString()


def nameless():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        member = zipfile.ZipInfo("x")
        member.filename, member.external_attr = "", 0o100644 << 16
        archive.writestr(member, b"")
    return stream.getvalue()


def postscript():
    return b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n8 8 scale\nshowpage\n%%EOF\n"


IMAGES = np.zeros((2, 4, 4), np.uint8)
# What once was an exception of somebody else's, a hang, or memory without bounds; and what never may be.
FOUND = {
    "nested TOML": ("build", lambda: b"a = " + b"[" * 100_000),
    "a number of many digits in TOML": ("build", lambda: b"a = " + b"9" * 10_000),
    "TOML of two megabytes": ("build", lambda: b"# " + b"x" * (2 << 20)),
    "nested TOML of a device": ("device", lambda: b"a = " + b"[" * 100_000),
    "a list for a record of the store": ("entry", lambda: b"[]"),
    "nested lists for a record of the store": ("entry", lambda: b"[" * 100_000),
    "a list for an engine": ("engine", lambda: b"[1]"),
    "an engine's file with a zero in its name": ("engine", lambda: document("engine", files={"a\0": "0"})),
    "an engine whose files are no table": ("engine", lambda: document("engine", files=[1])),
    "nested bits": ("bits", lambda: b"[" * 100_000),
    "endless weights in a channel": (
        "bits",
        lambda: (
            b'{"schema": "edgewright.bits/1", "layers": [{"node": "a", "bits": "8", '
            b'"weights_per_channel": Infinity}]}'
        ),
    ),
    "a path that is a number": ("manifest", lambda: document("manifest", files=[{"path": 5}])),
    "a header that is half a tuple": (
        "frames",
        lambda: frame(["a"], npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2, ")),
    ),
    "numbers of three bytes": (
        "frames",
        lambda: frame(["a"], npy("{'descr': '<f3', 'fortran_order': False, 'shape': (2,), }")),
    ),
    "an array larger than all memory": (
        "header",
        lambda: npy(f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({1 << 50},), }}"),
    ),
    "names of no letters, without end": (
        "header",
        lambda: npy(f"{{'descr': '<U0', 'fortran_order': False, 'shape': ({1 << 50},), }}"),
    ),
    "a label larger than all memory": (
        "arrays",
        lambda: npz(images=IMAGES, labels=np.array([0, 1 << 50]))[0],
    ),
    "one image that is a number": ("arrays", lambda: npz(images=np.array(1), labels=np.array([0]))[0]),
    "a name for all classes": (
        "arrays",
        lambda: npz(images=IMAGES, labels=np.array([0, 1]), classes=np.array("a"))[0],
    ),
    "Python objects": ("arrays", lambda: zipped(images=npy("{'descr': '|O', 'shape': (1,)}"), labels=b"")),
    "one number that stands for a million million": (
        "checkpoint",
        lambda: checkpoint(lambda torch: {"w": torch.ones(1).expand(1 << 40)}),
    ),
    "a sparse tensor larger than all memory": (
        "checkpoint",
        lambda: checkpoint(lambda torch: {"w": torch.sparse_coo_tensor(size=(1 << 20, 1 << 20))}),
    ),
    "a tensor that is nowhere": (
        "checkpoint",
        lambda: checkpoint(lambda torch: {"w": torch.ones(2, device="meta")}),
    ),
    "a grid of more points than there are atoms": (
        "sweep",
        lambda: sweep(*(f"key = 'seed{axis}'\nvalues = {list(range(10))}" for axis in range(80))),
    ),
    "a range without an end": (
        "sweep",
        lambda: sweep("key = 'student.macs'\nlow = 0.1\nhigh = inf", trials=3),
    ),
    "a range of what is no number": (
        "sweep",
        lambda: sweep("key = 'student.macs'\nlow = nan\nhigh = 1", trials=3),
    ),
    "weights without names": ("checkpoint", lambda: checkpoint(lambda torch: {0: torch.ones(2)})),
    "PostScript called .png": ("image", postscript),
    "functions that stand for a million million nodes": ("onnx", lambda: laughs(40)),
    "a function that calls itself": ("onnx", lambda: functions({"f": ["f"]}, ["f"])),
    "functions that call each other": ("onnx", lambda: functions({"f": ["g"], "g": ["f"]}, ["f"])),
    "an input larger than all memory": ("onnx", lambda: shaped([1, 1, 1 << 40, 1 << 40])),
    "weights in the folder above": ("onnx", lambda: outside("../outside.bin")),
    "weights in a file whose name is no text": (
        "onnx",
        lambda: outside("../outside.bin").replace(b"outside.bin", b"outside.\xff\xfe\xff"),
    ),
    "an operator whose name is no text": ("onnx", lambda: renamed(b"relu")),
    "an operator whose name is no text, to be quantized": ("float", lambda: renamed(b"relu")),
    "a value whose name is no text": ("float", lambda: renamed(b"kept")),
    "weights of another shape than their bytes": ("float", misshapen),
    "weights in a file of the system": ("onnx", lambda: outside("/etc/hostname")),
    "a packed model with a header of gigabytes": (
        "packed",
        lambda: b"EWPACK1\n" + struct.pack("<QI", 0, (1 << 32) - 1),
    ),
    "a bundle's member without a name": ("archive", nameless),
    "a bundle that claims an exabyte": (
        "tar",
        lambda: tar_seeds()[0].replace(b"00000000001\0", b"77777777777\0"),
    ),
}


@pytest.mark.parametrize("what", FOUND)
def test_what_was_found_is_refused_in_our_words(what):
    name, make = FOUND[what]
    refused = READERS[name](make())
    # An entry of the store that is no good is not there: its stage runs again.
    assert name == "entry" or refused is not None


def test_the_path_of_weights_may_be_anything_without_a_model_being_read():
    assert READERS["planned"](outside("a\0b")) is None
