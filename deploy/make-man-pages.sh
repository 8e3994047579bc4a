#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Writes the manual pages from what the program itself says, so that they cannot say otherwise:
# lacuna.1 and one lacuna-COMMAND.1 for each command.
#   deploy/make-man-pages.sh PROGRAM FOLDER    needs help2man
set -euo pipefail

die() { echo "make-man-pages.sh: $*" >&2; exit 1; }

[[ $# -eq 2 ]] || die "usage: make-man-pages.sh PROGRAM FOLDER"
program=$(realpath "$1")
folder=$2
[[ -x $program ]] || die "$program is not a program"
mkdir -p "$folder"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

version=$("$program" --version)
version=${version%% (*} # of a release; the commit would make each build's pages differ

# help2man takes lines that end in a colon for headings, and asks a program, not a file.
as_help2man_wants() {
    sed -E -e 's/^COMMANDS$/Commands:/' -e 's/^EXAMPLE$/Examples:/' -e 's/^EXIT CODES$/Exit status:/' \
        -e 's/^ ([A-Z][a-z ]+:)$/\1/' -e '/^Examples:$/,/^$/s/^  .*/&\n/'
}

# write_page NAME SUMMARY HELP_WORD...
write_page() {
    local name=$1 summary=$2 others
    shift 2
    "$program" "$@" --help | as_help2man_wants >"$work/help.txt"
    # shellcheck disable=SC2016 # its $1
    printf '#!/bin/sh\ncase $1 in --version) echo "%s" ;; *) cat "%s" ;; esac\n' \
        "$version" "$work/help.txt" >"$work/$name"
    chmod +x "$work/$name"
    others=$(for other in "" "${commands[@]/#/-}"; do
        [[ lacuna$other == "$name" ]] || echo "lacuna$other(1)"
    done | paste -sd , | sed 's/,/, /g')
    printf '[see also]\n%s\n' "$others" >"$work/see-also.txt"
    help2man --no-info --section 1 --name "$summary" --include "$work/see-also.txt" "$work/$name" |
        sed -e "s/^\.TH [^ ]*/.TH ${name^^}/" -e "s/^[^ ]* \\\\- /${name//-/\\\\-} \\\\- /" \
            >"$folder/$name.1"
}

mapfile -t lines < <("$program" --help | sed -n '/^COMMANDS$/,/^$/s/^  \([a-z]\)/\1/p')
[[ ${#lines[@]} -gt 0 ]] || die "$program --help lists no commands"
commands=("${lines[@]%% *}")
write_page lacuna "serve language models over HTTP"
for line in "${lines[@]}"; do
    read -r name summary <<<"$line"
    write_page "lacuna-$name" "$summary" "$name"
done
