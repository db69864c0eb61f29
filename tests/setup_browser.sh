#!/usr/bin/env bash
# Brings the browser in which the console is tested: Chromium by apt when root, with fonts for Korean.
# Says in one line what is missing; that is an error in CI only, where every test must run.
set -u

has_browser() { command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null; }

if ! has_browser && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "installing chromium for the tests"
  log=$(mktemp)
  { apt-get update && DEBIAN_FRONTEND=noninteractive \
      apt-get install -y --no-install-recommends chromium fonts-noto-cjk; } >"$log" 2>&1 || tail -n 5 "$log"
  rm -f "$log"
fi
has_browser && exit 0
echo "missing for the tests of the console: Chromium (as root: apt-get install chromium; or CHROMIUM=its path)" >&2
[ "${CI:-}" != true ]
