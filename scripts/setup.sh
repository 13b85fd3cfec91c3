# Sourced by scripts/demo and scripts/test: makes .venv from requirements.lock, once per lock.
# Needs Python >= 3.11 with pip or venv; uv is fetched into a folder of its own when it is missing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

find_python() {
  local candidate
  for candidate in "${PYTHON:-}" python3 python python3.13 python3.12 python3.11; do
    [ -n "$candidate" ] || continue
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  echo "growsweep needs Python 3.11 or newer; none was found. Set PYTHON=/path/to/python3." >&2
  return 1
}

find_uv() {
  if command -v uv >/dev/null; then command -v uv; return; fi
  if [ ! -x .venv/tools/bin/uv ]; then
    echo "setup: fetching uv (once)" >&2
    "$1" -m venv .venv/tools >&2
    .venv/tools/bin/pip install --quiet --disable-pip-version-check uv >&2
  fi
  echo .venv/tools/bin/uv
}

prepare_environment() {
  local python uv stamp=.venv/.requirements.stamp wanted
  python=$(find_python)
  wanted=$("$python" -c 'import hashlib, sys; print(hashlib.sha256(b"".join(open(f, "rb").read() for f in sys.argv[1:])).hexdigest())' requirements.lock pyproject.toml)
  if [ -x .venv/bin/python ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
    return
  fi
  echo "setup: installing the pinned packages into .venv (a minute or two the first time)"
  uv=$(find_uv "$python")
  [ -x .venv/bin/python ] || "$uv" venv --quiet --allow-existing --python "$python" .venv
  "$uv" pip install --quiet --python .venv/bin/python --link-mode=copy -r requirements.lock
  "$uv" pip install --quiet --python .venv/bin/python --no-deps --editable .
  echo "$wanted" > "$stamp"
  echo "setup: ready"
}

prepare_environment
export PATH="$PWD/.venv/bin:$PATH"
