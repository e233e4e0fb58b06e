"""Every error that memvec raises on purpose. Each class has an exit code, its values as attributes, and a message with a next step.

MemvecError                      1   unexpected, or none of the below
├── UsageError                   2   an argument is invalid
│   ├── UnsupportedModelError    2   memvec cannot use the model
│   ├── ConditioningError        2   vectors made to be decoded were asked to condition a model
│   └── NoContentError           2   the store has only memories of a document, not its bytes
├── StoreDamagedError            3   bytes of a store differ from what was written
├── FingerprintError             4   the vectors belong to another model or tokenizer
│   └── StoresDifferError        4   stores to be merged were packed with different models
├── ReconstructionError          5   decoded text is not the text that was packed
├── NotFoundError                6   no such store, document, record or model
│   └── FormatTooNewError        6   a newer memvec wrote the store
├── StoreLockedError             7   another process is writing to the store
│   └── StoreChangedError        7   another process removed a file that was being read
├── PartialError                 8   some inputs were skipped
├── MissingExtraError            9   an optional dependency is not installed
├── WriteError                  10   the system refused to write: no space left, a read-only folder
├── OutOfMemoryError            11   the memory of the machine or the GPU is used up
├── ReadError                   12   the system refused to read: no permission, a failing disk
└── InterruptedPackError       130   packing was stopped by Ctrl-C; finished work is in the store
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from memvec.copyable import Copyable

if TYPE_CHECKING:
    from memvec.types import PackReport, Problem, UnpackReport


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun, as a message says it: "1 record", "2,000 records". Pass a `plural` that is irregular."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


MOST_SHOWN = 100  # skipped inputs in a message


class MemvecError(Copyable, Exception):
    """Base of every error that memvec raises on purpose. `exit_code` is the exit code of the command line.

    Example:
        >>> try:
        ...     memvec.cat(store, "no-such-document.txt")
        ... except memvec.MemvecError as error:
        ...     print(error.exit_code, error)
        6 ...no-such-document.txt...
    """

    exit_code: ClassVar[int] = 1


class UsageError(MemvecError, ValueError):
    """An argument is invalid. The message lists the accepted values."""

    exit_code = 2


class UnsupportedModelError(UsageError):
    """memvec cannot use the model. It is refused before any work, with the reason."""

    def __init__(
        self,
        reason: str,
        advice: str = "memvec needs a decoder-only model with open input embeddings; see `memvec.models()`",
    ) -> None:
        super().__init__(f"{reason}. {advice}.")


class ConditioningError(UsageError):
    """A memory was asked for that a document does not have. Its exact vectors would make a model's answers worse."""

    def __init__(self, document: str, store: str, kind: str = "context") -> None:
        self.document, self.kind = document, kind
        super().__init__(
            f"{document!r} has no keys and values. Keep them in {store!r} with memvec.pack(…, kind='kv'), or load another "
            "kind of memory."
            if kind == "kv"
            else f"{document!r} has no memory, and exact vectors make the model's answers worse. Make one in {store!r} with "
            "memvec.pack(…, kind='kv'), or put the text itself into the prompt (`memvec.cat(…)`)."
            if kind == "auto"
            else f"{document!r} has no context vectors, and exact ones make the model's answers worse. Distil context "
            f"vectors into {store!r} with memvec.pack(…, kind='context'), or put the text itself into the prompt "
            "(`memvec.cat(…)`)."
        )


class NoContentError(UsageError):
    """The store has only memories of a document, not its bytes."""

    reason: ClassVar[str] = (
        "expected exact or raw records, found only a memory, which conditions a model but does not decode. "
        "Pack it with memvec.pack(…, kind='exact') or memvec.pack(…, kind='both')"
    )

    def __init__(self, *documents: str) -> None:
        self.documents = documents
        more = f" and {len(documents) - 1} more" if len(documents) > 1 else ""
        super().__init__(f"no content of {documents[0]!r}{more}: {self.reason}.")


class StoreDamagedError(MemvecError):
    """Bytes of a store differ from what was written. `problems` names each place."""

    exit_code = 3

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        shown = "; ".join(f"{p.location}: {p.message}" for p in self.problems[:3])
        more = f" (and {len(self.problems) - 3} more)" if len(self.problems) > 3 else ""
        super().__init__(
            f"store is damaged: {shown}{more}. `memvec.verify(…)` lists all problems. Restore the named files from a copy."
        )


class FingerprintError(MemvecError):
    """The vectors belong to another model or tokenizer. `differences` holds (field, expected, found).

    `verdict` says how far the two models are from each other. `tensors` names the weights that differ.
    """

    exit_code = 4

    def __init__(
        self,
        differences: Sequence[tuple[str, str, str]],
        verdict: str = "",
        tensors: Sequence[str] = (),
        hints: Sequence[str] = (),
    ) -> None:
        """`hints` are sentences about the tokenizer."""
        self.differences, self.verdict, self.tensors = tuple(differences), verdict, tuple(tensors)
        shown = "; ".join(f"{field}: store has {want}, model has {got}" for field, want, got in self.differences)
        if self.tensors:
            more = f" and {len(self.tensors) - 5} more" if len(self.tensors) > 5 else ""
            shown += f"; tensors that differ: {', '.join(self.tensors[:5])}{more}"
        shown += "".join(f"; {hint}" for hint in hints)
        judged = f" ({verdict})" if verdict else ""
        super().__init__(
            f"this model is not the one the store was packed with{judged}: {shown}. Pass the model that packed it as model=…; "
            "`memvec.diff(…)` says how far this one is from it."
        )


class StoresDifferError(FingerprintError):
    """Stores to be merged were packed with different models. `differences` is as in FingerprintError."""

    def __init__(self, first: str, second: str, differences: Sequence[tuple[str, str, str]]) -> None:
        self.first, self.second, self.differences = first, second, tuple(differences)
        shown = "; ".join(f"{field} is {want} and {got}" for field, want, got in self.differences)
        MemvecError.__init__(
            self,
            f"{first!r} and {second!r} were packed with different models: {shown}. Unpack one and pack it with the "
            "model of the other.",
        )


class ReconstructionError(MemvecError):
    """Decoded text is not the text that was packed. No bytes of the record were given out.

    `tried` lists the ways it was decoded in. `position` is the first token in doubt, if one is known.
    """

    exit_code = 5

    def __init__(
        self,
        document: str,
        record: str,
        expected: str,
        found: str,
        *,
        tried: Sequence[str] = (),
        position: int | None = None,
        evidence: str = "",
        verdict: str = "",
    ) -> None:
        """`evidence` says why `position` is in doubt, `verdict` whether the model is the one that packed it."""
        self.document, self.record, self.expected, self.found = document, record, expected, found
        self.tried, self.position, self.evidence, self.verdict = tuple(tried), position, evidence, verdict
        ways = f", tried {', then '.join(self.tried)}" if self.tried else ""
        where = f" First token in doubt: {position}; {evidence}." if position is not None else ""
        if evidence and position is None:
            where = f" No token stands out: {evidence}."
        judged = f" {verdict}." if verdict else ""
        partial = " memvec.unpack(…, on_error='partial') writes the segments that are right." if self.tried else ""
        super().__init__(
            f"record {record} of {document!r} decoded to other bytes than were packed (sha256 {expected[:12]}… expected, "
            f"{found[:12]}… found{ways}).{where}{judged} Take the document from a copy or decode it on another machine."
            f"{partial}"
        )


class NotFoundError(MemvecError, FileNotFoundError):
    """No such store, document, record or model. The message says where it was looked for."""

    exit_code = 6


class FormatTooNewError(NotFoundError):
    """A newer memvec wrote the store. `found` is the version or feature it needs, `code` the reason (SPEC §12)."""

    def __init__(self, found: str, supported: str, code: str = "unsupported-version") -> None:
        self.found, self.supported, self.code = found, supported, code
        super().__init__(f"store needs {found}, this memvec reads {supported}. Upgrade memvec to read it.")


class StoreLockedError(MemvecError):
    """Another process is writing to the store."""

    exit_code = 7


class StoreChangedError(StoreLockedError):
    """Another process removed a file that was being read. Opening the store again finds the newer generation."""

    def __init__(self, location: str, opened: int, found: int) -> None:
        self.location, self.opened, self.found = location, opened, found
        super().__init__(
            f"{location} was removed while it was read: generation {opened} was opened, the store is at {found} now. "
            "Nothing is lost. Run the same command again."
        )


class WriteError(MemvecError, OSError):
    """The system refused to write. `path` is the file or folder, `reason` the message of the system."""

    exit_code = 10

    def __init__(self, path: str, reason: str) -> None:
        self.path, self.reason = path, reason
        super().__init__(
            f"could not write {path!r}: {reason}. Everything finished before is complete. Check the space left and "
            "the permissions of the folder, and run the same command again."
        )


class ReadError(MemvecError, OSError):
    """The system refused to read. `path` is the file or folder, `reason` the message of the system.

    Raised for anything but a missing file: no permission, a failing disk, too many open files, a loop of links.
    """

    exit_code = 12

    def __init__(self, path: str, reason: str) -> None:
        self.path, self.reason = path, reason
        super().__init__(
            f"could not read {path!r}: {reason}. Check the permissions of the file and its folders and the disk, and "
            "run the same command again."
        )


class OutOfMemoryError(MemvecError, MemoryError):
    """The memory of the machine or the GPU is used up. `what` names the work, `reason` is the message of torch."""

    exit_code = 11

    def __init__(self, what: str, reason: BaseException | str = "") -> None:
        self.what, self.reason = what, (str(reason).strip().splitlines() or [""])[0][:200]
        said = f" ({self.reason})" if self.reason else ""
        super().__init__(
            f"not enough memory to {what}{said}. Use less: a smaller batch, memory or model, dtype='bfloat16', or device='auto'. "
            "memvec.unload() frees the models that stay loaded."
        )


class PartialError(MemvecError):
    """Some inputs were skipped. `report` is the result for all others, `skipped` holds (name, reason)."""

    exit_code = 8

    def __init__(
        self, skipped: Sequence[tuple[str, str]], report: PackReport | UnpackReport | None = None, rest: str = ""
    ) -> None:
        """`rest` is a sentence on the other inputs. The default says that they were packed, or that there were none."""
        self.skipped, self.report = tuple(skipped), report
        shown = "".join(f"\n  {name}: {why}" for name, why in self.skipped[:MOST_SHOWN])
        if (more := len(self.skipped) - MOST_SHOWN) > 0:
            shown += f"\n  and {more:,} more"
        rest = rest or ("Everything else was packed." if report else "Nothing else was there to pack.")
        super().__init__(f"skipped {counted(len(self.skipped), 'input')}. {rest}{shown}")


class MissingExtraError(MemvecError, ImportError):
    """An optional dependency is not installed. The message has the command that installs it."""

    exit_code = 9


class InterruptedPackError(MemvecError):
    """Packing was stopped by Ctrl-C. Finished work is in the store, `report` says how much."""

    exit_code = 130

    def __init__(self, report: PackReport, finished: int) -> None:
        self.report, self.finished = report, finished
        done = (
            f"the store has {counted(finished, 'finished record')} of this run"
            if finished
            else "nothing was finished yet"
        )
        super().__init__(f"interrupted; {done}. Run the same command again to go on.")
