#!/bin/sh
# Write requirements.lock: what serving installs, by the versions of constraints.txt, with the hashes of every file
# that the registry holds of them, for every platform. usage: lock.sh PYTHON VENV
set -eu
python=$1
venv=$2
"$python" -m venv "$venv"
"$venv/bin/python" -m pip install -qq uv
printf 'setuptools\n' | "$venv/bin/uv" pip compile pyproject.toml - --constraint constraints.txt --universal \
    --python-version 3.11 --generate-hashes --no-header --no-annotate --quiet --output-file requirements.lock
