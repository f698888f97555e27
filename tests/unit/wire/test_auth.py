"""The handshake: each side proves the secret before the other believes anything; a single changed byte is enough to fail."""

import pytest

from shoal.wire import auth

SECRET = bytes(range(32))
CLIENT_NONCE = b"c" * auth.NONCE_SIZE
SERVER_NONCE = b"s" * auth.NONCE_SIZE
TARGET = b"t" * auth.TARGET_SIZE


def handshake(secret_of_client=SECRET, secret_of_server=SECRET, change=lambda step, data: data):
    """Both sides in turn; ``change`` is who sits between them."""
    preamble = auth.make_preamble(auth.KIND_TASKS, TARGET, CLIENT_NONCE)
    seen = change("preamble", preamble)
    kind, target = auth.read_preamble(seen)
    challenge = auth.make_challenge(secret_of_server, seen, SERVER_NONCE)
    proof = auth.answer_challenge(secret_of_client, preamble, change("challenge", challenge))
    auth.check_proof(secret_of_server, seen, challenge, change("proof", proof))
    return kind, target


def flip(step_to_change, position, bits=0x01):
    def change(step, data):
        if step != step_to_change:
            return data
        return data[:position] + bytes([data[position] ^ bits]) + data[position + 1 :]

    return change


def test_both_sides_with_the_secret_agree():
    assert handshake() == (auth.KIND_TASKS, TARGET)


@pytest.mark.parametrize(
    ("step", "size"),
    [("preamble", auth.PREAMBLE_SIZE), ("challenge", auth.CHALLENGE_SIZE), ("proof", auth.PROOF_SIZE)],
)
def test_every_flipped_byte_fails(step, size):
    for position in range(size):
        for bits in (0x01, 0x80):
            with pytest.raises(auth.HandshakeFailed):
                handshake(change=flip(step, position, bits))


def test_sizes_are_as_announced():
    preamble = auth.make_preamble(auth.KIND_CLIENT)
    challenge = auth.make_challenge(SECRET, preamble)
    assert len(preamble) == auth.PREAMBLE_SIZE
    assert len(challenge) == auth.CHALLENGE_SIZE
    assert len(auth.answer_challenge(SECRET, preamble, challenge)) == auth.PROOF_SIZE
    assert len(auth.new_secret()) == auth.SECRET_SIZE


@pytest.mark.parametrize("step", ["preamble", "challenge", "proof"])
def test_what_is_torn_or_too_long_fails(step):
    for change in (lambda data: data[:-1], lambda data: data + b"\0", lambda data: b""):
        with pytest.raises(auth.HandshakeFailed):
            handshake(change=lambda at, data, change=change: change(data) if at == step else data)


def test_another_secret_fails_at_the_client_first():
    with pytest.raises(auth.HandshakeFailed, match="another cluster"):
        handshake(secret_of_client=bytes(32))
    with pytest.raises(auth.HandshakeFailed, match="another cluster"):
        handshake(secret_of_server=bytes(32))


def test_an_answer_cannot_be_used_again():
    """A recorded proof is worth nothing against another nonce, and the server's proof is not the client's."""
    preamble = auth.make_preamble(auth.KIND_CLIENT, nonce=CLIENT_NONCE)
    challenge = auth.make_challenge(SECRET, preamble, SERVER_NONCE)
    proof = auth.answer_challenge(SECRET, preamble, challenge)
    later = auth.make_challenge(SECRET, preamble, b"S" * auth.NONCE_SIZE)
    with pytest.raises(auth.HandshakeFailed):
        auth.check_proof(SECRET, preamble, later, proof)
    with pytest.raises(auth.HandshakeFailed):
        auth.check_proof(SECRET, preamble, challenge, challenge[-auth.MAC_SIZE :])


def test_nonces_are_fresh():
    assert auth.make_preamble(auth.KIND_CLIENT) != auth.make_preamble(auth.KIND_CLIENT)
    assert auth.new_secret() != auth.new_secret()


@pytest.mark.parametrize("kind", [0, 99, 255])
def test_unknown_kinds_are_refused(kind):
    with pytest.raises(auth.HandshakeFailed, match="unknown kind"):
        auth.read_preamble(auth.make_preamble(kind))
