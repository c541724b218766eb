"""Train the demo model: a tiny Llama on the stories of ``demo_stories``, written as a Q8_0 GGUF.

Needs ``torch`` and ``gguf`` (development dependencies only). Vocabulary, weights and text come from the seed; a run
of a fixed ``--steps`` on one machine with one thread count gives the same file. Ctrl-C writes what has been learned.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path

import gguf
import numpy as np
import torch
import torch.nn.functional as F
from demo_stories import Document, documents
from torch import nn

SPACE = "\u2581"  # how SentencePiece writes a space
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

# until which part of the run: tokens in a window, windows in a batch
STAGES = ((0.88, 256, 8), (1.0, 1024, 2))


class Vocabulary:
    """SentencePiece-style vocabulary; encodes exactly as llama.cpp does for ``tokenizer.ggml.model = llama``."""

    unk, bos, eos, im_start, im_end = range(5)
    special = ("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>")
    first_byte = len(special)
    first_piece = first_byte + 256

    def __init__(self, pieces: Sequence[str]) -> None:
        """Pieces from the best merge to the worst, single characters last."""
        self.pieces = list(pieces)
        self._rank = {piece: rank for rank, piece in enumerate(self.pieces)}
        self._cache: dict[str, list[int]] = {}

    def __len__(self) -> int:
        return self.first_piece + len(self.pieces)

    @classmethod
    def train(cls, texts: Sequence[str], size: int) -> Vocabulary:
        """Byte-pair merges inside words, the most frequent pair first."""
        words = Counter(
            match for text in texts for match in re.findall(rf"{SPACE}?(?:[A-Za-z]+|[^\w\s])", text.replace(" ", SPACE))
        )
        characters = sorted({chr(code) for code in range(33, 127)} | {SPACE})
        splits = {word: list(word) for word in words}
        pairs: Counter[tuple[str, str]] = Counter()
        homes: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
        for word, parts in splits.items():
            for pair in pairwise(parts):
                pairs[pair] += words[word]
                homes[pair].add(word)
        merges: dict[str, None] = {}  # an ordered set: two pairs may make the same piece
        while len(merges) < size - cls.first_piece - len(characters):
            best = max(pairs, key=lambda pair: (pairs[pair], pair))
            if pairs[best] <= 0:
                raise ValueError(f"the text gives only {len(merges)} merges")
            merges["".join(best)] = None
            for word in homes.pop(best):
                parts = splits[word]
                for pair in pairwise(parts):
                    pairs[pair] -= words[word]
                merged: list[str] = []
                for part in parts:
                    if merged and (merged[-1], part) == best:
                        merged[-1] += part
                    else:
                        merged.append(part)
                splits[word] = merged
                for pair in pairwise(merged):
                    pairs[pair] += words[word]
                    homes[pair].add(word)
            del pairs[best]
        return cls([*merges, *characters])

    def encode(self, text: str) -> list[int]:
        """Token ids of text, without special tokens; no piece crosses a space, so words are encoded one by one."""
        ids: list[int] = []
        for word in re.findall(rf"{SPACE}?[^{SPACE}]*", text.replace(" ", SPACE)):
            known = self._cache.get(word)
            if known is None:
                known = self._cache[word] = self._encode_word(word)
            ids += known
        return ids

    def _encode_word(self, word: str) -> list[int]:
        parts = list(word)
        while len(parts) > 1:
            ranks = [self._rank.get(left + right, 1 << 30) for left, right in pairwise(parts)]
            best = min(range(len(ranks)), key=ranks.__getitem__)  # the leftmost of equals, as in llama.cpp
            if ranks[best] == 1 << 30:
                break
            parts[best : best + 2] = [parts[best] + parts[best + 1]]
        ids: list[int] = []
        for part in parts:
            if part in self._rank:
                ids.append(self.first_piece + self._rank[part])
            else:
                ids += [self.first_byte + byte for byte in part.encode()]
        return ids

    def encode_document(self, document: Document) -> list[int]:
        """BOS, the text or the ChatML dialogue, EOS."""
        if isinstance(document, str):
            return [self.bos, *self.encode(document), self.eos]
        ids = [self.bos]
        for message in document:
            ids += [self.im_start, *self.encode(f"{message.role}\n{message.content}"), self.im_end]
            ids += self.encode("\n")
        return [*ids, self.eos]

    def write(self, writer: gguf.GGUFWriter) -> None:
        """Tokens, scores, types and special ids as metadata."""
        kinds = gguf.TokenType
        tokens = [*self.special, *(f"<0x{byte:02X}>" for byte in range(256)), *self.pieces]
        types = [kinds.UNKNOWN, *[kinds.CONTROL] * 4, *[kinds.BYTE] * 256, *[kinds.NORMAL] * len(self.pieces)]
        writer.add_tokenizer_model("llama")
        writer.add_token_list(tokens)
        writer.add_token_scores([0.0] * self.first_piece + [-float(rank) for rank in range(len(self.pieces))])
        writer.add_token_types(types)
        writer.add_unk_token_id(self.unk)
        writer.add_bos_token_id(self.bos)
        writer.add_eos_token_id(self.eos)
        writer.add_eot_token_id(self.im_end)
        writer.add_add_bos_token(True)
        writer.add_add_eos_token(False)
        writer.add_add_space_prefix(False)
        writer.add_chat_template(CHAT_TEMPLATE)


@dataclass(frozen=True)
class Shape:
    """Sizes of the model; every row is a multiple of 32, as Q8_0 wants it."""

    n_vocab: int = 2048
    n_ctx: int = 1024
    n_embd: int = 192
    n_head: int = 6
    n_head_kv: int = 3
    n_layer: int = 4
    n_ff: int = 512
    rope_base: float = 10000.0
    rms_eps: float = 1e-5

    @property
    def head_dim(self) -> int:
        return self.n_embd // self.n_head


class Block(nn.Module):
    """Attention with rotary positions (pairs side by side, the order of llama.cpp) and a SwiGLU."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        kv = shape.n_head_kv * shape.head_dim
        self.attn_norm = nn.RMSNorm(shape.n_embd, shape.rms_eps)
        self.attn_qkv = nn.Linear(shape.n_embd, shape.n_embd + 2 * kv, bias=False)
        self.attn_output = nn.Linear(shape.n_embd, shape.n_embd, bias=False)
        self.ffn_norm = nn.RMSNorm(shape.n_embd, shape.rms_eps)
        self.ffn_gate_up = nn.Linear(shape.n_embd, 2 * shape.n_ff, bias=False)
        self.ffn_down = nn.Linear(shape.n_ff, shape.n_embd, bias=False)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        shape, (batch, length, _) = self.shape, x.shape
        heads = self.attn_qkv(self.attn_norm(x)).view(batch, length, -1, shape.head_dim).transpose(1, 2)
        n_rotated = shape.n_head + shape.n_head_kv
        rotated, value = heads[:, :n_rotated], heads[:, n_rotated:]
        even, odd = rotated[..., 0::2], rotated[..., 1::2]
        rotated = torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2).to(value.dtype)
        mixed = F.scaled_dot_product_attention(
            rotated[:, : shape.n_head], rotated[:, shape.n_head :], value, is_causal=True, enable_gqa=True
        )
        x = x + self.attn_output(mixed.transpose(1, 2).reshape(batch, length, -1))
        gate, up = self.ffn_gate_up(self.ffn_norm(x)).chunk(2, -1)
        return x + self.ffn_down(F.silu(gate) * up)


class Llama(nn.Module):
    """The whole model; the output matrix is the embedding."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.token_embd = nn.Embedding(shape.n_vocab, shape.n_embd)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.n_layer))
        self.output_norm = nn.RMSNorm(shape.n_embd, shape.rms_eps)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                depth = math.sqrt(2 * shape.n_layer) if name.endswith(("output.weight", "down.weight")) else 1.0
                nn.init.normal_(weight, std=0.03 / depth)
        frequency = shape.rope_base ** (-torch.arange(0, shape.head_dim, 2) / shape.head_dim)
        angle = torch.outer(torch.arange(shape.n_ctx), frequency)
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits (batch, length, n_vocab) for tokens (batch, length)."""
        length = tokens.shape[1]
        x = self.token_embd(tokens)
        for block in self.blocks:
            x = block(x, self.cos[:length], self.sin[:length])
        return F.linear(self.output_norm(x), self.token_embd.weight)

    def tensors(self) -> Iterator[tuple[str, np.ndarray]]:
        """The weights in float32 under their GGUF names."""
        yield "token_embd.weight", self.token_embd.weight.detach().numpy()
        yield "output_norm.weight", self.output_norm.weight.detach().numpy()
        kv = self.shape.n_head_kv * self.shape.head_dim
        for index, block in enumerate(self.blocks):
            weights = {name: weight.detach() for name, weight in block.named_parameters()}
            q, k, v = weights.pop("attn_qkv.weight").split([self.shape.n_embd, kv, kv])
            gate, up = weights.pop("ffn_gate_up.weight").chunk(2)
            weights |= {"attn_q.weight": q, "attn_k.weight": k, "attn_v.weight": v}
            weights |= {"ffn_gate.weight": gate, "ffn_up.weight": up}
            for name, weight in weights.items():
                yield f"blk.{index}.{name}", weight.contiguous().numpy()


def write_gguf(path: Path, model: Llama, vocabulary: Vocabulary) -> None:
    """Write metadata, vocabulary and weights: matrices in Q8_0, norms in F32."""
    shape = model.shape
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("llama-cffi demo storyteller")
    writer.add_description("Tells very short children's stories; trained on text from scripts/demo_stories.py")
    writer.add_license("mit")
    writer.add_languages(["en"])
    writer.add_vocab_size(shape.n_vocab)
    writer.add_context_length(shape.n_ctx)
    writer.add_embedding_length(shape.n_embd)
    writer.add_block_count(shape.n_layer)
    writer.add_feed_forward_length(shape.n_ff)
    writer.add_head_count(shape.n_head)
    writer.add_head_count_kv(shape.n_head_kv)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_layer_norm_rms_eps(shape.rms_eps)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    vocabulary.write(writer)
    for name, weight in model.tensors():
        if weight.ndim == 2:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quants.quantize(weight, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, weight.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class Reader:
    """Documents packed end to end, cut into windows."""

    def __init__(self, stream: Iterator[Document], vocabulary: Vocabulary) -> None:
        self._stream = stream
        self._vocabulary = vocabulary
        self._ids: list[int] = []

    def read(self, batch: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The next tokens and their followers, both (batch, length)."""
        size = batch * length
        while len(self._ids) <= size:
            self._ids += self._vocabulary.encode_document(next(self._stream))
        ids = torch.tensor(self._ids[: size + 1])
        del self._ids[:size]
        return ids[:-1].view(batch, length), ids[1:].view(batch, length)


@dataclass
class Progress:
    """What a run has reached."""

    step: int = 0
    tokens: int = 0
    loss: float = math.nan
    seconds: float = 0.0


def loss_of(model: Llama, window: tuple[torch.Tensor, torch.Tensor], bf16: bool) -> torch.Tensor:
    """Mean cross-entropy in nats per token."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        return F.cross_entropy(model(window[0]).flatten(0, 1), window[1].flatten())


def train(
    model: Llama, reader: Reader, held_out: Reader, args: argparse.Namespace, save: Callable[[], None]
) -> Progress:
    """AdamW with warm-up and a linear fall of the rate, by steps or by the clock; Ctrl-C ends it early.

    Most of the run uses short windows, which attention makes cheap; the last part the whole context.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, betas=(0.9, 0.98), weight_decay=0.05, fused=True)
    progress, start = Progress(), time.monotonic()
    recent = math.nan
    try:
        while True:
            seconds = time.monotonic() - start
            done = progress.step / args.steps if args.steps else seconds / (60 * args.minutes)
            if done >= 1:
                break
            scale = min(1.0, (progress.step + 1) / args.warmup) * (1.0 - 0.98 * done)
            optimizer.param_groups[0]["lr"] = args.lr * scale
            length, batch = next((length, batch) for end, length, batch in STAGES if done < end)
            loss = loss_of(model, reader.read(batch, length), args.bf16)
            model.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            value = loss.item()
            recent = value if math.isnan(recent) else 0.95 * recent + 0.05 * value
            progress.step, progress.tokens = progress.step + 1, progress.tokens + batch * length
            if progress.step % args.report == 0:
                speed = progress.tokens / (time.monotonic() - start)
                rate = args.lr * scale
                print(
                    f"step {progress.step:5d}  {done:6.1%}  loss {recent:.4f}  rate {rate:.1e}  {speed:,.0f} tokens/s",
                    flush=True,
                )
            if progress.step % args.save_every == 0:
                save()
    except KeyboardInterrupt:
        print("stopped: writing what has been learned", file=sys.stderr)
    progress.seconds = time.monotonic() - start
    with torch.no_grad():
        progress.loss = loss_of(model, held_out.read(16, model.shape.n_ctx), bf16=False).item()
    return progress


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default_out = Path(__file__).resolve().parent.parent / "llama_cffi" / "models" / "demo.gguf"
    parser.add_argument("--out", type=Path, default=default_out, help="file to write (default llama_cffi/models)")
    limit = parser.add_mutually_exclusive_group()
    limit.add_argument("--minutes", type=float, default=15.0, help="training time (default 15)")
    limit.add_argument("--steps", type=int, help="number of steps, for a reproducible run")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--casts", type=int, default=3, help="casts of each plot, 0 for free ones (default 3)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    parser.add_argument("--lr", type=float, default=3e-3, help="highest learning rate (default 0.003)")
    parser.add_argument("--warmup", type=int, default=50, help="steps to reach it (default 50)")
    parser.add_argument("--layers", type=int, default=Shape.n_layer, help="number of layers (default 4)")
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True, help="bfloat16 arithmetic")
    parser.add_argument("--report", type=int, default=50, help="print every so many steps (default 50)")
    parser.add_argument("--save-every", type=int, default=500, help="write the file every so many steps (default 500)")
    return parser.parse_args()


def main() -> None:
    """Make the vocabulary, train, write the file."""
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    sample = list(islice(documents(args.seed, args.casts), 8000))
    texts = [text if isinstance(text, str) else "\n".join(line.content for line in text) for text in sample]
    shape = Shape(n_layer=args.layers)
    vocabulary = Vocabulary.train([*texts, "user assistant system"], shape.n_vocab)
    model = Llama(shape)
    parameters = sum(weight.numel() for weight in model.parameters())
    print(f"{parameters:,} parameters, {len(vocabulary)} tokens in the vocabulary", flush=True)
    held_out = Reader(documents(args.seed + 1, args.casts), vocabulary)
    reader = Reader(documents(args.seed + 2, args.casts), vocabulary)
    args.out.parent.mkdir(parents=True, exist_ok=True)

    def save() -> None:
        write_gguf(args.out, model, vocabulary)

    progress = train(model, reader, held_out, args, save)
    save()
    print(
        f"{progress.step} steps, {progress.tokens:,} tokens in {progress.seconds:.0f} s "
        f"({progress.tokens / progress.seconds:,.0f} tokens/s), loss on unseen text {progress.loss:.4f}\n"
        f"{args.out}: {args.out.stat().st_size:,} bytes"
    )


if __name__ == "__main__":
    main()
