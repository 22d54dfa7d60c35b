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
"$CLIPREF_PYTHON" -m venv "$environment"
checkout=$(cd "$CLIPREF_ACTION/../.." && pwd)
if [ "$CLIPREF_MINUTE" = true ]; then
    "$environment/bin/pip" install -q 'numpy>=2.0' 'safetensors>=0.4.3'
    "$environment/bin/pip" install -q --no-deps "$checkout"
else
    "$environment/bin/pip" install -q "$checkout"
fi
# A Python engine's own packages are seen, behind those that are installed here, so that module:name can be imported;
# nothing is changed where they are. A venv's --system-site-packages would not see those of another venv, and the build
# above would see them.
link='import sys, pathlib
places = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
lines = [f"import site; site.addsitedir({path!r})\n" for path in places]
pathlib.Path(sys.argv[1], "of_the_engine.pth").write_text("".join(lines), encoding="utf-8")'
"$CLIPREF_PYTHON" -c "$link" "$("$environment/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
echo "command=$environment/bin/clipref" >>"$GITHUB_OUTPUT"
