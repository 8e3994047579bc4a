/* SPDX-License-Identifier: Apache-2.0
 *
 * task_text.h - long texts that ask for something they said before, made on the fly: a function of the task, a seed, a
 * length and a depth.  The kinds are those of needle-in-a-haystack tests and of RULER (arXiv 2404.06654).
 */
#ifndef LACUNA_ENGINE_TASK_TEXT_H
#define LACUNA_ENGINE_TASK_TEXT_H

#include <stddef.h>
#include <stdint.h>

enum { TASK_TEXT_ANSWER = 64 };

struct task_text {
    char *prompt; /* to be freed; NULL: no memory */
    size_t len;
    char answer[TASK_TEXT_ANSWER]; /* what comes next, blank included */
};

/* task: enum engine_task.  n_lines: of filler, or of pairs and words where the text consists of these; depth: 0 .. 1, where
 * what is asked for stands. */
struct task_text task_text_make(uint32_t task, uint64_t seed, uint32_t n_lines, double depth);

#endif
