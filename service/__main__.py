"""The command `python -m manifold.service`. It reads the settings once and runs the server or, with --check, only checks what would be served.

Exit statuses: 0, success or a signal to stop; 1, an unexpected error; 2, a setting, key file, certificate, folder or port is wrong, and nothing
was loaded; 3, the server or its workers did not start.
"""

from __future__ import annotations

from manifold.service.processes import early

if __name__ == "__main__":
    early.prepare()  # before the imports, which take a second

import os
import sys

from manifold.runtime.errors import ManifoldError, shown
from manifold.service import server
from manifold.service import settings as settings_module
from manifold.service.settings import SettingsError
from manifold.service.telemetry import logs


def main() -> int:
    """Run the service. Return the exit status: 2 after one line about a wrong setting. With --check, nothing is served."""
    style = os.environ.get(early.FORMAT, "text").lower()
    try:
        if sys.argv[1:] not in ([], ["--check"]):
            raise SettingsError(
                f"{shown(' '.join(sys.argv[1:]))}: unknown argument; the only argument is --check. Set MANIFOLD_* variables, or see "
                "`manifold serve --help`"
            )
        settings = settings_module.read()
        style = settings.log_format
        if sys.argv[1:] == ["--check"]:
            print(*filter(None, (server.check(settings), server.survey(settings))), sep="\n")
        else:
            server.run(settings)
    except ManifoldError as error:
        logs.refuse(error, style)
        return server.WRONG
    return 0


if __name__ == "__main__":
    sys.exit(main())
