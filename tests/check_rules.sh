#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Holds the rules of the house that a machine can hold.
#   tests/check_rules.sh [ROOT]       prints every violation; exit 1 if there is one
#   tests/check_rules.sh --self-test  plants each kind of violation and expects it to be found
set -euo pipefail

max_function_lines=100
max_file_lines=800
# Excused from the limits: "file:function" and "file", each with its reason on top of that file.
excused_functions=" "
excused_files=" "
# What a signal must end at once may say _exit where the signal is handled.
signal_files="server/commands/signals.c|server/commands/model.c"

folders="kernels kvcache engine scheduler server tests"

complain() { echo "$1"; n_found=$((n_found + 1)); }

# Each line of standard input is one violation.
complain_lines() {
    local line
    while IFS= read -r line; do
        complain "$line"
    done
}

list() { # list NAME_PATTERN...: sources of ours, NUL-separated
    local names=() pattern existing=() folder
    for pattern in "$@"; do
        names+=(-o -name "$pattern")
    done
    for folder in $folders; do
        [[ -d $folder ]] && existing+=("$folder")
    done
    find "${existing[@]}" \( -name node_modules -o -name __pycache__ \) -prune -o \
        -type f \( "${names[@]:1}" \) -print0 | sort -z
}

# "file:line:code", comments and the insides of strings blanked.
# shellcheck disable=SC2016 # perl's own variables
code_of() {
    xargs -0r perl -0777 -ne '
        s{(/\*.*?\*/|//[^\n]*)|("(?:\\.|[^"\\\n])*"|\x27(?:\\.|[^\x27\\\n])*\x27)}
         {defined $1 ? $1 =~ s/[^\n]//gr : "\"\""}gse;
        my $n = 0;
        print map { $n++; "$ARGV:$n:$_\n" } split /\n/, $_, -1;'
}

calls_to() { grep -E "^[^:]+:[0-9]+:(.*[^A-Za-z0-9_])?($1)[[:space:]]*\(" || true; }

check_unique_names() {
    list '*' | xargs -0rn1 basename |
        grep -vxE 'internal\.h|CMakeLists\.txt|README\.md|__init__\.py|conftest\.py' |
        grep -E '\.(c|h|sh|py|js)$' | sort | uniq -d | sed 's/$/: this file name is used twice/' |
        complain_lines
}

check_calls() {
    local code
    code=$(list '*.c' '*.h' | code_of | grep -v '^tests/' || true)
    calls_to 'getenv|secure_getenv' <<<"$code" | grep -v '^server/options\.c:' |
        sed 's/$/   <- only server\/options.c reads the environment/' | complain_lines
    calls_to 'printf|fprintf|vprintf|vfprintf|dprintf|vdprintf|perror|puts|putchar|fputs|syslog' \
        <<<"$code" | grep -v '^server/' |
        sed 's/$/   <- only server\/ prints/' | complain_lines
    calls_to 'exit|_exit|_Exit|quick_exit' <<<"$code" | grep -v '^server/main\.c:' |
        grep -vE "^($signal_files):.*[^A-Za-z_]_exit\(" |
        sed 's/$/   <- only server\/main.c ends the process/' | complain_lines
}

check_first_lines() {
    list '*.c' '*.h' | xargs -0r awk '
        FNR == 1 && !/^\/\* SPDX-License-Identifier: Apache-2\.0/ {
            print FILENAME ": the first line is not the SPDX line"
        }' | complain_lines
    list '*.sh' '*.py' '*.js' | xargs -0r awk '
        FNR <= 2 && /SPDX-License-Identifier: Apache-2\.0/ { has[FILENAME] = 1 }
        FNR == 1 { seen[FILENAME] = 1 }
        END { for (f in seen) if (!has[f]) print f ": no SPDX line at the top" }' | complain_lines
}

# A function is from the brace in column 0 that opens it to the one that closes it.
# shellcheck disable=SC2016 # awk's own variables
check_lengths() {
    list '*.c' '*.h' | xargs -0r awk -v max="$max_function_lines" -v excused="$excused_functions" '
        /^{$/ { start = FNR; head = last }
        /^}$/ && start {
            name = head
            sub(/\(.*/, "", name); sub(/.*[ *]/, "", name)
            if (FNR - start + 1 > max && !index(excused, " " FILENAME ":" name " "))
                printf "%s:%d: %s has %d lines, the limit is %d\n", FILENAME, start, name,
                    FNR - start + 1, max
            start = 0
        }
        /^[A-Za-z].*\(/ { last = $0 }' | complain_lines
    list '*.c' '*.h' '*.py' '*.sh' | xargs -0r awk -v max="$max_file_lines" -v excused="$excused_files" '
        { n[FILENAME]++ }
        END {
            for (f in n)
                if (n[f] > max && !index(excused, " " f " "))
                    printf "%s: %d lines, the limit is %d\n", f, n[f], max
        }' | complain_lines
}

check_notes() {
    list '*.c' '*.h' '*.sh' '*.py' '*.js' CMakeLists.txt |
        xargs -0r grep -nHE '\b(TODO|FIXME|XXX)\b' | grep -vE '#[0-9]+|^tests/check_rules\.sh:' |
        sed 's/$/   <- no issue number/' | complain_lines
}

# Paths of one machine: home directories, and the places where a checkout happens to lie.
check_paths() {
    { list '*.c' '*.h' '*.sh' '*.py' '*.js' '*.md' '*.json' CMakeLists.txt
      find deploy .ci README.md CMakeLists.txt CMakePresets.json openapi.yaml -type f -print0 2>/dev/null; } |
        xargs -0r grep -nHE '(^|[^A-Za-z0-9_.$}-])/(work|root|home|Users)/' |
        grep -v '^tests/check_rules\.sh:' | sed 's/$/   <- a path of one machine/' | complain_lines
}

check_format() {
    local tool
    tool=$(command -v clang-format-14 || command -v clang-format || true)
    if [[ -z $tool ]]; then
        complain "clang-format is not installed"
        return
    fi
    # Includes and macros of one file do not matter to another: two at a time.
    list '*.c' '*.h' | xargs -0r -n 8 -P 2 "$tool" --dry-run --style=file 2>&1 |
        grep -E 'warning:|error:' | sort -u -t: -k1,1 | sed 's/$/ (first of this file)/' | complain_lines || true
}

check_tree() {
    cd "$1"
    n_found=0
    shopt -s lastpipe # complain_lines counts in this shell
    check_unique_names
    check_calls
    check_first_lines
    check_lengths
    check_notes
    check_paths
    check_format
    [[ $n_found -eq 0 ]]
}

spdx='/* SPDX-License-Identifier: Apache-2.0 */'

# run_on FILE TEXT: the checks over a tree that holds this one file, and our .clang-format.
run_on() {
    local tree status=0
    tree=$(mktemp -d)
    cp "$source_root/.clang-format" "$tree"
    mkdir -p "$tree/$(dirname "$1")"
    printf '%s\n' "$2" >"$tree/$1"
    if [[ -n ${3-} ]]; then
        mkdir -p "$tree/$(dirname "$3")"
        printf '%s\n' "$2" >"$tree/$3"
    fi
    (check_tree "$tree") || status=$?
    rm -rf "$tree"
    return "$status"
}

plant() { # plant EXPECTED_WORDS FILE TEXT [SECOND_FILE]
    local output expected=$1
    shift
    if output=$(run_on "$@"); then
        echo "self-test: not found in $1: $expected"
    elif [[ $output != *"$expected"* ]]; then
        echo "self-test: $1: said '$output', not '$expected'"
    else
        return 0
    fi
    n_missed=$((n_missed + 1))
}

accept() { # accept FILE TEXT
    local output
    output=$(run_on "$@") && return 0
    echo "self-test: refused: $output"
    n_missed=$((n_missed + 1))
}

function_of() { # function_of N_LINES: braces included
    printf '%s\nint f(void)\n{\n' "$spdx"
    local i
    for ((i = 0; i < $1 - 3; i++)); do
        echo '    g();'
    done
    printf '    return 0;\n}\n'
}

self_test() {
    n_missed=0
    local body='int f(void)
{
    '
    plant 'used twice' engine/a.c "$spdx" engine/text/a.c
    plant 'reads the environment' engine/a.c "$spdx
${body}return getenv(\"A\") != 0;
}"
    plant 'only server/ prints' kernels/a.c "$spdx
${body}return printf(\"a\");
}"
    plant 'only server/ prints' engine/a.c "$spdx
${body}return fprintf(stderr, \"a\");
}"
    plant 'ends the process' server/http/a.c "$spdx
${body}exit(1);
}"
    plant 'not the SPDX line' engine/a.c 'int x;'
    plant 'no SPDX line' tests/api/a.py 'x = 1'
    plant 'f has 101 lines' engine/a.c "$(function_of 101)"
    plant '802 lines' engine/a.c "$spdx$(yes '
int x;' | head -n 802)"
    plant 'no issue number' engine/a.c "$spdx
/* TODO: later */"
    plant 'a path of one machine' engine/a.c "$spdx
const char *path = \"/home/me/model.gguf\";"
    plant 'first of this file' engine/a.c "$spdx
int   x;"
    accept engine/a.c "$(function_of 100)"
    accept engine/a.c "$spdx
/* Never exit() or printf() here; see getenv(3). TODO(#12) */
const char *text = \"printf(x)\";"
    accept server/options.c "$spdx
${body}return getenv(\"A\") != 0;
}"
    accept server/main.c "$spdx
${body}exit(printf(\"a\"));
}"
    [[ $n_missed -eq 0 ]] && echo "check_rules: every planted violation was found"
}

source_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [[ ${1-} == --self-test ]]; then
    self_test
else
    check_tree "${1:-$source_root}" && echo "check_rules: clean"
fi
