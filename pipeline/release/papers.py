"""README.md and LICENCES.md of a bundle."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline.release.manifest import Manifest, Scored
from targets.bundle.figures import milliseconds


def readme_text(manifest: Manifest) -> str:
    """Return README.md: what the bundle is, how to check it with OpenSSL alone, how to use it."""
    return _rendered("README.md.j2", manifest)


def licences_text(manifest: Manifest) -> str:
    """Return LICENCES.md: of the model, the data, and what runs them."""
    return _rendered("LICENCES.md.j2", manifest)


def _rendered(template: str, manifest: Manifest) -> str:
    environment = Environment(
        loader=PackageLoader("pipeline.release", "paper_templates"),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
    )
    environment.filters |= {"milliseconds": milliseconds, "accuracy": _accuracy}
    return environment.get_template(template).render(m=manifest, first=manifest.products[0])


def _accuracy(scored: Scored) -> str:
    low, high = scored.top1_interval
    share = f"{100 * scored.top1:.2f} % ({100 * low:.2f} to {100 * high:.2f})"
    return f"{share} of {scored.images} test images"
