"""Many threads, a process that is killed again and again, and an independent count of what comes out."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from typing import Any

import pytest

from llama_cffi import Llama
from llama_cffi.errors import EngineCrashed
from llama_cffi.isolation import supervisor

SECONDS = 40
PROMPTS = ["Once upon a time", "The dog", "A cat", "In the garden", "Lily was"]


@pytest.mark.fuzz
@pytest.mark.parametrize("replay", [False, True])
def test_every_call_ends_with_its_text_or_the_exception(replay: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "_FIRST_PAUSE", 0.0)
    monkeypatch.setattr(supervisor, "MAX_CRASHES", 10**6)
    seed = int(os.environ.get("SEED", random.randrange(2**32)))
    print(f"SEED={seed}")
    chance = random.Random(seed)
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    end = time.monotonic() + SECONDS
    options: dict[str, Any] = {"n_ctx": 256, "n_seq_max": 3, "n_threads": 1}
    with Llama.demo(**options) as here, Llama.demo(isolate=True, replay=replay, **options) as llm:
        expected = {one: here.generate(one, max_tokens=5, temperature=0).text for one in PROMPTS}

        def ask(number: int) -> None:
            mine = random.Random(f"{seed} {number}")
            while time.monotonic() < end:
                prompt, kind = mine.choice(PROMPTS), mine.choice(["generate", "stream", "drop", "embed", "slots"])
                try:
                    if kind == "generate":
                        text = llm.generate(prompt, max_tokens=5, temperature=0).text
                    elif kind == "stream":
                        text = "".join(chunk.text for chunk in llm.stream(prompt, max_tokens=5, temperature=0))
                    else:
                        text = expected[prompt]
                        if kind == "drop":
                            next(llm.stream(prompt, max_tokens=50))
                        elif kind == "embed":
                            llm.embed([prompt] * 3)
                        else:
                            llm.slots()
                except EngineCrashed:
                    counts["crashed " + kind] += 1
                except BaseException as error:
                    wrong.append(f"{kind}: {error!r}")
                    return
                else:
                    counts[kind] += 1
                    if len(text) < len(expected[prompt]) // 2:
                        wrong.append(f"{kind} of {prompt!r}: {text!r}")

        threads = [threading.Thread(target=ask, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        n_killed = 0
        while time.monotonic() < end:
            time.sleep(chance.uniform(0.0, 2.5))
            pid = llm._runtime.pid  # type: ignore[attr-defined]
            if pid is not None:
                os.kill(pid, chance.choice([signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT]))
                n_killed += 1
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive(), "a call waits for ever"
        print(n_killed, dict(counts))
        assert not wrong, wrong[:5]
        assert n_killed > 3
        assert llm.generate(PROMPTS[0], max_tokens=5, temperature=0).tokens
