"""Turn a copy of the tiny LM into checkpoints of the kinds that users of the hub meet. Each function changes one folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from chat_shapes import SHAPES
from families import byte_level
from families import make as make_family
from safetensors.torch import load_file, save_file
from torch import Tensor

Maker = Callable[[Path], None]
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'a' * 64}\nsize 1513632\n"
CODE = 'from pathlib import Path\n(Path(__file__).parent / "ran").touch()\n'  # of a checkpoint; no test may find `ran`


def edit(folder: Path, name: str = "config.json", drop: Iterable[str] = (), **changes: Any) -> None:
    """Change a JSON file: remove some keys, set others."""
    file = folder / name
    found = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in found.items() if key not in drop}))


def config(drop: Iterable[str] = (), **changes: Any) -> Maker:
    """Change config.json."""
    return lambda folder: edit(folder, drop=drop, **changes)


def tokenizer(drop: Iterable[str] = (), **changes: Any) -> Maker:
    """Change tokenizer_config.json."""
    return lambda folder: edit(folder, "tokenizer_config.json", drop, **changes)


def generation(**changes: Any) -> Maker:
    """Change generation_config.json."""
    return lambda folder: edit(folder, "generation_config.json", **changes)


def added(**files: str) -> Maker:
    """Write files of these contents. In names, `__` stands for a dot."""

    def make(folder: Path) -> None:
        for name, text in files.items():
            (folder / name.replace("__", ".")).write_text(text)

    return make


def removed(*names: str) -> Maker:
    """Remove files."""

    def make(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return make


def after(*makers: Maker) -> Maker:
    """Make one change behind the other."""

    def make(folder: Path) -> None:
        for maker in makers:
            maker(folder)

    return make


def weights(change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Maker:
    """Change the tensors."""

    def make(folder: Path) -> None:
        save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS, {"format": "pt"})

    return make


def plain(folder: Path) -> None:
    """Change nothing."""


def sharded(folder: Path) -> None:
    """Three files and an index."""
    tensors = load_file(folder / WEIGHTS)
    places = {name: f"model-0000{n % 3 + 1}-of-00003.safetensors" for n, name in enumerate(sorted(tensors))}
    for file in set(places.values()):
        save_file({n: tensors[n] for n, at in places.items() if at == file}, folder / file, {"format": "pt"})
    (folder / WEIGHTS).unlink()
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))


def strays(folder: Path) -> None:
    """A second copy in another layout, `pytorch_model.bin`, other formats, and a folder of the original files."""
    (folder / "original").mkdir()
    for name in ("consolidated.safetensors", "model.fp16.safetensors", "original/model.safetensors"):
        save_file({"tok_embeddings.weight": torch.ones(3, 2)}, folder / name)
    for name in ("pytorch_model.bin", "flax_model.msgpack", "tf_model.h5", "README.md", "original/params.json"):
        (folder / name).write_bytes(b"x")


def dtype(kind: torch.dtype, *names: str) -> Maker:
    """Cast the tensors whose names hold one of `names`, or all."""
    return weights(
        lambda tensors: {
            n: value.to(kind) if not names or any(part in n for part in names) else value
            for n, value in tensors.items()
        }
    )


def head(scale: float) -> Maker:
    """Store a head beside the embeddings: the same, or another."""
    return weights(lambda t: t | {"lm_head.weight": t["model.embed_tokens.weight"].clone() * scale})


def without(name: str) -> Maker:
    """Leave one tensor out."""
    return weights(lambda tensors: {n: value for n, value in tensors.items() if n != name})


def quantised(said: dict[str, Any] | None, layer: Callable[[str, Tensor], dict[str, Tensor]], **more: Any) -> Maker:
    """Replace each linear layer by the tensors of `layer`, and say so in the configuration."""

    def change(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for name, value in tensors.items():
            found |= layer(name.removesuffix(".weight"), value) if name.endswith("proj.weight") else {name: value}
        return found

    return after(weights(change), config(**more, **({} if said is None else {"quantization_config": said})))


def packed(name: str, value: Tensor) -> dict[str, Tensor]:
    """A layer as of GPTQ and AWQ."""
    rows, columns = value.shape
    return {
        f"{name}.qweight": torch.ones(columns // 8, rows, dtype=torch.int32),
        f"{name}.qzeros": torch.ones(1, rows // 8, dtype=torch.int32),
        f"{name}.scales": torch.ones(1, rows, dtype=torch.float16),
    }


def four_bits(name: str, value: Tensor) -> dict[str, Tensor]:
    """A layer as of bitsandbytes in 4 bits."""
    packs = torch.ones(value.numel() // 2, 1, dtype=torch.uint8)
    return {f"{name}.weight": packs, f"{name}.weight.absmax": torch.ones(value.numel() // 64)}


def eight_bits(name: str, value: Tensor) -> dict[str, Tensor]:
    """A layer as of bitsandbytes in 8 bits, and of torchao."""
    return {f"{name}.weight": torch.ones(value.shape, dtype=torch.int8), f"{name}.SCB": torch.ones(len(value))}


def float8(name: str, value: Tensor) -> dict[str, Tensor]:
    """A layer as of FP8 with a scale for each block."""
    scales = torch.ones(-(-value.shape[0] // 128), -(-value.shape[1] // 128))
    return {f"{name}.weight": value.to(torch.float8_e4m3fn), f"{name}.weight_scale_inv": scales}


def compressed(name: str, value: Tensor) -> dict[str, Tensor]:
    """A layer as of compressed-tensors."""
    return {
        f"{name}.weight_packed": torch.ones(value.shape[0], value.shape[1] // 8, dtype=torch.int32),
        f"{name}.weight_scale": torch.ones(value.shape[0], 1),
        f"{name}.weight_shape": torch.tensor(value.shape),
    }


def small_float8(folder: Path) -> None:
    """A model in FP8 that transformers can dequantise here."""
    import transformers

    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 1, "num_attention_heads": 2}
    settings = transformers.LlamaConfig(
        vocab_size=512, num_key_value_heads=2, bos_token_id=None, eos_token_id=0, **sizes
    )
    transformers.LlamaForCausalLM(settings).save_pretrained(folder)
    quantised({"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}, float8)(folder)


def float4(name: str, value: Tensor) -> dict[str, Tensor]:
    """A layer as of MXFP4, which gpt-oss is published in."""
    shape = value.shape[0], value.shape[1] // 32
    return {
        f"{name}_blocks": torch.ones(*shape, 16, dtype=torch.uint8),
        f"{name}_scales": torch.ones(*shape, dtype=torch.uint8),
    }


def more_rows(number: int) -> Maker:
    """Append rows of zeros to the embeddings, as some models are padded."""

    def change(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        table = tensors["model.embed_tokens.weight"]
        return tensors | {"model.embed_tokens.weight": torch.cat([table, table.new_zeros(number, table.shape[1])])}

    return weights(change)


def more_tokens(*words: str, resized: bool) -> Maker:
    """Add a padding token and `words` to the tokenizer, and rows to the embeddings if `resized`."""

    def make(folder: Path) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        made = AutoTokenizer.from_pretrained(folder)
        made.add_special_tokens({"pad_token": "<pad>"})
        made.add_tokens(list(words))
        made.save_pretrained(folder)
        if resized:
            model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
            model.resize_token_embeddings(len(made), mean_resizing=False)
            model.save_pretrained(folder)

    return make


def token_of_pictures(folder: Path) -> None:
    """A special token that only a larger relative of the model has an embedding for, as Gemma 3's for pictures."""
    from transformers import AddedToken, AutoTokenizer

    made = AutoTokenizer.from_pretrained(folder)
    made.add_tokens([AddedToken("<picture>", special=True)], special_tokens=True)
    made.save_pretrained(folder)


def lowercase(folder: Path) -> None:
    """A tokenizer that changes text."""
    edit(folder, "tokenizer.json", normalizer={"type": "Lowercase"})


def adds_bos(folder: Path) -> None:
    """A tokenizer that writes BOS in front of every text."""
    end = {"SpecialToken": {"id": "<|end|>", "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    made = {"<|end|>": {"id": "<|end|>", "ids": [0], "tokens": ["<|end|>"]}}
    processor = {"type": "TemplateProcessing", "single": [end, text], "pair": [end, text], "special_tokens": made}
    processor["pair"] = [end, text, {"Sequence": {"id": "B", "type_id": 1}}]
    edit(folder, "tokenizer.json", post_processor=processor)
    edit(folder, "tokenizer_config.json", bos_token="<|end|>")


def merges(folder: Path) -> None:
    """The tokenizer as vocab.json and merges.txt, as older models have it."""
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in model["merges"]))
    ends = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|end|>")
    edit(folder, "tokenizer_config.json", tokenizer_class="GPT2Tokenizer", **ends)


def family(name: str) -> Maker:
    """A model and a tokenizer of another family in the folder's place."""

    def make(folder: Path) -> None:
        shutil.rmtree(folder)
        make_family(name, folder)

    return make


def own_code(name: str, **changes: Any) -> Maker:
    """A class of the checkpoint's own, as `name` in its configuration and as code beside it."""
    file = "tokenizer_config.json" if name == "AutoTokenizer" else "config.json"
    own: Any = ["own.Own", None] if name == "AutoTokenizer" else "own.Own"
    return after(lambda folder: edit(folder, file, auto_map={name: own}, **changes), added(own__py=CODE))


def adapter_alone(folder: Path) -> None:
    """An adapter without its model."""
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "owner/base"}))
    save_file({"lora_A.weight": torch.ones(2, 2)}, folder / "adapter_model.safetensors")


def renamed(name: str) -> Maker:
    """Give the weights another name."""

    def make(folder: Path) -> None:
        (folder / WEIGHTS).rename(folder / name)

    return make


def cut_off(folder: Path) -> None:
    """Weights whose download was interrupted."""
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:900_000])


def wrapper(kind: str) -> Maker:
    """A model that looks at pictures too, with random weights."""

    def make(folder: Path) -> None:
        import transformers

        text = {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "vocab_size": 400,
            "bos_token_id": 0,
            "eos_token_id": 0,
        }
        vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
        made: Any
        if kind == "gemma3":
            pictures = vision | {"image_size": 32, "patch_size": 16}
            ids = {"image_token_index": 5, "boi_token_index": 6, "eoi_token_index": 7, "mm_tokens_per_image": 4}
            settings = transformers.Gemma3Config(
                text_config=text | {"head_dim": 16}, vision_config=pictures, bos_token_id=0, eos_token_id=0, **ids
            )
            made = transformers.Gemma3ForConditionalGeneration(settings)
        else:
            rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e4}
            settings = transformers.Qwen2_5_VLConfig(
                text_config=text | {"rope_parameters": rope},
                vision_config={
                    "depth": 1,
                    "hidden_size": 32,
                    "num_heads": 2,
                    "intermediate_size": 64,
                    "out_hidden_size": 32,
                },
            )
            made = transformers.Qwen2_5_VLForConditionalGeneration(settings)
        shutil.rmtree(folder)
        made.save_pretrained(folder)
        byte_level(False).save_pretrained(folder)

    return make


CHATML = SHAPES["chatml"].template
TEMPLATES: dict[str, Maker] = {
    "no system turn": tokenizer(chat_template="{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}" + CHATML),
    "no generation prompt": tokenizer(chat_template=CHATML.partition("{% if add_generation_prompt %}")[0]),
    "chat_template.jinja": after(
        added(chat_template__jinja=CHATML), tokenizer(chat_template="{{ raise_exception('an older one') }}")
    ),
    "several, with a default": tokenizer(
        chat_template=[{"name": "default", "template": CHATML}, {"name": "tool_use", "template": CHATML}]
    ),
}  # fmt: skip
