"""What the article's subscriber does: each message becomes a line of a rotating file, by Python's logging."""

import logging
import sys
from logging.handlers import RotatingFileHandler

import zmq

ROTATE_BYTES = 64 * 1024 * 1024
# More than any run fills: nothing may be lost by being removed.
KEEP = 10_000

endpoint, path = sys.argv[1:]
handler = RotatingFileHandler(path, maxBytes=ROTATE_BYTES, backupCount=KEEP)
handler.setFormatter(logging.Formatter("%(levelname)s:%(name)s:%(message)s   - %(asctime)s", "%Y-%m-%d %H:%M"))
logger = logging.getLogger()
logger.setLevel(logging.INFO)
logger.addHandler(handler)

socket = zmq.Context().socket(zmq.SUB)
socket.connect(endpoint)
socket.setsockopt_string(zmq.SUBSCRIBE, "")
while True:
    logger.info(socket.recv_string())
