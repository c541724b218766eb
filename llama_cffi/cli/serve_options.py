"""Options of ``llama-cffi serve`` alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from llama_cffi.cli.options import option

# -- where, and who

Config = Annotated[
    Path | None,
    option("--config", metavar="FILE", help="Options from a file: TOML, or lines NAME = VALUE (LLAMA_CFFI_CONFIG)."),
]
Host = Annotated[
    str,
    option(
        "--host", metavar="ADDRESS", env="HOST",
        help="Addresses to listen on, separated by commas; unix:PATH or a name ending in .sock is a socket file.",
    ),
]  # fmt: skip
Port = Annotated[int, option("--port", metavar="N", min=0, max=65535, env="PORT", help="Port; 0 takes a free one.")]
ReusePort = Annotated[bool, option("--reuse-port", env="REUSE_PORT", help="Let several processes listen on the port.")]
SocketMode = Annotated[str, option("--socket-mode", metavar="OCTAL", help="Rights of a socket file.")]
ApiPrefix = Annotated[
    str, option("--api-prefix", metavar="PATH", env="API_PREFIX", help="What every path begins with.")
]
ApiKey = Annotated[
    list[str] | None,
    option(
        "--api-key", metavar="KEY",
        help="A key that clients must send, several separated by commas. LLAMA_API_KEY is not seen by ps.",
    ),
]  # fmt: skip
ApiKeyFile = Annotated[
    Path | None, option("--api-key-file", metavar="FILE", env="API_KEY_FILE", help="Keys, one on each line.")
]
SslKeyFile = Annotated[
    Path | None, option("--ssl-key-file", metavar="FILE", env="SSL_KEY_FILE", help="Private key for TLS, in PEM.")
]
SslCertFile = Annotated[
    Path | None, option("--ssl-cert-file", metavar="FILE", env="SSL_CERT_FILE", help="Certificates for TLS, in PEM.")
]
CorsOrigins = Annotated[
    str | None,
    option(
        "--cors-origins", metavar="ORIGINS", show_default="local pages", env="CORS_ORIGINS",
        help="Origins of web pages that may ask beside local ones, separated by commas; * for all, none for none.",
    ),
]  # fmt: skip
AllowedHosts = Annotated[
    str | None,
    option("--allowed-hosts", metavar="NAMES", help="Further names of this machine in the Host header."),
]
MediaHosts = Annotated[
    str | None,
    option(
        "--media-hosts", metavar="HOSTS", show_default="none",
        help="Hosts that images and sounds may be fetched from, separated by commas: NAME, *.NAME, * or ADDRESS:PORT.",
    ),
]  # fmt: skip

# -- the model

Alias = Annotated[
    str | None,
    option("-a", "--alias", metavar="NAMES", env="ALIAS", help="Names of the model, separated by commas."),
]
Tags = Annotated[
    str | None, option("--tags", metavar="WORDS", env="TAGS", help="Words about the model, separated by commas.")
]
PrefillAssistant = Annotated[
    bool,
    option(
        "--prefill-assistant/--no-prefill-assistant", env="PREFILL_ASSISTANT",
        help="Take a last message of the assistant for the beginning of the reply.",
    ),
]  # fmt: skip
StrictModel = Annotated[bool, option("--strict-model", help="Refuse requests for another model's name.")]
StrictFields = Annotated[bool, option("--strict-fields", help="Refuse unknown fields.")]
Voices = Annotated[
    list[str] | None,
    option("--voice", metavar="NAME=FILE",
           help="A sound of a voice, by the name with which requests for speech ask for it. Repeatable."),
]  # fmt: skip
Pooling = Annotated[
    Literal["none", "mean", "cls", "last", "rank"] | None,
    option("--pooling", metavar="TYPE", env="POOLING", show_default="the model's",
           help="How the vectors of tokens become one: none, mean, cls, last or rank."),
]  # fmt: skip
DraftMax = Annotated[
    int | None,
    option("--spec-draft-n-max", metavar="N", min=1, env="SPEC_DRAFT_N_MAX", show_default="8",
           help="Most tokens that --model-draft drafts."),
]  # fmt: skip
DraftPMin = Annotated[
    float | None,
    option("--spec-draft-p-min", "--draft-p-min", metavar="P", min=0, max=1, env="SPEC_DRAFT_P_MIN",
           show_default="0.5", help="A draft ends before a token that is less probable."),
]  # fmt: skip

# -- memory and computing

Parallel = Annotated[
    int | None,
    option("-np", "--parallel", metavar="N", env="N_PARALLEL", show_default="8", help="Texts computed at once."),
]
KvCells = Annotated[
    int | None,
    option("--kv-cells", metavar="N", min=1, show_default="a few contexts, as memory allows",
           help="Tokens in memory that all requests share; --ctx-size is for each."),
]  # fmt: skip
CacheRam = Annotated[
    int | None,
    option("-cram", "--cache-ram", metavar="MIB", min=-1, env="CACHE_RAM", show_default="an eighth of what is free",
           help="Memory of the host for what had to leave the context's; -1 for no limit, 0 for none."),
]  # fmt: skip
KvUnified = Annotated[
    bool,
    option("-kvu/-no-kvu", "--kv-unified/--no-kv-unified", env="KV_UNIFIED",
           help="One memory for all requests, or a part of it for each."),
]  # fmt: skip

# -- limits

NPredict = Annotated[
    int,
    option("-n", "--n-predict", "--predict", metavar="N", min=-2, env="N_PREDICT",
           help="Most tokens where the client does not say; -1 for no limit."),
]  # fmt: skip
MaxQueue = Annotated[
    int | None,
    option("--max-queue", metavar="N", min=1, show_default="4 for each slot and 64",
           help="Texts that may wait; further ones are refused with status 429."),
]  # fmt: skip
MaxQueueTokens = Annotated[
    int | None,
    option(
        "--max-queue-tokens", metavar="N", min=1, show_default="4 times the cells", help="Prompt tokens that may wait."
    ),
]
QueueTimeout = Annotated[
    float, option("--queue-timeout", metavar="S", min=0.01, help="Seconds that a text may wait for its turn.")
]
CompileTimeout = Annotated[
    float,
    option("--compile-timeout", metavar="S", min=0.1, help="Seconds that a schema, a grammar or tools may take."),
]
RequestTimeout = Annotated[
    float,
    option("-to", "--timeout", "--request-timeout", metavar="S", min=0.1, env="TIMEOUT",
           help="Seconds of a request, waiting included."),
]  # fmt: skip
DrainTimeout = Annotated[
    float,
    option("--drain-timeout", metavar="S", min=0, help="Seconds that running requests have after Ctrl-C or SIGTERM."),
]
PingInterval = Annotated[
    float,
    option("--sse-ping-interval", metavar="S", min=1, env="SSE_PING_INTERVAL",
           help="Seconds between pings of a silent stream."),
]  # fmt: skip
MaxBody = Annotated[int, option("--max-body", metavar="MIB", min=1, help="Largest request.")]
MaxN = Annotated[int, option("--max-n", metavar="N", min=1, help="Most choices of one request.")]
MaxPrompts = Annotated[int, option("--max-prompts", metavar="N", min=1, help="Most prompts of one request.")]
MaxInputs = Annotated[int, option("--max-inputs", metavar="N", min=1, help="Most texts to embed of one request.")]

ResponseStore = Annotated[
    int,
    option("--response-store", metavar="N", min=0,
           help="Responses of OpenAI's API that are kept for previous_response_id."),
]  # fmt: skip

# -- what is told

Metrics = Annotated[bool, option("--metrics/--no-metrics", help="Offer /metrics.")]
VllmMetrics = Annotated[bool, option("--metrics-vllm", help="Add vLLM's names to /metrics.")]
PublicMetrics = Annotated[bool, option("--public-metrics", help="Let /metrics be read without a key.")]
Verbose = Annotated[
    bool,
    option("-v", "--verbose", "--log-verbose",
           help="Show llama.cpp's log, a line for each request, and tracebacks of errors."),
]  # fmt: skip
AccessLog = Annotated[bool, option("--access-log", help="Log a line for each request, without texts and keys.")]
LogFile = Annotated[Path | None, option("--log-file", metavar="FILE", env="LOG_FILE", help="Write the log to a file.")]
LogJsonl = Annotated[
    bool, option("--log-jsonl/--no-log-jsonl", env="LOG_JSONL", help="Write each line of the log as a JSON object.")
]

Ui = Annotated[
    bool, option("--ui/--no-ui", "--webui/--no-webui", env="UI", help="Show a page for chats at / in a browser.")
]
StaticPath = Annotated[
    Path | None,
    option("--path", metavar="DIR", env="STATIC_PATH",
           help="Give out the files of a folder in the page's place, without a key."),
]  # fmt: skip

# -- llama-server's own endpoints

TellSlots = Annotated[bool, option("--slots/--no-slots", env="ENDPOINT_SLOTS", help="Offer /slots.")]
SlotSavePath = Annotated[
    Path | None, option("--slot-save-path", metavar="DIR", help="Folder of slots that clients save and restore.")
]
SlotActionTimeout = Annotated[
    float, option("--slot-action-timeout", metavar="S", min=0, help="Seconds that saving waits for a busy slot.")
]
LoraInitWithoutApply = Annotated[
    bool, option("--lora-init-without-apply", help="Load LoRA adapters for requests that name them alone.")
]
SpmInfill = Annotated[bool, option("--spm-infill", help="Put what is behind a gap before what precedes it.")]
EchoPrompt = Annotated[bool, option("--echo-prompt", help="Repeat the prompt in answers of /completion.")]
Compat = Annotated[
    str | None, option("--compat", metavar="NAME", help="llama-server: do as it does where that is less careful.")
]

# -- several models, each in a process of its own

ModelsDir = Annotated[
    Path | None,
    option("--models-dir", metavar="DIR", env="MODELS_DIR", help="Serve the models of a folder, by their names."),
]
ModelsPreset = Annotated[
    Path | None,
    option("--models-preset", metavar="FILE", env="MODELS_PRESET",
           help="Models and their options: sections [NAME] with lines NAME = VALUE, [*] for all."),
]  # fmt: skip
ModelsHub = Annotated[bool, option("--models-hub", help="Serve the models in the cache of the Hugging Face hub.")]
ModelsMax = Annotated[
    int,
    option("--models-max", metavar="N", min=0, env="MODELS_MAX",
           help="Models in memory at once; an idle one makes room for another. 0 for no limit."),
]  # fmt: skip
ModelsAutoload = Annotated[
    bool,
    option("--models-autoload/--no-models-autoload", env="MODELS_AUTOLOAD",
           help="Load a model at the first request for it, or only with POST /models/load."),
]  # fmt: skip
MemoryLimit = Annotated[
    int | None,
    option("--memory-limit", metavar="MIB", min=1,
           help="Memory that models and their contexts may take together, on all devices."),
]  # fmt: skip
SleepIdleSeconds = Annotated[
    float | None,
    option("--sleep-idle-seconds", metavar="S", min=-1, env="SLEEP_IDLE_SECONDS", show_default="never",
           help="Seconds without a request after which a model leaves memory, until the next one; -1 for never."),
]  # fmt: skip

Context = typer.Context
