"""How likely is a text, and which of several continuations is the likeliest?"""

from llama_cffi import Llama

TEXT = "Once upon a time there was a little girl named Lily. She had a red ball and a small dog. " * 8
PREFIX = "Once upon a time there was a little"
ENDINGS = [" girl named Lily", " boy named Tim", " table", " quantum field"]

with Llama.demo() as llm:
    found = llm.perplexity(TEXT, n_ctx=64)
    print(f"perplexity {found.value:.1f} +/- {found.stderr:.1f} over {found.n_tokens} tokens")

    # The prefix is computed once, the endings together.
    scores = llm.score(PREFIX, ENDINGS)
    for ending, score in sorted(zip(ENDINGS, scores, strict=True), key=lambda pair: -pair[1].logprob):
        greedy = ", what the model itself would write" if score.is_greedy else ""
        print(f"{score.logprob:8.2f}  {score.logprob / score.n_tokens:6.2f} per token {ending!r}{greedy}")
