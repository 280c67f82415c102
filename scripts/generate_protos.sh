#!/usr/bin/env bash
# Generates hetal/_pb from protos/. With --check: fails when the committed code is not what the protos give.
set -euo pipefail
cd "$(dirname "$0")/.."
out=hetal/_pb
if [ "${1:-}" = "--check" ]; then out=$(mktemp -d); trap 'rm -rf "$out"' EXIT; mkdir -p "$out/hetal/_pb"; root=$out; else root=.; fi
"${PYTHON:-python}" -m grpc_tools.protoc -Ihetal/_pb=protos/hetal/v1 --python_out="$root" --pyi_out="$root" --grpc_python_out="$root" hetal/_pb/hetal.proto
if [ "$root" != . ]; then
  for f in "$root"/hetal/_pb/*; do cmp "$f" "hetal/_pb/$(basename "$f")" || { echo "hetal/_pb is stale: run make protos" >&2; exit 1; }; done
fi
