"""OpenAI's own description of its API as a judge of what the server says."""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012

_URI = "urn:openapi"


class OpenApi:
    """Judges values by the schemas of the description."""

    def __init__(self, path: Path) -> None:
        with gzip.open(path) as file:
            described = json.load(file)
        self.schemas: dict[str, Any] = described["components"]["schemas"]
        resource = DRAFT202012.create_resource({"components": {"schemas": self.schemas}})
        self._registry: Registry[Any] = Registry().with_resource(_URI, resource)
        self._validators: dict[str, Draft202012Validator] = {}
        self._events: dict[str, str] = {}
        for one in self.schemas["ResponseStreamEvent"]["anyOf"]:
            name = one["$ref"].rpartition("/")[2]
            (type_,) = self.schemas[name]["properties"]["type"]["enum"]
            self._events[type_] = name

    def check(self, name: str, value: Any) -> None:
        """Raise ``ValidationError`` for a value that is none of a schema."""
        if name not in self._validators:
            reference = {"$ref": f"{_URI}#/components/schemas/{name}"}
            self._validators[name] = Draft202012Validator(reference, registry=self._registry)
        self._validators[name].validate(value)

    def check_event(self, event: dict[str, Any]) -> None:
        """Do as :meth:`check` for an event of the stream of a response, by its type."""
        self.check(self._events[event["type"]], event)


@cache
def openapi(assets: Path) -> OpenApi:
    """Return the judge; there is one for each folder of assets."""
    return OpenApi(assets / "openai" / "openapi.json.gz")
