"""What FAISS says goes into the error of a factory that it does not know."""

from __future__ import annotations

import numpy as np
import pytest

from memvec.errors import UsageError
from memvec.retrieval.faiss_index import VectorIndex, _first

faiss = pytest.importorskip("faiss")


@pytest.mark.parametrize(
    ("factory", "reason"),
    [
        ("Flut", "could not parse index string Flut"),
        ("IVF256,Bla", "could not parse code description Bla in IVF256,Bla"),
        ("IVF256,Flat", "Number of training points (5) should be at least as large as number of clusters (256)"),
    ],
)
def test_the_reason_is_what_faiss_says_first(factory: str, reason: str) -> None:
    """Without the place in its sources, which took all the room of the message."""
    values = np.random.default_rng(0).standard_normal((5, 16)).astype(np.float32)
    with pytest.raises(UsageError) as caught:
        VectorIndex.build(values, factory)
    assert f"({reason})" in str(caught.value) and factory in str(caught.value)
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_only_the_first_line_is_shown() -> None:
    assert _first(RuntimeError("no such index\nat line 3\nin file x")) == "no such index"
    assert _first(RuntimeError("")) == "RuntimeError" and len(_first(RuntimeError("x" * 500))) == 120
