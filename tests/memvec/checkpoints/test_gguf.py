"""Checkpoints in the cache: compared with what was made, made again where they differ, and kept elsewhere where they must."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import memvec
from memvec.checkpoints import cache as identity_cache
from memvec.checkpoints.resolve import KNOWN, resolve
from memvec.errors import NotFoundError, OutOfMemoryError, WriteError
from memvec.filesystem import cache_folder
from memvec.formats import files


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a folder for temporary files of its own."""
    monkeypatch.setenv("MEMVEC_CACHE", str(tmp_path / "cache"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(cache_folder, "_base", lambda: tmp_path / "temporary")
    monkeypatch.setattr(identity_cache, "RECENT_NS", 0)
    monkeypatch.setattr(identity_cache, "_unwritten", {})
    return tmp_path / "cache"


@pytest.fixture
def made(tiny: str, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders that conversions wrote, each of which gives the tiny LM."""
    folders: list[Path] = []

    def convert(file: Path, folder: Path) -> None:
        folders.append(folder)
        for part in Path(tiny).iterdir():
            shutil.copyfile(part, folder / part.name)

    monkeypatch.setattr("memvec.checkpoints.gguf.convert_gguf", convert)
    return folders


@pytest.fixture
def gguf(tmp_path: Path) -> str:
    (tmp_path / "own.gguf").write_bytes(b"weights")
    return str(tmp_path / "own.gguf")


@pytest.fixture
def known(cache: Path, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file of a known model, which is the tiny LM."""
    package = tmp_path / "site" / "tinypackage"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "model.gguf").write_bytes(b"weights")
    monkeypatch.syspath_prepend(str(package.parent))
    entry = dataclasses.replace(
        KNOWN["smollm2-135m"], package="tinypackage", file="model.gguf",
        sha256=hashlib.sha256(b"weights").hexdigest(), fingerprint=memvec.fingerprint(tiny).id,
    )  # fmt: skip
    monkeypatch.setitem(KNOWN, "smollm2-135m", entry)
    yield package / "model.gguf"


def flip(file: Path) -> None:
    """Change one byte, and set the date back to what it was."""
    before = file.stat()
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    with file.open("r+b") as handle:
        handle.write(data)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def empty(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "weights": (lambda f: flip(f / "model.safetensors"), r"its model\.safetensors was changed"),
    "tokenizer": (lambda f: flip(f / "tokenizer.json"), r"its tokenizer\.json was changed"),
    "cut": (lambda f: os.truncate(f / "model.safetensors", 1000), r"its model\.safetensors was changed"),
    "missing": (lambda f: (f / "tokenizer.json").unlink(), r"its tokenizer\.json is missing"),
    "added": (lambda f: (f / "stray.safetensors").write_bytes(b"x"), r"its stray\.safetensors was added"),
    "empty": (empty, "no readable converted.json"),
    "list": (lambda f: flip(f / "converted.json"), "no readable converted.json"),
    "list is junk": (lambda f: (f / "converted.json").write_text("[]"), "no readable converted.json"),
    "file": (lambda f: (shutil.rmtree(f), f.write_text("a file")), "it is no folder"),
}


class TestDamage:
    @pytest.mark.parametrize("damage", DAMAGES)
    def test_it_is_noticed_and_made_again(
        self, damage: str, cache: Path, made: list[Path], gguf: str, tiny: str
    ) -> None:
        told: list[str] = []
        folder = resolve(gguf, told.append)
        assert resolve(gguf, told.append) == folder and len(made) == len(told) == 1
        hurt, said = DAMAGES[damage]
        hurt(folder)
        assert resolve(gguf, told.append) == folder
        assert len(made) == len(told) == 2
        assert re.search(f"the checkpoint in .* is not used: .*{said}.*; converting own.gguf", told[-1]), told
        assert memvec.fingerprint(gguf) == memvec.fingerprint(tiny)
        assert resolve(gguf, told.append) == folder and len(told) == 2
        assert [path.name for path in (cache / "models").iterdir() if path.name.startswith(".")] == []

    def test_what_a_file_manager_adds_does_no_harm(self, cache: Path, made: list[Path], gguf: str) -> None:
        (resolve(gguf) / ".DS_Store").write_bytes(b"x")
        resolve(gguf)
        assert len(made) == 1

    def test_files_are_read_once(self, cache: Path, made: list[Path], gguf: str, monkeypatch: Any) -> None:
        folder = resolve(gguf)
        resolve(gguf)
        monkeypatch.setattr(files, "sha256_of", lambda file: pytest.fail(f"{file} is read again"))
        assert resolve(gguf) == folder

    def test_a_changed_gguf_is_another_model(self, cache: Path, made: list[Path], gguf: str) -> None:
        first = resolve(gguf)
        Path(gguf).write_bytes(b"WEIGHTS")
        assert resolve(gguf) != first

    def test_the_known_model_says_what_may_be_deleted(self, known: Path, made: list[Path]) -> None:
        folder = resolve("smollm2-135m")
        known.unlink()
        assert resolve("smollm2-135m") == folder  # whole: its source is not needed
        assert memvec.models()[0].cached
        empty(folder)
        with pytest.raises(NotFoundError, match=f"pip install .*{folder}.* is not used: .*Delete that folder"):
            resolve("smollm2-135m")
        assert not memvec.models()[0].cached

    def test_a_conversion_that_gives_another_model_is_said(
        self, known: Path, made: list[Path], monkeypatch: Any
    ) -> None:
        told: list[str] = []
        resolve("smollm2-135m", told.append)
        assert len(told) == 1
        shutil.rmtree(made[0].parent)
        other = dataclasses.replace(KNOWN["smollm2-135m"], fingerprint="0123456789abcdef")
        monkeypatch.setitem(KNOWN, "smollm2-135m", other)
        resolve("smollm2-135m", told.append)
        assert "expected 0123456789abcdef: stores packed with it may be refused" in told[-1]

    @pytest.mark.parametrize("whole", [True, False])
    def test_one_of_an_older_memvec_is_taken_by_its_fingerprint(
        self, whole: bool, known: Path, made: list[Path]
    ) -> None:
        folder = resolve("smollm2-135m")
        (folder / "converted.json").unlink()
        if not whole:
            flip(folder / "model.safetensors")
        resolve("smollm2-135m")
        assert len(made) == (1 if whole else 2) and (folder / "converted.json").is_file()

    def test_the_pinned_fingerprint_is_the_default_models(self) -> None:
        """Computed once from the package's file; `pytest -m model` converts it."""
        assert KNOWN["smollm2-135m"].fingerprint == "b774fc7952d6f201"


class TestConversion:
    def test_modes_follow_the_umask(self, cache: Path, gguf: str, tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
        def convert(gguf: Path, folder: Path) -> None:
            for file in Path(tiny).iterdir():
                shutil.copyfile(file, folder / file.name)
                (folder / file.name).chmod(0o600)  # as some writers do

        monkeypatch.setattr("memvec.checkpoints.gguf.convert_gguf", convert)
        before = os.umask(0o027)
        try:
            folder = resolve(gguf)
        finally:
            os.umask(before)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o750
        assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o640}

    def test_a_killed_one_leaves_nothing_for_good(self, cache: Path, made: list[Path], gguf: str) -> None:
        program = (
            "import os, sys, memvec.checkpoints.gguf, memvec.checkpoints.resolve as c\n"
            "def convert(file, folder):\n"
            "    (folder / 'config.json').write_text('{}'); os._exit(9)\n"
            "memvec.checkpoints.gguf.convert_gguf = convert\n"
            "c.resolve(sys.argv[1])\n"
        )
        done = subprocess.run([sys.executable, "-c", program, gguf], check=False)
        assert done.returncode == 9 and list((cache / "models").glob(".converting-*"))
        old = cache / "models" / ".converting-ab12cd34"  # as older versions named it
        old.mkdir()
        os.utime(old, (0, 0))
        resolve(gguf)
        assert list((cache / "models").glob(".converting-*")) == []

    def test_one_that_is_running_is_left_alone(self, cache: Path, made: list[Path], gguf: str) -> None:
        from filelock import FileLock

        other = cache / "models" / ".converting-other-0123456789ab-00000000"
        other.mkdir(parents=True)
        os.utime(other, (0, 0))
        lock = cache / "models" / "other-0123456789ab.lock"
        with FileLock(lock):
            resolve(gguf)
            assert other.is_dir()
        Path(gguf).write_bytes(b"WEIGHTS")
        resolve(gguf)
        assert not other.exists()

    def test_a_full_disk_is_said(self, cache: Path, gguf: str, monkeypatch: pytest.MonkeyPatch) -> None:
        def convert(file: Path, folder: Path) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("memvec.checkpoints.gguf.convert_gguf", convert)
        with pytest.raises(WriteError, match=r"could not write .*models': No space left") as caught:
            resolve(gguf)
        assert caught.value.exit_code == 10
        assert [path.suffix for path in (cache / "models").iterdir()] == [".lock"]

    def test_too_little_memory_is_said(self, cache: Path, gguf: str, monkeypatch: pytest.MonkeyPatch) -> None:
        def convert(file: Path, folder: Path) -> None:
            raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes.")

        monkeypatch.setattr("memvec.checkpoints.gguf.convert_gguf", convert)
        with pytest.raises(OutOfMemoryError):
            resolve(gguf)


class TestPlaces:
    @pytest.mark.parametrize("what", ["file", "below a file", "nowhere"])
    def test_a_cache_that_cannot_be_written_is_done_without(
        self, what: str, tmp_path: Path, cache: Path, made: list[Path], gguf: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cache.write_text("a file")
        chosen = {"file": cache, "below a file": cache / "deep" / "er", "nowhere": Path("/proc/none")}[what]
        monkeypatch.setenv("MEMVEC_CACHE", str(chosen))
        told: list[str] = []
        folder = resolve(gguf, told.append)
        assert folder.is_relative_to(tmp_path / "temporary" / f"memvec-{os.getuid()}")
        assert len(told) == 2 and "cannot be written" in told[0] and "MEMVEC_CACHE" in told[0]
        assert resolve(gguf, told.append) == folder and len(made) == 1 and len(told) == 2
        memvec.fingerprint(gguf)

    def test_no_place_at_all_says_what_to_do(
        self, cache: Path, made: list[Path], gguf: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cache.write_text("a file")
        monkeypatch.setattr(cache_folder, "_base", lambda: cache)
        with pytest.raises(WriteError, match="Set MEMVEC_CACHE to a folder that can be"):
            resolve(gguf)

    def test_one_that_others_may_write_to_is_not_trusted(self, tmp_path: Path, cache: Path) -> None:
        """Anybody can make a folder of that name among temporary files."""
        shared = tmp_path / "temporary" / f"memvec-{os.getuid()}"
        assert cache_folder.temporary_root() == shared
        assert stat.S_IMODE(shared.stat().st_mode) == 0o700
        shared.chmod(0o777)
        own = cache_folder.temporary_root()
        assert own != shared and own.parent == shared.parent and own == cache_folder.temporary_root()
        shared.rmdir()
        shared.symlink_to(tmp_path)
        assert cache_folder.temporary_root() == own

    def test_the_environment_chooses(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("MEMVEC_CACHE", "relative")
        assert cache_folder.cache_root() == tmp_path / "relative"
        usual = tmp_path / "home" / ".cache" / "memvec"
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        for unset in ("", None):
            monkeypatch.setenv("MEMVEC_CACHE", unset) if unset is not None else monkeypatch.delenv("MEMVEC_CACHE")
            if sys.platform.startswith("linux"):
                assert cache_folder.cache_root() == usual

    @pytest.mark.skipif(
        not hasattr(os, "geteuid") or os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs root and setpriv"
    )
    def test_a_user_without_a_home_or_a_name_can_read_a_store(self, packed: Path, tiny: str, tmp_path: Path) -> None:
        """As under `docker run -u 12345`."""
        where = Path(tempfile.mkdtemp())  # pytest's own folders are closed to others
        try:
            where.chmod(0o777)
            store, model = where / "s.memvec", where / "model"
            shutil.copytree(packed, store)
            shutil.copytree(tiny, model)
            program = (
                "import sys, memvec; data = memvec.cat(sys.argv[1], 'prose.txt', model=sys.argv[2])\n"
                "print(data[:12]); print(memvec.search(sys.argv[1], 'wife', 1, model=sys.argv[2])[0].document)\n"
                "print(len(memvec.models()))"
            )
            command = ["setpriv", "--reuid=12345", "--clear-groups", sys.executable, "-c", program]
            hidden = ("HOME", "MEMVEC_CACHE", "XDG_CACHE_HOME")
            environment = {name: value for name, value in os.environ.items() if name not in hidden}
            done = subprocess.run(
                [*command, str(store), str(model)], capture_output=True, text=True, cwd=where, check=False,
                env={**environment, "TMPDIR": str(where)},
            )  # fmt: skip
            if done.returncode and "memvec" not in done.stderr:
                pytest.skip("Python itself is closed to other users here")
            assert done.returncode == 0, done.stderr
            assert done.stdout.split()[-2:] == ["prose.txt", "1"]
            assert not (where / "~").exists()
        finally:
            shutil.rmtree(where)


class TestIdentities:
    def test_they_are_kept_where_they_can_be(self, cache: Path, tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """A model of gigabytes must not be read for every query because the cache is read-only."""
        cache.write_text("a file")
        first = memvec.fingerprint(tiny)
        monkeypatch.setattr("memvec.checkpoints.identify._read", lambda folder: pytest.fail("read again"))
        assert memvec.fingerprint(tiny) == first

    def test_without_any_place_the_process_remembers(
        self, cache: Path, tiny: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cache.write_text("a file")
        monkeypatch.setattr(cache_folder, "_base", lambda: cache)
        first = memvec.fingerprint(tiny)
        monkeypatch.setattr("memvec.checkpoints.identify._read", lambda folder: pytest.fail("read again"))
        assert memvec.fingerprint(tiny) == first
        monkeypatch.setattr(identity_cache, "_unwritten", {})
        with pytest.raises(pytest.fail.Exception):
            memvec.fingerprint(tiny)

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
    def test_a_pipe_in_an_entrys_place_does_not_block(self, cache: Path, tiny: str) -> None:
        first = memvec.fingerprint(tiny)
        (entry,) = (cache / "fingerprints").iterdir()
        entry.unlink()
        os.mkfifo(entry)
        assert memvec.fingerprint(tiny) == first


class TestReadable:
    def test_a_mistake_of_memvec_is_not_a_missing_model(
        self, cache: Path, tiny: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("memvec.checkpoints.identify.TABLE_DIGITS", "sixteen")
        with pytest.raises(TypeError):
            memvec.fingerprint(tiny)

    def test_the_cause_is_kept(self, cache: Path, tiny: str, tmp_path: Path) -> None:
        model = shutil.copytree(tiny, tmp_path / "model")
        (model / "config.json").write_text("[]")
        with pytest.raises(NotFoundError, match="cannot be read as a model") as caught:
            memvec.fingerprint(str(model))
        assert caught.value.__cause__ is not None
