#!/usr/bin/env bash
# Make the virtual environment FOLDER with the project in it, all extras, and the pinned versions of constraints.txt.
# Without an NVIDIA driver, torch is its CPU build from TORCH_INDEX, because PyPI's brings gigabytes of CUDA libraries. If that
# index cannot be reached, PyPI's build is used all the same: it runs on CPUs too.
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
        index=${TORCH_INDEX-https://download.pytorch.org/whl/cpu}
        cpu=(-q -c constraints.txt "torch==$torch+cpu")
        say "installing torch $torch for CPUs"
        # First without the index: pip may find the build where this machine's own settings lead it.
        if pip install "${cpu[@]}" 2>/dev/null || { [ -n "$index" ] && pip install --retries 1 "${cpu[@]}" --extra-index-url "$index" 2>/dev/null; }; then
            say "torch $torch is the build for CPUs"
        else
            say "torch $torch is PyPI's build, because no build for CPUs can be had${index:+ from $index}; it runs on CPUs too, and takes about 4 GB more on disk"
            pip install -c constraints.txt "torch==$torch" | grep --line-buffered -E '^(Collecting|Installing|Successfully)' | cut -c1-100
        fi
    fi
fi
say "installing omnipipeline and what it needs"
pip install -c constraints.txt -e '.[operator,worker,tracing,dev]' | grep --line-buffered -E '^(Collecting|Installing|Successfully)' | cut -c1-100
"$folder/bin/omni" --version
