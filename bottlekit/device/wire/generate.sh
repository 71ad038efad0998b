#!/bin/sh
# Generate the Python of bottlekit.thrift again, into the folder given or into the committed one.
# Wants Apache Thrift's compiler, 0.17 (Debian: apt-get install thrift-compiler).
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-$here/generated}
mkdir -p "$out"
thrift --gen py:slots -out "$out" "$here/bottlekit.thrift"
rm -f "$out"/rpc/*-remote  # a command-line client that nobody needs
