#!/usr/bin/env bash
# Make the virtual environment FOLDER with the project in it, all extras, and the pinned versions of constraints.txt.
# Where there is no NVIDIA driver, torch is its CPU build: the default one brings gigabytes of CUDA libraries.
set -euo pipefail
folder=${1:?usage: hack/install.sh FOLDER}
cd "$(dirname "$0")/.."

say() { printf '\033[1m==> %s\033[0m\n' "$*"; }

python=
for candidate in python3.11 python3.12 python3.13 python3; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
[ -n "$python" ] || { echo "install: Python 3.11 or newer is needed; on Debian 12: apt-get install python3" >&2; exit 1; }

if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        say "installing Debian's python3-venv"
        apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-venv >/dev/null
    else
        echo "install: Python's venv module is missing; on Debian: apt-get install python3-venv" >&2
        exit 1
    fi
fi

[ -x "$folder/bin/python" ] || { say "making the virtual environment $folder"; "$python" -m venv "$folder"; }
pip() { "$folder/bin/python" -m pip --disable-pip-version-check "$@"; }

torch=$(sed -n 's/^torch==//p' constraints.txt)
if ! "$folder/bin/python" -c "import importlib.metadata as m, sys; sys.exit(m.version('torch').split('+')[0] != '$torch')" 2>/dev/null; then
    if command -v nvidia-smi >/dev/null && nvidia-smi >/dev/null 2>&1; then
        say "installing torch $torch with CUDA"
        pip install -c constraints.txt "torch==$torch"
    else
        say "installing torch $torch for CPUs"
        pip install -q -c constraints.txt "torch==$torch+cpu" 2>/dev/null ||
            pip install -c constraints.txt "torch==$torch+cpu" --extra-index-url https://download.pytorch.org/whl/cpu
    fi
fi
say "installing omnipipeline and what it needs"
pip install -c constraints.txt -e '.[operator,worker,tracing,dev]' | grep --line-buffered -E '^(Collecting|Installing|Successfully)' | cut -c1-100
"$folder/bin/omni" --version
