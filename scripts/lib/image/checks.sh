# Sourced by scripts/image-check: what must be true in the images.
# Globals of the caller: STORAGE, RUN, JSON, TARGETS, PIP_MOUNT. Set here: WORK, CONTAINER, ENTRYPOINT, CHECKS, SERVER.

CHECKS=() SERVER='' WORK=''

# The folders that a user of the image would mount, open to its user.
prepare_work() {
  WORK="$STORAGE/work"
  rm -rf "$WORK"
  mkdir -p "$WORK/ml-100k" "$WORK/runs"
  [ ! -f ml-100k/u.data ] || cp ml-100k/* "$WORK/ml-100k/"
  [ -z "$RUN" ] || cp -r "$RUN" "$WORK/runs/given"
  chmod -R a+rwX "$WORK"
}

# Runs words in the container as the image's user. buildah knows no entrypoint, so `started_with` names it.
inside() {
  in_storage run --volume "$WORK/ml-100k:/workspace/ml-100k" --volume "$WORK/runs:/workspace/runs" "$CONTAINER" -- "$@"
}
started_with() { inside "$ENTRYPOINT" "$@"; }

# expect TARGET WHAT WORDS...: these words must succeed.
expect() {
  local target="$1" what="$2" log="$STORAGE/check.log" started=$SECONDS verdict=ok
  shift 2
  "$@" >"$log" 2>&1 || verdict=FAILED
  CHECKS+=("$target"$'\t'"$what"$'\t'"$verdict"$'\t'"$((SECONDS - started))")
  [ "$verdict" = ok ] || tail -n 20 "$log" >&2
  printf '%-8s %-60s %s\n' "$target" "$what" "$verdict" >&2
}

check_image() {
  local image
  image="$(image_name "$1")"
  ENTRYPOINT="$(in_storage inspect --type image --format '{{index .Docker.Config.Entrypoint 0}}' "$image")"
  CONTAINER="$(in_storage from --pull-never "$image")"
  check_any "$1"
  "check_$1" "$1"
  check_service "$1"
  in_storage rm "$CONTAINER" >/dev/null
}

check_any() {
  expect "$1" "runs as uid 1000" inside sh -c '[ "$(id -u)" = 1000 ]'
  expect "$1" "its user cannot change the installation" \
    inside sh -c '[ ! -w /opt/venv ] && [ ! -w /opt/venv/bin/recpolicy ]'
  expect "$1" "its user can write to the working folder" inside sh -c 'touch here && rm here'
  expect "$1" "its user can write to the state folder" inside sh -c 'touch state/here && rm state/here'
  expect "$1" "PostgreSQL's driver is there" inside python3 -c 'import psycopg'
  expect "$1" "no compiler, no Poetry" inside sh -c '! command -v gcc && ! command -v make && ! command -v poetry'
  expect "$1" "nothing of this machine's pip settings" \
    inside sh -c '[ -z "$(find /etc/xdg/pip /etc/pip.conf /build -type f 2>/dev/null)" ]'
  expect "$1" "words of a shell are run as they are" started_with sh -c 'python3 -c "import recpolicy"'
  expect "$1" "no program hides a command of recpolicy" inside python3 -c '
import shutil, typer.main
from recpolicy.cli.main import app
hidden = [name for name in typer.main.get_command(app).commands if shutil.which(name)]
assert not hidden, hidden'
}

check_serving() {
  expect "$1" "no TensorFlow" inside python3 -c '
import importlib.util
assert importlib.util.find_spec("tensorflow") is None'
  expect "$1" "its settings can be read" inside python3 -c '
import os, pathlib
from recpolicy.server.settings import read_settings
assert read_settings(pathlib.Path(os.environ["RECPOLICY_CONFIG"])).jobs.cron'
  expect "$1" "no pip in its environment" inside sh -c '[ ! -e /opt/venv/bin/pip ] && ! python3 -m pip --version'
}

check_full() {
  expect "$1" "jupyter --version" started_with jupyter --version
  check_jupyter "$1"
  expect "$1" "the Kubeflow SDK is there" started_with python3 -c 'import kfp.dsl.executor_main'
  if [ -f "$WORK/ml-100k/u.data" ]; then
    expect "$1" "recpolicy demo (50 items, 20,000 interactions)" started_with demo --items 50 --interactions 20000
  else
    expect "$1" "recpolicy demo, which fetches its data" in_storage run --volume "$PIP_MOUNT" \
      --volume "$WORK/ml-100k:/workspace/ml-100k" --volume "$WORK/runs:/workspace/runs" "$CONTAINER" -- \
      env SSL_CERT_FILE=/etc/xdg/pip/ca.crt "$ENTRYPOINT" demo --items 50 --interactions 20000
  fi
}

# The image's own health check is asked, once while the service runs and once after it was stopped.
check_service() {
  local run=runs/demo port=$((20000 + RANDOM % 20000))
  [ -z "$RUN" ] || run=runs/given
  if [ ! -f "$WORK/$run/recpolicy.json" ]; then
    say "$1: nothing to serve, for the demo did not run; give a policy with --run"
    return
  fi
  printf 'recpolicy\0serve\0--port\0%s' "$port" > "$WORK/runs/command-line"
  start_server serve "$run" --port "$port"
  expect "$1" "recpolicy serve answers /healthz" wait_until is_healthy
  stop_server
  expect "$1" "the health check sees that it stopped" is_unhealthy
}

is_healthy() { inside python3 /usr/local/lib/recpolicy/healthcheck.py runs/command-line; }
is_unhealthy() { ! is_healthy; }

check_jupyter() {
  local port=$((20000 + RANDOM % 20000))
  start_server jupyter lab --port "$port" --ServerApp.port_retries=0
  expect "$1" "jupyter lab answers, but not without its token" wait_until jupyter_refuses "$port"
  stop_server
}

jupyter_refuses() {
  inside python3 -c '
import sys, urllib.error, urllib.request
address = f"http://127.0.0.1:{sys.argv[1]}/api"
print(urllib.request.urlopen(address, timeout=4).read())
try:
    urllib.request.urlopen(f"{address}/contents", timeout=4)
except urllib.error.HTTPError as refused:
    sys.exit(refused.code != 403)
sys.exit("it shows its files to anyone")' "$1"
}

# A process group of its own, so that stopping it stops what buildah started too.
start_server() {
  set -m
  started_with "$@" >"$STORAGE/server.log" 2>&1 &
  SERVER=$!
  set +m
}

# Waits for the whole group: what was started last may finish after its parent.
stop_server() {
  local attempt
  [ -n "$SERVER" ] || return 0
  kill -- "-$SERVER" 2>/dev/null || true
  wait "$SERVER" 2>/dev/null || true
  for attempt in {1..200}; do
    kill -0 -- "-$SERVER" 2>/dev/null || break
    [ "$attempt" != 200 ] || kill -KILL -- "-$SERVER" 2>/dev/null || true
    sleep 0.1
  done
  SERVER=''
}

# Until these words succeed, as long as the server lives and at most a minute or two.
wait_until() {
  local attempt
  for attempt in {1..120}; do
    "$@" && return
    kill -0 "$SERVER" 2>/dev/null || break
    sleep 0.3
  done
  cat "$STORAGE/server.log"
  return 1
}

size_of() { in_storage images --format '{{.Size}}' "$(image_name "$1")"; }

# Sizes to stdout; with failed checks the script fails.
print_results() {
  local target failed
  failed="$(printf '%s\n' "${CHECKS[@]}" | grep -c $'\tFAILED\t' || true)"
  printf '%-10s %s\n' image size
  for target in "${TARGETS[@]}"; do printf '%-10s %s\n' "$target" "$(size_of "$target")"; done
  [ -z "$JSON" ] || write_results > "$JSON"
  say "${#CHECKS[@]} checks, $failed failed"
  [ "$failed" = 0 ]
}

# No value holds a quote or a backslash.
write_results() {
  local target what verdict seconds separator=''
  printf '{"sizes": {'
  for target in "${TARGETS[@]}"; do
    printf '%s"%s": "%s"' "$separator" "$target" "$(size_of "$target")"
    separator=', '
  done
  printf '},\n "checks": ['
  separator=$'\n  '
  while IFS=$'\t' read -r target what verdict seconds; do
    printf '%s{"target": "%s", "check": "%s", "verdict": "%s", "seconds": %s}' \
      "$separator" "$target" "$what" "$verdict" "$seconds"
    separator=$',\n  '
  done < <(printf '%s\n' "${CHECKS[@]}")
  printf '\n ]}\n'
}
