#!/usr/bin/env python3
"""Checks what `picket audit prove ID -o json` printed, without anything of Picket's.

    check_proof.py PROOF.json [LOG-KEY]

Written from RFC 6962 and RFC 9162 (the tree), C2SP signed-note, tlog-checkpoint and tlog-cosignature, and
"The log" in docs/audit-attributes.md. Needs Python 3 and openssl (for Ed25519).
"""

import base64
import hashlib
import json
import subprocess
import sys
import tempfile


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def fail(why):
    sys.exit(f"the proof does not hold: {why}")


def ed25519(public, message, signature):
    """RFC 8032, by openssl: the key as SubjectPublicKeyInfo (RFC 8410)."""
    spki = bytes.fromhex("302a300506032b6570032100") + public
    with tempfile.TemporaryDirectory() as directory:
        def write(name, content):
            with open(f"{directory}/{name}", "wb") as file:
                file.write(content)
            return f"{directory}/{name}"
        command = ["openssl", "pkeyutl", "-verify", "-pubin", "-keyform", "DER", "-rawin",
                   "-inkey", write("key", spki), "-in", write("message", message),
                   "-sigfile", write("signature", signature)]
        return subprocess.run(command, capture_output=True).returncode == 0


def read_key(text):
    """NAME+HASH+BASE64: name, first bytes of a signature, algorithm, public key."""
    name, id_, key = text.split("+", 2)
    key = base64.b64decode(key)
    if sha256(name.encode(), b"\n", key)[:4].hex() != id_:
        fail(f"{text} is no key")
    return name, bytes.fromhex(id_), key[0], key[1:]


def read_note(note):
    at = note.rindex("\n\n")
    lines = []
    for line in note[at + 2:].splitlines():
        dash, name, signature = line.split(" ")
        if dash != "\u2014":
            fail("the checkpoint has a line that is no signature")
        signature = base64.b64decode(signature)
        lines.append((name, signature[:4], signature[4:]))
    return note[:at + 1], lines


def root_from(index, size, leaf, path):
    """RFC 9162 section 2.1.3.2."""
    if index >= size:
        fail("the index is not in the tree")
    place, last, hash_ = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            fail("the path is too long")
        if place % 2 == 1 or place == last:
            hash_ = sha256(b"\x01", sibling, hash_)
            while place % 2 == 0 and place != 0:
                place, last = place >> 1, last >> 1
        else:
            hash_ = sha256(b"\x01", hash_, sibling)
        place, last = place >> 1, last >> 1
    if last != 0:
        fail("the path is too short")
    return hash_


def main():
    with open(sys.argv[1]) as file:
        proof = json.load(file)
    key = sys.argv[2] if len(sys.argv) > 2 else proof["key"]

    entry = proof["entry"]
    version, emitter, boot, lane, sequence, position, commitment, rest = entry.split("\n")
    if version != "picket-entry-v1" or rest != "" or f"{boot}-{lane}-{sequence}" != proof["id"]:
        fail("the entry is not that of the record")
    if "span" in proof:
        salt, resource, span = (base64.b64decode(proof[part]) for part in ("salt", "resource", "span"))
        if sha256(salt, sha256(resource), span).hex() != commitment:
            fail("the record is not what was entered")

    leaf = sha256(b"\x00", entry.encode())
    path = [bytes.fromhex(hash_) for hash_ in proof["path"]]
    root = root_from(proof["index"], proof["size"], leaf, path)

    text, lines = read_note(proof["checkpoint"])
    origin, size, signed_root = text.split("\n")[:3]
    if int(size) != proof["size"] or base64.b64decode(signed_root) != root:
        fail("the checkpoint is of another tree")
    name, id_, algorithm, public = read_key(key)
    if algorithm != 1 or name != origin or not any(
        (n, i) == (name, id_) and ed25519(public, text.encode(), s) for n, i, s in lines
    ):
        fail("the checkpoint is not signed with the log's key")

    witnesses = []
    for witness in proof["witnesses"]:
        name, id_, algorithm, public = read_key(witness)
        for line_name, line_id, signature in lines:
            if algorithm == 4 and (line_name, line_id) == (name, id_):
                time = int.from_bytes(signature[:8], "big")
                message = f"cosignature/v1\ntime {time}\n{text}".encode()
                if not ed25519(public, message, signature[8:]):
                    fail(f"the cosignature of {name} does not fit")
                witnesses.append(name)

    print(f"{proof['id']} is entry {proof['index']} of {size} in {origin}")
    print(f"made by {emitter}; {'as it was entered' if 'span' in proof else 'erased'}")
    print(f"cosigned by {', '.join(witnesses) or 'nobody'}")


if __name__ == "__main__":
    main()
