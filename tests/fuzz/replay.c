/* SPDX-License-Identifier: Apache-2.0
 *
 * replay.c - main() of the fuzz targets in builds without libFuzzer: runs the target once over each
 * file of the folders (or the files) given.
 *
 * A corpus that is missing or empty is a failure: a replay of nothing would prove nothing.
 * Each input is copied to a block of exactly its size, so that AddressSanitizer sees a read beyond
 * it.
 */
#include <dirent.h>
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool run_file(const char *path, unsigned *n_run)
{
    FILE *file = fopen(path, "rb");
    struct stat st;
    if (!file || fstat(fileno(file), &st) != 0) {
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
        if (file)
            fclose(file);
        return false;
    }
    size_t size = (size_t)st.st_size;
    uint8_t *data = malloc(size ? size : 1);
    bool ok = data && fread(data, 1, size, file) == size;
    fclose(file);
    if (ok) {
        LLVMFuzzerTestOneInput(data, size);
        (*n_run)++;
    } else {
        fprintf(stderr, "%s: cannot be read\n", path);
    }
    free(data);
    return ok;
}

static bool run_folder(const char *path, unsigned *n_run)
{
    struct dirent **entries;
    int n = scandir(path, &entries, NULL, alphasort);
    if (n < 0) {
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
        return false;
    }
    bool ok = true;
    for (int i = 0; i < n; i++) {
        char *file;
        if (entries[i]->d_name[0] != '.' &&
            asprintf(&file, "%s/%s", path, entries[i]->d_name) > 0) {
            ok = run_file(file, n_run) && ok;
            free(file);
        }
        free(entries[i]);
    }
    free(entries);
    return ok;
}

int main(int argc, char **argv)
{
    unsigned n_run = 0;
    bool ok = argc > 1;
    for (int i = 1; i < argc; i++) {
        struct stat st;
        bool is_folder = stat(argv[i], &st) == 0 && S_ISDIR(st.st_mode);
        ok = (is_folder ? run_folder(argv[i], &n_run) : run_file(argv[i], &n_run)) && ok;
    }
    printf("replayed %u inputs\n", n_run);
    return ok && n_run > 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
