"""Reading XML files that others wrote: elements with their lines, and nothing that expands."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.parsers import expat

from ....backbones import InputError

LINE = "line"  # the attribute that keeps on which line of its file an element begins


def read_xml(path: Path) -> ElementTree.Element:
    """Return the root of an XML file, each element with its `LINE`; a document type is refused.

    Without a document type there are no entities, a few lines of which can expand to gigabytes.
    """

    def refuse(*_: Any) -> None:
        raise InputError(f"{path} has a document type (DTD), which annotations never need; it is not read")

    def start(tag: str, attributes: dict[str, str]) -> None:
        builder.start(tag, {**attributes, LINE: str(parser.CurrentLineNumber)})

    builder, parser = ElementTree.TreeBuilder(), expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(path.read_bytes(), True)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except expat.ExpatError as error:
        raise InputError(f"line {error.lineno} of {path} is not XML: {expat.ErrorString(error.code)}") from error
    root: ElementTree.Element = builder.close()
    return root
