"""memvec in many threads of one process: from the first import on, each answer is the one that a single thread gives."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

START = """
import asyncio, sys, threading
from concurrent.futures import ThreadPoolExecutor
import memvec
STORE, TINY = sys.argv[1:]
NAMES = ["prose.txt", "crlf.txt", "only-memory.txt", "prose.txt"]

def together(*calls):
    # Results of calls that begin at the same moment, each in a thread.
    gate = threading.Barrier(len(calls))
    def run(call):
        gate.wait()
        return call()
    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))

def answer(name, **options):
    return memvec.generate(STORE, "The carriage", name, max_new_tokens=4, model=TINY, **options).text
"""

GENERATE = """
first = together(*[lambda name=name: answer(name) for name in NAMES])
second = together(*[lambda name=name: answer(name) for name in NAMES])
assert first == second == [answer(name) for name in NAMES], (first, second)
assert len(set(first)) > 1, first
"""

RETRIEVER = """
from memvec.integrations.langchain_retriever import MemvecRetriever
retriever = MemvecRetriever(store=STORE, k=2, model=TINY)
queries = ["wife", "carriage", "fortune", "line"]
found = [retriever.batch(queries) for _ in range(5)]
assert all(turn == found[0] for turn in found)
assert [retriever.invoke(query) for query in queries] == found[0]
assert asyncio.run(retriever.abatch(queries)) == found[0]
assert memvec.cat(STORE, "prose.txt", model=TINY).startswith(b"It is a truth")
"""

MIXED = """
whole = lambda: memvec.cat(STORE, "prose.txt", model=TINY)
calls = [
    whole,
    lambda: memvec.search(STORE, "wife", 2, decode=True, model=TINY),
    lambda: answer("prose.txt"),
    lambda: memvec.verify(STORE, decode=True, sample=2, model=TINY).problems,
    whole,
    lambda: answer("prose.txt", using="text"),
    lambda: memvec.fingerprint(TINY).id,
    lambda: asyncio.run(asyncio.to_thread(whole)),
]
first = together(*calls)
stop = threading.Event()
def drop():
    while not stop.wait(0.01):
        memvec.unload()
dropping = threading.Thread(target=drop)
dropping.start()
second = together(*calls)
stop.set(), dropping.join()
assert first == second == [call() for call in calls], (first, second)
assert first[0] == first[4] == first[7] and first[0].startswith(b"It is a truth")
"""


@pytest.mark.parametrize("program", [GENERATE, RETRIEVER, MIXED], ids=["generate", "retriever", "mixed"])
def test_threads_may_begin_together(program: str, remembering: Path, tiny: str) -> None:
    """Nothing is imported or loaded when the threads start, in a process of its own."""
    command = [sys.executable, "-W", "ignore", "-c", START + program, str(remembering), tiny]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
