"""Where numbers, texts and pictures of a run go.

``metrics.jsonl`` (``JSONL``) is the record. Other loggers are of Lightning's kind and may fail: ``built`` guards them.
"""

from oboro.logger.guarded import built, guarded, rewind
from oboro.logger.jsonl import JSONL, read_rows
from oboro.logger.results import log_picture, log_result

__all__ = ["JSONL", "built", "guarded", "log_picture", "log_result", "read_rows", "rewind"]
