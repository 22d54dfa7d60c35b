#!/usr/bin/env bash
# Asks the engine, and leaves junit.xml, badge.svg, badge.json and report.txt in a new folder; fails as clipref fails.
#
#   CLIPREF_COMMAND   the program clipref
#   CLIPREF_ENGINE, CLIPREF_LEVELS, CLIPREF_FULL, CLIPREF_PROFILE, CLIPREF_PRECISION, CLIPREF_EXPECTED_FAILURES,
#   CLIPREF_MINUTE    as action.yml has them
#   CLIPREF_OUT       the folder
#   GITHUB_OUTPUT     a file, to which `passed` and `badge` are written
#   GITHUB_STEP_SUMMARY  a file, to which the report is written
set -euo pipefail

[ -n "$CLIPREF_ENGINE" ] || { echo "::error::engine is empty; expected such as exec:./my_clip" && exit 2; }
mkdir -p "$(dirname "$CLIPREF_OUT")"
mkdir "$CLIPREF_OUT" || { echo "::error::out is '$CLIPREF_OUT', which is there already; name a new folder" && exit 2; }
arguments=(--profile "$CLIPREF_PROFILE" --precision "$CLIPREF_PRECISION" --junit "$CLIPREF_OUT/junit.xml")
arguments+=(--badge "$CLIPREF_OUT/badge.svg" --badge "$CLIPREF_OUT/badge.json")
if [ "$CLIPREF_MINUTE" = true ]; then arguments+=(--minute); fi
if [ -n "$CLIPREF_EXPECTED_FAILURES" ]; then arguments+=(--expected-failures "$CLIPREF_EXPECTED_FAILURES"); fi
# Names of levels and models have no spaces, and none is a pattern: each word is one.
read -ra levels <<<"$CLIPREF_LEVELS"
read -ra full <<<"$CLIPREF_FULL"
if [ ${#levels[@]} -gt 0 ]; then arguments+=(--levels "${levels[@]}"); fi
if [ ${#full[@]} -gt 0 ]; then arguments+=(--full "${full[@]}"); fi

# What an engine says can't be a command to the runner.
token=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
code=0
echo "::stop-commands::$token"
"$CLIPREF_COMMAND" conformance run "$CLIPREF_ENGINE" "${arguments[@]}" | tee "$CLIPREF_OUT/report.txt" || code=$?
echo "::$token::"
if [ -f "$CLIPREF_OUT/badge.json" ]; then
    message='import json, sys; print(json.load(open(sys.argv[1], encoding="utf-8"))["message"])'
    badge=$("$(dirname "$CLIPREF_COMMAND")/python" -c "$message" "$CLIPREF_OUT/badge.json")
    {
        echo "### CLIP conformance: $badge"
        echo
        sed 's/^/    /' "$CLIPREF_OUT/report.txt" # indented, which Markdown shows as it is
    } >>"$GITHUB_STEP_SUMMARY"
    echo "badge=$badge" >>"$GITHUB_OUTPUT"
fi
if [ "$code" = 0 ]; then passed=true; else passed=false; fi
echo "passed=$passed" >>"$GITHUB_OUTPUT"
exit "$code"
