# Sourced by scripts/image-check. Opens buildah's storage, makes the base image and builds the images.
# Globals of the caller: STORAGE, BASE. Set here: BASE_IMAGE, PIP_MOUNT.

need_tool() {
  command -v "$1" >/dev/null 2>&1 && return
  say "$1 was not found. Install it (Debian: apt-get install $1), then run scripts/image-check again."
  exit 1
}

# chroot isolation needs no namespaces, so it also works inside a container. buildah picks a storage driver that works
# (overlay, else vfs, which copies every layer). With --root it ignores STORAGE_DRIVER, so the option passes it on.
in_storage() {
  BUILDAH_ISOLATION="${BUILDAH_ISOLATION:-chroot}" TMPDIR="$STORAGE/tmp" \
    buildah --root "$STORAGE/root" --runroot "$STORAGE/run" ${STORAGE_DRIVER:+--storage-driver "$STORAGE_DRIVER"} "$@"
}

# A storage without a name is removed when the script ends, also after a failure.
open_storage() {
  if [ -z "$STORAGE" ]; then
    STORAGE="$(mktemp -d "${TMPDIR:-/tmp}/recpolicy-images.XXXXXX")"
    trap 'stop_server; rm -rf "$STORAGE"' EXIT
  else
    trap stop_server EXIT
  fi
  mkdir -p "$STORAGE/tmp" "$STORAGE/pip"
  STORAGE="$(cd "$STORAGE" && pwd)"
}

# Prints a setting of pip on this machine, from the environment or from pip's files.
pip_setting() {
  local python from_environment="PIP_${1^^}"
  from_environment="${from_environment//-/_}"
  [ -z "${!from_environment:-}" ] || { printf '%s\n' "${!from_environment}" && return; }
  python="$(find_python)" || return 0
  "$python" -m pip config get "global.$1" 2>/dev/null || true
}

# Writes pip's index and CA into one folder, which the build mounts. They belong to this machine, not to the image.
write_pip_settings() {
  local index cert
  index="$(pip_setting index-url)"
  cert="$(pip_setting cert)"
  {
    echo "[global]"
    [ -z "$index" ] || echo "index-url = $index"
    [ ! -f "$cert" ] || echo "cert = /etc/xdg/pip/ca.crt"
  } > "$STORAGE/pip/pip.conf"
  [ ! -f "$cert" ] || cp -L "$cert" "$STORAGE/pip/ca.crt"
  PIP_MOUNT="$STORAGE/pip:/etc/xdg/pip:ro"
}

# Sets BASE_IMAGE. The default is plain Debian: the Dockerfile must not rely on extras of Docker's Python images.
make_base() {
  local rootfs="$STORAGE/rootfs"
  BASE_IMAGE="${BASE:-localhost/debian-bookworm}"
  if [ -d "$BASE" ]; then
    BASE_IMAGE=localhost/recpolicy-base
    import_base "$BASE"
  elif [ -z "$BASE" ] && ! in_storage inspect --type image "$BASE_IMAGE" >/dev/null 2>&1; then
    say "making Debian bookworm with Python (debootstrap, some minutes)"
    rm -rf "$rootfs"
    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$rootfs" \
      >"$STORAGE/base.log" ||
      { tail -n 20 "$STORAGE/base.log" >&2 && exit 1; }
    rm -rf "$rootfs"/var/lib/apt/lists/* "$rootfs"/var/cache/apt/archives/*.deb
    import_base "$rootfs"
    rm -rf "$rootfs"
  fi
}

import_base() {
  local container
  container="$(in_storage from scratch)"
  in_storage add --quiet "$container" "$1" / >/dev/null
  in_storage commit --quiet --rm "$container" "$BASE_IMAGE" >/dev/null
}

image_name() { [ "$1" = full ] && echo localhost/recpolicy || echo "localhost/recpolicy-$1"; }

build_image() {
  local log="$STORAGE/build-$1.log" started=$SECONDS
  say "building $1 on $BASE_IMAGE (log: $log)"
  if ! in_storage bud --pull=false --format docker --build-arg "BASE_IMAGE=$BASE_IMAGE" --volume "$PIP_MOUNT" \
    --target "$1" --tag "$(image_name "$1")" . >"$log" 2>&1; then
    tail -n 30 "$log" >&2
    say "building $1 failed"
    exit 1
  fi
  say "built $1 in $((SECONDS - started)) s"
}
