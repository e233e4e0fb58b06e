"""Export a document's memory as a PEFT adapter, load it with PEFT alone, and compare its answer with memvec's.

python examples/peft_export.py STORE DOCUMENT [PROMPT] [MODEL]

The document needs context vectors. MODEL is by default the one named in the store.
"""

import sys
import tempfile
import warnings

import torch
from peft import PeftModel

import memvec
from memvec.integrations.peft_adapter import (
    export_prefix_tuning,
    export_prompt_tuning,
    import_cartridge,
    import_prompt_tuning,
)
from memvec.templates.template import frame

# Warnings of PEFT: it asks transformers for an old name, and says at each step that padded prompt tuning goes wrong.
warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing|Position ids are not supported")

store, document = sys.argv[1:3]
prompt = sys.argv[3] if len(sys.argv) > 3 else "What is this about?"
runtime = memvec.open(store, model=sys.argv[4] if len(sys.argv) > 4 else None)
memory, lm = memvec.load_memory(runtime, document), runtime.lm

made = memory.generate_kwargs(lm.model, lm.tokenizer, prompt)
new = lm.model.generate(**made, max_new_tokens=32, do_sample=False)[0, made["input_ids"].shape[1] :]
with_memvec = lm.tokenizer.decode(new, skip_special_tokens=True)
print("memvec:", with_memvec)

around = frame(lm.tokenizer, prompt)  # the tokens before a memory go into the adapter, the others to the model
with tempfile.TemporaryDirectory() as folder:
    adapters = {
        "PROMPT_TUNING": export_prompt_tuning(memory, f"{folder}/vectors", lm.model, lm.tokenizer, around.before),
        "PREFIX_TUNING": export_prefix_tuning(memory, f"{folder}/cache", lm.model, lm.tokenizer),
    }
    for kind, path in adapters.items():
        adapted = PeftModel.from_pretrained(lm.model, path)
        ids = torch.tensor([around.after], device=lm.device)
        out = adapted.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=32, do_sample=False, pad_token_id=0
        )
        new = out[0, len(around.after) :]
        same = lm.tokenizer.decode(new, skip_special_tokens=True) == with_memvec
        size = sum(file.stat().st_size for file in path.iterdir())
        print(f"{kind}: {size:,} bytes, same answer: {same}")
    back = import_prompt_tuning(adapters["PROMPT_TUNING"])
    print("imported again, bit for bit:", back.vectors.tobytes() == memory.vectors.tobytes())
    kept = import_cartridge(adapters["PREFIX_TUNING"], lm.model, lm.tokenizer)
    made = kept.generate_kwargs(lm.model, lm.tokenizer, prompt)
    new = lm.model.generate(**made, max_new_tokens=32, do_sample=False)[0, made["input_ids"].shape[1] :]
    same = lm.tokenizer.decode(new, skip_special_tokens=True) == with_memvec
    print("imported again as keys and values, same answer:", same)
