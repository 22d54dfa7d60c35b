#!/usr/bin/env bash
# Installs clipref, as it is in the action's own checkout, into an environment that sees what CLIPREF_PYTHON has.
#
#   CLIPREF_ACTION   the folder of this file, in a checkout
#   CLIPREF_PYTHON   a Python of 3.10 or later
#   CLIPREF_MINUTE   "true": numpy and safetensors are all that is installed beside it
#   RUNNER_TEMP      a folder for the environment
#   GITHUB_OUTPUT    a file, to which `command`, the program clipref, is written
set -euo pipefail

case $CLIPREF_MINUTE in
    true | false) ;;
    *) echo "::error::minute is '$CLIPREF_MINUTE'; expected true or false" && exit 2 ;;
esac
"$CLIPREF_PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
    echo "::error::$CLIPREF_PYTHON is no Python of 3.10 or later; set up one before, or name it as python"
    exit 2
}
environment=$RUNNER_TEMP/clipref
# A Python engine's own packages are seen, so that module:name can be imported; nothing is changed where they are.
"$CLIPREF_PYTHON" -m venv --system-site-packages "$environment"
checkout=$(cd "$CLIPREF_ACTION/../.." && pwd)
if [ "$CLIPREF_MINUTE" = true ]; then
    "$environment/bin/pip" install -q 'numpy>=2.0' 'safetensors>=0.4.3'
    "$environment/bin/pip" install -q --no-deps "$checkout"
else
    "$environment/bin/pip" install -q "$checkout"
fi
echo "command=$environment/bin/clipref" >>"$GITHUB_OUTPUT"
