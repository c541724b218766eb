#!/usr/bin/env python3
"""Build llama.cpp's shared libraries into build/libllama, for the binding to be compiled against.

Fetches the pinned release with pip unless a source tree is given, compiles what is needed and nothing
else, and leaves lib/, include/ and stamp.json. Asked for the same again, it does nothing; interrupted,
it resumes.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from _libllama import cmake, install, kernels, source, stamp, toolchain
from _libllama.lock import build_lock
from _libllama.report import BuildError, from_os_error, say

PIN_FILE = Path(__file__).resolve().with_name("llama_cpp.json")


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = parser.add_argument_group("where llama.cpp comes from (default: vendor/llama.cpp, else the pin)")
    where.add_argument("--source", metavar="DIR", type=Path, help="a source tree (or set LLAMA_CPP_SOURCE)")
    where.add_argument("--git", metavar="URL", help="a git repository; needs --ref")
    where.add_argument("--ref", metavar="TAG", help="tag, branch or commit of --git")
    what = parser.add_argument_group("what is built")
    what.add_argument("--backend", choices=[*toolchain.BACKENDS, "auto"], default="cpu", help="default: cpu")
    what.add_argument(
        "--portable",
        action="store_true",
        help="for old and new CPUs: every variant as a plugin (for wheels that are published)",
    )
    repeat: Any = {"action": "append", "default": []}
    what.add_argument(
        "--no-kernels",
        action="store_true",
        help="llama.cpp as it is, without this repository's kernels for decoding a few rows at once",
    )
    what.add_argument(
        "--cmake-arg",
        metavar="ARG",
        help="such as -DGGML_RPC=OFF, or -DLLAMA_BUILD_MTMD=OFF for no images and sound; repeatable",
        **repeat,
    )
    what.add_argument(
        "--tool",
        metavar="NAME",
        help="also build llama-bench, llama-server, llama-perplexity ... into PREFIX/bin; repeatable",
        **repeat,
    )
    how = parser.add_argument_group("how")
    how.add_argument("--prefix", metavar="DIR", type=Path, default=source.ROOT / "build" / "libllama")
    how.add_argument("--jobs", metavar="N", type=int, help="parallel compilers (default: ninja's choice)")
    how.add_argument("--force", action="store_true", help="build and install even when the stamp is equal")
    args = parser.parse_args(argv)
    if bool(args.git) != bool(args.ref):
        parser.error("--git and --ref go together")
    if args.git and args.source:
        parser.error("--git and --source are two sources; give one")
    if args.jobs is not None and args.jobs < 1:
        parser.error("--jobs must be at least 1")
    args.prefix = args.prefix.resolve()
    return args


def find_source(args: argparse.Namespace, pin: source.Pin) -> source.Source:
    if args.git:
        return source.from_git(args.git, args.ref)
    if args.source:
        return source.from_folder(args.source)
    if folder := os.environ.get("LLAMA_CPP_SOURCE"):
        return source.from_folder(Path(folder))
    return source.from_vendor_or_pin(pin)


def make_request(args: argparse.Namespace, src: source.Source, tools: toolchain.Toolchain) -> dict[str, Any]:
    """What decides whether a prefix is current: two equal requests give the same library."""
    backends = toolchain.choose_backends(args.backend)
    return {
        "commit": src.commit,
        "source": src.identity,
        "backends": list(backends),
        "portable": args.portable,
        "flags": cmake.cmake_flags(src, backends, args.portable, args.cmake_arg),
        "compiler": tools.compiler,
        "cpu": "portable" if args.portable else toolchain.native_features(),
        "kernels": None if args.no_kernels else kernels.digest(),
    }


def kept_options(args: argparse.Namespace) -> list[str]:
    """The options that make this build again: setup.py repeats them, so an install keeps a CUDA build."""
    options = [f"--cmake-arg={argument}" for argument in args.cmake_arg]
    if args.portable:
        options.append("--portable")
    if args.no_kernels:
        options.append("--no-kernels")
    if args.backend != "cpu":
        options += ["--backend", args.backend]
    if args.source:
        options += ["--source", str(args.source.resolve())]
    if args.git:
        options += ["--git", args.git, "--ref", args.ref]
    return options


def run(args: argparse.Namespace) -> None:
    started = time.monotonic()
    pin = source.Pin.read(PIN_FILE)
    tools = toolchain.find_toolchain()
    src = find_source(args, pin)
    request = make_request(args, src, tools)
    # One tree for each of what ninja cannot see change: source folder, flags, compilers, CPU.
    identity = (str(src.path), request["flags"], request["compiler"], request["cpu"])
    key = hashlib.sha256(repr(identity).encode()).hexdigest()[:12]
    kernel_flag = kernels.cmake_flag(not args.no_kernels)  # a path of this machine: not part of the request
    tree = cmake.BuildTree(source.ROOT / "build" / f"cmake-{key}", src.path, tools, request["cpu"])
    current = stamp.is_current(args.prefix, request) and not args.force
    if current:
        say(f"{args.prefix} is up to date ({src.commit}, {'+'.join(request['backends'])})")
    else:
        if not args.no_kernels:
            kernels.check(src.path)
        say(f"building llama.cpp {src.commit} ({src.kind}: {src.path}) with {tools.compiler}")
        tree.configure([*request["flags"], *cmake.tree_flags(tools=False), kernel_flag])
        tree.build(cmake.targets(request["flags"]), args.jobs)
        about: dict[str, Any] = {
            "version": source.source_version(src.path),
            "commit": src.commit,
            "source_kind": src.kind,
            "options": kept_options(args),
            "request": request,
        }
        dropped = install.installed_tools(args.prefix)
        install.install(tree.path, src.path, args.prefix, about)
        say(f"installed {args.prefix} in {time.monotonic() - started:.0f} s")
        if dropped:
            again = " ".join(f"--tool {name}" for name in dropped)
            say(f"tools of the library before were dropped with it; to have them again: {again}")
    present = install.installed_tools(args.prefix)
    missing = [name for name in args.tool if args.force or name not in present]
    if missing:
        say(f"building {', '.join(missing)}")
        tree.configure([*request["flags"], *cmake.tree_flags(tools=True), kernel_flag])
        tree.build(missing, args.jobs)
        install.install_tools(tree.path, args.prefix, missing)
        say(f"installed {', '.join(missing)} into {args.prefix / 'bin'}")


def _terminated(signum: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code (0 done, 1 failed, 130 interrupted)."""
    args = parse_arguments(argv)
    signal.signal(signal.SIGTERM, _terminated)
    try:
        with build_lock(source.ROOT / "build" / ".lock"):
            run(args)
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(from_os_error(error, source.ROOT / "build"), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
