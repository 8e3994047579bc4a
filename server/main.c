/* SPDX-License-Identifier: Apache-2.0
 *
 * main.c - picks the command.
 */
#include "server/commands/commands.h"

#include <stdio.h>
#include <string.h>

#ifdef LACUNA_JEMALLOC
/* jemalloc looks for it by this name.  Weights and pages are not its own: what it serves is small and
 * comes from few threads, so few arenas are enough; what was freed goes back after seconds, and not
 * on a thread that serves. */
extern const char *malloc_conf;
const char *malloc_conf = "background_thread:true,dirty_decay_ms:5000,narenas:4,metadata_thp:auto";
#endif

static void list_commands(FILE *to)
{
    const struct cmd *c;
    for (size_t i = 0; (c = cmd_at(i)); i++)
        fprintf(to, "  %-10s %s\n", c->usage.name, c->usage.summary);
}

static int help(void)
{
    int code;
    const char *meaning;
    puts("Usage: lacuna COMMAND [OPTION...]\n"
         "\n"
         "lacuna serves language models in GGUF files over HTTP, on the processor, and brings the\n"
         "tools to look at them.\n"
         "\n"
         "COMMANDS");
    list_commands(stdout);
    puts("\n"
         "  lacuna COMMAND --help        all options of a command, with an example\n"
         "  lacuna --version             version and commit\n"
         "  lacuna --healthcheck [URL]   exit 0 if a GET there gives 200, else 1\n"
         "                               (default http://127.0.0.1:8080/ready, or https there)\n"
         "\n"
         "EXAMPLE\n"
         "  lacuna serve -m model.gguf\n"
         "\n"
         "EXIT CODES");
    for (size_t i = 0; exit_describe(i, &code, &meaning); i++)
        printf("  %3d  %s\n", code, meaning);
    return 0;
}

static int unknown_command(const char *name)
{
    const char *near = cmd_nearest(name);
    fprintf(stderr, "lacuna: unknown command '%.80s'%s%s%s\ncommands:\n", name,
            near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "");
    list_commands(stderr);
    return EX_USAGE;
}

static int run_command(const struct cmd *c, int argc, char **argv)
{
    struct options o;
    struct options_outcome outcome;
    if (options_parse(&o, &c->usage, argc, argv, &outcome)) {
        if (outcome.message[0])
            cmd_fail(0, "%s", outcome.message);
        return outcome.exit_code;
    }
    int exit_code = c->run(&o);
    options_fini(&o);
    return exit_code;
}

int main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "";
    if (argc < 2) {
        fputs("lacuna: no command; commands:\n", stderr);
        list_commands(stderr);
        return EX_USAGE;
    }
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || strcmp(name, "help") == 0)
        return help();
    if (strcmp(name, "--version") == 0) {
        cmd_print_version();
        return 0;
    }
    if (strcmp(name, "--healthcheck") == 0)
        return cmd_healthcheck(argc > 2 ? argv[2] : NULL);
    const struct cmd *c = cmd_find(name);
    return c ? run_command(c, argc - 1, argv + 1) : unknown_command(name);
}
