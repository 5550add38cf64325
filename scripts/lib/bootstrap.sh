# Sourced by the scripts: puts Poetry and uv into .tools and the locked environment into .venv, both in the project.
#
# The install goes poetry.lock -> `poetry export` (with hashes) -> `uv pip install --require-hashes`: Poetry stays the
# front end, every file is checked against the lock, and it works where the index lacks Poetry's JSON pages
# (docs/decisions/0002-poetry-and-uv.md). Stamps, written last, make the second start free; whatever has no stamp was
# interrupted and is made anew.

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
TOOLS="$PWD/.tools"
VENV="$PWD/.venv"

# Without .pyc files every import of TensorFlow compiles it anew (20 s instead of 6).
unset PYTHONDONTWRITEBYTECODE
# An environment that happens to be active, or modules from elsewhere, must not leak in.
unset VIRTUAL_ENV PYTHONHOME PYTHONPATH
# TF-Agents needs the legacy Keras; level 3 keeps TensorFlow's start-up lines away.
export TF_USE_LEGACY_KERAS=1 TF_CPP_MIN_LOG_LEVEL="${TF_CPP_MIN_LOG_LEVEL:-3}"

say() { printf '%s\n' "recpolicy: $*" >&2; }

# Prints the comment at the head of a script, for --help.
print_header() { sed -n '2,/^[^#]/{/^#/s/^# \{0,1\}//p}' "$1"; }

find_python() {
  local candidate
  for candidate in "${PYTHON:-}" python3.11 python3 python; do
    [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1 || continue
    # The path behind shims and environments, so that what is made from it does not depend on them.
    "$candidate" -c 'import sys; sys.version_info[:2] == (3, 11) or sys.exit(1); print(sys._base_executable)' 2>/dev/null &&
      return
  done
  say "Python 3.11 was not found. Install it (Debian: apt-get install python3.11 python3.11-venv) or set PYTHON to its path."
  return 1
}

# What the tools and the environment depend on. The folder is part of it, for scripts in a moved or copied .venv point
# to where it was.
stamp_of() { { printf '%s\n' "$PWD"; cat "$@"; } | sha256sum | cut -d' ' -f1; }
is_stamped() { [ "$(cat "$1/$2" 2>/dev/null)" = "$3" ] && [ -x "$1/bin/python" ]; }

# Holds a lock until the script ends, so that two scripts started at once install once. Without flock, do not do that.
lock_project() {
  command -v flock >/dev/null 2>&1 || return 0
  exec 9<scripts/lib/bootstrap.sh
  flock --nonblock 9 || { say "another script is installing; waiting for it"; flock 9; }
}
unlock_project() { exec 9<&-; }

install_tools() {
  local stamp python
  stamp="$(stamp_of scripts/lib/tools.txt)"
  is_stamped "$TOOLS" .stamp "$stamp" && return
  python="$(find_python)" || exit 1
  say "installing Poetry and uv into .tools (once)"
  if ! "$python" -m venv --clear "$TOOLS" >/dev/null 2>&1; then
    say "$python cannot make virtual environments (Debian: apt-get install python3.11-venv)"
    exit 1
  fi
  "$TOOLS/bin/python" -m pip install -qq --disable-pip-version-check --only-binary :all: \
    --require-hashes --requirement scripts/lib/tools.txt
  printf '%s' "$stamp" > "$TOOLS/.stamp"
}

# uv does not read pip's settings, and a company's machine may be set up for pip alone.
let_uv_follow_pip() {
  local index
  export UV_SYSTEM_CERTS="${UV_SYSTEM_CERTS:-true}"
  [ -z "${UV_DEFAULT_INDEX:-}${UV_INDEX_URL:-}" ] || return 0
  index="${PIP_INDEX_URL:-$("$TOOLS/bin/python" -m pip config get global.index-url 2>/dev/null || true)}"
  [ -z "$index" ] || export UV_DEFAULT_INDEX="$index"
}

# The locked packages; anything but an environment of exactly this lock is replaced.
install_packages() {
  local stamp="$1" python quiet=--quiet
  python="$(find_python)" || exit 1
  [ -t 2 ] && quiet=
  say "installing the locked packages into .venv (once; about 3 GB, some minutes on a slow line)"
  let_uv_follow_pip
  "$TOOLS/bin/poetry" export --quiet --all-extras --with dev,docs --format requirements.txt --output "$TOOLS/requirements.txt"
  # pip comes along (--seed): `recpolicy data fetch` and local pipelines call it.
  "$TOOLS/bin/uv" venv --quiet --clear --no-project --python "$python" --seed "$VENV"
  "$TOOLS/bin/uv" pip install $quiet --python "$VENV/bin/python" --require-hashes --requirement "$TOOLS/requirements.txt"
  # A notebook may import TensorFlow before recpolicy can set this.
  "$VENV/bin/python" -m ipykernel install --sys-prefix --env TF_USE_LEGACY_KERAS 1 --env TF_CPP_MIN_LOG_LEVEL 3 >/dev/null
  printf '%s' "$stamp" > "$VENV/.stamp"
}

# recpolicy itself, editable: anew when its name, version or commands may have changed.
install_project() {
  local stamp="$1"
  if ! VIRTUAL_ENV="$VENV" "$TOOLS/bin/poetry" install --no-interaction --only-root >"$TOOLS/install.log" 2>&1; then
    cat "$TOOLS/install.log" >&2
    exit 1
  fi
  printf '%s' "$stamp" > "$VENV/.stamp-project"
}

bootstrap_tools() {
  lock_project
  install_tools
  unlock_project
}

bootstrap_environment() {
  local packages project
  packages="$(stamp_of poetry.lock)"
  project="$(stamp_of pyproject.toml)"
  if ! is_stamped "$VENV" .stamp "$packages" || ! is_stamped "$VENV" .stamp-project "$project"; then
    lock_project
    install_tools
    is_stamped "$VENV" .stamp "$packages" || install_packages "$packages"
    is_stamped "$VENV" .stamp-project "$project" || install_project "$project"
    unlock_project
  fi
  export PATH="$VENV/bin:$TOOLS/bin:$PATH" VIRTUAL_ENV="$VENV"
}
