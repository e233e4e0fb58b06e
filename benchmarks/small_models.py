"""Train a small language model of each of several families, for benchmarks that need more than one real model.

    python benchmarks/small_models.py FOLDER [--families gpt2,neox,opt,llama,mamba] [--steps 1500]

They read the novel of tests/tiny but for its end, with the tokenizer of the tiny LM. A share of the rows repeats itself, so
that models learn to copy. A family takes some minutes on one core. By its first steps, Mamba would take a quarter of an hour
with the package mambapy, and an hour without.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedTokenizerFast

TINY = Path(__file__).parent.parent / "tests/tiny"
VOCABULARY, WIDTH, LAYERS, HEADS, POSITIONS = 512, 128, 4, 4, 512
CONTEXT, ROWS, REPEATS = 96, 12, 3  # tokens of a row, rows of a batch, rows that repeat random tokens
HELD_OUT = 8_000  # last tokens of the novel
RATE = 2e-3
FRAME: dict[str, Any] = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 0}
USUAL: dict[str, Any] = FRAME | {
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "max_position_embeddings": POSITIONS,
}

FAMILIES: dict[str, Callable[[], Any]] = {
    "gpt2": lambda: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            **FRAME,
            n_embd=WIDTH,
            n_layer=LAYERS,
            n_head=HEADS,
            n_positions=POSITIONS,
            resid_pdrop=0,
            embd_pdrop=0,
            attn_pdrop=0,
        )
    ),
    "neox": lambda: transformers.GPTNeoXForCausalLM(
        transformers.GPTNeoXConfig(**USUAL, intermediate_size=512, rotary_pct=0.25)
    ),
    "opt": lambda: transformers.OPTForCausalLM(
        transformers.OPTConfig(**USUAL, ffn_dim=512, word_embed_proj_dim=WIDTH, pad_token_id=1, dropout=0)
    ),
    "llama": lambda: transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**USUAL, intermediate_size=320, num_key_value_heads=2, tie_word_embeddings=False)
    ),
    "mamba": lambda: transformers.MambaForCausalLM(
        transformers.MambaConfig(**FRAME, hidden_size=WIDTH, num_hidden_layers=LAYERS, pad_token_id=0, use_mambapy=True)
    ),
}


def batch(ids: torch.Tensor) -> torch.Tensor:
    """Rows of the novel, and rows of random tokens that are said four times. All begin with BOS."""
    begins = torch.randint(len(ids) - CONTEXT - 1, (ROWS,)).tolist()
    rows = torch.stack([ids[begin : begin + CONTEXT] for begin in begins])
    rows[:REPEATS] = torch.randint(VOCABULARY, (REPEATS, CONTEXT // 4)).repeat(1, 4)
    rows[:, 0] = 0
    return rows


def train(family: str, ids: torch.Tensor, steps: int) -> Any:
    """A model of the family, trained on ids (N,)."""
    torch.manual_seed(0)
    model = FAMILIES[family]()
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=RATE, total_steps=steps, pct_start=0.05)
    for step in range(steps):
        rows = batch(ids)
        loss = model(input_ids=rows, labels=rows).loss
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 100 == 0:
            print(f"{family}: step {step} of {steps}, loss {loss.item():.2f}", flush=True)
    return model.eval()


def surprisal(model: Any, ids: torch.Tensor) -> float:
    """The mean surprisal of ids (N,), in rows as in training [nats per token]."""
    rows = ids[: len(ids) // CONTEXT * CONTEXT].view(-1, CONTEXT).clone()
    rows[:, 0] = 0
    with torch.inference_mode():
        return float(model(input_ids=rows, labels=rows).loss)


def main(argv: Sequence[str] | None = None) -> None:
    """Train and save each family."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--families", default=",".join(FAMILIES))
    parser.add_argument("--steps", type=int, default=1_500)
    args = parser.parse_args(argv)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(TINY / "model")
    tokenizer.bos_token = tokenizer.eos_token
    ids = torch.tensor(tokenizer((TINY / "corpus.txt").read_text("utf-8"))["input_ids"])
    for family in args.families.split(","):
        model = train(family, ids[:-HELD_OUT], args.steps)
        print(f"{family}: {surprisal(model, ids[-HELD_OUT:]):.2f} nats a token of text that it did not read")
        model.save_pretrained(args.folder / family)
        tokenizer.save_pretrained(args.folder / family)


if __name__ == "__main__":
    main()
