"""Records of TensorFlow files (TFRecord of tf.train.Example), read without TensorFlow; every checksum is compared.

A record is its length (8 bytes), the checksum of the length (4), its content, and the checksum of the content (4), little-endian.
A checksum is CRC-32C, rotated and shifted: ((c >> 15 | c << 17) + 0xa282ead8) mod 2³². The content is a message of Protocol
Buffers: features → (name, list of bytes, floats or integers).

References: https://www.tensorflow.org/tutorials/load_data/tfrecord; https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mdistill.errors import BadInput

Feature = np.ndarray | list[bytes]
_POLYNOMIAL, _MASK, _LONGEST = 0x82F63B78, 0xA282EAD8, 100_000_000


def _table() -> list[int]:
    rows = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
        rows.append(value)
    return rows


_TABLE = _table()


def checksum(content: bytes) -> int:
    """The masked CRC-32C of a part of a record."""
    value = 0xFFFFFFFF
    for byte in content:
        value = _TABLE[(value ^ byte) & 255] ^ value >> 8
    value ^= 0xFFFFFFFF
    return ((value >> 15 | value << 17) + _MASK) & 0xFFFFFFFF


def count_records(path: Path) -> int:
    """Number of records, by their lengths alone.

    Raises:
        BadInput: A damaged or cut file.
    """
    return sum(1 for _ in _records(path, every=0))


def read_examples(path: Path, *, every: int = 1) -> Iterator[dict[str, Feature]]:
    """Features of one record in every so many: floats and integers as arrays, bytes as lists.

    Raises:
        BadInput: A damaged or cut file, or records that are no examples.
    """
    for number, content in _records(path, every=every):
        try:
            yield _features(content)
        except (ValueError, IndexError, OverflowError, struct.error) as error:
            raise _damaged(path, f"record {number + 1} is no example of TensorFlow ({error})") from error


def _records(path: Path, *, every: int) -> Iterator[tuple[int, bytes]]:
    """Number and content of the records; with `every` 0 no content is read."""
    with open(path, "rb") as file:
        size, number = path.stat().st_size, 0
        while head := file.read(12):
            place = f"record {number + 1}"
            if len(head) < 12 or checksum(head[:8]) != int.from_bytes(head[8:], "little"):
                raise _damaged(path, f"the length of {place} is damaged")
            length = int.from_bytes(head[:8], "little")
            if length > _LONGEST or file.tell() + length + 4 > size:
                raise _damaged(path, f"{place} is cut off")
            if every and number % every == 0:
                yield number, _content(file, length, path, place)
            else:
                file.seek(length + 4, 1)
                if not every:
                    yield number, b""
            number += 1


def _content(file: BinaryIO, length: int, path: Path, place: str) -> bytes:
    content = file.read(length)
    if checksum(content) != int.from_bytes(file.read(4), "little"):
        raise _damaged(path, f"the checksum of {place} does not match")
    return content


def _damaged(path: Path, problem: str) -> BadInput:
    return BadInput(path, problem, allowed="an uncompressed TFRecord file", fix="copy the file again")


def _features(content: bytes) -> dict[str, Feature]:
    found = dict[str, Feature]()
    for features in _fields(content, 1):
        for entry in _fields(features, 1):
            name = b"".join(_fields(entry, 1)).decode()
            for value in _fields(entry, 2):
                found[name] = _feature(value)
    return found


def _feature(value: bytes) -> Feature:
    if texts := list(_fields(value, 1)):
        return list(_fields(texts[0], 1))
    if floats := list(_fields(value, 2)):
        return np.concatenate([np.zeros(0), *(np.frombuffer(part, "<f4").astype(np.float64) for part in _fields(floats[0], 1))])
    numbers = [number for part in _fields(value, 3) for packed in _fields(part, 1) for number in _integers(packed)]
    return np.array(numbers, dtype=np.int64)


def _fields(message: bytes, wanted: int) -> Iterator[bytes]:
    """Content of every field of this number; an integer as the bytes that encode it."""
    place = 0
    while place < len(message):
        key, place = _integer(message, place)
        begin = place
        if key & 7 == 0:
            _, place = _integer(message, place)
        elif key & 7 == 2:
            length, begin = _integer(message, place)
            place = begin + length
        elif key & 7 in (1, 5):
            place += 8 if key & 7 == 1 else 4
        else:
            raise ValueError(f"field of type {key & 7}")
        if place > len(message):
            raise ValueError("a field is cut off")
        if key >> 3 == wanted:
            yield message[begin:place]


def _integers(packed: bytes) -> Iterator[int]:
    place = 0
    while place < len(packed):
        value, place = _integer(packed, place)
        yield value - (1 << 64) if value >> 63 else value


def _integer(message: bytes, place: int) -> tuple[int, int]:
    """A number of variable length, and the place behind it."""
    value = 0
    for k in range(10):
        byte = message[place + k]
        value |= (byte & 127) << 7 * k
        if byte < 128:
            return value, place + k + 1
    raise ValueError("a number of more than ten bytes")
