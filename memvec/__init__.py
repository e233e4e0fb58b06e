"""memvec: memory vectors for frozen language models.

A frozen causal language model can be made to emit a text by a few trained vectors put in front of it. `memvec.pack`
turns documents into such vectors, `memvec.unpack` gives the documents back byte for byte, `memvec.verify` says whether
they still can be. A vector is larger than the text it holds: what is saved is context, prefill and cache, not bytes.

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

__version__ = "0.1.0"

if TYPE_CHECKING:
    from memvec.attach import attached as attached
    from memvec.calibration import calibrate as calibrate
    from memvec.collecting import gc as gc
    from memvec.compacting import compact as compact
    from memvec.diffing import diff as diff
    from memvec.errors import MemvecError as MemvecError
    from memvec.estimating import estimate as estimate
    from memvec.evaluation import evaluate as evaluate
    from memvec.filling import CapacitySettings as CapacitySettings
    from memvec.filling import capacity as capacity
    from memvec.generation import compare as compare
    from memvec.generation import generate as generate
    from memvec.identity import fingerprint as fingerprint
    from memvec.indexing import build_index as build_index
    from memvec.inspection import info as info
    from memvec.inspection import list_documents as documents
    from memvec.inspection import list_documents as list  # noqa: F401  # an attribute, not in __all__
    from memvec.inspection import show as show
    from memvec.loading import unload as unload
    from memvec.memory import Memory as Memory
    from memvec.memory import load as load_memory
    from memvec.merging import merge as merge
    from memvec.model_cache import models as models
    from memvec.packing import add as add
    from memvec.packing import pack as pack
    from memvec.questions import Question as Question
    from memvec.removing import rm as rm
    from memvec.repairing import repair as repair
    from memvec.searching import Searcher as Searcher
    from memvec.searching import search as search
    from memvec.settings import ContextSettings as ContextSettings
    from memvec.settings import PackSettings as PackSettings
    from memvec.single_file import export_store as export_store
    from memvec.single_file import import_store as import_store
    from memvec.sources import Source as Source
    from memvec.store import Store as Store
    from memvec.unpacking import cat as cat
    from memvec.unpacking import read as read
    from memvec.unpacking import unpack as unpack
    from memvec.verification import verify as verify

_EXPORTS = {
    "CapacitySettings": ("memvec.filling", "CapacitySettings"),
    "ContextSettings": ("memvec.settings", "ContextSettings"),
    "Memory": ("memvec.memory", "Memory"),
    "MemvecError": ("memvec.errors", "MemvecError"),
    "PackSettings": ("memvec.settings", "PackSettings"),
    "Question": ("memvec.questions", "Question"),
    "Searcher": ("memvec.searching", "Searcher"),
    "Source": ("memvec.sources", "Source"),
    "Store": ("memvec.store", "Store"),
    "add": ("memvec.packing", "add"),
    "attached": ("memvec.attach", "attached"),
    "build_index": ("memvec.indexing", "build_index"),
    "calibrate": ("memvec.calibration", "calibrate"),
    "capacity": ("memvec.filling", "capacity"),
    "cat": ("memvec.unpacking", "cat"),
    "compact": ("memvec.compacting", "compact"),
    "compare": ("memvec.generation", "compare"),
    "diff": ("memvec.diffing", "diff"),
    "documents": ("memvec.inspection", "list_documents"),
    "estimate": ("memvec.estimating", "estimate"),
    "evaluate": ("memvec.evaluation", "evaluate"),
    "export_store": ("memvec.single_file", "export_store"),
    "fingerprint": ("memvec.identity", "fingerprint"),
    "gc": ("memvec.collecting", "gc"),
    "generate": ("memvec.generation", "generate"),
    "import_store": ("memvec.single_file", "import_store"),
    "info": ("memvec.inspection", "info"),
    "list": ("memvec.inspection", "list_documents"),
    "load_memory": ("memvec.memory", "load"),
    "merge": ("memvec.merging", "merge"),
    "models": ("memvec.model_cache", "models"),
    "pack": ("memvec.packing", "pack"),
    "read": ("memvec.unpacking", "read"),
    "repair": ("memvec.repairing", "repair"),
    "rm": ("memvec.removing", "rm"),
    "search": ("memvec.searching", "search"),
    "show": ("memvec.inspection", "show"),
    "unload": ("memvec.loading", "unload"),
    "unpack": ("memvec.unpacking", "unpack"),
    "verify": ("memvec.verification", "verify"),
}

# Without "list": `from memvec import *` must not replace Python's. `memvec.list` is the same as `memvec.documents`.
__all__ = [  # capitals first, as in the table above
    "CapacitySettings", "ContextSettings", "Memory", "MemvecError", "PackSettings", "Question", "Searcher", "Source", "Store", "__version__",
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
