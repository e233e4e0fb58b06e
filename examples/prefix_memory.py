"""Distil a document into a memory, and ask with nothing, the memory and the text in front.

python examples/prefix_memory.py [MODEL]
"""

import sys
import tempfile

import memvec

model = sys.argv[1] if len(sys.argv) > 1 else "smollm2-135m"
text = (
    "The ferry to Skarholm leaves at ten past six from the north pier. Ingrid Vale keeps the only key to its engine room, "
    "because the mate lost his in the fog of last November. A ticket costs nine crowns, and dogs travel free. On Sundays "
    "the ferry carries the post, and the passengers wait until the last blue sack is on board."
)
asked = [
    memvec.Question("ferry.txt", "Who has the key to the engine room?", "Ingrid Vale"),
    memvec.Question("ferry.txt", "How much is a ticket for the ferry?", "nine crowns"),
    memvec.Question("ferry.txt", "What colour are the post sacks?", "blue"),
]

with tempfile.TemporaryDirectory() as folder:
    store = f"{folder}/notes.memvec"
    memvec.pack([memvec.Source("ferry.txt", text.encode())], store, model=model, kind="context")
    runtime = memvec.open(store)  # finds and loads the model once for all calls
    memory = memvec.load_memory(runtime, "ferry.txt")
    print(f"{len(memory)} vectors in front of the prompt")
    for arm in memvec.compare(runtime, asked[0].question, "ferry.txt"):
        print(f"{arm.name:>8}: {arm.missing or f'{arm.positions} positions, says {arm.text!r}'}")
    found = memvec.evaluate(runtime, asked, texts={"ferry.txt": text.encode()})
    print(
        "nats per token of the right answers:", {name: round(found.nll[name], 2) for name in ("none", "memory", "text")}
    )
