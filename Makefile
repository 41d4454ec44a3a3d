# make demo     a small translation model out of the packaged teacher, with a report, in minutes
# make compare  methods compared: a teacher and four students from scratch, a quarter of an hour
# make docs     the documentation as a site in build/site; without a network once it is installed
# make results  the tables and pictures of the results' pages, from the files in results/
# make bench    measure what distillation costs on this machine, and fill docs/speed.md
# make gpu      on a machine with a GPU: CUDA tests, steps, trainings; results in build/gpu
# make test     every check: lint, format, types, tests (slow ones too)
# make test SUITE=full   tests that take long and see little more, too
# make faults   the whole campaign of faults: kills, full disks, damaged and hostile files
# make format   rewrite the code in the house style
# make clean    remove caches; runs/ and .venv stay
#
# Variables, as in make demo PYTHON=python3.12; tools/venv.py reads the last two:
#
# PYTHON=python3.12     another interpreter (3.11 or later) for .venv
# TORCH_INDEX=URL       where to find CPU builds of PyTorch (asked on Linux without an NVIDIA GPU)
# GPU="--minutes 20"    make gpu with other options of benchmarks/gpu.py
# FAULTS_SEED=7         make faults with other random moments, bytes and inputs
# ALLOW_CUDA=1          take a CUDA build of PyTorch without a GPU to run it on

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo compare docs results bench gpu test faults format clean

demo: .venv/.installed-demo
	$(BIN)/a2d run demo
	@if [ -n "$$DISPLAY$$WAYLAND_DISPLAY" ]; then xdg-open runs/demo/report.html; fi || true

compare: .venv/.installed
	$(BIN)/a2d run methods

docs: .venv/.installed-docs
	PYTHONPATH=tools $(BIN)/zensical build --strict --clean

results: .venv/.installed
	$(BIN)/python tools/results.py
	$(BIN)/python tools/shapes.py
	$(BIN)/python tools/schedule_table.py

bench: .venv/.installed
	$(BIN)/python benchmarks/bench.py
	$(BIN)/python tools/speed.py

gpu: .venv/.installed-dev
	$(BIN)/python benchmarks/gpu.py --out build/gpu $(GPU)

test: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	SUITE=$(SUITE) $(BIN)/pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder --durations 40

faults: .venv/.installed-dev
	FAULTS=full $(BIN)/pytest tests/faults

format: .venv/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage build dist
	find src tests tools benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# The stamps are as old as the last installation: a second call installs nothing. Each installs all
# that it needs, so that pip runs once.
.venv/.installed: EXTRAS :=
.venv/.installed-demo: EXTRAS := corpora,ctranslate2
.venv/.installed-dev: EXTRAS := dev
.venv/.installed-docs: EXTRAS := docs
.venv/.installed .venv/.installed-demo .venv/.installed-dev .venv/.installed-docs: pyproject.toml tools/venv.py
	$(PYTHON) tools/venv.py $(EXTRAS)
	@touch .venv/.installed $@
