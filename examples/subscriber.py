#!/usr/bin/env python3
"""Follows the numbered feed of a Downpipe publisher, as docs/PROTOCOL.md has it. Needs pyzmq.

Prints a line `SEQUENCE TOPIC BODY` for each record, and `lost FROM TO REASON` for records FROM to TO - 1
that the publisher no longer has. With --state a restart goes on behind what was printed; what was printed
but not yet noted when the process was killed is printed again.

A message with a right checksum is trusted: what only a hostile publisher would send is not looked for.
"""
import argparse, contextlib, json, os, random, struct, sys, time, uuid
import zmq

try:
    from crc32c import crc32c  # in C, if it is installed
except ImportError:
    def crc32c(data, crc=0):
        crc ^= 0xFFFFFFFF
        for byte in data:
            crc = TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
        return crc ^ 0xFFFFFFFF

    TABLE = list(range(256))
    for _ in range(8):
        TABLE = [entry >> 1 ^ (0x82F63B78 if entry & 1 else 0) for entry in TABLE]

CREDIT, SILENCE_MS, REASONS = 1 << 20, 5000, {1: "retention", 2: "damage"}
ENDED = zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL


class Unusable(Exception):
    """Sockets that are to be made anew."""


class Peer:
    """A socket with one connection, which libzmq does not renew: a new one has to begin with a fetch."""

    def __init__(self, kind, endpoint):
        self.socket = zmq.Context.instance().socket(kind)
        for option, value in [(zmq.LINGER, 0), (zmq.RECONNECT_IVL, -1), (zmq.RCVHWM, 16), (zmq.SNDTIMEO, SILENCE_MS),
                              (zmq.MAXMSGSIZE, 56 + (1 << 20)), (zmq.IPV6, int("[" in endpoint))]:
            self.socket.setsockopt(option, value)
        self.monitor, self.poller = self.socket.get_monitor_socket(ENDED), zmq.Poller()
        self.poller.register(self.socket, zmq.POLLIN)
        self.poller.register(self.monitor, zmq.POLLIN)
        if kind == zmq.SUB:
            self.socket.subscribe(b"")
        self.socket.connect(endpoint)

    def receive(self, of_stream=None):
        """The letter of the next message's kind, its stream, and all of it."""
        if self.socket not in dict(self.poller.poll(SILENCE_MS)):
            raise Unusable("disconnected, or silent")
        frame, *more = self.socket.recv_multipart()
        if frame[:2] != b"DP" or frame[2:3] not in b"BHGXWE" or len(frame) < 24 or more:
            raise Unusable("a message of no known kind")
        if frame[3:4] != b"1":
            sys.exit(f"a message {frame[:4]} of another version: upgrade this program")
        if crc32c(frame[8:], crc32c(frame[:4])) != struct.unpack_from("<I", frame, 4)[0]:
            raise Unusable("a message with a wrong checksum")
        if of_stream not in (None, frame[8:24]):
            raise Unusable("another stream")
        return chr(frame[2]), frame[8:24], frame

    def head(self):
        """The next head: its stream, position at oldest, position at next, replay address."""
        kind = None
        while kind != "H":
            kind, stream, frame = self.receive()
        oldest, end, previous_at_oldest, previous_at_end, _, _ = struct.unpack_from("<QQII64sH", frame, 24)
        return stream, (oldest, previous_at_oldest), (end, previous_at_end), frame[114:].decode()

    def fetch(self, stream, at, credit):
        body = b"DPF1" + stream + struct.pack("<QIII", *at, credit, 1)
        self.socket.send(body[:4] + struct.pack("<I", crc32c(body)) + body[4:])
        return self.head()

    def close(self):
        self.socket.disable_monitor()
        self.monitor.close()
        self.socket.close()


def lines(block, first, count):
    """The records of a block. All of it is read before any is used: a malformed one raises."""
    def varint(at):
        value = shift = 0
        while block[at] >= 0x80:
            value, shift, at = value | (block[at] & 0x7F) << shift, shift + 7, at + 1
        return value | block[at] << shift, at + 1

    at, found = 56, []
    for sequence in range(first, first + count):
        _, at = varint(at)  # the time since the record before
        start, at = varint(at)
        topic, at = block[at:at + start], at + start
        start, at = varint(at)
        body, at = block[at:at + start], at + start
        found.append(f"{sequence} {escaped(topic).replace(' ', chr(92) + 'x20')} {escaped(body)}\n")
    if at != len(block) or not found:
        raise Unusable("a malformed block")
    return "".join(found)


def escaped(text):
    """One line, whatever is in it; two texts never look alike."""
    text = text.replace(b"\\", rb"\\").decode(errors="backslashreplace")
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


class Follower:
    def __init__(self, endpoint, state):
        self.endpoint, self.state, self.pause = endpoint, state, 0
        self.stream, self.at, self.heard = None, (0, 0), 0  # at: the next sequence, the crc of the block before it
        if state and os.path.exists(state):
            with open(state) as file:
                saved = json.load(file)
            self.stream, self.at = bytes.fromhex(saved["stream"]), (saved["next"], saved["previous"])

    def advance(self, text, at):
        """Prints, and only then is somewhere else."""
        sys.stdout.buffer.write(text.encode())
        sys.stdout.buffer.flush()
        self.at = at
        if self.state:
            with open(self.state + ".new", "w") as file:
                json.dump({"stream": self.stream.hex(), "next": at[0], "previous": at[1]}, file)
            os.replace(self.state + ".new", self.state)

    def follow(self):
        """From new sockets to their end. Returns if the feed is too far ahead to be left waiting."""
        with contextlib.closing(Peer(zmq.SUB, self.endpoint)) as feed:
            stream, _, _, address = feed.head()
        host, port = address.rsplit(":", 1)
        if host in ("0.0.0.0", "[::]", "*"):  # no host in particular: the one at which the feed was reached
            host = self.endpoint.removeprefix("tcp://").rsplit(":", 1)[0]
        with contextlib.closing(Peer(zmq.DEALER, f"tcp://{host}:{port}")) as replay:
            who, oldest, end, _ = replay.fetch(bytes(16), (0, 0), 0)  # only asks who is there
            if who != stream:
                raise Unusable("feed and replay are of different streams")
            if stream != self.stream:
                if self.stream:
                    print(f"replaced {uuid.UUID(bytes=self.stream)} at {self.at[0]} heard {max(self.heard, self.at[0])}"
                          f" by {uuid.UUID(bytes=stream)} from {oldest[0]}", file=sys.stderr, flush=True)
                self.stream, self.heard = stream, end[0]
                self.advance("", oldest)
            self.catch_up(replay, replies_max=float("inf"))
            with contextlib.closing(Peer(zmq.SUB, self.endpoint)) as feed:
                self.pause = 0
                while self.hear(*feed.receive(self.stream)) or self.catch_up(replay, replies_max=4):
                    pass

    def hear(self, kind, _, frame):
        """One message of the feed. False if it is beyond what was taken, or not of this history."""
        if kind == "B":
            return self.take(frame) or sum(struct.unpack_from("<QI", frame, 24)) <= self.at[0]
        if kind != "H":
            raise Unusable("no message of a feed")
        end, _, previous = struct.unpack_from("<QII", frame, 32)
        self.heard = max(self.heard, end)
        return (end, previous) == self.at or end < self.at[0]

    def take(self, block):
        """Appends a block if it is the next one of this history."""
        first, count, _, _, previous = struct.unpack_from("<QIIqI", block, 24)
        follows = (first, previous) == self.at
        if follows:
            self.advance(lines(block, first, count), (first + count, struct.unpack_from("<I", block, 4)[0]))
        return follows

    def catch_up(self, replay, replies_max):
        """Fetches until a reply has reached its own head. False if that takes too many replies."""
        while replies_max > 0:
            asked, kind = self.at, None
            stream, _, end, _ = replay.fetch(self.stream, asked, CREDIT)
            if stream != self.stream:
                raise Unusable("another stream")
            self.heard = max(self.heard, end[0])
            while kind != "E":
                kind, _, frame = replay.receive(self.stream)
                self.reply(kind, frame, asked)
            if self.at[0] >= end[0]:
                return True
            if self.at == asked:
                raise Unusable("a reply that leads nowhere")
            replies_max -= 1
        return False

    def reply(self, kind, frame, asked):
        """One message of a reply."""
        if kind == "G":
            start, end, previous, reason = struct.unpack_from("<QQII", frame, 24)
            if start != self.at[0] or end <= start:
                raise Unusable("a gap that begins somewhere else")
            self.advance(f"lost {start} {end} {REASONS[reason]}\n", (end, previous))
        elif kind in "XE" and struct.unpack_from("<QI", frame, 24) != (asked if kind == "X" else self.at):
            raise Unusable("a fork or an end somewhere else")
        elif kind == "X":
            sys.exit(f"fork {uuid.UUID(bytes=self.stream)} at {asked[0]}: not the history that was followed so far")
        elif kind not in "WE" and not (kind == "B" and self.take(frame)):
            raise Unusable("a message that does not follow")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("feed", help="tcp://HOST:PORT")
    parser.add_argument("--state", metavar="FILE", help="where the position is kept")
    arguments = parser.parse_args()
    follower = Follower(arguments.feed, arguments.state)
    while True:
        try:
            follower.follow()
        except (Unusable, zmq.ZMQError, LookupError, ValueError, struct.error) as error:
            print(f"{arguments.feed}: {error}; again", file=sys.stderr, flush=True)
            time.sleep(follower.pause * random.uniform(0.5, 1))
            follower.pause = min(max(0.1, 2 * follower.pause), 5)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
