"""Read one record's vectors with safetensors and json alone, without memvec. formats/SPEC.md describes the format.

python examples/read_without_memvec.py STORE [ROW]
"""

import json
import sys
from pathlib import Path

from safetensors import safe_open

EXACT = 1  # the kind of record whose vectors decode to its text

store = Path(sys.argv[1])
manifest = json.loads((store / "manifest.json").read_text())["manifest"]
shard = store / "shards" / f"{manifest['shards'][0]['sha256']}.safetensors"
with safe_open(shard, framework="np") as file:
    rows = [row for row, kind in enumerate(file.get_tensor("kind")) if kind == EXACT]
    row = int(sys.argv[2]) if len(sys.argv) > 2 else rows[0] if rows else -1
    if row not in rows:
        sys.exit(f"expected the row of an exact record in the first shard, one of {rows}")
    begin, end = file.get_tensor("vectors_offsets")[row : row + 2].tolist()
    vectors = file.get_slice("vectors")[begin:end]  # (M, D) float16
    tokens = int(file.get_tensor("tokens")[row])

print(f"record {row}: {tokens} tokens in {len(vectors)} vectors of {vectors.shape[1]} × {vectors.dtype}")
print(f"they belong to {manifest['fingerprint']['source']}, weights {manifest['fingerprint']['weights'][:16]}…")
