"""The kinds of checkpoints that users of the hub meet, and the behaviour of memvec with each.

`tests/memvec/lm/test_load_kinds.py` makes each checkpoint and tests the behaviour. The table in docs/guides/other-models.md is
`table()` of this file. `python tests/checkpoint_kinds.py` writes it into the page.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import checkpoint_makers as of
import torch
from checkpoint_makers import Maker

from memvec.errors import MemvecError, MissingExtraError, NotFoundError, UnsupportedModelError

PAGE = Path(__file__).parents[1] / "docs" / "guides" / "other-models.md"
BETWEEN = ("<!-- written by tests/checkpoint_kinds.py -->\n\n", "\n<!-- end of the table -->\n")
FORGOTTEN = "Download the model again, or save it again with save_pretrained()"


@dataclass(frozen=True)
class Row:
    """Checkpoints with which memvec does the same. A row of the page."""

    checkpoint: str  # the first column
    kinds: dict[str, Maker]
    does: str = "works"  # the second column, if it works
    same: frozenset[str] = frozenset()  # kinds whose tensors and configuration give the fingerprint of the tiny LM
    chats: bool = False  # memories are tested too
    raw: int = 0  # segments that are stored as plain bytes
    error: type[MemvecError] | None = None
    says: str = ""  # the advice of the error, which is the second column if it is refused
    loading: bool = False  # the files alone do not show it: the fingerprint can be read
    memories_say: str = ""  # the reason that memories are refused
    without: str = ""  # a package that must be absent

    @property
    def behaviour(self) -> str:
        """The second column."""
        return self.does if self.error is None else f"refused with exit code {self.error.exit_code}: {self.says}"


QUANTISED = {
    "GPTQ": of.quantised({"quant_method": "gptq", "bits": 4, "group_size": 128}, of.packed),
    "AWQ": of.quantised({"quant_method": "awq", "bits": 4, "version": "gemm"}, of.packed),
    "bitsandbytes, 4 bits": of.quantised({"quant_method": "bitsandbytes", "load_in_4bit": True}, of.four_bits),
    "bitsandbytes, 8 bits": of.quantised({"quant_method": "bitsandbytes", "load_in_8bit": True}, of.eight_bits),
    "FP8": of.quantised({"quant_method": "fp8", "weight_block_size": [128, 128]}, of.float8),
    "compressed-tensors": of.quantised({"quant_method": "compressed-tensors", "config_groups": {}}, of.compressed),
    "MXFP4": of.quantised({"quant_method": "mxfp4"}, of.float4),
    "torchao": of.quantised({"quant_method": "torchao"}, of.eight_bits),
    "unheard of": of.quantised({"quant_method": "new"}, of.eight_bits),
    "no method": of.quantised({}, of.eight_bits),
    "MLX": of.quantised(None, of.eight_bits, quantization={"group_size": 64, "bits": 4}),
    "only in the tensors": of.quantised(None, of.packed),
    "only in the tensors, 4 bits": of.quantised(None, of.four_bits),
    "MXFP4, only in the tensors": of.quantised(None, of.float4),
    "text_config": of.config(text_config={"quantization_config": {"quant_method": "awq"}}),
}

WORKS = [
    Row(
        "one file; several with an index; stray files beside them, such as a second copy in another layout",
        {
            "one file": of.plain,
            "sharded": of.sharded,
            "strays": of.strays,
            "strays beside an index": of.after(of.sharded, of.strays),
            "transformers_weights": of.after(
                of.renamed("own.safetensors"), of.config(transformers_weights="own.safetensors")
            ),
        },
        "works; the same tensors have the same fingerprint",
        same=frozenset({"one file", "sharded", "strays", "strays beside an index", "transformers_weights"}),
    ),
    Row(
        "tied heads, also stored twice; heads of their own",
        {
            "stored twice": of.head(1),
            "a head of its own": of.after(of.head(1.01), of.config(tie_word_embeddings=False)),
        },
        same=frozenset({"stored twice"}),
    ),
    Row(
        "bfloat16, float16, float32, float64, float8 without scales, or several of them; no dtype in the configuration",
        {
            "bfloat16": of.after(of.dtype(torch.bfloat16), of.config(dtype="bfloat16")),
            "float32": of.after(of.dtype(torch.float32), of.config(dtype="float32")),
            "float64": of.after(of.dtype(torch.float64), of.config(dtype="float64")),
            "float8": of.dtype(torch.float8_e4m3fn, "proj", "embed"),
            "several": of.after(of.dtype(torch.bfloat16), of.dtype(torch.float32, "norm")),
            "no dtype": of.config(drop=["dtype"]),
            "torch_dtype": of.config(drop=["dtype"], torch_dtype="float16"),
        },
        same=frozenset({"no dtype", "torch_dtype"}),
    ),
    Row(
        "tensors that the architecture does not use; an empty `quantization_config`",
        {
            "another layer": of.weights(lambda t: t | {"model.layers.9.mlp.up_proj.weight": torch.ones(2, 2)}),
            "quantization_config: null": of.config(quantization_config=None),
        },
        "works; they are ignored",
        same=frozenset({"quantization_config: null"}),
    ),
    Row(
        "a class of its own (`auto_map`) for an architecture that transformers knows",
        {
            "AutoConfig": of.own_code("AutoConfig"),
            "AutoModelForCausalLM": of.own_code("AutoModelForCausalLM", architectures=["Own"]),
        },
        "works with the code of transformers; the class is not loaded",
        same=frozenset({"AutoConfig", "AutoModelForCausalLM"}),
    ),
    Row(
        "`generation_config.json` that is missing, damaged or refused by transformers, or asks for a cache, beams, stop strings or "
        "another form of output",
        {
            "missing": of.removed("generation_config.json"),
            "damaged": of.added(generation_config__json="no JSON"),
            "refused": of.generation(early_stopping="maybe"),
            "temperature without sampling": of.generation(temperature=0.6, top_p=0.9, repetition_penalty=1.1),
            "a list of ends": of.after(of.generation(eos_token_id=[0, 5]), of.config(eos_token_id=[0, 5])),
            "padding -1": of.after(of.generation(pad_token_id=-1), of.config(pad_token_id=-1)),
            "a cache": of.generation(cache_implementation="hybrid"),
            "a dict": of.generation(return_dict_in_generate=True),
            "stop strings": of.generation(stop_strings=["\n"]),
            "samples": of.generation(do_sample=True, num_return_sequences=2),
            "contrastive": of.generation(penalty_alpha=0.6),
            "no cache": of.after(of.generation(use_cache=False), of.config(use_cache=False)),
        },
        "works; memvec takes token ids and changes of logits from it, nothing else",
        same=frozenset({"missing", "a list of ends", "a cache"}),
        chats=True,
    ),
    Row(
        "chat templates that have no generation prompt or refuse a system turn; one in `chat_template.jinja`; several with a default",
        of.TEMPLATES,
        chats=True,
    ),
    Row(
        "chat templates that refuse every message or do not show the user's",
        {
            "refuses": of.tokenizer(chat_template="{{ 1 / 0 }}"),
            "is no template": of.tokenizer(chat_template="{% for m in messages %}{{ m.content }"),
            "shows nothing": of.tokenizer(chat_template="hello"),
        },
        "documents can be packed; memories are refused with the advice to take the template out",
        memories_say="take the template out of the tokenizer's files",
    ),
    Row(
        "tokenizers with a prefix space, with byte fallback, with or without BOS, as `vocab.json` and `merges.txt`",
        {
            "prefix space and byte fallback": of.family("llama"),
            "byte fallback": of.family("qwen3"),
            "BOS": of.adds_bos,
            "no special token": of.after(of.tokenizer(drop=["eos_token"]), of.config(eos_token_id=None)),
            "vocab.json": of.merges,
            "no tokenizer_config.json": of.removed("tokenizer_config.json"),
        },
        chats=True,
    ),
    Row(
        "embeddings that are longer than the vocabulary; resized ones; special tokens without an embedding, for padding or pictures",
        {
            "padded": of.after(of.more_rows(64), of.config(vocab_size=576)),
            "resized": of.more_tokens("<tool>", "ferry", resized=True),
            "a padding token": of.more_tokens(resized=False),
            "a token of pictures": of.token_of_pictures,
        },
        chats=True,
    ),
    Row(
        "a tokenizer that changes text, for instance to lower case",
        {"lower case": of.lowercase},
        "works; texts that it changes are stored as plain bytes",
        raw=1,
    ),
]

REFUSED = [
    Row(
        "quantised weights (GPTQ, AWQ, bitsandbytes, FP8, MXFP4, compressed-tensors, torchao, MLX)",
        QUANTISED,
        error=UnsupportedModelError,
        says="Take the checkpoint that they were made of, or dequantise it and save it in bfloat16",
    ),
    Row(
        "models that need code of their own (`trust_remote_code`)",
        {"model": of.own_code("AutoConfig", model_type="own")},
        error=UnsupportedModelError,
        says="Take a form of the model that transformers knows, often named -hf",
    ),
    Row(
        "tokenizers that need code of their own",
        {"tokenizer": of.own_code("AutoTokenizer", tokenizer_class="Own")},
        error=UnsupportedModelError,
        says="Take a form of the model with a tokenizer.json that transformers reads",
    ),
    Row(
        "an architecture that this transformers does not know",
        {"newer": of.config(model_type="llama9", architectures=["Llama9ForCausalLM"])},
        error=UnsupportedModelError,
        says="Upgrade transformers",
    ),
    Row(
        "models that look at pictures too, around a language model that transformers also knows alone (Gemma 3 of 4 B and more)",
        {"gemma3": of.wrapper("gemma3")},
        error=UnsupportedModelError,
        says="Save its language model in a folder of its own and pass that folder",
    ),
    Row(
        "models that look at pictures too, around another one (Qwen2.5-VL)",
        {"qwen2_5_vl": of.wrapper("qwen2_5_vl")},
        error=UnsupportedModelError,
        says="Take a model of text",
    ),
    Row(
        "a model with a PEFT adapter in its folder",
        {"beside": of.added(adapter_config__json="{}")},
        error=UnsupportedModelError,
        says="Merge it into the model, or move it to a folder of its own",
    ),
    Row(
        "a PEFT adapter alone",
        {"alone": of.adapter_alone},
        error=NotFoundError,
        says="Merge it into its model",
    ),
    Row(
        "weights that are missing, or have other shapes than the configuration says",
        {
            "no head": of.config(tie_word_embeddings=False),
            "no layer": of.without("model.layers.1.mlp.up_proj.weight"),
            "a smaller vocabulary": of.more_rows(64),
            "other sizes": of.config(intermediate_size=300),
        },
        error=NotFoundError,
        says=FORGOTTEN,
        loading=True,
    ),
    Row(
        "a file of the index that is missing",
        {"shard": of.after(of.sharded, of.removed("model-00002-of-00003.safetensors"))},
        error=NotFoundError,
        says="Download the model again",
    ),
    Row(
        "a file whose download was cut off",
        {"cut off": of.cut_off},
        error=NotFoundError,
        says="Download it again",
    ),
    Row(
        "Git LFS pointers instead of files",
        {
            "weights": of.added(model__safetensors=of.POINTER),
            "tokenizer": of.added(tokenizer__json=of.POINTER),
            "configuration": of.added(config__json=of.POINTER),
        },
        error=NotFoundError,
        says="Run `git lfs pull` in its folder",
    ),
    Row(
        "`pytorch_model.bin` alone",
        {"bin": of.after(of.removed(of.WEIGHTS), of.added(pytorch_model__bin="x"))},
        error=NotFoundError,
        says="Load the model with transformers and save it again with save_pretrained()",
    ),
    Row(
        "another layout alone (`consolidated.safetensors`)",
        {"consolidated": of.renamed("consolidated.safetensors")},
        error=NotFoundError,
        says="Save the model with save_pretrained() first",
    ),
    Row(
        "a folder of GGUF files",
        {"gguf": of.after(of.removed(of.WEIGHTS), of.added(m__gguf="GGUF"))},
        error=NotFoundError,
        says="Pass the file itself",
    ),
    Row(
        "no tokenizer, or one in `tekken.json` alone",
        {
            "none": of.removed("tokenizer.json", "tokenizer_config.json"),
            "tekken": of.after(of.removed("tokenizer.json", "tokenizer_config.json"), of.added(tekken__json="{}")),
        },
        error=NotFoundError,
        says="Download the tokenizer's files too",
    ),
    Row(
        "`tokenizer.model` alone, without the package sentencepiece",
        {
            "sentencepiece": of.after(
                of.removed("tokenizer.json"), of.added(tokenizer__model="x"), of.tokenizer(tokenizer_class="LlamaTokenizer")
            )
        },
        error=MissingExtraError,
        says="run `pip install sentencepiece`",
        without="sentencepiece",
    ),
    Row(
        "a tokenizer with more tokens than the model has embeddings for",
        {"added": of.more_tokens("<tool>", "ferry", resized=False)},
        error=UnsupportedModelError,
        says="Call model.resize_token_embeddings(len(tokenizer)) and save both",
        loading=True,
    ),
]  # fmt: skip


def table() -> str:
    """The rows as Markdown."""
    rows = [f"| {row.checkpoint} | {row.behaviour} |" for row in (*WORKS, *REFUSED)]
    return "\n".join(["| checkpoint | memvec |", "|---|---|", *rows, ""])


def filled(page: str) -> str:
    """The page with this table between its marks."""
    first, last = map(re.escape, BETWEEN)
    return re.sub(f"(?<={first}).*?(?={last})", lambda _: table(), page, flags=re.DOTALL)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text("utf-8")), "utf-8")
