# Sourced by the scripts. Installs Poetry and uv into .tools and the locked packages into .venv, both in the project.
#
# The packages take this path: poetry.lock -> `poetry export` (with hashes) -> `uv pip install --require-hashes`. Poetry
# stays the front end, and the installation works where the index lacks Poetry's JSON pages
# (docs/decisions/0002-poetry-and-uv.md). A stamp, written last, marks a complete installation, so the second start is
# free. Anything without a stamp is installed again.

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
TOOLS="$PWD/.tools"
VENV="$PWD/.venv"

# Without .pyc files, every import of TensorFlow compiles it again (20 s instead of 6).
unset PYTHONDONTWRITEBYTECODE
# An active environment or modules from other folders must not leak in.
unset VIRTUAL_ENV PYTHONHOME PYTHONPATH
# TF-Agents needs the legacy Keras. Level 3 hides TensorFlow's start-up messages.
export TF_USE_LEGACY_KERAS=1 TF_CPP_MIN_LOG_LEVEL="${TF_CPP_MIN_LOG_LEVEL:-3}"

say() { printf '%s\n' "recpolicy: $*" >&2; }

# Prints the comment at the top of a script, for --help.
print_header() { sed -n '2,/^[^#]/{/^#/s/^# \{0,1\}//p}' "$1"; }

# Prints the path of Python 3.11: the machine's, else the one that uv downloaded. Returns 1 if there is none.
find_python() {
  local candidate
  for candidate in "${PYTHON:-}" python3.11 python3 python "$TOOLS"/python/*/bin/python3.11; do
    [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1 || continue
    # The path behind shims and environments, so that what is made from it does not depend on them.
    "$candidate" -c 'import sys; sys.version_info[:2] == (3, 11) or sys.exit(1); print(sys._base_executable)' 2>/dev/null &&
      return
  done
  return 1
}

# Prints the path of any Python that can install uv: 3.9 or newer, with venv and pip. Returns 1 if there is none.
find_any_python() {
  local candidate
  for candidate in "${PYTHON:-}" python3 python python3.{9..19}; do
    [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1 || continue
    "$candidate" -c 'import ensurepip, sys, venv; sys.version_info >= (3, 9) or sys.exit(1); print(sys.executable)' \
      2>/dev/null && return
  done
  return 1
}

# Prints the path of Python 3.11. Where the machine has none, uv downloads it into .tools/python.
provide_python() {
  local any_python remedy="Install it (Debian 12: apt-get install python3.11 python3.11-venv) or set PYTHON to its path."
  find_python && return
  if ! any_python="$(find_any_python)"; then
    say "Python 3.11 was not found, and no Python from 3.9 on, with venv, to download it. $remedy"
    return 1
  fi
  say "Python 3.11 was not found; $any_python downloads it with uv into .tools/python (once)"
  mkdir -p "$TOOLS"
  download_python "$any_python" >"$TOOLS/python.log" 2>&1 && find_python && return
  say "Python 3.11 was not found, and its download failed (see .tools/python.log). $remedy"
  return 1
}

# The pinned uv, checked against its hash, knows the address and the hash of each Python that it downloads.
download_python() {
  local any_python="$1" uv="$TOOLS/uv"
  "$any_python" -m venv --clear "$uv" &&
    sed -n '/^uv==/,/[^\\]$/p' scripts/lib/tools.txt >"$uv/requirements.txt" &&
    "$uv/bin/python" -m pip install -qq --disable-pip-version-check --only-binary :all: \
      --require-hashes --requirement "$uv/requirements.txt" &&
    UV_SYSTEM_CERTS="${UV_SYSTEM_CERTS:-true}" \
      "$uv/bin/uv" python install --no-progress --no-bin --install-dir "$TOOLS/python" 3.11 &&
    rm -rf "$uv"
}

# Prints a digest of the files that an installation depends on. It includes the project's folder, because the programs
# in a moved or copied .venv point to the old folder.
stamp_of() { { printf '%s\n' "$PWD"; cat "$@"; } | sha256sum | cut -d' ' -f1; }
is_stamped() { [ "$(cat "$1/$2" 2>/dev/null)" = "$3" ] && [ -x "$1/bin/python" ]; }

# Holds a lock until the script ends: of two scripts started together, one installs. Needs flock; does nothing without.
lock_project() {
  command -v flock >/dev/null 2>&1 || return 0
  exec 9<scripts/lib/bootstrap.sh
  flock --nonblock 9 || { say "another script is installing; waiting for it"; flock 9; }
}
unlock_project() { exec 9<&-; }

install_tools() {
  local stamp python entry
  stamp="$(stamp_of scripts/lib/tools.txt)"
  is_stamped "$TOOLS" .stamp "$stamp" && return
  python="$(provide_python)" || exit 1
  say "installing Poetry and uv into .tools (once)"
  # A downloaded Python stays: the tools and .venv may be made from it.
  for entry in "$TOOLS"/* "$TOOLS/.stamp"; do [ "$entry" = "$TOOLS/python" ] || rm -rf "$entry"; done
  if ! "$python" -m venv "$TOOLS" >/dev/null 2>&1; then
    say "$python cannot make virtual environments (Debian 12: apt-get install python3.11-venv)"
    exit 1
  fi
  "$TOOLS/bin/python" -m pip install -qq --disable-pip-version-check --only-binary :all: \
    --require-hashes --requirement scripts/lib/tools.txt
  printf '%s' "$stamp" >"$TOOLS/.stamp"
}

# uv does not read pip's settings, and many company machines are set up for pip alone.
let_uv_follow_pip() {
  local index
  export UV_SYSTEM_CERTS="${UV_SYSTEM_CERTS:-true}"
  [ -z "${UV_DEFAULT_INDEX:-}${UV_INDEX_URL:-}" ] || return 0
  index="${PIP_INDEX_URL:-$("$TOOLS/bin/python" -m pip config get global.index-url 2>/dev/null || true)}"
  [ -z "$index" ] || export UV_DEFAULT_INDEX="$index"
}

# Replaces .venv by the locked packages that these options of `poetry export` select.
make_environment() {
  local python quiet=--quiet
  python="$(provide_python)" || exit 1
  [ -t 2 ] && quiet=
  say "installing the locked packages into .venv (once; about 3 GB, some minutes on a slow line)"
  let_uv_follow_pip
  "$TOOLS/bin/poetry" export --quiet "$@" --format requirements.txt --output "$TOOLS/requirements.txt"
  # --seed adds pip, which `recpolicy data fetch` and local pipelines call.
  "$TOOLS/bin/uv" venv --quiet --clear --no-project --python "$python" --seed "$VENV"
  "$TOOLS/bin/uv" pip install $quiet --python "$VENV/bin/python" --require-hashes --requirement "$TOOLS/requirements.txt"
}

# Installs the kernel of the notebooks: `install_kernel --sys-prefix` for Jupyter in .venv, `--prefix FOLDER` for another.
# A notebook may import TensorFlow before recpolicy sets these variables.
install_kernel() {
  "$VENV/bin/python" -m ipykernel install "$@" --env TF_USE_LEGACY_KERAS 1 --env TF_CPP_MIN_LOG_LEVEL 3 >/dev/null
}

install_packages() {
  make_environment --all-extras --with dev,docs
  install_kernel --sys-prefix
  printf '%s' "$1" >"$VENV/.stamp"
}

# Installs recpolicy itself, editable. A change of pyproject.toml may change its name, version or commands.
install_project() {
  if ! VIRTUAL_ENV="$VENV" "$TOOLS/bin/poetry" install --no-interaction --only-root >"$TOOLS/install.log" 2>&1; then
    cat "$TOOLS/install.log" >&2
    exit 1
  fi
  printf '%s' "$1" >"$VENV/.stamp-project"
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
