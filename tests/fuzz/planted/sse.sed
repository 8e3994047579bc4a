# server/http/sse.c
# A carriage return at the end of the data: the byte after it is read.
s/n \+ 1 < len && data\[n\]/data[n]/
