"""JSON lines: a document in each line, which is an object."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator

from memvec.corpora.compressed import opened
from memvec.corpora.corpus import MOST_BYTES, FileCorpus, Item, item


class JsonLines(FileCorpus):
    """A file of JSON lines. A document without an id is named FILE#LINE, counted from 1. Blank lines are passed over."""

    def items(self) -> Iterator[Item]:
        """Yield an item for each line."""
        with opened(self.path) as stream:
            number = 0
            while line := stream.readline(MOST_BYTES + 1):
                number += 1
                place = f"{self.name}#{number}"
                if len(line) > MOST_BYTES:
                    while line and not line.endswith(b"\n"):
                        line = stream.readline(MOST_BYTES)
                    yield place, f"the line is longer than {MOST_BYTES:,} bytes"
                    continue
                if number == 1:
                    line = line.removeprefix(codecs.BOM_UTF8)
                if not line.isspace():
                    try:
                        row = json.loads(line.decode())
                    except (ValueError, RecursionError) as error:
                        yield place, f"the line is no JSON: {error}"
                        continue
                    yield item(place, row, self.settings)
