"""NSL-KDD (Tavallaee, Bagheri, Lu and Ghorbani, 2009): network connections, normal and under attack, with the official test part.

KDDTest+ has attacks that KDDTrain+ lacks, and another mix of them: it measures what happens when traffic drifts.
"""

from __future__ import annotations

import csv
import gzip
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifold.training.errors import DataError

Array = NDArray[Any]

COLUMNS = (
    "duration", "protocol_type", "service", "flag", "src_bytes", "dst_bytes", "land", "wrong_fragment", "urgent", "hot", "num_failed_logins",
    "logged_in", "num_compromised", "root_shell", "su_attempted", "num_root", "num_file_creations", "num_shells", "num_access_files",
    "num_outbound_cmds", "is_host_login", "is_guest_login", "count", "srv_count", "serror_rate", "srv_serror_rate", "rerror_rate",
    "srv_rerror_rate", "same_srv_rate", "diff_srv_rate", "srv_diff_host_rate", "dst_host_count", "dst_host_srv_count",
    "dst_host_same_srv_rate", "dst_host_diff_srv_rate", "dst_host_same_src_port_rate", "dst_host_srv_diff_host_rate",
    "dst_host_serror_rate", "dst_host_srv_serror_rate", "dst_host_rerror_rate", "dst_host_srv_rerror_rate",
)  # fmt: skip
CATEGORIES = (
    "protocol_type", "service", "flag", "land", "logged_in", "root_shell", "su_attempted", "is_host_login", "is_guest_login",
)  # fmt: skip
ATTACKS = {
    "DoS": "apache2 back land mailbomb neptune pod processtable smurf teardrop udpstorm",
    "Probe": "ipsweep mscan nmap portsweep saint satan",
    "R2L": "ftp_write guess_passwd imap multihop named phf sendmail snmpgetattack snmpguess spy warezclient warezmaster worm xlock xsnoop",
    "U2R": "buffer_overflow httptunnel loadmodule perl ps rootkit sqlattack xterm",
}
KIND_OF = {"normal": "normal", **{attack: kind for kind, attacks in ATTACKS.items() for attack in attacks.split()}}


def read(path: Path) -> tuple[dict[str, Array], Array]:
    """Columns of a file KDD*.txt.gz, and the name of the attack (or `normal`) of each row. Raises DataError where it is not as published."""
    with gzip.open(path, "rt", newline="") as file:
        rows = list(csv.reader(file))
    if not rows or any(len(row) != len(COLUMNS) + 2 for row in rows):
        raise DataError(f"{path}: every line of NSL-KDD has {len(COLUMNS) + 2} fields")
    columns = list(zip(*rows, strict=True))
    table: dict[str, Array] = {
        name: np.asarray(columns[place]) if name in CATEGORIES else np.asarray(columns[place], np.float64)
        for place, name in enumerate(COLUMNS)
    }
    attacks = np.asarray(columns[len(COLUMNS)])
    if unknown := set(attacks.tolist()) - set(KIND_OF):
        raise DataError(f"{path}: unknown attack {min(unknown)!r}")
    return table, attacks
