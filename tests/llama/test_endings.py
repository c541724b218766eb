"""How a text ended is judged once: for every finish reason, with and without a schema, complete or streamed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from llama_cffi import GBNF, Lazy, Llama, Regex
from llama_cffi.errors import IncompleteOutput, LlamaCffiError
from llama_cffi.reply.completion import FinishReason
from llama_cffi.reply.events import Text
from llama_cffi.reply.format import ReplyRules, ToolSpec
from llama_cffi.reply.formats import FORMATS

NUMBERS = {"type": "array", "items": {"type": "integer"}, "minItems": 2000}
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "minLength": 4000}},
            "required": ["city"],
        },
    },
}
ASK = [{"role": "user", "content": "What is the weather in Oslo?"}]


@pytest.fixture(scope="module")
def demo() -> Iterator[Llama]:
    with Llama.demo(n_ctx=2048) as llm:
        yield llm


def streamed(chunks: Any) -> tuple[str, str, LlamaCffiError]:
    """The text, the raw text and the error of a stream that ends in one."""
    text = raw = ""
    try:
        for chunk in chunks:
            text += chunk.text
            raw += getattr(chunk, "reasoning", "")
            assert chunk.completion is None
    except LlamaCffiError as error:
        return text, raw, error
    raise AssertionError("the stream ended without an error")


def test_a_deadline_cuts_a_schema(demo: Llama) -> None:
    with pytest.raises(IncompleteOutput, match="by its deadline, after") as caught:
        demo.generate("Numbers:", schema=NUMBERS, max_seconds=0.1, temperature=0)
    assert caught.value.completion.finish_reason is FinishReason.DEADLINE
    with pytest.raises(IncompleteOutput, match="by its deadline, after"):
        demo.chat(ASK, schema=NUMBERS, max_seconds=0.1, temperature=0)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"max_seconds": 0.1}, "by its deadline"),
        ({"max_tokens": 60}, "after 60 tokens"),
        ({"stop": "city"}, "the stop string 'city' cut the reply"),
    ],
)
@pytest.mark.parametrize("choice", ["required", "get_weather"])
def test_a_call_that_is_cut(demo: Llama, options: dict[str, Any], reason: str, choice: str) -> None:
    asked: dict[str, Any] = {
        "tools": [WEATHER], "tool_choice": choice, "reply_format": "hermes", "temperature": 0, "reasoning_budget": 0,
    }  # fmt: skip
    with pytest.raises(IncompleteOutput, match=reason) as caught:
        demo.chat(ASK, **asked, **options)
    assert caught.value.completion.finish_reason is not FinishReason.TOOL_CALLS
    _, _, error = streamed(demo.stream_chat(ASK, **asked, **options))
    assert isinstance(error, IncompleteOutput)


def test_the_last_chunk_comes_before_the_error(demo: Llama) -> None:
    text, _, error = streamed(demo.stream("Numbers:", schema=NUMBERS, max_tokens=20, seed=2))
    assert isinstance(error, IncompleteOutput)
    assert text == error.completion.text
    assert error.completion.usage.completion_tokens == 20
    text, _, error = streamed(demo.stream_chat(ASK, schema=NUMBERS, max_tokens=20, seed=2))
    assert isinstance(error, IncompleteOutput)
    assert text == error.completion.text


@pytest.mark.parametrize("schema", [GBNF("root ::= [a-z ]*"), Regex("[a-z ]*")], ids=["gbnf", "regex"])
def test_a_text_that_may_end_anywhere_is_complete_where_it_was_cut(demo: Llama, schema: Any) -> None:
    completion = demo.generate("Once upon a time", schema=schema, max_tokens=9, temperature=0)
    assert completion.finish_reason is FinishReason.LENGTH
    assert completion.parsed == completion.text != ""
    word = completion.text.split()[1]
    stopped = demo.generate("Once upon a time", schema=schema, max_tokens=9, temperature=0, stop=word)
    assert stopped.stop_sequence == word
    assert stopped.parsed == stopped.text == completion.text.partition(word)[0]
    *_, last = demo.stream("Once upon a time", schema=schema, max_tokens=9, temperature=0)
    assert last.completion is not None
    assert last.completion.parsed == completion.parsed


@pytest.mark.parametrize("schema", [GBNF("root ::= [a-z, ]{60}"), Regex("[a-z, ]{60}")], ids=["gbnf", "regex"])
def test_a_text_that_may_not_end_there_is_cut(demo: Llama, schema: Any) -> None:
    with pytest.raises(IncompleteOutput, match="after 4 tokens, before it was complete"):
        demo.generate("Once upon a time", schema=schema, max_tokens=4, temperature=0)


def bias(llm: Llama) -> dict[int, float]:
    """No end of generation while anything else is allowed."""
    return dict.fromkeys(llm.model.vocab.eog_tokens, -100.0)


def test_a_number_that_could_go_on_is_cut(demo: Llama) -> None:
    # What there is reads as a number, and is another one than what the model was about to say.
    with pytest.raises(IncompleteOutput, match="before it was complete"):
        demo.generate("1", schema={"type": "integer", "minimum": 0}, max_tokens=1, temperature=0, logit_bias=bias(demo))
    with pytest.raises(IncompleteOutput, match="the stop string 'body' cut the text"):
        demo.generate("x", schema=["no", "nobody at all"], stop="body", temperature=0, logit_bias=bias(demo))


@pytest.mark.parametrize("name", list(FORMATS))
def test_a_tag_that_was_cut_is_no_text(name: str) -> None:
    format_ = FORMATS[name]
    syntax = getattr(format_, "syntax", None)
    if syntax is None:
        pytest.skip("its calls begin with no tag")
    rules = ReplyRules(tools=(ToolSpec("f", {"type": "object"}),), choice="auto")
    for opening in syntax.opens:
        for n in range(1, len(opening)):
            parser = format_.parser(rules)
            events = [*parser.feed("Well, yes" + opening[:n]), *parser.flush(cut=True)]
            shown = "".join(event.text for event in events if isinstance(event, Text))
            assert shown.rstrip() == "Well, yes", (opening, n)
            parser = format_.parser(rules)
            events = [*parser.feed("Well, yes" + opening[:n]), *parser.flush()]
            shown = "".join(event.text for event in events if isinstance(event, Text))
            assert shown == "Well, yes" + opening[:n], "what the model itself ended is text"


def test_a_text_that_waits_for_a_trigger_is_complete_where_it_was_cut(demo: Llama) -> None:
    schema = Lazy(["yes", "no"], trigger="ANSWER:")
    completion = demo.generate("Once upon a time", schema=schema, max_tokens=9, temperature=0)
    assert completion.finish_reason is FinishReason.LENGTH
    assert completion.parsed is None
    assert len(completion.text) > 10


def test_a_cancelled_text_is_what_there_is(demo: Llama) -> None:
    stream: Any = demo.stream("Numbers:", schema=NUMBERS, seed=2)
    for _ in range(5):
        next(stream)
    stream.close()
    *_, last = stream
    assert last.completion.finish_reason is FinishReason.CANCELLED
    assert last.completion.parsed is None
    with pytest.raises(StopIteration):
        next(stream)
    with demo.stream("Once upon a time") as chunks:
        next(chunks)
    assert demo._runtime.engine.idle, "the end of the block cancels"


def test_reasoning_that_is_open_is_not_held_to_the_grammar_of_the_answer(demo: Llama) -> None:
    thinking = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "<|im_start|>assistant\n<think>\n"
    )
    options: dict[str, Any] = {"chat_template": thinking, "reasoning_budget": 6, "max_tokens": 60, "seed": 1}
    for given in ({"schema": GBNF('root ::= "yes" | "no"')}, {"grammar": 'root ::= "yes" | "no"'}):
        reply = demo.chat("Why?", **options, **given)
        assert reply.text in ("yes", "no"), reply.raw
        assert len(reply.reasoning) > 3
        if "schema" in given:
            assert reply.parsed == reply.text
