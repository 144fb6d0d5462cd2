# make demo    train, distil, sample and measure on the digits: runs/demo; again after Ctrl-C: goes on
# make fashion the same on Fashion-MNIST, 28x28 grey, of Debian's package dataset-fashion-mnist: runs/fashion, an hour and a half
# make patches the same on pieces of two photographs, 32x32 in colour: runs/patches, an hour and ten minutes
# make test    the test suite
# make test-cpus  what torch's own kernels can change, at each level of them, with 1 and 2 threads, and misaligned
# make compare  processes and methods of distillation beside each other: tables of docs/results.md and README (some hours)
# make stability  guidance, few steps and a bound on the speed, by process: tables of docs/results.md, plots (about an hour)
# make bench   the benchmarks: results, tables of docs/speed.md and README, plots; ARGS="-k noise" runs and replaces some of them
# make bench-gpu  the same on a GPU
# make gpu     all that a GPU has to show, in one folder with a summary: runs/gpu; again: goes on (ARGS="--device cpu": in small)
# make package an sdist, the wheel it makes, and that wheel at work in a new environment
# make docs    the documentation as a site: build/docs/index.html
# make sanitize      the kernels under the address, undefined-behaviour and thread sanitizers, all levels (many minutes)
# make sanitize-gpu  the CUDA kernels under compute-sanitizer, on a GPU
# make lint    ruff, mypy and clang-format, without changing anything
# PROCESSES=1 trains, distils and measures in one process; by default in two, where two cores are free for them.
# PRECISION=bf16 trains and distils in bfloat16: faster on a GPU, and on a CPU that has instructions for it (AMX, AVX-512 BF16).
# On such a CPU it is the default (PRECISION=auto), unless there is a GPU; PRECISION=no: in float32.
# Each makes .venv when it is absent or does not work, installs through constraints.txt (CONSTRAINTS names another file, or
# /dev/null for the newest of everything: in a fresh checkout) and, but for lint and docs, builds the kernels: those that train,
# for this processor alone, which takes half the time. DISTILLKAC_CUDA, DISTILLKAC_CPU, CUDAARCHS and MAX_JOBS say how
# (docs/install.md). Names of files in RUN and PYTHON may have spaces.
PYTHON ?= python3
RUN ?= runs/demo
ARGS ?=
CONSTRAINTS ?= constraints.txt

BIN := .venv/bin
# By modules: the scripts beside Python name the folder where they were installed, which may have been moved since.
PIP := $(BIN)/python -m pip
INSTALL = $(PIP) install -q -c $(CONSTRAINTS)
# An environment that does not work (a full disk, Ctrl-C, a Python that is gone) is mended before anything else.
VENV := $(if $(shell $(PIP) --version 2>/dev/null),,venv)
# One word for the shell, whatever is in it.
quoted = '$(subst ','\'',$1)'
# --resume if the run has such a file; make's own wildcard would take a name with a space for two.
resume = $(if $(shell ls -d $(call quoted,$(RUN))/$1 2>/dev/null),--resume)
# Where torch could use a GPU it trains there, and which precision is best there was not measured.
CPUINFO = /proc/cpuinfo
GPUS = $(wildcard /dev/nvidia[0-9]*)
bf16_cpu = $(if $(GPUS),,$(shell grep -s -m 1 -o -w -E 'avx512_bf16|amx_bf16' $(call quoted,$(CPUINFO))))
chosen = $(if $(filter auto,$(PRECISION)),$(if $(bf16_cpu),bf16),$(PRECISION))
told = trained in bfloat16, for which this processor has instructions (PRECISION=no: in float32)
precision = $(if $(chosen),--optim.precision $(chosen))
SOURCES := $(shell find csrc -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' -o -name '*.bin' 2>/dev/null)
CXX_FILES = $(shell find csrc tests \( -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' \))

# Two threads that spin while they wait for each other stall whenever something else wants a core.
export OMP_WAIT_POLICY ?= PASSIVE
# pip is told to compile nothing (below), so where Python may keep no bytecode, as in many containers, each command would
# compile torch and all else that it imports once more: more than half of the time that a command takes to start.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo fashion patches test test-cpus compare stability bench bench-gpu gpu package docs sanitize sanitize-gpu lint clean venv
# A grid of samples for each network is drawn by evaluate.
# A short --recipe best: a consistency student of 4, 2 and 1 steps, then one that learns its two steps as one.
# Its network is so small that a second thread costs more than it gives (800 images a second by one, 670 by two); a second
# process gives nearly as much again. For the larger ones two processes make 1.4 times as many images a second as two threads.
demo: threads = OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1}
demo fashion patches: PROCESSES ?= auto
demo fashion patches: PRECISION ?= auto
demo fashion patches: processes = --processes $(call quoted,$(PROCESSES))
# Whatever the environment has by these names is meant for something else.
CHAIN =
SECOND =
THIRD =
demo: RECIPE = best
demo: CHAIN = --consistency.steps 200 --consistency.teacher-steps 3 --pairs.count 8000 --steps 250 \
	--inverse.steps 0 --inverse.pairs 0 --optim.batch-size 64
patches: RECIPE = short
# A consistency student; inverse distillation of it in all its steps, for 4 and 2; and one that learns two steps of that one as one.
# Half of the recipe's teacher steps, half of its paths of the teacher, and half of its images in a third of its steps: as good,
# in less time.
fashion: RECIPE = consistency
fashion: CHAIN = --consistency.teacher-steps 3
fashion: SECOND = --recipe inverse --start $(call quoted,$(RUN)/student-4-consistency) --pairs.count 4000
fashion: THIRD = --recipe two-to-one --start $(call quoted,$(RUN)/student-4-inverse) --steps 1500 --optim.batch-size 96 --pairs.count 32000 --pairs.slopes 0.5 --pairs.huber 0.03
fashion: NUM = --num 10000
distil = $(threads) $(BIN)/python -m distillkac.distill $(call quoted,$(RUN)) $1 $(processes) $(call resume,$2/config.json) $(precision)
# A GPU waits for a small network, whose compiled passes are started at once; of the demo's few steps compiling would take longer than
# it spares. These options cannot have it.
uncompiled = $(findstring --optim.shard,$(ARGS))$(findstring --optim.exact-parts,$(ARGS))
fashion patches: compiled = $(if $(GPUS),$(if $(uncompiled),,--optim.compile))
fashion patches: RUN = runs/$@
demo fashion patches: .venv/native
	$(if $(filter auto,$(PRECISION)),$(if $(bf16_cpu),@echo '$(told)'))
	$(threads) $(BIN)/python -m distillkac.train --preset $@ --run $(call quoted,$(RUN)) $(processes) $(call resume,config.json) $(precision) $(compiled) $(ARGS)
	$(call distil,--recipe $(RECIPE) $(CHAIN),student-$(if $(SECOND),4-consistency,*))
	$(if $(SECOND),$(call distil,$(SECOND),student-4-inverse))
	$(if $(THIRD),$(call distil,$(THIRD),student-1-pairs))
	$(threads) $(BIN)/python -m distillkac.evaluate $(call quoted,$(RUN)) $(NUM) $(processes)
	$(BIN)/python -m distillkac.sample $(call quoted,$(RUN)) --steps 20 --model teacher --out $(call quoted,$(RUN))/samples/film.gif

compare: .venv/native
	OMP_NUM_THREADS=1 $(BIN)/python -m distillkac.compare $(or $(ARGS),--pages docs/results.md README.md)
	$(if $(ARGS),,mkdir -p docs/comparison && cp runs/compare/comparison.csv runs/compare/frechet.png runs/compare/samples.png docs/comparison)

# With ARGS, such as --quick, or --telegraph runs/demo for a teacher that is there, the pages stay as they are.
stability: .venv/native
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.stability $(or $(ARGS),--pages docs/results.md)
	$(if $(ARGS),,mkdir -p docs/stability && cd runs/stability && cp stability.csv errors.csv integrators.csv ../../docs/stability && cp stability.png integrators.png ../../docs/images)

# Compiling and statistics use all cores; the two workers get one torch thread each.
test: .venv/built .venv/extras
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow" $(ARGS)

# One run each; a level that this CPU lacks is torch's best below it. CPU_LEVELS=ATEN_CPU_CAPABILITY=default runs that one.
CPU_LEVELS ?= ATEN_CPU_CAPABILITY=default ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=SSE41 ONEDNN_MAX_CPU_ISA=AVX2 \
	OMP_NUM_THREADS=1 OMP_NUM_THREADS=2 --misalign
test-cpus: .venv/built .venv/extras
	for level in $(CPU_LEVELS); do \
		echo "$$level:"; \
		case $$level in --*) set -- "$$level" OMP_NUM_THREADS=1;; *) set -- "" OMP_NUM_THREADS=1 "$$level";; esac; \
		option=$$1; shift; \
		env "$$@" $(BIN)/python -m pytest $$option -n 2 --dist loadfile --no-loadscope-reorder -m "torch_kernels and not slow" $(ARGS) || exit 1; \
	done

# Threads wait as OpenMP lets them wait by default: nothing else should be running. A contest that fails costs the others nothing.
bench bench-gpu: DEVICE = $(if $(findstring gpu,$@),cuda,cpu)
bench bench-gpu: .venv/built
	run=$$(mktemp) && trap 'rm -f "$$run"' EXIT && \
	env -u OMP_WAIT_POLICY $(BIN)/python -m pytest benchmarks --benchmark-only --device $(DEVICE) --benchmark-json "$$run" $(ARGS); failed=$$?; \
	if [ -s "$$run" ]; then $(BIN)/python -m benchmarks.report "$$run" || exit; fi; exit $$failed

gpu: .venv/built
	$(BIN)/python -m benchmarks.gpu $(ARGS)

package: .venv/built
	$(BIN)/python -m pytest -m slow tests/project/test_packaging.py $(ARGS)

docs: .venv/docs
	$(BIN)/python -m mkdocs build --strict

sanitize: .venv/built
	$(BIN)/python -m pytest tests/kernels/test_sanitizers.py tests/kernels/test_cuda_on_cpu.py $(ARGS)

sanitize-gpu: .venv/built
	$(BIN)/python -m pytest tests/gpu/test_compute_sanitizer.py $(ARGS)

lint: .venv/lint
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/python -c 'import clang_format as c; c.clang_format()' --dry-run --Werror $(CXX_FILES)

clean:
	rm -rf build .venv *.egg-info distillkac/*.so

# What is there and works is kept, and pip put where only it is missing (`uv venv` leaves it out).
venv:
	$(BIN)/python -m ensurepip || $(call quoted,$(PYTHON)) -m venv --clear .venv
	$(BIN)/python -m pip --version

# What the optional parts need; tests of what cannot be had are skipped. torchcfm comes alone: it asks for torchdyn, which
# brings torchvision, Lightning and IPython, and its matchers use none of them. torch-fidelity, with whose network ours is
# compared, lies apart: where torchmetrics can see it, it wants all of it, and so torchvision.
EXTRAS := datasets webdataset torchmetrics onnx onnxscript onnxruntime gradio playwright tensorboard flow_matching pot
.venv/extras: .venv/built
	$(INSTALL) $(EXTRAS) || echo "some of $(EXTRAS) cannot be installed: their tests are skipped"
	$(INSTALL) --no-deps torchcfm || echo "torchcfm cannot be installed: its tests are skipped"
	$(INSTALL) --no-deps --upgrade --target .venv/apart torch-fidelity || echo "torch-fidelity cannot be installed: its tests are skipped"
	touch $@

# What mypy reads the types of, in the tested versions; of all else it knows nothing, there or not (pyproject.toml).
TYPED := torch numpy pillow safetensors tyro matplotlib
.venv/lint: $(VENV) $(CONSTRAINTS)
	$(INSTALL) ruff clang-format mypy $(TYPED)
	touch $@

.venv/docs: $(VENV) $(CONSTRAINTS) pyproject.toml
	$(INSTALL) 'mkdocs<2' mkdocs-material 'mkdocstrings[python]'
	touch $@

# Without --no-compile pip compiles every module of every package to bytecode, one after the other; most are never imported,
# and Python compiles the others when they are. numpy and packaging are here because torch and setuptools import them in the build
# below, while other packages are installed.
.venv/installed: $(VENV) $(CONSTRAINTS) pyproject.toml
	$(INSTALL) --no-compile torch numpy setuptools packaging cmake ninja pybind11
	touch $@

# What pyproject.toml asks for is installed while the kernels are compiled. What was built for every processor is for this one too.
NEEDED := import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; print(*p["dependencies"], *p["optional-dependencies"]["test"], sep="\n")
BUILD_FILES := .venv/installed setup.py build_backend.py CMakeLists.txt $(SOURCES)
.venv/native: default = NATIVE
.venv/built: default = ALL
.venv/native .venv/built: $(BUILD_FILES)
	$(BIN)/python -c '$(NEEDED)' > .venv/needed && { $(INSTALL) --no-compile -r .venv/needed & packages=$$!; \
	DISTILLKAC_CPU=$${DISTILLKAC_CPU:-$(default)} $(INSTALL) --no-compile --no-deps --no-build-isolation -e . || { kill $$packages; exit 1; }; \
	wait $$packages; }
	touch .venv/native $@
