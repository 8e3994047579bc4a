#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes fixture.txt: what the reference gives for many templates and conversations.

    python3 make_chat.py          with Jinja2 3.1.6 (pip install jinja2==3.1.6)

The reference is Jinja2, set up as the transformers library (5.24) sets it up for chat templates.
fixture.txt is a row of blocks: a header line, the bytes it counts, a newline.

    template NAME LEN                      messages|tools|variables CHAT LEN
    text TEMPLATE CHAT OPTIONS LEN         the rendering; OPTIONS: g generation prompt, c continue, -
    refusal TEMPLATE CHAT OPTIONS LEN      the reference fails; its message, or nothing if ours is free
"""
import datetime
import json
import pathlib

import jinja2
import jinja2.ext
import jinja2.sandbox

HERE = pathlib.Path(__file__).parent
NOW = 1750000000  # test_chat_golden.c has it too; in UTC
TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
TAG = "CONTINUE_FINAL_MESSAGE_TAG "


class Generation(jinja2.ext.Extension):
    """{% generation %} marks what the model wrote; rendering gives its body."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


def raise_exception(message):
    raise jinja2.TemplateError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators,
                      sort_keys=sort_keys)


def make_environment():
    env = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    now = datetime.datetime.fromtimestamp(NOW, datetime.timezone.utc)
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = now.strftime
    return env


def plain_messages(messages):
    """Without what is null; reasoning under the names that templates know."""
    out = []
    for message in messages:
        message = {k: v for k, v in message.items() if v is not None}
        names = ("reasoning_content", "thinking", "reasoning")
        reasoning = next((message[n] for n in names if n in message), None)
        if reasoning is not None:
            message.setdefault("thinking", reasoning)
            message["reasoning_content"] = reasoning
        out.append(message)
    return out


def render(template, chat, options):
    messages = json.loads(json.dumps(plain_messages(chat["messages"])))
    if "c" in options:
        messages[-1]["content"] += TAG
    text = template.render(TOKENS | {"documents": None} | chat.get("variables", {}),
                           messages=messages, tools=chat.get("tools"),
                           add_generation_prompt="g" in options)
    if "c" in options:
        at = text.rindex(TAG.strip())
        keeps_space = text[at:at + len(TAG)] == TAG
        text = text[:at] if keeps_space else text[:at].rstrip()
    return text


class Fixture:
    def __init__(self):
        self.env = make_environment()
        self.blocks = []

    def add(self, header, text):
        data = text.encode()
        self.blocks.append(f"{header} {len(data)}\n".encode() + data + b"\n")

    def add_chat(self, name, chat):
        for part in ("messages", "tools", "variables"):
            if part in chat:
                # both ways of writing what is beyond ASCII
                self.add(f"{part} {name}", json.dumps(chat[part], ensure_ascii=len(name) % 2 == 0))

    def add_result(self, name, template, chat_name, chat, options):
        try:
            text = render(template, chat, options)
        except Exception as e:  # whatever the reference trips over, ours must refuse
            own_words = type(e) is jinja2.TemplateError
            self.add(f"refusal {name} {chat_name} {options}", str(e) if own_words else "")
        else:
            self.add(f"text {name} {chat_name} {options}", text)

    def add_template(self, name, source, chats):
        self.add(f"template {name}", source)
        try:
            template = self.env.from_string(source)
        except (jinja2.TemplateSyntaxError, SyntaxError):
            self.add(f"refusal {name} snippet -", "")
            return
        for number, (chat_name, chat) in enumerate(chats.items()):
            self.add_result(name, template, chat_name, chat, "g" if number % 2 else "-")
            if chat["messages"] and isinstance(chat["messages"][-1].get("content"), str) and number % 3 == 0:
                self.add_result(name, template, chat_name, chat, "c")


def main():
    fixture = Fixture()
    chats = json.loads((HERE / "chats.json").read_text())
    snippet_chats = {"snippet": chats["snippet"]}
    for name, chat in chats.items():
        fixture.add_chat(name, chat)
    for path in sorted((HERE / "templates").glob("*.jinja")):
        fixture.add_template(path.stem, path.read_bytes().decode(), chats)
    expressions = (HERE / "expressions.txt").read_text().splitlines()
    for number, line in enumerate(expressions):
        fixture.add_template(f"expression-{number + 1}", "{{ " + line + " }}", snippet_chats)
    snippets = (HERE / "snippets.txt").read_bytes().decode().split("\n====\n")
    for number, snippet in enumerate(snippets):
        fixture.add_template(f"snippet-{number + 1}", snippet, snippet_chats)
    (HERE / "fixture.txt").write_bytes(b"".join(fixture.blocks))


if __name__ == "__main__":
    main()
