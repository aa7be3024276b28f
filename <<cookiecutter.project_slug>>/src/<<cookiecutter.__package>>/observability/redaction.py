"""What must never leave the process, decided once for logs and events.

A secret is recognised in two ways: by the name of what holds it, as a field at any depth or as
`name=value` in free text, and by its shape (bearer tokens, card numbers, URLs with a password).

What this cannot catch: a secret under a harmless name that looks like any other text (a password
in `note`), one that is split, encoded or encrypted, the later words of one that is several words
without quotes, and personal data such as names and postal addresses. Do not log what you would not
show.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from itertools import islice
from unicodedata import normalize

REDACTED = "REDACTED"

_DEEPEST = 12
_MOST_VALUES = 10_000
_LONGEST = 32_768
_LONGEST_NAME = 128

# At least what sentry_sdk.scrubber's deny lists name, and OpenTelemetry's sensitive URL keys
# (semantic conventions, attribute url.query). A test holds this to both. What is two words here
# can be one in a name: servers write those of headers as `Accesskey`.
_SECRETS = """
    access-code access-key-id access-tokens account-number api-tokens auth auth-tokens
    authentication authorization aws-access-key-id backup-code backup-codes bank-account bearer
    bindpw card-code card-no card-number cc-no cc-number client-assertion code-verifier conn-str
    connection-string connection-strings cookie cookies credential credentials credit-card csrf cvc
    cvv debit-card device-code driver-license drivers-license dsn forwarded-for iban ip-address jwt
    magic-link mfa-code national-id national-insurance nino oauth-verifier one-time-code otp
    passcode passphrase passport passwd password password-hash passwords phpsessid pin pw pwd
    real-ip recovery-code recovery-codes refresh-tokens remote-addr reset-link saml-assertion
    saml-response secret secrets security-code service-account-json sessid session session-id sid
    sig signature signatures sms-code social-security ssn symfony tax-id token totp user-code
    verification-code xsrf
"""
_KEYS = """
    access account admin api app application auth client consumer cookie decryption deploy
    encryption gpg hmac integration license master pgp private rsa secret session shared signing
    ssh ssl storage subscription tls
"""
_PASSES = """
    admin api bind database db ftp key ldap login mail mysql proxy redis root smtp user
"""
_URLS = """
    amqp broker cache connection database db jdbc mariadb mongo mongodb mysql postgres
    postgresql rabbitmq redis reset webhook
"""
_SECRET = frozenset(
    [name.replace("-", "") for name in _SECRETS.split()]
    + [f"{of}{key}" for of in _KEYS.split() for key in ("key", "keys")]
    + [f"{of}pass" for of in _PASSES.split()]
    + [f"{of}{url}" for of in _URLS.split() for url in ("url", "uri")]
)
# Words glued to others: `devicetoken`, `mysqlpassword`.
_ENDINGS = (
    "passwd", "password", "pwd", "passphrase", "secret", "token", "apikey", "accesskey",
    "privatekey", "secretkey", "sessionid",
)  # fmt: skip
# A last word that says that the value is about a secret and is none: `password_policy`. With any
# other it is one: `password_hash`, `session_data`.
_ABOUT = frozenset(
    """
    affinity age alg algorithm allowed at attempts audience available backend banner bits bucket
    budget bytes capacity category changed class column consent cost count counter country created
    day days deadline depth disabled domain driver duration enabled end endpoint engine error
    errors event events exists expiration expired expires expiry factory failed failure failures
    family file filename flow format group handler host hour hours httponly idle in index interval
    invalid issuer kind label latency layout leeway left length level lifetime limit location lock
    locked manager max mean method middleware min minutes missing mode module month months ms name
    names obtained offset on only owner path per percent period plugin policies policy pool port
    present protection provider quota rate ratio reason region remaining requested required
    requirements requires retries revoked role rotation rule rules samesite schema scheme scope
    scopes screen second seconds secure sent server service size source start started status store
    strategy strength success supported table template time timeout timestamp total ttl type types
    until updated usage used user username valid validity vendor version warning window year years
    """.split()
)
# A first word that asks or counts: `has_password`, `max_token`.
_ASKING = frozenset({"has", "is", "max", "min", "needs", "num", "requires", "use"})
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


@lru_cache(maxsize=4096)
def is_secret_name(name: str) -> bool:
    """Whether what has this name is a secret: by whole words, so `apiKey` but not `author`.

    Words are separated by case and by what is no letter; digits do not count.
    """
    words = [word.lower() for word in _WORD.findall(normalize("NFKC", name))]
    if not words or words[0] in _ASKING:
        return False
    if words == ["pass"] or _ends_in_secret(words):
        return True
    inside = any(_ends_in_secret(words[:end]) for end in range(1, len(words)))
    return inside and (words[-1] not in _ABOUT or "for" in words)  # token_for_user


def _ends_in_secret(words: list[str]) -> bool:
    spellings = ("".join(words[-count:]) for count in range(1, 5))
    return words[-1].endswith(_ENDINGS) or not _SECRET.isdisjoint(spellings)


# A cheap sign that must be there, and the shape. Its group, if it has one, is kept.
_SHAPES = {
    "-----BEGIN": r"(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*KEY-----|\Z)",
    "(?i)cookie|authorization": r"(?i)((?<![a-z])(?:cookie2?|authorization)\s*:\s*)[^\r\n]+",
    # Bounded and possessive, so that hostile text costs linear time.
    "://": (
        r"(://)[^\s/?#@:\"']{0,128}+(?::(?!\d{1,5}/)[^\s\"'@]{0,256}+)?+"
        r"(?:@[^\s/?#@\"']{0,128}+)?(?=@)"
    ),
    r"(?i)\b(?:bearer|basic|token|digest|negotiate|apikey|password)\s": (
        r"(?i)\b((?:bearer|basic|token|digest|negotiate|apikey)\s+"
        r"(?=[^\s,;]*[0-9=_~+/.-])(?=[A-Za-z0-9._~+/=-]{8})"
        r"|password\s+(?:(?=[\"'])|(?:is|was)\s+(?=[\"']|\S*\d)))"  # ALTER ROLE x PASSWORD 'y'
        r"(?:\"[^\"]*\"?|'[^']*'?|[^\s,;\"')}\]]+)"
    ),
    "eyJ": r"(?<![\w-])eyJ[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)*",
    r"_|-|AKIA|ASIA|AIza|SG\.": (
        r"\b(?:(?:AKIA|ASIA)[A-Z0-9]{16}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}"
        r"|glpat-[\w-]{16,}|xox[abeoprs]-[\w-]{10,}|[sr]k_(?:live|test)_\w{10,}|sk-[\w-]{20,}"
        r"|whsec_\w{16,}|AIza[\w-]{30,}|SG\.[\w-]{16,}\.[\w-]{16,}|npm_\w{20,}|pypi-[\w-]{20,}"
        r"|dop_v1_\w{20,}|shpat_\w{20,}|hf_\w{20,})"
    ),
    # The values of the row, in what PostgreSQL says of a key that exists already.
    r"Key \(": r"(\bKey \([^()]{0,512}\)=\()[^\r\n]*?(?=\) |\)?(?:[\r\n]|\Z))",
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

_PAIR_SIGN = re.compile(r"[=:]|[\"'],|->|%3[ADad]|--[a-z]").search
_PAIR = re.compile(
    r"(?<![\w.-])(?:--([a-z][\w-]*+)(?=\s)"  # --password hunter2
    r"|[\d.-]*+([^\W\d][\w.-]*+)(?:(?:\[|%5B)([\w.-]{0,64})(?:\]|%5D))?"  # user[password]
    r"(?:\\*+[\"'`\u201d\u2019]|%2[27])?"
    r"(?:(?<=[\"']),|\]?\s*+(?:[=:]{1,3}>?|[!~]=|->|(?<=-)>|%3[AD])))\s*+(?!//)",
    re.I,
)
# What may stand before a value: `Bearer`, YAML's `|`, and a name (in `session: token: …` the value
# of the one is the name of the other).
_BEFORE_VALUE = re.compile(
    r"(?:(?:bearer|basic|token|digest|negotiate|apikey)\s+|[|>][+-]?\s+"
    r"|[\w.-]{1,128}+[:=]\s{1,4}){0,8}",
    re.I,
)
_PIECE = re.compile(
    r"(?<=\w)[\"'](?=\w)"  # an apostrophe
    r"|(?P<quoted>(?:\b[bru]{1,2})?(?P<quote>\\*[\"'`]).*?(?<!\\)(?:(?P=quote)|\Z)"
    r"|(?<![^\s:=,(])<[^<>]*>)"
    # A line of code in a traceback can end with a parenthesis that nothing closes.
    r"|(?P<open>[\[{]|\((?!\r?\n))|(?P<close>[)\]}])|(?P<between>[\s&;,])"
    r"|[^\s&;,\"'`\\()\[\]{}]+|\\+|\(",
    re.I | re.S,
)
_IN_CURLY_QUOTES = re.compile(r"[\u201c\u2018][^\u201d\u2019]*[\u201d\u2019]?")
# Where the name of a secret is of two words with a space between: `API key: …`.
_SECOND_WORDS = frozenset({"code", "codes", "id", "key", "keys", "number", "string", "url"})
_WORD_BEFORE = re.compile(r"\w+ $")


def scrub_text(text: str) -> str:
    """Free text without the secrets that can be recognised by their shape."""
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
    pieces, position, looked_at = [], 0, 0
    while found := _PAIR.search(text, looked_at):
        looked_at = found.end()
        if _is_secret_pair(found) and (end := _end_of_value(text, looked_at)) > looked_at:
            pieces += [text[position:looked_at], REDACTED]
            position = looked_at = end
    return "".join([*pieces, text[position:]])


def _is_secret_pair(found: re.Match[str]) -> bool:
    if found[3] and is_secret_name(found[3]):
        return True
    name = (found[1] or found[2])[-_LONGEST_NAME:]
    if name.lower() in _SECOND_WORDS:
        start = found.start()
        if before := _WORD_BEFORE.search(found.string, max(0, start - 16), start):
            name = before[0] + name
    return is_secret_name(name)


def _end_of_value(text: str, position: int) -> int:
    """Where a value ends: with its quotes or its brackets, else before what separates it."""
    before = _BEFORE_VALUE.match(text, position)
    start = before.end() if before else position
    if quoted := _IN_CURLY_QUOTES.match(text, start):
        return quoted.end()
    depth = 0
    for piece in _PIECE.finditer(text, start):
        kind = piece.lastgroup
        depth += (kind == "open") - (kind == "close")
        if depth < 0 or (depth == 0 and kind == "between"):
            return piece.start()
        if depth == 0 and kind == "quoted":
            return piece.end() if piece.start() == start else piece.start()
        if depth == 0 and kind == "close":
            return piece.end()
    return len(text)


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
    if isinstance(value, list | tuple) and len(value) == 2 and isinstance(value[0], str | bytes):
        return list(_scrub_field(described(value[0]), value[1], depth, left))
    if isinstance(value, list | tuple | set | frozenset):
        return [_scrub(item, depth + 1, left) for item in islice(value, left[0] + 1)]
    return scrub_text(described(value))


def _scrub_field(name: str, value: object, depth: int, left: list[int]) -> tuple[str, object]:
    secret = is_secret_name(name[-_LONGEST_NAME:]) and value is not None
    return scrub_short_text(name), REDACTED if secret else _scrub(value, depth + 1, left)


def described(value: object) -> str:
    """Any object as text, also one that cannot be shown."""
    try:
        return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    except Exception:
        return f"<{type(value).__name__} that cannot be shown>"
