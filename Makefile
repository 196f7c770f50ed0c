# epi-engine: everything is built and run in release. `make help` lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help
CARGO ?= cargo
ENGINE = target/release/epi-engine
RUNS ?= runs

.PHONY: help build demo test test-full lint cuda-toolchain cuda-if-driver cuda-if-pip gpu-bundle study study-tables report-check \
	bench-tables predictions clean

NVCC = build/nvcc/nvidia/cu13/bin/nvcc
NVCC_WHEELS = nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-runtime==13.0.96 \
	nvidia-cuda-cccl==13.0.85
SASS_WHEELS = nvidia-cuda-cuobjdump==13.5.37 nvidia-cuda-nvdisasm==13.5.37
FOUND_NVCC = test -n "$$EPI_NVCC$$CUDA_HOME" || command -v nvcc >/dev/null || test -x $(NVCC)

help: ## this list
	@grep -E '^[a-z-]+:.*## ' Makefile | sed 's/:.*## /\t/' | expand -t 18

build: ## the program, with CUDA kernels when a CUDA compiler is found
	@$(CARGO) build --release

cuda-toolchain: ## the pinned CUDA compiler under build/nvcc (by pip; no driver or GPU is needed to compile)
	@test -x $(NVCC) || { python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps --target build/nvcc \
		$(NVCC_WHEELS) && touch build.rs; } # so that the next build looks again
	@$(NVCC) --version | tail -n 2 | head -n 1

# A machine with an NVIDIA driver gets the kernels; others build faster without them.
cuda-if-driver:
	@$(FOUND_NVCC) || ! ldconfig -p 2>/dev/null | grep -q libcuda.so || $(MAKE) --no-print-directory cuda-toolchain

# The tests read the compiler's report of every kernel; without pip they say which of them need nvcc.
cuda-if-pip:
	@$(FOUND_NVCC) || $(MAKE) --no-print-directory cuda-toolchain || echo "no CUDA compiler: tests that need nvcc say so"

demo: cuda-if-driver build ## train EPSAT on real pairs and score unseen chromosomes; then a control with a known answer
	@rm -rf $(RUNS)/demo $(RUNS)/planted
	@echo "== EPSAT on real enhancer-promoter pairs, scored on a chromosome it has never seen"
	@$(ENGINE) train --preset demo --out $(RUNS)/demo
	@echo
	@echo "== Control: motifs planted in short windows, so the right answer is known"
	@mkdir -p $(RUNS)
	@$(ENGINE) synth --data demo --level additive --train 6144 --validation 512 --test 1024 --out $(RUNS)/planted.epi
	@$(ENGINE) train --preset planted --data $(RUNS)/planted.epi --split column:split --out $(RUNS)/planted

study: build ## the runs of docs/study.md: about 2 hours on two AVX2 cores, resumable; DATA=DIR holds what is not bundled
	@$(ENGINE) study examples/study.toml --out $(RUNS)/study $(if $(DATA),--data-dir $(DATA)) $(if $(SCALE),--scale $(SCALE))

study-tables: ## examples/study and the tables of docs/study.md, from the folder of a study
	@scripts/study.py collect $(RUNS)/study
	@scripts/study.py tables

test: cuda-if-pip ## all tests that run in a few minutes
	@$(CARGO) test --release

test-full: cuda-if-pip ## the long ones too: full-size models, learning curves of planted motifs
	@EPI_TEST_FULL=1 $(CARGO) test --release
	@$(CARGO) test --release --test full -- --test-threads 1 --nocapture

lint: ## formatting and clippy, warnings denied
	@$(CARGO) fmt --check
	@$(CARGO) clippy --all-targets -- -D warnings

gpu-bundle: ## build/gpu-bundle: tests and benchmarks for a machine with an NVIDIA driver and nothing else
	@scripts/gpu_bundle.sh

# Small runs, then every view of their reports. Debian's Chromium is fetched where there is none and apt-get may.
report-check: build ## reports of small runs and a small study in headless Chromium; screenshots under runs/report-check
	@command -v $${CHROMIUM:-chromium} >/dev/null || apt-get install -qy chromium >/dev/null || \
		{ echo "report-check needs Chromium: install it, or name one in CHROMIUM"; exit 1; }
	@rm -rf $(RUNS)/report-check && mkdir -p $(RUNS)/report-check
	@$(ENGINE) study tests/data/report-study.toml --device cpu --out $(RUNS)/report-check/study
	@for run in $$(dirname $$(find $(RUNS)/report-check/study/runs -name metrics.json)); do \
		case $$run in *eplae*) $(ENGINE) explain latent $$run --limit 200 --copies 20 >/dev/null;; esac; \
		$(ENGINE) report $$run >/dev/null || exit 1; done
	@$(ENGINE) report $(RUNS)/report-check/study
	@python3 scripts/report_check.py $(RUNS)/report-check/views $$(find $(RUNS)/report-check/study -name report.html)

bench-tables: ## the tables of README.md and docs/benchmarks.md, from benches/results
	@scripts/benchmarks.py tables

predictions: cuda-toolchain build ## predicted times of the kernels, from their machine code, in docs/benchmarks.md
	@test -x $(dir $(NVCC))cuobjdump || { python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps \
		--target build/nvcc/sass $(SASS_WHEELS) && mv build/nvcc/sass/nvidia/cu13/bin/* $(dir $(NVCC)) && rm -r build/nvcc/sass && \
		chmod +x $(dir $(NVCC))*; }
	@PATH="$(CURDIR)/$(dir $(NVCC)):$$PATH" scripts/predict.py

clean: ## remove what was built and the runs of the demonstration
	@$(CARGO) clean
	@rm -rf $(RUNS)/demo $(RUNS)/planted $(RUNS)/planted.epi
