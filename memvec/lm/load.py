"""Load a checkpoint as a FrozenLM: check its configuration, load it, wrap it, and check by running it.

A model is supported if its input embeddings and its LM head give the logits that the model itself gives, up to a factor.
It runs with memvec's attention if that gives what its own attention gives, else with its own.

Where memory is short, weights stored in 16 bits stay so, and are widened to float32 where they are used. On the device
"auto", layers that still do not fit are offloaded to memory and disk.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from memvec.causes import enough_memory, first_line, out_of_memory, own_mistake, reading_checkpoint
from memvec.checkpoints import usable
from memvec.checkpoints.files import load_config, load_generation, load_tokenizer, quiet, stored_as, weight_files
from memvec.errors import UnsupportedModelError, UsageError
from memvec.guard import loading_alone
from memvec.lm import attention, layers
from memvec.lm.compat import isolate, recurrent
from memvec.lm.device import AUTO, free_bytes, main_device
from memvec.lm.frozen import FrozenLM
from memvec.lm.widen import widened

# Tokens of the run that checks a model. Half of them are changed, to look for attention to later ones.
TOKENS, HALF = 8, 4
ATTENTION_OFF = 0.01  # most error of memvec's attention, of the model's own; float32 rounds by 1e-7, TF32 by 1e-3
NARROW = {"BF16": torch.bfloat16, "F16": torch.float16}  # as safetensors call them
SHARE_FOR_WEIGHTS = 0.75  # of the memory that is free; the rest is for activations and caches
WIDE = 100.0  # the highest logit that a model is tried with
OTHERWISE = "make logits in another way than by their LM head and a factor, for instance with a cap"
# Raised by models that do not run as others do.
FOREIGN = (ValueError, TypeError, NotImplementedError, RuntimeError, AttributeError)


def load(
    folder: Path,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    notify: Callable[[str], None] = lambda _: None,
) -> FrozenLM:
    """Load the checkpoint in `folder` as `dtype` onto `device`, one thread at a time. `notify` is told what does not fit.

    Raises:
        NotFoundError: The folder cannot be read as a checkpoint.
        UnsupportedModelError: memvec cannot fit vectors to such a model.
        UsageError: Another thread loaded a model at the same time, so weights are missing.
        OutOfMemoryError: The model does not fit in memory.
    """
    with loading_alone(), enough_memory(_loading(folder, dtype, device)):
        check_config(folder)
        tokenizer = load_tokenizer(folder)
        kept = _kept_narrow(folder, dtype, device)
        if kept:
            notify("loading the model in 16 bits: in 32 it does not fit in memory")
        lm = FrozenLM(_model(folder, kept or dtype, device, notify), tokenizer)
        lm = widened(lm) if kept else lm
        lm.may_offload = device == AUTO
        usable.check_tokens(tokenizer, lm.vocabulary)
        check_model(lm)
        return lm


def in_float32(lm: FrozenLM, folder: Path) -> FrozenLM:
    """The model of `lm` and `folder` in float32, which certifying needs. Weights stored in 16 bits stay as they are.

    Raises as `load` does.
    """
    if lm.dtype == torch.float32:
        return lm
    stored, device = NARROW.get(stored_as(folder) or ""), AUTO if lm.may_offload else str(lm.device)
    dtype = stored or torch.float32
    with loading_alone(), enough_memory(_loading(folder, dtype, device)):
        made = lm if lm.dtype == dtype else FrozenLM(_model(folder, dtype, device), lm.tokenizer, lm.splitter)
        made = widened(made) if stored else made
        check_model(made)
        return made


def _loading(folder: Path, dtype: torch.dtype, device: str) -> str:
    return f"load {str(folder)!r} as {str(dtype).removeprefix('torch.')} onto {device}"


def _kept_narrow(folder: Path, dtype: torch.dtype, device: str) -> torch.dtype | None:
    """The 16-bit dtype of stored weights that would not fit in memory as float32. None if they fit, or are wider."""
    stored = NARROW.get(stored_as(folder) or "") if dtype == torch.float32 else None
    wide = 2 * sum(file.stat().st_size for file in weight_files(folder)) if stored else 0
    return stored if wide > _room(main_device(device)) else None


def _room(device: str) -> int:
    """How many bytes of weights a device has room for now."""
    return int(SHARE_FOR_WEIGHTS * free_bytes(torch.device(device)))


def _places(folder: Path, dtype: torch.dtype, device: str) -> dict[str, str] | None:
    """The device map of a model that does not fit on `device`. None if it fits, or is recurrent."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(load_config(folder), dtype=dtype, trust_remote_code=False)
    model.tie_weights()
    memory = 0 if device == layers.RAM else _room(layers.RAM)
    return None if recurrent(model) else layers.places(model, device, _room(device), memory)


def _model(folder: Path, dtype: torch.dtype, device: str, notify: Callable[[str], None] = lambda _: None) -> Any:
    """The model of a checkpoint, frozen. Raises as `load` does."""
    main = main_device(device)
    places = _places(folder, dtype, main) if device == AUTO else None
    if places:
        away = [place for place in places.values() if place != main]
        notify(f"loading the model: {len(away)} of its layers do not fit on {main}, so it runs slowly")
        model = layers.offloaded(lambda spare: _read(folder, dtype, device_map=places, offload_folder=spare))
        return isolate(tied(model).eval().requires_grad_(False))
    model = isolate(tied(_read(folder, dtype)).eval().requires_grad_(False).to(main))
    # transformers' scan of states multiplies float32 with the weights in their own dtype
    return model.float() if recurrent(model) else model


def _read(folder: Path, dtype: torch.dtype, **where: Any) -> Any:
    """The model of a checkpoint, as transformers loads it. NotFoundError."""
    from transformers import AutoModelForCausalLM

    def read(attn: str) -> Any:
        model, said = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation=attn, trust_remote_code=False, use_safetensors=True,
            generation_config=load_generation(folder), ignore_mismatched_sizes=True, output_loading_info=True, **where,
        )  # fmt: skip
        usable.check_loaded(folder, model, said["missing_keys"], said["mismatched_keys"])
        return model

    with quiet(), reading_checkpoint(folder):
        try:
            return read(attention.register())
        except KeyError as error:
            if error.args != (attention.NAME,):
                raise
        return read(attention.EAGER)  # a model that has a list of its own attentions


def check_config(folder: Path) -> None:
    """Raise UnsupportedModelError if the configuration in `folder` is not that of a causal language model."""
    config = load_config(folder)
    with loading_alone():
        from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    if getattr(config, "is_encoder_decoder", False):
        raise UnsupportedModelError(f"{config.model_type} models are encoder-decoders, not decoder-only")
    # transformers makes decoders of encoders too, with a head that the checkpoint lacks.
    made_for = [str(name) for name in config.architectures or ()]
    encodes = made_for and getattr(config, "is_decoder", True) is False and not any("CausalLM" in n for n in made_for)
    if encodes or type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UnsupportedModelError(f"{config.model_type} models are no decoder-only language models")


@torch.inference_mode()
def check_model(lm: FrozenLM) -> None:
    """Find the attention and the scale of logits of a model, and check that nothing else is in its logits.

    Raises:
        UnsupportedModelError: Input embeddings and the LM head are not all that the logits depend on.
    """
    name = lm.model.config.model_type
    ids = torch.arange(1, TOKENS + 1, device=lm.device)[None]
    try:
        if not lm.recurrent:
            _choose_attention(lm, ids)
        fault = _fault(lm, ids)
    except FOREIGN as error:
        if out_of_memory(error) or own_mistake(error):
            raise
        raise UnsupportedModelError(
            f"{name} models cannot be run as memvec runs them: {first_line(error, 160)}"
        ) from error
    if fault:
        raise UnsupportedModelError(f"{name} models {fault}")


def _choose_attention(lm: FrozenLM, ids: Tensor) -> None:
    """Let a model compute its own attention where memvec's gives something else, fails, or is not asked.

    Layers are compared on the same inputs. Whole passes differ by too much: in bfloat16, rounding alone can turn logits over.
    """
    config = lm.model.config
    if config._attn_implementation != attention.NAME:
        return
    config._attn_implementation = attention.COMPARED
    try:
        with attention.comparing() as off:
            lm.hidden(lm.embed(ids))
    except FOREIGN as error:
        if out_of_memory(error):
            raise
        off = []  # it is tried with its own
    finally:
        config._attn_implementation = attention.NAME
    if not off or not all(share <= ATTENTION_OFF for share in off):
        config._attn_implementation = attention.EAGER


def _fault(lm: FrozenLM, ids: Tensor) -> str:
    """What more than input embeddings and the LM head is in the logits, as the rest of a sentence. Sets the scale of `lm`."""
    embeds = lm.embed(ids)
    hidden = lm.hidden(embeds)
    # Later tokens are replaced, not dropped: another shape rounds differently, in bfloat16 by more than the difference sought.
    # What replaces them is no token's embedding, as vectors are none. Some models refuse it.
    others = torch.cat([embeds[:, :HALF], (embeds[:, :HALF] + embeds[:, HALF:]) / 2], 1)
    if _far(lm.hidden(others)[:, :HALF], hidden[:, :HALF]):
        return "are not decoder-only: they look at later tokens"
    raw, made = _at_head(lm, input_ids=ids)
    if _far(hidden @ lm.head.T, raw):
        same = not _far(_at_head(lm, inputs_embeds=embeds)[0], raw)
        return OTHERWISE if same else "take more from token ids than their embeddings"
    lm.scale = float(made[-1]) / WIDE
    return OTHERWISE if _far(made, lm.scale * _probe(lm)) else ""


def _at_head(lm: FrozenLM, **given: Tensor) -> tuple[Tensor, Tensor]:
    """What the LM head gives in a pass (1, L, V), and the logits (V,) that the model makes of `_probe` in its place."""
    found: list[Tensor] = []

    def swap(module: Any, given: Any, output: Tensor) -> Tensor:
        found.append(output)
        return _probe(lm).expand_as(output)

    handle = lm.model.get_output_embeddings().register_forward_hook(swap)
    try:
        logits = lm.model(**given).logits
    finally:
        handle.remove()
    return (found or [logits])[0], logits[0, -1]


def _probe(lm: FrozenLM) -> Tensor:
    """(V,) float32 logits of a wide range: a cap, which small logits hardly feel, shows in them."""
    return torch.linspace(-WIDE, WIDE, len(lm.head), device=lm.device)


def _far(found: Tensor, expected: Tensor) -> bool:
    if found.shape != expected.shape:
        return True
    off = (found.float() - expected.float()).abs().max()
    return bool(off > 0.02 * expected.float().abs().max() + 0.1)


def tied(model: Any) -> Any:
    """Tie the model's head to its embeddings if the configuration says so. Return the model.

    transformers does not tie them while another thread of the program loads a model. After two such loads at once it never
    ties them again. UsageError if weights are still missing.
    """
    inputs, head = model.get_input_embeddings(), model.get_output_embeddings()
    ties = bool(getattr(model.config.get_text_config(), "tie_word_embeddings", False))
    if ties and head is not None and head.weight is not inputs.weight and head.weight.shape == inputs.weight.shape:
        head.weight = inputs.weight
    away = tuple(f"{name}." for name, place in getattr(model, "hf_device_map", {}).items() if place in layers.AWAY)
    missing = [name for name, value in model.named_parameters() if value.is_meta and not name.startswith(away)]
    if missing:
        raise UsageError(
            f"{missing[0]} was not loaded, since another thread loaded a model with transformers at the same time. "
            "Load models one after another, and try again."
        )
    return model
