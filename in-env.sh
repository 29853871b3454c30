#!/bin/sh
# Runs a command in the playbook's Python environment, which is made first where it is missing:
#
#     sh in-env.sh COMMAND [ARGUMENT...]
#     sh in-env.sh --as-is COMMAND [ARGUMENT...]    (makes nothing: no command where there is none)
#
# An active virtual or conda environment is used as it is when this checkout is installed in it
# (`pip install -e '.[test]'`, or environment.yml). Otherwise the environment is .venv, holding
# what requirements.lock names; an active environment of another project is left alone.
#
# .venv/installed is a copy of all that .venv was made from. Where it is equal, there is nothing
# to do; where it differs, .venv is brought up to date in place; where it is missing, the last
# set-up was interrupted, and .venv is made anew.
#
# PYTHON=... names the Python to make .venv with.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
venv=$root/.venv
stamp=$venv/installed
log=$root/.venv.log

say() { printf '%s\n' "$*" >&2; }
fail() { say "$@"; exit 1; }

# The active environment's folder: nothing for conda's base, nor for our own .venv.
active_environment() {
    active=${VIRTUAL_ENV:-}
    if [ -z "$active" ] && [ "${CONDA_DEFAULT_ENV:-base}" != base ]; then
        active=${CONDA_PREFIX:-}
    fi
    [ "$active" = "$venv" ] || printf '%s' "$active"
}

# Whether the environment in folder $1 has this checkout installed, with what its tests need.
holds_playbook() {
    [ -x "$1/bin/python" ] && (cd / && "$1/bin/python" - "$root") 2>/dev/null <<'END'
import sys
from importlib.util import find_spec
from pathlib import Path

playbook = find_spec("playbook")
here = playbook is not None and Path(playbook.origin).is_relative_to(sys.argv[1])
needed = ("jupyterlab", "nbval", "papermill", "pytest", "psycopg2")
sys.exit(not (here and all(find_spec(name) for name in needed)))
END
}

ingredients() {
    printf '%s\n' "$venv"
    cat "$root/requirements.lock" "$root/pyproject.toml" "$root/in-env.sh"
}

is_up_to_date() { [ -x "$venv/bin/python" ] && ingredients | cmp -s - "$stamp"; }

# Prints a suitable Python that can make an environment with pip in it.
find_python() {
    incomplete=
    for python in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11 python; do
        "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
            2>/dev/null || continue
        if "$python" -c 'import venv, ensurepip' 2>/dev/null ||
            "$python" -c 'import venv, pip' 2>/dev/null; then
            printf '%s' "$python"
            return
        fi
        incomplete=$python
    done
    [ -z "$incomplete" ] || fail "Set-up stopped: $incomplete has no pip of its own (module" \
        "ensurepip). Install it (Debian, Ubuntu: apt install python3-venv), then repeat this command."
    fail "Set-up stopped: no Python 3.11, 3.12 or 3.13 was found on PATH. Install one, or name" \
        "it (PYTHON=/path/to/python3.12 make ...), then repeat this command."
}

# uv installs four times as fast as pip. Its version and hashes come from the lock like the rest.
# The system's pip puts it there where it can; making a pip inside .venv takes 3 seconds more.
install_uv() {
    awk '/^uv==/ {on = 1; print; next} /^[^ ]/ {on = 0} on' "$root/requirements.lock" \
        >"$venv/uv.txt"
    set -- install -qq --disable-pip-version-check --no-deps --require-hashes -r "$venv/uv.txt"
    "$python" -m pip --python "$venv/bin/python" "$@" 2>"$log" && return
    own_pip && "$venv/bin/python" -m pip "$@" 2>>"$log"
}

own_pip() {
    "$venv/bin/python" -c 'import pip' 2>/dev/null ||
        "$venv/bin/python" -m ensurepip >>"$log" 2>&1
}

# uv reads no pip.conf: a package index that pip was given is handed on.
install_with_uv() {
    index=${PIP_INDEX_URL:-$("$python" -m pip config get global.index-url 2>/dev/null || true)}
    [ -z "$index" ] || export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-$index}"
    quiet=--quiet
    [ ! -t 2 ] || quiet=
    set -- pip install $quiet --python "$venv/bin/python" --system-certs --no-deps
    "$venv/bin/uv" "$@" --require-hashes --compile-bytecode -r "$root/requirements.lock" &&
        "$venv/bin/uv" "$@" --no-build-isolation --offline -e "$root"
}

install_with_pip() {
    own_pip || fail "Set-up stopped: no pip in .venv; $log says why."
    set -- -m pip install --disable-pip-version-check --progress-bar off --no-deps
    "$venv/bin/python" "$@" --require-hashes -r "$root/requirements.lock" >&2 &&
        "$venv/bin/python" "$@" --quiet --no-build-isolation --no-index -e "$root" >&2
}

make_venv() {
    python=$(find_python)
    if [ -f "$stamp" ] && [ "$(head -n 1 "$stamp")" = "$venv" ] && [ -x "$venv/bin/python" ]; then
        say "Set-up: requirements.lock or pyproject.toml changed; bringing .venv up to date."
        rm -f "$stamp"
    else
        say "Set-up: making .venv with $("$python" --version) (once; about half a minute)."
        rm -rf "$venv"
        "$python" -m venv --without-pip "$venv"
    fi
    say "Set-up: installing the packages of requirements.lock and the playbook."
    if ! { install_uv && install_with_uv; }; then
        say "Set-up: uv could not do it; going on with pip, which takes longer."
        install_with_pip || fail "Set-up stopped: the packages could not be installed (above)." \
            "Is a package index reachable? Repeat this command to try again."
    fi
    ingredients >"$stamp"
    rm -f "$log"
    say "Set-up: done."
}

as_is=
if [ "${1:-}" = --as-is ]; then
    as_is=yes
    shift
fi

active=$(active_environment)
if [ -n "$active" ] && holds_playbook "$active"; then
    PATH=$active/bin:$PATH
else
    if [ -n "$as_is" ]; then
        [ -x "$venv/bin/python" ] || exit 0
    elif ! is_up_to_date; then
        [ -z "$active" ] || say "Set-up: the active environment $active does not hold this" \
            "checkout and is left alone."
        make_venv
    fi
    VIRTUAL_ENV=$venv
    PATH=$venv/bin:$PATH
    export VIRTUAL_ENV
    unset PYTHONHOME
fi
export PATH
[ $# -eq 0 ] || exec "$@"
