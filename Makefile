# `make` lists what there is. Everything runs in .venv, which the first target that needs it makes.

PYTHON := .venv/bin/python
CLUSTER ?= embedded
TESTS ?= tests
BENCHMARKS ?= scheduler executor transport step_overhead throughput trace_replay autoregressive membership routing scaling operator start neighbours loras caching head_memory soak
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help install demo test test-needs test-matrix browser prometheus test-fast test-local lint types imports check model crd reference docs images cluster deploy undeploy cluster-down \
        kubeconfig bench survey clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

install: .venv/installed ## Make .venv with the project and all it needs

.venv/installed: pyproject.toml constraints.txt hack/install.sh
	@hack/install.sh .venv
	@touch $@

demo: install ## Serve examples/digits.yaml on this machine, draw 24 prompts, write out/demo.png
	@$(PYTHON) hack/demo.py

# The pod tests run on the newest Kubernetes, the API server's on the oldest that is maintained.
test: test-needs ## Run all tests, those on a real Kubernetes node too (needs root on Debian 12, or OMNI_KUBECONFIG)
	@$(PYTHON) -m pytest --numprocesses=4 --durations=40 $(TESTS)

test-needs: install browser prometheus
	@[ -n "$$OMNI_KUBECONFIG" ] || $(PYTHON) hack/cluster check || \
	    { echo "make test: no cluster can run here, and OMNI_KUBECONFIG names none; make test-local runs all other tests" >&2; exit 1; }
	@[ -n "$$OMNI_KUBECONFIG" ] || { for version in $${OMNI_TEST_KUBERNETES:-newest oldest}; do \
	    $(PYTHON) hack/cluster build --kubernetes=$$version || exit 1; done; $(PYTHON) hack/cluster images --no-load; }

test-matrix: ## Run the tests on Kubernetes on both its newest and its oldest maintained version, one after the other
	@for version in newest oldest; do \
	    OMNI_TEST_KUBERNETES=$$version $(MAKE) --no-print-directory test TESTS=tests/kubernetes || exit 1; done

browser:
	@command -v chromium >/dev/null || [ "$$(id -u)" != 0 ] || { echo "installing chromium for the playground's tests" >&2; \
	    apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium >/dev/null; } \
	    || echo "chromium could not be installed: the playground's tests will be skipped" >&2

# Only its two programs, and no service of it: into the folder that is on the PATH here.
prometheus: install
	@command -v promtool >/dev/null || ! command -v apt-get >/dev/null || { echo "fetching prometheus for its tests" >&2; \
	    [ "$$(id -u)" != 0 ] || apt-get update -qq; folder=$$(mktemp -d) && cd "$$folder" && apt-get download -qq prometheus 2>/dev/null \
	    && dpkg-deb --fsys-tarfile prometheus_*.deb \
	    | tar -xC "$(CURDIR)/.venv/bin" --strip-components=3 ./usr/bin/prometheus ./usr/bin/promtool; rm -rf "$$folder"; }
	@command -v promtool >/dev/null || echo "prometheus could not be fetched: its tests will be skipped" >&2

test-fast: install ## Run the quick tests that need no Kubernetes, for daily work
	@$(PYTHON) -m pytest --numprocesses=2 -m "not apiserver and not pods and not slow"

test-local: install prometheus ## Run the tests that need no Kubernetes
	@$(PYTHON) -m pytest --numprocesses=2 -m "not apiserver and not pods"

check: lint types imports docs ## Lint, types, the arrows between packages, and the documentation's links

lint: install
	@ruff check .
	@ruff format --check .
	@$(PYTHON) hack/crd.py --check
	@$(PYTHON) hack/reference.py --check
	@$(PYTHON) hack/chart_readme.py --check
	@$(PYTHON) hack/dashboard.py --check
	@$(PYTHON) hack/prose.py

types: install
	@mypy

imports: install
	@lint-imports

model: install ## Train the built-in models again: the painter, then the thinker that knows it (half an hour)
	@$(PYTHON) -m omni_worker.models.digits_recipe.train
	@$(PYTHON) -m omni_worker.models.digits_recipe.thinker.train

crd: install ## Generate the CRD from the operator's types
	@$(PYTHON) hack/crd.py

reference: install ## Generate docs/reference.md from the code, the chart's table of values, and its dashboard
	@$(PYTHON) hack/reference.py
	@$(PYTHON) hack/chart_readme.py
	@$(PYTHON) hack/dashboard.py

docs: install ## Build the documentation into out/site; fails on a link that leads nowhere
	@NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --quiet --strict

cluster: install ## Start a Kubernetes node on this machine, with our images and 4 GPUs to schedule on (CLUSTER=kind: kind)
	@$(PYTHON) hack/cluster up --kind=$(CLUSTER)
	@$(PYTHON) hack/cluster images --kind=$(CLUSTER)
	@$(PYTHON) hack/cluster gpus 4 --kind=$(CLUSTER)
	@$(PYTHON) hack/cluster use --kind=$(CLUSTER)

images: install ## Build both images, and load them into the cluster
	@$(PYTHON) hack/cluster images --kind=$(CLUSTER)

deploy: install ## Install or upgrade the operator in the cluster, with Helm
	@$(PYTHON) hack/helm.py upgrade --install --crds --wait omnipipeline charts/omnipipeline \
	    --values hack/cluster/values.yaml --set podAnnotations.deployed=at-$$(date +%s)

undeploy: install ## Remove the operator; pipelines go on serving
	@$(PYTHON) hack/helm.py uninstall omnipipeline

kubeconfig: ## Print where the cluster's kubeconfig is
	@python3 hack/cluster kubeconfig --kind=$(CLUSTER)

cluster-down: ## Stop the cluster, and remove every trace of it but the build cache
	@python3 hack/cluster down --kind=$(CLUSTER)

survey: install ## Run every pipeline class of the tests, write docs/pipelines.md (10 minutes)
	@OMP_NUM_THREADS=1 TRANSFORMERS_VERBOSITY=error $(PYTHON) -m tests.worker.pipelines.survey --output docs/pipelines.md \
	    --data operator/omni_operator/commands/model_survey.json

bench: install ## Measure everything, into benchmarks/results (80 minutes, on a machine that does nothing else)
	@for name in $(BENCHMARKS); do \
	    echo "benchmarks/$$name"; $(PYTHON) -m benchmarks.$$name --output benchmarks/results/$$name.json || exit 1; \
	done
	@$(PYTHON) -m benchmarks.plots

clean: ## Remove what was built here; the cluster's build cache stays
	@rm -rf .venv out build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
