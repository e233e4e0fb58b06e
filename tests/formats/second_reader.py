"""A second reader of stores, written from formats/SPEC.md alone: no line is memvec's, and both must agree."""

import base64
import os
import stat
from itertools import pairwise
from pathlib import Path

import numpy as np
import second_kv
from second_bytes import bounded, form, frame, header, hexadecimal, need, parse, sha, tensors, typed, version

# In the order of the record digest, §5.3.
ROW = "kind:U8 reason:U8 start:U64 length:U64 tokens:U32 steps:U32 token_steps:U64 nats_before:F32 nats_after:F32 "
ROW += "corrected_wrong:U32 corrected_margin:U32 least_margin:F32"
REST = " seconds:F32 document:U32 text_sha256:U8 record_sha256:U8 vectors_offsets:U64 vectors:F16 payload_offsets:U64"
REST += " payload:U8 corrections_offsets:U64 corrections:U8 documents:U8"
TENSORS = dict(pair.split(":") for pair in (ROW + REST).split())
DIGESTED = [pair.split(":")[0] for pair in ROW.split()]
MODEL = {"weights": str, "embedding": str, "architecture": dict, "vocabulary": str, "probe": str, "width": int}
REPORT = dict.fromkeys(["gain", "shuffled", "text", "harm", "nll_none", "nll_text", "nll_memory"], (float, type(None)))


def identity(value):
    typed(value, **MODEL)
    typed({"source": ""} | value, source=str)
    bounded(value, "width", least=1)
    return sha(form({name: value[name] for name in MODEL}))[:16]


def file(store, name, most=None):  # §2
    for part in [*reversed(Path(name).parents), Path(name)][1:]:
        need(os.path.lexists(store / part), "missing-file")
        need(not (store / part).is_symlink(), "symlink")
    found = os.stat(store / name)
    need(stat.S_ISREG(found.st_mode), "not-a-file")
    need(most is None or found.st_size <= most, "file-too-large")
    return (store / name).read_bytes()


def read_manifest(data):  # §4
    need(data.endswith(b"\n"), "cut-off")
    envelope = parse(data[:-1])
    body, digest = typed(envelope, manifest=dict, sha256=str)
    need(len(envelope) == 2, "bad-field")
    need(sha(form(body)) == digest, "digest-mismatch")
    version(body, "memvec")
    (required,) = typed(body.get("features"), required=[str])
    need(set(required) <= {"context", "kv", "removed"}, "unknown-feature")
    for value in typed({"extensions": {}} | body, extensions={dict})[0].values():
        need(typed(value, must_understand=bool) == [False], "unknown-extension")
    need(typed(body.get("numerics"), dtype=str, attention=str) == ["float32", "sdpa"], "unsupported-numerics")
    body = {"keys": [], "meta": {}, "removed": [], "tensors": {}, "probe": {}, "extensions": {}} | body
    typed(body, shards=[dict], keys=[dict], tool=str, meta={dict}, removed=[list], tensors={str}, probe=dict)
    for entry, names in [(e, ("records", "documents")) for e in body["shards"]] + [
        (e, ("texts",)) for e in body["keys"]
    ]:
        hexadecimal(typed(entry, sha256=str)[0])
        typed(entry, **dict.fromkeys(["embedder", "embedder_id"] if "texts" in names else [], str))
        bounded(entry, "bytes", *names)
        need(entry["bytes"] <= 2**32, "file-too-large")
    for entries in (body["shards"], body["keys"]):
        need(len({entry["sha256"] for entry in entries}) == len(entries), "duplicate-entry")
    bounded(body, "generation", "vocabulary")
    typed(body["features"], optional=[str])
    typed(body, meta={dict})
    for said in body["meta"].values():
        typed({"said": said}, said={str})
    need(all([type(v) for v in pair] == [str, str] for pair in body["removed"]), "bad-field")
    for _, digest in body["removed"]:
        hexadecimal(digest)
    need(all(a < b for a, b in pairwise(body["removed"])), "not-ascending")
    need(bool(body["removed"]) == ("removed" in required), "feature-not-named")
    return body, identity(body.get("fingerprint"))


def named(store, folder, entry):  # §10, step 3
    data = file(store, f"{folder}/{entry['sha256']}.safetensors")
    need(len(data) == entry["bytes"], "size-mismatch")
    need(sha(data) == entry["sha256"], "digest-mismatch")
    return data


def read_keys(data, entry):  # §9
    said, entries, data = header(data, "memvec-keys")
    bounded(said, "texts", "width")
    typed(said, embedder=str, embedder_id=str)
    n, width = said["texts"], said["width"]
    if width:
        wanted, shapes = {"text_sha256": "U8", "values": "F16"}, {"text_sha256": (n, 32), "values": (n, width)}
        need(np.isfinite(tensors(entries, data, wanted, shapes)["values"]).all(), "not-finite")
    else:
        wanted = {"text_sha256": "U8", "terms": "U32", "counts": "U16", "offsets": "U64"}
        t = tensors(entries, data, wanted, {"text_sha256": (n, 32), "terms": (None,), "offsets": (n + 1,)})
        need(t["counts"].shape == t["terms"].shape, "wrong-shape")
        for begin, end in pairwise(t["offsets"].tolist()):
            need((np.diff(t["terms"][begin:end].astype("i8")) > 0).all(), "not-ascending")
    need(all(said[name] == entry[name] for name in ("embedder", "embedder_id", "texts")), "manifest-mismatch")


def check_name(name):  # §5.2
    parts = name.split("/")
    need(not {"", ".", ".."} & set(parts) and not set("\0\\") & set(name), "bad-name")
    need(len(name.encode()) <= 4096 and max(len(part.encode()) for part in parts) <= 255, "bad-name")
    need(not (name[1:2] == ":" and name[0].isascii() and name[0].isalpha()), "bad-name")


def read_shard(data, entry, body, model):  # §5
    said, entries, data = header(data, "memvec-shard")
    bounded(said, "records", "documents", "width", "vocabulary")
    typed(said, fingerprint=str)
    if "generation" in said:
        bounded(said, "generation")
    if "origin" in said:
        same = identity(said["origin"]) == said["fingerprint"] and said["origin"]["width"] == said["width"]
        need(same, "origin-mismatch")
    kv = second_kv.read_shape(said) if "kv" in said else None
    n = said["records"]
    shapes = dict.fromkeys([*DIGESTED, "seconds", "document"], (n,)) | dict.fromkeys(
        ["corrections", "payload"], (None,)
    )
    shapes |= {f"{name}_offsets": (n + 1,) for name in ("vectors", "corrections", "payload")} | {"documents": (None,)}
    shapes |= {"text_sha256": (n, 32), "record_sha256": (n, 32), "vectors": (None, said["width"])}
    shapes |= second_kv.shapes(n, kv) if kv else {}
    t = tensors(entries, data, TENSORS | second_kv.TENSORS if kv else TENSORS, shapes, said["digests"])
    lines = frame(t["documents"].tobytes())
    need(not lines or lines.endswith(b"\n"), "cut-off")
    documents = []
    for line in lines.split(b"\n")[:-1]:
        need(len(line) <= 2**15, "out-of-range")
        documents.append(parse(line))
        typed(documents[-1], name=str, sha256=str)
        bounded(documents[-1], "bytes", "tokens", "zstd_bytes")
        hexadecimal(documents[-1]["sha256"])
        check_name(documents[-1]["name"])
    need(len(documents) == said["documents"], "wrong-count")
    need(all(number < len(documents) for number in t["document"].tolist()), "bad-document")
    expected = {"fingerprint": model, "width": body["fingerprint"]["width"], "vocabulary": body["vocabulary"]}
    expected |= {"records": entry["records"], "documents": entry["documents"]}
    need(all(said[name] == value for name, value in expected.items()), "manifest-mismatch")
    need("context" in body["features"]["required"] or 2 not in t["kind"], "feature-not-named")
    need("kv" in body["features"]["required"] or not kv, "feature-not-named")
    parts = [second_kv.Part(t, row, kv) if kv else None for row in range(n)]
    return [read_record(t, row, documents[t["document"][row]], said["vocabulary"], parts[row]) for row in range(n)]


def read_record(t, row, document, vocabulary, kv):  # §10, step 7
    value = {name: t[name][row].item() for name in DIGESTED}
    kind, reason, start, length, n = (value[k] for k in ("kind", "reason", "start", "length", "tokens"))
    need(kind <= (3 if kv else 2), "unknown-kind")
    need(reason <= 4, "unknown-reason")
    need(start + length <= document["bytes"], "past-document")
    names = ("vectors", "corrections", "payload")
    vectors, corrections, payload = (t[k][t[f"{k}_offsets"][row] : t[f"{k}_offsets"][row + 1]] for k in names)
    need(n <= (2**24 if kind == 3 else 2**16) and len(vectors) <= 2**16, "out-of-range")
    # vectors, tokens, corrections, payload, reason: which are there, and which MUST be; None: either way
    parts = [bool(len(vectors)), bool(n), bool(len(corrections)), bool(len(payload)), bool(reason)]
    wanted = {0: [False, None, False, True, True], 1: [True, True, None, False, False]}
    wanted |= {2: [True, True, False, True, False], 3: [False, True, False, True, False]}
    need(all(w in (None, p) for p, w in zip(parts, wanted[kind], strict=True)), "mixed-parts")
    need(not kv or kv.parts(kind == 3), "mixed-parts")
    digested = b"memvec record 1\0" + bytes.fromhex(document["sha256"])
    digested += b"".join(t[name][row].tobytes() for name in DIGESTED) + t["text_sha256"][row].tobytes()
    more = kv.digested() if kind == 3 else []
    for piece in (vectors.tobytes(), corrections.tobytes(), payload.tobytes(), *more):
        digested += len(piece).to_bytes(8, "little") + piece
    need(sha(digested) == t["record_sha256"][row].tobytes().hex(), "digest-mismatch")
    pairs = read_corrections(corrections.tobytes(), n, vocabulary)
    report = parse(frame(payload.tobytes(), 2**16)) if kind in (2, 3) else None
    if report is not None:
        typed(report, **REPORT, held_out=int, recipe=str, seed=int)
        bounded(report, "held_out")
    text = t["text_sha256"][row].tobytes().hex()
    said = {"id": t["record_sha256"][row].tobytes().hex(), "document": document["name"], "reason": reason, "tokens": n}
    said |= {"kind": ("raw", "exact", "context", "kv")[kind], "place": [start, length], "text_sha256": text}
    said |= {"vectors": [len(vectors), sha(vectors.tobytes())], "corrections": pairs, "gain": report and report["gain"]}
    if kind == 3:
        said["kv"] = kv.read()
    return said, document, payload.tobytes()


def read_corrections(data, n, vocabulary):  # §6
    need(len(data) <= 10 * n, "bad-corrections")
    numbers, shift, value = [], 0, 0
    for byte in data:
        value |= (byte & 127) << shift
        need(shift <= 28 and (byte or not shift), "bad-corrections")
        shift += 7
        if byte < 128:
            numbers, shift, value = [*numbers, value], 0, 0
    need(not shift and len(numbers) % 2 == 0, "bad-corrections")
    positions = (np.cumsum([gap + 1 for gap in numbers[::2]]) - 1).tolist()
    pairs = [[int(position), token] for position, token in zip(positions, numbers[1::2], strict=True)]
    need(all(position < n and token < vocabulary for position, token in pairs), "bad-corrections")
    return pairs


def joined(refs, length):  # §5.2: {start: (place, length)}
    out, at = [], 0
    while at in refs and refs[at] not in out[-1:]:
        out.append(refs[at])
        at += refs[at][1]
    return [place for place, _ in out] if at == length else []


def read(store):
    """Documents, versions and records of the store at `store`; Refused."""
    body, model = read_manifest(file(store, "manifest.json", 2**26))
    shards = [read_shard(named(store, "shards", entry), entry, body, model) for entry in body["shards"]]
    for entry in body["keys"]:
        read_keys(named(store, "keys", entry), entry)
    versions, live = {}, {}
    for number, records in enumerate(shards):
        for row, (record, document, _) in enumerate(records):
            key = document["name"], document["sha256"]
            first, content, memory, kv = versions.pop(key, (document, {}, {}, {}))
            refs = {"context": memory, "kv": kv}.get(record["kind"], content)
            refs[record["place"][0]] = ([number, row], record["place"][1])
            if list(key) not in body["removed"]:
                versions[key] = first, content, memory, kv
    for (name, digest), (document, *sections) in versions.items():
        whole, remembered, kept = (joined(refs, document["bytes"]) for refs in sections)
        said = {"sha256": digest, "bytes": document["bytes"], "content": whole, "memory": remembered}
        said |= {"kv": kept} if kept else {}
        if whole and all(shards[a][b][0]["kind"] == "raw" for a, b in whole):
            pieces = [(frame(shards[a][b][2]), shards[a][b][0]) for a, b in whole]
            for data, record in pieces:
                need(len(data) == record["place"][1] and sha(data) == record["text_sha256"], "wrong-text")
            data = b"".join(data for data, _ in pieces)
            need(sha(data) == digest, "wrong-text")
            said["data"] = base64.b64encode(data).decode()
        if whole or remembered or kept:
            live[name] = said
    records = [record for shard in shards for record, _, _ in shard]
    return {"documents": live, "versions": [list(key) for key in versions], "records": records}
