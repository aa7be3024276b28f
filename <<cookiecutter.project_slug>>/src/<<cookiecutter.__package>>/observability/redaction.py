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
# (semantic conventions, attribute url.query). A test holds this to both.
_SECRET_WORDS = frozenset(
    "apikey auth authorization bearer cookie cookies credential credentials csrf csrftoken"
    " cvc cvv iban jsessionid jwt nino otp passcode passphrase passport passwd password"
    " passwords phpsessid pin privatekey pwd secret secrets session sessionid sid sig"
    " signature ssn symfony token xsrf".split()
)
_SECRET_PHRASES = (
    "access key",
    "account key",
    "api key",
    "bank account",
    "card no",
    "card number",
    "cc number",
    "client key",
    "credit card",
    "debit card",
    "encryption key",
    "ip address",
    "master key",
    "national id",
    "national insurance",
    "private key",
    "real ip",
    "remote addr",
    "security code",
    "shared key",
    "signing key",
    "social security",
    "ssh key",
    "tax id",
    "x csrftoken",
    "x forwarded for",
)
# Servers write header names as `Clientsecret`: what was two words is one.
_RUN_TOGETHER = frozenset(phrase.replace(" ", "") for phrase in _SECRET_PHRASES) | frozenset(
    "accesstoken apitoken authtoken awsaccesskeyid csrfmiddlewaretoken dbpass idtoken pass"
    " passwordhash refreshtoken secretkey sessiontoken totp usertoken".split()
)
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")


@lru_cache(maxsize=4096)
def is_secret_name(name: str) -> bool:
    """Whether a field of this name holds a secret: by whole words, so `apiKey` but not `author`."""
    words = [word.lower() for word in _WORD.findall(name[:128])]
    together = "".join(words)
    if not _SECRET_WORDS.isdisjoint((*words, together)) or together in _RUN_TOGETHER:
        return True
    if together.endswith(("password", "passwd", "pwd", "secret")):
        return True
    sentence = f" {' '.join(words)} "
    return any(f" {phrase} " in sentence for phrase in _SECRET_PHRASES)


def _card(found: re.Match[str]) -> str:
    digits = [int(digit) for digit in found[0] if digit.isdigit()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    luhn = sum(digits[-1::-2]) + sum(doubled)
    return REDACTED if luhn % 10 == 0 else found[0]


_PAIR = re.compile(r"[=:]|[\"'],").search
_NAME = re.compile(
    r"(?<![\w.-])[\d.-]{0,32}([A-Za-z_][\w.-]{0,127})(?:\\{0,4}[\"'],?)?\]?\s{0,4}(?:=>|[=:]|(?<=,))\s{0,4}(?!//)"
)
_VALUE = re.compile(
    r"\\{1,4}\"[^\"\\]*|\"(?:[^\"\\]|\\.)*\"?|'(?:[^'\\]|\\.)*'?|\[[^\]]*\]?|[^\s&;,\"'})\]]+", re.S
)


def _scrub_pairs(text: str) -> str:
    """`password=…`, `"apiKey": "…"` and the like. A harmless name's value is looked into."""
    pieces, position = [], 0
    while found := _NAME.search(text, position):
        value = _VALUE.match(text, found.end()) if is_secret_name(found[1]) else None
        if value:
            pieces += [text[position : found.end()], REDACTED]
        else:
            pieces.append(text[position : found.end()])
        position = value.end() if value else found.end()
    return "".join([*pieces, text[position:]])


# Each shape: a cheap sign that must be there, the pattern, what stands in its place.
_SHAPES = (
    (
        re.compile(r"-----BEGIN").search,
        re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*KEY-----|\Z)", re.S),
        REDACTED,
    ),
    (
        re.compile(r"(?i)cookie|authorization").search,
        re.compile(
            r"(?i)(?P<key>\b(?:set-)?cookie2?\s*:\s*|\b(?:proxy-)?authorization\s*:\s*)[^\r\n]+"
        ),
        rf"\g<key>{REDACTED}",
    ),
    (
        re.compile(r"://").search,
        re.compile(
            # Bounded, so that hostile text costs linear time.
            r"://[^\s/?#@:\"']{0,128}(?::(?!\d{1,5}/)[^\s\"'@]{0,256})?@(?:[^\s/?#@\"']{0,128}@)?"
        ),
        rf"://{REDACTED}@",
    ),
    (
        re.compile(r"(?i)\b(?:bearer|basic|token|digest|negotiate|apikey)\s").search,
        re.compile(
            r"(?i)\b(?P<key>(?:bearer|basic|token|digest|negotiate|apikey)\s+)"
            r"(?=[^\s,;]*[0-9=_~+/.-])[A-Za-z0-9._~+/=-]{8,}"
        ),
        rf"\g<key>{REDACTED}",
    ),
    (
        re.compile(r"eyJ").search,
        re.compile(r"(?<![\w-])eyJ[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)*"),
        REDACTED,
    ),
    (
        re.compile(r"_|-|AKIA|ASIA|AIza|SG\.").search,
        re.compile(
            r"\b(?:(?:AKIA|ASIA)[A-Z0-9]{16}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}"
            r"|glpat-[\w-]{16,}|xox[abeoprs]-[\w-]{10,}|[sr]k_(?:live|test)_\w{10,}|sk-[\w-]{20,}"
            r"|whsec_\w{16,}|AIza[\w-]{30,}|SG\.[\w-]{16,}\.[\w-]{16,}|npm_\w{20,}|pypi-[\w-]{20,}"
            r"|dop_v1_\w{20,}|shpat_\w{20,}|hf_\w{20,})"
        ),
        REDACTED,
    ),
    (
        # The values of the row, in what PostgreSQL says of a key that exists already.
        re.compile(r"Key \(").search,
        re.compile(r"(?P<key>\bKey \([^()]{0,512}\)=\()[^\r\n]*?(?=\) |\)$|\Z)", re.M),
        rf"\g<key>{REDACTED}",
    ),
    (
        re.compile(r"hooks\.slack\.com").search,
        re.compile(r"(hooks\.slack\.com/services/)\S+"),
        rf"\g<1>{REDACTED}",
    ),
    (
        re.compile(r"\d{4}[ -]?\d").search,
        re.compile(r"(?<![\w.-])[2-6](?:[ -]?\d){12,18}(?![\w-])(?!\.\d)"),
        _card,
    ),
    (
        re.compile(r"\d{2}-\d{4}|[A-Z]{2} ?\d\d").search,
        re.compile(
            r"(?<![\w-])(?:\d{3}-\d{2}-\d{4}"
            r"|[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?\d\d ?\d\d ?\d\d ?[A-D]"
            r"|[A-Z]{2}\d\d(?: ?[A-Z0-9]{4}){3,7}(?: ?[A-Z0-9]{1,3})?)(?![\w-])"
        ),
        REDACTED,
    ),
)


def scrub_text(text: str) -> str:
    """Free text without the secrets that can be told by their shape."""
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST // 2]}…{text[-_LONGEST // 2 :]}"
    for sign, shape, replacement in _SHAPES:
        if sign(text):
            text = shape.sub(replacement, text)
    return _scrub_pairs(text) if _PAIR(text) else text


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
        text = "" if abs(value) < 10**11 else scrub_text(described(value))
        return text if text == REDACTED or abs(value) >= 2**63 else value
    if isinstance(value, Mapping):
        named = ((described(name), item) for name, item in islice(value.items(), left[0] + 1))
        return {
            scrub_text(name): REDACTED
            if is_secret_name(name) and item is not None
            else _scrub(item, depth + 1, left)
            for name, item in named
        }
    if isinstance(value, list | tuple) and len(value) == 2 and isinstance(value[0], str):
        name, item = value
        safe = REDACTED if is_secret_name(name) else _scrub(item, depth + 1, left)
        return [scrub_text(name), safe]
    if isinstance(value, list | tuple | set | frozenset):
        return [_scrub(item, depth + 1, left) for item in islice(value, left[0] + 1)]
    return scrub_text(described(value))


def described(value: object) -> str:
    """Any object as text, also one that cannot be shown."""
    try:
        return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    except Exception:
        return f"<{type(value).__name__} that cannot be shown>"
