"""openapi.yaml, read once: its operations, their paths, and its schemas to hold answers against."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import yaml
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

ROOT = Path(__file__).parents[2]
DOCUMENT = yaml.safe_load((ROOT / "openapi.yaml").read_text("utf-8"))
METHODS = ("get", "post", "put", "delete", "patch", "head", "options")
OPERATIONS = [
    (path, method, item[method])
    for path, item in DOCUMENT["paths"].items()
    for method in METHODS
    if method in item
]
_BASE = "urn:openapi"
_REGISTRY = Registry().with_resource(
    _BASE, Resource.from_contents(DOCUMENT, default_specification=DRAFT202012)
)


def check_schema(value: Any, schema: dict[str, Any]) -> None:
    """Against the document itself, so that `$ref` finds its way."""
    anchored = json.loads(json.dumps(schema).replace('"#/', f'"{_BASE}#/'))
    jsonschema.Draft202012Validator(anchored, registry=_REGISTRY).validate(value)


def filled_path(path: str, operation: dict[str, Any]) -> str:
    """The path with its parameters, as the document gives examples of them."""
    query = []
    for parameter in operation.get("parameters", ()):
        if "example" not in parameter:
            continue
        if parameter["in"] == "path":
            path = path.replace("{" + parameter["name"] + "}", str(parameter["example"]))
        else:
            query.append(f"{parameter['name']}={parameter['example']}")
    return path + ("?" + "&".join(query) if query else "")
