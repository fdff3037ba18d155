# Shared by the lab's scripts: where things are cached and how a failure is told. Sourced, never run.
# shellcheck shell=bash

cache=${HOTBAY_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/hotbay}

# Guest kernels, as flavours: VERSION-KIND is the tail of a Debian meta-package's name.
# The emulated host itself runs the first one, or the one that HOTBAY_LAB_HOST names.
flavours=(6.12-amd64 6.12-cloud-amd64 6.1-amd64 6.1-cloud-amd64)
host_flavour=${HOTBAY_LAB_HOST:-${flavours[0]}}
[[ " ${flavours[*]} " == *" $host_flavour "* ]] ||
  { printf 'lab: HOTBAY_LAB_HOST=%s: there are %s\n' "$host_flavour" "${flavours[*]}" >&2; exit 125; }

# The lab's own failures, so that a caller can tell them from the command's.
readonly lab_failed=125 lab_timed_out=124 lab_frozen=123

note() { printf 'lab: %s\n' "$*" >&2; }
die() { note "$*"; exit "$lab_failed"; }

# publish DIR COMMAND...: runs COMMAND with a fresh directory as its last argument and, when it
# succeeds, renames that directory to DIR. A DIR that exists is complete.
publish() {
  local target=$1 fresh
  shift
  [ -d "$target" ] && return
  note "building ${target#"$cache/"}"
  mkdir -p "${target%/*}"
  fresh=$(mktemp -d "${target%/*}/.fresh.XXXXXX")
  chmod 755 "$fresh"
  if ! "$@" "$fresh" >"$cache/setup.log" 2>&1; then
    rm -rf "$fresh"
    tail -n 15 "$cache/setup.log" >&2
    die "cannot build $target: the lines above are the end of $cache/setup.log"
  fi
  mv "$fresh" "$target"
}
