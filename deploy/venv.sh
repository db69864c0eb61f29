#!/bin/sh
# Make the virtual environment VENV with PYTHON, or say in one line what is missing.
# usage: venv.sh PYTHON VENV   (PYTHON is empty when no Python 3.11 or newer was found)
set -eu
python=$1
venv=$2

if [ -z "$python" ]; then
    echo "Python 3.11 or newer was not found. Debian/Ubuntu: sudo apt-get install python3 python3-venv; macOS: brew install python@3.12" >&2
    exit 1
fi
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        # Debian ships the module apart from Python, under the name of the exact version.
        package="$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"
        echo "Installing $package with apt-get (Python's venv module is missing)"
        apt-get update -qq && apt-get install -y -qq "$package" >/dev/null
    else
        echo "Python's venv module is missing. Debian/Ubuntu: sudo apt-get install python3-venv" >&2
        exit 1
    fi
fi
"$python" -m venv "$venv"
