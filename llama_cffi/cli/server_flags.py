"""Every flag of llama-server, and what ``llama-cffi serve`` does with it: the one table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["own", "field", "ignored", "refused"]


@dataclass(frozen=True)
class Flag:
    """A flag of llama-server with all of its spellings."""

    names: tuple[str, ...]
    kind: Kind
    word: str = ""
    """The field of a request whose default it sets (``field``), why it has no effect (``ignored``), or what to do
    instead (``refused``)."""
    n_values: int = 1
    """How many values follow it."""
    env: str = ""
    """The environment variable that sets it, too, for ``field``."""
    value: object = None
    """What the field is set to by a flag without a value."""

    @property
    def name(self) -> str:
        """The spelling that is shown."""
        return next((one for one in self.names if one.startswith("--")), self.names[0])


def _own(*names: str, n: int = 1) -> tuple[Flag, ...]:
    return tuple(Flag(tuple(one.split()), "own", n_values=n) for one in names)


def _ignored(why: str, *names: str, n: int = 1) -> tuple[Flag, ...]:
    return tuple(Flag(tuple(one.split()), "ignored", why, n) for one in names)


def _refused(instead: str, *names: str, n: int = 1) -> tuple[Flag, ...]:
    return tuple(Flag(tuple(one.split()), "refused", instead, n) for one in names)


def _field(names: str, field: str, env: str = "", *, n: int = 1, value: object = None) -> Flag:
    return Flag(tuple(names.split()), "field", field, n, f"LLAMA_ARG_{env}" if env else "", value)


_FIELDS = (
    _field("--temp --temperature", "temperature", "TEMPERATURE"),
    _field("--top-k", "top_k", "TOP_K"),
    _field("--top-p", "top_p", "TOP_P"),
    _field("--min-p", "min_p", "MIN_P"),
    _field("--top-nsigma --top-n-sigma", "top_n_sigma"),
    _field("--xtc-probability", "xtc_probability"),
    _field("--xtc-threshold", "xtc_threshold"),
    _field("--typical --typical-p", "typical_p"),
    _field("--repeat-last-n", "repeat_last_n"),
    _field("--repeat-penalty", "repeat_penalty", "REPEAT_PENALTY"),
    _field("--presence-penalty", "presence_penalty", "PRESENCE_PENALTY"),
    _field("--frequency-penalty", "frequency_penalty", "FREQUENCY_PENALTY"),
    _field("--dry-multiplier", "dry_multiplier"),
    _field("--dry-base", "dry_base"),
    _field("--dry-allowed-length", "dry_allowed_length"),
    _field("--dry-penalty-last-n", "dry_penalty_last_n"),
    _field("--dry-sequence-breaker", "dry_sequence_breakers"),
    _field("--adaptive-target", "adaptive_target"),
    _field("--adaptive-decay", "adaptive_decay"),
    _field("--dynatemp-range", "dynatemp_range"),
    _field("--dynatemp-exp", "dynatemp_exponent"),
    _field("--mirostat", "mirostat"),
    _field("--mirostat-lr", "mirostat_eta"),
    _field("--mirostat-ent", "mirostat_tau"),
    _field("--samplers", "samplers"),
    _field("--sampler-seq --sampling-seq", "samplers"),
    _field("-s --seed", "seed"),
    _field("-l --logit-bias", "logit_bias"),
    _field("--ignore-eos", "ignore_eos", n=0, value=True),
    _field("-r --reverse-prompt", "stop"),
    _field("--grammar", "grammar"),
    _field("--grammar-file", "grammar"),
    _field("-j --json-schema", "json_schema"),
    _field("-jf --json-schema-file", "json_schema"),
    _field("--embd-normalize", "embd_normalize"),
    _field("--chat-template-kwargs", "chat_template_kwargs", "CHAT_TEMPLATE_KWARGS"),
    _field("--reasoning-format", "reasoning_format", "THINK"),
    _field("-rea --reasoning", "reasoning", "REASONING"),
    _field("--reasoning-effort", "reasoning_effort", "REASONING_EFFORT"),
    _field("--reasoning-budget", "reasoning_budget", "THINK_BUDGET"),
)

_OWN = (
    *_own("-h --help --usage", n=0),
    *_own("-C --cpu-mask", "-Cr --cpu-range", "--cpu-strict", "--prio", "--poll", "--numa"),
    *_own("-Cb --cpu-mask-batch", "-Crb --cpu-range-batch", "--cpu-strict-batch", "--prio-batch", "--poll-batch"),
    *_own("-t --threads", "-tb --threads-batch", "-c --ctx-size", "-n --predict --n-predict", "-b --batch-size"),
    *_own("-ub --ubatch-size", "-cram --cache-ram", "-fa --flash-attn", "-ctk --cache-type-k", "-ctv --cache-type-v"),
    *_own("-kvu --kv-unified -no-kvu --no-kv-unified", "--context-shift --no-context-shift", n=0),
    *_own("-kvo --kv-offload -nkvo --no-kv-offload", "--op-offload --no-op-offload", "--no-host", n=0),
    *_own("--repack -nr --no-repack", "--check-tensors", "--offline", n=0),
    *_own("-lzm --lazy-mode", "-fit --fit", "-fitt --fit-target", "-ot --override-tensor", "-ncmoe --n-cpu-moe"),
    *_own("-cmoe --cpu-moe", n=0),
    *_own("--yarn-orig-ctx", "--yarn-ext-factor", "--yarn-attn-factor", "--yarn-beta-slow", "--yarn-beta-fast"),
    *_own("--pooling", "--rope-scaling", "--rope-scale", "--rope-freq-base", "--rope-freq-scale", "-np --parallel"),
    *_own("-mm --mmproj", "--image-min-tokens", "--image-max-tokens"),
    *_own("-lm --load-mode", "-dev --device", "-ngl --gpu-layers --n-gpu-layers", "--rpc"),
    *_own("-sm --split-mode"),
    *_own("-ts --tensor-split", "-mg --main-gpu", "--override-kv", "--lora", "--lora-scaled", "--control-vector"),
    *_own("--control-vector-scaled", "-a --alias", "--tags", "-m --model", "-hf -hfr --hf-repo", "-hff --hf-file"),
    *_own("--control-vector-layer-range", n=2),
    *_own("-hft --hf-token", "--host", "--port", "--cors-origins", "--api-prefix", "--api-key", "--api-key-file"),
    *_own("--reuse-port", "--metrics", "--log-jsonl --no-log-jsonl", "-v --verbose --log-verbose", n=0),
    *_own("--ssl-key-file", "--ssl-cert-file", "-to --timeout", "--sse-ping-interval", "--log-file"),
    *_own("--prefill-assistant --no-prefill-assistant", n=0),
    *_own("--chat-template", "--chat-template-file", "--spec-draft-model -md --model-draft", "--spec-type"),
    *_own("--ui --webui --no-ui --no-webui", "--slots --no-slots", "--lora-init-without-apply", "--spm-infill", n=0),
    *_own("--path", "--slot-save-path", "--spec-draft-n-max", "--spec-draft-p-min --draft-p-min"),
    *_own("--models-dir", "--models-preset", "--models-max", "--sleep-idle-seconds"),
    *_own("--models-autoload --no-models-autoload", n=0),
)

_NO_VIDEO = "there is no video"
_MEASURED = "it is found by measuring"
_DRAFTS_SHARE = "drafts are computed with the threads and devices of the model"
_ALWAYS = "it is always so"
_DOWNLOADS = "it names a model on the hub: give that with -hf"

_IGNORED = (
    *_ignored("drafts are looked up in the text itself", "-lcs --lookup-cache-static", "-lcd --lookup-cache-dynamic"),
    *_ignored("with --context-shift the older half goes, behind the prompt's first tokens", "--keep"),
    *_ignored(_ALWAYS, "--swa-full", "-cb --cont-batching -nocb --no-cont-batching", n=0),
    *_ignored(_ALWAYS, "--jinja --no-jinja", "--cache-prompt --no-cache-prompt", n=0),
    *_ignored("memory is copied where a prompt may be cut", "-ctxcp --ctx-checkpoints --swa-checkpoints"),
    *_ignored("memory is copied where a prompt may be cut", "-cms --checkpoint-min-step"),
    *_ignored("what is evicted goes to the host's memory", "--cache-idle-slots --no-cache-idle-slots", n=0),
    *_ignored("beginnings are found in all of memory", "--cache-reuse", "-sps --slot-prompt-similarity"),
    *_ignored("llama.cpp has none of it any more", "-dt --defrag-thold"),
    *_ignored("times are always measured", "--perf --no-perf", n=0),
    *_ignored("no text is given on the command line", "-e --escape --no-escape", n=0),
    *_ignored("the first request warms the model", "--warmup --no-warmup", n=0),
    *_ignored("tokens are chosen on the CPU", "-bs --backend-sampling", n=0),
    *_ignored("tokens are chosen on the CPU", "--spec-draft-backend-sampling --no-spec-draft-backend-sampling", n=0),
    *_ignored("--mmproj auto takes the projector of the model", "--mmproj-auto --no-mmproj --no-mmproj-auto", n=0),
    *_ignored("the projector is computed where the model is", "--mmproj-offload --no-mmproj-offload", n=0),
    *_ignored("the projector is computed where the model is", "-mmdev --mmproj-device"),
    *_ignored("each image is encoded by itself", "--mtmd-batch-max-tokens"),
    *_ignored(_NO_VIDEO, "--video-fps", "--video-timestamp-interval", "--video-ffmpeg-dir"),
    *_ignored("--ctx-size auto takes at least 4096 tokens", "-fitc --fit-ctx"),
    *_ignored("a page may send what it asks to send", "--cors-methods", "--cors-headers"),
    *_ignored("credentials of other origins are never taken", "--cors-credentials --no-cors-credentials", n=0),
    *_ignored("the page keeps its options in the browser", "--ui-config --webui-config"),
    *_ignored("the page keeps its options in the browser", "--ui-config-file --webui-config-file"),
    *_ignored("the model does what it can", "--embedding --embeddings", "--rerank --reranking", n=0),
    *_ignored("there is one loop, and no thread for each connection", "--threads-http"),
    *_ignored("POST /props changes nothing", "--props", n=0),
    *_ignored("the template decides what becomes of reasoning", "--reasoning-preserve --no-reasoning-preserve", n=0),
    *_ignored("the log has no colors", "--log-colors"),
    *_ignored("each line has its time and logger", "--log-prefix --no-log-prefix", n=0),
    *_ignored("each line has its time and logger", "--log-timestamps --no-log-timestamps", n=0),
    *_ignored("-v shows everything", "-lv --verbosity --log-verbosity"),
    *_ignored("without -v only warnings are shown", "--log-disable", n=0),
    *_ignored(_DRAFTS_SHARE, "--spec-draft-threads -td --threads-draft"),
    *_ignored(_DRAFTS_SHARE, "--spec-draft-threads-batch -tbd --threads-batch-draft"),
    *_ignored(_DRAFTS_SHARE, "--spec-draft-cpu-mask -Cd --cpu-mask-draft"),
    *_ignored(_DRAFTS_SHARE, "--spec-draft-cpu-range -Crd --cpu-range-draft"),
    *_ignored(_DRAFTS_SHARE, "--spec-draft-cpu-strict --cpu-strict-draft", "--spec-draft-prio --prio-draft"),
    *_ignored(_DRAFTS_SHARE, "--spec-draft-poll --poll-draft"),
    *_ignored(_DRAFTS_SHARE, "--spec-draft-cpu-mask-batch -Cbd --cpu-mask-batch-draft"),
    *_ignored(_DRAFTS_SHARE, "--spec-draft-cpu-strict-batch --cpu-strict-batch-draft"),
    *_ignored(_DRAFTS_SHARE, "--spec-draft-prio-batch --prio-batch-draft"),
    *_ignored(_DRAFTS_SHARE, "--spec-draft-poll-batch --poll-batch-draft"),
    *_ignored(_DRAFTS_SHARE, "--spec-draft-type-k -ctkd --cache-type-k-draft"),
    *_ignored(_DRAFTS_SHARE, "--spec-draft-type-v -ctvd --cache-type-v-draft"),
    *_ignored(_DRAFTS_SHARE, "--spec-draft-device -devd --device-draft"),
    *_ignored(_DRAFTS_SHARE, "--spec-draft-ngl -ngld --gpu-layers-draft --n-gpu-layers-draft"),
    *_ignored(_MEASURED, "--spec-draft-n-min", "--spec-draft-p-split --draft-p-split"),
    *_ignored(_MEASURED, "--spec-ngram-mod-n-min", "--spec-ngram-mod-n-max", "--spec-ngram-mod-n-match"),
    *_ignored(_MEASURED, "--spec-ngram-simple-size-n", "--spec-ngram-simple-size-m", "--spec-ngram-simple-min-hits"),
    *_ignored(_MEASURED, "--spec-ngram-map-k-size-n", "--spec-ngram-map-k-size-m", "--spec-ngram-map-k-min-hits"),
    *_ignored(_MEASURED, "--spec-ngram-map-k4v-size-n", "--spec-ngram-map-k4v-size-m"),
    *_ignored(_MEASURED, "--spec-ngram-map-k4v-min-hits"),
)

_REFUSED = (
    *_refused("llama-cffi --version", "--version", n=0),
    *_refused("llama-cffi list", "-cl --cache-list", n=0),
    *_refused("llama-cffi doctor", "--list-devices", n=0),
    *_refused("llama-cffi completion bash", "--completion-bash", n=0),
    *_refused("--ctx-size is for each request, and --kv-cells for all", "--kv-unified-per-slot"),
    *_refused("control tokens are never part of a text", "-sp --special", n=0),
    *_refused("--mmproj takes a file, or auto", "-mmu --mmproj-url"),
    *_refused("images are part of the request, as data: URLs", "--media-path"),
    *_refused("--override-tensor places tensors by their names", "-ncffn --n-cpu-ffn"),
    *_refused("--n-gpu-layers decides what is on the GPU", "--spec-draft-override-tensor -otd --override-tensor-draft"),
    *_refused("--n-gpu-layers decides what is on the GPU", "--spec-draft-cpu-moe -cmoed --cpu-moe-draft", n=0),
    *_refused(
        "--n-gpu-layers decides what is on the GPU",
        "--spec-draft-n-cpu-moe --spec-draft-ncmoe -ncmoed --n-cpu-moe-draft",
    ),
    *_refused("-hf fetches a model from the hub", "-mu --model-url", "-dr --docker-repo"),
    *_refused("-md hf:OWNER/REPO fetches a draft model", "--spec-draft-hf -hfd -hfrd --hf-repo-draft"),
    *_refused("the server calls no tools", "--tools", "--tools-runtime", "--mcp-servers-config"),
    *_refused("the server calls no tools", "--mcp-servers-json"),
    *_refused("the server calls no tools", "-ag --agent -no-ag --no-agent", n=0),
    *_refused(
        "the server fetches nothing for others",
        "--ui-mcp-proxy --webui-mcp-proxy --no-ui-mcp-proxy --no-webui-mcp-proxy",
        n=0,
    ),
    *_refused("--reasoning-budget ends reasoning without a message", "--reasoning-budget-message"),
    *_refused("replies are always parsed", "--skip-chat-parsing --no-skip-chat-parsing", n=0),
    *_refused("prompts are not written anywhere", "--log-prompts-dir"),
    *_refused("--spec-draft-n-max", "--draft --draft-n --draft-max"),
    *_refused("a draft has no least number of tokens", "--draft-min --draft-n-min"),
    *_refused("--spec-type ngram-simple finds these", "--spec-ngram-size-n", "--spec-ngram-size-m"),
    *_refused("--spec-type ngram-simple finds these", "--spec-ngram-min-hits"),
    *_refused("drafts are never synthetic", "--spec-synth-len", "--spec-synth-rates"),
    *_refused(_DOWNLOADS, "--embd-gemma-default", "--fim-qwen-1.5b-default", "--fim-qwen-3b-default", n=0),
    *_refused(_DOWNLOADS, "--fim-qwen-7b-default", "--fim-qwen-7b-spec", "--fim-qwen-14b-spec", n=0),
    *_refused(_DOWNLOADS, "--fim-qwen-30b-default", "--gpt-oss-20b-default", "--gpt-oss-120b-default", n=0),
    *_refused(_DOWNLOADS, "--vision-gemma-4b-default", "--vision-gemma-12b-default", n=0),
    *_refused("--spec-type ngram-simple drafts from the text itself", "--spec-default", n=0),
)

FLAGS: tuple[Flag, ...] = (*_OWN, *_FIELDS, *_IGNORED, *_REFUSED)
"""All of them."""

BY_NAME = {name: flag for flag in FLAGS for name in flag.names}

__all__ = ["BY_NAME", "FLAGS", "Flag", "Kind"]
