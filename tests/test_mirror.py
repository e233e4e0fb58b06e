"""Every module of memvec has its tests in one place: the file of the same name, or one that this table names."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from tree import ROOT, imports, module_name, modules, places

import memvec

# Modules without a test file of their own, and the file that tests them, below tests/.
COVERED = {
    "checkpoints/identify.py": "memvec/checkpoints/test_files.py",
    "checkpoints/named.py": "scenarios/test_strangers.py",
    "checkpoints/resolve.py": "scenarios/test_models.py",
    "checkpoints/traits.py": "memvec/identity/test_verdict.py",
    "checkpoints/usable.py": "memvec/lm/test_load_kinds.py",
    "copyable.py": "memvec/test_errors.py",
    "corpora/archive.py": "memvec/corpora/test_choose.py",
    "corpora/compressed.py": "memvec/corpora/test_choose.py",
    "corpora/corpus.py": "memvec/corpora/test_choose.py",
    "corpora/datasets.py": "memvec/corpora/test_choose.py",
    "corpora/json_lines.py": "memvec/corpora/test_choose.py",
    "corpora/parquet.py": "memvec/corpora/test_choose.py",
    "corpora/spool.py": "memvec/corpora/test_choose.py",
    "decoding/reader.py": "memvec/decoding/test_escalation.py",
    "decoding/unpack.py": "scenarios/test_pack_unpack.py",
    "evaluation/capacity_report.py": "memvec/evaluation/test_capacity.py",
    "evaluation/controls.py": "memvec/evaluation/test_evaluate.py",
    "evaluation/costs.py": "memvec/evaluation/test_evaluate.py",
    "evaluation/forms.py": "memvec/evaluation/test_evaluate.py",
    "evaluation/samples.py": "memvec/evaluation/test_capacity.py",
    "filesystem/cache_folder.py": "memvec/checkpoints/test_gguf.py",
    "filesystem/collisions.py": "memvec/filesystem/test_document_writer.py",
    "guard.py": "memvec/identity/test_match.py",
    "identity/diff.py": "memvec/identity/test_fingerprint.py",
    "identity/probe.py": "memvec/identity/test_fingerprint.py",
    "identity/vocabularies.py": "memvec/identity/test_fingerprint.py",
    "identity/weights.py": "scenarios/test_loaded_models.py",
    "lm/adapters.py": "scenarios/test_loaded_models.py",
    "lm/numerics.py": "memvec/identity/test_match.py",
    "maintenance/compact.py": "scenarios/test_lifecycle.py",
    "maintenance/gc.py": "scenarios/test_lifecycle.py",
    "maintenance/quarantine.py": "memvec/maintenance/test_repair.py",
    "maintenance/remove.py": "scenarios/test_lifecycle.py",
    "maintenance/rewrite.py": "scenarios/test_lifecycle.py",
    "maintenance/salvage.py": "memvec/maintenance/test_repair.py",
    "memory/dispatch.py": "memvec/memory/test_attach.py",
    "memory/unverified.py": "memvec/memory/test_generate.py",
    "off_topic.py": "memvec/packing/test_context.py",
    "packing/exact.py": "memvec/packing/test_pack.py",
    "packing/memories.py": "memvec/packing/test_context.py",
    "packing/records.py": "memvec/packing/test_reuse.py",
    "progress.py": "memvec/packing/test_calibrate.py",
    "retrieval/build.py": "memvec/retrieval/test_search.py",
    "retrieval/embedders.py": "memvec/retrieval/test_search.py",
    "retrieval/lookup.py": "memvec/retrieval/test_search.py",
    "store/catalogue_build.py": "memvec/store/test_catalogue.py",
    "store/catalogue_file.py": "memvec/store/test_catalogue.py",
    "store/index_files.py": "scenarios/test_outputs.py",
    "store/listing.py": "memvec/store/test_catalogue.py",
    "store/lock.py": "scenarios/test_writers.py",
    "store/problems.py": "memvec/maintenance/test_repair.py",
    "store/store.py": "memvec/store/test_documents.py",
    "store/totals.py": "memvec/store/test_catalogue.py",
    "templates/turns.py": "memvec/templates/test_template.py",
    "training/adam.py": "memvec/training/test_fit.py",
    "training/layout.py": "memvec/training/test_static_batch.py",
    "types.py": "formats/test_shard.py",
    "version.py": "cli/test_help.py",
}
MODULES = {
    file.relative_to(ROOT / "memvec").as_posix(): file for file in modules("memvec") if file.name != "__init__.py"
}


def own(module: str) -> Path:
    """The place of a module's own test file."""
    path = Path(module)
    return ROOT / "tests" / "memvec" / path.parent / f"test_{path.name}"


def reached(test: Path) -> set[str]:
    """The modules that a test file reaches: by imports and exported names, its helpers' too, and by two more imports."""
    tree = ast.parse(test.read_text())
    helpers = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)} - {"conftest"}
    files = [test, *(ROOT / "tests" / f"{name}.py" for name in helpers if (ROOT / "tests" / f"{name}.py").exists())]
    calls = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "memvec"
    }
    found = {memvec._EXPORTS[name][0] for name in calls & set(memvec._EXPORTS)}.union(*map(imports, files))
    for _ in range(2):
        found = found.union(*(imports(places()[name]) for name in found if name != "memvec"))
    return found


@pytest.mark.parametrize("module", MODULES)
def test_a_module_has_its_tests(module: str) -> None:
    """In a file of its own, or in one that reaches it."""
    if own(module).exists():
        return
    assert module in COVERED, f"write {own(module).relative_to(ROOT)}, or add the file that tests {module} to the table"
    assert module_name(MODULES[module]) in reached(ROOT / "tests" / COVERED[module])


def test_the_table_is_up_to_date() -> None:
    """An entry is for a module that is there and has no file of its own."""
    assert {module for module in COVERED if module not in MODULES or own(module).exists()} == set()


def test_test_files_bear_the_names_of_modules() -> None:
    """`test_verify_sampling.py` tests a part of `verify.py`."""
    for test in (ROOT / "tests" / "memvec").rglob("test_*.py"):
        folder = test.parent.relative_to(ROOT / "tests" / "memvec")
        names = [Path(module).stem for module in MODULES if Path(module).parent == folder]
        assert any(test.stem.removeprefix("test_").startswith(name) for name in names), test.relative_to(ROOT)
