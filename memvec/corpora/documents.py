"""The documents of a pack: files, and what corpora hold."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from pathlib import Path

from memvec.chunks import chunked
from memvec.corpora.corpus import Corpus, State
from memvec.errors import PartialError, UsageError
from memvec.filesystem.names import NameSet, NameTree, Patterns, check_together
from memvec.filesystem.plain_text import printable
from memvec.filesystem.sources import CHANGED, Entry, Gathered, LargeBinary, Source, UnfitError, reason_of
from memvec.types import Skipped

MOST_NAMED = 10_000  # rows that a report names; the others are counted
TICK_ROWS = 4096
SAMPLE_BLOCK, SAMPLE_BLOCKS = 1024**2, 32  # bytes of a part of the sample, and most of its parts


class Sample:
    """Parts of a stream of documents, evenly spaced over it, whose length is not known before."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self._part, self._every, self._blocks = bytearray(), 1, 0

    def add(self, data: bytes) -> None:
        """Take the bytes of the next document."""
        for piece in chunked(data, SAMPLE_BLOCK):
            self._part += piece
            if len(self._part) >= SAMPLE_BLOCK:
                if self._blocks % self._every == 0:
                    self.parts.append(bytes(self._part))
                self._part.clear()
                self._blocks += 1
                if len(self.parts) > SAMPLE_BLOCKS:
                    self.parts, self._every = self.parts[::2], 2 * self._every


class Documents(Gathered):
    """Files and given `Source`s in order of name, then the documents of each corpus in its own order.

    `list` must run before anything else. It reads the corpora once, to count their documents and to leave out the rows
    that are no documents.
    """

    def __init__(
        self,
        entries: Iterable[Entry],
        skipped: Iterable[Skipped] = (),
        patterns: Sequence[Patterns] = (),
        corpora: Sequence[Corpus] = (),
        strict: bool = False,
    ) -> None:
        """With `strict`, `list` raises a PartialError for a row that is no document."""
        super().__init__(entries, skipped, patterns)
        self.corpora, self.strict = corpora, strict
        self.sample = Sample()  # of the corpora
        self.corpus_bytes = 0  # of the documents of the corpora
        self._rows = 0  # that are documents
        self._without: list[set[int]] = []  # for each corpus, the places of documents that are left out
        self._states: list[State | None] = []
        self._named: set[int] = set()  # corpora that cannot be read to their end, of which `skipped` says why
        self._unnamed = 0  # rows that are left out and not named

    @property
    def count(self) -> int:
        """How many documents there are."""
        return len(self.entries) + self._rows

    def list(
        self,
        stored: Callable[[], Iterable[str]] = tuple,
        asked: Iterable[str] = (),
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        """Read the corpora once and compare all names with those that are `stored`. `tick` is called now and then.

        Raises:
            UsageError: A file has a name that is a folder of another one, or a name that is `asked` for is not there.
            PartialError: A row is no document, and `strict` is set.
        """
        own = NameSet(self.names)
        places = NameTree()
        for name in stored():
            places.add(name)
        for name in self.names:
            places.add(name)
        check_together(self.names, places, stored)
        for corpus in self.corpora:
            self._list(corpus, places, own, tick)
        self.bytes += self.corpus_bytes
        if self._unnamed:
            self.skipped.append(Skipped("and more", f"{self._unnamed:,} other rows are no documents"))
        if missing := next((name for name in asked if name not in own), None):
            raise UsageError(f"a question is about {missing!r}, which is not among the documents. Check its name.")

    def _list(self, corpus: Corpus, places: NameTree, own: NameSet, tick: Callable[[], None]) -> None:
        left_out: set[int] = set()
        self._without.append(left_out)
        self._states.append(None)
        try:
            self._states[-1] = corpus.state()
            for number, (place, found) in enumerate(corpus.items()):
                if number % TICK_ROWS == 0:
                    tick()
                if isinstance(found, str):
                    self._leave_out(place, found)
                elif not self._chosen(found.name):
                    left_out.add(number)
                elif why := _conflict(found.name, places, own):
                    left_out.add(number)
                    self._leave_out(place, why)
                else:
                    own.add(found.name)
                    places.add(found.name)
                    self._rows, self.corpus_bytes = self._rows + 1, self.corpus_bytes + found.size
                    self.sample.add(found.data)
        except (OSError, UnfitError) as error:
            self._named.add(len(self._states) - 1)
            self._leave_out(corpus.name, reason_of(error, Path(corpus.name)))

    def _chosen(self, name: str) -> bool:
        """Do `include` and `exclude` leave a document in? Both are asked, to know which patterns match."""
        if not self.patterns:
            return True
        include, exclude = self.patterns
        included = not include or include.take(name)
        return not exclude.take(name) and included

    def _leave_out(self, place: str, why: str) -> None:
        item = Skipped(printable(place), printable(why))
        if self.strict:
            raise PartialError([item], rest="Nothing was packed, because input must be right as a whole.")
        if len(self.skipped) < MOST_NAMED:
            self.skipped.append(item)
        else:
            self._unnamed += 1

    def read(self, without: Container[str] = (), only: Container[str] | None = None) -> Iterator[Source | LargeBinary]:
        """Read the files in order of name and then the corpora, except documents in `without` and those not in `only`.

        A document that cannot be read is added to `skipped`.
        """
        yield from super().read(without, only)
        for place, corpus in enumerate(self.corpora):
            why = None
            try:
                for number, (_, found) in enumerate(corpus.items()):
                    if isinstance(found, str) or number in self._without[place]:
                        continue
                    self.reached, self.reached_bytes = self.reached + 1, self.reached_bytes + found.size
                    if self._wanted(found.name, without, only):
                        yield found
            except (OSError, UnfitError) as error:
                why = reason_of(error, Path(corpus.name))
            if _state(corpus) != self._states[place]:
                why = CHANGED
            if why is not None and place not in self._named:
                self._named.add(place)
                self.skipped.append(Skipped(printable(corpus.name), printable(why)))


def _conflict(name: str, places: NameTree, own: NameSet) -> str | None:
    """Why a row cannot be a document of that name, or None."""
    if name in own:
        return f"another document of this pack is named {name!r}"
    if conflict := places.conflict(name):
        return f"{conflict!r} would be a document and a folder"
    return None


def _state(corpus: Corpus) -> State | None:
    """The state of a corpus, or None if it is gone."""
    try:
        return corpus.state()
    except OSError:
        return None
