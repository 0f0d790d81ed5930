#!/bin/sh
# Makes .venv hold everything that uv.lock names. Needs nothing but a Python: it brings uv, finds or brings a Python
# that fits, and checks that frames can be rendered. Safe to run again; quick when there is nothing to do.
set -eu
cd "$(dirname "$0")/.."

say() { printf 'setup: %s\n' "$*" >&2; }

runs() { "$@" >/dev/null 2>&1; }

# uv: the user's if it really runs (a pyenv shim may refuse), else one of our own in .tools/.
find_uv() {
  for uv in uv "$HOME/.local/bin/uv" .tools/bin/uv; do
    if runs "$uv" --version; then echo "$uv"; return; fi
  done
  for python in python3 python3.13 python3.12 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/*/bin/python /usr/bin/python3; do
    if runs "$python" -c 'import sys; sys.exit(sys.version_info < (3, 8))'; then
      say "bringing uv into .tools/"
      if "$python" -m venv .tools >&2 && .tools/bin/python -m pip install --quiet uv >&2; then
        echo .tools/bin/uv
        return
      fi
    fi
  done
  say "found no uv, and no Python 3 with venv and pip to bring it. Install uv (https://docs.astral.sh/uv) or python3-venv."
  exit 1
}

# A Python that pyproject.toml accepts; where there is none uv downloads one.
find_python() {
  for python in python3.13 python3.12 python3 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.1[23]*/bin/python; do
    if runs "$python" -c 'import sys; sys.exit(not (3, 12) <= sys.version_info[:2] < (3, 14))'; then
      "$python" -c 'import sys; print(sys.executable)'
      return
    fi
  done
  echo 3.12
}

uv=$(find_uv)
if ! { runs "$uv" sync --check --frozen; }; then
  say "installing what uv.lock names (the first time takes a few minutes)"
  "$uv" sync --frozen --python "$(find_python)" >&2
fi

# Rendering without a display needs EGL (Mesa's will do).
renders() { runs env MUJOCO_GL=egl .venv/bin/python -c 'import mujoco; mujoco.GLContext(8, 8).make_current()'; }
if [ "$(uname)" = Linux ] && ! renders; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    say "no EGL driver found: installing libegl1 and libgl1-mesa-dri"
    apt-get update -qq >&2
    apt-get install -y -qq libegl1 libgl1-mesa-dri >&2
  fi
  if ! renders; then
    say "MuJoCo cannot render here: no EGL driver was found. On Debian or Ubuntu: sudo apt-get install libegl1 libgl1-mesa-dri"
    exit 1
  fi
fi
