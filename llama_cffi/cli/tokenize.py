"""``llama-cffi tokenize``: a text as the tokens of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llama_cffi.cli import arguments, console, options
from llama_cffi.cli.groups import takes
from llama_cffi.cli.loading import load_vocabulary
from llama_cffi.cli.model_choice import MODEL, ModelChoice


@console.command
@takes(ModelChoice)
def tokenize(
    text: Annotated[str | None, typer.Argument(metavar="TEXT", help="The text; standard input without one.")] = None,
    prompt_option: Annotated[str | None, options.prompt("TEXT")] = None,
    file: Annotated[Path | None, options.text_file("the text")] = None,
    pieces: Annotated[
        bool, options.option("--pieces", help="Print a token on each line: its id, and its text in quotes.")
    ] = False,
    add_special: Annotated[
        bool, options.option("--bos/--no-bos", help="Add the special tokens that the model uses around a text.")
    ] = True,
    parse_special: Annotated[
        bool,
        options.option("--parse-special/--no-parse-special", help="Convert the text of a control token to that token."),
    ] = False,
    as_json: options.Json = False,
    verbose: options.Verbose = False,
    choice: ModelChoice = MODEL,
) -> None:
    """Print the token ids of a text, separated by spaces. Of the model only the vocabulary is loaded."""
    given = arguments.prompt_text(text, prompt_option, file, what="text")
    with load_vocabulary(choice.name()) as loaded:
        vocab = loaded.vocab
        ids = vocab.tokenize(given, add_special=add_special, parse_special=parse_special).tolist()
        if as_json:
            texts = [vocab.piece(token).decode("utf-8", "replace") for token in ids]
            console.print_json({"tokens": ids, "pieces": texts, "model": {"path": str(loaded.path)}})
        elif pieces:
            for token in ids:
                print(f"{token:6}  {_quoted(vocab.piece(token))}")
        else:
            print(" ".join(map(str, ids)))


def _quoted(piece: bytes) -> str:
    """The text of a token in quotes, or its bytes where they are no text alone."""
    try:
        return repr(piece.decode())
    except UnicodeDecodeError:
        return repr(piece)
