#!/bin/sh
# One command for a machine with a GPU: check the CUDA path against double precision, then time it.
# Needs Python with torch, transformers and Triton; no network, nothing installed. Options: see --help.
#   OUT=DIR     where gpu.json goes     PYTHON=python3.12     another interpreter
set -eu
cd "$(dirname "$0")/.."
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
exec "${PYTHON:-python3}" -m benchmarks.gpu "$@"
