"""Data connections between nodes: chunks of objects are asked for, and come from region to region.

    reader → source   count 8 · count × (req 8 · chunk 8)
    source → reader   count × (status 1 · size 8) · the bytes of those that are there, in order
                      · for each of those (status 1 · checksum 8)

Fixed sizes, little-endian, nothing is ever copied into a message. Requests may be sent ahead; answers come in their order.
`req` is the reader's number of its P_FETCH (messages). The checksum is xxh3-64 of the chunk, as its first source made it. It
comes after the bytes, so that both ends can make it part by part, while a part is in the processor's cache; a chunk that was
no longer pinned by the time its checksum was made is NOT_HERE after all.
"""

from __future__ import annotations

import struct

PIECES_MAX = 65_536
_count = struct.Struct("<Q")
_piece = struct.Struct("<QQ")
_answer = struct.Struct("<BQ")
COUNT_SIZE = _count.size
PIECE_SIZE = _piece.size
ANSWER_SIZE = _answer.size
HERE, NOT_HERE = 1, 0


class BrokenRequest(Exception):
    """The peer sent what is no request, or no answer to it; the connection must be closed."""


def encode_request(pieces: list[tuple[int, int]]) -> bytes:
    """A request for (req, chunk) pairs."""
    return _count.pack(len(pieces)) + b"".join([_piece.pack(req, chunk) for req, chunk in pieces])


def decode_count(data: bytes) -> int:
    """How many pieces follow; raises BrokenRequest for more than there may be."""
    count: int = _count.unpack(data)[0]
    if not 0 < count <= PIECES_MAX:
        raise BrokenRequest(f"{count} pieces in one request; the limit is {PIECES_MAX}")
    return count


def decode_pieces(data: bytes) -> list[tuple[int, int]]:
    """The (req, chunk) pairs of a request."""
    return list(_piece.iter_unpack(data))


def encode_answers(answers: list[tuple[int, int]]) -> bytes:
    """What comes of each piece: (status, size); and after the bytes (status, checksum)."""
    return b"".join([_answer.pack(*answer) for answer in answers])


def decode_answers(data: bytes | bytearray) -> list[tuple[int, int]]:
    """(status, size), or (status, checksum), of each piece."""
    return list(_answer.iter_unpack(data))
