#!/usr/bin/env python3
"""A peer in Python, of S1, C1 and M1, from docs/protocol.md alone, held against the vectors beside it.

Independent of the Rust code: X25519, AES-GCM, Ed25519, HMAC and HKDF from `cryptography`, ML-KEM-768 from `kyber-py`, Noise by hand.
It makes every handshake message of both sides from the private keys, and opens and seals every record.

    pip install -r docs/vectors/requirements.txt && python3 docs/vectors/check.py
"""

import hashlib
import hmac as hmac_module
import json
import pathlib

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESCCM, AESGCM
from kyber_py.ml_kem import ML_KEM_768

HERE = pathlib.Path(__file__).parent
ZERO = bytes(32)


def load(name):
    return json.loads((HERE / name).read_text())


def unhex(text):
    return bytes.fromhex(text)


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def hmac(key, *parts):
    return hmac_module.new(key, b"".join(parts), hashlib.sha256).digest()


def extract(salt, ikm):
    return hmac(salt, ikm)


def expand(prk, info, length=32):
    out, block, counter = b"", b"", 1
    while len(out) < length:
        block = hmac(prk, block, info, bytes([counter]))
        out, counter = out + block, counter + 1
    return out[:length]


def label(name, domain="S1"):
    return b"sealway/" + domain.encode() + b"\0" + name.encode() + b"\0"


def public(private):
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def dh(private, peer):
    return X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(peer))


class Noise:
    """Noise_XKpsk3, Noise_KKpsk0 and Noise_Xpsk1 with 25519, AESGCM and SHA256 (Noise revision 34), as far as they are needed here."""

    def __init__(self, pattern, prologue, *known_statics):
        name = f"Noise_{pattern}_25519_AESGCM_SHA256".encode()
        self.h = self.ck = name.ljust(32, b"\0") if len(name) <= 32 else sha256(name)
        self.key, self.n = None, 0
        self.mix_hash(prologue)
        for static in known_statics:  # the pre-messages, the initiator's first
            self.mix_hash(static)

    def mix_hash(self, data):
        self.h = sha256(self.h, data)

    def mix_key(self, ikm):
        self.ck, self.key = hkdf2(self.ck, ikm)
        self.n = 0

    def mix_psk(self, psk):
        temp = extract(self.ck, psk)
        self.ck = expand1(temp, 1, b"")
        second = expand1(temp, 2, self.ck)
        self.key, self.n = expand1(temp, 3, second), 0
        self.mix_hash(second)

    def e(self, ephemeral):
        self.mix_hash(ephemeral)
        self.mix_key(ephemeral)  # a psk handshake mixes e into the key too (section 9.2)

    def seal(self, plaintext):
        sealed = AESGCM(self.key).encrypt(self.nonce(), plaintext, self.h)
        self.mix_hash(sealed)
        return sealed

    def nonce(self):
        nonce = bytes(4) + self.n.to_bytes(8, "big")
        self.n += 1
        return nonce

    def split(self):
        return b"".join(hkdf2(self.ck, b""))


def expand1(temp, counter, before):
    return hmac(temp, before, bytes([counter]))


def hkdf2(ck, ikm):
    temp = extract(ck, ikm)
    first = expand1(temp, 1, b"")
    return first, expand1(temp, 2, first)


def handshake(session):
    """All three messages from the private keys, and the keys of the session."""
    left, right = session["initiator"], session["responder"]
    s_i, s_r = unhex(left["keys"]["channel_key"]), unhex(right["keys"]["channel_key"])
    e_i, e_r = unhex(left["handshake"]["ephemeral_key"]), unhex(right["handshake"]["ephemeral_key"])
    cid_i, cid_r = unhex(left["handshake"]["cid"]), unhex(right["handshake"]["cid"])
    ek, dk = ML_KEM_768.key_derive(unhex(left["handshake"]["ml_kem_seed"]))
    noise = Noise("XKpsk3", label("prologue") + unhex(right["id"]), public(s_r))

    noise.e(public(e_i))
    noise.mix_key(dh(e_i, public(s_r)))
    message1 = public(e_i) + noise.seal(cid_i + b"\0" + ek)
    gate_key = sha256(label("gate"), public(s_r))

    def s1_1(cookie):
        length = 1 + 8 + len(cookie) + len(message1)
        gate = hmac(gate_key, b"\x11", cookie, public(e_i), length.to_bytes(2, "big"))[:8]
        return b"\x11" + gate + cookie + message1

    assert s1_1(b"") == unhex(session["S1.1"])
    cookie = hmac(unhex(session["cookie"]["secret"]), unhex(session["cookie"]["source"]), public(e_i))[:16]
    proof = hmac(gate_key, b"retry", public(e_i), cookie)[:8]
    assert b"\x14" + proof + cookie == unhex(session["S1.R"])
    assert s1_1(cookie) == unhex(session["S1.1 with cookie"])

    noise.e(public(e_r))
    noise.mix_key(dh(e_r, public(e_i)))
    shared, ciphertext = ML_KEM_768._encaps_internal(ek, unhex(right["handshake"]["ml_kem_m"]))
    assert ML_KEM_768.decaps(dk, ciphertext) == shared
    message2 = public(e_r) + noise.seal(cid_r + ciphertext)
    assert b"\x12" + cid_i + message2 == unhex(session["S1.2"])

    prk_kem = extract(ZERO, shared)
    psk3, proof_key = expand(prk_kem, label("psk3") + noise.h), expand(prk_kem, label("proof") + noise.h)
    sealed_s = noise.seal(public(s_i))
    noise.mix_key(dh(s_i, public(e_r)))
    noise.mix_psk(psk3)
    message3 = sealed_s + noise.seal(unhex(session["identity_payload"]))
    proof = hmac(proof_key, b"\x13", cid_r, message3)[:8]
    assert b"\x13" + cid_r + proof + message3 == unhex(session["S1.3"])

    prk = extract(noise.h, noise.split())
    return prk, {"initiator": cid_r, "responder": cid_i}


class Lane:
    """One direction of one lane: counters, epochs, records."""

    def __init__(self, chain, cid):
        self.chain, self.cid, self.keys = chain, cid, []
        self.next = 0

    def epoch(self, epoch):
        while len(self.keys) <= epoch:
            self.keys.append((expand(self.chain, label("key")), expand(self.chain, label("iv"), 12)))
            self.chain = expand(self.chain, label("chain"))
        return self.keys[epoch]

    def parts(self, frame):
        octet0 = frame[0]
        assert octet0 & 0x80 and octet0 & 0x10 and not octet0 & 0x21, "a record of S1 with a CID"
        assert frame[1:5] == self.cid
        width = {1: 2, 2: 4}[octet0 >> 2 & 3]
        truncated = int.from_bytes(frame[5 : 5 + width], "big")
        window = 1 << (8 * width)
        # RFC 9000, A.3: the candidate that is nearest to the counter after the largest opened.
        counter = self.next & ~(window - 1) | truncated
        if counter + window // 2 <= self.next:
            counter += window
        elif counter > self.next + window // 2 and counter >= window:
            counter -= window
        return octet0, counter, frame[5 + width :]

    def crypt(self, octet0, counter):
        key, iv = self.epoch(counter >> 20)
        nonce = bytes(a ^ b for a, b in zip(iv, bytes(4) + counter.to_bytes(8, "big")))
        return AESGCM(key), nonce, bytes([octet0]) + self.cid + counter.to_bytes(8, "big")

    def open(self, frame):
        octet0, counter, sealed = self.parts(frame)
        aead, nonce, associated = self.crypt(octet0, counter)
        plaintext = aead.decrypt(nonce, sealed, associated)
        self.next = max(self.next, counter + 1)
        # And back: the same octets.
        assert aead.encrypt(nonce, plaintext, associated) == sealed
        return plaintext, bool(octet0 & 2)


def session(vectors):
    prk, cids = handshake(vectors)
    lanes = {
        (lane, sender): Lane(expand(prk, label(f"{lane} {sender}")), cids[sender])
        for lane in ("live", "stored")
        for sender in ("initiator", "responder")
    }
    for record in vectors["records"]:
        plaintext, typed = lanes[record["lane"], record["from"]].open(unhex(record["frame"]))
        assert plaintext == unhex(record["plaintext"]) and typed == record["typed"], record
    exporter = expand(prk, label("exporter"))
    told = vectors["exported"]
    name = told["label"].encode()
    info = label("export") + len(name).to_bytes(8, "big") + name + unhex(told["context"])
    assert expand(exporter, info) == unhex(told["octets"])
    return len(vectors["records"])


class ShortLane:
    """One direction of one lane of C1, as far as epoch 0."""

    def __init__(self, chain, cid):
        self.cid = cid
        self.key, self.iv = expand(chain, label("key", "C1")), expand(chain, label("iv", "C1"), 13)

    def open(self, frame, incarnation):
        octet0 = frame[0]
        assert octet0 & 0xB1 == 0xB0, "a record of C1 with a CID"
        assert frame[1:3] == self.cid
        width = {0: 1, 1: 2, 2: 4, 3: 4}[octet0 >> 2 & 3]
        counter = int.from_bytes(frame[3 : 3 + width], "big")  # there are few: the low bits are all of it
        sealed = frame[3 + width + len(incarnation) :]
        nonce = bytes(a ^ b for a, b in zip(self.iv, bytes(5) + counter.to_bytes(8, "big")))
        associated = bytes([octet0]) + self.cid + counter.to_bytes(8, "big") + incarnation
        aead = AESCCM(self.key, tag_length=8)
        plaintext = aead.decrypt(nonce, sealed, associated)
        assert aead.encrypt(nonce, plaintext, associated) == sealed
        return plaintext, bool(octet0 & 2)


class ShortSession:
    """A session of C1, from a handshake that is made from the private keys of both sides."""

    def __init__(self, vectors, psk, name, told, early, reply):
        device, service = vectors["device"], vectors["service"]
        s_i, s_r = unhex(device["channel_key"]), unhex(service["channel_key"])
        e_i, e_r = unhex(told["device_ephemeral"]), unhex(told["service_ephemeral"])
        ids = unhex(device["id"]), unhex(service["id"])
        assert (public(s_i), public(s_r)) == (unhex(device["public"]), unhex(service["public"]))
        hints = [expand(psk, label(name, "C1") + sender, 2) for sender in ids]
        noise = Noise("KKpsk0", label("prologue", "C1") + ids[0] + ids[1], public(s_i), public(s_r))
        noise.mix_psk(psk)
        noise.e(public(e_i))
        noise.mix_key(dh(e_i, public(s_r)))
        noise.mix_key(dh(s_i, public(s_r)))
        assert b"\x21" + hints[0] + public(e_i) + noise.seal(early) == unhex(told["C1.1"])
        noise.e(public(e_r))
        noise.mix_key(dh(e_r, public(e_i)))
        noise.mix_key(dh(e_r, public(s_i)))
        assert b"\x22" + hints[1] + public(e_r) + noise.seal(reply) == unhex(told["C1.2"])
        prk = extract(noise.h, noise.split())
        self.next_psk = expand(prk, label("psk", "C1"))
        later = expand(prk, label("later", "C1"))
        cids = expand(prk, label("cid", "C1"))
        cids = {"device": cids[2:4], "service": cids[:2]}  # of whoever receives what they send
        roles = {"device": "initiator", "service": "responder"}
        self.lanes = {
            (lane, sender): ShortLane(expand(source, label(f"{lane} {role}", "C1")), cids[sender])
            for lane, source in (("live", prk), ("stored", later))
            for sender, role in roles.items()
        }
        self.restart = {sender: expand(later, label(f"restart {role}", "C1")) for sender, role in roles.items()}
        self.cids = cids

    def open(self, record):
        frame, lane, sender = unhex(record["frame"]), record["lane"], record["from"]
        if frame[0] & 0x0C != 0x0C:
            return self.lanes[lane, sender].open(frame, b"")
        incarnation = frame[7:11]
        chain = expand(self.restart[sender], label(f"{lane} incarnation", "C1") + incarnation)
        return ShortLane(chain, self.cids[sender]).open(frame, incarnation)


def constrained(vectors):
    psk, sessions = unhex(vectors["psk"]), []
    for told in vectors["handshakes"]:
        if told["seed"]:
            psk = expand(extract(psk, unhex(told["seed"])), label("seed", "C1"))
        session = ShortSession(vectors, psk, "hint", told, unhex(told["early"]), unhex(told["reply"]))
        sessions.append(session)
        psk = session.next_psk
    for record in vectors["records"]:
        plaintext, typed = sessions[record["session"]].open(record)
        assert plaintext == unhex(record["plaintext"]) and typed == record["typed"], record
    told = vectors["recovery"]
    attempt = label("attempt", "C1") + told["attempt"].to_bytes(4, "big")
    ShortSession(vectors, expand(unhex(vectors["recovery_psk"]), attempt), "recovery", told, b"", b"")
    return len(vectors["records"])


def signed(statement, kind, key):
    """The payload of a COSE_Sign1 that `key` has made: RFC 9052, 4.4."""
    assert statement[:1] == b"\x84" and statement[1:6] == cbor_bytes(unhex("a10127")) + b"\xa0"
    payload, signature = statement[6:-66], statement[-64:]
    payload = payload[{0x58: 2, 0x59: 3}[payload[0]] :]
    structure = b"\x84\x6aSignature1" + cbor_bytes(unhex("a10127")) + cbor_bytes(label(kind, "id")) + cbor_bytes(payload)
    Ed25519PublicKey.from_public_bytes(key.public_key().public_bytes_raw()).verify(signature, structure)
    assert key.sign(structure) == signature
    return payload


def letters(vector):
    """The statement of a prekey, and letters to it, from the private keys of both sides."""
    recipient, prekey, sender = vector["recipient"], vector["prekey"], vector["sender"]
    key = Ed25519PrivateKey.from_private_bytes(unhex(recipient["keys"]["signing_key"]))
    dh_key, s = unhex(prekey["x25519_key"]), unhex(sender["keys"]["channel_key"])
    published = unhex(prekey["published"])
    statement = published[published.index(b"\x84\x43\xa1\x01\x27") :]
    claims = signed(statement, "prekey", key)
    assert unhex(recipient["id"]) in claims and unhex(prekey["id"]) in claims and public(dh_key) in claims
    ek = dk = None
    if prekey["ml_kem_seed"]:
        ek, dk = ML_KEM_768.key_derive(unhex(prekey["ml_kem_seed"]))
        assert ek in claims
    for told in vector["letters"]:
        e, shared, ciphertext = unhex(told["ephemeral_key"]), b"", b""
        if ek:
            shared, ciphertext = ML_KEM_768._encaps_internal(ek, unhex(told["ml_kem_m"]))
            assert ML_KEM_768.decaps(dk, ciphertext) == shared
        prologue = label("prologue", "M1") + unhex(recipient["id"]) + unhex(prekey["id"]) + sha256(ciphertext)
        psk = expand(extract(ZERO, shared), label("psk", "M1") + prologue)
        noise = Noise("Xpsk1", prologue, public(dh_key))
        noise.e(public(e))
        noise.mix_key(dh(e, public(dh_key)))
        sealed_s = noise.seal(public(s))
        noise.mix_key(dh(s, public(dh_key)))
        noise.mix_psk(psk)
        payload = unhex(sender["payload_with_box"])
        plaintext = len(payload).to_bytes(2, "big") + payload + unhex(told["content"])
        octet0 = b"\x32" if ek else b"\x31"
        made = octet0 + unhex(prekey["id"]) + ciphertext + public(e) + sealed_s + noise.seal(plaintext)
        assert made == unhex(told["letter"])
    return len(vector["letters"])


def identity(vector):
    """Inception, id and card of an Ed25519 identity, made from its private keys."""
    if vector["algorithm"] != "Ed25519":
        return 0
    key = Ed25519PrivateKey.from_private_bytes(unhex(vector["keys"]["signing_key"]))
    following = Ed25519PrivateKey.from_private_bytes(unhex(vector["keys"]["next_key"])).public_key().public_bytes_raw()
    digest = sha256(label("next", "id"), b"\x01", following)
    inception = b"\x83\x01" + cbor_bytes(key.public_key().public_bytes_raw()) + cbor_bytes(digest)
    assert sha256(label("inception", "id"), inception) == unhex(vector["id"])
    payload = signed(unhex(vector["card"]), "card", key)
    assert inception in payload and public(unhex(vector["keys"]["channel_key"])) in payload
    return 1


def cbor_bytes(octets):
    length = len(octets)
    if length < 24:
        return bytes([0x40 | length]) + octets
    if length < 256:
        return bytes([0x58, length]) + octets
    return b"\x59" + length.to_bytes(2, "big") + octets


def main():
    records = session(load("session.json"))
    short = constrained(load("constrained.json"))
    cards = sum(identity(vector) for vector in load("identity.json"))
    print(f"handshake and {records} records made and opened, {cards} card signed and verified")
    made = sum(letters(vector) for vector in load("letter.json"))
    print(f"{made} letters to two prekeys made")
    print(f"four constrained handshakes and {short} records made and opened")


if __name__ == "__main__":
    main()
