/* SPDX-License-Identifier: Apache-2.0
 *
 * calibrate_report.c - two kinds of figures:
 *   loss against weights read, of the calibrated points beside the same share in all layers: what choosing has gained
 *   what each layer computes, at each point
 */
#include "server/commands/calibrate_report.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "server/commands/commands.h"

enum {
    MOST_POINTS = 16,
    MEASURE_TOKENS = 8192,
    WIDTH = 860,
    LEFT = 80, /* where figures begin, for what is written beside them */
    RIGHT = 30,
    CURVE_TOP = 90,
    CURVE_HEIGHT = 300,
    LAYERS_TOP = CURVE_TOP + CURVE_HEIGHT + 90,
    LAYERS_HEIGHT = 120,
    LAYERS_STEP = LAYERS_HEIGHT + 60,
};
static const char uniform_color[] = "#8a8a8a", up_color[] = "#0b6bcb", down_color[] = "#c2410c";

struct report {
    struct engine *e;
    FILE *f;
    uint32_t points[MOST_POINTS]; /* calibrated ones, then uniform ones */
    uint32_t n_calibrated, n;
    struct engine_eval_result result[MOST_POINTS];
    /* What the curve shows. */
    double least_weights, least_kl, most_kl;
};

/* ---- measuring ---- */

static int list_points(struct report *r)
{
    int exit_code = 0;
    uint32_t n = engine_info(r->e)->n_points;
    for (uint32_t i = 1; i < n && r->n + REPORT_UNIFORM < MOST_POINTS; i++)
        r->points[r->n++] = i;
    r->n_calibrated = r->n;
    for (uint32_t i = 0; i < REPORT_UNIFORM; i++) {
        char name[32];
        snprintf(name, sizeof(name), "neurons=%.1f", 0.9 - 0.1 * i);
        int point = cmd_find_point(r->e, name, &exit_code);
        if (point < 0)
            return exit_code;
        r->points[r->n++] = (uint32_t)point;
    }
    return 0;
}

static int measure(struct report *r, const struct engine_tokens *tokens)
{
    struct engine_err err = { 0 };
    size_t n = tokens->n / 4 < MEASURE_TOKENS ? tokens->n / 4 : MEASURE_TOKENS;
    const struct engine_eval_options opt = { .tokens = tokens->ids + tokens->n - n,
                                             .n_tokens = n,
                                             .points = r->points,
                                             .n_points = r->n,
                                             .reference = r->e };
    return engine_eval(r->e, &opt, r->result, &err) ? cmd_fail_err(&err) : 0;
}

/* ---- drawing ---- */

static void text(const struct report *r, double x, double y, const char *anchor, const char *s)
{
    fprintf(r->f, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">", x, y, anchor);
    for (; *s; s++)
        if (strchr("<>&", *s))
            fprintf(r->f, "&#%d;", *s);
        else
            fputc(*s, r->f);
    fputs("</text>\n", r->f);
}

static void line(const struct report *r, double x0, double y0, double x1, double y1)
{
    fprintf(r->f, "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"#d0d0d0\"/>\n",
            x0, y0, x1, y1);
}

static void begin_curve(const struct report *r, const char *color)
{
    fprintf(r->f, "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"2\" points=\"", color);
}

static void end_curve(const struct report *r)
{
    fputs("\"/>\n", r->f);
}

/* ---- loss against weights ---- */

static double kl_of(const struct report *r, uint32_t i)
{
    double kl = engine_eval_kl(&r->result[i]);
    return kl > 1e-6 ? kl : 1e-6; /* the scale is logarithmic */
}

static double curve_x(const struct report *r, double weights)
{
    return LEFT + (weights - r->least_weights) / (1 - r->least_weights) * (WIDTH - LEFT - RIGHT);
}

static double curve_y(const struct report *r, double kl)
{
    double part = log(kl / r->least_kl) / log(r->most_kl / r->least_kl);
    return CURVE_TOP + CURVE_HEIGHT * (1 - part);
}

static void choose_scales(struct report *r)
{
    double weights = 0.99, least = INFINITY, most = 0;
    for (uint32_t i = 0; i < r->n; i++) {
        weights = r->result[i].weights < weights ? r->result[i].weights : weights;
        least = kl_of(r, i) < least ? kl_of(r, i) : least;
        most = kl_of(r, i) > most ? kl_of(r, i) : most;
    }
    r->least_weights = floor(weights * 20) / 20;
    r->least_kl = pow(10, floor(log10(least)));
    r->most_kl = pow(10, ceil(log10(most) + 1e-9));
}

static void draw_scales(const struct report *r)
{
    char s[32];
    for (double kl = r->least_kl; kl < r->most_kl * 1.5; kl *= 10) {
        line(r, LEFT, curve_y(r, kl), WIDTH - RIGHT, curve_y(r, kl));
        snprintf(s, sizeof(s), "%g", kl);
        text(r, LEFT - 8, curve_y(r, kl) + 4, "end", s);
    }
    for (int percent = (int)lround(r->least_weights * 100); percent <= 100; percent += 5) {
        double x = curve_x(r, percent / 100.0);
        line(r, x, CURVE_TOP, x, CURVE_TOP + CURVE_HEIGHT);
        snprintf(s, sizeof(s), "%d %%", percent);
        text(r, x, CURVE_TOP + CURVE_HEIGHT + 18, "middle", s);
    }
    text(r, LEFT, CURVE_TOP - 12, "start",
         "loss, KL(exact || point) in nats per token, against the share of all weights that a "
         "decoded token reads");
}

/* Names stand on the side where the other curve is not. */
static void draw_mark(const struct report *r, uint32_t i, const char *color)
{
    double x = curve_x(r, r->result[i].weights), y = curve_y(r, kl_of(r, i));
    const char *name = engine_info(r->e)->points[r->points[i]].name;
    fprintf(r->f, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"5\" fill=\"%s\"/>\n", x, y, color);
    if (i < r->n_calibrated)
        text(r, x - 7, y + 15, "end", name);
    else
        text(r, x + 9, y - 3, "start", name);
}

static void draw_marks(const struct report *r, uint32_t from, uint32_t to, const char *color)
{
    begin_curve(r, color);
    for (uint32_t i = from; i < to; i++)
        fprintf(r->f, "%.1f,%.1f ", curve_x(r, r->result[i].weights), curve_y(r, kl_of(r, i)));
    end_curve(r);
    for (uint32_t i = from; i < to; i++)
        draw_mark(r, i, color);
}

static void draw_losses(struct report *r)
{
    choose_scales(r);
    draw_scales(r);
    draw_marks(r, r->n_calibrated, r->n, uniform_color);
    draw_marks(r, 0, r->n_calibrated, up_color);
}

/* ---- layers ---- */

static void draw_layer_curve(const struct report *r, uint32_t i, bool is_up)
{
    uint32_t n = engine_info(r->e)->n_layers;
    double top = LAYERS_TOP + (double)i * LAYERS_STEP;
    double step = (double)(WIDTH - LEFT - RIGHT) / n;
    begin_curve(r, is_up ? up_color : down_color);
    for (uint32_t l = 0; l < n; l++) {
        struct engine_layer_shares shares = engine_point_layer(r->e, r->points[i], l);
        double y = top + LAYERS_HEIGHT * (1 - (is_up ? shares.up : shares.down));
        fprintf(r->f, "%.1f,%.1f %.1f,%.1f ", LEFT + l * step, y, LEFT + (l + 1) * step, y);
    }
    end_curve(r);
}

static void draw_layers(const struct report *r, uint32_t i)
{
    const struct engine_point *p = &engine_info(r->e)->points[r->points[i]];
    double top = LAYERS_TOP + (double)i * LAYERS_STEP;
    char s[160];
    snprintf(s, sizeof(s),
             "%s: neurons computed in each layer; KL %.4f, same most likely token %.1f %%, weights "
             "%.1f %%",
             p->name, p->kl, p->same_top * 100, p->weights * 100);
    text(r, LEFT, top - 10, "start", s);
    for (int percent = 0; percent <= 100; percent += 50) {
        double y = top + LAYERS_HEIGHT * (1 - percent / 100.0);
        line(r, LEFT, y, WIDTH - RIGHT, y);
        snprintf(s, sizeof(s), "%d %%", percent);
        text(r, LEFT - 8, y + 4, "end", s);
    }
    draw_layer_curve(r, i, true);
    draw_layer_curve(r, i, false);
    snprintf(s, sizeof(s), "layer %u", engine_info(r->e)->n_layers - 1);
    text(r, LEFT, top + LAYERS_HEIGHT + 18, "start", "layer 0");
    text(r, WIDTH - RIGHT, top + LAYERS_HEIGHT + 18, "end", s);
}

/* ---- the page ---- */

static void draw_heading(const struct report *r, size_t n_tokens)
{
    const struct engine_info *info = engine_info(r->e);
    int height = LAYERS_TOP + (int)r->n_calibrated * LAYERS_STEP;
    char s[256];
    fprintf(r->f,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" "
            "viewBox=\"0 0 %d %d\" font-family=\"sans-serif\" font-size=\"12\">\n"
            "<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n",
            WIDTH, height, WIDTH, height);
    snprintf(s, sizeof(s), "%.120s, calibrated on %zu tokens", info->name, n_tokens);
    fputs("<g font-size=\"18\">", r->f);
    text(r, LEFT, 30, "start", s);
    fputs("</g>\n", r->f);
    fprintf(r->f, "<g fill=\"%s\">", up_color);
    text(r, LEFT, 54, "start", "calibrated; rows of up");
    fprintf(r->f, "</g><g fill=\"%s\">", down_color);
    text(r, LEFT + 170, 54, "start", "columns of down");
    fprintf(r->f, "</g><g fill=\"%s\">", uniform_color);
    text(r, LEFT + 300, 54, "start", "the same share of neurons in all layers");
    fputs("</g>\n", r->f);
}

static int draw(struct report *r, size_t n_tokens, const char *path)
{
    r->f = fopen(path, "we");
    if (!r->f)
        return cmd_fail(EX_IOERR, "cannot write %s: %s", path, strerror(errno));
    draw_heading(r, n_tokens);
    draw_losses(r);
    for (uint32_t i = 0; i < r->n_calibrated; i++)
        draw_layers(r, i);
    fputs("</svg>\n", r->f);
    bool has_failed = ferror(r->f);
    if (fclose(r->f) != 0 || has_failed)
        return cmd_fail(EX_IOERR, "cannot write %s", path);
    return 0;
}

int calibrate_report(struct engine *e, const struct engine_tokens *tokens, const char *path)
{
    struct report r = { .e = e };
    int exit_code = list_points(&r);
    if (!exit_code)
        exit_code = measure(&r, tokens);
    return exit_code ? exit_code : draw(&r, tokens->n, path);
}
