"""Which model a command takes: ``-m``, and ``-hf`` with what belongs to it, as in llama.cpp's own tools."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from llama_cffi.cli.loading import HUB
from llama_cffi.cli.options import Model, option

HfRepo = Annotated[
    str | None,
    option(
        "-hf", "-hfr", "--hf-repo", metavar="OWNER/REPO[:QUANT]", env="HF_REPO",
        help="A model from the Hugging Face hub.",
    ),
]  # fmt: skip
HfFile = Annotated[
    str | None, option("-hff", "--hf-file", metavar="NAME", env="HF_FILE", help="The file of --hf-repo.")
]
HfToken = Annotated[
    str | None,
    option("-hft", "--hf-token", metavar="TOKEN", help="Token for the hub. HF_TOKEN is not seen by ps."),
]
Offline = Annotated[bool, option("--offline", env="OFFLINE", help="Use only models that are in the cache.")]


@dataclass(frozen=True, kw_only=True)
class ModelChoice:
    """The options that name a model."""

    model: Model = None
    hf_repo: HfRepo = None
    hf_file: HfFile = None
    hf_token: HfToken = None
    offline: Offline = False

    def name(self) -> Path | None:
        """Return the file or name of the model, None for the demo model, and let the hub see the token.

        ``typer.BadParameter`` for options that do not belong together.
        """
        if self.hf_token is not None:
            os.environ["HF_TOKEN"] = self.hf_token
        if self.offline:
            os.environ["HF_HUB_OFFLINE"] = "1"
        if self.hf_repo is None:
            if self.hf_file is not None:
                raise typer.BadParameter("there is no --hf-repo for it", param_hint="--hf-file")
            return self.model
        if self.model is not None:
            raise typer.BadParameter(
                "give either --model or --hf-repo; LLAMA_ARG_MODEL and LLAMA_ARG_HF_REPO count, too"
            )
        name = self.hf_repo.removeprefix(HUB)
        return Path(f"{HUB}{name.partition(':')[0]}/{self.hf_file}" if self.hf_file is not None else f"{HUB}{name}")


MODEL = ModelChoice()
"""The demo model, which a command takes where no option is given."""


__all__ = ["MODEL", "HfToken", "ModelChoice", "Offline"]
