"""A fork while another thread imports what clipref needs too, outside of clipref: the child must not wait for ever."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from clipref import lazy

CODE = """
import os, signal, sys, threading, time
from clipref import lazy

lazy.IMPORTED_LATER.add("slow")
sys.path.insert(0, sys.argv[1])
thread = threading.Thread(target=lambda: __import__("slow.part"))
thread.start()
while "slow.part" not in sys.modules:
    time.sleep(0.01)
process = os.fork()
if not process:
    signal.alarm(20)  # ends a child that waits for ever
    import slow.part

    os._exit(0 if slow.part.complete else 1)
status = os.waitpid(process, 0)[1]
thread.join()
sys.exit(status)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("fails", [False, True])
def test_a_fork_waits_for_an_import_of_the_users(fails: bool, tmp_path: Path) -> None:
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow" / "__init__.py").touch()
    once = "import os\nfirst = not os.path.exists(__file__ + 'x')\nopen(__file__ + 'x', 'w').close()\n"
    failing = "if first: raise ImportError('the first time')\n" if fails else ""
    (tmp_path / "slow" / "part.py").write_text(f"{once}import time\ntime.sleep(0.5)\n{failing}complete = True\n")
    command = [sys.executable, "-W", "ignore", "-c", CODE, str(tmp_path)]
    assert subprocess.run(command, capture_output=True, timeout=60).returncode == 0


def test_nothing_is_imported_for_it() -> None:
    """What nobody has imported stays so."""
    code = "import os, sys, clipref.lazy as l; l.finish_imports(); sys.exit(bool(l.IMPORTED_LATER & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    assert "PIL" in lazy.IMPORTED_LATER
