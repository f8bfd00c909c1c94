"""A peer on a serial line, from section 8 of the specification alone, with libraries of others: pyserial, cobs and binascii.

    python docs/vectors/line.py PROGRAM

PROGRAM is one that sends every frame back. Frames of many sizes go to it over a pseudo terminal, with noise between them and
damage to some; each that is whole has to come back as it was, and nothing else.
"""

import binascii
import os
import random
import subprocess
import sys
import tty

import serial
from cobs import cobs

MTU = 2880  # what 115200 bits a second carry in a quarter of a second


def crc16(frame: bytes) -> int:
    """CRC-16/IBM-SDLC, bit by bit."""
    crc = 0xFFFF
    for octet in frame:
        crc ^= octet
        for _ in range(8):
            crc = (crc >> 1) ^ (0x8408 if crc & 1 else 0)
    return crc ^ 0xFFFF


def check(frame: bytes, mtu: int) -> bytes:
    return crc16(frame).to_bytes(2, "big") if mtu <= 256 else binascii.crc32(frame).to_bytes(4, "big")


def encode(frame: bytes, mtu: int) -> bytes:
    return cobs.encode(frame + check(frame, mtu)) + b"\0"


def decode(octets: bytes, mtu: int) -> bytes:
    stuffed = cobs.decode(octets)
    size = 2 if mtu <= 256 else 4
    frame, crc = stuffed[:-size], stuffed[-size:]
    assert crc == check(frame, mtu), "the CRC of the program"
    return frame


def frames_of(line: serial.Serial, mtu: int):
    """Frames as they come."""
    collected = b""
    while True:
        octet = line.read(1)
        assert octet, "nothing came for five seconds"
        if octet != b"\0":
            collected += octet
        elif collected:
            yield decode(collected, mtu)
            collected = b""


def run(program: str, mtu: int, options: str, seed: int) -> None:
    chance = random.Random(seed)
    ours, theirs = os.openpty()
    for end in (ours, theirs):
        tty.setraw(end)
    process = subprocess.Popen(
        [program, f"serial:{os.ttyname(theirs)}?baud=115200{options}"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    # pyserial opens devices by name: the master side has none, so it is given the descriptor.
    line = serial.Serial()
    line.fd, line.is_open, line._timeout = ours, True, 5
    line.pipe_abort_read_r, line.pipe_abort_read_w = os.pipe()
    line.pipe_abort_write_r, line.pipe_abort_write_w = os.pipe()
    back = frames_of(line, mtu)
    os.write(ours, b"\x55\xaa\x13\x11\0")
    damaged = 1
    sizes = list(range(1, 300)) + [mtu - 1, mtu]
    for size in (size for size in sizes if size <= mtu):
        frame = bytes(chance.choice([0, 1, 0xFF, chance.randrange(256)]) for _ in range(size))
        octets = encode(frame, mtu)
        if size % 7 == 3:
            wrong = bytearray(octets)
            wrong[chance.randrange(len(wrong) - 1)] ^= 0x10
            if 0 not in wrong[:-1]:
                os.write(ours, bytes(wrong))
                damaged += 1
        os.write(ours, octets)
        assert next(back) == frame, f"{size} octets"
    os.close(theirs)
    os.close(ours)
    said = process.stdout.read()
    assert process.wait(10) == 0
    assert said == f"{damaged} damaged\n", f"{said!r}, and {damaged} were"


def main() -> None:
    for mtu, options in ((MTU, ""), (250, "&mtu=250"), (256, "&mtu=256"), (257, "&mtu=257")):
        run(sys.argv[1], mtu, options, seed=mtu)
        print(f"line: frames of up to {mtu} octets come back as they were")


main()
