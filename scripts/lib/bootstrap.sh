# Sourced by the scripts: puts Poetry and uv into .tools and the locked environment into .venv, both in the project.
#
# The install goes poetry.lock -> `poetry export` (with hashes) -> `uv pip install --require-hashes`: Poetry stays the
# front end, every file is checked against the lock, and it works where the index lacks Poetry's JSON pages
# (docs/decisions/0002-poetry-and-uv.md). A stamp of the lock makes the second start free.

TOOLS="$PWD/.tools"
VENV="$PWD/.venv"
POETRY_VERSION=2.5.1
UV_VERSION=0.13.9
EXPORT_VERSION=1.10.1
MIRROR_VERSION=0.6.5

# Without .pyc files every import of TensorFlow compiles it anew (20 s instead of 6).
unset PYTHONDONTWRITEBYTECODE
# TF-Agents needs the legacy Keras; level 3 keeps TensorFlow's start-up lines away.
export TF_USE_LEGACY_KERAS=1 TF_CPP_MIN_LOG_LEVEL=3

say() { printf '%s\n' "recpolicy: $*" >&2; }

find_python() {
  local candidate
  for candidate in "${PYTHON:-}" python3.11 python3 python; do
    [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1 || continue
    if "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  say "Python 3.11 was not found. Install it (Debian: apt-get install python3.11 python3.11-venv) or set PYTHON to its path."
  return 1
}

stamp_of() { cat "$@" | sha256sum | cut -d' ' -f1; }

bootstrap_tools() {
  local want="$POETRY_VERSION $UV_VERSION $EXPORT_VERSION $MIRROR_VERSION"
  [ "$(cat "$TOOLS/.stamp" 2>/dev/null)" = "$want" ] && return
  local python
  python="$(find_python)" || exit 1
  say "installing Poetry $POETRY_VERSION and uv $UV_VERSION into .tools (once)"
  if ! "$python" -m venv --clear "$TOOLS" 2>/dev/null; then
    say "could not make a virtual environment with $python (Debian: apt-get install python3.11-venv)"
    exit 1
  fi
  "$TOOLS/bin/python" -m pip install --quiet --disable-pip-version-check \
    "poetry==$POETRY_VERSION" "uv==$UV_VERSION" "poetry-plugin-export==$EXPORT_VERSION" \
    "poetry-plugin-pypi-mirror==$MIRROR_VERSION"
  printf '%s' "$want" > "$TOOLS/.stamp"
}

bootstrap_environment() {
  local stamp
  stamp="$(stamp_of poetry.lock pyproject.toml)"
  if [ "$(cat "$VENV/.stamp" 2>/dev/null)" != "$stamp" ]; then
    bootstrap_tools
    local python
    python="$(find_python)" || exit 1
    say "installing the locked environment into .venv (once; some minutes on a slow line)"
    # Named in full, for Poetry would otherwise look for environments elsewhere.
    export POETRY_VIRTUALENVS_IN_PROJECT=true
    [ -x "$VENV/bin/python" ] || "$TOOLS/bin/uv" venv --quiet --python "$python" --seed "$VENV"
    "$TOOLS/bin/poetry" export --quiet --all-extras --with dev --format requirements.txt --output "$TOOLS/requirements.txt"
    # Copies work on every file system; --compile-bytecode pays the compilation once, here.
    "$TOOLS/bin/uv" pip install --quiet --link-mode=copy --python "$VENV/bin/python" --require-hashes \
      --requirement "$TOOLS/requirements.txt"
    VIRTUAL_ENV="$VENV" "$TOOLS/bin/poetry" install --no-interaction --only-root >"$TOOLS/install.log" 2>&1 ||
      { cat "$TOOLS/install.log" >&2; exit 1; }
    printf '%s' "$stamp" > "$VENV/.stamp"
  fi
  export PATH="$VENV/bin:$TOOLS/bin:$PATH" VIRTUAL_ENV="$VENV"
}
