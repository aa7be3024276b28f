"""Reads every kind of file that a service holds with a parser of that kind."""

import ast
import configparser
import html.parser
import io
import json
import re
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import hcl2
import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token

INSTRUCTIONS = frozenset(
    (
        *("ADD", "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL", "RUN"),
        *("SHELL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR"),
    )
)


def parse(path: Path) -> Any:
    """The content of a file as its format's parser reads it.

    Raises:
        Exception: whatever the parser raises for a file that is not of its format
        LookupError: nobody has said what this kind of file is
    """
    for pattern, reader in READERS.items():
        if path.match(pattern):
            return reader(path)
    raise LookupError(f"no parser for {path.name}: give its kind a line in tests/formats.py")


def read_text(path: Path) -> str:
    """Plain text, for formats whose every text is valid."""
    return path.read_text(encoding="utf-8")


def read_yaml(path: Path) -> list[Any]:
    """Every document of a YAML file; a key that is given twice is an error."""
    return list(yaml.load_all(read_text(path), Loader=UniqueKeys))


class UniqueKeys(yaml.CSafeLoader):
    """PyYAML lets the last of two equal keys win; Kubernetes and Prometheus refuse them."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Builds a mapping, or raises ConstructorError for a repeated key."""
        keys = [self.construct_object(key, deep=True) for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        repeated = {str(key) for key in keys if keys.count(key) > 1}
        if repeated:
            raise yaml.constructor.ConstructorError(None, None, f"given twice: {sorted(repeated)}", node.start_mark)
        return super().construct_mapping(node, deep)


def read_json(path: Path) -> Any:
    """A JSON document; a key that is given twice is an error."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise ValueError(f"{path.name} gives a key twice")
        return dict(pairs)

    return json.loads(read_text(path), object_pairs_hook=unique)


def read_ndjson(path: Path) -> list[Any]:
    """A JSON document a line."""
    return [json.loads(line) for line in read_text(path).splitlines()]


def read_splunk(path: Path) -> configparser.RawConfigParser:
    """A Splunk .conf: stanzas of settings, `*` and `%` being plain text."""
    parser = configparser.RawConfigParser(delimiters=["="], comment_prefixes=["#"], default_section="default")
    parser.read_string(read_text(path))
    return parser


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML document."""
    return tomllib.loads(read_text(path))


def read_python(path: Path) -> ast.Module:
    """A Python module that the oldest Python of a service reads, without a warning such as for a bad escape."""
    return ast.parse(read_text(path), path.name, feature_version=(3, 11))


def read_hcl(path: Path) -> Any:
    """A Terraform file."""
    return hcl2.load(io.StringIO(read_text(path)))


def read_ini(path: Path) -> configparser.ConfigParser:
    """An INI file, interpolation included."""
    parser = configparser.ConfigParser()
    parser.read_string(read_text(path))
    for section in parser.sections():
        parser.items(section, raw=path.suffix == ".ini")
    return parser


def read_systemd(path: Path) -> configparser.RawConfigParser:
    """A systemd unit: sections of assignments, where a key may come more than once."""
    parser = configparser.RawConfigParser(strict=False, delimiters=["="], comment_prefixes=["#", ";"])
    parser.read_string(read_text(path))
    return parser


def read_environment(path: Path) -> dict[str, str]:
    """A file of NAME=value lines."""
    lines = [line for line in read_text(path).splitlines() if line.strip() and not line.startswith("#")]
    pairs = [re.fullmatch(r"([A-Z][A-Z0-9_]*)=(.*)", line) for line in lines]
    assert all(pairs), [line for line, pair in zip(lines, pairs, strict=True) if not pair]
    return {pair[1]: pair[2] for pair in pairs if pair}


def read_dockerfile(path: Path) -> list[list[str]]:
    """The instructions of a Dockerfile, continued lines joined."""
    text = re.sub(r"(?m)^\s*#.*\n", "", read_text(path))
    instructions = [line.split(maxsplit=1) for line in re.sub(r"\\\n", " ", text).splitlines() if line.strip()]
    unknown = {words[0] for words in instructions} - INSTRUCTIONS
    assert not unknown, unknown
    assert {words[0] for words in instructions} >= {"FROM", "USER"}
    return instructions


def read_makefile(path: Path) -> str:
    """A Makefile that make can read and that knows help."""
    done = subprocess.run(
        ["make", "--dry-run", "--no-print-directory", "-f", path.name, "help"],
        cwd=path.parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def read_shell(path: Path) -> str:
    """A script that the shell can read."""
    done = subprocess.run(["sh", "-n", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return read_text(path)


def read_script(path: Path) -> str:
    """A script that node can read, where there is a node."""
    if node := shutil.which("node"):
        done = subprocess.run([node, "--check", str(path)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return read_text(path)


def read_styles(path: Path) -> str:
    """A style sheet whose braces pair."""
    text = read_text(path)
    assert text.count("{") == text.count("}")
    return text


class Page(html.parser.HTMLParser):
    """Notes elements that are not closed, or closed in another order."""

    EMPTY = frozenset({"br", "hr", "img", "input", "link", "meta", "source", "wbr"})

    def __init__(self) -> None:
        """Nothing is open yet."""
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Opens an element."""
        del attrs
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Closes the innermost element."""
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, tag


def read_html(path: Path) -> str:
    """A page, or a template of one, whose elements close in order."""
    page = Page()
    page.feed(read_text(path))
    page.close()
    assert not page.open, page.open
    return read_text(path)


def read_markdown(path: Path) -> list[Token]:
    """A Markdown page whose links within the service lead to files, and to headings, that exist."""
    tokens = markdown(read_text(path))
    for target in links(tokens):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        linked = path.parent / unquote(file) if file else path
        assert linked.exists(), f"{path.name} links to {target}, which does not exist"
        if anchor and linked.suffix == ".md":
            assert anchor in anchors(markdown(read_text(linked))), f"{path.name} links to {target}: no such heading"
    return tokens


def markdown(text: str) -> list[Token]:
    """Markdown with GitHub's tables and strike-through."""
    return MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)


def inline(tokens: list[Token]) -> list[Token]:
    """All tokens within paragraphs, headings and cells."""
    return [child for token in tokens for child in token.children or []]


def links(tokens: list[Token]) -> list[str]:
    """Where the links and images of a page lead."""
    found = [child.attrGet("href") or child.attrGet("src") for child in inline(tokens)]
    return [str(target) for target in found if target]


def plain(token: Token) -> str:
    """What a reader sees of a paragraph, heading or cell."""
    return "".join(child.content for child in token.children or [])


def anchors(tokens: list[Token]) -> set[str]:
    """The headings of a page, as GitHub makes addresses of them."""
    headings = [tokens[number + 1] for number, token in enumerate(tokens) if token.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", plain(heading).lower()).replace(" ", "-") for heading in headings}


READERS: dict[str, Callable[[Path], Any]] = {
    "*.py": read_python,
    "*.toml": read_toml,
    "*.json": read_json,
    "*.ndjson": read_ndjson,
    "splunk/*/*.conf": read_splunk,
    "splunk/*/*.meta": read_splunk,
    "*.yaml": read_yaml,
    "*.yml": read_yaml,
    "*.tf": read_hcl,
    "*.md": read_markdown,
    "*.html": read_html,
    "*.js": read_script,
    "*.css": read_styles,
    "*.sh": read_shell,
    "*.ini": read_ini,
    "*.cfg": read_ini,
    "*.service": read_systemd,
    "Dockerfile": read_dockerfile,
    "Makefile": read_makefile,
    ".env.example": read_environment,
    "*.env": read_environment,
    "*.txt": read_text,
    "*.mako": read_text,
    "*.typed": read_text,
    "*.tmpl": read_text,
    ".dockerignore": read_text,
    ".editorconfig": read_text,
    ".gitattributes": read_text,
    ".gitignore": read_text,
    "*.conf": read_text,
    "*.sql": read_text,  # PostgreSQL itself runs it in tests/real/test_infrastructure.py
    "logrotate/*": read_text,
}


def parse_all(service: Path) -> dict[str, Any]:
    """Every file of a service, parsed; all that do not parse fail the test together."""
    parsed, wrong = {}, []
    for path in sorted(path for path in service.rglob("*") if path.is_file()):
        name = str(path.relative_to(service))
        try:
            parsed[name] = parse(path)
        except Exception as error:
            wrong.append(f"{name}: {type(error).__name__}: {error}")
    assert not wrong, "\n".join(wrong)
    return parsed
