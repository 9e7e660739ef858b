"""`edgewright init`: a commented build file to start from."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from pipeline.disk import explained
from targets.errors import ConfigError


def write_build_file(folder: Path) -> Path:
    """Write build.toml into a folder and return its path.

    Raises:
        ConfigError: there is one already.
        StoreError: the folder cannot be written.
    """
    path = folder / "build.toml"
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            stream = path.open("x", encoding="utf-8")
        except FileExistsError as error:
            raise ConfigError(
                "there is a build file already", where=str(path), mend="remove it, or name another folder"
            ) from error
        with stream:
            stream.write((files("pipeline") / "templates" / "build.toml").read_text(encoding="utf-8"))
    return path
