# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Checks of a DKIM private key given in the inventory. Controller only: it needs python3-cryptography."""

from __future__ import annotations

from .errors import Invalid

__all__ = ["check_private_key"]

# RFC 8301 asks for 1024 to 4096 bits and recommends 2048; a TXT record of an 8192-bit key does not fit many resolvers.
RSA_BITS = (2048, 4096)


def check_private_key(pem: str, algorithm: str) -> None:
    """An unencrypted PEM private key of the algorithm `rsa` or `ed25519`. No part of the key appears in the error."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    if "ANSIBLE_VAULT" in pem:
        raise Invalid("not decrypted: this is the text of a vault", "write it as `!vault |` with the text below")
    if "PUBLIC KEY" in pem:
        raise Invalid("a public key", "give the private key")
    if "-----BEGIN " not in pem:
        raise Invalid("not PEM", "it begins with -----BEGIN PRIVATE KEY-----")
    if "ENCRYPTED" in pem:
        raise Invalid("an encrypted PEM", "remove its pass phrase and keep it in a vault")
    try:
        key = load_pem_private_key(pem.encode(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise Invalid("not a readable private key in PEM") from None
    if isinstance(key, rsa.RSAPrivateKey):
        if algorithm != "rsa":
            raise Invalid(f"an RSA key, but the algorithm is {algorithm}")
        if not RSA_BITS[0] <= key.key_size <= RSA_BITS[1]:
            raise Invalid(f"an RSA key of {key.key_size} bits", f"{RSA_BITS[0]} to {RSA_BITS[1]} are possible")
    elif isinstance(key, ed25519.Ed25519PrivateKey):
        if algorithm != "ed25519":
            raise Invalid(f"an Ed25519 key, but the algorithm is {algorithm}")
    else:
        kind = type(key).__name__.removeprefix("_").removesuffix("PrivateKey")
        raise Invalid(f"a key of the kind {kind}", "DKIM knows rsa and ed25519")
