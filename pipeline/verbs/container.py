"""`edgewright build --in-docker`: the same build, in the image of its toolchain, by Docker or Podman."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.config import Settings, load_settings
from pipeline.products import resolve_targets
from targets.errors import ConfigError, ToolchainMissing

# Toolchain → image; a build of several toolchains takes SEVERAL.
IMAGES = {
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "myriad": "myriad",
    "npu": "npu-wine",
    "tensorrt": "tensorrt",
}
SEVERAL = "dev"
PROGRAMS = ("docker", "podman")
GPU = Path("/dev/nvidiactl")
GPU_OPTIONS = {"docker": ("--gpus", "all"), "podman": ("--device", "nvidia.com/gpu=all")}


def build_in_container(build_file: Path, flags: Sequence[str], allow_code: bool) -> int:
    """Run a build in a container and return its exit code.

    The container sees the build file's folder and what the build file names outside of it, under the same
    paths; it runs as the user who asks, and is gone afterwards.

    Args:
        build_file: of the build.
        flags: further arguments of `edgewright build`.
        allow_code: the build file may name Python code.

    Raises:
        ToolchainMissing: no Docker or Podman that works, or no image.
        ConfigError: the build file is not valid, or is for a device over SSH.
    """
    settings = load_settings(build_file, allow_code)
    folder = build_file.resolve().parent
    image = f"edgewright-{image_for(settings, folder)}:{importlib.metadata.version('edgewright')}"
    program = _working_program()
    if _quietly(program, "image", "inspect", image).returncode:
        name = image.partition(":")[0].removeprefix("edgewright-")
        raise ToolchainMissing(
            f"there is no image {image}",
            where="edgewright's source folder",
            mend=f"{program} build --file docker/{name}.Dockerfile --tag {image} .",
        )
    for name in (settings.project.store, settings.project.output):
        (folder / Path(name).expanduser()).mkdir(parents=True, exist_ok=True)
    command = container_command(program, image, settings, folder)
    return subprocess.run([*command, "build", str(build_file.resolve()), *flags], check=False).returncode


def image_for(settings: Settings, folder: Path) -> str:
    """Return the name of the image that has all toolchains of a build.

    Raises:
        ConfigError: there is none, or a target is a device over SSH.
    """
    distant = [target.device for target in settings.targets if target.host]
    if distant:
        raise ConfigError(
            f"{distant[0]} is reached over SSH, with your keys: not from a container",
            where="targets.host",
            mend="leave out --in-docker",
        )
    toolchains = sorted({target.toolchain for target in resolve_targets(settings, folder)})
    if toolchains == ["onnxruntime", "openvino"]:
        return SEVERAL
    if len(toolchains) > 1 or toolchains[0] not in IMAGES:
        raise ConfigError(
            f"no image has {' and '.join(toolchains)}",
            where="targets",
            mend=f"make a build for each; there are images for {', '.join(sorted(IMAGES))}",
        )
    return IMAGES[toolchains[0]]


def container_command(program: str, image: str, settings: Settings, folder: Path) -> list[str]:
    """Return the command that runs an image, up to the verb.

    Args:
        program: "docker" or "podman".
        image: its name and tag.
        settings: of the build.
        folder: of the build file.
    """
    mounts = [f"type=bind,source={folder},target={folder}"]
    mounts += [
        f"type=bind,source={path},target={path}{'' if writable else ',readonly'}"
        for path, writable in _outside(settings, folder)
    ]
    gpu = GPU_OPTIONS[program] if "tensorrt" in image and GPU.exists() else ()
    return [
        *(program, "run", "--rm", "--init", "--workdir", str(Path.cwd() if _inside(folder) else folder)),
        *("--user", f"{os.getuid()}:{os.getgid()}", "--env", "HOME=/tmp"),
        *(("--userns", "keep-id") if program == "podman" else ()),
        *(("--tty",) if sys.stdout.isatty() else ()),
        *gpu,
        *(option for mount in mounts for option in ("--mount", mount)),
        image,
    ]


def _outside(settings: Settings, folder: Path) -> Iterator[tuple[Path, bool]]:
    """What the build file names outside of its folder, and whether the build writes there."""
    read = [settings.data.path, settings.model.checkpoint, settings.model.onnx]
    read += [target.device for target in settings.targets if target.device.endswith(".toml")]
    write = [settings.project.store, settings.project.output]
    for name, writable in [*((name, False) for name in read), *((name, True) for name in write)]:
        path = (folder / Path(name or ".").expanduser()).resolve()
        if not path.is_relative_to(folder) and path.exists():
            # A file is mounted with its folder: an ONNX model's weights may lie beside it.
            yield (path if path.is_dir() else path.parent), writable


def _inside(folder: Path) -> bool:
    return Path.cwd().is_relative_to(folder)


def _working_program() -> str:
    """Return Docker or Podman, whichever answers first."""
    present = [program for program in PROGRAMS if shutil.which(program)]
    if not present:
        raise ToolchainMissing(
            "neither Docker nor Podman is installed", mend="install one of them, or leave out --in-docker"
        )
    said = ""
    for program in present:
        asked = _quietly(program, "info")
        if asked.returncode == 0:
            return program
        said = said or next(iter(asked.stderr.strip().splitlines()[-1:]), "nothing")
    raise ToolchainMissing(
        f"{present[0]} does not answer; it says: {said}",
        mend="start its service, and see that you may use it (group docker); or leave out --in-docker",
    )


def _quietly(*command: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", "no answer within a minute")
