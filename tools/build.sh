#!/bin/sh
# Builds both wheels, installs them into an empty environment and runs one smoke test there, away from the sources.
set -eu
cd "$(dirname "$0")/.."
root=$(pwd)
uv=uv
"$uv" --version >/dev/null 2>&1 || uv=.tools/bin/uv
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

rm -rf dist
"$uv" build --quiet --wheel --out-dir dist .
"$uv" build --quiet --wheel --out-dir dist plugins/lerobot_policy_worldlab
"$uv" venv --quiet --python "$(.venv/bin/python -c 'import sys; print(sys._base_executable)')" "$work/venv"
# The versions of uv.lock, so that the smoke test sees what the tests saw.
"$uv" export --quiet --frozen --no-dev --no-emit-workspace --no-hashes -o "$work/requirements.txt"
VIRTUAL_ENV="$work/venv" "$uv" pip install --quiet -r "$work/requirements.txt" dist/*.whl
cd "$work"
"$work/venv/bin/python" "$root/tools/smoke.py"
echo "built and smoke-tested: $(ls "$root"/dist/*.whl | xargs -n1 basename | tr '\n' ' ')"
