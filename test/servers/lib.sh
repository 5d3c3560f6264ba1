# lib.sh - shared by NAME-up.sh / NAME-down.sh (sourced; bash only).
# Contract: `NAME-up.sh DIR [PORT]` starts servers on 127.0.0.1, waits until they
# answer, prints only `export KEY=value` lines on stdout (also kept in DIR/env).
# Logs: DIR/*.log, pids: DIR/pids (one a line). Running it again while the servers
# are up prints the same lines; after a crash it cleans up and starts afresh.
# PORT=0 picks a free range. `NAME-down.sh DIR` stops by pid and waits.
# Meant for root (apt, FUSE), nothing else on the machine is touched.
set -euo pipefail
die() { echo "${0##*/}: $*" >&2; exit 1; }

need_apt() {  # need_apt PKG...: install those that are missing, without recommends
  local p miss=()
  for p; do
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$p" 2>/dev/null || true)" = installed ] || miss+=("$p")
  done
  [ ${#miss[@]} -eq 0 ] && return 0
  [ "$(id -u)" = 0 ] || die "missing Debian packages: ${miss[*]} (not root, so not installed)"
  echo "${0##*/}: apt-get install ${miss[*]}" >&2
  # RUNLEVEL=1 + a policy of exit 101: maintainer scripts must not start daemons.
  local get=(env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get -y -qq -o DPkg::Lock::Timeout=300)
  { [ -e /usr/sbin/policy-rc.d ] || { printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d; chmod +x /usr/sbin/policy-rc.d; }
    "${get[@]}" install --no-install-recommends "${miss[@]}" </dev/null ||
      { "${get[@]}" update && "${get[@]}" install --no-install-recommends "${miss[@]}" </dev/null; }
  } >>"$DIR/apt.log" 2>&1 || die "apt-get install ${miss[*]} failed, see $DIR/apt.log"
}

need_tool() {  # need_tool BINARY VERSION PACKAGE: build what tools/go.mod pins, once; sets BIN
  local c=${SLUICE_TOOLS:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/sluice-tools}/$2 t
  BIN=$c/$1
  [ -x "$BIN" ] && return 0
  command -v go >/dev/null || die "go is not on PATH, cannot build $3"
  mkdir -p "$c"; echo "${0##*/}: go build $3" >&2
  # another name + rename: two callers at once never see half a file
  t=$(mktemp "$c/.b.XXXXXX")
  (cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../../tools" && CGO_ENABLED=0 GOFLAGS= go build -o "$t" "$3") >>"$DIR/build.log" 2>&1 ||
    { rm -f "$t"; die "go build $3 failed, see $DIR/build.log"; }
  chmod 755 "$t"; mv -f "$t" "$BIN"
}

port_busy() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
ports() {  # ports N: check PORT..PORT+N-1 are free (PORT=0: find such a range)
  local i p try
  if [ "$PORT" = 0 ]; then
    for try in $(seq 50); do
      PORT=$((20000 + (RANDOM % 1200) * 10))
      for ((i = 0; i < $1; i++)); do port_busy $((PORT + i)) && continue 2; done
      return 0
    done; die "found no free range of $1 ports"
  fi
  for ((i = 0; i < $1; i++)); do
    p=$((PORT + i)); ! port_busy $p || die "127.0.0.1:$p is already in use (not by $DIR)"
  done
}

ours() {  # ours PID: alive, not a zombie, and started for this DIR (pids get reused)
  # zombies have an empty environ; {} 2>: the process may vanish at any point
  { tr '\0' '\n' <"/proc/$1/environ" | grep -qxF "SLUICE_SERVER_DIR=$DIR"; } 2>/dev/null
}
stop_all() {  # newest first: TERM, wait 10 s, KILL, wait
  local p i pids=()
  [ -f "$DIR/pids" ] && mapfile -t pids < <(tac "$DIR/pids")
  for p in "${pids[@]}"; do ours "$p" && kill "$p" 2>/dev/null || true; done
  for p in "${pids[@]}"; do
    for ((i = 0; i < 100; i++)); do ours "$p" || continue 2; sleep 0.1; done
    kill -9 "$p" 2>/dev/null || true
    for ((i = 0; i < 50; i++)); do ours "$p" || continue 2; sleep 0.1; done
    die "pid $p does not go away"
  done
  rm -f "$DIR/pids" "$DIR/env"
}

up_begin() {  # up_begin DEFAULT_PORT "$@"
  [ -n "${2:-}" ] || die "usage: ${0##*/} DIR [PORT]"
  mkdir -p "$2"; DIR=$(cd "$2" && pwd -P); PORT=${3:-$1}
  [[ $PORT =~ ^[0-9]+$ ]] || die "PORT must be a number, not '$PORT'"
  exec 9>"$DIR/.lock"; flock -w 300 9 || die "another $0 holds $DIR"
  if [ -f "$DIR/env" ] && [ -s "$DIR/pids" ]; then
    local p all=1; while read -r p; do ours "$p" || all=0; done <"$DIR/pids"
    [ $all = 0 ] || { cat "$DIR/env"; exit 0; }   # already up
  fi
  stop_all; : >"$DIR/pids"; DONE=0
  trap '[ $DONE = 1 ] || { trap - EXIT; stop_all; }' EXIT; trap 'exit 130' INT TERM
}
spawn() {  # spawn NAME CMD...: background, own session, log to DIR/NAME.log
  local n=$1; shift
  # Close every inherited descriptor above 2: else the server keeps DIR/.lock, or the
  # lock of `flock FILE NAME-up.sh`, or a test's pipe, for as long as it lives.
  SLUICE_SERVER_DIR=$DIR setsid bash -c 'for f in /proc/$$/fd/*; do f=${f##*/}
    [ "$f" -le 2 ] || eval "exec $f>&-"; done; exec "$@"' spawn "$@" >"$DIR/$n.log" 2>&1 </dev/null &
  local p=$! i; echo $p >>"$DIR/pids"
  # until the exec is through, /proc/PID/environ is still this shell's
  for ((i = 0; i < 100; i++)); do ours $p || ! kill -0 $p 2>/dev/null && break; sleep 0.02; done
}
wait_for() {  # wait_for SECONDS WHAT CMD...: until CMD succeeds or a process dies
  local end=$((SECONDS + $1)) what=$2 p; shift 2
  until "$@" >/dev/null 2>&1; do
    while read -r p; do
      ours "$p" || { tail -n 5 "$DIR"/*.log >&2; die "$what: pid $p died while starting, see $DIR/*.log"; }
    done <"$DIR/pids"
    [ $SECONDS -lt $end ] || { tail -n 5 "$DIR"/*.log >&2; die "$what: not ready in time, see $DIR/*.log"; }
    sleep 0.1
  done
}
up_done() { printf 'export %s\n' "$@" >"$DIR/env"; DONE=1; cat "$DIR/env"; }
down() {
  [ -n "${1:-}" ] || die "usage: ${0##*/} DIR"
  [ -d "$1" ] || return 0
  DIR=$(cd "$1" && pwd -P); exec 9>"$DIR/.lock"; flock -w 300 9 || die "another script holds $DIR"
  stop_all
}
