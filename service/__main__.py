"""The entry point of `python -m manifold.service` and of `manifold serve`. It reads the settings once and runs the server.

With --check, nothing is served: the settings and the models are checked.

Exit statuses, the same for both commands:

0    the server stopped after a signal (SIGTERM, SIGINT); with --check: no problem was found
1    an unexpected error
2    a setting, an argument, a key file, a certificate, the models folder or a port is wrong; nothing was loaded
3    the server or its worker processes did not start
130  only with --check: interrupted by Ctrl-C (143 after SIGTERM)
"""

from __future__ import annotations

from manifold.service.processes import early

if __name__ == "__main__":
    early.prepare()  # before the imports, which take a second

import os
import sys
from typing import Any

from manifold.runtime.errors import ManifoldError, shown
from manifold.service import server
from manifold.service import settings as settings_module
from manifold.service.settings import SettingsError
from manifold.service.telemetry import logs

CHECK = "--check"


def run(*, check: bool = False, arguments: list[str] | None = None, **options: Any) -> int:
    """Serve until a signal to stop, or check what would be served. Return the exit status.

    `options` replace settings of the same name. `arguments` are unknown ones from the command line. An error is one message on stderr, in the
    format of the log.
    """
    style = os.environ.get(early.FORMAT, "text").lower()
    try:
        if arguments:
            raise SettingsError(
                f"{shown(' '.join(arguments))}: unknown arguments; the only one is {CHECK}. Settings are environment variables MANIFOLD_*; "
                "`manifold serve --help` lists options"
            )
        settings = settings_module.read(**options)
        style = settings.log_format
        if check:
            print(*filter(None, (server.check(settings), server.survey(settings))), sep="\n")
        else:
            server.run(settings)
    except ManifoldError as error:
        logs.refuse(error, style)
        return server.WRONG
    return 0


def main() -> int:
    """Run with the arguments of the command line. Return the exit status."""
    given = sys.argv[1:]
    if given and given[0] in ("-h", "--help"):
        print(f"Usage: python -m manifold.service [{CHECK}]\n\n{__doc__}")
        return 0
    return run(check=given == [CHECK], arguments=[] if given == [CHECK] else given)


if __name__ == "__main__":
    sys.exit(main())
