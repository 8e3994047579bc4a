/* SPDX-License-Identifier: Apache-2.0
 *
 * jinja_lex.c - a template's text as tokens.
 *
 * White space control is done here.  A tag's begin decides about the text before it: "-" strips all
 * white space, nothing strips an indentation that stands alone on the tag's line (lstrip_blocks; not
 * for {{ }}), "+" strips nothing.  A tag's end decides about what follows: "-" strips all white
 * space, nothing strips one line end (trim_blocks; not for {{ }}), "+" strips nothing.
 */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "engine/text/jinja_tree.h"

struct lexer {
    struct jinja_compile *c;
    const char *text;
    size_t len, at;
    uint32_t line;
    bool line_start; /* does the text at `at` begin a line, for all that was read so far? */
    char open[64];   /* brackets within the tag */
    uint32_t n_open;
};

enum tag { TAG_NONE, TAG_BLOCK, TAG_PRINT, TAG_COMMENT };

static struct jtok *add_token(struct lexer *l, enum jtok_kind kind)
{
    struct jinja_tokens *t = &l->c->tokens;
    if (t->n == t->cap) {
        uint32_t cap = t->cap ? 2 * t->cap : 256;
        struct jtok *items = realloc(t->items, cap * sizeof(*items));
        if (!items)
            return jinja_refuse(l->c, l->line, "no memory to read it");
        t->items = items;
        t->cap = cap;
    }
    t->items[t->n] = (struct jtok){ .kind = (uint8_t)kind, .line = l->line };
    return &t->items[t->n++];
}

static void add_text(struct lexer *l, enum jtok_kind kind, const char *text, size_t len)
{
    struct jtok *t = add_token(l, kind);
    if (t)
        t->value = jv_str(text, len);
}

static bool looking_at(const struct lexer *l, const char *what)
{
    size_t n = strlen(what);
    return l->len - l->at >= n && memcmp(l->text + l->at, what, n) == 0;
}

static void advance(struct lexer *l, size_t n)
{
    for (size_t i = 0; i < n; i++)
        l->line += l->text[l->at + i] == '\n';
    l->at += n;
}

static size_t space_width(const struct lexer *l, size_t at)
{
    uint32_t width;
    if (at >= l->len)
        return 0;
    return jchar_is_space(jchar_read(l->text + at, l->len - at, &width)) ? width : 0;
}

static void skip_space(struct lexer *l)
{
    size_t n;
    while ((n = space_width(l, l->at)) > 0)
        advance(l, n);
}

/* ---- between tags ---- */

static enum tag tag_at(const struct lexer *l, size_t at)
{
    if (l->len - at < 2 || l->text[at] != '{')
        return TAG_NONE;
    switch (l->text[at + 1]) {
    case '%':
        return TAG_BLOCK;
    case '{':
        return TAG_PRINT;
    case '#':
        return TAG_COMMENT;
    default:
        return TAG_NONE;
    }
}

/* Length of the text [from, to) once the tag behind it has had its say. */
static size_t stripped_length(const struct lexer *l, size_t from, size_t to, char sign, bool lstrip)
{
    struct jv text = jv_str(l->text + from, to - from);
    if (sign == '-')
        return jstr_strip(text, NULL, JSTR_RIGHT).len;
    if (sign == '+' || !lstrip)
        return text.len;
    const char *newline = text.len > 0 ? memrchr(text.as.text, '\n', text.len) : NULL;
    size_t line = newline ? (size_t)(newline - text.as.text) + 1 : 0;
    if (line == 0 && !l->line_start)
        return text.len;
    struct jv rest = jstr_sub(text, line, text.len);
    return jstr_strip(rest, NULL, JSTR_LEFT).len == 0 ? line : text.len;
}

static void add_data(struct lexer *l, size_t to, char sign, bool lstrip)
{
    size_t n = stripped_length(l, l->at, to, sign, lstrip);
    if (n > 0)
        add_text(l, JTOK_DATA, l->text + l->at, n);
    advance(l, to - l->at);
}

static char sign_at(const struct lexer *l, size_t at)
{
    return at < l->len && (l->text[at] == '-' || l->text[at] == '+') ? l->text[at] : 0;
}

/* Behind "%}" or "#}". */
static void trim_behind(struct lexer *l, char sign)
{
    size_t begin = l->at;
    if (sign == '-')
        skip_space(l);
    else if (sign == 0 && l->at < l->len && l->text[l->at] == '\n')
        advance(l, 1);
    l->line_start = l->at > begin && l->text[l->at - 1] == '\n';
}

/* ---- comments and raw text ---- */

static void lex_comment(struct lexer *l)
{
    uint32_t line = l->line;
    const char *end = memmem(l->text + l->at, l->len - l->at, "#}", 2);
    if (!end) {
        jinja_refuse(l->c, line, "a comment has no end");
        return;
    }
    size_t to = (size_t)(end - l->text);
    char sign = to > l->at ? sign_at(l, to - 1) : 0;
    advance(l, to + 2 - l->at);
    trim_behind(l, sign);
}

/* Is there "NAME %}" at `at`, behind the tag's begin?  Sets where it ends and the end's sign. */
static bool bare_tag(const struct lexer *l, size_t at, const char *name, size_t *end, char *sign)
{
    size_t n = strlen(name), width;
    while ((width = space_width(l, at)) > 0)
        at += width;
    if (l->len - at < n || memcmp(l->text + at, name, n) != 0)
        return false;
    at += n;
    while ((width = space_width(l, at)) > 0)
        at += width;
    *sign = sign_at(l, at);
    at += *sign != 0;
    if (l->len - at < 2 || memcmp(l->text + at, "%}", 2) != 0)
        return false;
    *end = at + 2;
    return true;
}

/* Behind {% raw %}: everything up to {% endraw %} is text. */
static void lex_raw(struct lexer *l)
{
    for (size_t at = l->at; at + 2 <= l->len; at++) {
        size_t end;
        char end_sign, sign;
        if (tag_at(l, at) != TAG_BLOCK)
            continue;
        sign = sign_at(l, at + 2);
        if (!bare_tag(l, at + 2 + (sign != 0), "endraw", &end, &end_sign))
            continue;
        add_data(l, at, sign, true);
        advance(l, end - l->at);
        trim_behind(l, end_sign);
        return;
    }
    jinja_refuse(l->c, l->line, "{%% raw %%} has no end");
}

/* ---- inside a tag ---- */

static const struct {
    const char *text;
    enum jinja_op op;
} operators[] = {
    { "//", JOP_FLOORDIV }, { "**", JOP_POW },     { "==", JOP_EQ },         { "!=", JOP_NE },
    { ">=", JOP_GE },       { "<=", JOP_LE },      { "+", JOP_ADD },         { "-", JOP_SUB },
    { "/", JOP_DIV },       { "*", JOP_MUL },      { "%", JOP_MOD },         { "~", JOP_CONCAT },
    { "[", JOP_LBRACKET },  { "]", JOP_RBRACKET }, { "(", JOP_LPAREN },      { ")", JOP_RPAREN },
    { "{", JOP_LBRACE },    { "}", JOP_RBRACE },   { ">", JOP_GT },          { "<", JOP_LT },
    { "=", JOP_ASSIGN },    { ".", JOP_DOT },      { ":", JOP_COLON },       { "|", JOP_PIPE },
    { ",", JOP_COMMA },     { "in", JOP_IN },      { "not in", JOP_NOT_IN },
};

const char *jinja_op_text(enum jinja_op op)
{
    for (size_t i = 0; i < sizeof operators / sizeof *operators; i++) {
        if (operators[i].op == op)
            return operators[i].text;
    }
    return "?";
}

static void balance(struct lexer *l, char bracket)
{
    if (strchr("([{", bracket)) {
        if (l->n_open == sizeof l->open)
            jinja_refuse(l->c, l->line, "brackets nested deeper than %zu", sizeof l->open);
        else
            l->open[l->n_open++] = bracket == '(' ? ')' : bracket == '[' ? ']' : '}';
    } else if (strchr(")]}", bracket)) {
        if (l->n_open == 0 || l->open[l->n_open - 1] != bracket)
            jinja_refuse(l->c, l->line, "unexpected '%c'", bracket);
        else
            l->n_open--;
    }
}

static void lex_operator(struct lexer *l)
{
    for (size_t i = 0; i < sizeof operators / sizeof *operators; i++) {
        if (!looking_at(l, operators[i].text))
            continue;
        struct jtok *t = add_token(l, JTOK_OP);
        if (t)
            t->op = (uint8_t)operators[i].op;
        balance(l, operators[i].text[0]);
        advance(l, strlen(operators[i].text));
        return;
    }
    jinja_refuse(l->c, l->line, "unexpected character '%.*s'",
                 (int)utf8_width(l->text + l->at, l->len - l->at), l->text + l->at);
}

static bool is_name_char(char c)
{
    return isalnum((unsigned char)c) || c == '_' || (uint8_t)c >= 0x80;
}

static void lex_name(struct lexer *l)
{
    size_t end = l->at;
    while (end < l->len && is_name_char(l->text[end]))
        end++;
    add_text(l, JTOK_NAME, l->text + l->at, end - l->at);
    l->at = end;
}

struct number {
    char text[64];
    size_t n;
};

static void number_add(struct number *number, char c)
{
    if (number->n < sizeof number->text - 1)
        number->text[number->n++] = c;
}

static bool digit_at(const struct lexer *l, size_t at)
{
    return at < l->len && isdigit((unsigned char)l->text[at]);
}

/* Adds the digits at `at`, which underscores may part; returns where they end. */
static size_t add_digits(const struct lexer *l, size_t at, struct number *number)
{
    while (digit_at(l, at) || (at < l->len && l->text[at] == '_' && digit_at(l, at + 1))) {
        if (l->text[at] != '_')
            number_add(number, l->text[at]);
        at++;
    }
    return at;
}

/* Adds what makes an integer a real number; returns where it ends. */
static size_t add_fraction(const struct lexer *l, size_t at, struct number *number)
{
    if (at < l->len && l->text[at] == '.' && digit_at(l, at + 1)) {
        number_add(number, '.');
        at = add_digits(l, at + 1, number);
    }
    if (at < l->len && (l->text[at] == 'e' || l->text[at] == 'E')) {
        char sign = sign_at(l, at + 1);
        if (digit_at(l, at + 1 + (sign != 0))) {
            number_add(number, 'e');
            if (sign)
                number_add(number, sign);
            at = add_digits(l, at + 1 + (sign != 0), number);
        }
    }
    return at;
}

enum { MAX_INT_DIGITS = 18 }; /* always fit 64 bits */

static void lex_number(struct lexer *l)
{
    struct number number = { .n = 0 };
    size_t whole = add_digits(l, l->at, &number);
    /* "items.0.1" is an item of an item */
    bool is_item = l->at > 0 && l->text[l->at - 1] == '.';
    size_t end = is_item ? whole : add_fraction(l, whole, &number);
    if (number.n == sizeof number.text - 1 || (end == whole && number.n > MAX_INT_DIGITS) ||
        (end < l->len && is_name_char(l->text[end]))) {
        jinja_refuse(l->c, l->line, "a number that is too long or has letters in it");
        return;
    }
    struct jtok *t = add_token(l, end > whole ? JTOK_FLOAT : JTOK_INT);
    if (t)
        t->value = end > whole ? jv_float(strtod(number.text, NULL))
                               : jv_int(strtoll(number.text, NULL, 10));
    l->at = end;
}

/* ---- strings ---- */

/* Code point of n hexadecimal digits at p, or UINT32_MAX. */
static uint32_t hex(const char *p, size_t n)
{
    uint32_t code = 0;
    for (size_t i = 0; i < n; i++) {
        if (!isxdigit((unsigned char)p[i]))
            return UINT32_MAX;
        code = code << 4 |
               (uint32_t)(isdigit((unsigned char)p[i]) ? p[i] - '0' : (p[i] | 0x20) - 'a' + 10);
    }
    return code;
}

/* The escape behind a backslash at p, p < end.  Returns the bytes read, 0 if it is none that can
 * be; writes what it stands for. */
static size_t unescape(const char *p, const char *end, char *dst, uint32_t *n)
{
    static const char from[] = "abfnrtv\\'\"", to[] = "\a\b\f\n\r\t\v\\'\"";
    const char *known = memchr(from, *p, sizeof from - 1);
    size_t width = *p == 'x' ? 2 : *p == 'u' ? 4 : *p == 'U' ? 8 : 0, used = 1 + width;
    uint32_t code = 0;
    if (known) {
        dst[0] = to[known - from];
        *n = 1;
        return 1;
    }
    if (*p == '\n') { /* the line goes on */
        *n = 0;
        return 1;
    }
    if (width == 0 && (*p < '0' || *p > '7')) { /* no escape: the backslash stays */
        dst[0] = '\\';
        dst[1] = *p;
        *n = 2;
        return 1;
    }
    if (width > 0) {
        code = (size_t)(end - p) > width ? hex(p + 1, width) : UINT32_MAX;
    } else {
        for (used = 0; used < 3 && p + used < end && p[used] >= '0' && p[used] <= '7'; used++)
            code = code << 3 | (uint32_t)(p[used] - '0');
    }
    if (code > 0x10FFFF || (code >= 0xD800 && code < 0xE000))
        return 0;
    *n = jchar_write(dst, code);
    return used;
}

static void lex_string(struct lexer *l)
{
    char quote = l->text[l->at];
    size_t end = l->at + 1;
    while (end < l->len && l->text[end] != quote)
        end += l->text[end] == '\\' ? 2 : 1;
    if (end >= l->len) {
        jinja_refuse(l->c, l->line, "a string has no end");
        return;
    }
    const char *p = l->text + l->at + 1, *stop = l->text + end;
    char *dst = jinja_compile_alloc(l->c, (size_t)(stop - p));
    size_t n = 0;
    while (dst && p < stop) {
        uint32_t width = 1;
        if (*p != '\\') {
            dst[n++] = *p++;
            continue;
        }
        p++;
        size_t used = unescape(p, stop, dst + n, &width);
        if (used == 0 || (*p == 'N' && used == 1)) {
            jinja_refuse(l->c, l->line, "a string with an escape that does not exist");
            return;
        }
        p += used;
        n += width;
    }
    if (dst)
        add_text(l, JTOK_STRING, dst, n);
    advance(l, end + 1 - l->at);
}

static void lex_inside(struct lexer *l)
{
    char c = l->text[l->at];
    if (isdigit((unsigned char)c))
        lex_number(l);
    else if (is_name_char(c))
        lex_name(l);
    else if (c == '\'' || c == '"')
        lex_string(l);
    else
        lex_operator(l);
}

/* The end of the tag at `at`, if brackets are closed. */
static bool lex_end(struct lexer *l, enum tag tag)
{
    char sign = sign_at(l, l->at);
    if (l->n_open > 0 || (sign == '+' && tag == TAG_PRINT))
        return false;
    size_t at = l->at + (sign != 0);
    if (l->len - at < 2 || memcmp(l->text + at, tag == TAG_BLOCK ? "%}" : "}}", 2) != 0)
        return false;
    add_token(l, tag == TAG_BLOCK ? JTOK_BLOCK_END : JTOK_PRINT_END);
    l->at = at + 2;
    if (tag == TAG_BLOCK || sign == '-')
        trim_behind(l, sign);
    else
        l->line_start = false;
    return true;
}

static void lex_tag(struct lexer *l, enum tag tag)
{
    uint32_t line = l->line;
    add_token(l, tag == TAG_BLOCK ? JTOK_BLOCK_BEGIN : JTOK_PRINT_BEGIN);
    l->n_open = 0;
    while (!l->c->failed) {
        size_t space = space_width(l, l->at);
        if (l->at == l->len)
            jinja_refuse(l->c, line, "a tag has no end");
        else if (space > 0)
            advance(l, space);
        else if (lex_end(l, tag))
            return;
        else
            lex_inside(l);
    }
}

/* Text up to the next tag, then that tag. */
static void lex_one(struct lexer *l)
{
    size_t to = l->at, end;
    char end_sign;
    while (to < l->len && tag_at(l, to) == TAG_NONE)
        to++;
    if (to == l->len) {
        add_text(l, JTOK_DATA, l->text + l->at, to - l->at);
        l->at = to;
        return;
    }
    enum tag tag = tag_at(l, to);
    char sign = sign_at(l, to + 2);
    add_data(l, to, sign, tag != TAG_PRINT);
    l->at += 2u + (sign != 0);
    l->line_start = false;
    if (tag == TAG_COMMENT) {
        lex_comment(l);
    } else if (tag == TAG_BLOCK && bare_tag(l, l->at, "raw", &end, &end_sign) && end_sign != '+') {
        advance(l, end - l->at);
        if (end_sign == '-')
            trim_behind(l, '-');
        lex_raw(l);
    } else {
        lex_tag(l, tag);
    }
}

/* Every kind of line end is \n, and one at the very end is dropped. */
static char *normalize(struct jinja_compile *c, const char *text, size_t *len)
{
    char *copy = jinja_compile_alloc(c, *len + 1);
    size_t n = 0;
    for (size_t i = 0; copy && i < *len; i++) {
        copy[n++] = text[i] == '\r' ? '\n' : text[i];
        if (text[i] == '\r' && i + 1 < *len && text[i + 1] == '\n')
            i++;
    }
    if (n > 0 && copy[n - 1] == '\n')
        n--;
    *len = n;
    return copy;
}

int jinja_lex(struct jinja_compile *c, const char *text, size_t len)
{
    struct lexer l = { .c = c, .line = 1, .line_start = true };
    size_t valid = utf8_valid_run(text, len);
    if (valid < len) {
        jinja_refuse(c, 1, "byte %zu is not UTF-8", valid);
        return -1;
    }
    l.text = normalize(c, text, &len);
    l.len = len;
    while (!c->failed && l.at < l.len)
        lex_one(&l);
    if (!c->failed)
        add_token(&l, JTOK_END);
    return c->failed ? -1 : 0;
}
