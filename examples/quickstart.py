"""Pack a text into [mem] vectors, look at the report, and get the text back.

python examples/quickstart.py [MODEL]
"""

import sys
import tempfile

import memvec

model = sys.argv[1] if len(sys.argv) > 1 else "smollm2-135m"
text = "The ferry to Skarholm leaves at ten past six; Ingrid Vale keeps the only key to its engine room.\n"

with tempfile.TemporaryDirectory() as folder:
    store = f"{folder}/notes.memvec"
    report = memvec.pack([memvec.Source("ferry.txt", text.encode())], store, model=model)
    print(f"{report.fitted_tokens} tokens in {report.vectors} vectors, {report.corrected_tokens} corrected")
    print(f"{report.source_bytes} bytes of text: {report.zstd_bytes} with zstd, {report.vector_bytes} as vectors")
    back = memvec.cat(store, "ferry.txt")
    print("byte for byte:", back == text.encode())
    print("decoded and compared:", memvec.verify(store, decode=True).ok)
