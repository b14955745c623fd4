"""Contracts for tests, assembled by hand: there is no compiler here, and none is needed for a dozen instructions.

`code(…)` puts instructions together: names from `OPCODES`, integers (pushed in as few bytes as they take) and byte
strings (put in as they are). The stack's top is pushed last, so operands stand in reverse order.
"""

from __future__ import annotations

from eth_hash.backends.pycryptodome import keccak256

from wallet_core.addresses import Address
from wallet_core.tokens import TRANSFER_TOPIC

OPCODES = {
    "STOP": 0x00, "SUB": 0x03, "DIV": 0x04, "ADDRESS": 0x30, "CALLER": 0x33, "CALLVALUE": 0x34,
    "CALLDATALOAD": 0x35, "CODECOPY": 0x39, "POP": 0x50, "MSTORE": 0x52, "GAS": 0x5A, "DUP1": 0x80, "LOG1": 0xA1,
    "LOG3": 0xA3, "LOG4": 0xA4, "CREATE": 0xF0, "CALL": 0xF1, "CALLCODE": 0xF2, "RETURN": 0xF3, "DELEGATECALL": 0xF4,
    "CREATE2": 0xF5, "STATICCALL": 0xFA, "REVERT": 0xFD, "SELFDESTRUCT": 0xFF,
}  # fmt: skip
_PUSH0 = 0x60 - 1
Part = str | int | bytes


def code(*parts: Part) -> bytes:
    """The bytes of a program."""
    assembled = b""
    for part in parts:
        match part:
            case str():
                assembled += bytes([OPCODES[part]])
            case int():
                size = max(1, (part.bit_length() + 7) // 8)
                assembled += bytes([_PUSH0 + size]) + part.to_bytes(size, "big")
            case bytes():
                assembled += part
    return assembled


def init_code(runtime: bytes) -> bytes:
    """What a transaction carries to create a contract of this code."""
    copied = code(len(runtime), "DUP1", b"\x60\x0b", 0, "CODECOPY", 0, "RETURN")
    assert len(copied) == 0x0B
    return copied + runtime


def argument(place: int) -> bytes:
    """Pushes the word number `place`, from 0, of the call's data after the four bytes of a selector."""
    return code(4 + 32 * place, "CALLDATALOAD")


def call_data(*words: Address | int) -> str:
    """A call's data: any selector, and words."""
    octets = [word.to_bytes(32, "big") if isinstance(word, int) else word.rjust(32, b"\x00") for word in words]
    return "0x" + (bytes.fromhex("a9059cbb") + b"".join(octets)).hex()


# --- tokens: transfer(to, amount) ---------------------------------------------------------------------------------

TOPIC = int(TRANSFER_TOPIC, 16)


def log_transfer(to: bytes, amount: bytes, *, data_size: int = 32) -> bytes:
    """Logs a transfer from the caller; `to` and `amount` are programs that push one word."""
    return code(amount, 0, "MSTORE", to, "CALLER", TOPIC, data_size, 0, "LOG3")


TO, AMOUNT = argument(0), argument(1)
FEE = code(100, AMOUNT, "DIV")
COLLECTOR = Address(b"\xfe" * 20)
TOKEN = log_transfer(TO, AMOUNT)
"""Keeps no books: it logs what it is told."""
TOKEN_LOGGING_TWICE = TOKEN + TOKEN
TOKEN_TAKING_A_FEE = log_transfer(code(int.from_bytes(COLLECTOR, "big")), FEE) + log_transfer(
    TO, code(FEE, AMOUNT, "SUB")
)
"""1 % goes to the collector; the recipient's log says what arrives."""
TOKEN_OF_ODD_FORMS = b"".join(
    [
        code(AMOUNT, TO, "CALLER", TOPIC, 0, 0, "LOG4"),  # ERC-721: the fourth topic is the token's number
        log_transfer(TO, AMOUNT, data_size=31),
        code(AMOUNT, 0, "MSTORE", TOPIC, 32, 0, "LOG1"),  # nothing indexed
        TOKEN,
    ]
)

# --- contracts that move ETH: pay(to, …) --------------------------------------------------------------------------


def call(to: bytes, value: bytes) -> bytes:
    """Calls `to` with a value and no data, and goes on whatever comes of it."""
    return code(0, 0, 0, 0, value, to, "GAS", "CALL", "POP")


VALUE = code("CALLVALUE")
FORWARDER = call(TO, VALUE)
FORWARDER_OF_ONE_WEI_TWICE = call(TO, code(1)) + call(TO, code(1))
REVERTING_FORWARDER = FORWARDER + code(0, 0, "REVERT")
DELEGATECALLER = code(0, 0, 0, 0, TO, "GAS", "DELEGATECALL", "POP")
CALLCODER = code(0, 0, 0, 0, "CALLVALUE", TO, "GAS", "CALLCODE", "POP")
STATICCALLER = code(0, 0, 0, 0, TO, "GAS", "STATICCALL", "POP")
CREATOR = code(0, 0, "CALLVALUE", "CREATE", "POP")
"""The contract that it creates has no code, and its value."""
SALT = 7
CREATOR2 = code(SALT, 0, 0, "CALLVALUE", "CREATE2", "POP")
SELF_DESTROYER = code(TO, "SELFDESTRUCT")
RECURSION_THEN_ONE_WEI = (
    code(TO, 4, "MSTORE") + code(0, 0, 36, 0, 0, "ADDRESS", "GAS", "CALL", "POP") + call(TO, code(1))
)
"""Calls itself until the gas is gone; each call that has some left pays, as long as there is ETH."""
HEAVY_TO_TRACE = b"\x5b" + code(0, 0, 64 * 1024, 0, 0, 0xDEAD, 0, "CALL", "POP", 0) + b"\x56"
"""Calls a stranger with 64 KiB of zeros until the gas is gone: a trace holds them each time, 1 kB for a unit of gas."""
PRECOMPILE_THEN_FORWARDER = call(code(4), code(1)) + call(TO, code(1))


def relay_then_pay_one_wei(to: bytes, relay: bytes) -> bytes:
    """Calls the contract `relay` with its own data and 5 wei; then pays one wei to `to`."""
    data = code(TO, 4, "MSTORE")
    return data + code(0, 0, 36, 0, 5, relay, "GAS", "CALL", "POP") + call(to, code(1))


def created2(creator: Address) -> Address:
    """Where `CREATOR2` at an address puts its contract (EIP-1014)."""
    return Address(keccak256(b"\xff" + creator + SALT.to_bytes(32, "big") + keccak256(b""))[-20:])


def created(creator: Address, nonce: int) -> Address:
    """Where an account or contract with a nonce below 128 puts its next contract."""
    rlp_nonce = bytes([nonce]) if nonce else b"\x80"
    body = b"\x94" + creator + rlp_nonce
    return Address(keccak256(bytes([0xC0 + len(body)]) + body)[-20:])
