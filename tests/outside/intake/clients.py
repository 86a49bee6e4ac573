"""Sends numbered logs with the official exporter while the service restarts and Postgres is away, and reports what it gave up.

usage: python clients.py URL KEY EVENTS MILLISECONDS_BETWEEN
"""

import json
import logging
import sys
import time

from opentelemetry._logs import SeverityNumber
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, LogRecordExportResult

url, key, events, pause = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
dropped = []


class Exporter(OTLPLogExporter):
    """Records what it gives up."""

    def export(self, batch):
        result = super().export(batch)
        if result is not LogRecordExportResult.SUCCESS:
            dropped.extend(record.log_record.attributes["n"] for record in batch)
        return result


logging.basicConfig(level=logging.ERROR)
provider = LoggerProvider()
exporter = Exporter(endpoint=f"{url}/v1/logs", headers={"authorization": f"Bearer {key}"})
provider.add_log_record_processor(BatchLogRecordProcessor(exporter, schedule_delay_millis=300))
logger = provider.get_logger("outside")
for n in range(events):
    logger.emit(
        timestamp=time.time_ns(),
        severity_number=SeverityNumber.INFO,
        body={"nested": [n, b"\x00\xff"]},
        attributes={"client": "otlp-python", "n": n},
    )
    time.sleep(pause / 1000)
provider.shutdown()
print(json.dumps({"otlp-python": dropped}))
