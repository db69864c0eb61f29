#!/usr/bin/env bash
# Brings Prometheus and promtool, with which alert rules and dashboards are tested: by apt when root.
# Says in one line what is missing; that is an error in CI only, where every test must run.
set -u

has_prometheus() { command -v prometheus >/dev/null && command -v promtool >/dev/null; }

if ! has_prometheus && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "installing prometheus for the tests"
  log=$(mktemp)
  # RUNLEVEL=1 keeps the package from starting a server of its own; the tests start private ones.
  { apt-get update && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive \
      apt-get install -y --no-install-recommends prometheus; } >"$log" 2>&1 || tail -n 5 "$log"
  rm -f "$log"
fi
has_prometheus && exit 0
echo "missing for the tests of alerts: Prometheus with promtool (as root: apt-get install prometheus)" >&2
[ "${CI:-}" != true ]
