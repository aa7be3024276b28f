"""What must never leave the process, decided once for logs and events.

Two ways of telling a secret: by the name of the field that holds it, at any depth, and by its
shape in free text (exception messages, URLs, headers quoted in a sentence).

What this cannot catch: a secret under a harmless name that looks like any other text (a password
in `note`), one that is split, encoded or encrypted, and personal data such as names and postal
addresses. Do not log what you would not show.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from itertools import islice

REDACTED = "REDACTED"

_DEEPEST = 12
_MOST_VALUES = 10_000
_LONGEST = 32_768

# At least what sentry_sdk.scrubber's deny lists name, and OpenTelemetry's sensitive URL keys
# (semantic conventions, attribute url.query). A test holds this to both. What is two words here
# can be one in a name: servers write those of headers as `Accesskey`.
_NAMES = """
    access-key account-key api-key auth authorization aws-access-key-id bank-account bearer card-no
    card-number cc-number client-key cookie cookies credential credentials credit-card csrf cvc cvv
    db-pass debit-card encryption-key iban ip-address jsessionid jwt master-key national-id
    national-insurance nino otp passcode passphrase passport password-hash phpsessid pin private-key
    real-ip remote-addr secret-key security-code session session-id shared-key sid sig signature
    signing-key social-security ssh-key ssn symfony tax-id totp x-forwarded-for xsrf
"""
_ENDINGS = "passwd password passwords pwd secret secrets token"
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_SECRET_NAME = re.compile(
    rf"\b(?:{'|'.join(_NAMES.split()).replace('-', '-?')})\b"
    rf"|(?:{'|'.join(_ENDINGS.split())})\b"
    r"|^pass "  # by itself; a boarding pass is none
)


@lru_cache(maxsize=4096)
def is_secret_name(name: str) -> bool:
    """Whether a field of this name holds a secret: by whole words, so `apiKey` but not `author`."""
    words = _WORD.findall(name[:128])
    spellings = f"{'-'.join(words)} {''.join(words)}".lower()
    return _SECRET_NAME.search(spellings) is not None


# A cheap sign that must be there, and the shape. Its group, if it has one, is kept.
_SHAPES = {
    "-----BEGIN": r"(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*KEY-----|\Z)",
    "(?i)cookie|authorization": r"(?i)(\b(?:cookie2?|authorization)\s*:\s*)[^\r\n]+",
    # Bounded, so that hostile text costs linear time.
    "://": (
        r"(://)[^\s/?#@:\"']{0,128}(?::(?!\d{1,5}/)[^\s\"'@]{0,256})?"
        r"(?:@[^\s/?#@\"']{0,128})?(?=@)"
    ),
    r"(?i)\b(?:bearer|basic|token|digest|negotiate|apikey)\s": (
        r"(?i)\b((?:bearer|basic|token|digest|negotiate|apikey)\s+)"
        r"(?=[^\s,;]*[0-9=_~+/.-])[A-Za-z0-9._~+/=-]{8,}"
    ),
    "eyJ": r"(?<![\w-])eyJ[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)*",
    r"_|-|AKIA|ASIA|AIza|SG\.": (
        r"\b(?:(?:AKIA|ASIA)[A-Z0-9]{16}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}"
        r"|glpat-[\w-]{16,}|xox[abeoprs]-[\w-]{10,}|[sr]k_(?:live|test)_\w{10,}|sk-[\w-]{20,}"
        r"|whsec_\w{16,}|AIza[\w-]{30,}|SG\.[\w-]{16,}\.[\w-]{16,}|npm_\w{20,}|pypi-[\w-]{20,}"
        r"|dop_v1_\w{20,}|shpat_\w{20,}|hf_\w{20,})"
    ),
    # The values of the row, in what PostgreSQL says of a key that exists already.
    r"Key \(": r"(?m)(\bKey \([^()]{0,512}\)=\()[^\r\n]*?(?=\) |\)$|\Z)",
    r"hooks\.slack\.com": r"(hooks\.slack\.com/services/)\S+",
    # Numbers of social security, national insurance and bank accounts.
    r"\d{2}-\d{4}|[A-Z]{2} ?\d\d": (
        r"(?<![\w-])(?:\d{3}-\d{2}-\d{4}"
        r"|[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?\d\d ?\d\d ?\d\d ?[A-D]"
        r"|[A-Z]{2}\d\d(?: ?[A-Z0-9]{4}){3,7}(?: ?[A-Z0-9]{1,3})?)(?![\w-])"
    ),
}
_SIGNS_AND_SHAPES = [(re.compile(sign).search, re.compile(_SHAPES[sign])) for sign in _SHAPES]

_CARD_SIGN = re.compile(r"\d{4}[ -]?\d").search
_CARD = re.compile(r"(?<![\w.-])[2-6](?:[ -]?\d){12,18}(?![\w-])(?!\.\d)")
_MOST_GROUPS = 15  # with what stands between them: eight groups
_DOUBLED = str.maketrans("0123456789", "0246813579")

_PAIR_SIGN = re.compile(r"[=:]|[\"'],").search
_PAIR = re.compile(
    r"(?<![\w.-])[\d.-]{0,32}([A-Za-z_][\w.-]{0,127})(?:\\{0,4}[\"'],?)?\]?\s{0,4}(?:=>|[=:]|(?<=,))\s{0,4}(?!//)"
)
_VALUE = re.compile(
    r"\\{1,4}\"[^\"\\]*|\"(?:[^\"\\]|\\.)*\"?|'(?:[^'\\]|\\.)*'?|\[[^\]]*\]?"
    # `session: token: ...`: what is itself a name has its value with it.
    r"|(?:[\w.-]{1,128}[:=]\s{1,4}){0,8}[^\s&;,\"'})\]]+",
    re.S,
)


def scrub_text(text: str) -> str:
    """Free text without the secrets that can be told by their shape."""
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST // 2]}…{text[-_LONGEST // 2 :]}"
    for has_sign, shape in _SIGNS_AND_SHAPES:
        if has_sign(text):
            text = shape.sub(_taken_out, text)
    if _CARD_SIGN(text):
        text = _scrub_cards(text)
    return _scrub_pairs(text) if _PAIR_SIGN(text) else text


def _taken_out(found: re.Match[str]) -> str:
    return f"{found[1]}{REDACTED}" if found.re.groups else REDACTED


def _scrub_cards(text: str) -> str:
    """Cards' numbers, in one piece or in groups; beside them may stand an expiry or a count."""
    pieces, position = [], 0
    while found := _CARD.search(text, position):
        groups = re.split("([ -])", found[0])
        # Many short groups are mostly none, and to try each of them would cost too much.
        lengths = range(len(groups), 0, -2) if len(groups) <= _MOST_GROUPS else [len(groups)]
        taken = next((length for length in lengths if _is_card(groups[:length:2])), 0)
        passed = taken or (1 if len(groups) <= _MOST_GROUPS else len(groups))
        end = found.start() + len("".join(groups[:passed]))
        pieces += [text[position : found.start()], REDACTED if taken else text[found.start() : end]]
        position = end
    return "".join([*pieces, text[position:]])


def _is_card(groups: list[str]) -> bool:
    """Whether the last digit is a card's check digit: Luhn's, ISO/IEC 7812-1, annex B."""
    number = "".join(groups)
    digits = number[-1::-2] + number[-2::-2].translate(_DOUBLED)
    return 13 <= len(number) <= 19 and sum(map(int, digits)) % 10 == 0


def _scrub_pairs(text: str) -> str:
    """`password=…`, `"apiKey": "…"` and the like. A harmless name's value is looked into."""
    pieces, position = [], 0
    for found in _PAIR.finditer(text):
        if found.start() < position or not is_secret_name(found[1]):
            continue
        if value := _VALUE.match(text, found.end()):
            pieces += [text[position : found.end()], REDACTED]
            position = value.end()
    return "".join([*pieces, text[position:]])


_scrub_and_remember = lru_cache(maxsize=2048)(scrub_text)


def scrub_short_text(text: str) -> str:
    """scrub_text for what repeats, such as the paths of requests; long ones are not remembered."""
    return _scrub_and_remember(text) if len(text) <= 128 else scrub_text(text)


def scrub(value: object) -> object:
    """A copy of a value, safe to send: secret fields and shapes replaced, of bounded size."""
    return _scrub(value, 0, [_MOST_VALUES])


def _scrub(value: object, depth: int, left: list[int]) -> object:
    left[0] -= 1
    if left[0] < 0 or depth > _DEEPEST:
        return "…"
    if isinstance(value, str):
        return scrub_text(value)
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        # A card number can come as an integer; beyond 64 bits JSON readers disagree.
        text = scrub_text(described(value)) if abs(value) >= 10**11 else ""
        return text if text == REDACTED or abs(value) >= 2**63 else value
    if isinstance(value, Mapping):
        fields = islice(value.items(), left[0] + 1)
        return dict(_scrub_field(described(name), item, depth, left) for name, item in fields)
    if isinstance(value, list | tuple) and len(value) == 2 and isinstance(value[0], str):
        return list(_scrub_field(value[0], value[1], depth, left))
    if isinstance(value, list | tuple | set | frozenset):
        return [_scrub(item, depth + 1, left) for item in islice(value, left[0] + 1)]
    return scrub_text(described(value))


def _scrub_field(name: str, value: object, depth: int, left: list[int]) -> tuple[str, object]:
    secret = is_secret_name(name) and value is not None
    return scrub_short_text(name), REDACTED if secret else _scrub(value, depth + 1, left)


def described(value: object) -> str:
    """Any object as text, also one that cannot be shown."""
    try:
        return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    except Exception:
        return f"<{type(value).__name__} that cannot be shown>"
