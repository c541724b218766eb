"""Chat templates rendered by jinja2 with nothing of ours: what others would give the model."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import jinja2.ext
import jinja2.sandbox

MODELS = Path(__file__).resolve().parents[2] / "vendor" / "llama.cpp" / "models"
TEMPLATES = sorted((MODELS / "templates").glob("*.jinja"))
"""llama.cpp's templates; empty where there is no llama.cpp source."""

# Variables without which a template refuses everything.
NEEDED: dict[str, dict[str, Any]] = {"fireworks-ai-llama-3-firefunction-v2": {"functions": "[]", "datetime": "today"}}
TODAY = "2026-11-22"


@cache
def plain_jinja(source: str) -> jinja2.Template:
    """The template in a sandbox set up as transformers does it; the date is :data:`TODAY`."""

    class Generation(jinja2.ext.Extension):
        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def to_json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, **options)

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = to_json
    # Two templates mark texts as safe HTML, so that jinja2 would escape what is joined to them.
    environment.filters["safe"] = str
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda pattern: TODAY
    return environment.from_string(source)


__all__ = ["MODELS", "NEEDED", "TEMPLATES", "TODAY", "plain_jinja"]
