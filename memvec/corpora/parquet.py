"""Parquet files: a document in each row."""

from __future__ import annotations

from collections.abc import Iterator

from memvec.corpora.corpus import FileCorpus, Item, columns, item
from memvec.errors import MissingExtraError
from memvec.filesystem.sources import UnfitError

ROWS_AT_ONCE = 256


class Parquet(FileCorpus):
    """A Parquet file. A document without an id is named FILE#ROW, counted from 0 as pyarrow and pandas do."""

    def items(self) -> Iterator[Item]:
        """Yield an item for each row. MissingExtraError without pyarrow."""
        try:
            import pyarrow
            from pyarrow import parquet
        except ImportError as error:
            raise MissingExtraError(
                "reading Parquet needs pyarrow. Install it with: pip install 'memvec[corpora]'"
            ) from error
        number = 0
        try:
            with parquet.ParquetFile(self.path) as file:
                read = columns(file.schema_arrow.names, self.settings)
                for batch in file.iter_batches(ROWS_AT_ONCE, columns=read):
                    for row in batch.to_pylist():
                        yield item(f"{self.name}#{number}", row, self.settings)
                        number += 1
        except pyarrow.ArrowException as error:
            raise UnfitError(f"it cannot be read as Parquet: {str(error).splitlines()[0]}") from error
