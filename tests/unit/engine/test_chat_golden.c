/* SPDX-License-Identifier: Apache-2.0
 *
 * test_chat_golden.c - templates and conversations, byte for byte as Jinja2 renders them.
 * tests/golden/chat/make_chat.py made the fixture and describes it.
 */
#include "tests/unit/engine/test_chat_template.h"

#define FIXTURE "tests/golden/chat/fixture.txt"

enum { NOW = 1750000000, MAX_CHATS = 64 };

struct block {
    char kind[16], names[3][64];
    char *data; /* ended by a NUL; in the fixture's memory */
    size_t len;
};

struct chat_parts {
    char name[64];
    struct engine_chat chat;
};

struct golden {
    struct chat_parts chats[MAX_CHATS];
    size_t n_chats, n_compared;
    struct engine *e;
};

static char *read_fixture(size_t *len)
{
    FILE *f = fopen(FIXTURE, "rb");
    cr_assert(f != NULL, "%s", FIXTURE);
    fseek(f, 0, SEEK_END);
    *len = (size_t)ftell(f);
    rewind(f);
    char *data = malloc(*len);
    cr_assert(data != NULL && fread(data, 1, *len, f) == *len);
    fclose(f);
    return data;
}

/* Reads the block at p; returns where the next begins. */
static char *read_block(char *p, const char *end, struct block *b)
{
    char *line_end = memchr(p, '\n', (size_t)(end - p)), *words[6], *save = NULL;
    int n = 0;
    cr_assert(line_end != NULL);
    *line_end = 0;
    for (char *w = strtok_r(p, " ", &save); w && n < 6; w = strtok_r(NULL, " ", &save))
        words[n++] = w;
    cr_assert(n >= 3, "a header of %d words", n);
    memset(b, 0, sizeof *b);
    snprintf(b->kind, sizeof b->kind, "%s", words[0]);
    for (int i = 1; i < n - 1 && i <= 3; i++)
        snprintf(b->names[i - 1], sizeof b->names[0], "%s", words[i]);
    b->len = strtoul(words[n - 1], NULL, 10);
    b->data = line_end + 1;
    cr_assert(b->len < (size_t)(end - b->data));
    b->data[b->len] = 0;
    return b->data + b->len + 1;
}

static struct engine_chat *chat_named(struct golden *g, const char *name)
{
    for (size_t i = 0; i < g->n_chats; i++) {
        if (strcmp(g->chats[i].name, name) == 0)
            return &g->chats[i].chat;
    }
    cr_assert(g->n_chats < MAX_CHATS);
    struct chat_parts *c = &g->chats[g->n_chats++];
    snprintf(c->name, sizeof c->name, "%s", name);
    c->chat.now = NOW;
    return &c->chat;
}

static void take_part(struct golden *g, const struct block *b)
{
    struct engine_chat *c = chat_named(g, b->names[0]);
    if (strcmp(b->kind, "messages") == 0) {
        c->messages = b->data;
        c->messages_len = b->len;
    } else if (strcmp(b->kind, "tools") == 0) {
        c->tools = b->data;
        c->tools_len = b->len;
    } else {
        c->variables = b->data;
        c->variables_len = b->len;
    }
}

static void compare(struct golden *g, const struct block *b)
{
    struct engine_chat chat = *chat_named(g, b->names[1]);
    struct engine_err err = { 0 };
    char *text = NULL;
    size_t len = 0;
    chat.add_generation_prompt = b->names[2][0] == 'g';
    chat.continue_final_message = b->names[2][0] == 'c';
    int rc = engine_chat_render(g->e, &chat, &text, &len, &err);
    const char *at[3] = { b->names[0], b->names[1], b->names[2] };
    if (strcmp(b->kind, "refusal") == 0) {
        cr_expect(rc == -1, "%s %s %s: rendered: %.300s", at[0], at[1], at[2], text);
        cr_expect(rc == 0 || strstr(err.text, b->data) != NULL, "%s %s: \"%s\", not \"%s\"", at[0],
                  at[1], err.text, b->data);
    } else {
        cr_expect(rc == 0, "%s %s %s: %s", at[0], at[1], at[2], err.text);
        cr_expect(rc != 0 || (len == b->len && memcmp(text, b->data, len) == 0),
                  "%s %s %s: got\n%s\nnot\n%s", at[0], at[1], at[2], text, b->data);
    }
    free(text);
    g->n_compared++;
}

Test(chat_golden, every_rendering_is_the_references)
{
    static struct golden g;
    struct block b;
    size_t len;
    char *data = read_fixture(&len), *end = data + len;
    setenv("TZ", "UTC", 1);
    for (char *p = data; p < end;) {
        p = read_block(p, end, &b);
        if (strcmp(b.kind, "template") == 0) {
            engine_close(g.e);
            g.e = open_with_template(b.data);
        } else if (strcmp(b.kind, "text") == 0 || strcmp(b.kind, "refusal") == 0) {
            compare(&g, &b);
        } else {
            take_part(&g, &b);
        }
    }
    engine_close(g.e);
    free(data);
    cr_expect(g.n_compared > 1000, "%zu renderings", g.n_compared);
}
