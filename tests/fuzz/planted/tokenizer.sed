# engine/text/utf8.c
# A code point cut off by the end of the text is no longer noticed: its missing bytes are read.
s/need == 0 \|\| need > len/need == 0/
