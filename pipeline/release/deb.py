"""A bundle as a Debian package, written with Python alone; equal folders give equal bytes.

The bundle lies in /usr/lib/edgewright, engines built on the device go to /var/cache/edgewright, a public key
is looked for in /etc/edgewright. Installing tries the bundle out, and fails where it does.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import tarfile
from datetime import datetime
from email.utils import format_datetime, parseaddr
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline.release.archives import add_bytes, add_file, members
from pipeline.release.manifest import Manifest
from targets.bundle.figures import milliseconds
from targets.errors import ConfigError

ARCHITECTURES = {"any": "all", "x86_64": "amd64", "aarch64": "arm64"}
SCRIPTS = ("postinst", "postrm")


def package_name(manifest: Manifest) -> str:
    """Name of the package: of project and target, without the version."""
    return re.sub(r"[^a-z0-9.+-]", "-", f"{manifest.name}-{manifest.target.name}".lower())


def package_version(manifest: Manifest) -> str:
    """Debian's spelling of a semantic version: what comes before a release sorts before it."""
    release, dash, rest = manifest.version.partition("-")
    return f"{release}~{rest.replace('-', '.')}" if dash else release


def deb_name(manifest: Manifest) -> str:
    """File name of the package."""
    architecture = ARCHITECTURES[manifest.target.architecture]
    return f"{package_name(manifest)}_{package_version(manifest)}_{architecture}.deb"


def write_deb(folder: Path, out: Path, manifest: Manifest, date: datetime) -> None:
    """Write a .deb.

    Args:
        folder: the bundle.
        out: the package.
        manifest: of the bundle.
        date: of all files.

    Raises:
        ConfigError: nobody is named as publisher; Debian asks for a maintainer.
    """
    name, address = parseaddr(manifest.publisher)
    if not (name and "@" in address):
        raise ConfigError(
            f"a Debian package needs a maintainer, release.publisher is {manifest.publisher!r}",
            where="release.publisher",
            mend='write it as "Name <mail@example.com>", and build again',
        )
    seconds = int(date.timestamp())
    texts = _texts(folder, manifest, date)
    place = f"usr/lib/edgewright/{package_name(manifest)}"
    inside: dict[str, Path | bytes] = {f"{place}/{path}": folder / path for path in members(folder)}
    inside |= _documents(manifest, texts, seconds)
    control: dict[str, Path | bytes] = {"control": texts["control"].encode(), "md5sums": _md5sums(inside)}
    control |= {script: texts[script].encode() for script in SCRIPTS}
    with out.open("wb") as stream:
        stream.write(b"!<arch>\n")
        _add(stream, "debian-binary", b"2.0\n", seconds)
        _add(stream, "control.tar.gz", _tar_gz(control, seconds, SCRIPTS), seconds)
        _add(stream, "data.tar.gz", _tar_gz(inside, seconds), seconds)


def _documents(manifest: Manifest, texts: dict[str, str], seconds: int) -> dict[str, Path | bytes]:
    package = package_name(manifest)
    changelog = gzip.compress(texts["changelog"].encode(), 9, mtime=seconds)
    return {
        f"usr/share/doc/{package}/copyright": texts["copyright"].encode(),
        f"usr/share/doc/{package}/changelog.gz": changelog,
        f"usr/share/lintian/overrides/{package}": texts["overrides"].encode(),
        f"lib/systemd/system/{package}-selftest.service": texts["service"].encode(),
    }


def _texts(folder: Path, manifest: Manifest, date: datetime) -> dict[str, str]:
    environment = Environment(
        loader=PackageLoader("pipeline.release", "deb_templates"),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        autoescape=False,
    )
    environment.filters["milliseconds"] = milliseconds
    facts = {
        "m": manifest,
        "package": package_name(manifest),
        "version": package_version(manifest),
        "architecture": ARCHITECTURES[manifest.target.architecture],
        "kibibytes": -(-sum((folder / path).stat().st_size for path in members(folder)) // 1024),
        "date": format_datetime(date),
        "year": date.year,
    }
    names = ("control", "changelog", "copyright", "overrides", "service", *SCRIPTS)
    return {name: environment.get_template(f"{name}.j2").render(facts) for name in names}


def _md5sums(inside: dict[str, Path | bytes]) -> bytes:
    """What `debsums` checks; the bundle's own signature is what is to be trusted."""
    lines = []
    for path, content in sorted(inside.items()):
        data = content.read_bytes() if isinstance(content, Path) else content
        lines.append(f"{hashlib.md5(data, usedforsecurity=False).hexdigest()}  {path}\n")
    return "".join(lines).encode()


def _tar_gz(inside: dict[str, Path | bytes], seconds: int, executable: tuple[str, ...] = ()) -> bytes:
    """Files with all folders they lie in, by name, as dpkg wants them: below "./"."""
    out = io.BytesIO()
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=out, compresslevel=9, mtime=0) as stream,
        tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        folders = {str(parent) for path in inside for parent in Path(path).parents}
        for path in sorted({*folders, *inside}):
            content = inside.get(path)
            name = "./" if path == "." else f"./{path}"
            if isinstance(content, Path):
                add_file(archive, name, content, seconds)
            elif content is not None:
                add_bytes(archive, name, content, seconds, 0o755 if path in executable else 0o644)
            else:
                info = tarfile.TarInfo(name)
                info.type, info.mode, info.mtime = tarfile.DIRTYPE, 0o755, seconds
                info.uname = info.gname = "root"
                archive.addfile(info)
    return out.getvalue()


def _add(stream: io.BufferedWriter, name: str, content: bytes, seconds: int) -> None:
    """One member of an ar archive (deb(5))."""
    stream.write(f"{name:<16}{seconds:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode())
    stream.write(content + b"\n" * (len(content) % 2))
