#!/bin/sh
# Resolves requirements/*.lock anew; each set is held to the versions of the one that it contains.
set -eu
cd "$(dirname "$0")/.."

compile() { # name, first line of the file, arguments of pip-compile
    name=$1 title=$2
    shift 2
    lock=requirements/$name.lock
    # Its one remark is that torch is left out: we mean it.
    .venv/bin/pip-compile --quiet --output-file "$lock" "$@" 2>"$lock.remarks" ||
        { cat "$lock.remarks" >&2; exit 1; }
    rm "$lock.remarks"
    {
        printf '# %s\n# Made by `make lock`; not edited by hand.\n' "$title"
        # pip-compile's remarks on packages that it would rather not pin say nothing to a reader here.
        sed -e '/^# WARNING: The following packages were not pinned/,$d' \
            -e '/^# The following packages are considered to be unsafe/d' \
            -e '/^# Made by/d' -e "/^# $title/d" "$lock" | sed -e :a -e '/^\n*$/{$d;N;ba' -e '}'
    } >"$lock.partial"
    mv "$lock.partial" "$lock"
    echo "$lock: $(grep -c '==' "$lock") packages"
}

compile build "pip and the build backend: what installs the project itself." \
    "$@" requirements/build.in
compile serve-cpu "What the service needs on a CPU." \
    "$@" --extra cpu pyproject.toml
compile dev "The service on a CPU, and what tests and checks need. A superset of serve-cpu.lock." \
    "$@" --extra cpu --extra dev \
    -c requirements/build.lock -c requirements/serve-cpu.lock pyproject.toml
compile ray "What bulk work on many machines needs beside dev.lock." \
    "$@" --extra ray -c requirements/dev.lock pyproject.toml
compile train "What training needs beside dev.lock. torch is apart, in torch.txt: README.md says why." \
    "$@" --extra train --unsafe-package torch --no-allow-unsafe \
    -c requirements/dev.lock pyproject.toml
compile serve-gpu "What the service needs on a GPU, without torch: README.md says why." \
    "$@" --extra gpu --unsafe-package torch --no-allow-unsafe \
    -c requirements/serve-cpu.lock -c requirements/train.lock pyproject.toml
