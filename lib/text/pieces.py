"""Documents in pieces of a bounded size, which give the tokens of the whole."""

from lib.text.decoding import PIECE

LONGEST_LINE = 1 << 16  # characters; a longer line is cut into parts, so that memory stays flat
PART_OF_LINE = 1 << 12  # the size of these parts


def cut(documents):
    """Yield (piece, whether a document begins here) of documents that come as (text of any size, the same).

    A piece ends at the end of a line whose next line starts with no white space: there the tokenizer cuts
    too, so that the pieces give the same tokens as the whole.
    """
    rest, begins = "", True
    for text, is_new in documents:
        if is_new:
            if rest:
                yield rest, begins
            rest, begins = "", True
        for i in range(0, len(text), PIECE):
            rest += text[i : i + PIECE]
            while len(rest) >= PIECE and (end := _last_end(rest)):
                yield rest[:end], begins
                rest, begins = rest[end:], False
    if rest:
        yield rest, begins


def _last_end(text):
    """The last place in `text` where a piece may end, 0 if there is none."""
    end = text.rfind("\n", 0, -1) + 1
    while end and text[end].isspace():
        end = text.rfind("\n", 0, end - 1) + 1
    return end or (PART_OF_LINE if len(text) >= LONGEST_LINE else 0)


def line_start(text, offset):
    """Where the line at `offset`, or else the one before it, starts; `offset` itself in one long line."""
    ends = "\n" + text  # A line of `text` starts where this has a line end.
    after = ends.find("\n", offset)
    return after if 0 <= after < len(text) else ends.rfind("\n", 0, offset + 1) or offset
