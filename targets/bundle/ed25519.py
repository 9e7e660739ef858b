"""Ed25519 signatures checked with Python alone (RFC 8032, section 5.1.7): devices need no package for it.

Checking handles no secrets, so its time may depend on what it checks. Signing is `cryptography`'s.
"""

from __future__ import annotations

import hashlib
from typing import Tuple

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
ROOT_OF_MINUS_1 = pow(2, (P - 1) // 4, P)
KEY_BYTES = 32
SIGNATURE_BYTES = 64

# Extended coordinates (X, Y, Z, T): x = X/Z, y = Y/Z, x·y = T/Z.
Point = Tuple[int, int, int, int]
NEUTRAL: Point = (0, 1, 1, 0)


def verify(key: bytes, message: bytes, signature: bytes) -> bool:
    """Say whether a signature is the key's over the message.

    Args:
        key: 32 bytes.
        message: any number of bytes.
        signature: 64 bytes; any other number is no signature.
    """
    if len(key) != KEY_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    public = _decoded(key)
    scalar = int.from_bytes(signature[32:], "little")
    if public is None or scalar >= ORDER:
        return False
    digest = hashlib.sha512(signature[:32] + key + message).digest()
    challenge = int.from_bytes(digest, "little") % ORDER
    # R = S·B − k·A, compared as encoded, as OpenSSL does: an encoding that is not canonical never agrees.
    return _encoded(_sum(_times(scalar, BASE), _times(challenge, _negative(public)))) == signature[:32]


def _sum(one: Point, other: Point) -> Point:
    a = (one[1] - one[0]) * (other[1] - other[0]) % P
    b = (one[1] + one[0]) * (other[1] + other[0]) % P
    c = 2 * one[3] * other[3] * D % P
    d = 2 * one[2] * other[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % P, g * h % P, f * g % P, e * h % P


def _times(scalar: int, point: Point) -> Point:
    total = NEUTRAL
    while scalar:
        if scalar & 1:
            total = _sum(total, point)
        point = _sum(point, point)
        scalar >>= 1
    return total


def _negative(point: Point) -> Point:
    return -point[0] % P, point[1], point[2], -point[3] % P


def _encoded(point: Point) -> bytes:
    inverse = pow(point[2], P - 2, P)
    x, y = point[0] * inverse % P, point[1] * inverse % P
    return (y | (x & 1) << 255).to_bytes(32, "little")


def _decoded(encoding: bytes) -> Point | None:
    """Section 5.1.3; None for 32 bytes that are no point's one encoding."""
    number = int.from_bytes(encoding, "little")
    sign, y = number >> 255, number & (1 << 255) - 1
    if y >= P:
        return None
    x = _x_of(y)
    if x is None or (x == 0 and sign):
        return None
    if x & 1 != sign:
        x = P - x
    return x, y, 1, x * y % P


def _x_of(y: int) -> int | None:
    """A root of (y² − 1) / (d·y² + 1), None where there is none."""
    square = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * ROOT_OF_MINUS_1 % P
    return None if (x * x - square) % P else x


def _base() -> Point:
    y = 4 * pow(5, P - 2, P) % P
    x = _x_of(y)
    assert x is not None
    x = P - x if x & 1 else x
    return x, y, 1, x * y % P


BASE = _base()
