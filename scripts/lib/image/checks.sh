# Sourced by scripts/image-check. Checks the images and prints the results.
# Globals of the caller: STORAGE, RUN, JSON, TARGETS, PIP_MOUNT. Set here: WORK, CONTAINER, ENTRYPOINT, CHECKS, SERVER.

CHECKS=() SERVER='' WORK=''

# Makes the folders that a user would mount into the container. The image's user may write to them.
prepare_work() {
  WORK="$STORAGE/work"
  rm -rf "$WORK"
  mkdir -p "$WORK/ml-100k" "$WORK/runs"
  [ ! -f ml-100k/u.data ] || cp ml-100k/* "$WORK/ml-100k/"
  [ -z "$RUN" ] || cp -r "$RUN" "$WORK/runs/from-option"
  chmod -R a+rwX "$WORK"
}

# Runs a command in the container as the image's user. buildah ignores entrypoints, so `through_entrypoint` adds it.
in_container() {
  in_storage run --volume "$WORK/ml-100k:/workspace/ml-100k" --volume "$WORK/runs:/workspace/runs" "$CONTAINER" -- "$@"
}
through_entrypoint() { in_container "$ENTRYPOINT" "$@"; }

# expect TARGET DESCRIPTION COMMAND...: records whether this command succeeds, as it must.
expect() {
  local target="$1" description="$2" log="$STORAGE/check.log" started=$SECONDS result=ok
  shift 2
  "$@" >"$log" 2>&1 || result=FAILED
  CHECKS+=("$target"$'\t'"$description"$'\t'"$result"$'\t'"$((SECONDS - started))")
  [ "$result" = ok ] || tail -n 20 "$log" >&2
  printf '%-8s %-60s %s\n' "$target" "$description" "$result" >&2
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
  expect "$1" "runs as uid 1000" in_container sh -c '[ "$(id -u)" = 1000 ]'
  expect "$1" "its user cannot change the installation" \
    in_container sh -c '[ ! -w /opt/venv ] && [ ! -w /opt/venv/bin/recpolicy ]'
  expect "$1" "its user can write to the working folder" in_container sh -c 'touch file && rm file'
  expect "$1" "its user can write to the state folder" in_container sh -c 'touch state/file && rm state/file'
  expect "$1" "it has PostgreSQL's driver" in_container python3 -c 'import psycopg'
  expect "$1" "no compiler, no Poetry" in_container sh -c '! command -v gcc && ! command -v make && ! command -v poetry'
  expect "$1" "it has none of this machine's pip settings" \
    in_container sh -c '[ -z "$(find /etc/xdg/pip /etc/pip.conf /build -type f 2>/dev/null)" ]'
  expect "$1" "the entrypoint runs a shell command unchanged" through_entrypoint sh -c 'python3 -c "import recpolicy"'
  expect "$1" "no program on the PATH hides a command of recpolicy" in_container python3 -c '
import shutil, typer.main
from recpolicy.cli.main import app
hidden = [name for name in typer.main.get_command(app).commands if shutil.which(name)]
assert not hidden, hidden'
}

check_serving() {
  expect "$1" "no TensorFlow" in_container python3 -c '
import importlib.util
assert importlib.util.find_spec("tensorflow") is None'
  expect "$1" "its settings are valid" in_container python3 -c '
import os, pathlib
from recpolicy.server.settings import read_settings
assert read_settings(pathlib.Path(os.environ["RECPOLICY_CONFIG"])).jobs.cron'
  expect "$1" "no pip in its environment" in_container sh -c '[ ! -e /opt/venv/bin/pip ] && ! python3 -m pip --version'
}

check_full() {
  expect "$1" "jupyter --version" through_entrypoint jupyter --version
  check_jupyter "$1"
  expect "$1" "it has the Kubeflow SDK" through_entrypoint python3 -c 'import kfp.dsl.executor_main'
  if [ -f "$WORK/ml-100k/u.data" ]; then
    expect "$1" "recpolicy demo (50 items, 20,000 interactions)" through_entrypoint demo --items 50 --total-timesteps 20000
  else
    expect "$1" "recpolicy demo, including the download of its data" in_storage run --volume "$PIP_MOUNT" \
      --volume "$WORK/ml-100k:/workspace/ml-100k" --volume "$WORK/runs:/workspace/runs" "$CONTAINER" -- \
      env SSL_CERT_FILE=/etc/xdg/pip/ca.crt "$ENTRYPOINT" demo --items 50 --total-timesteps 20000
  fi
}

# Runs the image's health check once while the service runs and once after it stopped.
check_service() {
  local run=runs/demo port=$((20000 + RANDOM % 20000))
  [ -z "$RUN" ] || run=runs/from-option
  if [ ! -f "$WORK/$run/recpolicy.json" ]; then
    say "$1: no policy to serve, because the demo did not run; name one with --run"
    return
  fi
  printf 'recpolicy\0serve\0--port\0%s' "$port" > "$WORK/runs/command-line"
  start_server serve "$run" --port "$port"
  expect "$1" "recpolicy serve answers /healthz" wait_until is_healthy
  stop_server
  expect "$1" "the health check fails after it stopped" is_unhealthy
}

is_healthy() { in_container python3 /usr/local/lib/recpolicy/healthcheck.py runs/command-line; }
is_unhealthy() { ! is_healthy; }

check_jupyter() {
  local port=$((20000 + RANDOM % 20000))
  start_server jupyter lab --port "$port" --ServerApp.port_retries=0
  expect "$1" "jupyter lab answers and requires its token" wait_until jupyter_refuses "$port"
  stop_server
}

jupyter_refuses() {
  in_container python3 -c '
import sys, urllib.error, urllib.request
address = f"http://127.0.0.1:{sys.argv[1]}/api"
print(urllib.request.urlopen(address, timeout=4).read())
try:
    urllib.request.urlopen(f"{address}/contents", timeout=4)
except urllib.error.HTTPError as error:
    sys.exit(error.code != 403)
sys.exit("it lists its files without a token")' "$1"
}

# Starts a server in its own process group, so that stopping the group also stops buildah's child processes.
start_server() {
  set -m
  through_entrypoint "$@" >"$STORAGE/server.log" 2>&1 &
  SERVER=$!
  set +m
}

# Stops the server and waits for its whole group: a child process may finish after its parent.
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

# Repeats a command until it succeeds. Returns 1 when the server ends or after about a minute.
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

# Prints the sizes to stdout. Returns 1 if a check failed.
print_results() {
  local target failed
  failed="$(printf '%s\n' "${CHECKS[@]}" | grep -c $'\tFAILED\t' || true)"
  printf '%-10s %s\n' image size
  for target in "${TARGETS[@]}"; do printf '%-10s %s\n' "$target" "$(size_of "$target")"; done
  [ -z "$JSON" ] || write_results > "$JSON"
  say "${#CHECKS[@]} checks, $failed failed"
  [ "$failed" = 0 ]
}

# Writes the results as JSON. No value contains a quote or a backslash.
write_results() {
  local target description result seconds separator=''
  printf '{"sizes": {'
  for target in "${TARGETS[@]}"; do
    printf '%s"%s": "%s"' "$separator" "$target" "$(size_of "$target")"
    separator=', '
  done
  printf '},\n "checks": ['
  separator=$'\n  '
  while IFS=$'\t' read -r target description result seconds; do
    printf '%s{"target": "%s", "check": "%s", "result": "%s", "seconds": %s}' \
      "$separator" "$target" "$description" "$result" "$seconds"
    separator=$',\n  '
  done < <(printf '%s\n' "${CHECKS[@]}")
  printf '\n ]}\n'
}
