# make demo    train, distil, sample and measure on the digits: runs/demo; again after Ctrl-C: goes on
# make test    the test suite
# make test-cpus  what torch's own kernels can change, at each level of them, with 1 and 2 threads, and misaligned
# make bench   the benchmarks: results, README's table, plots; ARGS="-k noise" runs and replaces some of them
# make bench-gpu  the same on a GPU
# make package an sdist, the wheel it makes, and that wheel at work in a new environment
# make docs    the documentation as a site: build/docs/index.html
# make sanitize      the kernels under the address, undefined-behaviour and thread sanitizers, all levels (many minutes)
# make sanitize-gpu  the CUDA kernels under compute-sanitizer, on a GPU
# make lint    ruff and clang-format, without changing anything
# Each makes .venv when it is absent, installs through constraints.txt and builds the kernels.
PYTHON ?= python3
RUN ?= runs/demo
ARGS ?=

BIN := .venv/bin
SOURCES := $(shell find csrc -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' -o -name '*.bin' 2>/dev/null)
CXX_FILES = $(shell find csrc tests \( -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' \))

# Two threads that spin while they wait for each other stall whenever something else wants a core.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: demo test test-cpus compare bench bench-gpu package docs sanitize sanitize-gpu lint clean
demo: .venv/built
	$(BIN)/python -m distillkac.train --run $(RUN) $(if $(wildcard $(RUN)/config.json),--resume) $(ARGS)
	$(BIN)/python -m distillkac.distill $(RUN) $(if $(wildcard $(RUN)/student-*/config.json),--resume)
	for steps in 100 20 4 2 1; do $(BIN)/python -m distillkac.sample $(RUN) --steps $$steps || exit 1; done
	$(BIN)/python -m distillkac.evaluate $(RUN)

compare: .venv/built
	OMP_NUM_THREADS=1 $(BIN)/python -m distillkac.compare $(or $(ARGS),--readme README.md)
	$(if $(ARGS),,mkdir -p docs/comparison && cp runs/compare/comparison.* runs/compare/frechet.png runs/compare/samples.png docs/comparison)

# Compiling and statistics use all cores; the two workers get one torch thread each.
test: .venv/built .venv/extras
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow" $(ARGS)

# One run each; a level that this CPU lacks is torch's best below it. CPU_LEVELS=ATEN_CPU_CAPABILITY=default runs that one.
CPU_LEVELS ?= ATEN_CPU_CAPABILITY=default ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=SSE41 ONEDNN_MAX_CPU_ISA=AVX2 \
	OMP_NUM_THREADS=1 OMP_NUM_THREADS=2 --misalign
test-cpus: .venv/built .venv/extras
	for level in $(CPU_LEVELS); do \
		echo "$$level:"; \
		case $$level in --*) set -- "$$level" OMP_NUM_THREADS=1;; *) set -- "" OMP_NUM_THREADS=1 "$$level";; esac; \
		option=$$1; shift; \
		env "$$@" $(BIN)/python -m pytest $$option -n 2 --dist loadfile -m "torch_kernels and not slow" $(ARGS) || exit 1; \
	done

# Threads wait as OpenMP lets them wait by default: nothing else should be running.
bench bench-gpu: DEVICE = $(if $(findstring gpu,$@),cuda,cpu)
bench bench-gpu: .venv/built
	run=$$(mktemp) && trap "rm -f $$run" EXIT && \
	env -u OMP_WAIT_POLICY $(BIN)/python -m pytest benchmarks --benchmark-only --device $(DEVICE) --benchmark-json $$run $(ARGS) && \
	$(BIN)/python -m benchmarks.report $$run

package: .venv/built
	$(BIN)/python -m pytest -m slow tests/test_packaging.py $(ARGS)

docs: .venv/docs
	$(BIN)/mkdocs build --strict

sanitize: .venv/built
	$(BIN)/python -m pytest tests/test_sanitizers.py tests/test_cuda_on_cpu.py $(ARGS)

sanitize-gpu: .venv/built
	$(BIN)/python -m pytest tests/gpu/test_compute_sanitizer.py $(ARGS)

lint: .venv/lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(CXX_FILES)

clean:
	rm -rf build .venv *.egg-info distillkac/*.so

.venv/bin/python:
	$(PYTHON) -m venv .venv

# What the optional parts need; tests of what cannot be had are skipped.
EXTRAS := datasets webdataset torchmetrics onnx onnxscript onnxruntime gradio playwright tensorboard
.venv/extras: .venv/built
	$(BIN)/pip install -q -c constraints.txt $(EXTRAS) || echo "some of $(EXTRAS) cannot be installed: their tests are skipped"
	touch $@

.venv/lint: .venv/bin/python constraints.txt
	$(BIN)/pip install -q -c constraints.txt ruff clang-format
	touch $@

.venv/docs: .venv/bin/python constraints.txt pyproject.toml
	$(BIN)/pip install -q -c constraints.txt 'mkdocs<2' mkdocs-material 'mkdocstrings[python]'
	touch $@

.venv/installed: .venv/bin/python constraints.txt pyproject.toml
	$(BIN)/pip install -q -c constraints.txt torch
	$(BIN)/pip install -q -c constraints.txt setuptools cmake ninja pybind11
	touch $@

.venv/built: .venv/installed setup.py build_backend.py CMakeLists.txt $(SOURCES)
	$(BIN)/pip install -q -c constraints.txt --no-build-isolation -e '.[test]'
	touch $@
