# SPDX-License-Identifier: Apache-2.0
#
# Makes one C file of the page: cmake -D SOURCE=FOLDER -D OUT=FILE -P embed.cmake
# The page is whole in itself, and its policy lets a browser run exactly the script and the style
# that are in it, by their hashes.

# The base64 that a policy wants, of the hex that CMake gives.
function(hash_source out text)
    set(alphabet ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/)
    string(SHA256 hex "${text}")
    set(base64 "")
    foreach(at RANGE 0 63 6) # 24 bits at a time; of the last group only 16 are there
        string(SUBSTRING "${hex}00" ${at} 6 group)
        foreach(shift IN ITEMS 18 12 6 0)
            math(EXPR index "(0x${group} >> ${shift}) & 63")
            string(SUBSTRING "${alphabet}" ${index} 1 letter)
            string(APPEND base64 "${letter}")
        endforeach()
    endforeach()
    string(SUBSTRING "${base64}" 0 43 base64)
    set(${out} "'sha256-${base64}='" PARENT_SCOPE)
endfunction()

file(READ "${SOURCE}/page.html" html)
file(READ "${SOURCE}/page.css" css)
file(READ "${SOURCE}/page.js" js)
hash_source(style "${css}")
hash_source(script "${js}")
string(REPLACE "@PAGE_CSS@" "${css}" html "${html}")
string(REPLACE "@PAGE_JS@" "${js}" html "${html}")

file(WRITE "${OUT}.html" "${html}")
file(READ "${OUT}.html" bytes HEX)
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${bytes}")
file(WRITE "${OUT}" "/* Made by server/page/embed.cmake. */
#include \"server/page/page.h\"

const unsigned char page_html[] = { ${bytes} };
const size_t page_html_bytes = sizeof(page_html);
const char page_policy[] = \"default-src 'none'; script-src ${script}; style-src ${style}; \"
                           \"connect-src 'self'; img-src data:; base-uri 'none'; \"
                           \"form-action 'none'; frame-ancestors 'none'\";
")
