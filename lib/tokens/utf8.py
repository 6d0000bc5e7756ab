"""UTF-8 as an automaton over tokens: which may come next, so that the bytes of a text are whole characters."""

import numpy as np

# (state, first byte, last byte, next state): table 3-7 of the Unicode standard, "Well-Formed UTF-8 Byte Sequences".
# In state 0 a character is complete. In states 1, 2 and 3 it lacks as many bytes. In the others it lacks the bytes that
# their name says, of which the next cannot be any.
AFTER_E0, AFTER_ED, AFTER_EF, AFTER_EF_BF, AFTER_F0, AFTER_F4, N_STATES = range(4, 11)
TRANSITIONS = (
    (0, 0x00, 0x7F, 0),
    (0, 0xC2, 0xDF, 1),
    (0, 0xE0, 0xE0, AFTER_E0),
    (0, 0xE1, 0xEC, 2),
    (0, 0xED, 0xED, AFTER_ED),
    (0, 0xEE, 0xEE, 2),
    (0, 0xEF, 0xEF, AFTER_EF),
    (0, 0xF0, 0xF0, AFTER_F0),
    (0, 0xF1, 0xF3, 3),
    (0, 0xF4, 0xF4, AFTER_F4),
    (1, 0x80, 0xBF, 0),
    (2, 0x80, 0xBF, 1),
    (3, 0x80, 0xBF, 2),
    (AFTER_E0, 0xA0, 0xBF, 1),
    (AFTER_ED, 0x80, 0x9F, 1),
    (AFTER_EF, 0x80, 0xBE, 1),
    (AFTER_EF, 0xBF, 0xBF, AFTER_EF_BF),
    (AFTER_EF_BF, 0x80, 0xBC, 0),  # EF BF BD is �, which stands for lost text.
    (AFTER_EF_BF, 0xBE, 0xBF, 0),
    (AFTER_F0, 0x90, 0xBF, 2),
    (AFTER_F4, 0x80, 0x8F, 2),
)
STEP = np.full((N_STATES + 1, 256), N_STATES)  # After a byte that cannot come nothing can: that is state N_STATES.
for state, first, last, following in TRANSITIONS:
    STEP[state, first : last + 1] = following


def token_automaton(pieces, n_rows):
    """(allowed, next_state), arrays (N_STATES, n_rows): whether a token may come in a state, and the state after it.

    pieces: the bytes of each token. One without bytes, such as <eos>, may come where a character is complete.
    n_rows: of the embedding. What is no token, as published models have spare rows, may never come.
    """
    lengths = np.array([len(piece) for piece in pieces])
    begins = lengths.cumsum() - lengths
    data = np.frombuffer(b"".join(pieces), np.uint8)
    states = np.arange(N_STATES)[:, None]
    after = states.repeat(len(pieces), axis=1)
    tokens = np.arange(len(pieces))
    for i in range(lengths.max()):
        tokens = tokens[lengths[tokens] > i]
        after[:, tokens] = STEP[after[:, tokens], data[begins[tokens] + i]]
    allowed, next_state = np.zeros((N_STATES, n_rows), bool), np.zeros((N_STATES, n_rows), np.int64)
    allowed[:, : len(pieces)] = (after < N_STATES) & ((lengths > 0) | (states == 0))
    next_state[:, : len(pieces)] = after % N_STATES
    for _ in range(N_STATES):  # A vocabulary without some bytes has states that nothing can follow.
        allowed &= allowed.any(axis=1)[next_state]
    return allowed, next_state
