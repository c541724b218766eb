"""A conversation: one reply, then a session that remembers, goes back and forks."""

from llama_cffi import Llama

with Llama.demo() as llm:
    reply = llm.chat("Tell me a story about a cat.", max_tokens=40, temperature=0)
    print(reply.text, "\n")

    for chunk in llm.stream_chat("Tell me a story about a dog.", max_tokens=40, seed=1):
        print(chunk.text, end="", flush=True)
    print("\n")

    session = llm.session([{"role": "system", "content": "You write stories."}], max_tokens=40, seed=1)
    session.chat("Tell me a story about a bird.")
    other = session.fork()
    print("next: ", session.chat("And then?").text)
    print("other:", other.chat("And about a fish?", seed=2).text)
    session.rewind()  # as if "And then?" had not been said
    print(len(session), "messages,", session.n_tokens, "tokens")
