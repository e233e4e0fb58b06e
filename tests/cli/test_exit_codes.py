"""The table of exit codes is the one that the error classes make."""

from __future__ import annotations

import subprocess
import sys

from memvec import errors
from memvec.cli.exit_codes import table


class TestTable:
    """The table in Markdown."""

    def test_classes(self) -> None:
        """Every class of error has a row."""
        rows = [line.strip("| ").split(" | ") for line in table().splitlines()[2:]]
        named = {row[1].strip("`"): row for row in rows if len(row) == 3}
        classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.MemvecError)]
        for cls in classes:
            if cls is not errors.MemvecError:
                code, _, meaning = named[cls.__name__]
                assert code == str(cls.exit_code) and meaning and (cls.__doc__ or "").startswith(meaning)
        codes = [int(row[0]) for row in rows]
        assert codes == sorted(codes) and set(codes) == {0, 129, 130, 141, 143, *(cls.exit_code for cls in classes)}

    def test_printed(self) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "memvec.cli.exit_codes"], capture_output=True, text=True, check=True
        )
        assert done.stdout == table() + "\n"
