#!/usr/bin/env bash
# Runs the tests of sweeps and of the app's commands with the newest Hydra, pre-releases included, in an environment of
# its own: scripts/test_hydra_prerelease.sh [pytest arguments]. Prints which version that was.
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || set -- tests/app/sweep tests/e2e/test_sweep.py tests/app/test_main.py
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
grep -vE '^(hydra-core|omegaconf|antlr4-python3-runtime)==' constraints.txt > "$work/constraints.txt"
"$work/venv/bin/pip" install -q --pre -c "$work/constraints.txt" hydra-core omegaconf -e ".[test]"
"$work/venv/bin/pip" list 2>/dev/null | grep -E '^(hydra-core|omegaconf) '
PATH="$work/venv/bin:$PATH" "$work/venv/bin/python" -m pytest -q "$@"
