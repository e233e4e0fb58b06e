"""`memvec export` and `memvec generate`, as a user calls them."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kv_memory import with_kv

from memvec.errors import FingerprintError
from memvec.integrations.embeds_export import prompt_embeds
from memvec.integrations.peft_adapter import import_prompt_tuning
from memvec.memory import generate
from memvec.memory.memory import load

PROMPT = "However little"
DOCUMENT = "prose.txt"


@pytest.fixture(autouse=True)
def loaded(tiny_lm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny LM for what a store would load."""

    def load(runtime: Any, device: str | None) -> Any:
        if runtime.model == "another":
            raise FingerprintError([("weights", "a", "b")])
        return tiny_lm

    monkeypatch.setattr("memvec.identity.runtime.Runtime.load", load)


def export(call: Any, store: Path, target: str, path: Path, *more: object) -> Any:
    code, out, err = call("export", store, "--id", DOCUMENT, "--to", target, "-o", path, "--json", *more)
    assert code == 0, err
    result = json.loads(out)
    assert (result["schema"], result["to"], result["vectors"]) == ("memvec.cli/1", target, 6)
    assert result["bytes"] > 0
    return result


class TestExport:
    """`memvec export --to`."""

    @pytest.mark.parametrize(
        ("target", "kind"),
        [("peft-prompt", "PROMPT_TUNING"), ("peft-prefix", "PREFIX_TUNING"), ("peft-cartridge", "CARTRIDGE")],
    )
    def test_adapters(self, remembering: Path, tmp_path: Path, call: Any, target: str, kind: str) -> None:
        """A PEFT adapter holds the vectors of the memory."""
        export(call, remembering, target, tmp_path / "adapter")
        config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
        assert (config["peft_type"], config["num_virtual_tokens"]) == (kind, 6)  # this tokenizer has no BOS
        if target == "peft-prompt":
            back = import_prompt_tuning(tmp_path / "adapter")
            assert np.array_equal(back.vectors, load(remembering, DOCUMENT).vectors)
        code, _, err = call("export", remembering, "--id", DOCUMENT, "--to", target, "-o", tmp_path / "adapter")
        assert code == 2 and "not an empty folder" in err

    def test_prompts(self, remembering: Path, tmp_path: Path, call: Any, tiny_lm: Any) -> None:
        """An embedded prompt is the one that the library makes."""
        wanted = prompt_embeds(tiny_lm.model, tiny_lm.tokenizer, PROMPT, load(remembering, DOCUMENT))
        export(call, remembering, "npy", tmp_path / "p.npy", "--prompt", PROMPT)
        assert np.array_equal(np.load(tmp_path / "p.npy"), wanted.numpy())
        export(call, remembering, "vllm", tmp_path / "p.json", "--prompt", PROMPT, "--served-model", "served")
        body = json.loads((tmp_path / "p.json").read_text())
        sent = torch.load(io.BytesIO(base64.b64decode(body["prompt_embeds"])), weights_only=True)
        assert body["model"] == "served" and torch.equal(sent, wanted)
        export(call, remembering, "vllm-chat", tmp_path / "c.json", "--prompt", PROMPT, "--content-format", "openai")
        (message,) = json.loads((tmp_path / "c.json").read_text())["messages"]
        assert [part["type"] for part in message["content"]] == ["prompt_embeds", "text"]
        assert message["content"][1]["text"] == f"\n\n{PROMPT}"
        args = ["export", remembering, "--id", DOCUMENT, "--to", "npy", "-o", tmp_path / "p.npy", "--prompt", "wife"]
        code, _, err = call(*args)
        assert code == 2 and "--overwrite" in err
        code, out, _ = call(*args, "--overwrite")
        assert code == 0 and "6 vectors of prose.txt as npy" in out and "float32" in out
        assert len(np.load(tmp_path / "p.npy")) != len(wanted)

    def test_exact(self, remembering: Path, tmp_path: Path, call: Any) -> None:
        """Exact vectors are exported only with --kind exact."""
        args = ["export", remembering, "--id", "bom.txt", "--to", "peft-prompt", "-o", tmp_path / "a", "--bare"]
        code, _, err = call(*args)
        assert code == 2 and "no context vectors" in err and not (tmp_path / "a").exists()
        assert call(*args, "--kind", "exact")[0] == 0
        exact = load(remembering, "bom.txt", kind="exact")
        assert np.array_equal(import_prompt_tuning(tmp_path / "a").vectors, exact.vectors)

    def test_refusals(self, remembering: Path, tmp_path: Path, call: Any) -> None:
        base = ["export", remembering, "--id", DOCUMENT, "-o", tmp_path / "x", "--to"]
        cases: list[tuple[int, list[object], str]] = [
            (2, [*base, "peft-prompt", "--prompt", "x"], "Leave --prompt out"),
            (2, [*base, "npy"], "Pass --prompt"),
            (2, [*base, "npy", "--prompt", "x", "--bare"], "--bare is for peft-prompt"),
            (2, [*base, "npy", "--prompt", "x", "-o", tmp_path], "is a folder"),
            (2, [*base, "nothing"], "nothing"),
            (4, [*base, "npy", "--prompt", "x", "-m", "another"], "weights"),
            (6, [*base, "npy", "--prompt", "x", "--id", "no-such"], "no-such"),
        ]
        for code, args, fragment in cases:
            got, _, err = call(*args)
            assert (got, fragment in err) == (code, True), (args, err)
        assert not (tmp_path / "x").exists()

    def test_keys_and_values(self, kept: Path, tmp_path: Path, call: Any) -> None:
        """auto exports them where they fit, else the context vectors."""
        memory = load(kept, DOCUMENT)
        args = ["export", kept, "--id", DOCUMENT, "--to"]
        code, out, err = call(*args, "peft-prefix", "-o", tmp_path / "a")
        assert code == 0 and f"{len(memory)} positions of keys and values of {DOCUMENT} as peft-prefix" in out, err
        code, out, _ = call(*args, "peft-cartridge", "-o", tmp_path / "b", "--json")
        assert (code, json.loads(out)["vectors"], json.loads(out)["positions"]) == (0, 0, len(memory))
        npy = [*args, "npy", "-o", tmp_path / "n", "--prompt", "x"]
        code, _, err = call(*npy, "--kind", "kv")
        assert code == 2 and "--kind context" in err and not (tmp_path / "n").exists()
        code, out, _ = call(*npy)
        assert code == 0 and "6 vectors" in out


@pytest.fixture(scope="module")
def kept(remembering: Path, tiny_lm: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store with a kv memory beside the context memory of a document."""
    return with_kv(remembering, tmp_path_factory.mktemp("kv") / "s", tiny_lm, [DOCUMENT], "even")


class TestGenerate:
    """`memvec generate`."""

    def test_keys_and_values(self, kept: Path, call: Any) -> None:
        """A kv memory comes before context vectors, and is named."""
        args = ["generate", kept, PROMPT, "--id", DOCUMENT, "--max-new-tokens", "2"]
        made = json.loads(call(*args, "--json")[1])
        assert (made["kind"], made["memory_positions"]) == ("kv", len(load(kept, DOCUMENT)))
        code, out, _ = call(*args, "--compare")
        assert code == 0 and "  keys and values  " in out and "\nkeys and values: " in out and "vectors" not in out
        found = json.loads(
            call("generate", kept, "a single man", "--retrieve", "1", "--max-new-tokens", "2", "--json")[1]
        )
        assert (found["documents"], found["kind"]) == ([DOCUMENT], "kv")

    def test_the_best_match_is_next_to_the_prompt(
        self, remembering: Path, call: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What is found is ranked, what is named is not."""
        given: list[dict[str, Any]] = []
        original = generate.generate
        monkeypatch.setattr(generate, "generate", lambda *a, **named: given.append(named) or original(*a, **named))
        for choice in (("--retrieve", "1"), ("--id", DOCUMENT)):
            assert call("generate", remembering, "a single man", *choice, "--max-new-tokens", "1")[0] == 0
        assert [named["ranked"] for named in given] == [True, False]

    def test_documents_of_several_kinds(
        self, remembering: Path, tiny_lm: Any, tmp_path: Path, call: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What is found without the best match's kind of memory is left out, and named."""
        store = with_kv(
            remembering, tmp_path / "s", tiny_lm, [DOCUMENT, "bom.txt"]
        )  # the second has no context vectors
        cases = [
            (("bom.txt", "crlf.txt", DOCUMENT), ["bom.txt", DOCUMENT], "crlf.txt", "kv"),
            (("crlf.txt", DOCUMENT, "bom.txt"), ["crlf.txt", DOCUMENT], "bom.txt", "context"),
            (("crlf.txt", DOCUMENT), ["crlf.txt", DOCUMENT], None, "context"),
            (("bom.txt", DOCUMENT), ["bom.txt", DOCUMENT], None, "kv"),
        ]
        args = ["generate", store, PROMPT, "--retrieve", "3", "--max-new-tokens", "1", "--json", "--no-progress"]
        for found, kept, out, kind in cases:
            monkeypatch.setattr("memvec.retrieval.search.retrieve", lambda *given, found=found, **named: found)
            code, made, err = call(*args)
            assert code == 0 and (json.loads(made)["documents"], json.loads(made)["kind"]) == (kept, kind)
            assert (f"another kind: {out}" in err) if out else ("another kind" not in err)

    def test_answer(self, remembering: Path, call: Any) -> None:
        """Vectors and text give answers; a seed repeats one."""
        args = ["generate", remembering, PROMPT, "--id", DOCUMENT, "--max-new-tokens", "8", "--no-progress"]
        code, out, err = call(*args)
        assert code == 0 and err == ""
        code, as_json, _ = call(*args, "--json")
        made = json.loads(as_json)
        assert out == made["text"] + "\n"
        assert (made["memory_positions"], made["using"], made["verified"]) == (6, "vectors", False)
        assert made["positions"] > 6 and made["documents"] == [DOCUMENT]
        code, text, _ = call(*args, "--as", "text")
        assert code == 0 and text != out
        sampled = [call(*args, "--sample", "--temperature", "2", "--seed", seed)[1] for seed in (1, 1, 2)]
        assert sampled[0] == sampled[1] != sampled[2]

    def test_decode(self, packed: Path, call: Any) -> None:
        """--as decode says that nothing is verified."""
        code, out, err = call("generate", packed, "--id", DOCUMENT, "--as", "decode", "--no-progress")
        assert code == 0 and len(out) > 100
        assert "not verified" in err and "memvec cat" in err
        code, quiet, err = call("generate", packed, "--id", DOCUMENT, "--as", "decode", "-q")
        assert (quiet, err) == (out, "")

    def test_compare(self, remembering: Path, call: Any) -> None:
        """--compare shows three answers and their costs."""
        args = ["generate", remembering, PROMPT, "--id", DOCUMENT, "--max-new-tokens", "4", "--compare"]
        code, out, _ = call(*args, "--answer", " said Elizabeth")
        assert code == 0
        head, *rows = out.splitlines()[:4]
        assert head.split() == ["in", "front", "positions", "first", "token", "nats/token"]
        assert [row.split()[0] for row in rows] == ["nothing", "vectors", "text"]
        assert all(name in out for name in ("\nnothing: ", "\nvectors: ", "\ntext: "))
        code, out, _ = call(*args)
        assert "nats/token" not in out
        code, out, _ = call(*args, "--json", "--answer", "x")
        value = json.loads(out)
        assert [arm["name"] for arm in value["arms"]] == ["none", "vectors", "text"]
        assert all(arm["nats_per_token"] > 0 and arm["seconds_to_first_token"] > 0 for arm in value["arms"])
        code, out, _ = call(*[a if a != DOCUMENT else "only-memory.txt" for a in args])
        assert code == 0 and "text: no content of 'only-memory.txt'" in out

    def test_refusals(self, remembering: Path, call: Any) -> None:
        base = ["generate", remembering, "--id", DOCUMENT]
        cases: list[tuple[int, list[object], str]] = [
            (2, base, "prompt is empty"),
            (2, ["generate", remembering, PROMPT], "--id"),
            (2, [*base, PROMPT, "--answer", "x"], "--compare"),
            (2, [*base, PROMPT, "--compare", "--as", "text"], "Leave --as out"),
            (2, [*base, PROMPT, "--as", "decode"], "no prompt"),
            (2, [*base, PROMPT, "--seed", "1"], "--sample"),
            (2, ["generate", remembering, PROMPT, "--id", "bom.txt"], "no memory"),
            (4, [*base, PROMPT, "-m", "another"], "weights"),
            (6, ["generate", remembering, PROMPT, "--id", "no-such"], "no-such"),
        ]
        for code, args, fragment in cases:
            got, _, err = call(*args)
            assert (got, fragment in err) == (code, True), (args, err)
