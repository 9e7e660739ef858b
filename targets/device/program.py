"""edgewright-device.pyz: what an engine needs on the device, with Python 3.8, numpy and a runtime.

JSON on stdout, progress and errors on stderr; exit codes: 0 done, 1 a bundle is not to be trusted or fails
its self-test, 2 something is wrong with the command, its inputs or the device, 3 numpy or a runtime lacks.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any, Callable, Sequence

from targets.device import commands
from targets.device.trouble import from_system
from targets.errors import DeviceError, EdgewrightError, described
from targets.toolchain import TOOLCHAINS

# What costs nothing beside latency.
LATENCY_ALONE = '{"memory": false, "throughput_s": 0, "energy_s": 0, "layers": false}'


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; what a runtime prints on stdout goes to stderr.

    Args:
        arguments: default: those of the process.

    Returns:
        the exit code.
    """
    chosen = vars(_parser().parse_args(arguments))
    command = chosen.pop("command")
    with os.fdopen(os.dup(1), "wb") as answer:
        os.dup2(2, 1)
        if command == "agent":
            from targets.device.agent import Agent

            Agent(sys.stdin.buffer, answer, commands.home(), sys.argv[0]).serve()
            return 0
        if command == "stream":
            from targets.device.stream import serve

            serve(chosen["engine"], sys.stdin.buffer, answer)
            return 0
        document, code = attempt(lambda: getattr(commands, command)(**chosen))
        answer.write(json.dumps(document, indent=1).encode() + b"\n")
    # A self-test that ran to its end and failed is no error, but no success either.
    return code or int(document.get("passed") is False)


def attempt(work: Callable[[], dict[str, Any]]) -> tuple[dict[str, Any], int]:
    """Do something; return what it gives, or what went wrong as {"error": …}, and the exit code."""
    try:
        return work(), 0
    except EdgewrightError as error:
        failure = error
    except MemoryError:
        failure = DeviceError("the device ran out of memory", mend="end other programs on the device")
    except ModuleNotFoundError as error:
        if error.name != "numpy":
            raise
        failure = commands.NUMPY
    except OSError as error:
        failure = from_system(error)
    sys.stderr.write(f"error: {failure}\n")
    return {"error": described(failure)}, failure.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "edgewright-device.pyz", description="Engines on a device; JSON on stdout."
    )
    verbs = parser.add_subparsers(dest="command", metavar="COMMAND")
    verbs.required = True
    verbs.add_parser("probe", help="what this machine is, and which toolchains work here")
    verb = verbs.add_parser("fingerprint", help="what engines and measurements made here depend on")
    verb.add_argument("toolchain", choices=sorted(TOOLCHAINS))
    _add_build(verbs.add_parser("build", help="compile an ONNX model into an engine"))
    verb = verbs.add_parser("run", help="inputs to outputs, both .npz with one array [N, …] each")
    verb.add_argument("engine", type=Path)
    verb.add_argument("--inputs", type=Path, required=True)
    verb.add_argument("--out", type=Path, required=True)
    verb = verbs.add_parser("bench", help="latency of engines against each other, interleaved")
    verb.add_argument("engines", nargs="+", metavar="[NAME=]ENGINE")
    verb.add_argument(
        "--inputs", type=Path, required=True, help=".npz, one array [N, …] an input, real samples"
    )
    verb.add_argument("--settings", default="{}", help="JSON: warmup_min_s, min_samples, min_s, max_s, …")
    verb.add_argument("--extras", default=LATENCY_ALONE, help="JSON: memory, throughput_s, layers, …")
    verb = verbs.add_parser("steps", help="what an application does beside inference")
    verb.add_argument("--inputs", type=Path, required=True, help=".npz with images, as stored, and scores")
    verb.add_argument("--preprocess", required=True, help="JSON: scale, mean, std, layout")
    verb = verbs.add_parser("evaluate", help="how often a classifier is right")
    verb.add_argument("engine", type=Path)
    verb.add_argument("--images", type=Path, required=True, help=".npy [N, H, W, C], as stored")
    verb.add_argument("--labels", type=Path, required=True, help=".npy [N], index of the right output")
    verb.add_argument("--preprocess", type=Path, required=True, help="JSON: scale, mean, std, layout")
    _add_bundle(verbs)
    # For the build machine, over SSH: they speak no JSON.
    verbs.add_parser("agent")
    verbs.add_parser("stream").add_argument("engine", type=Path)
    return parser


def _add_bundle(verbs: Any) -> None:
    verb = verbs.add_parser("verify", help="a bundle against its signed manifest")
    verb.add_argument("bundle", type=Path)
    verb.add_argument("--key", type=Path, required=True, help="public key of who made the bundle")
    verb = verbs.add_parser("selftest", help="verify a bundle's folder, open, compare, time; 1 if it fails")
    verb.add_argument("bundle", type=Path)
    verb.add_argument("--key", type=Path, help="public key; without it digests alone are checked")
    verb.add_argument("--no-bench", dest="bench", action="store_false", help="do not time anything")
    verb = verbs.add_parser("unpack", help="a packed model to the ONNX file it was made from")
    verb.add_argument("packed", type=Path)
    verb.add_argument("--out", type=Path, required=True)


def _add_build(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("model", type=Path)
    verb.add_argument("--toolchain", required=True, choices=sorted(TOOLCHAINS))
    verb.add_argument("--device", default="this-machine", help="name the engine carries")
    verb.add_argument("--precision", default="fp32", choices=["fp32", "fp16", "bf16", "int8"])
    verb.add_argument("--threads", type=int, default=1, help="of one inference; 0 for all cores")
    verb.add_argument("--raw", default="{}", help="JSON: options for the runtime")
    verb.add_argument("--out", type=Path, required=True, help="folder of the engine")
