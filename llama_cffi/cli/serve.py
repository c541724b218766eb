"""``llama-cffi serve``: a model for clients of OpenAI's and Anthropic's APIs and of llama-server."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

import llama_cffi
from llama_cffi.cli import arguments, console, options, server_log
from llama_cffi.cli import serve_options as opt
from llama_cffi.cli.adapters import Additions, additions
from llama_cffi.cli.groups import takes
from llama_cffi.cli.loading import draft_source, file_on_disk, model_file, projector_source
from llama_cffi.cli.memory_plan import planned_bytes
from llama_cffi.cli.model_choice import MODEL, ModelChoice
from llama_cffi.cli.placement import CONTEXT_MEMORY, DEFAULT_N_CTX, PLACEMENT, ContextMemory, Placement
from llama_cffi.cli.serve_models import Several, check_together, make_pool
from llama_cffi.cli.serve_parts import (
    LOOPBACK,
    bind_all,
    keys_of,
    listed,
    media_hosts_of,
    mode_of,
    prefix_of,
    remove_files,
    voices_of,
)
from llama_cffi.cli.server_arguments import taken_by
from llama_cffi.cli.server_flags import FLAGS

if TYPE_CHECKING:
    from llama_cffi.aio.llama import AsyncLlama
    from llama_cffi.server.guard import Guard
    from llama_cffi.server.router.link import Link
    from llama_cffi.server.service import Service
    from llama_cffi.server.serving import Serving
    from llama_cffi.server.settings import Settings

_SWITCH_INTERVAL = 0.0005
"""Seconds after which a thread gives Python's lock away: the one that computes must not wait long for the other."""


@console.command
@takes(ModelChoice, Placement, ContextMemory)
def serve(
    ctx: opt.Context,
    choice: ModelChoice = MODEL,
    mmproj: options.Mmproj = None,
    image_min_tokens: options.ImageMinTokens = None,
    image_max_tokens: options.ImageMaxTokens = None,
    config: opt.Config = None,
    host: opt.Host = "127.0.0.1",
    port: opt.Port = 8080,
    reuse_port: opt.ReusePort = False,
    socket_mode: opt.SocketMode = "600",
    api_prefix: opt.ApiPrefix = "",
    api_key: opt.ApiKey = None,
    api_key_file: opt.ApiKeyFile = None,
    ssl_key_file: opt.SslKeyFile = None,
    ssl_cert_file: opt.SslCertFile = None,
    cors_origins: opt.CorsOrigins = None,
    allowed_hosts: opt.AllowedHosts = None,
    media_hosts: opt.MediaHosts = None,
    alias: opt.Alias = None,
    tags: opt.Tags = None,
    chat_template: options.ChatTemplate = None,
    chat_template_file: options.ChatTemplateFile = None,
    prefill_assistant: opt.PrefillAssistant = True,
    strict_model: opt.StrictModel = False,
    strict_fields: opt.StrictFields = False,
    pooling: opt.Pooling = None,
    voice: opt.Voices = None,
    parallel: opt.Parallel = None,
    ctx_size: options.CtxSize = None,
    kv_cells: opt.KvCells = None,
    cache_ram: opt.CacheRam = None,
    max_queue: opt.MaxQueue = None,
    max_queue_tokens: opt.MaxQueueTokens = None,
    queue_timeout: opt.QueueTimeout = 60.0,
    compile_timeout: opt.CompileTimeout = 10.0,
    request_timeout: opt.RequestTimeout = 600.0,
    drain_timeout: opt.DrainTimeout = 30.0,
    ping_interval: opt.PingInterval = 30.0,
    n_predict: opt.NPredict = -1,
    max_body: opt.MaxBody = 16,
    max_n: opt.MaxN = 16,
    max_prompts: opt.MaxPrompts = 64,
    max_inputs: opt.MaxInputs = 2048,
    response_store: opt.ResponseStore = 0,
    metrics: opt.Metrics = True,
    metrics_vllm: opt.VllmMetrics = False,
    public_metrics: opt.PublicMetrics = False,
    ui: opt.Ui = True,
    path: opt.StaticPath = None,
    tell_slots: opt.TellSlots = True,
    slot_save_path: opt.SlotSavePath = None,
    slot_action_timeout: opt.SlotActionTimeout = 30.0,
    lora_init_without_apply: opt.LoraInitWithoutApply = False,
    spm_infill: opt.SpmInfill = False,
    echo_prompt: opt.EchoPrompt = False,
    compat: opt.Compat = None,
    access_log: opt.AccessLog = False,
    log_file: opt.LogFile = None,
    log_jsonl: opt.LogJsonl = False,
    verbose: opt.Verbose = False,
    placement: Placement = PLACEMENT,
    rpc: options.Rpc = None,
    isolate: options.Isolate = None,
    lora: options.Lora = None,
    control_vector: options.ControlVector = None,
    control_vector_layer_range: options.LayerRange = None,
    model_draft: options.ModelDraft = None,
    spec_type: options.SpecType = None,
    draft_max: opt.DraftMax = None,
    draft_p_min: opt.DraftPMin = None,
    batch_size: options.BatchSize = 2048,
    ubatch_size: options.UbatchSize = 512,
    threads: options.Threads = None,
    threads_batch: options.ThreadsBatch = None,
    context_shift: options.ContextShift = False,
    kv_unified: opt.KvUnified = True,
    context: ContextMemory = CONTEXT_MEMORY,
    model_sampling: options.ModelSampling = True,
    models_dir: opt.ModelsDir = None,
    models_preset: opt.ModelsPreset = None,
    models_hub: opt.ModelsHub = False,
    models_max: opt.ModelsMax = 4,
    models_autoload: opt.ModelsAutoload = True,
    memory_limit: opt.MemoryLimit = None,
    sleep_idle_seconds: opt.SleepIdleSeconds = None,
) -> None:
    """Answer HTTP requests as OpenAI's and Anthropic's APIs do.

    The line with the URL goes to standard output when the port is open; the model is loaded after that. Ctrl-C or
    SIGTERM lets running requests finish; a second one ends them.

    Every flag of llama-server has a meaning here. Those of its samplers are defaults for requests.
    """
    try:
        from llama_cffi.server.listening import address_of, check_certificate
        from llama_cffi.server.openai.models import model_card
        from llama_cffi.server.run import run
        from llama_cffi.server.settings import Settings
    except ModuleNotFoundError as error:
        console.fail(f"{error.name} is not installed: pip install 'llama-cffi[server]'")
    taken = taken_by(ctx)
    for one in taken.notes:
        console.note(one)
    if (ssl_key_file is None) != (ssl_cert_file is None):
        raise typer.BadParameter("TLS needs both --ssl-key-file and --ssl-cert-file")
    if ssl_key_file is not None and ssl_cert_file is not None:
        check_certificate(str(ssl_key_file), str(ssl_cert_file))
    if chat_template is not None and chat_template_file is not None:
        raise typer.BadParameter("give either --chat-template or --chat-template-file")
    several = Several(
        models_dir, models_preset, models_hub, models_max, models_autoload, memory_limit,
        sleep_idle_seconds if sleep_idle_seconds and sleep_idle_seconds > 0 else None, queue_timeout,
    )  # fmt: skip
    check_together(ctx, several)
    name = choice.name()
    file, projector = ("", None) if several.many else (model_file(name), projector_source(name, mmproj))
    hosts = listed(host)
    if compat not in (None, "llama-server"):
        raise typer.BadParameter(f"there is only llama-server, not {compat!r}", param_hint="--compat")
    if slot_save_path is not None and not slot_save_path.is_dir():
        raise typer.BadParameter(f"there is no folder {slot_save_path}", param_hint="--slot-save-path")
    if path is not None and not path.is_dir():
        raise typer.BadParameter(f"there is no folder {path}", param_hint="--path")
    slots = parallel if parallel is not None and parallel > 0 else 8
    settings = Settings(
        names=listed(alias),
        tags=listed(tags),
        api_keys=keys_of(api_key, api_key_file),
        api_prefix=prefix_of(api_prefix),
        cors_origins=tuple(one for one in listed(cors_origins) if one != "none"),
        local_pages=cors_origins != "none",
        allowed_hosts=listed(allowed_hosts),
        media_hosts=media_hosts_of(media_hosts),
        check_host=all(one in LOOPBACK for one in hosts),
        ui=ui,
        static_path=path if ui else None,
        slots=tell_slots,
        slot_save_path=slot_save_path,
        slot_action_timeout=slot_action_timeout,
        spm_infill=spm_infill,
        echo_prompt=echo_prompt,
        compat=compat is not None,
        strict_model=strict_model,
        strict_fields=strict_fields,
        prefill_assistant=prefill_assistant,
        chat_template=chat_template if chat_template_file is None else arguments.read_text(chat_template_file),
        pooling=pooling,
        voices=voices_of(voice),
        metrics=metrics,
        vllm_metrics=metrics_vllm,
        public_metrics=public_metrics,
        max_body=max_body << 20,
        max_n=max_n,
        max_prompts=max_prompts,
        max_inputs=max_inputs,
        default_max_tokens=n_predict if n_predict >= 0 else None,
        defaults=taken.fields,
        response_store=response_store,
        request_timeout=request_timeout,
        drain_timeout=drain_timeout,
        ping_interval=ping_interval,
        ssl_key_file=None if ssl_key_file is None else str(ssl_key_file),
        ssl_cert_file=None if ssl_cert_file is None else str(ssl_cert_file),
    )
    n_ctx = ctx_size if isinstance(ctx_size, int) and ctx_size else DEFAULT_N_CTX
    _check_fields(settings, n_ctx, slots)
    link: Link | None = ctx.obj

    def answer(service: Serving, what: str, on_ready: Callable[[], object] | None, guard: Guard | None = None) -> None:
        access, timed = access_log or verbose, link is None  # a parent notes the time itself
        server_log.start(log_file, as_json=log_jsonl, access=access, verbose=verbose, timed=timed)
        sockets = bind_all(hosts, port, reuse_port=reuse_port, mode=mode_of(socket_mode))
        places = [address_of(one, tls=settings.ssl_key_file is not None) for one in sockets]
        try:
            if not settings.api_keys and not all(one in LOOPBACK or place.startswith("unix:")
                                                 for one, place in zip(hosts, places, strict=True)):  # fmt: skip
                console.note(f"warning: {host} can be reached from other machines, and there is no --api-key")
            if link is None:
                print(f"{' '.join(places)} serves {what}, {slots} at once", flush=True)
            sys.setswitchinterval(_SWITCH_INTERVAL)
            read_keys = None if api_key_file is None else partial(keys_of, api_key, api_key_file)
            if run(service, sockets, on_ready, read_keys, guard):
                raise typer.Exit(console.INTERRUPTED)
        finally:
            remove_files(places)

    if several.used:
        pool, guard, what = make_pool(ctx, several, settings, file or None)
        answer(pool, what, partial(console.note, "the model is loaded") if file else None, guard)
        return
    added = additions(lora, control_vector, control_vector_layer_range)
    n_threads = arguments.positive(threads)
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
        "max_waiting_tokens": max_queue_tokens or 4 * (kv_cells or 4 * n_ctx),
        "max_waiting_seconds": queue_timeout,
        "max_compile_seconds": compile_timeout,
        "mmproj": projector,
        "image_min_tokens": image_min_tokens,
        "image_max_tokens": image_max_tokens,
        "draft": _draft(draft_source(model_draft, spec_type), draft_max, draft_p_min),
        "rpc": arguments.rpc(rpc),
        "isolate": isolate,
        "model_options": placement.options(),
        "model_sampling": model_sampling,
    }
    if cache_ram is not None:
        llama_options["host_bytes"] = cache_ram << 20 if cache_ram >= 0 else sys.maxsize
    file_on_disk(file)
    context.add_to(llama_options, file, kv_unified=kv_unified)

    service = _service(file, llama_options, settings, link, added, apply=not lora_init_without_apply)
    if link is None:
        answer(service, service.id, partial(console.note, "the model is loaded"))
        return

    def loaded() -> None:
        link.tell("loaded", card=model_card(service))
        link.end_when(lambda: service.stats is not None and service.stats.failed)

    answer(service, service.id, loaded)


def _service(
    file: str, options: dict[str, Any], settings: Settings, link: Link | None, added: Additions, *, apply: bool
) -> Service:
    """Return the service of one model, which is opened later: where there is a parent, when that lets it."""
    from llama_cffi.server.service import Service

    def progress(part: float) -> bool:
        if link is not None:
            link.progress(part)
        return service.state != "draining"  # a signal ends loading

    async def open_model() -> AsyncLlama:
        if link is not None:
            await link.admit(partial(planned_bytes, file, options))
        llm = await llama_cffi.AsyncLlama.open(file, **options, progress=progress)
        service.adapters = added.apply(llm.llama)
        if not apply:
            llm.llama.set_adapters({})
        return llm

    service = Service(open_model, settings, Path(file).stem)
    return service


def _draft(source: str | Path | llama_cffi.DraftHeads | None, n_max: int | None, p_min: float | None) -> Any:
    values = {"n_draft": n_max, "p_min": p_min}
    given: dict[str, Any] = {name: one for name, one in values.items() if one is not None}
    if isinstance(source, llama_cffi.DraftHeads):
        return dataclasses.replace(source, **given)
    return llama_cffi.DraftModel(model=source, **given) if given and isinstance(source, Path) else source


def _check_fields(settings: Settings, n_ctx: int, slots: int) -> None:
    from llama_cffi.server.default_check import check_defaults

    wrong = check_defaults(settings.defaults, n_ctx, slots, settings.max_n)
    if wrong is not None:
        name, message = wrong
        flag = next((one.name for one in FLAGS if one.kind == "field" and one.word == name), name)
        raise typer.BadParameter(message, param_hint=flag)
