"""Options of the commands, with the names and environment variables of llama.cpp's own tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from llama_cffi.cli.arguments import ctx_size

DraftType = Literal["none", "ngram-simple", "draft-simple", "draft-mtp", "draft-eagle3"]


def option(*names: str, env: str | None = None, **settings: Any) -> Any:
    """A typer option; `env` is the name of its variable after ``LLAMA_ARG_``."""
    return typer.Option(*names, envvar=f"LLAMA_ARG_{env}" if env else None, **settings)


Json = Annotated[bool, option("--json", help="Print one JSON object instead.")]
Verbose = Annotated[bool, option("-v", "--verbose", help="Show llama.cpp's log, and tracebacks of errors.")]

Model = Annotated[
    Path | None,
    option(
        "-m", "--model", metavar="FILE", env="MODEL",
        help="GGUF file, hf:OWNER/REPO:Q4_K_M from the Hugging Face hub, or https://...; without it, the demo model.",
    ),
]  # fmt: skip
Mmproj = Annotated[
    str | None,
    option(
        "-mm", "--mmproj", metavar="FILE", env="MMPROJ",
        help="Projector file, with which the model takes images and sound; auto for the one beside the model.",
    ),
]  # fmt: skip
Images = Annotated[
    list[Path] | None, option("--image", metavar="FILE", help="An image, which comes before the text. Repeatable.")
]
Sounds = Annotated[
    list[Path] | None, option("--audio", metavar="FILE", help="A sound, which comes before the text. Repeatable.")
]
ImageMinTokens = Annotated[
    int | None,
    option("--image-min-tokens", metavar="N", min=1, env="IMAGE_MIN_TOKENS", help="The fewest tokens of an image."),
]
ImageMaxTokens = Annotated[
    int | None,
    option("--image-max-tokens", metavar="N", min=1, env="IMAGE_MAX_TOKENS", help="The most tokens of an image."),
]
Rpc = Annotated[
    str | None,
    option(
        "--rpc", metavar="SERVERS", env="RPC",
        help="Compute on the devices of these RPC servers, too: HOST:PORT, separated by commas; see rpc-server.",
    ),
]  # fmt: skip
Isolate = Annotated[
    bool | None,
    option(
        "--isolate/--no-isolate", show_default="with --rpc",
        help="Compute in a process of its own, which is started again when it crashes.",
    ),
]  # fmt: skip
OverrideKv = Annotated[
    list[str] | None,
    option(
        "--override-kv", metavar="KEY=TYPE:VALUE",
        help="Replace a metadata value; TYPE is int, float, bool or str. Repeatable.",
    ),
]  # fmt: skip
Lora = Annotated[
    list[str] | None,
    option(
        "--lora", "--lora-scaled", metavar="FILE[:SCALE]",
        help="Compute with this LoRA adapter; the default scale is 1. Repeatable.",
    ),
]  # fmt: skip
ControlVector = Annotated[
    list[str] | None,
    option(
        "--control-vector", "--control-vector-scaled", metavar="FILE[:SCALE]",
        help="Add this control vector, SCALE times, to the output of the layers. Repeatable.",
    ),
]  # fmt: skip
LayerRange = Annotated[
    tuple[int, int] | None,
    option(
        "--control-vector-layer-range", metavar="START END",
        show_default="all from 1 on",
        help="The first and the last layer that control vectors are added to.",
    ),
]  # fmt: skip
ModelDraft = Annotated[
    Path | None,
    option(
        "-md", "--model-draft", "--spec-draft-model", metavar="FILE", env="SPEC_DRAFT_MODEL",
        help="Draft with this smaller model of the same vocabulary, or with the EAGLE-3 model or the MTP layers in "
        "this file; the text does not change.",
    ),
]  # fmt: skip
SpecType = Annotated[
    DraftType | None,
    option(
        "--spec-type", metavar="TYPE", env="SPEC_TYPE",
        show_default="draft-simple with --model-draft",
        help="The draft source: none, ngram-simple (repetitions in the text), draft-mtp (layers of the model that "
        "predict further tokens), draft-simple or draft-eagle3 (--model-draft).",
    ),
]  # fmt: skip

CtxSize = Annotated[
    Any,
    option(
        "-c", "--ctx-size", metavar="N", env="CTX_SIZE", parser=ctx_size,
        help="Context length in tokens; 0 for the length that the model was trained with, auto for what fits.",
    ),
]  # fmt: skip
BatchSize = Annotated[
    int, option("-b", "--batch-size", metavar="N", min=1, env="BATCH", help="The most tokens of one decode.")
]
UbatchSize = Annotated[
    int,
    option("-ub", "--ubatch-size", metavar="N", min=1, env="UBATCH", help="The most tokens computed at once."),
]
Threads = Annotated[
    int | None,
    option(
        "-t", "--threads", metavar="N", env="THREADS",
        help="Number of threads; by default, or with 0 or less, the physical cores of this process.",
    ),
]  # fmt: skip
ThreadsBatch = Annotated[
    int | None,
    option("-tb", "--threads-batch", metavar="N", help="Threads for the prompt; by default as --threads."),
]
ContextShift = Annotated[
    bool,
    option(
        "--context-shift/--no-context-shift", env="CONTEXT_SHIFT",
        help="When the context is full, remove its older half and continue, instead of ending.",
    ),
]  # fmt: skip


def prompt(argument: str) -> Any:
    """Another way to give a text that the argument of this name takes, too."""
    return option("-p", "--prompt", metavar="TEXT", help=f"Another way to give {argument}.")


def text_file(what: str) -> Any:
    """The file that ``what`` is read from."""
    return option("-f", "--file", metavar="FILE", help=f"Read {what} from a file; - is standard input.")


def temperature(shown: str | bool) -> Any:
    """The temperature, for a command whose default is ``shown`` so; likewise the next ones."""
    return option(
        "--temp", "--temperature", metavar="N", show_default=shown, env="TEMPERATURE",
        help="0 always takes the most likely token.",
    )  # fmt: skip


def top_k(shown: str) -> Any:
    """Top-k."""
    return option(
        "--top-k", metavar="N", show_default=shown, env="TOP_K",
        help="Sample from the N most likely tokens; 0 is off.",
    )  # fmt: skip


def top_p(shown: str) -> Any:
    """Top-p."""
    return option(
        "--top-p", metavar="N", show_default=shown, env="TOP_P",
        help="Sample from the most likely tokens whose probability reaches this value; 1 is off.",
    )  # fmt: skip


def min_p(shown: str) -> Any:
    """Min-p."""
    return option(
        "--min-p", metavar="N", show_default=shown, env="MIN_P",
        help="Remove tokens with less than this fraction of the largest probability; 0 is off.",
    )  # fmt: skip


Temperature = Annotated[float | None, temperature("the model's, or 0.8")]
TopK = Annotated[int | None, top_k("the model's, or 40")]
TopP = Annotated[float | None, top_p("the model's, or 0.95")]
MinP = Annotated[float | None, min_p("the model's, or 0.05")]
Seed = Annotated[
    int,
    option(
        "-s", "--seed", metavar="N", min=-1, max=2**32 - 1,
        help="The same seed gives the same text; -1 draws one.",
    ),
]  # fmt: skip
RepeatLastN = Annotated[
    int | None,
    option("--repeat-last-n", metavar="N", show_default="the model's, or 64", min=0,
           help="The number of last tokens that the penalties apply to."),
]  # fmt: skip
RepeatPenalty = Annotated[
    float | None,
    option(
        "--repeat-penalty", metavar="N", show_default="the model's, or 1.0", env="REPEAT_PENALTY",
        help="Make repeated tokens less likely; 1 is off.",
    ),
]  # fmt: skip
PresencePenalty = Annotated[
    float,
    option(
        "--presence-penalty", metavar="N", env="PRESENCE_PENALTY",
        help="Subtracted from the logit of a token that occurs; 0 is off.",
    ),
]  # fmt: skip
FrequencyPenalty = Annotated[
    float,
    option(
        "--frequency-penalty", metavar="N", env="FREQUENCY_PENALTY",
        help="Subtracted from the logit of a token for each occurrence; 0 is off.",
    ),
]  # fmt: skip
TopNSigma = Annotated[
    float,
    option(
        "--top-nsigma", "--top-n-sigma", metavar="N",
        help="Remove tokens more than N standard deviations below the largest logit; 0 or less is off.",
    ),
]  # fmt: skip
XtcProbability = Annotated[
    float | None,
    option(
        "--xtc-probability", metavar="N", show_default="the model's, or 0.0",
        help="The probability of removing the most likely tokens (XTC); 0 is off.",
    ),
]  # fmt: skip
XtcThreshold = Annotated[
    float | None,
    option(
        "--xtc-threshold", metavar="N", show_default="the model's, or 0.1",
        help="XTC keeps only the least likely of the tokens with this probability; above 0.5 is off.",
    ),
]  # fmt: skip
Typical = Annotated[
    float,
    option(
        "--typical", "--typical-p", metavar="N",
        help="Sample from the most typical tokens whose probability reaches this value; 1 is off.",
    ),
]  # fmt: skip
DynatempRange = Annotated[
    float,
    option(
        "--dynatemp-range", metavar="N",
        help="Let the temperature follow the entropy this far up and down; 0 is off.",
    ),
]  # fmt: skip
DynatempExp = Annotated[
    float,
    option(
        "--dynatemp-exp", metavar="N",
        help="Power of the entropy that the temperature follows.",
    ),
]  # fmt: skip
Mirostat = Annotated[
    int | None,
    option(
        "--mirostat", metavar="N", show_default="the model's, or 0", min=0, max=2,
        help="Mirostat, version 1 or 2, instead of the other samplers; 0 is off.",
    ),
]  # fmt: skip
MirostatLr = Annotated[
    float | None,
    option(
        "--mirostat-lr", metavar="N", show_default="the model's, or 0.1",
        help="The learning rate of Mirostat (eta).",
    ),
]  # fmt: skip
MirostatEnt = Annotated[
    float | None,
    option(
        "--mirostat-ent", metavar="N", show_default="the model's, or 5.0",
        help="The target surprise of Mirostat, in bits per token (tau).",
    ),
]  # fmt: skip
DryMultiplier = Annotated[
    float,
    option(
        "--dry-multiplier", metavar="N",
        help="Make tokens less likely that continue a repetition (DRY), this strongly; 0 is off.",
    ),
]  # fmt: skip
DryBase = Annotated[
    float,
    option(
        "--dry-base", metavar="N",
        help="How fast DRY grows with the length of the repetition; at least 1.",
    ),
]  # fmt: skip
DryAllowedLength = Annotated[
    int,
    option(
        "--dry-allowed-length", metavar="N", min=0,
        help="Shorter repetitions have no penalty.",
    ),
]  # fmt: skip
DryPenaltyLastN = Annotated[
    int,
    option(
        "--dry-penalty-last-n", metavar="N", min=0,
        help="The number of last tokens in which DRY searches repetitions.",
    ),
]  # fmt: skip
DrySequenceBreaker = Annotated[
    list[str] | None,
    option(
        "--dry-sequence-breaker", metavar="TEXT",
        help="A text that ends a repetition for DRY; replaces the default ones; none for no text. Repeatable.",
    ),
]  # fmt: skip
AdaptiveTarget = Annotated[
    float,
    option(
        "--adaptive-target", metavar="N",
        help="Sample tokens of about this probability (adaptive-p); a negative value is off.",
    ),
]  # fmt: skip
AdaptiveDecay = Annotated[
    float,
    option(
        "--adaptive-decay", metavar="N",
        help="The weight of past tokens for adaptive-p, 0 to 0.99.",
    ),
]  # fmt: skip
ModelSampling = Annotated[
    bool,
    option(
        "--model-sampling/--no-model-sampling",
        help="Take the sampling parameters that the author recommends in the model's file, where no option is given.",
    ),
]  # fmt: skip
Samplers = Annotated[
    str | None,
    option(
        "--samplers", metavar="NAMES",
        help="The samplers in their order, separated by semicolons; all others are off.",
    ),
]  # fmt: skip
LogitBias = Annotated[
    list[str] | None,
    option(
        "-l", "--logit-bias", metavar="TOKEN+BIAS",
        help="Change the logit of a token id: 15043+1, 15043-1, 15043-inf. Repeatable.",
    ),
]  # fmt: skip
IgnoreEos = Annotated[bool, option("--ignore-eos", help="Never sample an end-of-generation token.")]
Grammar = Annotated[
    str | None, option("--grammar", metavar="GBNF", help="Generate only text that this grammar allows.")
]
GrammarFile = Annotated[Path | None, option("--grammar-file", metavar="FILE", help="Read the grammar from a file.")]
Stop = Annotated[
    list[str] | None,
    option("-r", "--reverse-prompt", "--stop", metavar="TEXT", help="End before this text. Repeatable."),
]
ChatTemplate = Annotated[
    str | None,
    option(
        "--chat-template", metavar="JINJA", env="CHAT_TEMPLATE",
        help="Template of conversations: its text, or the name of one of the model's.",
    ),
]  # fmt: skip
ChatTemplateFile = Annotated[
    Path | None,
    option("--chat-template-file", metavar="FILE", env="CHAT_TEMPLATE_FILE", help="Read the template from a file."),
]
