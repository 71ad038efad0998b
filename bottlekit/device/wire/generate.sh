#!/bin/sh
# Generate the Python of both .thrift files again, into the folder given or into the committed one.
# Wants Apache Thrift's compiler, 0.17 (Debian: apt-get install thrift-compiler).
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-$here/generated}
mkdir -p "$out"
for idl in bottlekit layers; do
  thrift --gen py:slots -out "$out" "$here/$idl.thrift"
done
rm -f "$out"/*/*-remote  # command-line clients that nobody needs
