"""``llama-cffi serve``: a model for clients of OpenAI's API and of llama-server."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import llama_cffi
from llama_cffi.cli import arguments, console, options
from llama_cffi.cli.adapters import additions
from llama_cffi.cli.loading import draft_source, model_file

if TYPE_CHECKING:
    from llama_cffi.aio.llama import AsyncLlama

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_SWITCH_INTERVAL = 0.0005
"""Seconds after which a thread gives Python's lock away: the one that computes must not wait long for the other."""


@console.command
def serve(
    model: options.Model = None,
    host: Annotated[
        str, options.option("--host", metavar="ADDRESS", env="HOST", help="Address to listen on.")
    ] = "127.0.0.1",
    port: Annotated[
        int, options.option("--port", metavar="N", min=0, max=65535, env="PORT", help="Port; 0 takes a free one.")
    ] = 8080,
    api_key: Annotated[
        list[str] | None,
        options.option(
            "--api-key", metavar="KEY",
            help="A key that clients must send, several separated by commas. LLAMA_API_KEY is not seen by ps.",
        ),
    ] = None,
    api_key_file: Annotated[
        Path | None, options.option("--api-key-file", metavar="FILE", help="Keys, one on each line.")
    ] = None,
    alias: Annotated[
        str | None,
        options.option("-a", "--alias", metavar="NAMES", env="ALIAS", help="Names of the model, separated by commas."),
    ] = None,
    parallel: Annotated[
        int | None,
        options.option("-np", "--parallel", metavar="N", env="N_PARALLEL", help="Texts that are computed at once."),
    ] = None,
    cors_origins: Annotated[
        str | None,
        options.option(
            "--cors-origins", metavar="ORIGINS", show_default="local pages",
            help="Origins of web pages that may ask beside local ones, separated by commas; * for all, none for none.",
        ),
    ] = None,
    allowed_hosts: Annotated[
        str | None,
        options.option("--allowed-hosts", metavar="NAMES", help="Further names of this machine in the Host header."),
    ] = None,
    kv_cells: Annotated[
        int | None,
        options.option("--kv-cells", metavar="N", min=1, show_default="a few contexts, as memory allows",
                       help="Tokens in memory that all requests share; --ctx-size is for each."),
    ] = None,
    max_queue: Annotated[
        int | None,
        options.option("--max-queue", metavar="N", min=1, show_default="4 for each slot and 64",
                       help="Texts that may wait; further ones are refused with status 429."),
    ] = None,
    max_queue_tokens: Annotated[
        int | None,
        options.option("--max-queue-tokens", metavar="N", min=1, show_default="4 contexts",
                       help="Prompt tokens that may wait."),
    ] = None,
    request_timeout: Annotated[
        float,
        options.option("-to", "--timeout", "--request-timeout", metavar="S", min=0.1, env="TIMEOUT",
                       help="Seconds of a request, waiting included."),
    ] = 600.0,
    drain_timeout: Annotated[
        float,
        options.option("--drain-timeout", metavar="S", min=0,
                       help="Seconds that running requests have after Ctrl-C or SIGTERM."),
    ] = 30.0,
    ping_interval: Annotated[
        float,
        options.option("--sse-ping-interval", metavar="S", min=1, help="Seconds between pings of a silent stream."),
    ] = 30.0,
    max_body: Annotated[
        int, options.option("--max-body", metavar="MIB", min=1, help="Largest request.")
    ] = 16,
    response_store: Annotated[
        int,
        options.option("--response-store", metavar="N", min=0,
                       help="Responses of OpenAI's API that are kept for previous_response_id."),
    ] = 0,
    n_predict: Annotated[
        int | None,
        options.option("-n", "--n-predict", metavar="N", min=1, show_default="no limit", env="N_PREDICT",
                       help="Most tokens where the client does not say."),
    ] = None,
    prefill_assistant: Annotated[
        bool,
        options.option("--prefill-assistant/--no-prefill-assistant", env="PREFILL_ASSISTANT",
                       help="Take a last message of the assistant for the beginning of the reply."),
    ] = True,
    metrics: Annotated[bool, options.option("--metrics/--no-metrics", help="Offer /metrics.")] = True,
    public_metrics: Annotated[
        bool, options.option("--public-metrics", help="Let /metrics be read without a key.")
    ] = False,
    tell_slots: Annotated[bool, options.option("--slots/--no-slots", help="Offer /slots.")] = True,
    slot_save_path: Annotated[
        Path | None,
        options.option("--slot-save-path", metavar="DIR", help="Folder of slots that clients save and restore."),
    ] = None,
    slot_action_timeout: Annotated[
        float,
        options.option("--slot-action-timeout", metavar="S", min=0, help="Seconds that saving waits for a busy slot."),
    ] = 30.0,
    lora_init_without_apply: Annotated[
        bool,
        options.option("--lora-init-without-apply", help="Load LoRA adapters for requests that name them alone."),
    ] = False,
    spm_infill: Annotated[
        bool, options.option("--spm-infill", help="Put what is behind a gap before what precedes it.")
    ] = False,
    echo_prompt: Annotated[
        bool, options.option("--echo-prompt", help="Repeat the prompt in answers of /completion.")
    ] = False,
    compat: Annotated[
        str | None,
        options.option("--compat", metavar="NAME", help="llama-server: do as it does where that is less careful."),
    ] = None,
    strict_model: Annotated[
        bool, options.option("--strict-model", help="Refuse requests for another model's name.")
    ] = False,
    strict_fields: Annotated[bool, options.option("--strict-fields", help="Refuse unknown fields.")] = False,
    verbose: options.Verbose = False,
    n_gpu_layers: options.GpuLayers = "auto",
    device: options.Device = None,
    split_mode: options.Split = None,
    tensor_split: options.TensorSplit = None,
    main_gpu: options.MainGpu = None,
    load_mode: options.Load = "auto",
    lora: options.Lora = None,
    control_vector: options.ControlVector = None,
    control_vector_layer_range: options.LayerRange = None,
    model_draft: options.ModelDraft = None,
    spec_type: options.SpecType = None,
    ctx_size: options.CtxSize = None,
    batch_size: options.BatchSize = 2048,
    ubatch_size: options.UbatchSize = 512,
    threads: options.Threads = None,
    threads_batch: options.ThreadsBatch = None,
    context_shift: options.ContextShift = False,
) -> None:  # fmt: skip
    """Answer requests over HTTP, as OpenAI's API and llama-server do.

    The line with the URL goes to standard output when the port is open; the model is loaded after that. Ctrl-C or
    SIGTERM lets running requests finish; a second one ends them.
    """
    try:
        from llama_cffi.server.run import bind, run
        from llama_cffi.server.service import Service
        from llama_cffi.server.settings import Settings
    except ModuleNotFoundError as error:
        console.fail(f"{error.name} is not installed: pip install 'llama-cffi[server]'")
    if compat not in (None, "llama-server"):
        raise typer.BadParameter(f"there is only llama-server, not {compat!r}", param_hint="--compat")
    if slot_save_path is not None and not slot_save_path.is_dir():
        raise typer.BadParameter(f"there is no folder {slot_save_path}", param_hint="--slot-save-path")
    file = model_file(model)
    n_threads = arguments.positive(threads)
    slots = parallel if parallel is not None and parallel > 0 else 8
    settings = Settings(
        names=_listed(alias),
        api_keys=_keys(api_key, api_key_file),
        cors_origins=tuple(one for one in _listed(cors_origins) if one != "none"),
        local_pages=cors_origins != "none",
        allowed_hosts=_listed(allowed_hosts),
        check_host=host in _LOOPBACK,
        slots=tell_slots,
        slot_save_path=slot_save_path,
        slot_action_timeout=slot_action_timeout,
        spm_infill=spm_infill,
        echo_prompt=echo_prompt,
        compat=compat is not None,
        strict_model=strict_model,
        strict_fields=strict_fields,
        prefill_assistant=prefill_assistant,
        metrics=metrics,
        public_metrics=public_metrics,
        max_body=max_body << 20,
        response_store=response_store,
        default_max_tokens=n_predict,
        request_timeout=request_timeout,
        drain_timeout=drain_timeout,
        ping_interval=ping_interval,
    )
    added = additions(lora, control_vector, control_vector_layer_range)
    llama_options: dict[str, Any] = {
        "n_ctx": ctx_size,
        "n_cells": kv_cells,
        "n_batch": batch_size,
        "n_ubatch": min(ubatch_size, batch_size),
        "n_seq_max": slots,
        "n_threads": n_threads,
        "n_threads_batch": arguments.positive(threads_batch) or n_threads,
        "overflow": "shift" if context_shift else "stop",
        "max_waiting": max_queue or 4 * slots + 64,
        "draft": draft_source(model_draft, spec_type),
        "model_options": llama_cffi.ModelOptions(
            n_gpu_layers=arguments.gpu_layers(n_gpu_layers),
            devices=arguments.devices(device),
            split_mode=split_mode,
            tensor_split=arguments.tensor_split(tensor_split),
            main_gpu=main_gpu,
            load_mode=options.LOAD_MODES[load_mode],
        ),
    }
    llama_options["max_waiting_tokens"] = max_queue_tokens or 4 * (ctx_size or 4096)
    if not Path(file).is_file():
        raise FileNotFoundError(f"there is no model file {file}")

    async def open_model() -> AsyncLlama:
        llm = await llama_cffi.AsyncLlama.open(file, **llama_options)
        service.adapters = added.apply(llm.llama)
        if lora_init_without_apply:
            llm.llama.set_adapters({})
        return llm

    if host not in _LOOPBACK and not settings.api_keys:
        console.note(f"warning: {host} can be reached from other machines, and there is no --api-key")
    try:
        sock = bind(host, port)
    except OSError as error:
        console.fail(f"cannot listen on {host}:{port}: {error.strerror or error}; --port 0 takes a free port")
    service = Service(open_model, settings, Path(file).stem)
    address = f"[{host}]" if ":" in host else host
    print(f"http://{address}:{sock.getsockname()[1]} serves {service.id}, {slots} at once", flush=True)
    sys.setswitchinterval(_SWITCH_INTERVAL)
    if run(service, sock, partial(console.note, "the model is loaded")):
        raise typer.Exit(console.INTERRUPTED)


def _listed(text: str | None) -> tuple[str, ...]:
    return tuple(one for part in (text or "").split(",") if (one := part.strip()))


def _keys(given: list[str] | None, file: Path | None) -> tuple[str, ...]:
    """The keys of options, the file and the environment."""
    lines = file.read_text(encoding="utf-8").splitlines() if file is not None else []
    stripped = [line.strip() for line in lines]
    found = [key for text in (*(given or ()), os.environ.get("LLAMA_API_KEY", "")) for key in _listed(text)]
    return tuple(dict.fromkeys([*found, *(line for line in stripped if line and not line.startswith("#"))]))
