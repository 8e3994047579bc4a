/* SPDX-License-Identifier: Apache-2.0
 *
 * calibrate_report.h - `lacuna calibrate --report`: figures of what was found, an SVG file.
 */
#ifndef LACUNA_SERVER_CALIBRATE_REPORT_H
#define LACUNA_SERVER_CALIBRATE_REPORT_H

#include "engine/engine.h"

/* Operating points that are measured for the report alone: the same share of neurons in all layers. */
enum { REPORT_UNIFORM = 6 };

/* Measures the points of a model that was just calibrated with these tokens, and uniform ones, on the last part of the
 * tokens, which chose nothing, and writes the figures.  0, or the exit code. */
int calibrate_report(struct engine *e, const struct engine_tokens *tokens, const char *path);

#endif
