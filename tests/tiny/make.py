"""Make the tiny LM of the tests: a byte-level BPE and a small Llama, trained on the corpus beside this file.

    python tests/tiny/make.py            # about two minutes on two cores; writes tests/tiny/model/

The corpus is the opening of Jane Austen's "Pride and Prejudice" (1813, public domain). The result is committed, so that
tests need not train; it is a real language model of that book, with real statistics, and useless for anything else.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

HERE = Path(__file__).parent
VOCABULARY, WIDTH, LAYERS, CONTEXT = 512, 128, 4, 128
STEPS, ROWS = 1200, 16
REPEATS = 4  # rows of a batch that are random tokens said over again: bytes the book lacks are learnt from them


def make_tokenizer(text: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE: every UTF-8 string comes back as it went in."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, initial_alphabet=alphabet, special_tokens=["<|end|>"])
    bpe.train_from_iterator([text], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|end|>", clean_up_tokenization_spaces=False)


def train(ids: torch.Tensor) -> LlamaForCausalLM:
    """A small Llama, a few minutes of AdamW."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=320,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
    )
    model = LlamaForCausalLM(config)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.95), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=2e-3, total_steps=STEPS, pct_start=0.05)
    begun = time.time()
    for step in range(STEPS):
        starts = torch.randint(len(ids) - CONTEXT - 1, (ROWS,))
        batch = torch.stack([ids[s : s + CONTEXT] for s in starts.tolist()])
        noise = torch.randint(VOCABULARY, (REPEATS, CONTEXT // 4))
        batch[:REPEATS] = noise.repeat(1, 4)
        loss = model(input_ids=batch, labels=batch).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 200 == 0:
            print(f"step {step} loss {loss.item():.3f} {time.time() - begun:.0f} s", flush=True)
    return model.eval()


def main() -> None:
    """Train and save tokenizer and model."""
    text = (HERE / "corpus.txt").read_text(encoding="utf-8")
    tokenizer = make_tokenizer(text)
    model = train(torch.tensor(tokenizer(text)["input_ids"]))
    model.half().save_pretrained(HERE / "model")
    tokenizer.save_pretrained(HERE / "model")


if __name__ == "__main__":
    main()
