# server/api/api_scan.c
# A token id may have any number of digits: its value overflows.
s/at - digits >= SCAN_MAX_DIGITS/false/
