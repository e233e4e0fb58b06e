"""memvec: memory vectors for frozen language models.

A frozen causal language model can be made to emit a text by a few trained vectors put in front of it. `memvec.pack`
turns documents into such vectors, `memvec.unpack` gives the documents back byte for byte, `memvec.verify` checks
that it still can. A vector is larger than the text it holds: it saves context, prefill and cache, not bytes.

    memvec.pack(["letters/"], "letters.memvec")
    memvec.unpack("letters.memvec", "out/")
    memvec.cat("letters.memvec", "1813/jane.txt")   # -> bytes

Importing this package loads neither torch nor transformers; the verbs that need a model load them when called.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from memvec.guard import loading_alone as _loading_alone
from memvec.version import __version__ as __version__

if TYPE_CHECKING:
    from memvec.checkpoints.resolve import models as models
    from memvec.decoding.unpack import cat as cat
    from memvec.decoding.unpack import read as read
    from memvec.decoding.unpack import unpack as unpack
    from memvec.decoding.verify import verify as verify
    from memvec.errors import MemvecError as MemvecError
    from memvec.evaluation.capacity import CapacitySettings as CapacitySettings
    from memvec.evaluation.capacity import capacity as capacity
    from memvec.evaluation.evaluate import evaluate as evaluate
    from memvec.evaluation.questions import Question as Question
    from memvec.filesystem.sources import Source as Source
    from memvec.identity.diff import diff as diff
    from memvec.identity.fingerprint import fingerprint as fingerprint
    from memvec.identity.match import unload as unload
    from memvec.identity.runtime import Runtime as Runtime
    from memvec.identity.runtime import open_runtime as open  # noqa: F401  # an attribute, not in __all__
    from memvec.maintenance.archive import export_store as export_store
    from memvec.maintenance.archive import import_store as import_store
    from memvec.maintenance.compact import compact as compact
    from memvec.maintenance.gc import gc as gc
    from memvec.maintenance.merge import merge as merge
    from memvec.maintenance.remove import rm as rm
    from memvec.maintenance.repair import repair as repair
    from memvec.memory.attach import attached as attached
    from memvec.memory.generate import compare as compare
    from memvec.memory.generate import generate as generate
    from memvec.memory.memory import Memory as Memory
    from memvec.memory.memory import load as load_memory
    from memvec.packing.calibrate import calibrate as calibrate
    from memvec.packing.estimate import estimate as estimate
    from memvec.packing.pack import add as add
    from memvec.packing.pack import pack as pack
    from memvec.retrieval.build import build_index as build_index
    from memvec.retrieval.search import Searcher as Searcher
    from memvec.retrieval.search import search as search
    from memvec.settings import ContextSettings as ContextSettings
    from memvec.settings import CorpusSettings as CorpusSettings
    from memvec.settings import KVSettings as KVSettings
    from memvec.settings import PackSettings as PackSettings
    from memvec.store.listing import info as info
    from memvec.store.listing import list_documents as documents
    from memvec.store.listing import list_documents as list  # noqa: F401  # an attribute, not in __all__
    from memvec.store.listing import show as show
    from memvec.store.store import Store as Store

_EXPORTS = {
    "CapacitySettings": ("memvec.evaluation.capacity", "CapacitySettings"),
    "ContextSettings": ("memvec.settings", "ContextSettings"),
    "CorpusSettings": ("memvec.settings", "CorpusSettings"),
    "KVSettings": ("memvec.settings", "KVSettings"),
    "Memory": ("memvec.memory.memory", "Memory"),
    "MemvecError": ("memvec.errors", "MemvecError"),
    "PackSettings": ("memvec.settings", "PackSettings"),
    "Runtime": ("memvec.identity.runtime", "Runtime"),
    "Question": ("memvec.evaluation.questions", "Question"),
    "Searcher": ("memvec.retrieval.search", "Searcher"),
    "Source": ("memvec.filesystem.sources", "Source"),
    "Store": ("memvec.store.store", "Store"),
    "add": ("memvec.packing.pack", "add"),
    "attached": ("memvec.memory.attach", "attached"),
    "build_index": ("memvec.retrieval.build", "build_index"),
    "calibrate": ("memvec.packing.calibrate", "calibrate"),
    "capacity": ("memvec.evaluation.capacity", "capacity"),
    "cat": ("memvec.decoding.unpack", "cat"),
    "compact": ("memvec.maintenance.compact", "compact"),
    "compare": ("memvec.memory.generate", "compare"),
    "diff": ("memvec.identity.diff", "diff"),
    "documents": ("memvec.store.listing", "list_documents"),
    "estimate": ("memvec.packing.estimate", "estimate"),
    "evaluate": ("memvec.evaluation.evaluate", "evaluate"),
    "export_store": ("memvec.maintenance.archive", "export_store"),
    "fingerprint": ("memvec.identity.fingerprint", "fingerprint"),
    "gc": ("memvec.maintenance.gc", "gc"),
    "generate": ("memvec.memory.generate", "generate"),
    "import_store": ("memvec.maintenance.archive", "import_store"),
    "info": ("memvec.store.listing", "info"),
    "list": ("memvec.store.listing", "list_documents"),
    "load_memory": ("memvec.memory.memory", "load"),
    "merge": ("memvec.maintenance.merge", "merge"),
    "models": ("memvec.checkpoints.resolve", "models"),
    "open": ("memvec.identity.runtime", "open_runtime"),
    "pack": ("memvec.packing.pack", "pack"),
    "read": ("memvec.decoding.unpack", "read"),
    "repair": ("memvec.maintenance.repair", "repair"),
    "rm": ("memvec.maintenance.remove", "rm"),
    "search": ("memvec.retrieval.search", "search"),
    "show": ("memvec.store.listing", "show"),
    "unload": ("memvec.identity.match", "unload"),
    "unpack": ("memvec.decoding.unpack", "unpack"),
    "verify": ("memvec.decoding.verify", "verify"),
}

# Without "list" and "open": `from memvec import *` must not replace Python's. `memvec.list` is `memvec.documents`.
__all__ = [  # capitals first, as in the table above
    "CapacitySettings", "ContextSettings", "CorpusSettings", "KVSettings", "Memory", "MemvecError", "PackSettings", "Question", "Runtime", "Searcher", "Source", "Store", "__version__",
    "add", "attached", "build_index", "calibrate", "capacity", "cat", "compact", "compare", "diff", "documents", "estimate", "evaluate",
    "export_store", "fingerprint", "gc", "generate", "import_store", "info", "load_memory", "merge", "models",
    "pack", "read", "repair", "rm", "search", "show", "unload", "unpack", "verify",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'memvec' has no attribute {name!r}")
    module, attribute = _EXPORTS[name]
    with _loading_alone():  # a first import of torch and transformers in several threads would meet modules half done
        value = getattr(importlib.import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> Sequence[str]:
    return sorted([*globals(), *_EXPORTS])
