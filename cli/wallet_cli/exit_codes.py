"""What an exit code of walletctl means: one table, for the help and for whoever calls it from a script."""

from __future__ import annotations

from collections.abc import Mapping

EXIT_NO = 1
EXIT_USAGE = 2
EXIT_UNAVAILABLE = 3
EXIT_TIMEOUT = 4
EXIT_BUG = 70
"""`EX_SOFTWARE` of sysexits.h."""

MEANINGS: Mapping[int, str] = {
    0: "done",
    EXIT_NO: "the answer is no, or it could not be done",
    EXIT_USAGE: "the command line, or a file that it names, is wrong",
    EXIT_UNAVAILABLE: "Kafka or the node does not answer, or has not what is needed",
    EXIT_TIMEOUT: "what was waited for did not come in time",
    EXIT_BUG: "a bug in walletctl: --debug shows where",
    130: "ended by Ctrl-C",
}
