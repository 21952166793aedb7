"""A job of SLURM that runs out of time is started again.

``#SBATCH --signal=USR1@120`` announces the end two minutes before it. Lightning's own answer saves from inside of the
handler, between any two lines of the program.
"""

import os
import signal
import subprocess

SIGNAL = getattr(signal, "SIGUSR1", 0)  # not on Windows
JOB = "SLURM_JOB_ID"
STATUS = 128 + signal.SIGTERM  # of a job that is to be started again: what SLURM ends it with if it is still there


def requeue() -> str:
    """Put the job in the queue again; what came of it, in a sentence."""
    job = os.environ[JOB]
    command = ["scontrol", "requeue", job]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"job {job} is not started again: {error}; run `{' '.join(command)}`."
    if done.returncode:
        reason = " ".join(done.stderr.split()) or f"status {done.returncode}"
        return f"job {job} is not started again: scontrol reports {reason}; run `{' '.join(command)}`."
    return f"SLURM starts job {job} again."
