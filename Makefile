PYTHON ?= python3
BIN := .venv/bin
OLDEST := .venv-oldest/bin
CUDA := .venv-cuda/bin
TEST_JOBS ?= 2
IMAGENET := .venv-imagenet/bin
# CUDA sources are formatted like the rest.
CXX_FILES = $(shell find csrc tests -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')

.DEFAULT_GOAL := help
.PHONY: help env demo test test-quick test-oldest test-imagenet imagenet-tables coco-tables sanitize \
  cuda-check cuda-build gpu-check bench study docs docs-links lint format clean clean-build python lint-tools \
  imagenet-env

help:
	@echo 'make env          set up .venv: PyTorch, MMDetection, mmdk (about 20 minutes once, then seconds)'
	@echo 'make demo         env; then make data, train and test a DK detector, draw the results'
	@echo 'make test         env; then the whole test suite'
	@echo 'make test-quick   env; then the tests that neither compile nor train'
	@echo 'make test-oldest  operator and layer tests on the oldest PyTorch, in .venv-oldest (5 GB)'
	@echo 'make test-imagenet  the recipes in configs/imagenet, with MMPretrain, in .venv-imagenet (6 GB)'
	@echo 'make imagenet-tables  in the same: count what they cost, and write it into their README'
	@echo 'make sanitize     env; then operator tests compiled for GCC sanitizers (about 15 minutes)'
	@echo 'make cuda-check   compile the CUDA kernels and check registers and instructions; needs nvcc, no GPU'
	@echo 'make cuda-build   the whole extension with CUDA, in .venv-cuda (6 GB), and its CPU tests; needs nvcc'
	@echo 'make gpu-check    env; then test and time mmdk on a GPU, and write gpu-report.md; needs a GPU and nvcc'
	@echo 'make bench        env; then all benchmarks and their tables (about 25 minutes on an idle machine)'
	@echo 'make study        env; then compare the operators on digits, and write docs/study.md (many hours; goes on)'
	@echo 'make coco-tables  env; then count what the COCO recipes cost and write it into configs/ (minutes)'
	@echo 'make docs         env; then the documentation, in build/docs/; warnings and broken links are errors'
	@echo 'make docs-links   env; then see whether the links that lead out of it work; needs the Internet'
	@echo 'make lint         check formatting and lint, Python and C++; needs no env'
	@echo 'make format       apply the formatting'
	@echo 'make clean-build  remove build outputs and caches; .venv stays, env compiles mmdk again'
	@echo 'make clean        remove build outputs, caches and .venv*; data/ and work_dirs/ stay'
	@echo
	@echo 'PYTHON=python3.11       the Python that .venv is made with (3.10 to 3.12)'
	@echo 'TORCH=torch==2.12.0     another PyTorch than the default'
	@echo 'PIP_ARGS="--proxy ..."  more arguments for every pip install'
	@echo 'MAX_JOBS=2, CXX=g++-12  compilers at a time; the compiler'
	@echo 'PYTEST_ARGS="-k layer"  more arguments for pytest'
	@echo 'TEST_JOBS=0              tests in one process, as a debugger needs it; in 2 by default'
	@echo 'CUDA_CHECK_ARGS=...     more arguments for tools/cuda_check.py, as --update'
	@echo 'GPU_CHECK_ARGS=...      more arguments for tools/gpu_check.py, as --dry-run'
	@echo 'COCO_TABLES_ARGS=...    more arguments for tools/coco_tables.py, as --check, or a folder in configs/'
	@echo 'CUDA_HOME, TORCH_CUDA_ARCH_LIST=8.0   the CUDA toolkit; what cuda-build compiles for'

python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 6))' || { \
	  echo 'error: "$(PYTHON)" is no Python 3; name a Python 3.10 to 3.12: make env PYTHON=...' >&2; \
	  exit 1; }

env: python
	@$(PYTHON) tools/setup_env.py

demo: env
	@$(BIN)/python tools/demo.py

# Test files are shared out between TEST_JOBS processes: more threads than cores, which should not
# spin while they wait.
test test-quick: export OMP_WAIT_POLICY ?= passive
PYTEST = $(BIN)/python -m pytest -n $(TEST_JOBS) --dist loadfile

test: env
	$(PYTEST) $(PYTEST_ARGS)

test-quick: env
	$(PYTEST) -m 'not slow' $(PYTEST_ARGS)

# A compiler may take 2 GB here: not as many as there are cores.
test-oldest imagenet-env sanitize cuda-check cuda-build: export MAX_JOBS ?= 2

# A package built beside its source, as here in build/, is found by pytest before the one in mmdk/.
# No GPU is visible, since the CUDA toolkit that is here need not be one for so old a PyTorch.
test-oldest: python
	$(PYTHON) -m venv .venv-oldest
	$(OLDEST)/python -m pip install -q $(PIP_ARGS) -r requirements/oldest.txt
	PATH="$(CURDIR)/$(OLDEST):$$PATH" CUDA_VISIBLE_DEVICES= $(OLDEST)/python setup.py -q build \
	  --build-base build/oldest --build-lib build/oldest
	$(OLDEST)/python -m pytest -o 'pythonpath=build/oldest .' -m 'not slow' \
	  tests/ops tests/layers --ignore tests/ops/test_peers.py $(PYTEST_ARGS)

# MMCV is compiled against the PyTorch that comes first. The import fails where it, or torchvision, was
# built for another; tests would only be skipped. No GPU is visible, as for test-oldest.
imagenet-env imagenet-tables test-imagenet: export CUDA_VISIBLE_DEVICES =

imagenet-env: python
	$(PYTHON) -m venv .venv-imagenet
	$(IMAGENET)/python -m pip install -q $(PIP_ARGS) -r requirements/imagenet.txt
	PATH="$(CURDIR)/$(IMAGENET):$$PATH" $(IMAGENET)/python -m pip install -q --no-build-isolation \
	  $(PIP_ARGS) -r requirements/mmdet.txt -r requirements/mmpretrain.txt
	$(IMAGENET)/python -W ignore -c 'import mmcv.ops, mmdet, mmpretrain'
	PATH="$(CURDIR)/$(IMAGENET):$$PATH" $(IMAGENET)/python setup.py -q build \
	  --build-base build/imagenet --build-lib build/imagenet

test-imagenet: imagenet-env
	$(IMAGENET)/python -m pytest -o 'pythonpath=build/imagenet .' tests/imagenet $(PYTEST_ARGS)

imagenet-tables: imagenet-env
	cd build/imagenet && PYTHONPATH=$(CURDIR) $(CURDIR)/$(IMAGENET)/python -W ignore -m tools.imagenet_tables

sanitize: env
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python tools/sanitize.py -- $(PYTEST_ARGS)

cuda-check: python
	@$(PYTHON) tools/setup_env.py cuda-check
	$(BIN)/python tools/cuda_check.py $(CUDA_CHECK_ARGS)

# One architecture: that it compiles for the others, cuda-check sees.
cuda-build: export TORCH_CUDA_ARCH_LIST ?= 8.0
# A nvcc in PATH may be a wrapper, from which PyTorch cannot tell where the headers are.
cuda-build: export CUDA_HOME ?= /usr/local/cuda

cuda-build: python
	$(PYTHON) -m venv .venv-cuda
	$(CUDA)/python -m pip install -q $(PIP_ARGS) -r requirements/cuda.txt
	PATH="$(CURDIR)/$(CUDA):$$PATH" FORCE_CUDA=1 $(CUDA)/python setup.py -q build \
	  --build-base build/cuda --build-lib build/cuda
	cd build/cuda && $(CURDIR)/$(CUDA)/python -c "import torch, mmdk, sys; \
	  found = torch._C._dispatch_has_kernel_for_dispatch_key('mmdk::deform_kernel2d', 'CUDA'); \
	  sys.exit(None if found else 'error: the extension has no operators for CUDA')"
	$(CUDA)/python -m pytest -o 'pythonpath=build/cuda .' -m 'not slow' \
	  tests/ops tests/layers --ignore tests/ops/test_peers.py $(PYTEST_ARGS)

gpu-check: env
	$(BIN)/python -W ignore -m tools.gpu_check $(GPU_CHECK_ARGS)

BENCHMARKS := operators variants memory scaling layers models cuda_traffic

bench: env
	@for name in $(BENCHMARKS); do \
	  $(BIN)/python -W ignore -m benchmarks.$$name --out benchmarks/results/$$name.json || exit; \
	done
	$(BIN)/python -W ignore -m benchmarks.report

study: env
	$(BIN)/python -W ignore -m benchmarks.study
	$(BIN)/python -W ignore -m benchmarks.study.offsets
	$(BIN)/python -W ignore -m benchmarks.study.cost --out benchmarks/results/study_cost.json
	$(BIN)/python -W ignore -m benchmarks.study.report --write

coco-tables: env
	$(BIN)/python -W ignore -m tools.coco_tables $(COCO_TABLES_ARGS)

# The source folder is the whole checkout, see docs/conf.py.
SPHINX := $(BIN)/python -W ignore -m sphinx -W --keep-going -q -c docs

docs: env
	$(SPHINX) . build/docs
	@echo 'Open build/docs/index.html'

docs-links: env
	$(SPHINX) -b linkcheck . build/docs-links

lint-tools: python
	@$(PYTHON) tools/setup_env.py lint

lint: lint-tools
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/clang-format --dry-run -Werror $(CXX_FILES)

format: lint-tools
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format
	$(BIN)/clang-format -i $(CXX_FILES)

clean-build:
	rm -rf build dist mmdk.egg-info mmdk/.mim mmdk/_C*.so .pytest_cache .ruff_cache
	find . -path './.venv*' -prune -o -path ./.git -prune -o -name __pycache__ -type d -exec rm -rf {} +

clean: clean-build
	rm -rf .venv .venv-oldest .venv-imagenet .venv-cuda
