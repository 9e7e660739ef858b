"""Make a plotted SVG part of a page: the page's colours and font, an accessible name, ids of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from xml.etree import ElementTree

SVG = "http://www.w3.org/2000/svg"
XLINK_HREF = "{http://www.w3.org/1999/xlink}href"
DROPPED = {f"{{{SVG}}}metadata", f"{{{SVG}}}style"}
NUMBER = re.compile(r"-?\d+\.\d{3,}")
REFERENCE = re.compile(r"url\(#([^)]+)\)")
FONT = re.compile(r"(?:^|; ?)font(?:-family)?:[^;]*")
FONT_SIZE = re.compile(r"font(?:-size)?:[^;]*?([\d.]+)px")


def inline(source: str, name: str, title: str, description: str, colours: Mapping[str, str]) -> str:
    """Return an SVG document as an element to stand inside HTML.

    Args:
        source: the SVG document.
        name: prefix of every id, unique on the page.
        title: what is plotted.
        description: what there is to see, for those who cannot see it.
        colours: colour in the source → CSS colour of the page.
    """
    ElementTree.register_namespace("", SVG)
    root = ElementTree.fromstring(source)
    _drop(root)
    referenced = set(REFERENCE.findall(source)) | set(re.findall(r'xlink:href="#([^"]+)"', source))
    for element in root.iter():
        _rewrite(element, name, referenced, colours)
    _name(root, name, title, description)
    return ElementTree.tostring(root, encoding="unicode").replace(f' xmlns="{SVG}"', "", 1)


def _drop(element: ElementTree.Element) -> None:
    """Remove what speaks of the tool or would style the whole page, and white space between elements."""
    for child in list(element):
        if child.tag in DROPPED:
            element.remove(child)
        else:
            _drop(child)
            child.tail = None
    if len(element):
        element.text = None


def _rewrite(
    element: ElementTree.Element, name: str, referenced: set[str], colours: Mapping[str, str]
) -> None:
    given = element.attrib.pop("id", None)
    if given in referenced:
        element.set("id", f"{name}-{given}")
    target = element.attrib.pop(XLINK_HREF, None)
    if target:
        element.set("href", f"#{name}-{target[1:]}")
    for key, value in element.attrib.items():
        if key == "style":
            value = _style(value, colours)
        if key not in ("id", "href"):
            value = REFERENCE.sub(rf"url(#{name}-\1)", value)
            value = NUMBER.sub(lambda match: f"{float(match[0]):.2f}", value)
        element.set(key, " ".join(value.split()))


def _style(style: str, colours: Mapping[str, str]) -> str:
    size = FONT_SIZE.search(style)
    style = FONT.sub("", style).strip("; ") if size else style
    for colour, replacement in colours.items():
        style = style.replace(colour, replacement)
    return f"font-size: {size[1]}px; {style}" if size else style


def _name(root: ElementTree.Element, name: str, title: str, description: str) -> None:
    for attribute in ("width", "height", "version"):
        root.attrib.pop(attribute, None)
    root.set("role", "img")
    root.set("aria-labelledby", f"{name}-title {name}-description")
    for position, (tag, text) in enumerate((("title", title), ("desc", description))):
        part = ElementTree.Element(f"{{{SVG}}}{tag}")
        part.set("id", f"{name}-{'title' if tag == 'title' else 'description'}")
        part.text = text
        root.insert(position, part)
