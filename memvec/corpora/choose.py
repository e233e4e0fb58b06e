"""Find the documents of a pack: files, folders, corpora and `Source`s."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from memvec.corpora.archive import Tar
from memvec.corpora.corpus import Corpus, FileCorpus
from memvec.corpora.datasets import SCHEME, Dataset, is_dataset
from memvec.corpora.documents import Documents
from memvec.corpora.json_lines import JsonLines
from memvec.corpora.parquet import Parquet
from memvec.corpora.spool import Spool
from memvec.errors import PartialError, UsageError
from memvec.filesystem.names import Patterns
from memvec.filesystem.sources import Entry, Source, check_given, gather
from memvec.settings import CorpusSettings

Sources = str | Path | Source | Iterable[str | Path | Source]
READERS: dict[str, type[FileCorpus]] = {
    r".*\.(jsonl|ndjson)(\.gz|\.zst)?": JsonLines,
    r".*\.parquet": Parquet,
    r".*\.(tar(\.gz|\.zst)?|tgz)": Tar,
}


def corpus_at(given: str | Path, settings: CorpusSettings) -> Corpus | None:
    """The corpus that a path or an address hf://… names, or None. UsageError, NotFoundError, MissingExtraError, OSError."""
    if str(given).startswith(SCHEME):
        return Dataset(str(given), settings)
    path = Path(given)
    if os.path.isdir(path):  # without the errors of `Path.is_dir`: `gather` says what is wrong with a path
        return Dataset(str(path), settings) if is_dataset(path) else None
    readers = [reader for names, reader in READERS.items() if re.fullmatch(names, path.name, re.IGNORECASE | re.DOTALL)]
    return readers[0](path, settings) if readers and os.path.isfile(path) else None


def gathered(
    sources: Sources,
    include: str | Sequence[str],
    exclude: str | Sequence[str],
    store: Path,
    corpus: CorpusSettings,
) -> Documents:
    """Find the documents of a pack: files and folders as `gather` finds them, corpora, and `Source`s.

    UsageError, NotFoundError; PartialError if every input was skipped.
    """
    paths: list[str | Path] = []
    corpora: list[Corpus] = []
    given = _given([sources] if isinstance(sources, str | Path | Source) else sources, paths)
    if isinstance(sources, Iterator):
        corpora.append(Spool(given))
        given = iter(())
    entries = [Entry(source.name, len(source.data), source) for source in given]
    files: list[str | Path] = []
    for path in paths:
        if (found := corpus_at(path, corpus)) is not None:
            corpora.append(found)
        else:
            files.append(path)
    patterns = Patterns(include, "include"), Patterns(exclude, "exclude")
    listed = gather(files, *patterns, store)
    entries += listed.entries
    twice = [name for name, count in Counter(entry.name for entry in entries).items() if count > 1]
    if twice:
        raise UsageError(f"two inputs are named {min(twice)!r}. Give each document its own name.")
    if not entries and not corpora and listed.skipped:
        raise PartialError(listed.skipped)
    if not entries and not corpora:
        idle = f" No file matches {', '.join(map(repr, listed.unmatched))}." if listed.unmatched else ""
        raise UsageError(f"there is nothing to pack.{idle} Check the sources, include=… and exclude=….")
    return Documents(entries, listed.skipped, patterns, corpora, corpus.strict)


def _given(sources: Iterable[str | Path | Source], paths: list[str | Path]) -> Iterator[Source]:
    """Yield the `Source`s of a list, and add the paths of it to `paths`."""
    for source in sources:
        if isinstance(source, Source):
            check_given(source)
            yield source
        else:
            paths.append(source)
