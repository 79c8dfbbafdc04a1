# Every target makes what it needs: `make quickstart` and `make test` work in a fresh clone.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
DATA ?= ../shared/data
OUT ?= runs/quickstart
# processes that share out the tests, by file; each takes up to 2 GB
JOBS ?= $(shell n=$$(nproc 2>/dev/null || echo 2); echo $$((n > 4 ? 4 : n)))

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test test-slow test-gpu check format bench bench-peers benchmarks-lm extreme clip-blip grokfast \
  analysis gates stages deltas adaptive-vqvae codec-table scaling wheel clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## Make .venv with everything for use, tests and benchmarks

# uv resolves and installs in a fraction of pip's time; pip only brings uv
$(READY): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv 2>/dev/null || $(BIN)/python -m pip install uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[dev]'
	@touch $(READY)

quickstart: $(READY) ## Train a small language model and compress it, start to end, in a few minutes
	$(BIN)/fulgurite fit --config configs/recipes/quickstart_fit.yaml --output_dir $(OUT)-fit
	$(BIN)/fulgurite compress --config configs/recipes/quickstart.yaml --model.source $(OUT)-fit/network \
	  --output_dir $(OUT) --restart; status=$$?; test $$status -eq 0 -o $$status -eq 3
	$(BIN)/python scripts/show_sample.py $(OUT)

test: $(READY) ## Run the tests, without the slow ones
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

test-slow: $(READY) ## Run the tests that take minutes
	$(BIN)/python -m pytest -m slow

test-gpu: $(READY) ## Run the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu

check: $(READY) ## Lint, formatting, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY) ## Format the code and mend what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY) ## Measure speed and memory, and write docs/benchmarks.md
	$(BIN)/python scripts/benchmark.py --data $(DATA) --output docs/benchmarks.md

bench-peers: $(READY) ## Compare with other compressors (hours at first), and write docs/peers.md
	$(BIN)/python scripts/benchmark_peers.py --data $(DATA) --output docs/peers.md

benchmarks-lm: $(READY) ## Score stories260K by all benchmarks, beside the harness's own command, and write docs/benchmarks-lm.md
	$(BIN)/python scripts/benchmark_language.py --data $(DATA) --output docs/benchmarks-lm.md

extreme: $(READY) ## Shrink networks as far as they go (an hour), and write docs/extreme-compression.md
	$(BIN)/python scripts/extreme_compression.py --data $(DATA)

clip-blip: $(READY) ## Fit and compress the CLIPs and the BLIP of the recipes (two hours), and write docs/clip-blip.md
	mkdir -p runs/clip_blip
	test -f runs/clip_blip/full_size.md || $(BIN)/python scripts/full_size_check.py > runs/clip_blip/full_size.md
	test -f runs/clip_blip/images.md || $(BIN)/python scripts/benchmark_images.py --data $(DATA)/images/coco_ccby \
	  --output runs/clip_blip/images.md
	$(BIN)/python scripts/clip_blip.py --data $(DATA)

grokfast: $(READY) ## Measure what gradient filters do (two hours), and write docs/grokfast.md
	$(BIN)/python scripts/grokfast_study.py --data $(DATA) --seeds 3 --steps 100

analysis: $(READY) ## Analyse a small network layer by layer and stage by stage, and write docs/analysis.md
	$(BIN)/python scripts/analysis_page.py --data $(DATA)

stages: $(READY) ## Compare pruning, low rank and quantisers at equal bytes (an hour), and write docs/stages.md
	test -d runs/clip_blip/fit_clip_emoji/network || $(BIN)/python scripts/clip_blip.py --data $(DATA) --only clip_emoji
	$(BIN)/python scripts/stages_page.py --data $(DATA)

gradients: $(READY) ## Train with compressed gradients in several processes (an hour), and write docs/gradient-compression.md
	$(BIN)/python scripts/gradient_page.py --data $(DATA)

deltas: $(READY) ## Fine-tune a small network and store the difference, and write docs/deltas.md
	$(BIN)/python scripts/delta_page.py --data $(DATA)

adaptive-vqvae: $(READY) ## Fit VQ-VAEs with ratios by every strategy (an hour), and write docs/adaptive-vqvae.md
	$(BIN)/python scripts/vqvae_tables.py --data $(DATA)
	$(BIN)/python scripts/vqvae_study.py

gates: $(READY) ## Simulate how often gates err (a quarter of an hour), run three recipes, and write docs/gates.md
	$(BIN)/python scripts/gate_simulation.py --data $(DATA) --output runs/gates/simulation
	$(BIN)/python scripts/gates_page.py --data $(DATA)

codec-table: $(READY) ## Measure every codec's rate and distortion, and write docs/codecs.md
	$(BIN)/python scripts/codec_table.py --model $(DATA)/models/books6m --output docs/codecs.md

scaling: $(READY) ## Compress two networks over 1, 2 and 4 processes, and write the table of docs/cluster.md
	$(BIN)/python scripts/scaling_table.py --data $(DATA) --output docs/cluster.md

wheel: $(READY) ## Build the wheel into dist/
	$(BIN)/uv build --wheel

clean: ## Remove what tests and runs have left; .venv stays
	rm -rf runs .cache dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
