"""What a release is made from: the folder a build handed over, every file checked against its digest."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path

from pydantic import ValidationError

from pipeline.config import Settings
from pipeline.products import (
    BuildTarget,
    Variant,
    engine_path,
    golden_path,
    onnx_path,
    packed_path,
    resolve_targets,
    variants_of,
)
from pipeline.publish import LIST_FILE
from pipeline.record import Built, Record
from pipeline.report import load
from targets.errors import ConfigError, ReleaseRefused
from targets.toolchain import file_sha256

AGAIN = "run `edgewright build` again"


@dataclass(frozen=True)
class Build:
    """A finished build.

    Args:
        output: the folder it handed over.
        folder: where its build file lies; device files are named relative to it.
        record: its report.json.
        settings: of the record.
    """

    output: Path
    folder: Path
    record: Record
    settings: Settings

    @cached_property
    def targets(self) -> list[BuildTarget]:
        """The devices it was for, in the build file's order."""
        known = {each.name for each in self.record.targets} | {each.target for each in self.record.built}
        return [target for target in resolve_targets(self.settings, self.folder) if target.name in known]

    @property
    def record_sha256(self) -> str:
        """Digest of report.json."""
        return file_sha256(self.output / "report.json")

    @property
    def finished(self) -> datetime:
        """When it was done; dates in bundles are this one."""
        return datetime.fromisoformat(self.record.project.finished_at)

    @cached_property
    def digests(self) -> dict[str, str]:
        """Path below the output folder → sha256 when it was handed over."""
        try:
            found: dict[str, str] = json.loads((self.output / LIST_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(
                "this is not the output folder of a finished build", where=str(self.output), mend=AGAIN
            ) from error
        return found

    def target(self, name: str | None) -> BuildTarget:
        """The target of that name, or the only one.

        Raises:
            ConfigError: there is none of that name, or more than one to choose from.
        """
        names = [target.name for target in self.targets]
        if name is None and len(names) == 1:
            return self.targets[0]
        if name not in names:
            what = f"there is no target {name!r}" if name else f"the build has {len(names)} targets"
            raise ConfigError(what, mend=f"give --all, or --target with one of: {', '.join(names)}")
        return self.targets[names.index(name)]

    def products(self, target: BuildTarget) -> list[Variant]:
        """What ships for a target, as it turned out: an engine that did not pay may have been set aside."""
        shipped = {name for each in self.record.targets if each.name == target.name for name in each.products}
        shipped |= {each.variant for each in self.not_run(target.name) if each.role == "product"}
        return [variant for variant in variants_of(self.settings, target) if variant.name in shipped]

    def not_run(self, target: str) -> list[Built]:
        """What was made for a target and run nowhere; [] where engines were run."""
        return [each for each in self.record.built if each.target == target]

    def files(self, below: str) -> dict[str, Path]:
        """Files at or below a path of the output folder: path relative to it → file; each as handed over.

        Raises:
            ReleaseRefused: one was changed, or is missing.
        """
        found = {
            path: self.output / path
            for path in sorted(self.digests)
            if path == below or path.startswith(below + "/")
        }
        if not found:
            raise ReleaseRefused(f"the build handed over no {below}", where=str(self.output), mend=AGAIN)
        for path, file in found.items():
            if file.is_symlink() or file_sha256(file) != self.digests[path]:
                what = "a file was changed after the build handed it over, or is gone"
                raise ReleaseRefused(what, where=str(file), mend=AGAIN)
        return found


def open_build(output: Path, folder: Path) -> Build:
    """Read what a build handed over.

    Args:
        output: folder with report.json.
        folder: where the build file lies.

    Raises:
        ConfigError: there is no finished build, or it is of another version of edgewright.
    """
    record = load(output / "report.json")
    try:
        settings = Settings.model_validate(record.project.settings)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ConfigError(
            f"the record's settings do not fit: {'.'.join(map(str, first['loc']))}: {first['msg']}",
            where=str(output / "report.json"),
            mend=AGAIN,
        ) from error
    return Build(output, folder, record, settings)


def bundle_paths(target: BuildTarget, variant: Variant) -> dict[str, str]:
    """What of one product goes into a bundle: path below the output folder → path in the bundle."""
    name = f"{variant.network}-{variant.precision}"
    model = packed_path(target, variant) or onnx_path(target, variant)
    engine = {engine_path(target, variant): f"engines/{name}"} if target.section.engine else {}
    return {
        model: f"models/{name}{Path(model).suffix}",
        golden_path(target, variant): f"golden/{name}",
    } | engine
