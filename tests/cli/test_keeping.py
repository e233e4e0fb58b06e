"""rm, compact, gc, merge, repair, add, export and import, as a user calls them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from made import content, exact, memory, put, raw

from memvec.cli.main import COMMANDS
from memvec.store.lock import writing
from memvec.store.store import Store

TEXT = b"a text of some length, cut into pieces of ten bytes each"


def answer(call: Any, *args: object) -> Any:
    code, out, err = call(*args, "--json")
    assert code == 0, err
    value = json.loads(out)
    assert value.pop("schema") == "memvec.cli/1"
    return value


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A store of four documents."""
    return put(
        tmp_path / "s", exact("a\x1b.txt", TEXT), raw("b", b"\xff" * 9), memory("c", TEXT), exact("d", TEXT)
    ).path


class TestRemoving:
    """`rm`, `compact` and `gc`."""

    def test_in_turn(self, made: Path, call: Any) -> None:
        before = (made / "manifest.json").read_bytes()
        code, out, _ = call("rm", made, "a*", "b", "--dry-run")
        assert code == 0 and "would remove a\\x1b.txt" in out and (made / "manifest.json").read_bytes() == before
        code, out, _ = call("rm", made, "a*", "b")
        assert code == 0 and "removed 2 documents, 7 records" in out and "still on disk" in out
        assert call("rm", made, "a*")[0] == 6
        assert answer(call, "compact", made, "--dry-run") | {"dry_run": False} == (
            done := answer(call, "compact", made)
        )
        assert (done["records"], done["dropped_records"], done["removed"], done["shards"]) == (7, 7, 2, 1)
        code, out, _ = call("compact", made)
        assert code == 0 and "is compact already: 7 records" in out
        plan = answer(call, "gc", made, "--dry-run")
        assert plan["bytes"] == done["collectable"] and answer(call, "gc", made)["files"] == plan["files"]
        assert call("gc", made)[1] == "deleted 0 files, 0 bytes\n"
        assert call("gc", made, "-q") == (0, "", "")
        assert call("verify", made)[0] == 0

    def test_packed_again(self, store: Path, tiny: str, tree: Path, call: Any) -> None:
        """A removed document that is packed again is not fitted again."""
        before = content(store)
        assert call("rm", store, "prose.txt", "image.png")[0] == 0
        assert call("unpack", store, "-o", store.parent / "out", "--doc", "prose.txt")[0] == 6
        planned = answer(call, "add", tree, "-o", store, "--no-progress", "--dry-run")
        assert (planned["unchanged"], planned["vectors"]) == (len(before["live"]), 0)
        report = answer(call, "add", tree, "-o", store, "--no-progress")
        assert report["unchanged"] == report["documents"] == len(before["live"])
        assert content(store)["live"] == before["live"]

    def test_compacted(self, store: Path, documents: dict[str, bytes], call: Any, tmp_path: Path) -> None:
        """A compacted store unpacks and finds the same."""
        words = ["search", store, "the ladies at supper", "-k", "3"]
        found = answer(call, *words)
        assert call("rm", store, "image.png", "*.txt", "--dry-run")[0] == 0
        assert call("rm", store, "image.png", "cjk.txt")[0] == 0
        assert answer(call, "compact", store)["changed"] and call("gc", store)[0] == 0
        assert call("unpack", store, "-o", tmp_path / "out", "--no-progress")[0] == 0
        unpacked = {
            f.relative_to(tmp_path / "out").as_posix(): f.read_bytes()
            for f in (tmp_path / "out").rglob("*")
            if f.is_file()
        }
        assert unpacked == {name: data for name, data in documents.items() if name not in ("image.png", "cjk.txt")}
        again = answer(call, *words)
        assert [hit["document"] for hit in again["hits"]] == [hit["document"] for hit in found["hits"]]


class TestMoving:
    """`merge`, `export`, `import` and `add`."""

    def test_merge(self, made: Path, tmp_path: Path, call: Any) -> None:
        put(tmp_path / "t", exact("d", TEXT + TEXT))
        assert "would add 20 records" in call("merge", made, tmp_path / "t", "-o", tmp_path / "m", "--dry-run")[1]
        report = answer(call, "merge", made, tmp_path / "t", "-o", tmp_path / "m")
        assert (report["documents"], report["replaced"], report["records"]) == (4, 1, 20)
        assert "has all of it already" in call("merge", tmp_path / "t", "-o", tmp_path / "m")[1]

    def test_one_file(self, made: Path, tmp_path: Path, call: Any) -> None:
        """A store becomes one file, and a store again."""
        report = answer(call, "export", made, "-o", tmp_path / "one.safetensors")
        assert (report["to"], report["documents"], report["records"]) == ("store", 4, 14)
        code, _, err = call("export", made, "-o", tmp_path / "one.safetensors")
        assert code == 2 and "--overwrite" in err
        assert call("export", made, "-o", tmp_path / "two", "--id", "d")[0] == 2
        code, _, err = call("export", made, "--to", "npy", "-o", tmp_path / "two", "--prompt", "x")
        assert code == 2 and "Pass --id" in err
        assert answer(call, "import", tmp_path / "one.safetensors", "-o", tmp_path / "t")["records"] == 14
        assert content(tmp_path / "t") == content(made)

    def test_add(self, store: Path, tiny: str, tmp_path: Path, call: Any) -> None:
        """`add` packs only into an existing store."""
        (tmp_path / "new.txt").write_text("It is new.")
        code, _, err = call("add", tmp_path / "new.txt", "-o", tmp_path / "none")
        assert code == 6 and "no store at" in err and not (tmp_path / "none").exists()
        assert call("add", tmp_path / "new.txt", "-o", tmp_path / "none", "-m", tiny, "--dry-run")[0] == 6
        assert answer(call, "add", tmp_path / "new.txt", "-o", store, "--dry-run", "--no-progress")["documents"] == 1
        names = list(Store.open(store).documents())
        report = answer(call, "add", tmp_path / "new.txt", "-o", store, "--no-progress")  # with the model of the store
        assert report["documents"] == 1 and report["model"] == tiny
        assert list(Store.open(store).documents()) == sorted([*names, "new.txt"])


class TestRepair:
    def test_yes(self, made: Path, call: Any) -> None:
        """Repair prints a plan, and changes the store only with --yes."""
        assert call("repair", made) == (0, "nothing to repair: 4 undamaged shards\n", "")
        before = content(made)
        (made / "manifest.json").write_bytes(b"{")
        code, out, _ = call("repair", made)
        assert (
            code == 3 and "would be made again from the shards; documents that `rm` removed" in out and "--yes" in out
        )
        assert (made / "manifest.json").read_bytes() == b"{"
        assert json.loads(call("repair", made, "--json")[1])["manifest_rebuilt"]
        code, out, _ = call("repair", made, "--yes")
        assert code == 0 and "was moved to damaged/: manifest.json" in out
        assert content(made) == before and (made / "damaged" / "manifest.json").read_bytes() == b"{"


class TestWriters:
    def test_lock_wait(self, made: Path, call: Any) -> None:
        """A second writer waits as long as --lock-wait says."""
        with writing(made):
            for words in (
                ["rm", made, "b"],
                ["compact", made],
                ["gc", made],
                ["merge", made, "-o", made],
                ["repair", made, "--yes"],
            ):
                code, _, err = call(*words, "--lock-wait", "0.01")
                assert code == 7 and "--lock-wait SECONDS" in err
        for name in ("pack", "add", "rm", "compact", "gc", "merge", "repair"):
            assert "--lock-wait" in call(name, "--help")[1] and name in COMMANDS
        for words in (["index", "build"], ["index", "drop"]):
            assert "--lock-wait" in call(*words, "--help")[1]

    def test_light(self, made: Path, tmp_path: Path) -> None:
        """None of these commands loads a model library."""
        program = (
            "import sys; from memvec.cli.main import run; s, t = sys.argv[1:]\n"
            "for words in (['rm', s, 'b'], ['compact', s], ['gc', s], ['merge', s, '-o', t + '/m'], ['repair', s, '--yes'],\n"
            "              ['export', s, '-o', t + '/f'], ['import', t + '/f', '-o', t + '/i']): assert run(words) == 0\n"
            "print([m for m in ('torch', 'transformers', 'faiss', 'peft') if m in sys.modules])"
        )
        command = [sys.executable, "-c", program, str(made), str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0 and done.stdout.splitlines()[-1] == "[]", done.stderr
