"""Writes what is missing of `tests/vectors/v1`, and changes nothing that is there: `PYTHONPATH=tests python -m vectors.make`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from vectors import accepted_stores, refused_kv, refused_manifests, refused_records, refused_shards
from vectors.building import Files

FOLDER = Path(__file__).parent / "v1"
ACCEPTED = accepted_stores.STORES
REFUSED = {**refused_manifests.STORES, **refused_shards.STORES, **refused_records.STORES, **refused_kv.STORES}
PACKED = "packed"  # really decodes with the tiny LM; other processors may fit other vectors, so its bytes are kept


def main(folder: Path, packed: bool = True) -> None:
    """Write the corpus below `folder`; with `packed`, also the store that needs the tiny LM to be made."""
    for name, make in ACCEPTED.items():
        _write(folder / "accepted" / name / "store.memvec", make())
    for name, (code, make) in REFUSED.items():
        _write(folder / "refused" / name / "store.memvec", make())
        _say(folder / "refused" / name / "reason.json", {"code": code})
    if packed and not (folder / "accepted" / PACKED).exists():
        _pack(folder / "accepted" / PACKED / "store.memvec")
    for store in sorted((folder / "accepted").glob("*/store.memvec")):
        expected = store.with_name("expected.json")
        if not expected.exists():
            from vectors.reading import reading

            _say(expected, reading(store))


def _write(store: Path, files: Files) -> None:
    if store.exists():  # a store is as it was made, or it is another store
        return
    for name, data in files.items():
        (store / name).parent.mkdir(parents=True, exist_ok=True)
        (store / name).write_bytes(data)


def _say(file: Path, value: object) -> None:
    if not file.exists():
        file.write_text(json.dumps(value, sort_keys=True, indent=1) + "\n", encoding="utf-8")


def _pack(store: Path) -> None:
    from unittest import mock

    import memvec
    from memvec.settings import PackSettings

    text = (
        b"It is a truth universally acknowledged, that a single man in possession of a good fortune, must be in want."
    )
    sources = [memvec.Source("prose.txt", text), memvec.Source("bytes.bin", bytes(range(256)))]
    settings = PackSettings(nats_per_vector=9.0, segment_tokens=32, max_steps=150, learning_rate=1.0, last_rate=1.0)
    model = Path(__file__).parents[1] / "tiny" / "model"
    with mock.patch("memvec.packing.pack.lasting_name", lambda _: "tests/tiny/model"):  # no path of this machine
        memvec.pack(sources, store, model=str(model), settings=settings, dtype="float32")
    (store / "LOCK").unlink(missing_ok=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
