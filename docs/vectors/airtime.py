#!/usr/bin/env python3
"""LoRaWAN air time of handshakes and of one record, for docs/comparison.md. Needs nothing but Python.

The lengths of S1 and C1 are those of the frames in session.json and constrained.json; those of the others are from the sources that
docs/comparison.md names. Air time: Semtech SX1276 data sheet, section 4.1.1.7, and AN1200.13.

    python3 docs/vectors/airtime.py
"""

import json
import math
import pathlib

HERE = pathlib.Path(__file__).parent
LORAWAN = 13  # MHDR 1, FHDR 7, FPort 1, MIC 4
DR0, DR5 = (12, 51), (7, 222)  # spreading factor, application payload of a frame in EU868 (a repeater allowed for)
CONTENT = 12  # octets that the telemetry record brings


def load(name):
    return json.loads((HERE / name).read_text())


def octets(hexadecimal):
    return len(hexadecimal) // 2


def air_time(payload, spreading_factor, uplink):
    """Milliseconds; 125 kHz, coding rate 4/5, 8 symbols of preamble, explicit header, CRC on uplinks only."""
    symbol = 2**spreading_factor / 125
    slow = 1 if spreading_factor >= 11 else 0  # low data rate optimisation
    bits = 8 * (payload + LORAWAN) - 4 * spreading_factor + 28 + (16 if uplink else 0)
    symbols = 8 + max(math.ceil(bits / (4 * (spreading_factor - 2 * slow))) * 5, 0)
    return (8 + 4.25 + symbols) * symbol


def frames(message, limit):
    """A message in frames of at most `limit` octets; nothing is added to number them."""
    return [limit] * (message // limit) + ([message % limit] if message % limit else [])


def handshake(name, messages):
    """`messages` in turn: the device's (uplinks) at even places, the other side's at odd ones."""
    row = [name, " + ".join(map(str, messages)) + f" = {sum(messages)}"]
    for factor, limit in (DR0, DR5):
        up = [air_time(part, factor, True) for message in messages[0::2] for part in frames(message, limit)]
        down = [air_time(part, factor, False) for message in messages[1::2] for part in frames(message, limit)]
        row += [f"{len(up)} + {len(down)}", f"{max(up):.0f}, {max(down):.0f}", f"{sum(up):.0f}, {sum(down):.0f}"]
    print("| " + " | ".join(row) + " |")


def record(name, length):
    row = [name, str(length)]
    for factor, limit in (DR0, DR5):
        up = [air_time(part, factor, True) for part in frames(length, limit)]
        row.append(f"{sum(up):.0f}" + (f" ({len(up)} frames)" if len(up) > 1 else ""))
    print("| " + " | ".join(row) + " |")


def overhead(records, lane, typed, marker):
    """What the first such record costs around its plaintext; octet 0 equal to `marker`."""
    fits = (r for r in records if r["lane"] == lane and r["typed"] == typed and r["frame"].startswith(marker))
    first = next(fits)
    return octets(first["frame"]) - octets(first["plaintext"])


session, constrained = load("session.json"), load("constrained.json")
s1 = [octets(session[name]) for name in ("S1.1", "S1.2", "S1.3")]
call, answer = (octets(constrained["handshakes"][0][name]) for name in ("C1.1", "C1.2"))
starts = [octets(r["frame"]) for r in constrained["records"][:2]]  # START of the device, then of the service
s1_record = overhead(session["records"], "live", False, "94")
c1_record = overhead(constrained["records"], "live", False, "b0")
c1_bare = c1_record - 2  # without the connection id, where the link names the peer

assert octets(session["S1.3"]) == 77 + octets(session["identity_payload"])
assert s1[:2] == [1246, 1145] and (call, answer) == (51, 51), "the sizes that docs/protocol.md gives"
assert (s1_record, c1_record, c1_bare) == (23, 12, 10)
assert air_time(51, 12, True) == 2793.472 and round(air_time(11, 7, True), 1) == 61.7  # known values

print("| handshake | octets | DR0: frames, up + down | largest, up, down | all, up, down | DR5: frames | largest | all |")
print("|---|---|---|---|---|---|---|---|")
handshake("C1", [call, answer])
handshake("C1 and both START", [call, answer, *starts])
handshake("EDHOC, static DH, kid", [37, 45, 19])
handshake("EDHOC, signatures, x5t", [37, 115, 90])
handshake("WireGuard", [148, 92])
handshake("TLS 1.3, PSK", [163, 157, 50])
handshake("TLS 1.3, raw keys", [129, 307, 179])
handshake("DTLS 1.3, PSK", [180, 186, 55])
handshake("DTLS 1.3, raw keys", [146, 360, 200])
handshake("S1", s1)
handshake("TLS 1.3, raw keys, with ML-KEM", [129 + 1184, 307 + 1088, 179])
print()
print(f"| record around {CONTENT} octets | octets | DR0, ms | DR5, ms |")
print("|---|---|---|---|")
record("C1, the link names the peer", CONTENT + c1_bare)
record("DTLS 1.3", CONTENT + 11)
record("C1", CONTENT + c1_record)
record("OSCORE request, without CoAP's header", CONTENT + 13)
record("TLS 1.3", CONTENT + 14)
record("S1", CONTENT + s1_record)
record("WireGuard", math.ceil(CONTENT / 16) * 16 + 32)
