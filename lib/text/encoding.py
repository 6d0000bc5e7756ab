"""Which encoding bytes are in that somebody brings: the one under which they are the most probable text."""

import codecs
import collections
import functools
import math
import re
import string

BYTE_ORDER_MARKS = {  # that of UTF-32 first, since it may begin as that of UTF-16 does
    "utf-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE),
    "utf-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE),
    "utf-8-sig": (codecs.BOM_UTF8,),
}
SNIPPET, N_SNIPPETS = 256, 256  # bytes that are tried at once, and how many such snippets at most
# Log-probabilities: the text under which the bytes are most probable is the right one.
RARE = -15  # of a character that texts in an encoding hardly use, and of bytes that are no character
CHANCE = -math.log(256)  # of a byte, if they are no text
DOUBT = 4  # A lead of less than this is none to rely on.
MIXED = re.compile("[a-z][⺀-힣][a-z]")  # Scripts do not mix within a word.
PRIORS = {  # of encodings, before a byte is read; -16 of all others
    5: "utf-8",  # Hardly any bytes are UTF-8 by chance.
    0: "gb18030",
    -3: "big5hkscs utf-16-le cp1252",
    -5: "cp932 euc_jp cp949",
    -6: "utf-16-be",
    -7: "cp1250 cp1254 cp1257",
    -8: "cp1251",
    -10: "koi8-r",
    -11: "iso8859-2",
    -14: "cp1253 cp1255 cp1256",
    -18: "iso8859-7",
}
PLAIN = dict.fromkeys(map(chr, range(32)), -20) | dict.fromkeys(string.printable, -4)
WESTERN = "éüáóäàöíèñçåøãúêâßôúæõùîûëïœðýþìò¿¡"
PUNCTUATION = "’“”‘„–—«»…\xa0"
# Where a character is one byte: encodings, and the letters of a language, the most frequent first.
LATIN = (  # only the letters that are not in ASCII
    ("cp1252", WESTERN),  # several of the following
    ("cp1252", "éàèêçùâîôûëïœ"),  # French
    ("cp1252", "üäößéà"),  # German
    ("cp1252", "óáíéñú¿¡ü"),  # Spanish
    ("cp1252", "ãçáéóíêúâõôà"),  # Portuguese
    ("cp1252", "èàùòéì"),  # Italian
    ("cp1252", "äöåéüà"),  # Swedish, Finnish
    ("cp1252", "åøæéöä"),  # Danish, Norwegian
    ("cp1252", "ëéçïèöü"),  # Albanian, Dutch
    ("cp1252", "àéòèíóçúïü"),  # Catalan
    ("cp1252", "íðáóéúýþæö"),  # Icelandic
    ("cp1250 iso8859-2", "łąęóżśćńź"),  # Polish
    ("cp1250 iso8859-2", "áéöőóíüúű"),  # Hungarian
    ("cp1250 iso8859-2", "íáěéřčžýšůúňťďó"),  # Czech
    ("cp1250 iso8859-2", "áíčýžéšúľťôňäďóĺŕ"),  # Slovak
    ("cp1250 iso8859-2", "čšžćđ"),  # Slovene, Croatian
    ("cp1250 iso8859-2", "ăîşţâ"),  # Romanian
    ("cp1254", "ıüşçğöİâîû"),  # Turkish
    ("cp1257", "ėšųąįčžūę"),  # Lithuanian
    ("cp1257", "āīšēūņļķžčģ"),  # Latvian
    ("cp1257", "äõüöšž"),  # Estonian
    ("cp1258", "\u0301\u0300đ\u0323áàưôâơê\u0309ăóéíúè\u0303ùã"),  # Vietnamese, tones after their letters
)
OTHER_SCRIPTS = (
    ("cp1251 koi8-r cp866", "оеаинтсрвлкмдпуяыьгзбчйхжшюцщэфъё"),  # Russian
    ("cp1251 koi8-u", "оанивтерісклдупмязьбгйчхцїжюєшщфґ"),  # Ukrainian
    ("cp1253 iso8859-7", "αοτιενσρκηυπςλμίόάδγέήθωχφύβξώζψϊΐ"),  # Greek
    ("cp1255", "יוהלארתבשמנםכעדחפקגצטסזןךףץ"),  # Hebrew
    ("cp1256 iso8859-6", "اليمنرتوبدعسةهفكحقأشجصطخىضزغذإثءئظآؤ،\u064b؟"),  # Arabic
    ("cp1256", "اينردهمتوبسشکزلخكگ\u200cفقعحپجچطصآغضثذظژئ،"),  # Persian
    ("cp874", "านรอกเง่มยลวดทต้ัสีะปบหคแจพใไขิุูำโช็ซ์ืณึผถศภธษญฟฐๆฝฉฮ๊ฎฏฤฑฬ๋ฆฒฌ"),  # Thai
)


@functools.cache
def _characters():
    """{encoding: {character: log-probability}}, where a character is several bytes; "" is any other one.

    In East Asia nearly all text is of common characters, which each encoding has in one block. What is decoded wrongly
    comes from everywhere.
    """
    signs = dict.fromkeys(_block("gb2312", 0xA1, 0xA1) + _block("gb2312", 0xA3, 0xA3), -7) | PLAIN
    traditional = dict.fromkeys(_block("big5", 0xA4, 0xC6), -9) | signs
    chinese = dict.fromkeys(_block("gb2312", 0xB0, 0xD7), -9) | traditional  # GB18030 is used for both.
    kana = dict.fromkeys(_block("euc_jp", 0xA4, 0xA5) + "ー", -5.5)
    japanese = dict.fromkeys(_block("euc_jp", 0xB0, 0xCF), -9) | kana | signs
    korean = dict.fromkeys(_block("euc_kr", 0xB0, 0xC8), -8) | signs
    scripts = "".join(letters for _, letters in OTHER_SCRIPTS)
    every = dict.fromkeys(WESTERN + PUNCTUATION, -5.5) | dict.fromkeys(scripts + scripts.upper(), -9)
    every |= korean | japanese | chinese
    utf_8 = PLAIN | {"�": RARE, "": -6}
    two_bytes = {"gb18030": chinese, "big5hkscs": traditional, "cp932": japanese, "euc_jp": japanese, "cp949": korean}
    return {"utf-8": utf_8, **two_bytes, "utf-16-le": every, "utf-16-be": every}


@functools.cache
def _letters():
    """[(encoding, log-probability of each byte at first, later, a pattern of mixed scripts)], one for each alphabet.

    A letter that is found often may be that of one foreign word, such as São Paulo. Where most letters are ASCII it
    says something about the language twice, and later nothing.
    """
    found = []
    for encodings, letters in LATIN + OTHER_SCRIPTS:
        is_latin = (encodings, letters) in LATIN
        punctuation, *steps = (-5.5, (-3.5, 0.3), (-5.5, 0)) if is_latin else (-8, (-2.3, 0.1), (-2.3, 0.1))
        for encoding in encodings.split():
            scores = []
            for first, step in steps:
                lower = {c: first - step * i for i, c in enumerate(letters)}
                upper = {c.upper(): score - 3 for c, score in lower.items()}
                common = dict.fromkeys(PUNCTUATION, punctuation) | upper | lower | PLAIN
                scores.append([common.get(c, RARE) for c in bytes(range(256)).decode(encoding, "replace")])
            own = re.escape((letters + letters.upper()).encode(encoding, "ignore"))
            mixed = b"(?!)" if is_latin else b"[A-Za-z][%b]|[%b][A-Za-z]" % (own, own)  # (?!) is nowhere.
            found.append((encoding, *scores, re.compile(mixed)))
    return found


def _block(encoding, first, last):
    """The characters whose first byte is from `first` to `last`."""
    pairs = (bytes((lead, trail)) for lead in range(first, last + 1) for trail in range(0x40, 0xFF))
    return b"".join(pairs).decode(encoding, "ignore")


def guess(parts):
    """(the most plausible encoding, another one if in doubt or else None), as Python names them; (None, None): no text.

    parts: bytes from places all over a file, the first from its start, all from even places. Damage hardly matters.
    """
    head = parts[0][:SNIPPET] if parts else b""
    for encoding, marks in BYTE_ORDER_MARKS.items():
        if head.startswith(marks):
            return encoding, None
    snippets = [part[i : i + SNIPPET] for part in parts for i in range(0, len(part), SNIPPET)]
    snippets = [(i, snippet) for i, snippet in enumerate(snippets) if not snippet.isascii() or b"\0" in snippet]
    snippets = snippets[:: len(snippets) // N_SNIPPETS + 1]
    data = b"".join(snippet for _, snippet in snippets)
    priors = {encoding: score for score, encodings in PRIORS.items() for encoding in encodings.split()}
    plausible = {None: -8 + CHANCE * len(data)}
    for encoding, common in _characters().items():
        plausible[encoding] = priors[encoding]
        for i, snippet in snippets:
            score = _score(snippet.decode(encoding, "replace"), common)
            if i:  # It may begin inside a character.
                score = max(score, RARE + _score(snippet[1:].decode(encoding, "replace"), common))
            plausible[encoding] += score
    counts = collections.Counter(data).items()
    for encoding, at_first, later, mixed in _letters():
        score = priors.get(encoding, -16) + RARE * len(mixed.findall(data))
        score += sum(at_first[byte] * min(n, 2) + later[byte] * max(n - 2, 0) for byte, n in counts)
        plausible[encoding] = max(score, plausible.get(encoding, score))
    first, *others = sorted(plausible, key=plausible.get, reverse=True)
    # A PDF is mostly plain words. An archive may hold a text, but it begins with numbers. One zero may be damage.
    if first is None or head.startswith(b"%PDF-") or head.decode(first, "ignore").count("\0") > 1:
        return None, None
    text = data.decode(first, "replace")
    close = (name for name in others if name and plausible[first] - plausible[name] < DOUBT)
    return first, next((name for name in close if data.decode(name, "replace") != text), None)


def _score(text, common):
    others = common.get("", RARE)
    return sum([common.get(c, others) for c in text]) + RARE * len(MIXED.findall(text))


def n_uncommon(data, encoding):
    """How many characters in some bytes are such as texts hardly use: more where the bytes are read out of step."""
    common = _characters()["utf-16-le"]
    return sum(c not in common for c in data.decode(encoding, "replace"))
