"""Runs a program on an emulated x86 CPU that this machine need not have.

    python emulator.py CPU SHIM PROGRAM [ARGUMENT ...]

CPU is a key of CPUS. SHIM is ``emulated_cpu.c``, compiled as a shared library. PROGRAM is linked statically, for Linux,
and has one thread. Its exit status is that of this script.

The CPU is the one of Bochs (``pip install bochscpu-python==0.4.0``). It starts in 64-bit mode with all memory mapped to
itself and no operating system: system calls lead to one instruction that Bochs reports, and are answered here.
"""

from __future__ import annotations

import ctypes
import importlib
import mmap
import os
import struct
import sys
import traceback
from typing import Any

CPUS = {
    "sapphire_rapids": "_Z28create_sapphire_rapids_cpuidP8BX_CPU_C",  # AVX-512 with VNNI and BF16
    "tigerlake": "_Z22create_tigerlake_cpuidP8BX_CPU_C",  # AVX-512 with VNNI
    "arrow_lake": "_Z23create_arrow_lake_cpuidP8BX_CPU_C",  # AVX-VNNI without AVX-512
}
PAGE = 4096
MEMORY = 64 << 20
PAGE_TABLES, SYSTEM_CALL = 0x1000, 0x5000  # below the program, which begins at 0x400000
MAPPINGS = 32 << 20  # what mmap gives begins here; below is the heap
STRINGS = MEMORY - 8 * PAGE
STACK = MEMORY - 16 * PAGE
FAILED = 255
# bochscpu's table of hooks: a context, then functions in this order of which two are used.
N_HOOKS, EXCEPTION, CLFLUSH = 25, 10, 15


class Machine:
    """One CPU, its memory, and what a small program wants of an operating system."""

    def __init__(self, bochs: Any) -> None:
        self._bochs = bochs
        self._memory = mmap.mmap(-1, MEMORY)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        for page in range(0, MEMORY, PAGE):
            bochs.memory.page_insert(page, address + page)
        self._session = bochs.Session()
        self._session.missing_page_handler = self._missing
        self._next_mapping = MAPPINGS
        self.status = FAILED

    def load(self, program: bytes, arguments: list[str]) -> None:
        """Put an ELF file and its arguments into memory, and make the CPU ready to run it."""
        entry, headers = struct.unpack_from("<QQ", program, 24)
        size, count = struct.unpack_from("<HH", program, 54)
        end = headers_address = 0
        for i in range(count):
            kind, _, offset, at, _, in_file, in_memory, _ = struct.unpack_from("<IIQQQQQQ", program, headers + i * size)
            if kind == 1:  # PT_LOAD
                self._memory[at : at + in_file] = program[offset : offset + in_file]
                end = max(end, at + in_memory)
                headers_address = at + headers if offset == 0 else headers_address
        self._break = (end + PAGE - 1) // PAGE * PAGE
        pointers, at = [], STRINGS
        for argument in arguments:
            text = argument.encode() + b"\0"
            self._memory[at : at + len(text)] = text
            pointers.append(at)
            at += len(text)
        # AT_PHDR, AT_PHENT, AT_PHNUM, AT_PAGESZ, AT_ENTRY, AT_RANDOM, AT_NULL
        auxiliary = (3, headers_address, 4, size, 5, count, 6, PAGE, 9, entry, 25, at + 16, 0, 0)
        words = [len(pointers), *pointers, 0, 0, *auxiliary]
        stack = (STACK - 8 * len(words)) & ~15
        struct.pack_into(f"<{len(words)}Q", self._memory, stack, *words)
        self._start(entry, stack)

    def _start(self, entry: int, stack: int) -> None:
        tables = PAGE_TABLES
        struct.pack_into("<Q", self._memory, tables, tables + PAGE | 7)
        struct.pack_into("<Q", self._memory, tables + PAGE, tables + 2 * PAGE | 7)
        for i in range(MEMORY >> 21):  # pages of 2 MiB
            struct.pack_into("<Q", self._memory, tables + 2 * PAGE + 8 * i, i << 21 | 0x87)
        self._memory[SYSTEM_CALL : SYSTEM_CALL + 6] = b"\x0f\xae\x3c\x24\xff\xe1"  # clflush [rsp]; jmp rcx

        state = self._bochs.State()
        state.cr0 = 0x80050033  # PG, AM, WP, NE, ET, MP, PE
        state.cr3 = tables
        state.cr4 = 0x50620  # OSXSAVE, FSGSBASE, OSXMMEXCPT, OSFXSR, PAE
        state.efer = 0xD01  # NXE, LMA, LME, SCE
        state.xcr0 = 0xE7  # AVX-512, AVX, SSE, x87
        state.mxcsr, state.mxcsr_mask = 0x1F80, 0xFFFF
        state.rflags, state.rip, state.rsp = 2, entry, stack
        state.lstar, state.star = SYSTEM_CALL, 8 << 32
        state.cs = self._segment(8, 0xA09B)
        for name in ("ss", "ds", "es", "fs", "gs"):
            setattr(state, name, self._segment(16, 0xC093))
        self._session.cpu.state = state

    def _segment(self, selector: int, attributes: int) -> Any:
        segment = self._bochs.Segment()
        segment.present, segment.selector, segment.attr = True, selector, attributes
        segment.base, segment.limit = 0, 0xFFFFFFFF
        return segment

    def run(self) -> None:
        """Run until the program ends; ``status`` has how."""
        library = ctypes.CDLL(self._bochs._bochscpu.__file__)  # its C interface calls hooks without Python
        library.bochscpu_cpu_from.restype = ctypes.c_void_p
        library.bochscpu_cpu_run.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
        function = ctypes.CFUNCTYPE(None, *[ctypes.c_uint64] * 4)
        hooks = {EXCEPTION: function(self._exception), CLFLUSH: function(self._clflush)}
        nothing = ctypes.cast(ctypes.CDLL(None).abs, ctypes.c_void_p).value
        table = (ctypes.c_void_p * (N_HOOKS + 1))(None, *[nothing] * N_HOOKS)
        for index, hook in hooks.items():
            table[index] = ctypes.cast(hook, ctypes.c_void_p).value
        library.bochscpu_cpu_run(library.bochscpu_cpu_from(0), (ctypes.c_void_p * 2)(ctypes.addressof(table), None))

    def _missing(self, address: int) -> None:
        print(f"no memory at {address:#x}", file=sys.stderr)
        os._exit(FAILED)  # the emulator has nothing to go on with

    def _exception(self, _context: int, _cpu: int, vector: int, code: int) -> None:
        print(f"exception {vector} ({code}) at {self._session.cpu.rip:#x}", file=sys.stderr)
        self._session.stop()

    def _clflush(self, *_: int) -> None:
        try:
            cpu = self._session.cpu
            cpu.rax = self._system_call(cpu.rax, cpu.rdi, cpu.rsi, cpu.rdx) % 2**64
        except BaseException:
            traceback.print_exc()
            self._session.stop()

    def _system_call(self, number: int, first: int, second: int, third: int) -> int:
        if number == 1:  # write
            os.write(first, self._memory[second : second + third])
            return third
        if number == 12:  # brk
            if self._break <= first < MAPPINGS:
                self._break = first
            return self._break
        if number == 9:  # mmap, of nothing but memory
            at = self._next_mapping
            self._next_mapping += (second + PAGE - 1) // PAGE * PAGE
            return at if self._next_mapping < STACK - (1 << 20) else -12
        if number == 158 and first == 0x1002:  # arch_prctl(ARCH_SET_FS)
            state = self._session.cpu.state
            segment = state.fs
            segment.base = second
            state.fs = segment
            self._session.cpu.state = state
            return 0
        if number == 231:  # exit_group
            self.status = first
            self._session.stop()
        # mprotect, munmap, signals, and what a thread tells about itself: nothing to do.
        return 0 if number in (10, 11, 13, 14, 218, 231, 273) else -38


def main(arguments: list[str]) -> int:
    """Run the command line; the program's exit status, or 255 when it did not end by itself."""
    cpu, shim, program, *rest = arguments
    os.environ["EMULATED_CPU"] = CPUS[cpu]
    ctypes.CDLL(shim, ctypes.RTLD_GLOBAL)
    sys.setdlopenflags(os.RTLD_LAZY | os.RTLD_GLOBAL)
    bochs = importlib.import_module("bochscpu")
    importlib.import_module("bochscpu.memory")
    machine = Machine(bochs)
    with open(program, "rb") as file:
        machine.load(file.read(), [program, *rest])
    machine.run()
    return machine.status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
