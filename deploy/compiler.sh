#!/bin/sh
# hnswlib, the reference engine of the tests, comes as source: it needs a C++ compiler and Python's headers.
set -eu
if command -v c++ >/dev/null 2>&1 || command -v g++ >/dev/null 2>&1; then
    exit 0
fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "Installing g++ and python3-dev with apt-get (hnswlib is built from source)"
    apt-get update -qq && apt-get install -y -qq g++ python3-dev >/dev/null
    exit 0
fi
echo "A C++ compiler is missing (hnswlib is built from source). Debian/Ubuntu: sudo apt-get install g++ python3-dev" >&2
exit 1
