#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# The long run that tests/run.sh has no time for: many clients with random prompts, who leave in every
# phase of a request, and KV pages for a quarter of what they want.
#   tests/soak.sh [--minutes N] [--clients N] [--seed N] [--bin PROGRAM]
# (default: 15 minutes, 64 clients, build/release/lacuna).  At the end: no crash, no wrong byte against
# the same requests alone, no page or seat lost, every gauge back at 0, and there were preemptions and
# clients that left while queued, in prefill and in decode; exit 1 if not.  Fewer than about 40 clients
# get more than a quarter: the longest request must fit.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
case "${1-}" in
-h | --help) sed -n '4,11s/^# \{0,1\}//p' "$0"; exit 0 ;;
esac
python=$root/build/venv/bin/python
if [[ ! -x $python || ! -x $root/build/release/lacuna ]]; then
    echo "soak.sh: run tests/run.sh first: it makes build/venv and build/release" >&2
    exit 1
fi
PYTHONPATH=$root/tests/api:$root/tests/bench exec "$python" -B "$root/tests/soak.py" "$@"
