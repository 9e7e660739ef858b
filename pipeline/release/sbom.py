"""sbom.cdx.json: the bill of materials, CycloneDX 1.6, with model and data set as components."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from pipeline.release.manifest import FileInfo, Manifest, ProductInfo
from targets.errors import ToolchainMissing

try:
    from cyclonedx.model import HashAlgorithm, HashType, Property
    from cyclonedx.model.bom import Bom, BomMetaData
    from cyclonedx.model.component import Component, ComponentScope, ComponentType
    from cyclonedx.model.license import DisjunctiveLicense, LicenseExpression
    from cyclonedx.model.tool import ToolRepository
    from cyclonedx.output.json import JsonV1Dot6
    from cyclonedx.spdx import is_expression, is_supported_id
    from packageurl import PackageURL
except ImportError as error:
    raise ToolchainMissing(
        "a release needs the package cyclonedx-python-lib", mend="pip install 'edgewright[release]'"
    ) from error

# Serial numbers are made from what a bundle holds, below this name.
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://cyclonedx.org/edgewright")
NOT_STATED = "not stated"
# Toolchain → type and name of the package that is its runtime, where that is not PyPI's of the same name.
RUNTIMES = {
    "myriad": ("pypi", "openvino"),
    "npu": ("pypi", "openvino"),
    "tensorrt": ("generic", "tensorrt"),
    "tensorrt_rtx": ("pypi", "tensorrt-rtx-cu13"),
}


def sbom_text(manifest: Manifest, files: Sequence[FileInfo], finished: datetime) -> str:
    """Return the bill of materials; the same bundle and date give the same bytes.

    Args:
        manifest: its list of files is not looked at.
        files: what it speaks for.
        finished: its date, that of the build.
    """
    bundle = Component(
        name=manifest.bundle,
        version=manifest.version,
        type=ComponentType.FIRMWARE,
        bom_ref="bundle",
        description=manifest.description or None,
        publisher=manifest.publisher or None,
        licenses=_licences(manifest.model_licence),
    )
    edgewright = _package("edgewright", manifest.edgewright_version, None)
    bom = Bom(
        components=_components(manifest, files),
        serial_number=uuid.uuid5(NAMESPACE, "\n".join(f"{each.sha256} {each.path}" for each in files)),
        metadata=BomMetaData(
            component=bundle, timestamp=finished, tools=ToolRepository(components=[edgewright])
        ),
    )
    parts = list(bom.components)
    bom.register_dependency(bundle, [part for part in parts if part.scope != ComponentScope.EXCLUDED])
    for part in parts:
        if part.type == ComponentType.MACHINE_LEARNING_MODEL:
            bom.register_dependency(part, [each for each in parts if each.type == ComponentType.DATA])
    return JsonV1Dot6(bom).output_as_string(indent=1) + "\n"


def _components(manifest: Manifest, files: Sequence[FileInfo]) -> Iterable[Component]:
    yield from (_model(product, manifest) for product in manifest.products)
    yield Component(
        name=manifest.data.name,
        type=ComponentType.DATA,
        bom_ref="data",
        description=f"from {manifest.data.source}",
        licenses=_licences(manifest.data.licence),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=manifest.data.sha256)],
        properties=[
            Property(name=f"edgewright:split:{name}", value=str(size))
            for name, size in sorted(manifest.data.split_sizes.items())
        ],
    )
    for file in files:
        yield Component(
            name=file.path,
            type=ComponentType.FILE,
            bom_ref=f"file:{file.path}",
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=file.sha256)],
        )
    toolchain, version_made = manifest.target.toolchain, manifest.target.toolchain_version
    kind, runtime = RUNTIMES.get(toolchain, ("pypi", toolchain))
    yield _package(runtime, version_made, ComponentScope.REQUIRED, kind)
    for name, version in sorted(manifest.packages.items()):
        if name != toolchain and (name, version) != (runtime, version_made):
            scope = ComponentScope.REQUIRED if name == "numpy" else ComponentScope.EXCLUDED
            yield _package(name, version, scope)


def _model(product: ProductInfo, manifest: Manifest) -> Component:
    accuracy = {"accuracy": product.accuracy} if product.accuracy else {}
    if product.not_run:
        accuracy = {"onnx_accuracy": product.not_run.onnx_accuracy}
    facts: dict[str, Any] = {name: f"{scored.top1:.4f}" for name, scored in accuracy.items()} | {
        "opset": product.model.opset,
        "parameters": product.model.parameters,
        "precision": product.precision,
    }
    return Component(
        name=f"{manifest.name} {product.variant}",
        version=manifest.version,
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=f"model:{product.variant}",
        licenses=_licences(manifest.model_licence),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=product.model.sha256_onnx)],
        properties=[Property(name=f"edgewright:{name}", value=str(value)) for name, value in facts.items()],
    )


def _package(name: str, version: str | None, scope: ComponentScope | None, kind: str = "pypi") -> Component:
    purl = PackageURL(kind, name=name, version=version)
    return Component(
        name=name,
        version=version,
        type=ComponentType.LIBRARY,
        bom_ref=str(purl),
        purl=purl,
        scope=scope,
    )


def _licences(licence: str) -> list[DisjunctiveLicense | LicenseExpression]:
    """An identifier or expression of SPDX where it is one, else a name."""
    if licence in ("", NOT_STATED):
        return []
    if is_supported_id(licence):
        return [DisjunctiveLicense(id=licence)]
    return [LicenseExpression(licence) if is_expression(licence) else DisjunctiveLicense(name=licence)]
