"""`python -m manifold.service`: takes signals early, reads the settings once and runs the server, or checks what would be served.

Exit statuses: 0, told to stop; 1, an error that nobody expected; 2, a setting, key file, certificate, folder or port is wrong, and nothing was
loaded; 3, the server or its workers did not start.
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
    """The entry point: a wrong setting is one clear line and exit status 2. With --check, nothing is served."""
    style = os.environ.get(early.FORMAT, "text").lower()
    try:
        if sys.argv[1:] not in ([], ["--check"]):
            raise SettingsError(
                f"{shown(' '.join(sys.argv[1:]))}: the service takes no arguments but --check; settings are MANIFOLD_* variables, or see "
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
