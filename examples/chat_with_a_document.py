"""Chat about a document: its memory stands in the user's first turn, and runs through the model once for all questions.

python examples/chat_with_a_document.py STORE DOCUMENT [QUESTION ...]     (the store holds the document's memory)
"""

import sys

import memvec

store, document, *questions = sys.argv[1:]
runtime = memvec.open(store)
memory = memvec.load_memory(runtime, document)
lm = runtime.lm  # any transformers model and tokenizer with the store's fingerprint will do
cached = memory.as_cache(lm.model, lm.tokenizer)
print(f"{document}: {len(memory)} positions, {cached.bytes:,} bytes of cache")

for question in questions or ["What is this about?", "Who is named in it?"]:
    kwargs = cached.generate_kwargs(question)
    answer = lm.model.generate(**kwargs, max_new_tokens=40, do_sample=False)
    new = answer[0, kwargs["input_ids"].shape[1] :]
    print(f"> {question}\n{lm.tokenizer.decode(new, skip_special_tokens=True).strip()}")
