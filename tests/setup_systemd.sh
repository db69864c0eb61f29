#!/usr/bin/env bash
# Brings systemd-analyze, with which the units are verified: by apt when root. Nothing is started.
# Says in one line what is missing; that is an error in CI only, where every test must run.
set -u

if ! command -v systemd-analyze >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "installing systemd-analyze for the tests"
  log=$(mktemp)
  { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends systemd; } \
    >"$log" 2>&1 || tail -n 5 "$log"
  rm -f "$log"
fi
command -v systemd-analyze >/dev/null && exit 0
echo "missing for the tests of units: systemd-analyze (as root: apt-get install systemd)" >&2
[ "${CI:-}" != true ]
